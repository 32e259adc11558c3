"""Boxes through a graph: the interval of every value that changes, along each axis, for many positions."""

from __future__ import annotations

from collections.abc import Mapping

from krypton_engine.common.arrays import IntArray
from krypton_engine.graph.ir import Graph, Node
from krypton_engine.graph.regions import Interval, union


def propagate(graph: Graph, axis: int, lo: IntArray, hi: IntArray) -> dict[int, Interval]:
    """Changed intervals along ``axis`` of every local node, for many positions at once.

    Args:
        graph: The graph.
        axis: An axis of the occluded input.
        lo: First changed input cell of every position.
        hi: One past the last; ``hi <= lo`` where nothing changes.

    Examples:
        >>> from krypton_engine.graph.box_operators import Apply
        >>> from krypton_engine.graph.regions import WindowMap
        >>> signal = Node(0, "x", "input", (1, 8), (-1, 0), None, on_box=Apply(), depends=True)
        >>> maps = ({0: WindowMap(n_in=8, n_out=4, kernel=2, stride=2)},)
        >>> halved = Node(1, "y", "pool", (1, 4), (-1, 0), None, on_box=Apply(), operands=(0,), maps=maps)
        >>> graph = Graph([signal, halved], (0,), occluded=0, output=1, batched=(True,))
        >>> lo, hi = propagate(graph, 0, np.array([3]), np.array([5]))[1]
        >>> lo.tolist(), hi.tolist()
        ([1], [3])
    """
    changed: dict[int, Interval] = {graph.input.index: (lo, hi)}
    for node in graph.nodes:
        if not node.local or axis not in node.axes or node.index in changed:
            continue
        changed[node.index] = reached(node, axis, changed)
    return changed


def reached(node: Node, axis: int, changed: Mapping[int, Interval]) -> Interval:
    """Changed intervals of a local node along ``axis``, from those of its operands that have any.

    Examples:
        >>> rows = {graph.input.index: (np.array([4]), np.array([8]))}
        >>> lo, hi = reached(graph.nodes[7], axis=1, changed=rows)  # a convolution of 3 x 3
        >>> lo.tolist(), hi.tolist()
        ([3], [9])
    """
    intervals = []
    for i, operand in enumerate(node.operands):
        if operand in changed:
            step = node.maps[i].get(axis)
            intervals.append(changed[operand] if step is None else step.changed(*changed[operand]))
    return union(intervals)
