"""Images on another grid of cells that the engine makes by itself: resizes, and cells made of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native import intervals
from krypton_engine.executors.native.images import lies_in_order, shape_of
from krypton_engine.executors.native.sums import AXES, Float32s, numbers, of_one_cell
from krypton_engine.executors.native.writer import Writer
from krypton_engine.graph.box_operators import NO_EPILOGUE, Resample, TransposedConvolution
from krypton_engine.graph.ir import Node, Ref


def resample(to: Writer, node: Node, on_box: Resample) -> None:
    """Write ``node``, weighted sums of neighbouring cells.

    Raises:
        Unsupported: Channels are resized too.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> larger = capture(Source(torch.nn.Upsample(scale_factor=2, mode="bilinear"), (x,)))
        >>> to, node = Writer(larger, _native.Program("", (1, 24, 20), 3)), larger.nodes[larger.output]
        >>> resample(to, node, node.on_box)
        >>> to.values[node.index]
        1
    """
    if not intervals.moves(node) or not set(on_box.weights) <= set(AXES):
        raise Unsupported("channels that are resized")
    sizes, _ = shape_of(node)
    tables: list[intervals.Table | None] = []
    weights: list[Float32s | None] = []
    for axis, table in zip(AXES, intervals.tables([node], node.operands[0]), strict=True):
        given = on_box.weights.get(axis)
        tables.append(None if given is None else table)
        weights.append(None if given is None else np.ascontiguousarray(given, dtype=np.float32))
    to.remember(node, to.program.resample(to.value(Ref(node.operands[0])), sizes, tables, weights))


def shuffle(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    """Write ``node``, a pixel shuffle: channels become cells side by side.

    Raises:
        Unsupported: The dimensions of the image are in another order.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> larger = capture(Source(lambda x: torch.pixel_shuffle(x.repeat(1, 4, 1, 1), 2), (x,)))
        >>> to, image = Writer(larger, _native.Program("", (1, 24, 20), 3)), larger.nodes[larger.output]
        >>> to.values[image.operands[0]] = to.program.concat(
        ...     [0] * 4, [(0, 3)] * 4, (1, 24, 20), None, None, numbers(NO_EPILOGUE)
        ... )
        >>> shuffle(to, image, {"upscale_factor": 2})
        >>> to.values[image.index]
        2
    """
    factor = arguments["upscale_factor"]
    to.remember(node, _interleaved(to, node, to.value(Ref(node.operands[0])), (1, factor, factor), True))


def transposed(to: Writer, node: Node, on_box: TransposedConvolution) -> None:
    """Write ``node``, a transposed convolution whose windows lie side by side: one of single cells, shuffled.

    Raises:
        Unsupported: Windows overlap or leave gaps, or there are groups.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> larger = capture(Source(torch.nn.ConvTranspose2d(3, 8, 2, 2), (x,)))
        >>> to, node = Writer(larger, _native.Program("", (1, 24, 20), 3)), larger.nodes[larger.output]
        >>> transposed(to, node, node.on_box)
        >>> to.values[node.index]  # the input is 0, and the convolution 1
        2
    """
    weight, source = to.constant(Ref(on_box.weight)), to.graph.nodes[node.operands[0]]
    if weight.shape[2:] != on_box.stride:
        raise Unsupported("transposed windows that overlap, or leave gaps")
    if any((*on_box.padding, *on_box.output_padding)) or on_box.groups > 1 or set(on_box.dilation) != {1}:
        raise Unsupported("transposed windows that are padded, dilated or of groups")
    cells = [1] * (len(AXES) - len(on_box.stride)) + list(on_box.stride)
    count = math.prod(cells)
    between = weight.permute(*range(2, weight.dim()), 1, 0).reshape(count * weight.shape[1], -1, 1, 1, 1)
    bias = None if on_box.bias is None else to.constant(Ref(on_box.bias)).repeat(count).contiguous().numpy()
    operand, array = to.value(Ref(source.index)), between.contiguous().numpy()
    windows = of_one_cell(shape_of(source)[0])
    value = to.program.convolution([operand], windows, 1, array, bias, numbers(NO_EPILOGUE))
    to.nodes[value] = source
    to.remember(node, _interleaved(to, node, value, cells, False))


def _interleaved(to: Writer, node: Node, value: int, cells: Sequence[int], cells_last: bool) -> int:
    if not lies_in_order(node):
        raise Unsupported("dimensions in another order")
    return to.program.interleave(value, cells, cells_last)
