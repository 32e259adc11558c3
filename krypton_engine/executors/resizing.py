"""Boxes of values that are larger or smaller than their operands, as PyTorch computes them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.graph.box_operators import Resample, TransposedConvolution
from krypton_engine.graph.ir import Node
from krypton_engine.graph.regions import SpanMap, SpreadMap

_TRANSPOSED = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}


def resizes(node: Node) -> bool:
    """Whether a node resizes an axis by weights, so that its boxes are no gathers of its operand's cells.

    Examples:
        >>> resizes(graph.nodes[7]), resizes(graph.nodes[9])
        (False, False)
    """
    steps = (step for maps in node.maps for step in maps.values())
    return any(isinstance(step, (SpreadMap, SpanMap)) for step in steps)


def transposed(
    node: Node, operator: TransposedConvolution, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """A transposed convolution of boxes: all cells that the boxes are written to; see `cropped`.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> weight = torch.rand(3, 1, 2, 2)
        >>> twice = capture(Source(lambda x: torch.conv_transpose2d(x, weight, stride=2), (x,)))
        >>> node = twice.nodes[twice.output]
        >>> transposed(node, node.on_box, x[..., 1:4, 2:4], weight, None).shape
        torch.Size([1, 1, 6, 4])
    """
    padding, after = list(operator.padding), list(operator.output_padding)
    for dim, role in enumerate(node.roles[2:]):
        step = None if role is None else node.maps[0][role]
        if isinstance(step, SpreadMap):
            padding[dim], after[dim] = 0, max(0, step.stride - 1 - step.reach)
    run = _TRANSPOSED[len(padding)]
    return run(x, weight, bias, operator.stride, padding, after, operator.groups, operator.dilation)


def cropped(node: Node, value: Tensor, start: Mapping[int, IntArray], extents: Mapping[int, int]) -> Tensor:
    """The boxes of a node, cut out of results that begin where the operand's first cell is written to.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> weight = torch.rand(3, 1, 2, 2)
        >>> twice = capture(Source(lambda x: torch.conv_transpose2d(x, weight, stride=2), (x,)))
        >>> node = twice.nodes[twice.output]
        >>> written = transposed(node, node.on_box, x[..., 1:4, 2:4], weight, None)  # from (2, 4) on
        >>> cells = cropped(node, written, start={1: np.array([3]), 2: np.array([4])}, extents={1: 4, 2: 3})
        >>> torch.allclose(cells, torch.conv_transpose2d(x, weight, stride=2)[..., 3:7, 4:7])
        True
    """
    for axis, step in node.maps[0].items():
        if not isinstance(step, SpreadMap) or step.is_identity():
            continue
        dim, first = node.roles.index(axis), start[axis]
        skipped = first - step.first_written(step.first_read(first))
        if (skipped == skipped[0]).all():
            value = value.narrow(dim, int(skipped[0]), extents[axis])
        else:
            value = _picked(value, dim, skipped[:, None] + np.arange(extents[axis]))
    return value


def resampled(
    node: Node, operator: Resample, x: Tensor, start: Mapping[int, IntArray], extents: Mapping[int, int]
) -> Tensor:
    """Weighted sums of the cells of boxes, along one axis after the other; the last first, as in PyTorch.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> larger = torch.nn.Upsample(scale_factor=2, mode="bilinear")
        >>> node = capture(Source(larger, (x,))).nodes[-1]
        >>> start, extents = {1: np.array([3]), 2: np.array([5])}, {1: 4, 2: 2}
        >>> box = x[..., 1:4, 2:4]  # the cells that these are weighted sums of
        >>> torch.allclose(resampled(node, node.on_box, box, start, extents), larger(x)[..., 3:7, 5:7])
        True
    """
    for axis, rows in reversed(tuple(operator.weights.items())):
        step, dim = node.maps[0][axis], node.roles.index(axis)
        outputs = start[axis][:, None] + np.arange(extents[axis])
        cells = step.sources(outputs) - step.sources(start[axis])[:, None, :1]
        weights = np.asarray(rows)[outputs]
        shape = [1] * x.dim()
        shape[0], shape[dim] = outputs.shape
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for tap in range(weights.shape[-1]):
            weight = torch.from_numpy(weights[..., tap].reshape(shape)).to(x)
            part = _picked(x, dim, cells[..., tap])
            total = part.mul_(weight) if not tap else total.addcmul_(part, weight)
        x = total
    return x


def _picked(x: Tensor, dim: int, cells: IntArray) -> Tensor:
    """Cells of every copy along a dimension: ``cells`` is ``(copies, n)``."""
    order = [0, *sorted(range(1, x.dim()), key=x.stride, reverse=True)]
    place, ordered = order.index(dim), x.permute(order)
    before, n = ordered.shape[:place], ordered.shape[place]
    rows = np.arange(math.prod(before))
    index = rows[:, None] * n + np.repeat(cells, len(rows) // len(cells), axis=0)
    flat = ordered.reshape(len(rows) * n, -1)
    found = flat.index_select(0, torch.from_numpy(index.reshape(-1)).to(x.device))
    return found.view(*before, cells.shape[1], *ordered.shape[place + 1 :]).permute(
        np.argsort(order).tolist()
    )
