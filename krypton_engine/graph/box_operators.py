"""Operators as executors run them on boxes, whatever PyTorch calls them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Apply:
    """The operator itself, run on boxes: it treats every cell alike.

    ``sized`` marks operators such as ``reshape`` whose second argument is the shape of their output.
    """

    sized: bool = False


@dataclass(frozen=True)
class Epilogue:
    """The end of a convolution, element by element: a clamp to ``[low, high]``, then a function.

    Functions have PyTorch's names; ``gelu_tanh`` is its approximation by tanh. ``parameter`` is the slope of
    ``leaky_relu``, the alpha of ``elu`` or ``celu``, or the beta of ``softplus``.
    """

    low: float = -math.inf
    high: float = math.inf
    function: str = "identity"
    parameter: float = 0.0


NO_EPILOGUE = Epilogue()


@dataclass(frozen=True)
class Convolution:
    """A convolution, in a fused graph with the addition and the activation that alone follow it.

    Attributes:
        weight: Node of the weights.
        bias: Node of the bias, if there is one.
        stride: Stride by spatial dimension, as ``padding`` and ``dilation``.
        padding: Padding along opaque dimensions; along axes it is part of the boxes.
        dilation: See ``stride``.
        groups: Number of groups of channels.
        residual: Whether the second operand is added to the result.
        epilogue: Function applied to each element of the result.
        steps: Nodes that a fused one is made of, itself the last; see `krypton_engine.graph.rewrites.fused`.
    """

    weight: int
    bias: int | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    residual: bool = False
    epilogue: Epilogue = NO_EPILOGUE
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class TransposedConvolution:
    """A transposed convolution; see `Convolution` for the fields.

    Attributes:
        output_padding: Cells behind the last, along opaque dimensions only, as ``padding``.
    """

    weight: int
    bias: int | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


@dataclass(frozen=True)
class Resample:
    """Weighted sums of neighbouring cells, along one axis after the other.

    Attributes:
        weights: Weights of the cells in every output's span, by axis; shorter spans end with zeros. See
            `krypton_engine.graph.regions.SpanMap`.
    """

    weights: Mapping[int, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True)
class Pool:
    """Maximum or average pooling; padding as in `Convolution`.

    ``divisors`` holds for every spatial dimension the number of cells that each output divides by (its
    average pooling's divisor is their product), since it depends on the absolute position.
    """

    maximum: bool
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool
    divisors: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Reindex:
    """Cells moved or repeated, and constants where a source has none; later operands win."""

    fill: float = 0.0


@dataclass(frozen=True)
class Total:
    """Sums over all cells, of each element to a ``power``: updated by what a box changes.

    Only in a linearised graph, since what changes outside a box is left out; see
    `krypton_engine.graph.ir.Graph.sites`.
    """

    power: int = 1


BoxOperator = Apply | Convolution | TransposedConvolution | Resample | Pool | Reindex | Total
