"""Operators that normalise a value by statistics of its own or by constants."""

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
    only_dependent,
    rule,
)

declare(torch.ops.aten.addcmul.default, Facts(fresh=True))  # a batch norm, as it runs


@rule("layer_norm", "rms_norm")
def _layer_norm(call: Call) -> Local:
    node = only_dependent(call)
    count = len(call["normalized_shape"])
    return mixing(call, node, range(len(node.shape) - count, len(node.shape)))


@rule("batch_norm")
def _batch_norm(call: Call) -> Local:
    """A batch norm by constant statistics.

    `krypton_engine.graph.rewrites` has made numbers by channel of these before a graph runs on boxes: where
    windows slide over channels, these are cropped as the channels are.
    """
    node = local_operand(call, call["input"])
    names = ("weight", "bias", "running_mean", "running_var")
    given = [call[name] for name in names if call[name] is not None]
    if call["training"] or call["running_mean"] is None or any(call.node(r).value is None for r in given):
        raise NotLocal("batch_norm by statistics that are not constant")
    return mixing(call, node, [])
