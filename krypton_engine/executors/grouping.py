"""Which positions share the extents of their boxes, so that they run as one batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from krypton_engine.graph import Graph
from krypton_engine.plan import propagate
from krypton_engine.windows import IntArray


@dataclass
class Group:
    """Positions that run together.

    ``lo[node][axis]`` and ``hi[node][axis]`` bound what changes for every member; ``extents[node][axis]``
    is the size of the box that they share, which holds every member's own. Any larger box is equally
    exact: its other cells come out as in the view.
    """

    members: IntArray
    lo: dict[int, dict[int, IntArray]]
    hi: dict[int, dict[int, IntArray]]
    extents: dict[int, dict[int, int]]


def group_positions(graph: Graph, boxes: IntArray, batch: int) -> list[Group]:
    """Partition ``boxes`` (``(positions, axes, 2)``) into groups of at most ``batch``."""
    axes = range(boxes.shape[1])
    tables, which = [], []
    for axis in axes:
        intervals, inverse = np.unique(boxes[:, axis], axis=0, return_inverse=True)
        tables.append(propagate(graph, axis, intervals[:, 0], intervals[:, 1]))
        which.append(inverse.reshape(-1))
    groups = []
    order = _order(which)
    for start in range(0, len(order), batch):
        members = order[start : start + batch]
        lo: dict[int, dict[int, IntArray]] = {}
        hi: dict[int, dict[int, IntArray]] = {}
        extents: dict[int, dict[int, int]] = {}
        for node in graph.nodes:
            if node.local and node.index in tables[node.axes[0]]:
                lo[node.index], hi[node.index], extents[node.index] = {}, {}, {}
                for axis in node.axes:
                    first, last = (side[which[axis][members]] for side in tables[axis][node.index])
                    lo[node.index][axis], hi[node.index][axis] = first, last
                    extents[node.index][axis] = max(int((last - first).max()), 0)
        groups.append(Group(members, lo, hi, extents))
    return groups


def _order(which: list[IntArray]) -> IntArray:
    """Positions in small tiles of neighbours."""
    keys = [w // size for w, size in zip(which[-2:], (4, 8), strict=False)]
    return np.lexsort(tuple(reversed([*which[:-2], *keys])))
