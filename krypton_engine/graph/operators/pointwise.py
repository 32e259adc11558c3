"""Operators that treat every cell alike: arithmetic, activations."""

from __future__ import annotations

from typing import Any

import torch

from krypton_engine.graph.ir import Ref, refs
from krypton_engine.graph.operators.base import Call, Local, NotLocal, local_operand, merged, mixing, rule


@rule("hardswish", "log_sigmoid", "fill", "copy", "_to_copy", "masked_fill")  # which PyTorch does not tag
def pointwise(call: Call) -> Local:
    """Element by element, operands broadcast against each other."""
    operands = [Ref(index) for index in dict.fromkeys(refs((call.args, dict(call.kwargs))))]
    dependent = [local_operand(call, ref) for ref in operands if call.node(ref).depends]
    return merged(call, dependent, call.shape, free=())


@rule("prelu", "_prelu_kernel")
def _prelu(call: Call) -> Local:
    node = local_operand(call, call.args[0])
    if node.roles[1] is not None and call.node(call.args[1]).numel() > 1:
        raise NotLocal("prelu with a weight that varies along an axis")
    return mixing(call, node, [])


def is_pointwise(target: Any) -> bool:
    """Whether PyTorch itself tags the operator as elementwise and deterministic."""
    tags = getattr(target, "tags", ())
    return torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags
