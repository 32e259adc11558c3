"""Convolutions on boxes with their residuals and epilogues, each in the way that measures faster."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from krypton_engine.common.precision import precisions
from krypton_engine.executors.basis import Basis
from krypton_engine.executors.cuda.arena import Arena, settings
from krypton_engine.executors.cuda.boxes import Boxes
from krypton_engine.executors.cuda.clock import AHEAD, Clock
from krypton_engine.executors.cuda.engine import AXES, padded
from krypton_engine.executors.cuda.prepared import Prepared
from krypton_engine.executors.cuda.reading import Reader
from krypton_engine.executors.layout import Layout
from krypton_engine.executors.on_boxes import CONVOLUTION
from krypton_engine.executors.tail import channels_last
from krypton_engine.graph.box_operators import Convolution
from krypton_engine.graph.ir import Node
from krypton_engine.graph.regions import WindowMap


class Convolutions:
    """The convolutions of one example.

    Nothing waits for the GPU but `faster`, where it has not measured yet.

    Args:
        program: The graph made ready; the measurements are kept with it.
        basis: The example.
        arena: Memory of the example.
        reader: Reader of the example's values.
        unfolds: Bytes of the rows that a convolution multiplies at a time.
    """

    def __init__(self, program: Prepared, basis: Basis, arena: Arena, reader: Reader, unfolds: int) -> None:
        self._kernels = program.kernels
        self._graph = program.graph
        self._measured = program.faster
        self._basis = basis
        self._arena = arena
        self._reader = reader
        self._unfolds = unfolds

    def convolved(self, node: Node, convolution: Convolution, at: Boxes) -> Tensor:
        """A convolution on its boxes, with the residual and the epilogue that were fused into it."""
        ways = [self.by_pytorch]
        if self._is_product(node, convolution, at):
            ways.append(self.as_product)
        y = ways[self.faster(ways, node, convolution, at)](node, convolution, at)
        cells, reads = None, [self._kernels.Read()] * AXES
        if convolution.residual:
            source = self._graph.nodes[node.operands[1]]
            view = self._basis.views[source.index]
            if view.table.dtype == y.dtype and view.layout.axes == node.axes:
                cells = self._reader.cells(source, at)
                reads = [self._reader.read(node, 1, axis, at) for axis in node.axes]
            else:  # one is in half precision, or a window spans an axis
                y = channels_last(y + self._reader.fetched(node, 1, at))
        layout = Layout.of(node, frozenset())
        rows = layout.as_rows(y).contiguous()
        bias, end = None, convolution.epilogue
        if convolution.bias is not None:
            bias = self._basis.constant(convolution.bias, 1).float().contiguous()
        self._kernels.finish(
            rows.data_ptr(), rows.shape[-1], 0 if bias is None else bias.data_ptr(), cells,
            padded(reads, self._kernels.Read),
            padded([at.extents[node.index][axis] for axis in node.axes], lambda: 1), at.copies,
            getattr(self._kernels.Function, end.function), end.low, end.high, end.parameter,
            self._reader.element(rows), self._reader.stream(),
        )  # fmt: skip
        return layout.as_value(rows, tuple(rows.shape[:-1]))

    def by_pytorch(self, node: Node, convolution: Convolution, at: Boxes) -> Tensor:
        """A convolution without its bias, channels last."""
        x, weight = self._reader.fetched(node, 0, at), self._basis.constant(convolution.weight, 1)
        no_padding = [0] * len(convolution.stride)  # the boxes bring it
        convolve = CONVOLUTION[len(convolution.stride)]
        y = convolve(
            x, weight, None, convolution.stride, no_padding, convolution.dilation, convolution.groups
        )
        return channels_last(y)

    def as_product(self, node: Node, convolution: Convolution, at: Boxes) -> Tensor:
        """A convolution without its bias: for every cell the row that its window reads, times the weights."""
        key, weights = ("product", node.index), self._basis.constant(convolution.weight, 1)

        def as_rows() -> Tensor:
            return weights.movedim(1, -1).flatten(1).contiguous()

        # Weights that are an input, or made of one, are others for the next session.
        fixed = self._graph.nodes[convolution.weight].value is not None
        weight = (self._arena.constant(key, as_rows) if fixed else as_rows()).T
        sizes = [at.extents[node.index][axis] for axis in node.axes]
        if is_pointwise(node):
            x = self._reader.fetched(node, 0, at)
            rows = x.movedim(1, -1).reshape(-1, len(weight)) @ weight
        else:
            at_once = self._unfolds // self._unfolded_bytes(node, convolution, at)
            parts = [
                self._unfolded(node, sizes, first, min(at_once, at.copies - first), at) @ weight
                for first in range(0, at.copies, at_once)
            ]
            rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        return Layout.of(node, frozenset()).as_value(rows, (at.copies, *sizes))

    def _unfolded(self, node: Node, sizes: list[int], first: int, copies: int, at: Boxes) -> Tensor:
        """The rows that the windows of some copies' boxes read, ``(cells, taps * channels)``."""
        source = self._graph.nodes[node.operands[0]]
        view = self._basis.views[source.index]
        reads, kernel, steps = [], [], []
        for axis in node.axes:
            step = node.maps[0].get(axis)
            start, _, _ = at.of(node.index, axis)
            window = step if isinstance(step, WindowMap) else None
            reads.append(
                self._kernels.Read(start, window.stride, window.padding, window.stride)
                if window
                else self._kernels.Read(start)
            )
            kernel.append(window.kernel if window else 1)
            steps.append(window.dilation if window else 1)
        columns = view.table.shape[1]
        rows = view.table.new_empty(copies * math.prod(sizes), math.prod(kernel) * columns)
        self._kernels.unfold(
            self._reader.cells(source, at), padded(reads, self._kernels.Read), padded(kernel, lambda: 1),
            padded(steps, lambda: 1), padded(sizes, lambda: 1), first, copies, rows.data_ptr(), columns,
            self._reader.element(rows), self._reader.stream(),
        )  # fmt: skip
        return rows

    def _unfolded_bytes(self, node: Node, convolution: Convolution, at: Boxes) -> int:
        """Bytes of the cells that the windows of one copy's box read."""
        table = self._basis.views[node.operands[0]].table
        taps = math.prod(self._basis.constant(convolution.weight, 1).shape[2:])
        return math.prod(at.extents[node.index].values()) * taps * table.shape[1] * table.element_size()

    def _is_product(self, node: Node, convolution: Convolution, at: Boxes) -> bool:
        """Whether `as_product` can compute a convolution, and rounds as it may.

        Which way is faster may differ from run to run, so that it is none for who wants the same bits.
        """
        convolutions, products = precisions()
        source = self._graph.nodes[node.operands[0]]
        if (
            convolution.groups > 1
            or (node.dtype == torch.float32 and products == "tf32" and convolutions != "tf32")
            or torch.are_deterministic_algorithms_enabled()
        ):
            return False
        if is_pointwise(node):
            return True
        layout = self._basis.views[source.index].layout if source.index in self._basis.views else None
        return (
            layout is not None
            and not node.whole & set(layout.axes)
            and layout.axes == node.axes == tuple(node.roles[2:])
            and layout.columns == source.shape[1:2]
            and self._unfolded_bytes(node, convolution, at) <= self._unfolds
        )

    def faster(
        self,
        ways: Sequence[Callable[..., Tensor]],
        node: Node,
        convolution: Convolution,
        at: Boxes,
    ) -> int:
        """The number of the fastest of several ways, measured once for boxes of about this size."""
        if len(ways) == 1:
            return 0
        cells = at.copies * math.prod(at.extents[node.index].values())
        key = (node.index, cells.bit_length(), settings())
        if key not in self._measured:
            seconds = []
            for way in ways:
                way(node, convolution, at)  # the first time something is still being loaded
                clock = Clock(self._reader.device, AHEAD // 100)
                way(node, convolution, at)
                clock.mark()
                seconds.append(clock.seconds()[0])
            self._measured.setdefault(key, seconds.index(min(seconds)))
        return self._measured[key]


def is_pointwise(convolution: Node) -> bool:
    """Whether every cell of a convolution reads its own cell alone.

    Examples:
        >>> is_pointwise(graph.nodes[7])  # 3 x 3
        False
    """
    return None not in convolution.roles[2:] and convolution.same_cells(0)
