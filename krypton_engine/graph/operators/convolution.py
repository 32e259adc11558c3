"""Convolutions."""

from __future__ import annotations

import torch

from krypton_engine.graph.ir import BATCH, Convolution
from krypton_engine.graph.operators import base
from krypton_engine.graph.operators.sliding import per_dim, window_maps

aten = torch.ops.aten

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")

for _name in CONVOLUTIONS:
    base.declare(getattr(aten, _name).default, base.Facts(fresh=True))
    base.declare(getattr(aten, _name).padding, base.Facts(fresh=True))


@base.rule(*CONVOLUTIONS)
def _convolution(call: base.Call) -> base.Local:
    node = base.local_operand(call, call["input"])
    weight, bias = call["weight"], call["bias"]
    if any(call.node(ref).depends for ref in (weight, bias) if ref is not None):
        raise base.NotLocal("convolution with changing weights")
    count = len(call.shape) - 2
    stride, dilation = per_dim(call["stride"], count), per_dim(call["dilation"], count)
    kernel = call.node(weight).shape[2:]
    if isinstance(call["padding"], str):
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = tuple(0 if call["padding"] == "valid" else r // 2 for r in reach)
        right = tuple(0 if call["padding"] == "valid" else r - r // 2 for r in reach)
    else:
        padding = right = per_dim(call["padding"], count)
    for dim, (before, after) in enumerate(zip(padding, right, strict=True)):
        if before != after and node.roles[2 + dim] is None:
            raise base.NotLocal("uneven 'same' padding of an opaque dimension")
    maps = window_maps(call, node, kernel, stride, padding, dilation)
    convolution = Convolution(
        weight.node, bias.node if bias is not None else None, stride, padding, dilation, call["groups"]
    )
    return base.Local(
        (BATCH, None, *node.roles[2:]), convolution, (node.index,), (maps,), base.touched(node.roles, [1])
    )
