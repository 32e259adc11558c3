"""Operators that change the number of cells along an axis by any factor, as weighted sums of neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import Floats
from krypton_engine.graph.box_operators import Resample
from krypton_engine.graph.ir import Node
from krypton_engine.graph.operators import base
from krypton_engine.graph.regions import IndexMap, SpanMap

aten = torch.ops.aten

Line = Callable[[Tensor, int, float | None], Tensor]
"""A resize of lines ``(1, lines, cells)`` to a number of cells; the factor that was asked for, if any."""


def _of_one_row(operator: Any, *options: Any) -> Line:
    """A resize of images, on images of one row: PyTorch's takes those of one column for channels."""
    return lambda x, size, scale: operator(x[:, :, None], [1, size], *options, None, scale)[:, :, 0]


def _line(call: base.Call) -> Line:
    """The resize of one axis that a call makes of each; PyTorch resizes axes one by one."""
    name, corners = call.name, call.bound.get("align_corners", False)
    if name in {"upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"}:
        return lambda x, size, scale: aten.upsample_linear1d(x, [size], corners, scale)
    if name == "upsample_bicubic2d":
        return _of_one_row(aten.upsample_bicubic2d, corners)
    if name == "_upsample_bilinear2d_aa":
        return _of_one_row(aten._upsample_bilinear2d_aa, corners)
    if name == "_upsample_bicubic2d_aa":
        return _of_one_row(aten._upsample_bicubic2d_aa, corners)
    if name.startswith("upsample_nearest"):
        return lambda x, size, scale: aten.upsample_nearest1d(x, [size], scale)
    return lambda x, size, scale: aten._upsample_nearest_exact1d(x, [size], scale)


def _scales(call: base.Call, rank: int) -> list[float | None]:
    """Factors that were asked for by dimension, which decide where cells are read, not how many there are."""
    several = call.bound.get("scale_factors")
    if several is not None:
        return [float(scale) for scale in several]
    names = ["scales"] if rank == 1 else ["scales_d", "scales_h", "scales_w"][-rank:]
    return [call.bound.get(name) for name in names]


@base.rule(*(f"upsample_nearest{rank}d" for rank in (1, 2, 3)))
@base.rule(*(f"_upsample_nearest_exact{rank}d" for rank in (1, 2, 3)))
@base.rule("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d")
@base.rule("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
def _upsample(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    return _resampled(call, node, _line(call), _scales(call, len(node.shape) - 2))


def averaged(call: base.Call, node: Node) -> base.Local:
    """An adaptive average, whose windows may be of several sizes.

    Examples:
        >>> image, pool = graph.nodes[7], aten._adaptive_avg_pool2d.default
        >>> local = averaged(call(pool, image, [16, 5], shape=(1, 8, 16, 5)), image)  # of 24 x 20 cells
        >>> [local.maps[0][axis].longest for axis in (1, 2)], local.on_box.weights[2][0]
        ([2, 4], (0.25, 0.25, 0.25, 0.25))
    """
    scales = [None] * (len(node.shape) - 2)
    return _resampled(call, node, lambda x, size, _: aten.adaptive_avg_pool1d(x, [size]), scales)


def _resampled(call: base.Call, node: Node, line: Line, scales: Sequence[float | None]) -> base.Local:
    """``node`` resized along its spatial dimensions; see `Line`."""
    maps: dict[int, SpanMap] = {}
    weights = {}
    for dim, scale in enumerate(scales, start=2):
        n, size = node.shape[dim], call.shape[dim]
        if n == size and scale in (None, 1):
            continue
        if node.roles[dim] is None:
            raise base.NotLocal(f"{call.name} of a dimension that is no axis")
        axis, table = base.axis_of(call, node, dim), _table(node, dim, line, size, scale)
        maps[axis], weights[axis] = _spans(table)
    if all(set(rows) == {(1.0,)} for rows in weights.values()):  # one cell each
        moved = {axis: IndexMap(step.n_in, step.first) for axis, step in maps.items()}
        return base.reindexed(node, moved)
    return base.Local(node.roles, Resample(weights), (node.index,), (maps,))


def _table(node: Node, dim: int, line: Line, size: int, scale: float | None) -> Floats:
    """The weights by which cells add up the cells of a node along a dimension, as in its own dtype."""
    if node.dtype is None or not node.dtype.is_floating_point:
        raise base.NotLocal("resizing of integers, which rounds")
    dtype = node.dtype if node.dtype == torch.float64 else torch.float32
    unit = torch.eye(node.shape[dim], dtype=dtype, device="cpu")
    found: Floats = line(unit[None], size, scale)[0].T.double().numpy()
    return found


def _spans(table: Floats) -> tuple[SpanMap, tuple[tuple[float, ...], ...]]:
    """The cells that every output reads, and their weights: ``table`` is ``(outputs, inputs)``."""
    n = table.shape[1]
    read = table != 0
    read[~read.any(1), 0] = True  # of an output that reads nothing
    first, end = read.argmax(1), n - read[:, ::-1].argmax(1)
    first, end = np.minimum.accumulate(first[::-1])[::-1], np.maximum.accumulate(end)
    step = SpanMap(n, tuple(first.tolist()), tuple(end.tolist()))
    taps = first[:, None] + np.arange(step.longest)
    weights = np.where(taps < end[:, None], np.take_along_axis(table, taps.clip(max=n - 1), 1), 0.0)
    return step, tuple(map(tuple, weights.tolist()))
