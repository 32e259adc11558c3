"""Images on another grid of cells that the engine makes by itself: resizes, and cells made of channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native import intervals
from krypton_engine.executors.native.images import shape_of
from krypton_engine.executors.native.sums import COLUMNS, ROWS, numbers
from krypton_engine.executors.native.writer import Writer
from krypton_engine.graph.box_operators import NO_EPILOGUE, Resample, TransposedConvolution
from krypton_engine.graph.ir import BATCH, Node, Ref


def resample(to: Writer, node: Node, on_box: Resample) -> None:
    """Write ``node``, weighted sums of neighbouring cells.

    Raises:
        Unsupported: Channels are resized too.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> larger = capture(Source(torch.nn.Upsample(scale_factor=2, mode="bilinear"), (x,)))
        >>> to, node = Writer(larger, _native.Program("", 24, 20, 3)), larger.nodes[larger.output]
        >>> resample(to, node, node.on_box)
        >>> to.values[node.index]
        1
    """
    if not intervals.moves(node) or not set(on_box.weights) <= {ROWS, COLUMNS}:
        raise Unsupported("channels that are resized")
    height, width, _ = shape_of(node)
    tables = dict(zip((ROWS, COLUMNS), intervals.tables([node], node.operands[0]), strict=True))
    given: list[Any] = [tables[axis] if axis in on_box.weights else None for axis in (ROWS, COLUMNS)]
    for axis in (ROWS, COLUMNS):
        weights = on_box.weights.get(axis)
        given.append(None if weights is None else np.ascontiguousarray(weights, dtype=np.float32))
    to.remember(node, to.program.resample(to.value(Ref(node.operands[0])), height, width, *given))


def shuffle(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    """Write ``node``, a pixel shuffle: channels become cells side by side.

    Raises:
        Unsupported: The dimensions of the image are in another order.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> larger = capture(Source(lambda x: torch.pixel_shuffle(x.repeat(1, 4, 1, 1), 2), (x,)))
        >>> to, image = Writer(larger, _native.Program("", 24, 20, 3)), larger.nodes[larger.output]
        >>> to.values[image.operands[0]] = to.program.concat(
        ...     [0] * 4, [(0, 3)] * 4, 24, 20, None, None, numbers(NO_EPILOGUE)
        ... )
        >>> shuffle(to, image, {"upscale_factor": 2})
        >>> to.values[image.index]
        2
    """
    factor = arguments["upscale_factor"]
    to.remember(node, _interleaved(to, node, to.value(Ref(node.operands[0])), (factor, factor), True))


def transposed(to: Writer, node: Node, on_box: TransposedConvolution) -> None:
    """Write ``node``, a transposed convolution whose windows lie side by side: one of single cells, shuffled.

    Raises:
        Unsupported: Windows overlap or leave gaps, or there are groups.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> larger = capture(Source(torch.nn.ConvTranspose2d(3, 8, 2, 2), (x,)))
        >>> to, node = Writer(larger, _native.Program("", 24, 20, 3)), larger.nodes[larger.output]
        >>> transposed(to, node, node.on_box)
        >>> to.values[node.index]  # the input is 0, and the convolution 1
        2
    """
    weight, source = to.constant(Ref(on_box.weight)), to.graph.nodes[node.operands[0]]
    if weight.shape[2:] != on_box.stride or len(on_box.stride) != 2:
        raise Unsupported("transposed windows that overlap, or leave gaps")
    if any((*on_box.padding, *on_box.output_padding)) or on_box.groups > 1 or set(on_box.dilation) != {1}:
        raise Unsupported("transposed windows that are padded, dilated or of groups")
    rows, columns = on_box.stride
    cells = rows * columns
    between = weight.permute(2, 3, 1, 0).reshape(cells * weight.shape[1], weight.shape[0], 1, 1)
    bias = None if on_box.bias is None else to.constant(Ref(on_box.bias)).repeat(cells).contiguous().numpy()
    y, x = ((n, n, 1, 1, 0, 1) for n in shape_of(source)[:2])
    operand, array = to.value(Ref(source.index)), between.contiguous().numpy()
    value = to.program.convolution([operand], y, x, 1, array, bias, numbers(NO_EPILOGUE))
    to.nodes[value] = source
    to.remember(node, _interleaved(to, node, value, (rows, columns), False))


def _interleaved(to: Writer, node: Node, value: int, factors: tuple[int, int], cells_last: bool) -> int:
    if node.roles != (BATCH, None, ROWS, COLUMNS):
        raise Unsupported("dimensions in another order")
    return to.program.interleave(value, *factors, cells_last)
