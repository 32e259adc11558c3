"""Arithmetic, and whatever else treats every element alike."""

from __future__ import annotations

import torch

from krypton_engine.graph.ir import Ref, refs
from krypton_engine.graph.operators import base

aten = torch.ops.aten

IDENTITIES = {"clone", "alias", "detach", "contiguous", "lift_fresh_copy", "lift_fresh", "positive"}
"""Operators whose result is their first argument."""

base.declare(aten.add.Tensor, base.Facts(in_place=aten.add_.Tensor, out=aten.add.out))


# Which PyTorch does not tag as pointwise.
@base.rule("hardswish", "log_sigmoid", "fill", "copy", "_to_copy", "masked_fill", "where")
def pointwise(call: base.Call) -> base.Local:
    """The way on boxes of elementwise operators, whose operands are broadcast against each other.

    Examples:
        >>> local = pointwise(call(aten.add.Tensor, *graph.nodes[7:9], shape=graph.nodes[7].shape))
        >>> local.operands, local.roles
        ((7, 8), (-1, None, 1, 2))
    """
    operands = [Ref(index) for index in dict.fromkeys(refs((call.args, dict(call.kwargs))))]
    dependent = [base.local_operand(call, ref) for ref in operands if call.node(ref).depends]
    return base.merged(call, dependent, call.shape, free=())


def is_pointwise(target: object) -> bool:
    """Whether PyTorch itself tags the operator as elementwise and deterministic.

    Examples:
        >>> is_pointwise(torch.ops.aten.exp.default), is_pointwise(torch.ops.aten.sum.default)
        (True, False)
    """
    tags = getattr(target, "tags", ())
    return torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags
