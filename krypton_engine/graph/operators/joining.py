"""Operators that put values side by side, or one into another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from krypton_engine.graph.box_operators import Reindex
from krypton_engine.graph.ir import Ref, redirected
from krypton_engine.graph.operators import base
from krypton_engine.graph.regions import IndexMap


def _side_by_side(parts: list[Tensor], dim: int = 0, *, out: Tensor) -> Tensor:
    """``torch.cat`` of parts that may have been written to their place already."""
    first = 0
    for part in parts:
        room = out.narrow(dim, first, part.shape[dim])
        if part.data_ptr() != room.data_ptr():
            room.copy_(part)
        first += part.shape[dim]
    return out


base.declare(torch.ops.aten.cat.default, base.Facts(out=_side_by_side, joins=True))


@base.rule("cat")
def _cat(call: base.Call) -> base.Local:
    tensors = call["tensors"]
    rank = len(call.shape)
    dim = base.positive(call["dim"], rank)
    dependent = [base.local_operand(call, ref) for ref in tensors if call.node(ref).depends]
    if dependent[0].roles[dim] is None:
        return base.merged(call, dependent, call.shape, free=(dim,))
    axis = base.axis_of(call, dependent[0], dim)
    operands, maps, start = [], [], 0
    for ref in tensors:
        node = call.node(ref)
        n = node.shape[dim]
        if not node.depends:
            shape = (*call.shape[:dim], n, *call.shape[dim + 1 :])
            ref = call.align(ref, dependent[0].roles, shape)
        elif node.roles != dependent[0].roles:
            raise base.NotLocal("cat of values with different roles")
        source = np.full(call.shape[dim], -1, dtype=np.int64)
        source[start : start + n] = np.arange(n)
        operands.append(ref.node)
        maps.append({axis: IndexMap(n, tuple(source.tolist()))})
        start += n
    return _reading(call, tensors, base.Local(dependent[0].roles, Reindex(), tuple(operands), tuple(maps)))


@base.rule("stack")
def _stack(call: base.Call) -> base.Local:
    dim = base.positive(call["dim"], len(call.shape))
    dependent = [base.local_operand(call, ref) for ref in call["tensors"] if call.node(ref).depends]
    local = base.merged(call, dependent, dependent[0].shape, free=())
    return replace(local, roles=(*local.roles[:dim], None, *local.roles[dim:]))


@base.rule("slice_scatter")
def _slice_scatter(call: base.Call) -> base.Local:
    inner, outer = call["src"], call["self"]
    dependent = [base.local_operand(call, ref) for ref in (outer, inner) if call.node(ref).depends]
    roles = dependent[0].roles
    dim = base.positive(call["dim"], len(roles))
    n = call.shape[dim]
    inside = range(*slice(call["start"], call["end"], call["step"]).indices(n))
    if any(node.roles != roles for node in dependent):
        raise base.NotLocal("slice_scatter of values with different roles")
    if roles[dim] is None:
        return base.merged(call, dependent, call.shape, free=(dim,))
    axis = base.axis_of(call, dependent[0], dim)
    source = np.full(n, -1, dtype=np.int64)
    source[list(inside)] = np.arange(len(inside))
    kept = np.arange(n)
    kept[list(inside)] = -1
    sizes = (n, len(inside))
    aligned = [
        ref
        if call.node(ref).depends
        else call.align(ref, roles, (*call.shape[:dim], size, *call.shape[dim + 1 :]))
        for ref, size in zip((outer, inner), sizes, strict=True)
    ]
    maps = tuple(
        {axis: IndexMap(size, tuple(cells.tolist()))}
        for size, cells in zip(sizes, (kept, source), strict=True)
    )
    local = base.Local(roles, Reindex(), tuple(ref.node for ref in aligned), maps)
    return _reading(call, (outer, inner), local)


def _reading(call: base.Call, given: Sequence[Ref], local: base.Local) -> base.Local:
    """The way of a call that reads its aligned operands in place of those given, in full as on boxes."""
    place = {ref.node: operand for ref, operand in zip(given, local.operands, strict=True)}
    args, kwargs = (redirected(each, lambda i: place.get(i, i)) for each in (tuple(call.args), call.kwargs))
    return replace(local, args=args, kwargs=kwargs)
