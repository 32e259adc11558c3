"""Operators that change the number of cells along an axis by a factor."""

from __future__ import annotations

from krypton_engine.graph.operators.base import (
    Call,
    Local,
    NotLocal,
    axis_of,
    only_dependent,
    reindexed,
    rule,
)
from krypton_engine.graph.regions import IndexMap


@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def _upsample_nearest(call: Call) -> Local:
    node = only_dependent(call)
    maps = {}
    for dim in range(2, len(node.shape)):
        n, out = node.shape[dim], call.shape[dim]
        if node.roles[dim] is None:
            raise NotLocal("upsampling of an opaque dimension")
        if out % n:
            raise NotLocal("upsampling by a fraction")
        maps[axis_of(call, node, dim)] = IndexMap(n, tuple(o // (out // n) for o in range(out)))
    return reindexed(node, maps)
