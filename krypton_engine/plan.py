"""What a window costs on a graph before anything runs: boxes, FLOPs, redundancy ratio, bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from krypton_engine.graph import Graph, Node
from krypton_engine.regions import Interval, union
from krypton_engine.windows import IntArray, SlidingWindow

MINIMUM_GAIN = 1.1
"""Below this ratio of full to incremental work, bookkeeping eats the gain and full inference runs."""

_TOUCH = 24
"""Multiply-accumulates that cost as much time as writing or gathering one element (measured on AVX-512)."""


def propagate(graph: Graph, axis: int, lo: IntArray, hi: IntArray) -> dict[int, Interval]:
    """Changed intervals along ``axis`` of every local node, for many positions at once.

    Args:
        graph: The graph.
        axis: An axis of the occluded input.
        lo: First changed input cell of every position.
        hi: One past the last; ``hi <= lo`` where nothing changes.
    """
    changed: dict[int, Interval] = {graph.input.index: (lo, hi)}
    for node in graph.nodes:
        if not node.local or axis not in node.axes or node.index in changed:
            continue
        changed[node.index] = reached(node, axis, changed)
    return changed


def reached(node: Node, axis: int, changed: Mapping[int, Interval]) -> Interval:
    """Changed intervals of a local node along ``axis``, from those of its operands that have any."""
    intervals = []
    for i, operand in enumerate(node.operands):
        if operand in changed:
            step = node.maps[i].get(axis)
            intervals.append(changed[operand] if step is None else step.changed(*changed[operand]))
    return union(intervals)


@dataclass(frozen=True)
class Step:
    """One row of a plan.

    Attributes:
        node: The operator.
        box: Largest box over all positions, one extent per axis; empty for a full computation.
        macs: Multiply-accumulates of the full computation of one position (paper eq. 16).
        macs_incremental: The same on the boxes, the mean over all positions (paper eq. 18).
        bytes: Upper bound of what the step holds for one position.
        reason: Why the step is computed in full, where it starts to be.
    """

    node: Node
    box: tuple[int, ...]
    macs: int
    macs_incremental: float
    bytes: int
    reason: str


class Plan:
    """Graph x window: an upper bound of every box, and what that costs. ``print(plan)`` explains it.

    Args:
        graph: The captured model.
        window: The sliding window over the occluded input.

    Attributes:
        executor: Who runs it, and why; empty until that is settled.
    """

    executor = ""

    def __init__(self, graph: Graph, window: SlidingWindow) -> None:
        self.graph = graph
        self.window = window
        self._intervals = [
            propagate(graph, axis, window.starts(axis), window.stops(axis))
            for axis in range(len(window.input_shape))
        ]

    def extents(self, node: Node) -> dict[int, IntArray]:
        """Extent of the box of ``node`` for every window along every axis."""
        return {
            axis: np.maximum(np.subtract(*reversed(self._intervals[axis][node.index])), 0)
            for axis in node.axes
        }

    @cached_property
    def steps(self) -> list[Step]:
        """Every operator that depends on the occluded input, in order."""
        rows = []
        for node in self.graph.nodes:
            if not node.depends:
                continue
            per_cell = self.graph.macs(node)
            if not node.local:
                rows.append(Step(node, (), per_cell, float(per_cell), node.bytes(), node.reason))
                continue
            extents = self.extents(node)
            whole = math.prod(node.size(axis) for axis in node.axes)
            mean = math.prod(float(e.mean()) for e in extents.values())
            worst = tuple(int(e.max()) for e in extents.values())
            each = node.bytes() // max(whole, 1)
            rows.append(Step(node, worst, per_cell * whole, per_cell * mean, math.prod(worst) * each, ""))
        return rows

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one full forward pass, Q of paper eq. 17."""
        return sum(step.macs for step in self.steps)

    @property
    def macs_incremental(self) -> float:
        """Multiply-accumulates of one position, the mean over all positions, Q_inc of paper eq. 19."""
        return sum(step.macs_incremental for step in self.steps)

    @property
    def redundancy_ratio(self) -> float:
        """R = Q / Q_inc (paper eq. 20): the bound of what direct convolution on boxes can gain."""
        return self.macs / self.macs_incremental if self.macs_incremental else 1.0

    @cached_property
    def gain(self) -> float:
        """Full over incremental work, with every element that is written or gathered counted too."""
        full = incremental = 0.0
        for step in self.steps:
            elements = step.node.numel()
            share = step.macs_incremental / step.macs if step.macs else self._share(step.node)
            full += step.macs + _TOUCH * elements
            incremental += step.macs_incremental + _TOUCH * 2 * elements * share
        incremental += _TOUCH * sum(node.numel() for node in self.graph.frontiers)
        return full / incremental if incremental else 1.0

    def _share(self, node: Node) -> float:
        if not node.local:
            return 1.0
        return math.prod(float(e.mean()) / node.size(axis) for axis, e in self.extents(node).items())

    @property
    def incremental(self) -> bool:
        """Whether incremental work pays; if not, batched full inference runs."""
        return self.gain >= MINIMUM_GAIN

    @cached_property
    def bytes_per_position(self) -> int:
        """Upper bound of the memory that one more position in a batch needs on its way to the frontier."""
        boxes = [step for step in self.steps if step.node.local and step.node.operands]
        last_use = {operand: step.node.index for step in boxes for operand in step.node.operands}
        last_use |= {node.index: len(self.graph.nodes) for node in self.graph.frontiers}
        held: dict[int, int] = {}
        in_views = most = 0
        for step in boxes:
            held[step.node.index] = step.bytes
            in_views += step.bytes * self.graph.needs_view(step.node)
            most = max(most, in_views + sum(held.values()) + self._gathered(step.node))
            for operand in step.node.operands:
                if last_use[operand] == step.node.index:
                    held.pop(operand, None)
        return most

    def _gathered(self, node: Node) -> int:
        """Bytes of the operands of one box, with the context that they need."""
        extents = {axis: int(e.max()) for axis, e in self.extents(node).items()}
        total = 0
        for i, operand in enumerate(node.operands):
            source = self.graph.nodes[operand]
            size = source.numel() * (source.dtype.itemsize if source.dtype else 4)
            for axis in source.axes:
                step = node.maps[i].get(axis)
                read = extents.get(axis, source.size(axis))
                if step is not None and hasattr(step, "extent_read") and axis in extents:
                    read = step.extent_read(read)
                size = size * read // source.size(axis)
            total += size
        return total

    @cached_property
    def largest_box_tensor(self) -> int:
        """Bytes of the largest tensor on the way to the frontier, for one position."""
        return max(
            (
                max(step.bytes, self._gathered(step.node) if step.node.operands else 0)
                for step in self.steps
                if step.node.local and step.node is not self.graph.input
            ),
            default=0,
        )

    @cached_property
    def tail_bytes_per_position(self) -> int:
        """Upper bound of the memory that one more position in a batch needs after the frontier."""
        full = sorted((step.bytes for step in self.steps if not step.node.local), reverse=True)
        return 2 * sum(full[:3]) + self.frontier_bytes

    @property
    def frontier_bytes(self) -> int:
        """Memory of one position's frontier values."""
        return sum(node.bytes() for node in self.graph.frontiers)

    @cached_property
    def bytes_views(self) -> int:
        """Upper bound of the memory of the materialised views."""
        return sum(
            node.numel() * (node.dtype.itemsize if node.dtype else 4)
            for node in self.graph.nodes
            if node.local
        )

    @cached_property
    def bytes_weights(self) -> int:
        """Memory of weights that the plan holds beside the model's own (batch norm folded, layouts)."""
        own = {tensor.data_ptr() for tensor, _ in self.graph.sources}
        return sum(
            node.value.numel() * node.value.element_size()
            for node in self.graph.nodes
            if node.value is not None and (node.value.data_ptr() not in own or node.value.dim() >= 4)
        )

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:
        return (
            f"Plan(window={self.window.shape}, strides={self.window.strides}, positions={len(self.window)}, "
            f"redundancy_ratio={self.redundancy_ratio:.2f}, incremental={self.incremental})"
        )


