"""Operators that pad axes, by a constant or by cells of the value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from krypton_engine.graph.operators import base
from krypton_engine.graph.regions import IndexMap


def _padding_map(n: int, before: int, after: int, mode: str) -> IndexMap:
    cells = np.arange(-before, n + after)
    if mode == "constant":
        cells = np.where((cells < 0) | (cells >= n), -1, cells)
    elif mode == "replicate":
        cells = cells.clip(0, n - 1)
    elif mode == "circular":
        cells = cells % n
    else:
        cells = np.where(cells < 0, -cells, cells)
        cells = np.where(cells >= n, 2 * (n - 1) - cells, cells)
    return IndexMap(n, tuple(cells.tolist()))


def _pad_by(call: base.Call, pads: Sequence[int], mode: str, fill: float) -> base.Local:
    node = base.only_dependent(call)
    rank = len(node.shape)
    maps: dict[int, IndexMap] = {}
    opaque = []
    for i in range(len(pads) // 2):
        dim = rank - 1 - i
        before, after = pads[2 * i], pads[2 * i + 1]
        if before or after:
            if node.roles[dim] is None:
                opaque.append(dim)
            else:
                maps[base.axis_of(call, node, dim)] = _padding_map(node.shape[dim], before, after, mode)
    if opaque and maps:
        raise base.NotLocal("padding of axes and opaque dimensions at once")
    return base.mixing(node, opaque) if opaque else base.reindexed(node, maps, fill)


@base.rule("constant_pad_nd")
def _constant_pad(call: base.Call) -> base.Local:
    return _pad_by(call, call["pad"], "constant", float(call["value"]))


@base.rule("pad")
def _pad(call: base.Call) -> base.Local:
    return _pad_by(call, call["pad"], call["mode"], float(call["value"] or 0.0))


@base.rule("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def _reflection_pad(call: base.Call) -> base.Local:
    return _pad_by(call, call["padding"], "reflect", 0.0)


@base.rule("replication_pad1d", "replication_pad2d", "replication_pad3d")
def _replication_pad(call: base.Call) -> base.Local:
    return _pad_by(call, call["padding"], "replicate", 0.0)
