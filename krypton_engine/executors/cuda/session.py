"""A session on a GPU."""

from __future__ import annotations

import math
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.common.precision import precisions
from krypton_engine.executors.base import Computed
from krypton_engine.executors.cuda.arena import give_back, lease, settings
from krypton_engine.executors.cuda.boxes import Boxes, Patch, Waiting
from krypton_engine.executors.cuda.cuts import AHEAD, Clock, cheapest_cut
from krypton_engine.executors.cuda.engine import AXES, ELEMENTS, padded
from krypton_engine.executors.cuda.program import CudaProgram, is_pointwise
from krypton_engine.executors.grouping import Group, Grouping, WindowClasses, WindowGrouping
from krypton_engine.executors.layout import Layout, View, on_device
from krypton_engine.executors.reference.session import CONVOLUTION, ReferenceSession
from krypton_engine.executors.tail import channels_last
from krypton_engine.graph.ir import Convolution, Graph, Node, Pool, Reindex, refs, resolve
from krypton_engine.graph.regions import WindowMap, slide_inwards
from krypton_engine.perturbation.changed import distinct_work
from krypton_engine.perturbation.windows import occlude
from krypton_engine.plan.plan import Plan

_UNFOLDED = 128 * 2**20
"""Bytes of the rows that a convolution multiplies at a time."""

_HALVES = 5
"""How often the largest group is halved, unless somebody wants fewer positions at a time: groups of few sizes
can be recorded once and for all."""

_MANY = 4
"""Of the largest batch: so many positions are told apart by the sizes of their boxes."""


