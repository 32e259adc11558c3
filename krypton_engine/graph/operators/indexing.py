"""Operators that pick, repeat or move cells along a dimension."""

from __future__ import annotations

import torch

from krypton_engine.graph.operators import base
from krypton_engine.graph.regions import IndexMap


@base.rule("index")
def _index(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    dims = [dim for dim, ref in enumerate(call["indices"]) if ref is not None]
    cells = call.node(call["indices"][dims[0]]).value
    if len(dims) != 1 or cells is None or cells.ndim != 1 or not call.node(call.args[0]).depends:
        raise base.NotLocal("index by several tensors, by a mask or by changing values")
    (dim,) = dims
    if cells.dtype == torch.bool:
        cells = cells.nonzero()[:, 0]
    if node.roles[dim] is None:
        return base.mixing(call, node, dims)
    n = node.shape[dim]
    return base.reindexed(node, {base.axis_of(call, node, dim): IndexMap(n, tuple((cells % n).tolist()))})


@base.rule("index_select")
def _index_select(call: base.Call) -> base.Local:
    node = base.local_operand(call, call.args[0])
    return base.mixing(call, node, [call["dim"]])


@base.rule("repeat_interleave")
def _repeat_interleave(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    if not isinstance(call["repeats"], int) or call["dim"] is None:
        raise base.NotLocal("repeat_interleave by a tensor or of the flattened value")
    dim = base.positive(call["dim"], len(node.shape))
    if node.roles[dim] is None:
        return base.mixing(call, node, [dim])
    n, repeats = node.shape[dim], call["repeats"]
    return base.reindexed(
        node, {base.axis_of(call, node, dim): IndexMap(n, tuple(o // repeats for o in range(n * repeats)))}
    )


@base.rule("slice")
def _slice(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    dim = base.positive(call["dim"], len(node.shape))
    if node.roles[dim] is None:
        return base.mixing(call, node, [dim])
    axis = base.axis_of(call, node, dim)
    n = node.shape[dim]
    source = range(*slice(call["start"], call["end"], call["step"]).indices(n))
    return base.reindexed(node, {axis: IndexMap(n, tuple(source))})


@base.rule("select")
def _select(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    dim = base.positive(call["dim"], len(node.shape))
    return base.mixing(call, node, [dim], keep=False)


@base.rule("flip")
def _flip(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    dims = [base.positive(dim, len(node.shape)) for dim in call["dims"]]
    opaque = [node.roles[dim] is None for dim in dims]
    if all(opaque):
        return base.mixing(call, node, dims)
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
        return base.mixing(call, node, dims)
    sources = {}
    for dim, shift in zip(dims, call["shifts"], strict=True):
        if node.roles[dim] is None:
            raise base.NotLocal("roll of axes and opaque dimensions at once")
        n = node.shape[dim]
        sources[base.axis_of(call, node, dim)] = IndexMap(n, tuple((o - shift) % n for o in range(n)))
    if not sources:
        raise base.NotLocal("roll over the flattened value")
    return base.reindexed(node, sources)
