"""What the engine computes at a time: a sum, and the epilogue that ends it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from krypton_engine.graph.ir import Node

ROWS, COLUMNS = 1, 2
"""Axes of an image that boxes run along; its channels are axis 0."""

Floats = npt.NDArray[np.float32]


class Unsupported(Exception):
    """Something that the engine has no words for."""


@dataclass(frozen=True)
class Epilogue:
    """What happens to a sum: clamping, then a function of each element."""

    low: float = -math.inf
    high: float = math.inf
    function: str = "identity"
    parameter: float = 0.0

    def numbers(self) -> tuple[float, float, str, float]:
        """As the engine takes it."""
        return self.low, self.high, self.function, self.parameter


NOTHING = Epilogue()


@dataclass(frozen=True)
class Sum:
    """A convolution, a concatenation or a layer before it is built, so that what follows can join it."""

    build: Callable[[Sum], int]
    kind: str
    weight: Floats | None = None
    bias: Floats | None = None
    scale: Floats | None = None
    shift: Floats | None = None
    residual: int | None = None
    epilogue: Epilogue = NOTHING


def arguments_of(node: Node) -> dict[str, Any]:
    """Arguments by the names of the operator's schema, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        raise Unsupported("not an operator of PyTorch")
    out = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(node.args):
            out[argument.name] = node.args[i]
        elif argument.name in node.kwargs:
            out[argument.name] = node.kwargs[argument.name]
        else:
            out[argument.name] = argument.default_value
    return out


def epilogue_of(op: str, arguments: dict[str, Any]) -> Epilogue:
    """An activation as the end of a sum."""
    if op == "relu":
        return Epilogue(low=0.0)
    if op == "relu6":
        return Epilogue(low=0.0, high=6.0)
    if op in ("hardtanh", "clamp", "clamp_min"):
        low = arguments.get("min_val", arguments.get("min"))
        high = arguments.get("max_val", arguments.get("max"))
        limits = [math.inf * sign if n is None else n for n, sign in ((low, -1), (high, 1))]
        if not all(isinstance(n, (int, float)) for n in limits):
            raise Unsupported("limits that are tensors")
        return Epilogue(low=float(limits[0]), high=float(limits[1]))
    if op == "leaky_relu":
        return Epilogue(function="leaky_relu", parameter=float(arguments["negative_slope"]))
    if op == "elu":
        if arguments["scale"] != 1 or arguments["input_scale"] != 1:
            raise Unsupported("a scaled elu")
        return Epilogue(function="elu", parameter=float(arguments["alpha"]))
    if op == "gelu":
        return Epilogue(function="gelu" if arguments["approximate"] == "none" else "gelu_tanh")
    return Epilogue(function=op)