def table(plan: Plan) -> str:
    """A plan as text: one line for every step that computes, then the totals."""
    window = plan.window
    lines = [
        f"window {_by(window.shape)}, stride {_by(window.strides)}, input {_by(window.input_shape)}: "
        f"{len(window)} positions",
        "",
        f"{'step':28} {'operator':14} {'output':>14} {'largest box':>12} {'MMACs':>11} {'incremental':>12}",
    ]
    skipped = 0
    for step in plan.steps:
        node = step.node
        told = step.reason and not step.reason.startswith("follows")
        if not step.macs and not told and node.index != plan.graph.output:
            skipped += 1
            continue
        box = _by(step.box) if step.box else "full"
        lines.append(
            f"{_last(node.name, 28):28} {node.op[:14]:14} {_by(node.shape[1:]):>14} {box:>12} "
            f"{step.macs / 1e6:11.2f} {step.macs_incremental / 1e6:12.2f}"
        )
        if told:
            lines.append(f"    full from here: {step.reason}")
    lines += [
        f"({skipped} steps that only touch elements are not listed)",
        "",
        f"full forward pass      {plan.macs / 1e6:12.1f} MMACs a position",
        f"incremental            {plan.macs_incremental / 1e6:12.1f} MMACs a position, the mean",
        f"redundancy ratio       {plan.redundancy_ratio:12.2f}  (paper eq. 20)",
        f"with memory traffic    {plan.gain:12.2f}",
        f"materialised views     {plan.bytes_views / 2**20:12.1f} MiB at most",
        f"one position           {(plan.bytes_per_position + plan.frontier_bytes) / 2**20:12.1f} MiB at most",
        f"runs                   {'incrementally' if plan.incremental else 'as batched full inference'}",
    ]
    if plan.executor:
        lines.append(f"executor               {plan.executor}")
    return "\n".join(lines)


def _last(name: str, length: int) -> str:
    return name if len(name) <= length else "…" + name[1 - length :]


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def describe(plan: Plan) -> Mapping[str, float]:
    """The totals of a plan, for tables and JSON."""
    return {
        "positions": len(plan.window),
        "mmacs_full": plan.macs / 1e6,
        "mmacs_incremental": plan.macs_incremental / 1e6,
        "redundancy_ratio": plan.redundancy_ratio,
        "gain": plan.gain,
    }
