"""Nodes whose cells read an interval of others: resizes, transposed convolutions, cells regrouped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native.images import has_cells, sizes_of
from krypton_engine.executors.native.sums import AXES, Sizes
from krypton_engine.graph.box_operators import Apply, Resample, TransposedConvolution
from krypton_engine.graph.ir import Node
from krypton_engine.graph.regions import IntervalMap, SpanMap, SpreadMap, WindowMap

Table = tuple[list[int], list[int], list[int], list[int]]
"""Along one axis: the first output that a change of every input cell reaches, and one past the last; the
first input that every output reads; inputs that so many neighbouring outputs read, from one on."""


class Boxes(NamedTuple):
    """Boxes of one size: the first cell of each, by axis, and their cells along every axis."""

    start: Mapping[int, IntArray]
    sizes: Sizes


def moves(node: Node) -> bool:
    """Whether a node on boxes reads an interval of one operand's cells for each of its own.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> larger = capture(Source(torch.nn.Upsample(scale_factor=2, mode="bilinear"), (x,)))
        >>> moves(larger.nodes[larger.output]), moves(graph.nodes[8])
        (True, False)
    """
    if not isinstance(node.on_box, (Apply, Resample, TransposedConvolution)) or len(node.operands) != 1:
        return False
    if not has_cells(node) or node.whole.intersection(AXES):
        return False
    steps = node.maps[0]
    if not set(AXES).issuperset(steps) or all(step.is_identity() for step in steps.values()):
        return False
    return all(
        isinstance(step, (SpreadMap, SpanMap)) or (isinstance(step, WindowMap) and step.limit is None)
        for step in steps.values()
    )


def regroups(node: Node) -> bool:
    """Whether a node reads all cells that it gives, and none beyond the last: nothing is padded or weighted.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> apart = capture(Source(lambda x: x.view(-1, 3, 12, 2, 20), (x,)))
        >>> regroups(apart.nodes[apart.output]), regroups(graph.nodes[8])
        (True, True)
    """
    steps = [step for maps in node.maps for step in maps.values()]
    return isinstance(node.on_box, Apply) and all(
        isinstance(step, (SpreadMap, WindowMap)) and not step.padding for step in steps
    )


def read_by(nodes: Sequence[Node], last: Boxes) -> dict[int, Boxes]:
    """The boxes of every node that boxes of the last are made of, by node.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> apart = capture(Source(lambda x: x.view(-1, 3, 12, 2, 20).amax(3), (x,)))
        >>> found = read_by(apart.nodes[1:], Boxes({1: np.array([3]), 2: np.array([5])}, (1, 2, 4)))
        >>> found[1].sizes, found[0].start[1].tolist(), found[0].sizes
        ((1, 2, 4), [6], (1, 4, 4))
    """
    found = {nodes[-1].index: last}
    for node in reversed(nodes):
        for operand, steps in zip(node.operands, node.maps, strict=True):
            start, sizes = found[node.index]
            start, read = dict(start), list(sizes)
            for place, axis in enumerate(AXES):
                if (step := steps.get(axis)) is not None:
                    start[axis] = _interval(step).first_read(start[axis])
                    read[place] = _interval(step).extent_read(read[place])
            found[operand] = Boxes(start, (read[0], read[1], read[2]))
    return found


def tables(nodes: Sequence[Node], read: int) -> list[Table]:
    """The engine's tables, one for every axis, from the cells of one value to those of the last node.

    Raises:
        Unsupported: The nodes reach a value in several ways.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> apart = capture(Source(lambda x: x.view(-1, 3, 12, 2, 20).amax(3), (x,)))
        >>> _, rows, columns = tables(apart.nodes[1:], apart.input.index)
        >>> [numbers[:5] for numbers in rows]
        [[0, 0, 1, 1, 2], [1, 1, 2, 2, 3], [0, 2, 4, 6, 8], [2, 4, 6, 8, 10]]
    """
    ways = {nodes[-1].index: {axis: list[IntervalMap]() for axis in AXES}}
    for node in reversed(nodes):
        for operand, steps in zip(node.operands, node.maps, strict=True):
            way = {
                axis: [_interval(steps[axis]), *after] if axis in steps else after
                for axis, after in ways[node.index].items()
            }
            if ways.setdefault(operand, way) != way:
                raise Unsupported("cells that come in several ways")
    return [_table(ways[read][axis], n) for axis, n in zip(AXES, sizes_of(nodes[-1]), strict=True)]


def _table(way: Sequence[IntervalMap], n_out: int) -> Table:
    n_in = way[0].n_in if way else n_out
    cells, outputs = np.arange(n_in), np.arange(n_out)
    lo, hi = cells, cells + 1
    for step in way:
        lo, hi = step.changed(lo, hi)
    extents = []
    for extent in range(1, n_out + 1):
        for step in reversed(way):
            extent = step.extent_read(extent)
        extents.append(extent)
    for step in reversed(way):
        outputs = step.first_read(outputs)
    lo = np.clip(lo, 0, n_out)
    return lo.tolist(), np.maximum(lo, hi).tolist(), outputs.tolist(), extents


def _interval(step: object) -> IntervalMap:
    """A map of neighbouring cells.

    Raises:
        Unsupported: The map moves cells one by one.
    """
    if not isinstance(step, (WindowMap, SpreadMap, SpanMap)):
        raise Unsupported("cells that are moved one by one")
    return step
