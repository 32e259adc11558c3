"""Activations: functions of each element, which may be the end of the convolution before them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from krypton_engine.graph.box_operators import Epilogue
from krypton_engine.graph.operators import base

aten = torch.ops.aten


def _relu_into(x: Tensor, *, out: Tensor) -> Tensor:
    result: Tensor = aten.clamp_min.out(x, 0, out=out)
    return result


def _clamp(arguments: base.Arguments) -> Epilogue | None:
    low = arguments.get("min_val", arguments.get("min"))
    high = arguments.get("max_val", arguments.get("max"))
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    # A limit may be a size, which the number of copies decides.
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return None
    return Epilogue(float(low), float(high))


def _elu(arguments: base.Arguments) -> Epilogue | None:
    if arguments["scale"] != 1 or arguments["input_scale"] != 1:
        return None
    return Epilogue(function="elu", parameter=float(arguments["alpha"]))


def _softplus(arguments: base.Arguments) -> Epilogue | None:
    # From 20 on, in float32, the function is its argument, which PyTorch gives above the threshold.
    if arguments["threshold"] < 20 or not arguments["beta"]:
        return None
    return Epilogue(function="softplus", parameter=float(arguments["beta"]))


base.declare(
    aten.relu.default,
    base.Facts(in_place=aten.relu_.default, out=_relu_into, epilogue=lambda _: Epilogue(low=0.0)),
)
base.declare(
    aten.hardtanh.default,
    base.Facts(in_place=aten.hardtanh_.default, out=aten.hardtanh.out, epilogue=_clamp),
)
base.declare(aten.relu6.default, base.Facts(epilogue=lambda _: Epilogue(0.0, 6.0)))
base.declare(aten.clamp.default, base.Facts(epilogue=_clamp))
base.declare(aten.clamp_min.default, base.Facts(epilogue=_clamp))
base.declare(
    aten.silu.default,
    base.Facts(in_place=aten.silu_.default, out=aten.silu.out, epilogue=lambda _: Epilogue(function="silu")),
)
base.declare(
    aten.hardswish.default,
    base.Facts(
        in_place=aten.hardswish_.default,
        out=aten.hardswish.out,
        epilogue=lambda _: Epilogue(function="hardswish"),
    ),
)
base.declare(
    aten.sigmoid.default,
    base.Facts(
        in_place=aten.sigmoid_.default, out=aten.sigmoid.out, epilogue=lambda _: Epilogue(function="sigmoid")
    ),
)
base.declare(aten.hardsigmoid.default, base.Facts(epilogue=lambda _: Epilogue(function="hardsigmoid")))
base.declare(aten.tanh.default, base.Facts(epilogue=lambda _: Epilogue(function="tanh")))
base.declare(
    aten.leaky_relu.default,
    base.Facts(
        epilogue=lambda given: Epilogue(function="leaky_relu", parameter=float(given["negative_slope"]))
    ),
)
base.declare(aten.elu.default, base.Facts(epilogue=_elu))
base.declare(
    aten.celu.default,
    base.Facts(epilogue=lambda given: Epilogue(function="celu", parameter=float(given["alpha"]))),
)
base.declare(aten.selu.default, base.Facts(epilogue=lambda _: Epilogue(function="selu")))
base.declare(aten.mish.default, base.Facts(epilogue=lambda _: Epilogue(function="mish")))
base.declare(aten.softplus.default, base.Facts(epilogue=_softplus))
base.declare(aten.log_sigmoid.default, base.Facts(epilogue=lambda _: Epilogue(function="log_sigmoid")))
base.declare(aten.abs.default, base.Facts(epilogue=lambda _: Epilogue(function="abs")))
base.declare(
    aten.gelu.default,
    base.Facts(
        epilogue=lambda given: Epilogue(function="gelu" if given["approximate"] == "none" else "gelu_tanh")
    ),
)


@base.rule("prelu", "_prelu_kernel")
def _prelu(call: base.Call) -> base.Local:
    node = base.local_operand(call, call.args[0])
    if node.roles[1] is not None and call.node(call.args[1]).numel() > 1:
        raise base.NotLocal("prelu with a weight that varies along an axis")
    return base.mixing(node, [])
