"""A group of positions on its way through a graph, box by box, with the kernels of ``csrc/cuda``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.basis import Basis
from krypton_engine.executors.cuda.arena import Arena
from krypton_engine.executors.cuda.boxes import Boxes, ChangedBoxes, Waiting
from krypton_engine.executors.cuda.convolutions import Convolutions
from krypton_engine.executors.cuda.engine import AXES, padded
from krypton_engine.executors.cuda.prepared import Prepared
from krypton_engine.executors.cuda.reading import Reader
from krypton_engine.executors.grouping import Group
from krypton_engine.executors.layout import Layout, on_device
from krypton_engine.executors.on_boxes import run_on_boxes
from krypton_engine.graph.box_operators import Convolution, Pool, Reindex
from krypton_engine.graph.ir import Node, refs, resolve
from krypton_engine.graph.operators import facts
from krypton_engine.graph.regions import WindowMap, slide_inwards
from krypton_engine.perturbation.windows import Contents, filled


class Walk:
    """The boxes of one example, computed node by node for any group of positions.

    Args:
        program: The graph made ready.
        basis: The example.
        arena: Memory of the example.
        unfolds: Bytes of the rows that a convolution multiplies at a time.
        largest_batch: Positions of a group, at most.
    """

    def __init__(
        self, program: Prepared, basis: Basis, arena: Arena, unfolds: int, largest_batch: int
    ) -> None:
        self._program = program
        self._graph = program.graph
        self._basis = basis
        self._arena = arena
        self._largest_batch = largest_batch
        self._reader = Reader(program, basis, arena)
        self._convolutions = Convolutions(program, basis, arena, self._reader, unfolds)
        local = (node for node in self._graph.nodes if node.local)
        keys = [(node.index, axis) for node in local for axis in node.axes]
        self._slots = {key: slot for slot, key in enumerate(keys)}
        self._joined = {node.index for node in self._graph.nodes if self._joins_channels(node)}

    def started(
        self,
        group: Group,
        waiting: Waiting | None = None,
        part: IntArray | None = None,
        contents: Contents | None = None,
    ) -> Boxes:
        """The boxes of a group, with the changed cells of the value that the walk begins with.

        Args:
            group: The positions.
            waiting: Positions at the value that the walk begins with; None for the occluded input.
            part: Numbers, among the waiting positions, of those in the group.
            contents: What the cells of the occluded input become; None for the baseline's.
        """
        if waiting is None or part is None:
            if contents is None:
                return self.at(on_device(self.coordinates(group), self._reader.device), group.extents)
            node = self._graph.input
            first, extents = group.lo[node.index], group.extents[node.index]
            begins = {axis: slide_inwards(first[axis], extents[axis], node.size(axis)) for axis in node.axes}
            value = filled(self._basis.x, group.boxes, contents, begins, extents)
            table = on_device(self.coordinates(group, {node.index: begins}), self._reader.device)
            return Boxes(table, self._slots, group.extents, {node.index: ChangedBoxes(value, extents)})
        index = waiting.node.index
        starts = {index: {axis: first[part] for axis, first in waiting.start.items()}}
        place = on_device(waiting.place[part].astype(np.int32), self._reader.device)
        table = on_device(self.coordinates(group, starts), self._reader.device)
        changed = {index: ChangedBoxes(None, waiting.extents, place, waiting.rows)}
        return Boxes(table, self._slots, group.extents, changed)

    def at(self, table: Tensor, extents: Mapping[int, Mapping[int, int]]) -> Boxes:
        """Boxes that begin with the occluded input.

        Args:
            table: Result of `coordinates`, on the device.
            extents: The size of the boxes, by node and axis.
        """
        return Boxes(table, self._slots, extents, {self._graph.input.index: self._occluded()})

    def compute(
        self,
        nodes: Sequence[Node],
        at: Boxes,
    ) -> None:
        """Boxes of ``nodes`` from those of their operands; each stays until its last reader has run."""
        last_read = self._program.last_read
        for node in nodes:
            if not node.local or not node.operands:
                continue
            if all(at.extents[node.index].values()):
                at.changed[node.index] = ChangedBoxes(self._boxes(node, at), at.extents[node.index])
            for operand in node.operands:
                if last_read[operand] == node.index:
                    at.changed.pop(operand, None)

    def _boxes(self, node: Node, at: Boxes) -> Tensor:
        """The boxes of ``node``, in its own dimensions."""
        if isinstance(node.on_box, Convolution) and None not in node.roles[2:]:
            return self._convolutions.convolved(node, node.on_box, at)
        if isinstance(node.on_box, Pool):
            return self._pooled(node, node.on_box, at)
        if isinstance(node.on_box, Reindex):
            return self._moved(node, at)
        if node.index in self._joined:
            return self._side_by_side(node, at)
        fetched = {operand: self._reader.fetched(node, i, at) for i, operand in enumerate(node.operands)}
        in_place = node.index in self._program.in_place
        extents = at.extents[node.index]
        return run_on_boxes(node, fetched, {}, extents, at.copies, self._basis.constant, in_place=in_place)

    def _pooled(
        self,
        node: Node,
        pool: Pool,
        at: Boxes,
    ) -> Tensor:
        if node.same_cells(0):  # one cell each
            return self._reader.fetched(node, 0, at)
        source = self._graph.nodes[node.operands[0]]
        axes = self._basis.views[source.index].layout.axes
        kernel, divisors = [], []
        for axis in axes:
            step = node.maps[0].get(axis)
            kernel.append(step.kernel if isinstance(step, WindowMap) else 1)
            dim = node.roles.index(axis) - 2  # channels are not pooled
            counts = () if pool.maximum or dim < 0 else pool.divisors[dim]
            divisors.append(self._reader.numbers(("divisors", node.index, axis), counts, torch.float32))
        reads = [self._reader.read(node, 0, axis, at) for axis in axes]
        sizes = [at.extents[node.index][axis] for axis in axes]
        rows = self._reader.over_windows(source, reads, kernel, divisors, pool.maximum, sizes, at)
        layout = Layout.of(node, frozenset(node.axes) - frozenset(axes))
        return layout.as_value(rows, (at.copies, *sizes))

    def _moved(self, node: Node, at: Boxes) -> Tensor:
        """Cells moved to other places; later operands win."""
        out = self._reader.composed(node, 0, at)
        view = self._basis.views[node.operands[0]]
        rows = view.layout.as_rows(out).view(-1, view.table.shape[1])
        for i in range(1, len(node.operands)):
            self._reader.composed(node, i, at, into=rows, overlay=True)
        return out

    def _side_by_side(self, node: Node, at: Boxes) -> Tensor:
        """Values one after the other along the channels."""
        view = self._basis.views[node.index]
        box = (at.copies, *(at.extents[node.index][axis] for axis in view.layout.axes))
        rows = view.table.new_empty(math.prod(box), view.table.shape[1])
        first = 0
        for operand in refs(node.args[0]):
            last = first + self._basis.views[operand].table.shape[1]
            i = node.operands.index(operand)
            self._reader.composed(node, i, at, into=rows[:, first:last])
            first = last
        return view.layout.as_value(rows, box)

    def exits(self, at: Boxes) -> dict[int, Tensor]:
        """The values that the rest of the model goes on from, for every copy."""
        found = {}
        for node in self._program.exits:
            index, operand = node.index, self._program.averages.get(node.index)
            if operand is None:
                found[index] = self._reader.whole(node, at)
                continue
            source = self._graph.nodes[operand]
            layout = self._basis.views[operand].layout
            axes = layout.axes
            if layout.columns != source.shape[1:2]:  # the window slides over channels, or spans an axis
                whole = self._reader.whole(source, at)
                assert node.target is not None
                args, kwargs = resolve((node.args, node.kwargs), {operand: whole}.__getitem__, at.copies)
                found[index] = node.target(*args, **kwargs)
                continue
            sizes = [source.size(axis) for axis in axes]
            divisors = [self._reader.numbers(("cells", n), (n,), torch.float32) for n in sizes]
            reads = [self._program.kernels.Read() for _ in axes]
            ones = [1 for _ in axes]
            rows = self._reader.over_windows(source, reads, sizes, divisors, False, ones, at)
            found[index] = rows.reshape(at.copies, *node.shape[1:])
        return found

    def _joins_channels(self, node: Node) -> bool:
        """Whether ``node`` puts values side by side that are laid out as it is but for their channels."""
        if not node.local or not facts(node).joins or not all(i in self._basis.views for i in node.operands):
            return False
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        values = [self._basis.views[i] for i in (node.index, *node.operands)]
        return dim % len(node.shape) == 1 and all(
            view.layout.axes == node.axes
            and len(view.layout.columns) == 1
            and view.table.dtype == values[0].table.dtype
            for view in values
        )

    def _occluded(self) -> ChangedBoxes:
        """The changed cells of the input, one baseline's for all copies."""
        node = self._graph.input
        view = self._basis.views[node.index]
        rows = view.table[view.changed_at - math.prod(view.layout.sizes) :]
        zeros = self._arena.constant(
            "zeros", lambda: torch.zeros(self._largest_batch, dtype=torch.int32, device=self._reader.device)
        )
        sizes = {axis: node.size(axis) for axis in node.axes}
        return ChangedBoxes(None, sizes, zeros, rows)

    def coordinates(
        self, group: Group, starts: Mapping[int, Mapping[int, IntArray]] = MappingProxyType({})
    ) -> npt.NDArray[np.int32]:
        """The table of `Boxes`; ``starts`` of boxes that do not lie where the group has them."""
        table = np.zeros((len(self._slots), 3, len(group.members)), dtype=np.int32)
        for index, lo in group.lo.items():
            node = self._graph.nodes[index]
            for axis, first in lo.items():
                mine = table[self._slots[index, axis]]
                if index in starts:
                    mine[0] = starts[index][axis]
                elif node is not self._graph.input:
                    mine[0] = slide_inwards(first, group.extents[index][axis], node.size(axis))
                mine[1], mine[2] = first, group.hi[index][axis]
        return table.reshape(-1, table.shape[2])

    def cut(self, node: Node, at: Boxes, threshold: float) -> tuple[Tensor, Tensor]:
        """The rests of a node's boxes, ``(copies, axes, 2)``, and the effects of what was cut off."""
        view, copies, boxes = self._basis.views[node.index], at.copies, at.changed[node.index]
        cells = self._reader.cells(node, at)
        sizes = [boxes.extents[axis] for axis in view.layout.axes]
        sizes = padded(sizes, lambda: 1)
        marks = torch.empty(copies * sum(sizes), dtype=torch.int32, device=self._reader.device)
        left = torch.empty(copies, AXES, 2, dtype=torch.int32, device=self._reader.device)
        effect = torch.empty(copies, dtype=torch.float64, device=self._reader.device)
        self._program.kernels.shrink(
            cells, sizes, copies, view.table.shape[1], threshold,
            self._basis.gradients[node.index].table.data_ptr(), marks.data_ptr(), left.data_ptr(),
            effect.data_ptr(), self._reader.element(view.table), self._reader.stream(),
        )  # fmt: skip
        return left, effect
