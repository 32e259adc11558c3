"""Operators that normalise a value by statistics of its own or by constants."""

from __future__ import annotations

import torch

from krypton_engine.graph.operators import base

base.declare(torch.ops.aten.addcmul.default, base.Facts(fresh=True))  # a batch norm, as it runs


@base.rule("layer_norm", "rms_norm")
def _layer_norm(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    count = len(call["normalized_shape"])
    return base.mixing(node, range(len(node.shape) - count, len(node.shape)))


@base.rule("batch_norm")
def _batch_norm(call: base.Call) -> base.Local:
    """A batch norm by constant statistics.

    `krypton_engine.graph.rewrites` has made numbers by channel of these before a graph runs on boxes: where
    windows slide over channels, these are cropped as the channels are.
    """
    node = base.local_operand(call, call["input"])
    names = ("weight", "bias", "running_mean", "running_var")
    given = [call[name] for name in names if call[name] is not None]
    if call["training"] or call["running_mean"] is None or any(call.node(r).value is None for r in given):
        raise base.NotLocal("batch_norm by statistics that are not constant")
    return base.mixing(node, [])
