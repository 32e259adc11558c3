"""One group of positions, computed from the input to the frontier, box by box."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import Flags, Floats, IntArray
from krypton_engine.executors.basis import Basis
from krypton_engine.executors.grouping import Group
from krypton_engine.executors.on_boxes import run_on_boxes
from krypton_engine.executors.reference.boxes import ChangedBoxes, compose, place, settle
from krypton_engine.executors.reference.prepared import Prepared
from krypton_engine.executors.resizing import resizes
from krypton_engine.graph.box_operators import Reindex, Total
from krypton_engine.graph.boxes import reached
from krypton_engine.graph.ir import Node
from krypton_engine.graph.regions import IntervalMap, slide_inwards
from krypton_engine.perturbation.windows import Contents, filled, occlude, replaced
from krypton_engine.plan.measured import Costs


class Walk:
    """The changed cells of every value for one group, computed in the order of the graph.

    Args:
        program: The graph made ready.
        basis: The example.
        group: The positions, and bounds of their changes.
        contents: What the cells of each member's box become; None for the baseline's.
        thresholds: Thresholds by node; elements at the rim of a box that change by less are cut off.
        costs: Costs that the time and the cells of every node are added to; None measures nothing.
        settles: Whether the only member's changes become a part of the views.

    Attributes:
        dropped: First-order effect of the elements cut off, by member of the group.

    Examples:
        >>> from krypton_engine.executors.base import Opening
        >>> from krypton_engine.executors.grouping import Grouping
        >>> program, opening = Prepared(graph), Opening((x,), torch.zeros(1), memory_budget=2**30)
        >>> basis = Basis(graph, program.constants, plan.window, opening, gradients={})
        >>> grouping = Grouping(graph, plan.window.boxes(np.array([0, 7])), batch=2)
        >>> walk = Walk(program, basis, grouping.group(grouping.members[0]), None, thresholds={}, costs=None)
        >>> {index: values.shape for index, values in walk.frontiers().items()}, walk.dropped
        ({11: torch.Size([2, 8, 12, 10])}, array([0., 0.]))
    """

    def __init__(
        self,
        program: Prepared,
        basis: Basis,
        group: Group,
        contents: Contents | None,
        thresholds: Mapping[int, float],
        costs: Costs | None,
        settles: bool = False,
    ) -> None:
        self._program = program
        self._graph = program.graph
        self._basis = basis
        self._group = group
        self._copies = len(group.members)
        self._contents = contents
        self._thresholds = thresholds
        self._costs = costs
        self._settles = settles
        self._cuts = bool(thresholds) or self._graph.clips or bool(self._graph.sites)
        self._changed: dict[int, ChangedBoxes] = {}
        self.dropped = np.zeros(self._copies)

    def frontiers(self) -> dict[int, Tensor]:
        """Frontier values, whole, by node: ``(members, ...)``."""
        for node in self._graph.nodes:
            if node.local and (node.operands or node is self._graph.input):
                began = 0.0 if self._costs is None else time.perf_counter()
                boxes = self._changed[node.index] = self._changed_boxes(node)
                if node.index in self._thresholds and boxes.value is not None:
                    self.dropped += self._cut(node, boxes, boxes.value)
                if self._costs is not None:
                    # Of the input nothing is computed.
                    cells = self._copies * math.prod(boxes.extents.values()) if node.operands else 0
                    self._costs.add(node.index, time.perf_counter() - began, cells)
        found = {index: self._frontier(self._graph.nodes[index]) for index in self._program.frontiers}
        if self._settles:
            for index, boxes in self._changed.items():
                if index in self._basis.views and all(boxes.extents.values()):
                    settle(self._basis.views[index], boxes)
            assert self._contents is not None
            self._basis.x = replaced(self._basis.x, self._group.boxes[0], self._contents(0))
        return found

    def _frontier(self, node: Node) -> Tensor:
        if node is self._graph.input:
            return occlude(self._basis.x, self._basis.baseline, self._group.boxes, self._contents)
        whole = self._whole_boxes(node)
        if whole is None:
            coordinates = {axis: np.arange(node.size(axis))[None] for axis in node.axes}
            boxes = self._changed.get(node.index)
            return compose(self._basis.views[node.index], boxes, coordinates, self._copies, 0.0)
        # It waits for other groups, which write over what lies in a table.
        tables = (view.table.untyped_storage().data_ptr() for view in self._basis.views.values())
        return whole.clone() if whole.untyped_storage().data_ptr() in tables else whole

    def _whole_boxes(self, node: Node) -> Tensor | None:
        """The changed box of ``node`` if the box is the whole value, so that nothing has to be composed."""
        boxes = self._changed.get(node.index)
        if boxes is None or boxes.cut or boxes.value is None or boxes.value.shape[1:] != node.shape[1:]:
            return None
        return boxes.value

    def _changed_boxes(self, node: Node) -> ChangedBoxes:
        """The changed cells of ``node``, from those of its operands."""
        group, copies, index = self._group, self._copies, node.index
        lo, hi, extents = group.lo[index], group.hi[index], group.extents[index]
        if node is self._graph.input and self._contents is None:
            # The occluded cells of all members are those of one baseline, which lies before all boxes.
            none = np.zeros(copies, dtype=np.int64)
            sizes = {axis: node.size(axis) for axis in node.axes}
            return ChangedBoxes(lo, hi, dict.fromkeys(sizes, none), sizes, none - 1, None, loaded=True)
        if self._thresholds and node.operands:
            lo, hi, extents = self._left(node)
        if index in self._basis.outside:
            self.dropped += self._left_out(node, lo, hi)
        start = {axis: slide_inwards(lo[axis], extents[axis], node.size(axis)) for axis in node.axes}
        here = np.arange(copies)
        if not all(extents.values()):
            return ChangedBoxes(start, start, start, extents, here, None)
        if node is self._graph.input:
            assert self._contents is not None
            begun = filled(self._basis.x, group.boxes, self._contents, start, extents)
            return ChangedBoxes(lo, hi, start, extents, here, begun)
        operator = node.on_box
        into, loaded = self.room(node, start, extents)
        if isinstance(operator, Reindex):
            value = self._reindex(node, operator, start, extents)
        elif isinstance(operator, Total):
            value = self._total(node, operator.power)
        elif resizes(node) and all(extents[axis] == node.size(axis) for axis in node.axes):
            value = self._resized(node)
        else:
            whole = None
            # The box may be less than what all of the operand gives: a kernel of one cell on padding.
            if node.index in self._program.evenly_padded and all(
                extents[axis] == node.size(axis) for axis in node.axes
            ):
                whole = self._whole_boxes(self._graph.nodes[node.operands[0]])
            if whole is not None:
                value = self._run(node, {node.operands[0]: whole}, start, extents, padded=False)
            else:
                fetched = {
                    operand: self._fetch(node, i, start, extents) for i, operand in enumerate(node.operands)
                }
                value = self._run(node, fetched, start, extents, into=into)
        for operand in node.operands:
            boxes = self._changed.get(operand)
            if boxes is None or self._program.last_use[operand] != node.index or self._settles:
                continue
            if boxes.loaded or operand not in self._program.frontiers:
                boxes.value = None
        made = ChangedBoxes(lo, hi, start, extents, here, value, loaded)
        made.cut = self._cuts and not made.changes_all()
        return made

    def room(
        self, node: Node, start: Mapping[int, IntArray], extents: Mapping[int, int]
    ) -> tuple[Tensor | None, bool]:
        """The memory that an operator writes its boxes to, if it can, and whether its own view holds it.

        A value that a concatenation alone reads lies in the concatenation's table, if both boxes agree.
        """
        if node.index not in self._program.into_view:
            return None, False
        group, copies = self._group, self._copies
        part = self._program.parts.get(node.index)
        if part is not None and not self._thresholds and group.extents[part.whole] == extents:
            whole = self._graph.nodes[part.whole]
            theirs = group.lo[whole.index]
            if all(
                np.array_equal(first, slide_inwards(theirs[axis], extents[axis], whole.size(axis)))
                for axis, first in start.items()
            ):
                room = place(self._basis.views[whole.index], extents, copies)
                return room.narrow(part.dim, part.first, node.shape[part.dim]), False
        return place(self._basis.views[node.index], extents, copies), True

    def _left(self, node: Node) -> tuple[dict[int, IntArray], dict[int, IntArray], dict[int, int]]:
        """The bounds of the changes in ``node`` after its operands' boxes were cut; the extents to share."""
        lo, hi = {}, {}
        for axis in node.axes:
            changed = {
                i: (self._changed[i].lo[axis], self._changed[i].hi[axis])
                for i in node.operands
                if i in self._changed and axis in self._changed[i].lo
            }
            lo[axis], hi[axis] = reached(node, axis, changed)
        return lo, hi, {axis: max(int((hi[axis] - lo[axis]).max()), 0) for axis in node.axes}

    def _cut(self, node: Node, boxes: ChangedBoxes, value: Tensor) -> Floats:
        """Cut boxes down to the cells that change by the threshold, and return the effect of the others."""
        view, copies = self._basis.views[node.index], self._copies
        cells = {
            axis: boxes.start[axis][:, None] + np.arange(boxes.extents[axis]) for axis in view.layout.axes
        }
        box = (copies, *(boxes.extents[axis] for axis in view.layout.axes))

        def flat(value: Tensor) -> Tensor:
            return view.layout.as_rows(value).reshape(*box, -1)

        def inside(lo: Mapping[int, IntArray], hi: Mapping[int, IntArray]) -> Flags:
            found = np.ones(box, dtype=bool)
            for k, axis in enumerate(view.layout.axes):
                along = (cells[axis] >= lo[axis][:, None]) & (cells[axis] < hi[axis][:, None])
                found &= along.reshape(copies, *(n if j == k else 1 for j, n in enumerate(box[1:])))
            return found

        change = flat(value - compose(view, None, cells, copies, 0.0))
        before = inside(boxes.lo, boxes.hi)
        # Not smaller: NaN stays too.
        stays = before & (~(change.abs() < self._thresholds[node.index])).any(-1).cpu().numpy()
        boxes.lo, boxes.hi = dict(boxes.lo), dict(boxes.hi)
        for k, axis in enumerate(view.layout.axes):
            some = np.asarray(stays.any(tuple(j for j in range(1, len(box)) if j != k + 1)))
            first = some.argmax(1)
            last = np.where(some.any(1), box[k + 1] - some[:, ::-1].argmax(1), first)
            boxes.lo[axis], boxes.hi[axis] = boxes.start[axis] + first, boxes.start[axis] + last
        boxes.cut = not boxes.changes_all()
        dropped = before & ~inside(boxes.lo, boxes.hi)
        if not dropped.any():
            return np.zeros(copies)
        gradient = flat(compose(self._basis.gradients[node.index], None, cells, copies, 0.0))
        effects = (change.double() * gradient.double()).sum(-1).cpu().numpy()
        total: Floats = np.where(dropped, effects, 0).reshape(copies, -1).sum(1)
        return total

    def _fetch(self, node: Node, i: int, start: Mapping[int, IntArray], extents: Mapping[int, int]) -> Tensor:
        """The cells that a box of ``node`` reads of its i-th operand, from changes, view and padding."""
        source = self._graph.nodes[node.operands[i]]
        boxes = self._changed.get(source.index)
        if boxes is not None and boxes.value is not None and node.same_cells(i):
            # Cell by cell, what was cut off stays cut off; beside other operands it must be the view's.
            usable = not boxes.cut or len(node.operands) == 1
            if usable and boxes.lies_at(start, extents):
                return boxes.value
        if not source.axes:
            if boxes is not None and boxes.value is not None:
                return boxes.value
            return self._basis.constant(source.index, self._copies)
        coordinates = {}
        for axis in source.axes:
            step = node.maps[i].get(axis)
            if axis in node.whole or axis not in start:
                coordinates[axis] = np.arange(source.size(axis))[None]
            elif isinstance(step, IntervalMap):
                read = np.arange(step.extent_read(extents[axis]))
                coordinates[axis] = step.first_read(start[axis])[:, None] + read
            else:
                cells = start[axis][:, None] + np.arange(extents[axis])
                coordinates[axis] = cells if step is None else step.sources(cells)
        return compose(self._basis.view(source), boxes, coordinates, self._copies, node.fill)

    def _total(self, node: Node, power: int) -> Tensor:
        """The un-occluded total with the changes of the operand's boxes added."""
        (operand,) = node.operands
        source, boxes = self._graph.nodes[operand], self._changed[operand]
        before = self._before(node)
        if not all(boxes.extents.values()):
            return before.expand(self._copies, *node.shape[1:])
        cells = {axis: boxes.start[axis][:, None] + np.arange(boxes.extents[axis]) for axis in source.axes}
        view = self._basis.view(source)
        new = compose(view, boxes, cells, self._copies, 0.0)
        old = compose(view, None, cells, self._copies, 0.0)
        change = new.double().pow_(power).sub_(old.double().pow_(power))
        dims = [source.roles.index(axis) for axis in source.axes]
        return before + change.sum(dims, keepdim=True)

    def _before(self, node: Node) -> Tensor:
        """The un-occluded value of a node without cells: ``(1, ...)``."""
        return self._basis.view(node).table[:1].view(node.shape)

    def _left_out(self, node: Node, lo: Mapping[int, IntArray], hi: Mapping[int, IntArray]) -> Floats:
        """The effect of changed global values on the cells outside the boxes of a site."""
        effects = np.zeros(self._copies)
        for index, outside in self._basis.outside[node.index].items():
            value = self._changed[index].value
            if value is not None:
                change = value.double() - self._before(self._graph.nodes[index])
                effects += outside.effect(change.flatten(1), lo, hi)
        return effects

    def _run(
        self,
        node: Node,
        fetched: Mapping[int, Tensor],
        start: Mapping[int, IntArray],
        extents: Mapping[int, int],
        *,
        padded: bool = True,
        into: Tensor | None = None,
    ) -> Tensor:
        # What lies in a box that settles stays.
        in_place = node.index in self._program.in_place and not self._settles
        return run_on_boxes(
            node, fetched, start, extents, self._copies, self._basis.constant,
            in_place=in_place, padded=padded, into=into,
        )  # fmt: skip

    def _resized(self, node: Node) -> Tensor:
        """All of a value that is larger or smaller than its operand."""
        source = self._graph.nodes[node.operands[0]]
        whole = self._whole_boxes(source)
        if whole is None:
            cells = {axis: np.arange(source.size(axis))[None] for axis in source.axes}
            boxes = self._changed.get(source.index)
            whole = compose(self._basis.view(source), boxes, cells, self._copies, node.fill)

        def value(index: int) -> Tensor:
            return whole if index == source.index else self._basis.constant(index, self._copies)

        found: Tensor = node.computed(value, self._copies)
        return found

    def _reindex(
        self, node: Node, operator: Reindex, start: Mapping[int, IntArray], extents: Mapping[int, int]
    ) -> Tensor:
        """Cells moved to other places; later operands win."""
        result = self._fetch(node, 0, start, extents)
        for i in range(1, len(node.operands)):
            part = self._fetch(node, i, start, extents)
            has_source = torch.ones((), dtype=torch.bool, device="cpu")
            for axis, step in node.maps[i].items():
                cells = step.sources(start[axis][:, None] + np.arange(extents[axis]))
                shape = [len(cells)] + [1] * (len(node.shape) - 1)
                shape[node.roles.index(axis)] = cells.shape[1]
                has_source = has_source & torch.from_numpy((cells >= 0).reshape(shape))
            result = torch.where(has_source.to(part.device), part, result)
        return result
