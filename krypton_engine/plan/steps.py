"""The cost of one operator on boxes: work, cells and bytes, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from krypton_engine.common.arrays import IntArray
from krypton_engine.graph.box_operators import Total
from krypton_engine.graph.ir import Graph, Node, refs
from krypton_engine.graph.regions import IntervalMap
from krypton_engine.graph.views import needs_view
from krypton_engine.perturbation.positions import Positions

MACS_PER_ELEMENT = 24
"""Multiply-accumulates that cost as much time as writing or gathering one element (measured on AVX-512)."""

Boxes = Mapping[int, Mapping[int, IntArray]]
"""Extents of boxes by operator and axis, one for every interval that positions cover along the axis."""


@dataclass(frozen=True)
class Step:
    """One row of a plan.

    Attributes:
        index: Number of the operator in the graph.
        name: The model's name for it.
        op: Name of the operator, such as ``"conv2d"``.
        shape: Shape of its value, the batch first.
        local: Whether it is computed on boxes.
        cells: Cells of the value, along the axes that boxes run along; 1 for a full computation.
        box: Largest box over all positions, one extent per axis; empty for a full computation.
        share: Share of the cells in a box, the mean over all positions; 1 for a full computation.
        macs: Multiply-accumulates of the full computation of one position (paper eq. 16).
        macs_incremental: Multiply-accumulates on the boxes, the mean over all positions (paper eq. 18).
        bytes: Upper bound of the memory that the step holds for one position.
        reason: Reason why the computation is full from here on; empty elsewhere.
    """

    index: int
    name: str
    op: str
    shape: tuple[int, ...]
    local: bool
    cells: int
    box: tuple[int, ...]
    share: float
    macs: int
    macs_incremental: float
    bytes: int
    reason: str

    @property
    def numel(self) -> int:
        """Elements of the value.

        Examples:
            >>> convolution = plan.steps[1]
            >>> convolution.shape, convolution.numel
            ((1, 8, 24, 20), 3840)
        """
        return math.prod(self.shape)

    @property
    def work(self) -> float:
        """Expected time of one position, the mean over all, in multiply-accumulates.

        Every element that is written or gathered counts too.

        Examples:
            >>> relu = plan.steps[2]  # no multiplication, but a fifth of 3840 elements is written
            >>> relu.share, relu.work == 24 * 2 * 3840 * relu.share
            (0.19, True)
        """
        return self.macs_incremental + MACS_PER_ELEMENT * 2 * self.numel * self.share


def step_of(graph: Graph, node: Node, boxes: Boxes, positions: Positions) -> Step:
    """The row of a plan for one operator.

    Examples:
        >>> step_of(graph, graph.nodes[7], plan.boxes, plan.window) == plan.steps[1]
        True
    """
    about = (node.index, node.name, node.op, node.shape, node.local)
    if not node.local:
        starts = any(graph.nodes[i].local for i in refs((node.args, node.kwargs)))
        reason = node.reason if starts else ""
        return Step(*about, 1, (), 1.0, node.macs, float(node.macs), node.bytes(), reason)
    extents = {axis: boxes[node.index][axis] for axis in node.axes}
    mean = positions.mean_cells(extents)
    largest = tuple(int(extent.max()) for extent in extents.values())
    held = math.prod(largest) * (node.bytes() // node.cells)
    incremental = node.macs_of_cell * mean
    return Step(*about, node.cells, largest, mean / node.cells, node.macs, incremental, held, "")


def most_held(graph: Graph, boxed: Sequence[Step], read: Mapping[int, int]) -> int:
    """The most bytes that one position holds at once on its way to the frontier.

    Examples:
        >>> boxed = [step for step in plan.steps if step.local][1:]  # all but the image
        >>> read = {step.index: bytes_read(graph, graph.nodes[step.index], plan.boxes) for step in boxed}
        >>> most_held(graph, boxed, read), max(step.bytes for step in boxed)  # of all, and of the largest box
        (13312, 3200)
    """
    last_use = {operand: step.index for step in boxed for operand in graph.nodes[step.index].operands}
    last_use |= {node.index: len(graph.nodes) for node in graph.frontiers}
    held: dict[int, int] = {}
    in_views = most = 0
    for step in boxed:
        node = graph.nodes[step.index]
        held[step.index] = step.bytes
        in_views += step.bytes * needs_view(graph, node)
        most = max(most, in_views + sum(held.values()) + read[step.index])
        for operand in node.operands:
            if last_use[operand] == step.index:
                held.pop(operand, None)
    return most


def bytes_read(graph: Graph, node: Node, boxes: Boxes) -> int:
    """Bytes of the operands of one box, with the context that they need.

    Examples:
        >>> bytes_read(graph, graph.nodes[7], plan.boxes) == 12 * 12 * 3 * 4  # for 10 x 10 cells, by 3 x 3
        True
    """
    extents = {axis: int(boxes[node.index][axis].max()) for axis in node.axes}
    total = 0
    for i, operand in enumerate(node.operands):
        source = graph.nodes[operand]
        size = source.bytes()
        if isinstance(node.on_box, Total):  # the box that changed, before and after, in float64
            box = math.prod(int(boxes[operand][axis].max()) for axis in source.axes)
            total += 4 * size * box // math.prod(source.size(axis) for axis in source.axes)
            continue
        for axis in source.axes:
            step = node.maps[i].get(axis)
            read = extents.get(axis, source.size(axis))
            if isinstance(step, IntervalMap) and axis in extents:
                read = step.extent_read(max(read, 1))
            size = size * read // source.size(axis)
        total += size
    return total
