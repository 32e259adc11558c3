"""Operators of a graph on boxes, as PyTorch computes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.resizing import cropped, resampled, resizes, transposed
from krypton_engine.graph.box_operators import Apply, Convolution, Pool, Resample, TransposedConvolution
from krypton_engine.graph.ir import BATCH, Node, resolve
from krypton_engine.graph.operators import facts
from krypton_engine.graph.regions import SpreadMap

CONVOLUTION = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_MAX_POOL = {1: torch.max_pool1d, 2: torch.max_pool2d, 3: torch.max_pool3d}


def run_on_boxes(
    node: Node,
    fetched: Mapping[int, Tensor],
    start: Mapping[int, IntArray],
    extents: Mapping[int, int],
    copies: int,
    constant: Callable[[int, int], Tensor],
    *,
    in_place: bool = False,
    padded: bool = True,
    into: Tensor | None = None,
) -> Tensor:
    """A local node, but `Reindex`, as PyTorch computes it on boxes.

    Args:
        node: The node.
        fetched: Cells of every operand that its boxes read, by node: ``(copies, ...)``.
        start: First cell of every box, by axis.
        extents: Size that all boxes share, by axis.
        copies: Number of boxes.
        constant: Function that gives the value of a node that no position changes, for a number of copies.
        in_place: Whether the first operand may be written over.
        padded: Whether the fetched cells include the padding along the axes.
        into: Tensor that an operator writes its result into, if it can; None for a new one.

    Examples:
        >>> relu, fetched = graph.nodes[8], {7: torch.tensor([[[[-1.0, 2.0]]]])}
        >>> run_on_boxes(relu, fetched, start={}, extents={1: 1, 2: 2}, copies=1, constant=None)
        tensor([[[[0., 2.]]]])
    """
    operator = node.on_box
    if isinstance(operator, (Convolution, Pool)):
        spatial = node.roles[2:]
        padding = [
            0 if padded and role is not None else p for role, p in zip(spatial, operator.padding, strict=True)
        ]
    if isinstance(operator, Convolution):
        x = fetched[node.operands[0]]
        bias = None if operator.bias is None else constant(operator.bias, 1)
        weight = constant(operator.weight, 1)
        return CONVOLUTION[len(spatial)](
            x, weight, bias, operator.stride, padding, operator.dilation, operator.groups
        )
    if isinstance(operator, Pool):
        return _pooled(node, operator, padding, fetched[node.operands[0]], start, extents)
    if isinstance(operator, TransposedConvolution):
        bias = None if operator.bias is None else constant(operator.bias, 1)
        written = transposed(node, operator, fetched[node.operands[0]], constant(operator.weight, 1), bias)
        return cropped(node, written, start, extents)
    if isinstance(operator, Resample):
        return resampled(node, operator, fetched[node.operands[0]], start, extents)
    assert isinstance(operator, Apply) and node.target is not None

    def value(index: int) -> Tensor:
        return fetched[index] if index in fetched else constant(index, copies)

    args = resolve(node.args, value, copies)
    if operator.sized:
        sizes = [
            copies if role == BATCH else size if role is None else _written(node, role, extents[role])
            for role, size in zip(node.roles, node.shape, strict=True)
        ]
        args = (args[0], sizes, *args[2:])
    kwargs = resolve(node.kwargs, value, copies)
    known, target = facts(node), node.target
    if into is not None and known.out is not None:
        return known.out(*args, **kwargs, out=into)
    if known.in_place is not None and in_place:
        target = known.in_place
    result: Tensor = target(*args, **kwargs)
    return cropped(node, result, start, extents) if resizes(node) else result


def _written(node: Node, axis: int, extent: int) -> int:
    """Cells along an axis that an operator makes for a box of a node, before these are cropped."""
    step = node.maps[0].get(axis)
    return step.extent_written(step.extent_read(extent)) if isinstance(step, SpreadMap) else extent


def _pooled(
    node: Node,
    operator: Pool,
    padding: list[int],
    x: Tensor,
    start: Mapping[int, IntArray],
    extents: Mapping[int, int],
) -> Tensor:
    spatial = node.roles[2:]
    rank = len(spatial)
    if operator.maximum:
        # PyTorch refuses integers whose channels lie side by side, of more cells than their type counts.
        x = x if x.is_floating_point() else x.contiguous()
        return _MAX_POOL[rank](
            x, operator.kernel, operator.stride, padding, operator.dilation, operator.ceil_mode
        )
    divisor = math.prod(counts[0] for counts in operator.divisors if len(set(counts)) == 1)
    if rank == 1:
        total = torch.avg_pool1d(x, operator.kernel, operator.stride, padding, operator.ceil_mode) * (
            operator.kernel[0] / divisor
        )
    else:
        pool = torch.nn.functional.avg_pool2d if rank == 2 else torch.nn.functional.avg_pool3d
        total = pool(x, operator.kernel, operator.stride, padding, operator.ceil_mode, True, divisor)
    for dim, (role, counts) in enumerate(zip(spatial, operator.divisors, strict=True)):
        if len(set(counts)) == 1:
            continue
        table = np.asarray(counts)
        sizes = table[None] if role is None else table[start[role][:, None] + np.arange(extents[role])]
        shape = [len(sizes), 1] + [1] * rank
        shape[2 + dim] = sizes.shape[1]
        total.div_(torch.from_numpy(sizes.reshape(shape)).to(total))
    return total
