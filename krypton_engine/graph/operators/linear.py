"""Products of a value and a matrix of weights."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch

from krypton_engine.graph.box_operators import Apply
from krypton_engine.graph.ir import BATCH, Ref, Roles, refs
from krypton_engine.graph.operators import base

base.declare(torch.ops.aten.linear.default, base.Facts(fresh=True))
base.ROW_BY_ROW.add("linear")


@base.rule("linear")
def _linear(call: base.Call) -> base.Local:
    node = base.local_operand(call, call["input"])
    if call.node(call["weight"]).depends:
        raise base.NotLocal("linear with changing weights")
    return base.mixing(node, [-1])


@base.rule("matmul", "mm", "bmm")
def _matmul(call: base.Call) -> base.Local:
    """A product over the last dimension of one value and the last but one of the other."""
    ranks = [len(call.node(ref).shape) for ref in call.args[:2]]
    if min(ranks) < 2:
        raise base.NotLocal(f"{call.name} of a vector")
    rank = max(ranks)
    batch = tuple(range(rank - 2))
    labels = ((*batch[rank - ranks[0] :], rank, rank + 1), (*batch[rank - ranks[1] :], rank + 1, rank + 2))
    return _contracted(call, call.args[:2], labels, (*batch, rank, rank + 2))


@base.rule("einsum")
def _einsum(call: base.Call) -> base.Local:
    equation = call["equation"].replace(" ", "")
    if "->" not in equation or "." in equation:
        raise base.NotLocal("einsum that leaves its result's dimensions open")
    read, result = equation.split("->")
    operands, labels = call["tensors"], read.split(",")
    local = _contracted(call, operands, [tuple(each) for each in labels], tuple(result))
    # A constant that varies along an axis has got a dimension of rows in front.
    ranks = [len(call.node(ref).shape) for ref in operands]
    aligned = [call.node(Ref(i)) for i in refs(local.args)]
    named = [
        mine if len(node.shape) == rank else result[0] + mine
        for mine, node, rank in zip(labels, aligned, ranks, strict=True)
    ]
    return replace(local, args=(f"{','.join(named)}->{result}", [Ref(node.index) for node in aligned]))


Labels = tuple[Hashable, ...]


def _contracted(
    call: base.Call, operands: Sequence[Ref], labels: Sequence[Labels], result: Labels
) -> base.Local:
    """A sum of products over the dimensions whose labels the result has not."""
    roles: dict[Hashable, int | None] = {}
    dependent = [
        (base.local_operand(call, ref), mine)
        for ref, mine in zip(operands, labels, strict=True)
        if call.node(ref).depends
    ]
    sizes = dict(zip(result, call.shape, strict=True))
    for node, mine in dependent:
        if len(set(mine)) < len(mine):
            raise base.NotLocal(f"{call.name} along a diagonal")
        for label, role, n in zip(mine, node.roles, node.shape, strict=True):
            if roles.setdefault(label, role) != role or (role is not None and sizes.get(label, n) != n):
                raise base.NotLocal(f"{call.name} combines an axis with another dimension")
    axes = [role for role in roles.values() if role is not None]
    if len(set(axes)) < len(axes):
        raise base.NotLocal(f"{call.name} meets every cell of an axis with every other")
    kept = {label for label in result if roles.get(label) is not None}
    if any(not kept <= set(mine) for _, mine in dependent):
        raise base.NotLocal(f"{call.name} combines an axis with a value without that axis")
    summed = {role for label, role in roles.items() if role is not None and label not in result}
    if BATCH in summed:
        raise base.NotLocal("reads across the batch")

    def aligned(ref: Ref, mine: Labels) -> Ref:
        node = call.node(ref)
        known: Roles = tuple(roles.get(label) if label in kept else None for label in mine)
        if mine[:1] != result[:1]:
            known = (BATCH, *known)
        return ref if node.depends else call.align(ref, known, node.shape)

    found = [aligned(ref, mine) for ref, mine in zip(operands, labels, strict=True)]
    read = tuple(dict.fromkeys(ref.node for ref in found))
    return base.Local(
        tuple(roles.get(label) for label in result),
        Apply(),
        read,
        tuple({} for _ in read),
        frozenset(summed),
        args=(*found, *call.args[2:]) if call.name != "einsum" else (found,),
    )
