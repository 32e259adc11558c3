"""Operators that normalise a value by statistics of its own or by constants."""

from __future__ import annotations

from krypton_engine.graph.operators.base import Call, Local, mixing, only_dependent, rule


@rule("layer_norm", "rms_norm")
def _layer_norm(call: Call) -> Local:
    node = only_dependent(call)
    count = len(call["normalized_shape"])
    return mixing(call, node, range(len(node.shape) - count, len(node.shape)))
