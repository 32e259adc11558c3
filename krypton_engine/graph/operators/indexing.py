"""Operators that pick, repeat or move cells along a dimension."""

from __future__ import annotations

import torch
from torch import Tensor

from krypton_engine.graph.operators import base
from krypton_engine.graph.regions import IndexMap


@base.rule("index", "_unsafe_index")
def _index(call: base.Call) -> base.Local:
    """Cells along dimensions side by side, each picked by a constant of its own."""
    node = base.only_dependent(call)
    indices = call["indices"]
    dims = [dim for dim, ref in enumerate(indices) if ref is not None]
    values = [call.node(indices[dim]).value for dim in dims]
    if not call.node(call.args[0]).depends or any(value is None for value in values):
        raise base.NotLocal("index by changing values")
    lines = [_line(value, len(dims) - 1 - i) for i, value in enumerate(values) if value is not None]
    if dims != list(range(dims[0], dims[0] + len(dims))) or len(call.shape) != len(node.shape):
        raise base.NotLocal("index by several tensors, by a mask or by changing values")
    opaque = [node.roles[dim] is None for dim in dims]
    if all(opaque):
        return base.mixing(node, dims)
    if any(opaque):
        raise base.NotLocal("index of axes and other dimensions at once")
    maps = {}
    for dim, cells in zip(dims, lines, strict=True):
        n = node.shape[dim]
        maps[base.axis_of(call, node, dim)] = IndexMap(n, tuple((cells % n).tolist()))
    return base.reindexed(node, maps)


def _line(value: Tensor, behind: int) -> Tensor:
    """The numbers of a constant that indexes one dimension, and varies along one with others behind it."""
    if value.dtype == torch.bool and value.ndim == 1:
        return value.nonzero()[:, 0]
    if value.dtype == torch.bool or value.numel() != (value.shape[-1 - behind] if value.ndim > behind else 1):
        raise base.NotLocal("index by several tensors, by a mask or by changing values")
    return value.reshape(-1)


@base.rule("index_select")
def _index_select(call: base.Call) -> base.Local:
    node = base.local_operand(call, call.args[0])
    dim, cells = base.positive(call["dim"], len(node.shape)), call.node(call["index"]).value
    if node.roles[dim] is None or cells is None:
        return base.mixing(node, [dim])
    moved = IndexMap(node.shape[dim], tuple(cells.reshape(-1).tolist()))
    return base.reindexed(node, {base.axis_of(call, node, dim): moved})


@base.rule("gather")
def _gather(call: base.Call) -> base.Local:
    operands = [ref for ref in (call["self"], call["index"]) if call.node(ref).depends]
    dependent = [base.local_operand(call, ref) for ref in operands]
    dim = base.positive(call["dim"], len(call.shape))
    source = call.node(call["self"]).shape
    if any(n != out for i, (n, out) in enumerate(zip(source, call.shape, strict=True)) if i != dim):
        raise base.NotLocal("gather from a part of its operand")
    return base.merged(call, dependent, call.shape, free=(dim,))


@base.rule("repeat_interleave")
def _repeat_interleave(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    if not isinstance(call["repeats"], int) or call["dim"] is None:
        raise base.NotLocal("repeat_interleave by a tensor or of the flattened value")
    dim = base.positive(call["dim"], len(node.shape))
    if node.roles[dim] is None:
        return base.mixing(node, [dim])
    n, repeats = node.shape[dim], call["repeats"]
    return base.reindexed(
        node, {base.axis_of(call, node, dim): IndexMap(n, tuple(o // repeats for o in range(n * repeats)))}
    )


@base.rule("slice")
def _slice(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    dim = base.positive(call["dim"], len(node.shape))
    if node.roles[dim] is None:
        return base.mixing(node, [dim])
    axis = base.axis_of(call, node, dim)
    n = node.shape[dim]
    source = range(*slice(call["start"], call["end"], call["step"]).indices(n))
    return base.reindexed(node, {axis: IndexMap(n, tuple(source))})


@base.rule("select")
def _select(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    dim = base.positive(call["dim"], len(node.shape))
    return base.mixing(node, [dim], keep=False)


@base.rule("flip")
def _flip(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    dims = [base.positive(dim, len(node.shape)) for dim in call["dims"]]
    opaque = [node.roles[dim] is None for dim in dims]
    if all(opaque):
        return base.mixing(node, dims)
    if any(opaque):
        raise base.NotLocal("flip of axes and opaque dimensions at once")
    return base.reindexed(
        node,
        {
            base.axis_of(call, node, dim): IndexMap(node.shape[dim], tuple(reversed(range(node.shape[dim]))))
            for dim in dims
        },
    )


@base.rule("roll")
def _roll(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    dims = [base.positive(dim, len(node.shape)) for dim in call["dims"]]
    if all(node.roles[dim] is None for dim in dims) and dims:
        return base.mixing(node, dims)
    sources = {}
    for dim, shift in zip(dims, call["shifts"], strict=True):
        if node.roles[dim] is None:
            raise base.NotLocal("roll of axes and opaque dimensions at once")
        n = node.shape[dim]
        sources[base.axis_of(call, node, dim)] = IndexMap(n, tuple((o - shift) % n for o in range(n)))
    if not sources:
        raise base.NotLocal("roll over the flattened value")
    return base.reindexed(node, sources)
