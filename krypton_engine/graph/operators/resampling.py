"""Operators that change the number of cells along an axis by a factor."""

from __future__ import annotations

from krypton_engine.graph.operators import base
from krypton_engine.graph.regions import IndexMap


@base.rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def _upsample_nearest(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    maps = {}
    for dim in range(2, len(node.shape)):
        n, out = node.shape[dim], call.shape[dim]
        if node.roles[dim] is None:
            raise base.NotLocal("upsampling of an opaque dimension")
        if out % n:
            raise base.NotLocal("upsampling by a fraction")
        maps[base.axis_of(call, node, dim)] = IndexMap(n, tuple(o // (out // n) for o in range(out)))
    return base.reindexed(node, maps)
