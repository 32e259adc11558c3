"""Operators that pick, repeat or move cells along a dimension."""

from __future__ import annotations

import torch

from krypton_engine.graph.operators.base import (
    Call,
    Local,
    NotLocal,
    axis_of,
    local_operand,
    mixing,
    only_dependent,
    positive,
    reindexed,
    rule,
)
from krypton_engine.graph.regions import IndexMap


@rule("index")
def _index(call: Call) -> Local:
    node = only_dependent(call)
    dims = [dim for dim, ref in enumerate(call["indices"]) if ref is not None]
    cells = call.node(call["indices"][dims[0]]).value
    if len(dims) != 1 or cells is None or cells.ndim != 1 or not call.node(call.args[0]).depends:
        raise NotLocal("index by several tensors, by a mask or by changing values")
    (dim,) = dims
    if cells.dtype == torch.bool:
        cells = cells.nonzero()[:, 0]
    if node.roles[dim] is None:
        return mixing(call, node, dims)
    n = node.shape[dim]
    return reindexed(node, {axis_of(call, node, dim): IndexMap(n, tuple((cells % n).tolist()))})


@rule("index_select")
def _index_select(call: Call) -> Local:
    node = local_operand(call, call.args[0])
    return mixing(call, node, [call["dim"]])


@rule("repeat_interleave")
def _repeat_interleave(call: Call) -> Local:
    node = only_dependent(call)
    if not isinstance(call["repeats"], int) or call["dim"] is None:
        raise NotLocal("repeat_interleave by a tensor or of the flattened value")
    dim = positive(call["dim"], len(node.shape))
    if node.roles[dim] is None:
        return mixing(call, node, [dim])
    n, repeats = node.shape[dim], call["repeats"]
    return reindexed(
        node, {axis_of(call, node, dim): IndexMap(n, tuple(o // repeats for o in range(n * repeats)))}
    )


@rule("slice")
def _slice(call: Call) -> Local:
    node = only_dependent(call)
    dim = positive(call["dim"], len(node.shape))
    if node.roles[dim] is None:
        return mixing(call, node, [dim])
    axis = axis_of(call, node, dim)
    n = node.shape[dim]
    source = range(*slice(call["start"], call["end"], call["step"]).indices(n))
    return reindexed(node, {axis: IndexMap(n, tuple(source))})


@rule("select")
def _select(call: Call) -> Local:
    node = only_dependent(call)
    dim = positive(call["dim"], len(node.shape))
    return mixing(call, node, [dim], keep=False)


@rule("flip")
def _flip(call: Call) -> Local:
    node = only_dependent(call)
    dims = [positive(dim, len(node.shape)) for dim in call["dims"]]
    opaque = [node.roles[dim] is None for dim in dims]
    if all(opaque):
        return mixing(call, node, dims)
    if any(opaque):
        raise NotLocal("flip of axes and opaque dimensions at once")
    return reindexed(
        node,
        {
            axis_of(call, node, dim): IndexMap(node.shape[dim], tuple(reversed(range(node.shape[dim]))))
            for dim in dims
        },
    )


@rule("roll")
def _roll(call: Call) -> Local:
    node = only_dependent(call)
    dims = [positive(dim, len(node.shape)) for dim in call["dims"]]
    if all(node.roles[dim] is None for dim in dims) and dims:
        return mixing(call, node, dims)
    sources = {}
    for dim, shift in zip(dims, call["shifts"], strict=True):
        if node.roles[dim] is None:
            raise NotLocal("roll of axes and opaque dimensions at once")
        n = node.shape[dim]
        sources[axis_of(call, node, dim)] = IndexMap(n, tuple((o - shift) % n for o in range(n)))
    if not sources:
        raise NotLocal("roll over the flattened value")
    return reindexed(node, sources)
