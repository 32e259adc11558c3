"""Convolutions and their transposes."""

from __future__ import annotations

import torch

from krypton_engine.graph.box_operators import Convolution, TransposedConvolution
from krypton_engine.graph.ir import BATCH, Node, Ref
from krypton_engine.graph.operators import base
from krypton_engine.graph.operators.sliding import per_dim, window_maps
from krypton_engine.graph.regions import SpreadMap

aten = torch.ops.aten

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")

for _name in CONVOLUTIONS:
    base.declare(getattr(aten, _name).default, base.Facts(fresh=True))
    base.declare(getattr(aten, _name).padding, base.Facts(fresh=True))
base.declare(aten.conv_transpose1d.default, base.Facts(fresh=True))
base.declare(aten.conv_transpose2d.input, base.Facts(fresh=True))
base.declare(aten.conv_transpose3d.input, base.Facts(fresh=True))


def _operands(call: base.Call) -> tuple[Node, Ref, Ref | None]:
    """The operands of a convolution: cells, weight and bias.

    Raises:
        NotLocal: The cells are not local, or the weights change.
    """
    node = base.local_operand(call, call["input"])
    weight, bias = call["weight"], call["bias"]
    if any(call.node(ref).depends for ref in (weight, bias) if ref is not None):
        raise base.NotLocal("convolution with changing weights")
    return node, weight, bias


@base.rule(*CONVOLUTIONS)
def _convolution(call: base.Call) -> base.Local:
    node, weight, bias = _operands(call)
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


@base.rule(*TRANSPOSED)
def _transposed(call: base.Call) -> base.Local:
    node, weight, bias = _operands(call)
    count = len(call.shape) - 2
    names = ("stride", "padding", "output_padding", "dilation")
    stride, padding, after, dilation = (per_dim(call[name], count) for name in names)
    kernel = call.node(weight).shape[2:]
    maps = {}
    for dim, role in enumerate(node.roles[2:]):
        if role == BATCH or len(node.shape) != len(call.shape):
            raise base.NotLocal(f"{call.name} of a value without its batch in front")
        if role is not None:
            if after[dim] >= stride[dim] > 1 or (after[dim] and stride[dim] == 1):
                raise base.NotLocal("transposed convolution with more padding behind than its stride")
            reach = dilation[dim] * (kernel[dim] - 1)
            maps[role] = SpreadMap(node.shape[2 + dim], call.shape[2 + dim], stride[dim], reach, padding[dim])
    operator = TransposedConvolution(
        weight.node, None if bias is None else bias.node, stride, padding, after, dilation, call["groups"]
    )
    return base.Local(
        (BATCH, None, *node.roles[2:]), operator, (node.index,), (maps,), base.touched(node.roles, [1])
    )
