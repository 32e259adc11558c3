"""Products of a value and a matrix of weights."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from krypton_engine.graph.ir import BATCH, Apply, Ref
from krypton_engine.graph.operators import base

base.declare(torch.ops.aten.linear.default, base.Facts(fresh=True))
base.ROW_BY_ROW.add("linear")


@base.rule("linear")
def _linear(call: base.Call) -> base.Local:
    node = base.local_operand(call, call["input"])
    if call.node(call["weight"]).depends:
        raise base.NotLocal("linear with changing weights")
    return base.mixing(call, node, [-1])


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
    return _contracted(call, call["tensors"], [tuple(each) for each in read.split(",")], tuple(result))


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
                raise base.NotLocal(f"{call.name} meets an axis with a dimension that is none")
    axes = [role for role in roles.values() if role is not None]
    if len(set(axes)) < len(axes):
        raise base.NotLocal(f"{call.name} meets every cell of an axis with every other")
    kept = {label for label in result if roles.get(label) is not None}
    if any(not kept <= set(mine) for _, mine in dependent):
        raise base.NotLocal(f"{call.name} meets an axis with a value that has none")
    summed = {role for label, role in roles.items() if role is not None and label not in result}
    if BATCH in summed:
        raise base.NotLocal("reads across the batch")

    def aligned(ref: Ref, mine: Labels) -> Ref:
        node = call.node(ref)
        known = tuple(roles.get(label) if label in kept else None for label in mine)
        return ref if node.depends else call.align(ref, known, node.shape)

    refs = [aligned(ref, mine) for ref, mine in zip(operands, labels, strict=True)]
    args = (call.args[0], refs) if call.name == "einsum" else (*refs, *call.args[2:])
    read = tuple(dict.fromkeys(ref.node for ref in refs))
    return base.Local(
        tuple(roles.get(label) for label in result),
        Apply(),
        read,
        tuple({} for _ in read),
        frozenset(summed),
        args=args,
    )
