"""What a window costs on a graph before anything runs: boxes, FLOPs, redundancy ratio, bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from krypton_engine.common.arrays import IntArray
from krypton_engine.graph.ir import Graph, Node, refs
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.boxes import propagate
from krypton_engine.plan.explain import table

MINIMUM_GAIN = 1.1
"""Below this ratio of full to incremental work, bookkeeping eats the gain and full inference runs."""

_TOUCH = 24
"""Multiply-accumulates that cost as much time as writing or gathering one element (measured on AVX-512)."""


@dataclass(frozen=True)
class Step:
    """One row of a plan.

    Attributes:
        index: Number of the operator in the graph.
        name: What the model calls it.
        op: What it does.
        shape: Of its value, the batch first.
        local: Whether it is computed on boxes.
        box: Largest box over all positions, one extent per axis; empty for a full computation.
        share: Share of the cells in a box, the mean over all positions; 1 for a full computation.
        macs: Multiply-accumulates of the full computation of one position (paper eq. 16).
        macs_incremental: The same on the boxes, the mean over all positions (paper eq. 18).
        bytes: Upper bound of what the step holds for one position.
        reason: Why the computation is full from here on; empty elsewhere.
    """

    index: int
    name: str
    op: str
    shape: tuple[int, ...]
    local: bool
    box: tuple[int, ...]
    share: float
    macs: int
    macs_incremental: float
    bytes: int
    reason: str

    @property
    def numel(self) -> int:
        """Elements of the value."""
        return math.prod(self.shape)


@dataclass(init=False, repr=False)
class Plan:
    """Graph x window: an upper bound of every box, and what that costs. ``print(plan)`` explains it.

    Nothing of the graph or the model is kept.

    Args:
        graph: The captured model.
        window: The sliding window over the occluded input.

    Attributes:
        window: The sliding window.
        steps: Every operator that depends on the occluded input, in order.
        output: Number of the operator that gives the result.
        frontiers: Elements of the values that the full computation goes on from.
        bytes_per_position: Upper bound of the memory that one more position in a batch needs on its way to
            the frontier.
        frontier_bytes: Memory of one position's frontier values.
        tail_bytes_per_position: Upper bound of the memory that one more position in a batch needs after the
            frontier.
        largest_box_tensor: Bytes of the largest tensor on the way to the frontier, for one position.
        bytes_views: Upper bound of the memory of the materialised views.
        bytes_weights: Memory of weights that the plan holds beside the model's own (batch norm folded,
            layouts).
        executor: Who runs it, and why; empty until that is settled.
    """

    window: SlidingWindow
    steps: tuple[Step, ...]
    output: int
    frontiers: int
    bytes_per_position: int
    frontier_bytes: int
    tail_bytes_per_position: int
    largest_box_tensor: int
    bytes_views: int
    bytes_weights: int
    executor: str
    _extents: dict[int, dict[int, IntArray]] = field(compare=False)

    def __init__(self, graph: Graph, window: SlidingWindow) -> None:
        self.window, self.executor = window, ""
        self._extents = {}
        for axis in range(len(window.input_shape)):
            changed = propagate(graph, axis, window.starts(axis), window.stops(axis))
            for index, (lo, hi) in changed.items():
                self._extents.setdefault(index, {})[axis] = np.maximum(hi - lo, 0)
        nodes = graph.nodes
        self.steps = tuple(self._step(graph, node) for node in nodes if node.depends)
        self.output = graph.output
        self.frontiers = sum(node.numel() for node in graph.frontiers)
        self.frontier_bytes = sum(node.bytes() for node in graph.frontiers)
        full = sorted((step.bytes for step in self.steps if not step.local), reverse=True)
        self.tail_bytes_per_position = 2 * sum(full[:3]) + self.frontier_bytes
        gathered = {
            step.index: self._gathered(graph, nodes[step.index])
            for step in self.steps
            if step.local and nodes[step.index].operands
        }
        self.bytes_per_position = self._held(graph, gathered)
        self.largest_box_tensor = max(
            (
                max(step.bytes, gathered.get(step.index, 0))
                for step in self.steps
                if step.local and step.index != graph.input.index
            ),
            default=0,
        )
        self.bytes_views = sum(node.bytes() for node in nodes if node.local)
        own = {tensor.data_ptr() for tensor, _ in graph.sources}
        self.bytes_weights = sum(
            node.value.numel() * node.value.element_size()
            for node in nodes
            if node.value is not None and (node.value.data_ptr() not in own or node.value.dim() >= 4)
        )

    def __hash__(self) -> int:
        return hash((self.window, self.steps))  # who runs it is settled later

    def extents(self, node: Node) -> dict[int, IntArray]:
        """Extent of the box of ``node`` for every window along every axis."""
        return {axis: self._extents[node.index][axis] for axis in node.axes}

    def _step(self, graph: Graph, node: Node) -> Step:
        about = (node.index, node.name, node.op, node.shape, node.local)
        macs = graph.macs(node)
        if not node.local:
            starts = any(graph.nodes[i].local for i in refs((node.args, node.kwargs)))
            reason = node.reason if starts else ""
            return Step(*about, (), 1.0, macs, float(macs), node.bytes(), reason)
        extents = self.extents(node)
        whole = math.prod(node.size(axis) for axis in node.axes)
        mean = math.prod(float(extent.mean()) for extent in extents.values())
        largest = tuple(int(extent.max()) for extent in extents.values())
        held = math.prod(largest) * (node.bytes() // max(whole, 1))
        return Step(*about, largest, mean / max(whole, 1), macs * whole, macs * mean, held, "")

    def _held(self, graph: Graph, gathered: Mapping[int, int]) -> int:
        """The most bytes that one position holds at once on its way to the frontier."""
        boxes = [step for step in self.steps if step.index in gathered]
        last_use = {operand: step.index for step in boxes for operand in graph.nodes[step.index].operands}
        last_use |= {node.index: len(graph.nodes) for node in graph.frontiers}
        held: dict[int, int] = {}
        in_views = most = 0
        for step in boxes:
            node = graph.nodes[step.index]
            held[step.index] = step.bytes
            in_views += step.bytes * graph.needs_view(node)
            most = max(most, in_views + sum(held.values()) + gathered[step.index])
            for operand in node.operands:
                if last_use[operand] == step.index:
                    held.pop(operand, None)
        return most

    def _gathered(self, graph: Graph, node: Node) -> int:
        """Bytes of the operands of one box, with the context that they need."""
        extents = {axis: int(e.max()) for axis, e in self.extents(node).items()}
        total = 0
        for i, operand in enumerate(node.operands):
            source = graph.nodes[operand]
            size = source.bytes()
            for axis in source.axes:
                step = node.maps[i].get(axis)
                read = extents.get(axis, source.size(axis))
                if step is not None and hasattr(step, "extent_read") and axis in extents:
                    read = step.extent_read(read)
                size = size * read // source.size(axis)
            total += size
        return total

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

    @property
    def gain(self) -> float:
        """Full over incremental work, with every element that is written or gathered counted too."""
        full = incremental = 0.0
        for step in self.steps:
            full += step.macs + _TOUCH * step.numel
            incremental += step.macs_incremental + _TOUCH * 2 * step.numel * step.share
        incremental += _TOUCH * self.frontiers
        return full / incremental if incremental else 1.0

    @property
    def incremental(self) -> bool:
        """Whether incremental work pays; if not, batched full inference runs."""
        return self.gain >= MINIMUM_GAIN

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:
        return (
            f"Plan(window={self.window.shape}, strides={self.window.strides}, positions={len(self.window)}, "
            f"redundancy_ratio={self.redundancy_ratio:.2f}, incremental={self.incremental})"
        )
