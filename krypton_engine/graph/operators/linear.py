"""Products of a value and a matrix of weights."""

from __future__ import annotations

import torch

from krypton_engine.graph.operators import base

base.declare(torch.ops.aten.linear.default, base.Facts(fresh=True))
base.ROW_BY_ROW.add("linear")


@base.rule("linear")
def _linear(call: base.Call) -> base.Local:
    node = base.local_operand(call, call["input"])
    if call.node(call["weight"]).depends:
        raise base.NotLocal("linear with changing weights")
    return base.mixing(call, node, [-1])


@base.rule("matmul", "mm")
def _matmul(call: base.Call) -> base.Local:
    left, right = call.args[:2]
    node = base.local_operand(call, left)
    if call.node(right).depends or len(call.node(right).shape) != 2:
        raise base.NotLocal("matmul of changing values")
    return base.mixing(call, node, [-1])