class CudaSession(ReferenceSession):
    """A program on one example; see `ReferenceSession`.

    Nothing waits for the GPU but the reader of the outputs, `_regrouped` in a session that shrinks, and
    `_faster` where it has not measured yet. A session is used by the thread and on the stream that it was
    opened on.
    """

    largest_batch = 256
    largest_tensor = 2**30
    at_once = 128
    program: CudaProgram

    def __init__(
        self,
        program: CudaProgram,
        plan: Plan,
        inputs: tuple[Tensor, ...],
        baseline: Tensor,
        memory_budget: int,
        shrinks: Mapping[int, tuple[float, Tensor]] = MappingProxyType({}),
    ) -> None:
        device = inputs[program.graph.occluded].device
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        # What was made in inference mode cannot be written outside of it.
        key = plan.window, bool(shrinks), threading.get_ident(), stream, torch.is_inference_mode_enabled()
        self._arena = lease(program.owner, key, device)
        self._kernels = program.kernels
        self.executor = program.executor
        weakref.finalize(self, give_back, self._arena)
        graph = program.graph
        keys = [(node.index, axis) for node in graph.nodes if node.local for axis in node.axes]
        self._slots = {key: slot for slot, key in enumerate(keys)}
        self._tables: Counter[int] = Counter()
        with torch.cuda.device_of(inputs[graph.occluded]):
            super().__init__(program, plan, inputs, baseline, memory_budget, shrinks)
            exits = sum(node.bytes() for node in program.exits)
            self._unfolds = min(_UNFOLDED, self.free // 8)
            # Twice the exits: where recorded groups leave them, and a group's own.
            free = (self.free - self._unfolds) // 2
            self.batch = max(1, min(self.batch, free // (plan.bytes_per_position + 2 * exits)))
            # What a recorded group reads lies where it lay, whatever session reads it.
            others = self._others.items()
            self._others = {i: self._arena.table(("other", i), value.clone()) for i, value in others}
            for node in graph.nodes:
                for operand in node.operands if node.local else ():
                    source = graph.nodes[operand]
                    if not source.depends and source.axes and operand not in self._views:
                        self._views[operand] = self._view(source, self._constant(operand, 1), frozenset())
            self._sizes = [self.batch >> k for k in range(self.batch.bit_length())]
            self._joined = {node.index for node in graph.nodes if self._joins_channels(node)}

    def _joins_channels(self, node: Node) -> bool:
        """Whether ``node`` puts values side by side that are laid out as it is but for their channels."""
        if not node.local or node.op != "cat" or not all(i in self._views for i in node.operands):
            return False
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        values = [self._views[i] for i in (node.index, *node.operands)]
        return dim % len(node.shape) == 1 and all(
            view.layout.axes == node.axes
            and len(view.layout.columns) == 1
            and view.table.dtype == values[0].table.dtype
            for view in values
        )

    def _view(self, node: Node, value: Tensor, columns: frozenset[int]) -> View:
        view = super()._view(node, value, columns)
        # A node's view comes first, then its gradient.
        view.table = self._arena.table((node.index, self._tables[node.index]), view.table)
        self._tables[node.index] += 1
        return view

    def compute(self, changes: IntArray, limit: int | None = None) -> Iterator[Computed]:
        """Outputs group by group; the GPU has the next group before somebody waits for the last."""
        waiting: Computed | None = None
        for found in super().compute(changes, limit):
            if waiting is not None:
                yield waiting
            waiting = found
        if waiting is not None:
            yield waiting

    # -- one group -------------------------------------------------------------------------------------

    def _grouping(self, boxes: IntArray, batch: int) -> Grouping:
        if self.graph.clips:  # a box that is cut in the middle need not lie in that of the whole window
            return super()._grouping(boxes, batch)
        # To tell apart the phases of a window among few positions would make small groups.
        many = len(boxes) >= _MANY * self.largest_batch
        positions = self.largest_batch if many else len(self.window)
        key = self.window, positions
        if key not in self.program.classes:
            self.program.classes[key] = WindowClasses(self.graph, self.window, positions)
        few = min(batch, self.batch >> _HALVES)
        fit = [size for size in self._sizes if size <= batch]
        sizes = [size for size in fit if size >= few] or fit[:1]
        return WindowGrouping(self.graph, boxes, sizes, self.program.classes[key])

    def _frontiers(self, group: Group, dropped: Floats) -> dict[int, Tensor]:
        """Frontier values, or their averages, for the positions of one group."""
        with torch.cuda.device_of(self.x):
            extents, count = group.extents, len(group.members)
            # Copies of the last one fill it up.
            size = min(size for size in self._sizes if size >= count)
            key = (size, *(tuple(each.values()) for each in extents.values()))
            coordinates = np.pad(self._coordinates(group, {}), ((0, 0), (0, size - count)), "edge")

            def compute(table: Tensor) -> dict[int, Tensor]:
                patches = {self.graph.input.index: self._occluded()}
                at = Boxes(table, self._slots, extents, patches)
                self._compute(self.graph.nodes, at)
                return self._exits(at)

            found = self._arena.run(key, coordinates, compute)
            return {index: value[:count] for index, value in found.items()}

    def _coordinates(
        self, group: Group, starts: Mapping[int, Mapping[int, IntArray]]
    ) -> npt.NDArray[np.int32]:
        """The table of `Boxes`; ``starts`` of boxes that do not lie where the group has them."""
        table = np.zeros((len(self._slots), 3, len(group.members)), dtype=np.int32)
        for index, lo in group.lo.items():
            node = self.graph.nodes[index]
            for axis, first in lo.items():
                mine = table[self._slots[index, axis]]
                if index in starts:
                    mine[0] = starts[index][axis]
                elif node is not self.graph.input:
                    mine[0] = slide_inwards(first, group.extents[index][axis], node.size(axis))
                mine[1], mine[2] = first, group.hi[index][axis]
        return table.reshape(-1, table.shape[2])

    def _occluded(self) -> Patch:
        """The input's changed cells are those of one baseline, for all copies."""
        node = self.graph.input
        view = self._views[node.index]
        rows = view.table[view.changed_at :]
        zeros = self._arena.constant(
            "zeros", lambda: torch.zeros(self.largest_batch, dtype=torch.int32, device=self.device)
        )
        sizes = {axis: node.size(axis) for axis in node.axes}
        return Patch(None, sizes, zeros, rows)

    def _compute(
        self,
        nodes: Sequence[Node],
        at: Boxes,
    ) -> None:
        """Boxes of ``nodes`` from those of what they read; patches stay until they have been read."""
        program = self.program
        for node in nodes:
            if not node.local or not node.operands:
                continue
            if all(at.extents[node.index].values()):
                at.patches[node.index] = Patch(self._boxes(node, at), at.extents[node.index])
            for operand in node.operands:
                if program.last_read[operand] == node.index:
                    at.patches.pop(operand, None)

    def _boxes(self, node: Node, at: Boxes) -> Tensor:
        """The boxes of ``node``, in its own dimensions."""
        if isinstance(node.box, Convolution) and None not in node.roles[2:]:
            return self._convolved(node, node.box, at)
        if isinstance(node.box, Pool):
            return self._pooled(node, node.box, at)
        if isinstance(node.box, Reindex):
            return self._moved(node, at)
        if node.index in self._joined:
            return self._side_by_side(node, at)
        fetched = {operand: self._fetched(node, node, i, at) for i, operand in enumerate(node.operands)}
        return self._run(node, fetched, {}, dict(at.extents[node.index]), at.copies)

    def _convolved(self, node: Node, box: Convolution, at: Boxes) -> Tensor:
        """A convolution, and what it has taken in, on its boxes."""
        ways = [self._by_pytorch]
        if self._is_product(node, box, at):
            ways.append(self._as_product)
        y = ways[self._faster(ways, node, box, at)](node, box, at)
        cells, reads = None, [self._kernels.Read()] * AXES
        if box.residual:
            source = self.graph.nodes[node.operands[1]]
            view = self._views[source.index]
            if view.table.dtype == y.dtype and view.layout.axes == node.axes:
                cells = self._cells(source, at)
                reads = [self._read(node, node, 1, axis, at) for axis in node.axes]
            else:  # autocast computes one in half precision, or a window spans an axis
                y = channels_last(y + self._fetched(node, node, 1, at))
        layout = Layout.of(node, frozenset())
        rows = layout.as_rows(y).contiguous()
        bias = None if box.bias is None else self._constant(box.bias, 1).float().contiguous()
        self._kernels.finish(
            rows.data_ptr(), rows.shape[-1], 0 if bias is None else bias.data_ptr(), cells,
            padded(reads, self._kernels.Read),
            padded([at.extents[node.index][axis] for axis in node.axes], lambda: 1), at.copies,
            getattr(self._kernels.Function, box.epilogue.function), box.epilogue.low, box.epilogue.high,
            box.epilogue.parameter, self._element(rows), self._stream(),
        )  # fmt: skip
        return layout.as_value(rows, tuple(rows.shape[:-1]))

    def _by_pytorch(self, node: Node, box: Convolution, at: Boxes) -> Tensor:
        """A convolution without its bias, channels last."""
        x = self._fetched(node, node, 0, at)
        convolve = CONVOLUTION[len(box.stride)]
        no_padding = [0] * len(box.stride)  # the boxes bring it
        return channels_last(
            convolve(x, self._constant(box.weight, 1), None, box.stride, no_padding, box.dilation, box.groups)
        )

    def _as_product(self, node: Node, box: Convolution, at: Boxes) -> Tensor:
        """The same: a row for every cell, of all that its window reads, times the weights."""
        key, weights = ("product", node.index), self._constant(box.weight, 1)

        def as_rows() -> Tensor:
            return weights.movedim(1, -1).flatten(1).contiguous()

        # Weights that are an input, or made of one, are others for the next session.
        fixed = self.graph.nodes[box.weight].value is not None
        weight = (self._arena.constant(key, as_rows) if fixed else as_rows()).T
        sizes = [at.extents[node.index][axis] for axis in node.axes]
        if is_pointwise(node):
            x = self._fetched(node, node, 0, at)
            rows = x.movedim(1, -1).reshape(-1, len(weight)) @ weight
        else:
            at_once = self._unfolds // self._unfolded_bytes(node, box, at)
            parts = [
                self._unfolded(node, sizes, first, min(at_once, at.copies - first), at) @ weight
                for first in range(0, at.copies, at_once)
            ]
            rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        return Layout.of(node, frozenset()).as_value(rows, (at.copies, *sizes))

    def _unfolded(self, node: Node, sizes: list[int], first: int, copies: int, at: Boxes) -> Tensor:
        """What the windows of some copies' boxes read, ``(cells, taps * channels)``."""
        source = self.graph.nodes[node.operands[0]]
        view = self._views[source.index]
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
            self._cells(source, at), padded(reads, self._kernels.Read), padded(kernel, lambda: 1),
            padded(steps, lambda: 1), padded(sizes, lambda: 1), first, copies, rows.data_ptr(), columns,
            self._element(rows), self._stream(),
        )  # fmt: skip
        return rows

    def _unfolded_bytes(self, node: Node, box: Convolution, at: Boxes) -> int:
        """Bytes of what the windows of one copy's box read."""
        table = self._views[node.operands[0]].table
        taps = math.prod(self._constant(box.weight, 1).shape[2:])
        return math.prod(at.extents[node.index].values()) * taps * table.shape[1] * table.element_size()

    def _is_product(self, node: Node, box: Convolution, at: Boxes) -> bool:
        """Whether `_as_product` can compute a convolution, and rounds as it may.

        Which way is faster may differ from run to run, so that it is none for who wants the same bits.
        """
        convolutions, products = precisions()
        source = self.graph.nodes[node.operands[0]]
        if (
            box.groups > 1
            or node.dtype != torch.float32
            or (products == "tf32" and convolutions != "tf32")
            or torch.are_deterministic_algorithms_enabled()
            or torch.is_autocast_enabled(self.device.type)
        ):
            return False
        if is_pointwise(node):
            return True
        layout = self._views[source.index].layout if source.index in self._views else None
        return (
            layout is not None
            and not node.whole & set(layout.axes)
            and layout.axes == node.axes == tuple(node.roles[2:])
            and layout.columns == source.shape[1:2]
            and self._unfolded_bytes(node, box, at) <= self._unfolds
        )

    def _faster(
        self,
        ways: Sequence[Callable[..., Tensor]],
        node: Node,
        box: Convolution,
        at: Boxes,
    ) -> int:
        """Which of several ways to compute a convolution is: measured once for boxes of about this size."""
        if len(ways) == 1:
            return 0
        cells = at.copies * math.prod(at.extents[node.index].values())
        key = (node.index, cells.bit_length(), settings())
        if key not in self.program.faster:
            seconds = []
            for way in ways:
                way(node, box, at)  # the first time something is still being loaded
                clock = Clock(self.device, AHEAD // 100)
                way(node, box, at)
                clock.mark()
                seconds.append(clock.seconds()[0])
            self.program.faster.setdefault(key, seconds.index(min(seconds)))
        return self.program.faster[key]

    def _pooled(
        self,
        node: Node,
        box: Pool,
        at: Boxes,
    ) -> Tensor:
        if node.same_cells(0):  # one cell each
            return self._fetched(node, node, 0, at)
        source = self.graph.nodes[node.operands[0]]
        axes = self._views[source.index].layout.axes
        kernel, divisors = [], []
        for axis in axes:
            step = node.maps[0].get(axis)
            kernel.append(step.kernel if isinstance(step, WindowMap) else 1)
            dim = node.roles.index(axis) - 2  # channels are not pooled
            counts = () if box.maximum or dim < 0 else box.divisors[dim]
            divisors.append(self._numbers(("divisors", node.index, axis), counts, torch.float32))
        reads = [self._read(node, node, 0, axis, at) for axis in axes]
        sizes = [at.extents[node.index][axis] for axis in axes]
        rows = self._over_windows(source, reads, kernel, divisors, box.maximum, sizes, at)
        layout = Layout.of(node, frozenset(node.axes) - frozenset(axes))
        return layout.as_value(rows, (at.copies, *sizes))

    def _over_windows(
        self,
        source: Node,
        reads: list[Any],
        kernel: list[int],
        divisors: list[int],
        maximum: bool,
        sizes: list[int],
        at: Boxes,
    ) -> Tensor:
        table = self._views[source.index].table
        rows = table.new_empty(at.copies * math.prod(sizes), table.shape[1])
        self._kernels.pool(
            self._cells(source, at), padded(reads, self._kernels.Read), padded(kernel, lambda: 1),
            padded(divisors, lambda: 0), maximum, padded(sizes, lambda: 1), at.copies, rows.data_ptr(),
            rows.shape[1], self._element(rows), self._stream(),
        )  # fmt: skip
        return rows

    def _moved(self, node: Node, at: Boxes) -> Tensor:
        """Cells moved to other places; later operands win."""
        out = self._composed(node, node, 0, at)
        view = self._views[node.operands[0]]
        rows = view.layout.as_rows(out).view(-1, view.table.shape[1])
        for i in range(1, len(node.operands)):
            self._composed(node, node, i, at, into=rows, overlay=True)
        return out

    def _side_by_side(self, node: Node, at: Boxes) -> Tensor:
        """Values one after the other along the channels."""
        view = self._views[node.index]
        box = (at.copies, *(at.extents[node.index][axis] for axis in view.layout.axes))
        rows = view.table.new_empty(math.prod(box), view.table.shape[1])
        first = 0
        for operand in refs(node.args[0]):
            last = first + self._views[operand].table.shape[1]
            i = node.operands.index(operand)
            self._composed(node, node, i, at, into=rows[:, first:last])
            first = last
        return view.layout.as_value(rows, box)

    def _exits(self, at: Boxes) -> dict[int, Tensor]:
        """What the rest of the model goes on from, for every copy."""
        found = {}
        for node in self.program.exits:
            index, operand = node.index, self.program.averages.get(node.index)
            if operand is None:
                found[index] = self._whole(node, at)
                continue
            source = self.graph.nodes[operand]
            layout = self._views[operand].layout
            axes = layout.axes
            if layout.columns != source.shape[1:2]:  # the window slides over channels, or spans an axis
                whole = self._whole(source, at)
                assert node.target is not None
                args, kwargs = resolve((node.args, node.kwargs), {operand: whole}.__getitem__, at.copies)
                found[index] = node.target(*args, **kwargs)
                continue
            sizes = [source.size(axis) for axis in axes]
            divisors = [self._numbers(("cells", n), (n,), torch.float32) for n in sizes]
            reads = [self._kernels.Read() for _ in axes]
            ones = [1 for _ in axes]
            rows = self._over_windows(source, reads, sizes, divisors, False, ones, at)
            found[index] = rows.reshape(at.copies, *node.shape[1:])
        return found

    def _whole(self, node: Node, at: Boxes) -> Tensor:
        """All cells of a value, changed or not."""
        patch = at.patches.get(node.index)
        sizes = {axis: node.size(axis) for axis in node.axes}
        if patch is not None and patch.value is not None and patch.extents == sizes and not self.graph.clips:
            return patch.value
        view = self._views[node.index]
        reads = [self._kernels.Read() for _ in view.layout.axes]
        box = [sizes[axis] for axis in view.layout.axes]
        return self._put_together(view, self._cells(node, at), reads, box, at.copies)

    # -- reading ---------------------------------------------------------------------------------------

    def _fetched(
        self,
        node: Node,
        reader: Node,
        i: int,
        at: Boxes,
    ) -> Tensor:
        """What a box of ``node`` needs of the i-th operand of ``reader``, which is on the way to it."""
        source = self.graph.nodes[reader.operands[i]]
        if not source.axes:
            return self._constant(source.index, at.copies)
        patch, same_box = at.patches.get(source.index), self.program.same_box
        aligned = reader.same_cells(i) and same_box.get(source.index) == same_box[node.index]
        if aligned and patch is not None and patch.value is not None:
            return patch.value
        return self._composed(node, reader, i, at)

    def _composed(
        self,
        node: Node,
        reader: Node,
        i: int,
        at: Boxes,
        into: Tensor | None = None,
        overlay: bool = False,
    ) -> Tensor:
        """The same, put together from changed cells, view and padding.

        Perhaps ``into`` given rows; an ``overlay`` leaves these as they are where a cell has no source.
        """
        source = self.graph.nodes[reader.operands[i]]
        view = self._views[source.index]
        extents = at.extents[node.index]
        box = []
        for axis in view.layout.axes:
            step = reader.maps[i].get(axis)
            if axis in reader.whole or axis not in extents:
                box.append(source.size(axis))
            elif isinstance(step, WindowMap):
                box.append(step.extent_read(extents[axis]))
            else:
                box.append(extents[axis])
        reads = [self._read(node, reader, i, axis, at, dense=True) for axis in view.layout.axes]
        cells = self._cells(source, at)
        return self._put_together(view, cells, reads, box, at.copies, reader.fill, into, overlay)

    def _put_together(
        self,
        view: View,
        cells: Any,
        reads: list[Any],
        box: list[int],
        copies: int,
        fill: float = 0.0,
        into: Tensor | None = None,
        overlay: bool = False,
    ) -> Tensor:
        columns = view.table.shape[1]
        rows = view.table.new_empty(copies * math.prod(box), columns) if into is None else into
        self._kernels.compose(
            cells, padded(reads, self._kernels.Read), padded(box, lambda: 1), copies, rows.data_ptr(),
            rows.stride(0), columns, fill, overlay, self._element(rows), self._stream(),
        )  # fmt: skip
        return view.layout.as_value(rows, (copies, *box)) if into is None else into

    def _read(self, node: Node, reader: Node, i: int, axis: int, at: Boxes, dense: bool = False) -> Any:
        """How boxes of ``node`` read an operand along an axis; ``dense``: the gaps of a dilation too."""
        step = reader.maps[i].get(axis)
        if axis in reader.whole or axis not in node.axes:
            return self._kernels.Read()
        start, _, _ = at.of(node.index, axis)
        if step is None:
            return self._kernels.Read(start=start)
        if isinstance(step, WindowMap):
            dilation = 1 if dense else step.dilation
            return self._kernels.Read(start, step.stride, step.padding, dilation)
        moved = step.sources(np.arange(step.n_out))
        sources = self._numbers(("sources", reader.index, i, axis), moved, torch.int32)
        return self._kernels.Read(start=start, sources=sources)

    def _cells(self, source: Node, at: Boxes) -> Any:
        """Where the cells of a value lie."""
        view, patch = self._views[source.index], at.patches.get(source.index)
        axes = []
        for axis, size in zip(view.layout.axes, view.layout.sizes, strict=True):
            extent = 1 if patch is None else patch.extents[axis]
            axes.append(self._kernels.Axis(size, extent, *at.of(source.index, axis)))
        axes = padded(axes, self._kernels.Axis)
        if patch is None:
            return self._kernels.Cells(view.table.data_ptr(), 0, 0, axes)
        if patch.rows is None:
            assert patch.value is not None
            patch.rows = view.layout.as_rows(patch.value).contiguous()
        place = 0 if patch.place is None else patch.place.data_ptr()
        return self._kernels.Cells(view.table.data_ptr(), patch.rows.data_ptr(), place, axes)

    def _numbers(self, key: Any, numbers: Any, dtype: torch.dtype) -> int:
        """Address of numbers on the device; 0 if there are none."""
        if not len(numbers):
            return 0
        made = self._arena.constant(key, lambda: torch.as_tensor(numbers, dtype=dtype, device=self.device))
        return made.data_ptr()

    def _element(self, rows: Tensor) -> Any:
        return getattr(self._kernels.Element, ELEMENTS[rows.dtype])

    def _stream(self) -> int:
        if self.device.type != "cuda":
            return 0
        stream: int = torch.cuda.current_stream(self.device).cuda_stream
        return stream

    # -- boxes that are cut ----------------------------------------------------------------------------

    def _grouped(
        self, boxes: IntArray, batch: int, tail_batch: int, dropped: Floats
    ) -> Iterator[tuple[IntArray, Tensor]]:
        if not self._thresholds:
            yield from super()._grouped(boxes, batch, tail_batch, dropped)
            return
        # A quarter for what waits at two bottlenecks, a quarter for the boxes on the way between them.
        at_once = max(1, self.free // 4 // max(2 * self._largest_cut(), 1))
        for members in np.array_split(np.arange(len(boxes)), math.ceil(len(boxes) / at_once)):
            yield from self._shrinking(members, boxes[members], max(1, batch // 2), tail_batch, dropped)

    def _largest_cut(self) -> int:
        """Bytes of the boxes of one position at the bottleneck where they are largest."""
        sizes = []
        for segment in self.program.segments:
            end = segment.nodes[segment.output]
            extents = [int(extent.max()) for extent in self.plan.extents(end).values()]
            cells = math.prod(end.size(axis) for axis in end.axes)
            sizes.append(end.bytes() // cells * math.prod(extents))
        return max(sizes, default=0)

    def _shrinking(
        self, members: IntArray, boxes: IntArray, batch: int, tail_batch: int, dropped: Floats
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """Outputs of positions whose boxes are cut at every bottleneck, and grouped anew by what is left.

        All of them go to a bottleneck before one goes on.
        """
        waiting: Waiting | None = None
        for segment in self.program.segments:
            following = self._to_bottleneck(segment, boxes, waiting, batch)
            left, effect = self._regrouped(following)
            dropped[members] += effect
            stay = np.asarray((left[..., 1] > left[..., 0]).all(1))
            gone = members[~stay]
            if len(gone):
                yield gone, self.base.expand(len(gone), *self.base.shape[1:])
            if not stay.any():
                return
            members, boxes, waiting = members[stay], left[stay], following.kept(np.flatnonzero(stay))
        grouping = Grouping(self.program.rest, boxes, batch)
        for part in grouping.members:
            values = self._finished(grouping.group(part), waiting, part)
            yield from self._through_tail(members[part], values, tail_batch)

    def _to_bottleneck(self, segment: Graph, boxes: IntArray, waiting: Waiting | None, batch: int) -> Waiting:
        """The changed cells of all positions at the end of a segment."""
        end = segment.nodes[segment.output]
        view, count = self._views[end.index], len(boxes)
        grouping = Grouping(segment, boxes, batch)
        extents = grouping.largest(end)
        sizes = [extents[axis] for axis in view.layout.axes]
        found = Waiting(
            end,
            extents,
            {axis: np.zeros(count, dtype=np.int64) for axis in view.layout.axes},
            np.arange(count),
            view.table.new_empty(count, *sizes, view.table.shape[1]),
            torch.zeros(count, AXES, 2, dtype=torch.int32, device=self.device),
            torch.zeros(count, dtype=torch.float64, device=self.device),
        )
        with torch.cuda.device_of(self.x):
            for part in grouping.members:
                group = grouping.group(part)
                at = self._started(group, waiting, part)
                self._compute(segment.nodes, at)
                patch = at.patches.get(end.index)
                if patch is None:
                    continue  # nothing arrives: the boxes stay empty
                where = on_device(part, self.device)
                found.left[where], found.effect[where] = self._cut_boxes(end, at)
                assert patch.rows is not None
                cells = [patch.extents[axis] for axis in view.layout.axes]
                inside: list[Any] = [slice(n) for n in cells]
                found.rows[(where, *inside)] = patch.rows.reshape(len(part), *cells, -1)
                for axis, first in found.start.items():
                    lo = group.lo[end.index][axis]
                    first[part] = slide_inwards(lo, patch.extents[axis], end.size(axis))
        return found

    def _cut_boxes(self, node: Node, at: Boxes) -> tuple[Tensor, Tensor]:
        """What is left of the boxes of a node, ``(copies, axes, 2)``, and the effect of the rest."""
        view, copies, patch = self._views[node.index], at.copies, at.patches[node.index]
        cells = self._cells(node, at)
        sizes = [patch.extents[axis] for axis in view.layout.axes]
        sizes = padded(sizes, lambda: 1)
        marks = torch.empty(copies * sum(sizes), dtype=torch.int32, device=self.device)
        left = torch.empty(copies, AXES, 2, dtype=torch.int32, device=self.device)
        effect = torch.empty(copies, dtype=torch.float64, device=self.device)
        self._kernels.shrink(
            cells, sizes, copies, view.table.shape[1], self._thresholds[node.index],
            self._gradients[node.index].table.data_ptr(), marks.data_ptr(), left.data_ptr(),
            effect.data_ptr(), self._element(view.table), self._stream(),
        )  # fmt: skip
        return left, effect

    def _regrouped(self, following: Waiting) -> tuple[IntArray, Floats]:
        """What is left of the boxes, ``(positions, axes of the input, 2)``, and the effect of the rest.

        The one place where a session that has measured what is faster waits for the GPU.
        """
        node, layout = following.node, self._views[following.node.index].layout
        left, effect = following.left.cpu().numpy(), following.effect.cpu().numpy()
        boxes = np.tile(np.array([0, 1]), (len(left), len(self.window.shape), 1))
        for axis in node.axes:
            boxes[:, axis] = (0, node.size(axis))
        for k, axis in enumerate(layout.axes):
            boxes[:, axis] = left[:, k]
        return boxes, effect

    def _started(self, group: Group, waiting: Waiting | None, part: IntArray) -> Boxes:
        """The boxes of a group, with the patch that its segment begins with."""
        starts = {}
        if waiting is None:
            patches = {self.graph.input.index: self._occluded()}
        else:
            starts[waiting.node.index] = {axis: first[part] for axis, first in waiting.start.items()}
            place = on_device(waiting.place[part].astype(np.int32), self.device)
            patches = {waiting.node.index: Patch(None, waiting.extents, place, waiting.rows)}
        table = on_device(self._coordinates(group, starts), self.device)
        return Boxes(table, self._slots, group.extents, patches)

    def _finished(self, group: Group, waiting: Waiting | None, part: IntArray) -> dict[int, Tensor]:
        """Frontier values of a group that has passed the last bottleneck."""
        with torch.cuda.device_of(self.x):
            at = self._started(group, waiting, part)
            self._compute(self.program.rest.nodes, at)
            found = self._exits(at)
            return found

    # -- what pays -------------------------------------------------------------------------------------

    def measured_cut(self) -> Node | None:
        """The bottleneck from which on full computation is faster than boxes; None if there is none.

        The group of the middle position, by the size of groups, runs on boxes, and the copies of as many in
        full; each pass is timed at every bottleneck.
        """
        work = distinct_work(self.changed, np.arange(len(self.window)))
        if not len(work.boxes):
            return None
        grouping = self._grouping(work.boxes, self.batch)
        members = sorted(grouping.members, key=len)
        positions = np.cumsum([len(each) for each in members])
        group = grouping.group(members[int(np.searchsorted(positions, positions[-1] / 2))])
        cuts = self.graph.bottlenecks
        with torch.cuda.device_of(self.x):
            for _ in range(2):  # the first time something is still being loaded
                on_boxes = self._timed_boxes(group, cuts)
                without = self._timed_full(group, cuts)
        k = cheapest_cut(on_boxes, without)
        return None if k == len(cuts) else cuts[k]

    def _timed_boxes(self, group: Group, cuts: Sequence[Node]) -> list[float]:
        """Seconds a position until each bottleneck is there, and until the output is."""
        clock = Clock(self.device)
        at = self._started(group, None, group.members)
        done = 0
        for cut in cuts:
            self._compute(self.graph.nodes[done : cut.index + 1], at)
            done = cut.index + 1
            clock.mark()
        self._compute(self.graph.nodes[done:], at)
        values = self._exits(at)
        for _ in self._through_tail(group.members, values, self.tail_batch):
            pass
        clock.mark()
        return [seconds / at.copies for seconds in clock.seconds()]

    def _timed_full(self, group: Group, cuts: Sequence[Node]) -> list[float]:
        """The same for full computation."""
        largest = max(node.bytes() for node in self.graph.nodes if node.depends)
        copies = min(len(group.members), max(1, self.free // 4 // largest))
        values: dict[int, Any] = {
            self.graph.input.index: occlude(self.x, self.baseline, group.boxes[:copies])
        }

        def value(index: int) -> Any:
            return values[index] if index in values else self._constant(index, copies)

        clock, marks = Clock(self.device), {cut.index for cut in cuts}
        for node in self.graph.nodes:
            if node.depends and node is not self.graph.input:
                assert node.target is not None
                values[node.index] = node.target(
                    *resolve(node.args, value, copies), **resolve(node.kwargs, value, copies)
                )
                for operand in refs((node.args, node.kwargs)):
                    if self.program.last_use[operand] == node.index:
                        values.pop(operand, None)
            if node.index in marks:
                clock.mark()
        clock.mark()
        return [seconds / copies for seconds in clock.seconds()]
