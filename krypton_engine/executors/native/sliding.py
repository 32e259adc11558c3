"""Operators that read other cells than their own: convolutions, pools, cells that are moved."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native.global_values import between_channels
from krypton_engine.executors.native.images import has_cells, is_global, shape_of
from krypton_engine.executors.native.sums import AXES, Window, numbers, of_one_cell
from krypton_engine.executors.native.writer import Writer
from krypton_engine.graph.box_operators import NO_EPILOGUE, Convolution, Pool, Reindex
from krypton_engine.graph.ir import Node, Ref
from krypton_engine.graph.regions import AxisMap, IndexMap, WindowMap


def convolution(to: Writer, node: Node, on_box: Convolution) -> None:
    """Write ``node``, a convolution of an image or between the channels of a global value.

    Raises:
        Unsupported: The node reads cells in another order, or its weights are not known beforehand.

    Examples:
        >>> from krypton_engine import _native
        >>> to = Writer(graph, _native.Program("", (1, 24, 20), 3))
        >>> convolution(to, graph.nodes[7], graph.nodes[7].on_box)
        >>> to.waits_for_one(7), to.build(7)  # an activation could join it; the input is 0
        (True, 1)
    """
    weight, groups = to.constant(Ref(on_box.weight)), on_box.groups
    if is_global(node):
        weight, groups = between_channels(to, node, on_box)
        windows, limits = of_one_cell((1, 1, 1)), {}
    else:
        windows, limits = _windows(node), _limits(node)
        weight = _upright(node, weight)
    bias = None if on_box.bias is None else to.constant(Ref(on_box.bias)).contiguous().numpy()
    value, *others = [to.value(Ref(operand)) for operand in node.operands]
    residual = others[0] if on_box.residual else None
    to.convolve(
        node, value, weight.contiguous().numpy(), bias, windows, groups, residual, on_box.epilogue, **limits
    )


def pool(to: Writer, node: Node, on_box: Pool) -> None:
    """``node`` is a maximum or an average over windows of an image.

    Raises:
        Unsupported: The dimensions of the image are in another order.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> halved = capture(Source(lambda x: torch.max_pool2d(x, 2), (x,)))
        >>> to = Writer(halved, _native.Program("", (1, 24, 20), 3))
        >>> pool(to, halved.nodes[1], halved.nodes[1].on_box)
        >>> to.values  # numbers in the engine, by node
        {0: 0, 1: 1}
    """
    windows, divisors = _windows(node), None
    if not on_box.maximum:
        by_axis = dict(zip(node.roles[2:], on_box.divisors, strict=True))
        divisors = tuple([float(n) for n in by_axis.get(axis, (1,))] for axis in AXES)
    value, (_, count) = to.value(Ref(node.operands[0])), shape_of(node)
    to.remember(node, to.program.pool(value, windows, count, divisors, numbers(NO_EPILOGUE), **_limits(node)))


def sum_along(to: Writer, node: Node) -> None:
    """``node`` is the sum or the mean of an image along some of its axes: of every column, say.

    Raises:
        Unsupported: Something else is summed too.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> columns = capture(Source(lambda x: x.mean(2), (x,)))
        >>> to, node = Writer(columns, _native.Program("", (1, 24, 20), 3)), columns.nodes[columns.output]
        >>> sum_along(to, node)
        >>> to.values[node.index], node.roles  # a value of one row
        (1, (-1, 0, 2))
    """
    source = to.graph.nodes[node.operands[0]]
    sizes, count = shape_of(source)
    summed = math.prod(source.size(axis) for axis in node.whole)
    if node.numel() * summed != source.numel() or node.dtype != source.dtype:
        raise Unsupported("a sum over more than axes")
    windows = [
        (n, 1, n, 1, 0, 1) if axis in node.whole else (n, n, 1, 1, 0, 1)
        for axis, n in zip(AXES, sizes, strict=True)
    ]
    first, *others = ([1.0] * made for _, made, *_ in windows)
    divisor = float(summed) if node.op == "mean" else 1.0
    divisors = ([divisor * n for n in first], *others)
    value = to.value(Ref(source.index))
    to.remember(node, to.program.pool(value, windows, count, divisors, numbers(NO_EPILOGUE)))


def reindex(to: Writer, node: Node, on_box: Reindex) -> None:
    """``node`` is an image whose cells are moved along its axes, repeated, left out or padded.

    Raises:
        Unsupported: Cells come from several values, or are moved along the channels.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> moved = capture(Source(lambda x: x.roll(1, dims=2), (x,)))
        >>> to = Writer(moved, _native.Program("", (1, 24, 20), 3))
        >>> reindex(to, moved.nodes[1], moved.nodes[1].on_box)
        >>> to.values, moved.nodes[1].maps[0][1].source[:3]  # rows that the first ones now hold
        ({0: 0, 1: 1}, (23, 0, 1))
    """
    if len(node.operands) != 1 or node.whole:
        raise Unsupported("cells from several values")
    sources = []
    sizes, count = shape_of(node)
    for axis, size in zip(AXES, sizes, strict=True):
        step = node.maps[0].get(axis)
        if step is not None and not isinstance(step, IndexMap):
            raise Unsupported("cells that are not moved one by one")
        sources.append(list(range(size)) if step is None else list(step.source))
    if set(node.maps[0]) - set(AXES):
        raise Unsupported("cells moved along the channels")
    value = to.value(Ref(node.operands[0]))
    to.remember(node, to.program.reindex(value, sources, count, on_box.fill, numbers(NO_EPILOGUE)))


def _upright(node: Node, weight: Tensor) -> Tensor:
    """Weights of a convolution with all axes of the engine, in its order."""
    spatial = node.roles[2:]
    order = [spatial.index(axis) for axis in AXES if axis in spatial]
    weight = weight.permute(0, 1, *(2 + dim for dim in order))
    return weight.reshape(*weight.shape[:2], *(1,) * (len(AXES) - len(spatial)), *weight.shape[2:])


def _windows(node: Node) -> tuple[Window, ...]:
    """The kernel of a convolution or a pool along every axis.

    Raises:
        Unsupported: The node's dimensions are no batch, channels and axes.
    """
    if node.roles[1] not in (None, 0) or not set(node.roles[2:]) <= set(AXES) or not has_cells(node):
        raise Unsupported("dimensions in another order")
    return tuple(_window(node.maps[0][axis]) if axis in node.roles else (1, 1, 1, 1, 0, 1) for axis in AXES)


def _window(step: AxisMap) -> Window:
    if not isinstance(step, WindowMap):
        raise Unsupported("a kernel over cells that were moved")
    return (step.n_in, step.n_out, step.kernel, step.stride, step.padding, step.dilation)


def _limits(node: Node) -> dict[str, Any]:
    """The engine's arguments for a window that is clipped; see `krypton_engine.graph.ir.clipped`."""
    steps = (node.maps[0].get(axis) for axis in AXES)
    limits = tuple(step.limit if isinstance(step, WindowMap) else None for step in steps)
    return {} if set(limits) == {None} else {"limits": limits}
