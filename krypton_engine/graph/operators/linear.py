"""Products of a value and a matrix of weights."""

from __future__ import annotations

import torch

from krypton_engine.graph.operators.base import (
    Call,
    Facts,
    Local,
    NotLocal,
    declare,
    local_operand,
    mixing,
    rule,
)

declare(torch.ops.aten.linear.default, Facts(fresh=True))


@rule("linear")
def _linear(call: Call) -> Local:
    node = local_operand(call, call["input"])
    if call.node(call["weight"]).depends:
        raise NotLocal("linear with changing weights")
    return mixing(call, node, [-1])


@rule("matmul", "mm")
def _matmul(call: Call) -> Local:
    left, right = call.args[:2]
    node = local_operand(call, left)
    if call.node(right).depends or len(call.node(right).shape) != 2:
        raise NotLocal("matmul of changing values")
    return mixing(call, node, [-1])
