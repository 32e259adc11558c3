"""Products of a value and a matrix of weights."""

from __future__ import annotations

from krypton_engine.graph.operators.base import Call, Local, NotLocal, local_operand, mixing, rule


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
