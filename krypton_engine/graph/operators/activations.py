"""Activations: functions of each element, which may be the end of the convolution before them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from krypton_engine.graph.ir import Epilogue
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

aten = torch.ops.aten


def _relu_into(x: Tensor, *, out: Tensor) -> Tensor:
    result: Tensor = aten.clamp_min.out(x, 0, out=out)
    return result


def _clamp(arguments: Mapping[str, Any]) -> Epilogue | None:
    low = arguments.get("min_val", arguments.get("min"))
    high = arguments.get("max_val", arguments.get("max"))
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    # A limit may be a size, which the number of copies decides.
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return None
    return Epilogue(float(low), float(high))


def _elu(arguments: Mapping[str, Any]) -> Epilogue | None:
    if arguments["scale"] != 1 or arguments["input_scale"] != 1:
        return None
    return Epilogue(function="elu", parameter=float(arguments["alpha"]))


declare(
    aten.relu.default,
    Facts(in_place=aten.relu_.default, out=_relu_into, epilogue=lambda _: Epilogue(low=0.0)),
)
declare(
    aten.hardtanh.default,
    Facts(in_place=aten.hardtanh_.default, out=aten.hardtanh.out, epilogue=_clamp),
)
declare(aten.clamp.default, Facts(epilogue=_clamp))
declare(aten.clamp_min.default, Facts(epilogue=_clamp))
declare(
    aten.silu.default,
    Facts(in_place=aten.silu_.default, out=aten.silu.out, epilogue=lambda _: Epilogue(function="silu")),
)
declare(
    aten.hardswish.default,
    Facts(
        in_place=aten.hardswish_.default,
        out=aten.hardswish.out,
        epilogue=lambda _: Epilogue(function="hardswish"),
    ),
)
declare(
    aten.sigmoid.default,
    Facts(
        in_place=aten.sigmoid_.default, out=aten.sigmoid.out, epilogue=lambda _: Epilogue(function="sigmoid")
    ),
)
declare(aten.hardsigmoid.default, Facts(epilogue=lambda _: Epilogue(function="hardsigmoid")))
declare(aten.tanh.default, Facts(epilogue=lambda _: Epilogue(function="tanh")))
declare(
    aten.leaky_relu.default,
    Facts(epilogue=lambda given: Epilogue(function="leaky_relu", parameter=float(given["negative_slope"]))),
)
declare(aten.elu.default, Facts(epilogue=_elu))
declare(
    aten.gelu.default,
    Facts(
        epilogue=lambda given: Epilogue(function="gelu" if given["approximate"] == "none" else "gelu_tanh")
    ),
)


@rule("prelu", "_prelu_kernel")
def _prelu(call: Call) -> Local:
    node = local_operand(call, call.args[0])
    if node.roles[1] is not None and call.node(call.args[1]).numel() > 1:
        raise NotLocal("prelu with a weight that varies along an axis")
    return mixing(call, node, [])
