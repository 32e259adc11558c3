"""The cost of a window on a graph before anything runs: boxes, FLOPs, redundancy ratio, bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from krypton_engine.common.arrays import IntArray
from krypton_engine.graph.boxes import propagate
from krypton_engine.graph.ir import Graph, Node
from krypton_engine.graph.state import place_of
from krypton_engine.perturbation.positions import Positions
from krypton_engine.plan import explain
from krypton_engine.plan.measured import Measured
from krypton_engine.plan.steps import MACS_PER_ELEMENT, Boxes, Step, bytes_read, most_held, step_of

MINIMUM_GAIN = 1.1
"""Below this ratio of full to incremental work, bookkeeping eats the gain and full inference runs."""


@dataclass(frozen=True)
class Linearised:
    """The cheap map of a network that sees the whole image, which a map with an SSIM target begins with.

    Attributes:
        operators: Operators that are computed to the first order, in words.
        macs: Multiply-accumulates of one position, the mean over all positions.
        bound: ``"at most"`` where less is left once the map is trimmed, ``"at least"`` where important tokens
            come on top.
    """

    operators: str
    macs: float
    bound: str


@dataclass(frozen=True, repr=False)
class Plan:
    """Graph x positions: an upper bound of every box, and its cost. ``print(plan)`` explains both.

    A value: nothing of the graph or the model is kept.

    Attributes:
        window: The positions: a sliding window's, or regions.
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
        bytes_weights: Memory of weights beside the model's own (batch norm folded, layouts).
        boxes: Extents of boxes by operator and axis, one for every interval that positions cover along it.
        executor: The executor that runs the plan, and why; empty until one is chosen.
        measured: Times of a run, step by step; None of a plan that was not run, or not timed.
        linearised: The cheap map that a map with an SSIM target begins with; None where every map is
            measured exactly, or before the question is asked.
        not_linearised: Why a map with an SSIM target has no cheap map to begin with; empty where there is
            one, or before the question is asked.

    Examples:
        >>> len(plan.window), plan.steps[1].op, plan.steps[1].box
        (20, 'conv2d', (10, 10))
    """

    window: Positions
    steps: tuple[Step, ...]
    output: int
    frontiers: int
    bytes_per_position: int
    frontier_bytes: int
    tail_bytes_per_position: int
    largest_box_tensor: int
    bytes_views: int
    bytes_weights: int
    boxes: Boxes = field(compare=False)
    executor: str = field(default="", hash=False)
    measured: Measured | None = field(default=None, compare=False)
    linearised: Linearised | None = None
    not_linearised: str = ""

    @staticmethod
    def of(graph: Graph, window: Positions) -> Plan:
        """The plan of a graph and positions over its occluded input.

        Examples:
            >>> from krypton_engine.perturbation.windows import SlidingWindow
            >>> plan = Plan.of(graph, SlidingWindow((3, 24, 20), (3, 4, 4), (3, 4, 4)))
            >>> len(plan.window), plan.steps[0].box, plan.steps[1].box
            (30, (3, 4, 4), (6, 6))
        """
        boxes: dict[int, dict[int, IntArray]] = {}
        for axis in range(len(window.input_shape)):
            changed = propagate(graph, axis, window.starts(axis), window.stops(axis))
            for index, (lo, hi) in changed.items():
                boxes.setdefault(index, {})[axis] = np.maximum(hi - lo, 0)
        nodes = graph.nodes
        steps = tuple(step_of(graph, node, boxes, window) for node in nodes if node.depends)
        boxed = [step for step in steps if step.local and nodes[step.index].operands]
        read = {step.index: bytes_read(graph, nodes[step.index], boxes) for step in boxed}
        tensors = [
            max(step.bytes, read.get(step.index, 0))
            for step in steps
            if step.local and step.index != graph.input.index
        ]
        full = sorted((step.bytes for step in steps if not step.local), reverse=True)
        frontier_bytes = sum(node.bytes() for node in graph.frontiers)
        own = {place_of(tensor) for source in graph.sources if (tensor := source()) is not None}
        weights = [node.value for node in nodes if node.value is not None]
        return Plan(
            window=window,
            steps=steps,
            output=graph.output,
            frontiers=sum(node.numel() for node in graph.frontiers),
            bytes_per_position=most_held(graph, boxed, read),
            frontier_bytes=frontier_bytes,
            tail_bytes_per_position=2 * sum(full[:3]) + frontier_bytes,
            largest_box_tensor=max(tensors, default=0),
            bytes_views=sum(node.bytes() for node in nodes if node.local),
            bytes_weights=sum(
                weight.numel() * weight.element_size()
                for weight in weights
                if place_of(weight) not in own or weight.dim() >= 4
            ),
            boxes=boxes,
        )

    def extents(self, node: Node) -> dict[int, IntArray]:
        """Extent of the box of ``node`` for every window along every axis.

        Examples:
            >>> plan.extents(graph.nodes[7])[2].tolist()  # columns: 8 pixels and their neighbours
            [9, 10, 10, 9]
        """
        return {axis: self.boxes[node.index][axis] for axis in node.axes}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one full forward pass, Q of paper eq. 17.

        Examples:
            >>> plan.macs == 24 * 20 * 8 * 27 + 12 * 10 * 8 * 72 + 960 * 5  # convolutions, linear layer
            True
        """
        return sum(step.macs for step in self.steps)

    @property
    def macs_incremental(self) -> float:
        """Multiply-accumulates of one position, the mean over all positions, Q_inc of paper eq. 19.

        Examples:
            >>> plan.macs_incremental == sum(step.macs_incremental for step in plan.steps) < plan.macs
            True
        """
        return sum(step.macs_incremental for step in self.steps)

    @property
    def redundancy_ratio(self) -> float:
        """R = Q / Q_inc (paper eq. 20): the bound of what direct convolution on boxes can gain.

        Examples:
            >>> round(plan.redundancy_ratio, 2) == round(plan.macs / plan.macs_incremental, 2)
            True
        """
        return self.macs / self.macs_incremental if self.macs_incremental else 1.0

    @property
    def gain(self) -> float:
        """Full over incremental work, with every element that is written or gathered counted too.

        Examples:
            >>> plan.gain < plan.redundancy_ratio  # writing is saved less than multiplying
            True
        """
        full = sum(step.macs + MACS_PER_ELEMENT * step.numel for step in self.steps)
        incremental = sum(step.work for step in self.steps) + MACS_PER_ELEMENT * self.frontiers
        return full / incremental if incremental else 1.0

    @property
    def incremental(self) -> bool:
        """Whether incremental work pays; if not, batched full inference runs.

        Examples:
            >>> from krypton_engine.perturbation.windows import SlidingWindow
            >>> whole = Plan.of(graph, SlidingWindow((3, 24, 20), (3, 24, 20), (3, 24, 20)))
            >>> plan.incremental, whole.incremental
            (True, False)
        """
        return self.gain >= MINIMUM_GAIN

    def table(self, width: int = explain.WIDTH) -> str:
        r"""The plan as text: a line for every step that computes, the totals, and the times of a run.

        Args:
            width: Characters of a line; columns that do not fit are left out.

        Examples:
            >>> print("\n".join(plan.table(width=44).splitlines()[:6]))
            window 3x8x8, stride 3x4x4, input 3x24x20:
            20 positions
            <BLANKLINE>
            step               largest box incremental
            0                        10x10        0.02
            3                          8x8        0.03
        """
        lines = explain.listing(self.window, self.steps, self.output, width)
        lines += ["", *explain.totals(self._totals(), width)]
        if self.measured is not None:
            lines += ["", *explain.analysis(self.steps, self.measured, len(self.window), width)]
        return "\n".join(lines)

    def _totals(self) -> Iterator[tuple[str, str]]:
        """Names and words of the totals of a plan."""
        yield "full forward pass", f"{self.macs / 1e6:12.1f} MMACs a position"
        yield "incremental", f"{self.macs_incremental / 1e6:12.1f} MMACs a position, the mean"
        yield "redundancy ratio", f"{self.redundancy_ratio:12.2f}  (paper eq. 20)"
        yield "with memory traffic", f"{self.gain:12.2f}"
        yield "materialised views", f"{self.bytes_views / 2**20:12.1f} MiB at most"
        one = self.bytes_per_position + self.frontier_bytes
        yield "one position", f"{one / 2**20:12.1f} MiB at most"
        yield "runs", "incrementally" if self.incremental else "as batched full inference"
        if self.linearised is not None:
            found = self.linearised
            cost = f"{found.macs / 1e6:.1f} MMACs a position {found.bound}, the mean"
            yield "with an SSIM target", f"a map to the first order in {found.operators}: {cost}"
        elif self.not_linearised and not self.incremental:
            yield "with an SSIM target", f"positions are chosen, each in full: {self.not_linearised}"
        if self.executor:
            yield "executor", self.executor

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return (
            f"Plan({self.window.describe()}, "
            f"redundancy_ratio={self.redundancy_ratio:.2f}, incremental={self.incremental})"
        )
