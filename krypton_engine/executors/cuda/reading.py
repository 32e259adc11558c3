"""Reading of boxes by kernels: the places of a value's cells, and the boxes put together from them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.basis import Basis
from krypton_engine.executors.cuda.arena import Arena
from krypton_engine.executors.cuda.boxes import Boxes
from krypton_engine.executors.cuda.engine import ELEMENTS, padded
from krypton_engine.executors.cuda.prepared import Prepared
from krypton_engine.executors.layout import View
from krypton_engine.graph.ir import Node
from krypton_engine.graph.regions import WindowMap

if TYPE_CHECKING:
    from krypton_engine._cuda import Cells, Element, Read


class Reader:
    """The values of one example as kernels read them.

    Args:
        program: The graph made ready.
        basis: The example.
        arena: Memory of the example.

    Attributes:
        device: Device of the example.
    """

    def __init__(self, program: Prepared, basis: Basis, arena: Arena) -> None:
        self.device = basis.x.device
        self._kernels = program.kernels
        self._new_read: type[Read] = program.kernels.Read
        self._new_cells: type[Cells] = program.kernels.Cells
        self._graph = program.graph
        self._same_box = program.same_box
        self._basis = basis
        self._arena = arena

    def whole(self, node: Node, at: Boxes) -> Tensor:
        """All cells of a value, changed or not."""
        boxes = at.changed.get(node.index)
        sizes = {axis: node.size(axis) for axis in node.axes}
        if boxes is not None and boxes.value is not None and boxes.extents == sizes and not self._graph.clips:
            return boxes.value
        view = self._basis.views[node.index]
        reads = [self._new_read() for _ in view.layout.axes]
        box = [sizes[axis] for axis in view.layout.axes]
        return self.put_together(view, self.cells(node, at), reads, box, at.copies)

    def fetched(
        self,
        node: Node,
        i: int,
        at: Boxes,
    ) -> Tensor:
        """The cells of its i-th operand that the boxes of ``node`` need."""
        source = self._graph.nodes[node.operands[i]]
        if not source.axes:
            return self._basis.constant(source.index, at.copies)
        boxes, same_box = at.changed.get(source.index), self._same_box
        aligned = node.same_cells(i) and same_box.get(source.index) == same_box[node.index]
        if aligned and boxes is not None and boxes.value is not None:
            return boxes.value
        return self.composed(node, i, at)

    def composed(
        self,
        node: Node,
        i: int,
        at: Boxes,
        into: Tensor | None = None,
        overlay: bool = False,
    ) -> Tensor:
        """The cells that `fetched` gives, put together from changed cells, view and padding.

        Perhaps ``into`` given rows; an ``overlay`` leaves these as they are where a cell has no source.
        """
        source = self._graph.nodes[node.operands[i]]
        view = self._basis.views[source.index]
        extents = at.extents[node.index]
        box = []
        for axis in view.layout.axes:
            step = node.maps[i].get(axis)
            if axis in node.whole or axis not in extents:
                box.append(source.size(axis))
            elif isinstance(step, WindowMap):
                box.append(step.extent_read(extents[axis]))
            else:
                box.append(extents[axis])
        reads = [self.read(node, i, axis, at, dense=True) for axis in view.layout.axes]
        cells = self.cells(source, at)
        return self.put_together(view, cells, reads, box, at.copies, node.fill, into, overlay)

    def over_windows(
        self,
        source: Node,
        reads: Sequence[Read],
        kernel: list[int],
        divisors: list[int],
        maximum: bool,
        sizes: list[int],
        at: Boxes,
    ) -> Tensor:
        """The largest or the mean of all cells in each window of a value: rows, a cell each."""
        table = self._basis.views[source.index].table
        rows = table.new_empty(at.copies * math.prod(sizes), table.shape[1])
        self._kernels.pool(
            self.cells(source, at), padded(reads, self._new_read), padded(kernel, lambda: 1),
            padded(divisors, lambda: 0), maximum, padded(sizes, lambda: 1), at.copies, rows.data_ptr(),
            rows.shape[1], self.element(rows), self.stream(),
        )  # fmt: skip
        return rows

    def put_together(
        self,
        view: View,
        cells: Cells,
        reads: Sequence[Read],
        box: list[int],
        copies: int,
        fill: float = 0.0,
        into: Tensor | None = None,
        overlay: bool = False,
    ) -> Tensor:
        """Cells of a box, from the view and the changed cells, in the value's dimensions.

        Args:
            view: View of the value.
            cells: Places of the value's cells; see `cells`.
            reads: Reads of these cells by the box, by axis; see `read`.
            box: The size of the box, by axis.
            copies: Number of boxes.
            fill: Number that cells outside the value hold.
            into: Rows that are written, ``(cells, columns)``; None for new ones.
            overlay: Whether cells that have no source stay as they are.
        """
        columns = view.table.shape[1]
        rows = view.table.new_empty(copies * math.prod(box), columns) if into is None else into
        self._kernels.compose(
            cells, padded(reads, self._new_read), padded(box, lambda: 1), copies, rows.data_ptr(),
            rows.stride(0), columns, fill, overlay, self.element(rows), self.stream(),
        )  # fmt: skip
        return view.layout.as_value(rows, (copies, *box)) if into is None else into

    def read(self, node: Node, i: int, axis: int, at: Boxes, dense: bool = False) -> Read:
        """The way that boxes of ``node`` read along an axis; ``dense``: the gaps of a dilation too."""
        step = node.maps[i].get(axis)
        if axis in node.whole or axis not in node.axes:
            return self._new_read()
        start, _, _ = at.of(node.index, axis)
        if step is None:
            return self._new_read(start=start)
        if isinstance(step, WindowMap):
            dilation = 1 if dense else step.dilation
            return self._new_read(start, step.stride, step.padding, dilation)
        moved = step.sources(np.arange(step.n_out))
        sources = self.numbers(("sources", node.index, i, axis), moved, torch.int32)
        return self._new_read(start=start, sources=sources)

    def cells(self, source: Node, at: Boxes) -> Cells:
        """The places of a value's cells, for a kernel."""
        view, boxes = self._basis.views[source.index], at.changed.get(source.index)
        axes = []
        for axis, size in zip(view.layout.axes, view.layout.sizes, strict=True):
            extent = 1 if boxes is None else boxes.extents[axis]
            axes.append(self._kernels.Axis(size, extent, *at.of(source.index, axis)))
        axes = padded(axes, self._kernels.Axis)
        if boxes is None:
            return self._new_cells(view.table.data_ptr(), 0, 0, axes)
        if boxes.rows is None:
            assert boxes.value is not None
            boxes.rows = view.layout.as_rows(boxes.value).contiguous()
        place = 0 if boxes.place is None else boxes.place.data_ptr()
        return self._new_cells(view.table.data_ptr(), boxes.rows.data_ptr(), place, axes)

    def numbers(self, key: Hashable, numbers: Sequence[int] | IntArray, dtype: torch.dtype) -> int:
        """Address of numbers on the device; 0 if there are none."""
        if not len(numbers):
            return 0
        made = self._arena.constant(key, lambda: torch.as_tensor(numbers, dtype=dtype, device=self.device))
        return made.data_ptr()

    def element(self, rows: Tensor) -> Element:
        """The kernels' name of a dtype."""
        element: Element = getattr(self._kernels.Element, ELEMENTS[rows.dtype])
        return element

    def stream(self) -> int:
        """The current stream of the device, as kernels take it."""
        if self.device.type != "cuda":
            return 0
        stream: int = torch.cuda.current_stream(self.device).cuda_stream
        return stream
