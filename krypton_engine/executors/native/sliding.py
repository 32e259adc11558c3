"""Operators that read other cells than their own: convolutions, pools, rows and columns that are moved."""

from __future__ import annotations

from typing import Any

from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native.global_values import between_channels
from krypton_engine.executors.native.images import is_global, shape_of
from krypton_engine.executors.native.sums import COLUMNS, ROWS, numbers
from krypton_engine.executors.native.writer import Writer
from krypton_engine.graph.box_operators import NO_EPILOGUE, Convolution, Pool, Reindex
from krypton_engine.graph.ir import BATCH, Node, Ref
from krypton_engine.graph.regions import AxisMap, IndexMap, WindowMap


def convolution(to: Writer, node: Node, on_box: Convolution) -> None:
    """Write ``node``, a convolution of an image or between the channels of a global value.

    Raises:
        Unsupported: The node reads cells in another order, or its weights are not known beforehand.

    Examples:
        >>> from krypton_engine import _native
        >>> to = Writer(graph, _native.Program("", 24, 20, 3))
        >>> convolution(to, graph.nodes[7], graph.nodes[7].on_box)
        >>> to.waits_for_one(7), to.build(7)  # an activation could join it; the input is 0
        (True, 1)
    """
    weight, groups = to.constant(Ref(on_box.weight)), on_box.groups
    if is_global(node):
        weight, groups = between_channels(to, node, on_box)
        maps, limits = [(1, 1, 1, 1, 0, 1)] * 2, {}
    elif node.roles not in ((BATCH, None, ROWS, COLUMNS), (BATCH, None, COLUMNS, ROWS)):
        raise Unsupported("dimensions in another order")
    else:
        maps, limits = [_window(node.maps[0][axis]) for axis in (ROWS, COLUMNS)], _limits(node)
        weight = weight.transpose(2, 3) if _is_on_its_side(node) else weight
    bias = None if on_box.bias is None else to.constant(Ref(on_box.bias)).contiguous().numpy()
    value, *others = [to.value(Ref(operand)) for operand in node.operands]
    residual = others[0] if on_box.residual else None
    to.convolve(
        node, value, weight.contiguous().numpy(), bias, maps, groups, residual, on_box.epilogue, **limits
    )


def pool(to: Writer, node: Node, on_box: Pool) -> None:
    """``node`` is a maximum or an average over windows of an image.

    Raises:
        Unsupported: The dimensions of the image are in another order.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> halved = capture(Source(lambda x: torch.max_pool2d(x, 2), (x,)))
        >>> to = Writer(halved, _native.Program("", 24, 20, 3))
        >>> pool(to, halved.nodes[1], halved.nodes[1].on_box)
        >>> to.values  # numbers in the engine, by node
        {0: 0, 1: 1}
    """
    if node.roles[1] not in (None, 0) or node.roles[2:] not in ((ROWS, COLUMNS), (COLUMNS, ROWS)):
        raise Unsupported("dimensions in another order")
    y, x = (_window(node.maps[0][axis]) for axis in (ROWS, COLUMNS))
    divisors = None
    if not on_box.maximum:
        first, second = ([float(n) for n in counts] for counts in on_box.divisors)
        divisors = (second, first) if _is_on_its_side(node) else (first, second)
    value = to.program.pool(
        to.value(Ref(node.operands[0])),
        y,
        x,
        shape_of(node)[2],
        divisors,
        numbers(NO_EPILOGUE),
        **_limits(node),
    )
    to.remember(node, value)


def sum_along(to: Writer, node: Node) -> None:
    """``node`` is the sum or the mean of every column of an image, or of every row.

    Raises:
        Unsupported: Something else is summed too.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> columns = capture(Source(lambda x: x.mean(2), (x,)))
        >>> to, node = Writer(columns, _native.Program("", 24, 20, 3)), columns.nodes[columns.output]
        >>> sum_along(to, node)
        >>> to.values[node.index], node.roles  # a value of one row
        (1, (-1, 0, 2))
    """
    source = to.graph.nodes[node.operands[0]]
    height, width, count = shape_of(source)
    over_rows = node.whole == {ROWS}
    summed = height if over_rows else width
    if node.numel() * summed != source.numel() or node.dtype != source.dtype:
        raise Unsupported("a sum over more than one axis")
    y, x = (height, 1, height, 1, 0, 1), (width, width, 1, 1, 0, 1)
    if not over_rows:
        y, x = (height, height, 1, 1, 0, 1), (width, 1, width, 1, 0, 1)
    divisor = float(summed) if node.op == "mean" else 1.0
    divisors = [divisor] * y[1], [1.0] * x[1]
    value = to.program.pool(to.value(Ref(source.index)), y, x, count, divisors, numbers(NO_EPILOGUE))
    to.remember(node, value)


def reindex(to: Writer, node: Node, on_box: Reindex) -> None:
    """``node`` is an image whose rows and columns are moved, repeated, left out or padded.

    Raises:
        Unsupported: Cells come from several values, or are moved along the channels.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> moved = capture(Source(lambda x: x.roll(1, dims=2), (x,)))
        >>> to = Writer(moved, _native.Program("", 24, 20, 3))
        >>> reindex(to, moved.nodes[1], moved.nodes[1].on_box)
        >>> to.values, moved.nodes[1].maps[0][1].source[:3]  # rows that the first ones now hold
        ({0: 0, 1: 1}, (23, 0, 1))
    """
    if len(node.operands) != 1 or node.whole:
        raise Unsupported("cells from several values")
    sources = []
    for axis in (ROWS, COLUMNS):
        step = node.maps[0].get(axis)
        if step is not None and not isinstance(step, IndexMap):
            raise Unsupported("cells that are not moved one by one")
        sources.append(list(range(node.size(axis))) if step is None else list(step.source))
    if set(node.maps[0]) - {ROWS, COLUMNS}:
        raise Unsupported("cells moved along the channels")
    value = to.value(Ref(node.operands[0]))
    to.remember(
        node,
        to.program.reindex(
            value, sources[0], sources[1], shape_of(node)[2], on_box.fill, numbers(NO_EPILOGUE)
        ),
    )


def _is_on_its_side(node: Node) -> bool:
    """Whether the model has an image's columns where others have rows, as after a turn by 90 degrees."""
    return node.roles[2:] == (COLUMNS, ROWS)


def _window(step: AxisMap) -> tuple[int, int, int, int, int, int]:
    if not isinstance(step, WindowMap):
        raise Unsupported("a kernel over cells that were moved")
    return (step.n_in, step.n_out, step.kernel, step.stride, step.padding, step.dilation)


def _limits(node: Node) -> dict[str, Any]:
    """The engine's arguments for a window that is clipped; see `krypton_engine.graph.ir.clipped`."""
    steps = (node.maps[0][axis] for axis in (ROWS, COLUMNS))
    limits = tuple(step.limit if isinstance(step, WindowMap) else None for step in steps)
    return {} if limits == (None, None) else {"limits": limits}
