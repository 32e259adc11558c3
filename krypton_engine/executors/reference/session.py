"""A session of the reference executor: PyTorch on the changed boxes of groups of positions."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.common.figures import mebibytes
from krypton_engine.errors import InputError
from krypton_engine.executors.base import Computed
from krypton_engine.executors.grouping import Group, Grouping
from krypton_engine.executors.layout import Layout, View, column_axes
from krypton_engine.executors.tail import (
    channels_last,
    repeated,
)
from krypton_engine.graph.gradients import Head, first_order
from krypton_engine.graph.ir import BATCH, Apply, Convolution, Node, Pool, Reindex, refs, resolve
from krypton_engine.graph.operators import facts
from krypton_engine.graph.regions import WindowMap, slide_inwards
from krypton_engine.perturbation.changed import ChangedCells
from krypton_engine.perturbation.windows import occlude
from krypton_engine.plan.boxes import reached
from krypton_engine.plan.measured import Costs
from krypton_engine.plan.plan import Plan

if TYPE_CHECKING:
    from krypton_engine.executors.reference.program import ReferenceProgram

LARGEST_TAIL = 256
"""Positions that the full computation after the frontier runs on together."""

_SCRATCH = 128 * 2**20
"""What PyTorch itself takes for a pass (workspaces, reordered weights), measured on ResNet18."""

CONVOLUTION = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_MAX_POOL = {1: torch.max_pool1d, 2: torch.max_pool2d, 3: torch.max_pool3d}


@dataclass
class _Patch:
    """The changed cells of one value for a group.

    ``value`` holds a box for every member, from ``start`` on and of shared ``extents``, perhaps ``loaded``
    into the view's table, where a member's box is the ``place``-th. ``lo`` and ``hi`` bound what changes in
    it. The other cells are as in the view, or, where the box was ``cut``, count as such.
    """

    lo: dict[int, IntArray]
    hi: dict[int, IntArray]
    start: dict[int, IntArray]
    extents: dict[int, int]
    place: IntArray
    value: Tensor | None
    loaded: bool = False
    cut: bool = False

    def lies_at(self, start: Mapping[int, IntArray], extents: Mapping[int, int]) -> bool:
        """Whether the boxes are just these."""
        return all(
            np.array_equal(first, start[axis]) and self.extents[axis] == extents[axis]
            for axis, first in self.start.items()
        )

    def changes_all(self) -> bool:
        """Whether every member's box changes from end to end."""
        return all(
            np.array_equal(self.lo[axis], first) and np.array_equal(self.hi[axis], first + self.extents[axis])
            for axis, first in self.start.items()
        )


class ReferenceSession:
    """A program on one example: its views, and outputs for any list of positions.

    Args:
        program: The graph made ready.
        plan: Graph x window.
        inputs: The tensors of one example, first dimension 1 where they are batched.
        baseline: What replaces the occluded cells; broadcasts against the occluded input.
        memory_budget: Bytes that the session may add to the process.
        shrinks: By node: what its boxes are cut down to, the bounding box of the cells of which an element
            changes by the threshold at least. The gradient of a scalar by the node's value tells what the
            change of the others does to the scalar. The axes that a window spans are left alone.
    """

    largest_batch = 64
    """Positions whose boxes are computed together: convolutions gain little beyond."""

    largest_tensor = 48 * 2**20
    """Bytes of the largest tensor of boxes that a batch should make. Twice as much makes DenseNet121 a third
    slower, half as much ResNet50 a tenth."""

    at_once = 1
    executor = "reference"

    def __init__(
        self,
        program: ReferenceProgram,
        plan: Plan,
        inputs: tuple[Tensor, ...],
        baseline: Tensor,
        memory_budget: int,
        shrinks: Mapping[int, tuple[float, Tensor]] = MappingProxyType({}),
    ) -> None:
        self.program = program
        self.plan = plan
        self.graph = program.graph
        self.window = plan.window
        self._columns = column_axes(self.graph, self.window)
        self.x = channels_last(inputs[self.graph.occluded])
        self.baseline = baseline.to(self.x).expand(self.x.shape)
        self.device = self.x.device
        gradients = sum(gradient.numel() * gradient.element_size() for _, gradient in shrinks.values())
        fixed = plan.bytes_views + plan.bytes_weights + gradients + _SCRATCH
        self.free = free = memory_budget - fixed
        needed = plan.bytes_per_position + plan.frontier_bytes + plan.tail_bytes_per_position
        if free < needed:
            raise InputError(
                "memory_budget",
                mebibytes(memory_budget),
                problem=(
                    f"this model and window take {mebibytes(fixed)} for views, weights and workspaces "
                    f"and {mebibytes(needed)} for one position"
                ),
            )
        # Half for the boxes, half for the frontier and what follows it.
        self.batch = max(
            1,
            min(
                self.largest_batch,
                self.largest_tensor // max(plan.largest_box_tensor, 1),
                free // 2 // max(plan.bytes_per_position, 1),
            ),
        )
        self.tail_batch = max(
            1,
            min(
                LARGEST_TAIL,
                program.tail.batch,
                free // 2 // max(plan.frontier_bytes + plan.tail_bytes_per_position, 1),
            ),
        )
        self.changed = ChangedCells(self.window, (self.x != self.baseline)[0].cpu().numpy())
        self.costs: Costs | None = None
        self._inputs = inputs
        # Its views come on top of these.
        beside = memory_budget - plan.bytes_views
        self._again = partial(type(self), program, plan, inputs, baseline, beside)
        self._thresholds = {index: threshold for index, (threshold, _) in shrinks.items()}
        self._cuts = bool(shrinks) or self.graph.clips
        self._gradients: dict[int, View] = {}
        self._views: dict[int, View] = {}
        self._others: dict[int, Tensor] = {}
        self.base = self._materialise(inputs, shrinks)

    # -- the un-occluded pass --------------------------------------------------------------------------

    def _materialise(self, inputs: tuple[Tensor, ...], shrinks: Mapping[int, tuple[float, Tensor]]) -> Tensor:
        """Run the graph in full once and keep the views that boxes will read."""
        values: dict[int, Any] = dict(self.program.constants)
        for index, tensor in zip(self.graph.inputs, inputs, strict=True):
            values[index] = channels_last(tensor) if index == self.graph.input.index else tensor
        for node in self.graph.nodes:
            if node.index not in values:
                assert node.target is not None
                values[node.index] = node.target(
                    *resolve(node.args, values.__getitem__, 1), **resolve(node.kwargs, values.__getitem__, 1)
                )
            if node.index in shrinks or (node.depends and node.local and self.program.keeps_view(node)):
                self._views[node.index] = self._view(node, values[node.index], self._columns[node.index])
                if node.index in shrinks:
                    gradient = shrinks[node.index][1]
                    self._gradients[node.index] = self._view(node, gradient, self._columns[node.index])
            elif not node.depends and node.value is None:
                self._others[node.index] = values[node.index]
            for operand in refs((node.args, node.kwargs)):
                if self.program.last_use.get(operand) == node.index and self.graph.nodes[operand].depends:
                    values.pop(operand, None)
        output: Tensor = values[self.graph.output]
        return output

    def _view(self, node: Node, value: Tensor, columns: frozenset[int]) -> View:
        layout = Layout.of(node, columns)
        cells = math.prod(layout.sizes)
        fills: dict[float, int] = {}
        for reader, _ in self.graph.readers[node.index]:
            fills.setdefault(self.graph.nodes[reader].fill, cells + len(fills))
        parts = [layout.as_rows(value).reshape(cells, -1)]
        for fill in fills:
            exists = math.isfinite(fill) or value.is_floating_point()
            parts.append(torch.full_like(parts[0][:1], fill if exists else torch.iinfo(value.dtype).min))
        if node.index == self.graph.input.index:
            parts.append(layout.as_rows(self.baseline).reshape(cells, -1))
        return View(layout, torch.cat(parts), fills, cells + len(fills))

    # -- changes ---------------------------------------------------------------------------------------

    def compute(self, changes: IntArray, limit: int | None = None) -> Iterator[Computed]:
        """Outputs group by group; see `krypton_engine.executors.base.Session.compute`."""
        batch = self.batch if limit is None else min(limit, self.batch)
        tail = self.tail_batch if limit is None else batch
        dropped = np.zeros(len(changes))
        for members, values in self._grouped(changes, batch, tail, dropped):
            yield Computed(members, values, dropped[members] if self._thresholds else None)

    def trimmed(self, epsilon: float, head: Head) -> ReferenceSession:
        """A session that drops small changes; see `krypton_engine.executors.base.Session`.

        Where operators are fused, the native executor drops at fewer values than this one.
        """
        effects = first_order(self.graph, self._inputs, self.program.shrinkable, head, self.free)
        if not effects:
            return self
        made = self._again({node: (epsilon * rms, gradient) for node, (rms, gradient) in effects.items()})
        made.costs = self.costs
        return made

    def _grouped(
        self, boxes: IntArray, batch: int, tail_batch: int, dropped: Floats
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """Outputs group by group; what follows the frontier waits for ``tail_batch`` positions.

        The effect of what is dropped of every position's boxes is added to ``dropped``.
        """
        grouping = self._grouping(boxes, batch)
        waiting: list[tuple[IntArray, dict[int, Tensor]]] = []
        for i, members in enumerate(grouping.members):
            waiting.append((members, self._frontiers(grouping.group(members), dropped)))
            following = grouping.members[i + 1 : i + 2]
            count = sum(len(m) for m, _ in waiting)
            if following and count + len(following[0]) <= tail_batch:
                continue
            joined = {
                index: torch.cat([values[index] for _, values in waiting]) if len(waiting) > 1 else value
                for index, value in waiting[0][1].items()
            }
            all_members = np.concatenate([m for m, _ in waiting])
            waiting.clear()
            yield from self._through_tail(all_members, joined, tail_batch)

    def _grouping(self, boxes: IntArray, batch: int) -> Grouping:
        """Which positions run together."""
        return Grouping(self.graph, boxes, batch)

    def _through_tail(
        self, members: IntArray, values: Mapping[int, Tensor], tail_batch: int
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """Outputs from the frontier values of ``members``."""
        if not self.program.tail.nodes:
            yield members, values[self.graph.output]
            return
        for start in range(0, len(members), tail_batch):
            some = {index: value[start : start + tail_batch] for index, value in values.items()}
            mine = members[start : start + tail_batch]
            yield mine, self.program.tail.run(some, len(mine), self._constant, self._clocked)

    @property
    def _clocked(self) -> Costs | None:
        """Where the times of steps go; nowhere on a GPU, which no step waits for."""
        return self.costs if self.device.type == "cpu" else None

    # -- from the input to the frontier ----------------------------------------------------------------

    def _frontiers(self, group: Group, dropped: Floats) -> dict[int, Tensor]:
        """Frontier values, whole, for the positions of one group."""
        patches: dict[int, _Patch] = {}
        costs = self._clocked
        for node in self.graph.nodes:
            if node.local and (node.operands or node is self.graph.input):
                began = 0.0 if costs is None else time.perf_counter()
                patch = patches[node.index] = self._patch(node, group, patches)
                if node.index in self._thresholds and patch.value is not None:
                    dropped[group.members] += self._cut(node, patch, patch.value)
                if costs is not None:
                    # Of the input nothing is computed.
                    cells = len(group.members) * math.prod(patch.extents.values()) if node.operands else 0
                    costs.add(node.index, time.perf_counter() - began, cells)
        tables = {view.table.untyped_storage().data_ptr() for view in self._views.values()}
        out = {}
        for index in self.program.frontiers:
            node = self.graph.nodes[index]
            if node is self.graph.input:
                out[index] = occlude(self.x, self.baseline, group.boxes)
                continue
            whole = self._whole_patch(node, patches)
            if whole is not None:
                # It waits for other groups, which write over what lies in a table.
                out[index] = whole.clone() if whole.untyped_storage().data_ptr() in tables else whole
                continue
            coordinates = {axis: np.arange(node.size(axis))[None] for axis in node.axes}
            copies = len(group.members)
            out[index] = self._compose(self._views[index], patches.get(index), coordinates, copies, 0.0)
        return out

    def _whole_patch(self, node: Node, patches: dict[int, _Patch]) -> Tensor | None:
        """The changed box of ``node`` if it is all of it, so that nothing need be composed."""
        patch = patches.get(node.index)
        if patch is None or patch.cut or patch.value is None or patch.value.shape[1:] != node.shape[1:]:
            return None
        return patch.value

    def _patch(self, node: Node, group: Group, patches: dict[int, _Patch]) -> _Patch:
        lo, hi, extents = group.lo[node.index], group.hi[node.index], group.extents[node.index]
        copies = len(group.members)
        if node.index == self.graph.input.index:
            # The occluded cells of all members are those of one baseline.
            none = np.zeros(copies, dtype=np.int64)
            sizes = {axis: node.size(axis) for axis in node.axes}
            return _Patch(lo, hi, dict.fromkeys(sizes, none), sizes, none, None, loaded=True)
        if self._thresholds:
            lo, hi, extents = self._left(node, patches)
        start = {axis: slide_inwards(lo[axis], extents[axis], node.size(axis)) for axis in node.axes}
        here = np.arange(copies)
        if not all(extents.values()):
            return _Patch(start, start, start, extents, here, None)
        box = node.box
        into, loaded = self._room(node, group, start, extents)
        if isinstance(box, Reindex):
            value = self._reindex(node, box, start, extents, patches, copies)
        else:
            whole = None
            # The box may be less than what all of the operand gives: a kernel of one cell on padding.
            if node.index in self.program.evenly_padded and all(
                extents[axis] == node.size(axis) for axis in node.axes
            ):
                whole = self._whole_patch(self.graph.nodes[node.operands[0]], patches)
            if whole is not None:
                value = self._run(node, {node.operands[0]: whole}, start, extents, copies, padded=False)
            else:
                fetched = {
                    operand: self._fetch(node, i, start, extents, patches, copies)
                    for i, operand in enumerate(node.operands)
                }
                value = self._run(node, fetched, start, extents, copies, into=into)
        for operand in node.operands:
            patch = patches.get(operand)
            if patch is None or self.program.last_use[operand] != node.index:
                continue
            if patch.loaded or operand not in self.program.frontiers:
                patch.value = None
        made = _Patch(lo, hi, start, extents, here, value, loaded)
        made.cut = self._cuts and not made.changes_all()
        return made

    def _room(
        self, node: Node, group: Group, start: Mapping[int, IntArray], extents: Mapping[int, int]
    ) -> tuple[Tensor | None, bool]:
        """Where an operator that can writes its boxes, and whether that is its own view's table.

        What a concatenation alone reads lies in the concatenation's table, if both have the same boxes.
        """
        if node.index not in self.program.into_view:
            return None, False
        copies = len(group.members)
        part = self.program.parts.get(node.index)
        if part is not None and not self._thresholds and group.extents[part.whole] == extents:
            whole = self.graph.nodes[part.whole]
            theirs = group.lo[whole.index]
            if all(
                np.array_equal(first, slide_inwards(theirs[axis], extents[axis], whole.size(axis)))
                for axis, first in start.items()
            ):
                room = self._place(self._views[whole.index], extents, copies)
                return room.narrow(part.dim, part.first, node.shape[part.dim]), False
        return self._place(self._views[node.index], extents, copies), True

    def _left(
        self, node: Node, patches: dict[int, _Patch]
    ) -> tuple[dict[int, IntArray], dict[int, IntArray], dict[int, int]]:
        """What changes of ``node`` after its operands' boxes were cut, and the extents to share."""
        lo, hi = {}, {}
        for axis in node.axes:
            changed = {
                i: (patches[i].lo[axis], patches[i].hi[axis])
                for i in node.operands
                if i in patches and axis in patches[i].lo
            }
            lo[axis], hi[axis] = reached(node, axis, changed)
        return lo, hi, {axis: max(int((hi[axis] - lo[axis]).max()), 0) for axis in node.axes}

    def _cut(self, node: Node, patch: _Patch, value: Tensor) -> Floats:
        """Cut the boxes of a patch down to what changes by the threshold; the effect of the rest."""
        view, copies = self._views[node.index], len(patch.place)
        cells = {
            axis: patch.start[axis][:, None] + np.arange(patch.extents[axis]) for axis in view.layout.axes
        }
        box = (copies, *(patch.extents[axis] for axis in view.layout.axes))

        def flat(boxes: Tensor) -> Tensor:
            return view.layout.as_rows(boxes).reshape(*box, -1)

        def inside(lo: Mapping[int, IntArray], hi: Mapping[int, IntArray]) -> npt.NDArray[np.bool_]:
            found = np.ones(box, dtype=bool)
            for k, axis in enumerate(view.layout.axes):
                along = (cells[axis] >= lo[axis][:, None]) & (cells[axis] < hi[axis][:, None])
                found &= along.reshape(copies, *(n if j == k else 1 for j, n in enumerate(box[1:])))
            return found

        change = flat(value - self._compose(view, None, cells, copies, 0.0))
        before = inside(patch.lo, patch.hi)
        # Not smaller: NaN stays too.
        stays = before & (~(change.abs() < self._thresholds[node.index])).any(-1).cpu().numpy()
        patch.lo, patch.hi = dict(patch.lo), dict(patch.hi)
        for k, axis in enumerate(view.layout.axes):
            some = np.asarray(stays.any(tuple(j for j in range(1, len(box)) if j != k + 1)))
            first = some.argmax(1)
            last = np.where(some.any(1), box[k + 1] - some[:, ::-1].argmax(1), first)
            patch.lo[axis], patch.hi[axis] = patch.start[axis] + first, patch.start[axis] + last
        patch.cut = not patch.changes_all()
        dropped = before & ~inside(patch.lo, patch.hi)
        if not dropped.any():
            return np.zeros(copies)
        gradient = flat(self._compose(self._gradients[node.index], None, cells, copies, 0.0))
        effects = (change.double() * gradient.double()).sum(-1).cpu().numpy()
        total: Floats = np.where(dropped, effects, 0).reshape(copies, -1).sum(1)
        return total

    def _fetch(
        self,
        node: Node,
        i: int,
        start: dict[int, IntArray],
        extents: dict[int, int],
        patches: dict[int, _Patch],
        copies: int,
    ) -> Tensor:
        """What a box of ``node`` reads of its i-th operand, composed from changed cells, view and padding."""
        source = self.graph.nodes[node.operands[i]]
        patch = patches.get(source.index)
        if patch is not None and patch.value is not None and node.same_cells(i):
            # Cell by cell, what was cut off stays cut off; beside other operands it must be the view's.
            usable = not patch.cut or len(node.operands) == 1
            if usable and patch.lies_at(start, extents):
                return patch.value
        if not source.axes:
            return self._constant(source.index, copies)
        coordinates = {}
        for axis in source.axes:
            step = node.maps[i].get(axis)
            if axis in node.whole or axis not in start:
                coordinates[axis] = np.arange(source.size(axis))[None]
            elif isinstance(step, WindowMap):
                read = np.arange(step.extent_read(extents[axis]))
                coordinates[axis] = step.first_read(start[axis])[:, None] + read
            else:
                cells = start[axis][:, None] + np.arange(extents[axis])
                coordinates[axis] = cells if step is None else step.sources(cells)
        if source.index not in self._views:
            self._views[source.index] = self._view(source, self._constant(source.index, 1), frozenset())
        return self._compose(self._views[source.index], patch, coordinates, copies, node.fill)

    def _constant(self, index: int, copies: int) -> Tensor:
        value = self.program.constants.get(index)
        if value is None:
            value = self._others[index]
        return repeated(self.graph.nodes[index], value, copies)

    def _compose(
        self,
        view: View,
        patch: _Patch | None,
        coordinates: Mapping[int, IntArray],
        copies: int,
        fill: float,
    ) -> Tensor:
        """Cells of a value at ``coordinates`` (per axis ``(copies, cells)``), in its own dimensions."""
        if patch is not None and not patch.loaded and patch.value is not None:
            self._load(view, patch)
        rank = len(view.layout.axes)
        from_view: Any = 0
        from_patch: Any = view.changed_at
        changed: Any = patch is not None and patch.loaded
        outside: Any = False
        if patch is not None and patch.loaded:
            sizes = [patch.extents[axis] for axis in view.layout.axes]
            place = patch.place.astype(np.int32).reshape(-1, *[1] * rank)
            from_patch = from_patch + place * math.prod(sizes)
        for k, axis in enumerate(view.layout.axes):
            cells = coordinates[axis].astype(np.int32)  # half the traffic of int64
            shape = [len(cells)] + [1] * rank
            shape[k + 1] = cells.shape[1]
            if cells.min() < 0 or cells.max() >= view.layout.sizes[k]:
                outside = outside | ((cells < 0) | (cells >= view.layout.sizes[k])).reshape(shape)
            from_view = from_view + (cells * view.layout.stride(k)).reshape(shape)
            if patch is not None and patch.loaded:
                lo, hi = (side[axis][:, None].astype(np.int32) for side in (patch.lo, patch.hi))
                inside = (cells >= lo) & (cells < hi)
                changed = changed & inside.reshape([len(inside), *shape[1:]])
                relative = (cells - patch.start[axis][:, None].astype(np.int32)) * math.prod(sizes[k + 1 :])
                from_patch = from_patch + relative.reshape([len(relative), *shape[1:]])
        index = from_view if changed is False else np.where(changed, from_patch, from_view)
        if outside is not False:
            index = np.where(outside, view.fills[fill], index)
        box = (copies, *(coordinates[axis].shape[1] for axis in view.layout.axes))
        index = np.broadcast_to(index, box).flatten()
        return view.layout.as_value(view.table.index_select(0, torch.from_numpy(index).to(self.device)), box)

    def _load(self, view: View, patch: _Patch) -> None:
        """Write a patch into its view's table."""
        assert patch.value is not None
        self._place(view, patch.extents, len(patch.value)).copy_(patch.value)
        patch.loaded = True

    def _place(self, view: View, sizes: Mapping[int, int], copies: int) -> Tensor:
        """Room for changed cells in a view's table, after the un-occluded ones; in the value's dimensions."""
        box = (copies, *(sizes[axis] for axis in view.layout.axes))
        end = view.changed_at + math.prod(box)
        if len(view.table) < end:
            grown = view.table.new_empty(end, view.table.shape[1])
            grown[: view.changed_at] = view.table[: view.changed_at]
            view.table = grown
        return view.layout.as_value(view.table[view.changed_at : end], box)

    # -- operators on boxes ----------------------------------------------------------------------------

    def _run(
        self,
        node: Node,
        fetched: dict[int, Tensor],
        start: dict[int, IntArray],
        extents: dict[int, int],
        copies: int,
        padded: bool = True,
        into: Tensor | None = None,
    ) -> Tensor:
        """``node`` on what was fetched.

        ``padded`` if that brings the padding along the axes with it; ``into`` is where an operator that can
        writes its result.
        """
        box = node.box
        if isinstance(box, (Convolution, Pool)):
            spatial = node.roles[2:]
            padding = [
                0 if padded and role is not None else p for role, p in zip(spatial, box.padding, strict=True)
            ]
        if isinstance(box, Convolution):
            x = fetched[node.operands[0]]
            bias = None if box.bias is None else self._constant(box.bias, 1)
            weight = self._constant(box.weight, 1)
            return CONVOLUTION[len(spatial)](x, weight, bias, box.stride, padding, box.dilation, box.groups)
        if isinstance(box, Pool):
            return self._pool(node, box, padding, fetched[node.operands[0]], start, extents)
        assert isinstance(box, Apply) and node.target is not None

        def value(index: int) -> Tensor:
            return fetched[index] if index in fetched else self._constant(index, copies)

        args = resolve(node.args, value, copies)
        if box.sized:
            sizes = [
                copies if role == BATCH else size if role is None else extents[role]
                for role, size in zip(node.roles, node.shape, strict=True)
            ]
            args = (args[0], sizes, *args[2:])
        kwargs = resolve(node.kwargs, value, copies)
        known, target = facts(node), node.target
        if into is not None and known.out is not None:
            return known.out(*args, **kwargs, out=into)
        if known.in_place is not None and node.index in self.program.in_place:
            target = known.in_place
        result: Tensor = target(*args, **kwargs)
        return result

    def _pool(
        self,
        node: Node,
        box: Pool,
        padding: list[int],
        x: Tensor,
        start: dict[int, IntArray],
        extents: dict[int, int],
    ) -> Tensor:
        spatial = node.roles[2:]
        rank = len(spatial)
        if box.maximum:
            # PyTorch refuses integers whose channels lie side by side, of more cells than their type counts.
            x = x if x.is_floating_point() else x.contiguous()
            return _MAX_POOL[rank](x, box.kernel, box.stride, padding, box.dilation, box.ceil_mode)
        divisor = math.prod(counts[0] for counts in box.divisors if len(set(counts)) == 1)
        if rank == 1:
            total = torch.avg_pool1d(x, box.kernel, box.stride, padding, box.ceil_mode) * (
                box.kernel[0] / divisor
            )
        else:
            pool = torch.nn.functional.avg_pool2d if rank == 2 else torch.nn.functional.avg_pool3d
            total = pool(x, box.kernel, box.stride, padding, box.ceil_mode, True, divisor)
        for dim, (role, counts) in enumerate(zip(spatial, box.divisors, strict=True)):
            if len(set(counts)) == 1:
                continue
            table = np.asarray(counts)
            sizes = table[None] if role is None else table[start[role][:, None] + np.arange(extents[role])]
            shape = [len(sizes), 1] + [1] * rank
            shape[2 + dim] = sizes.shape[1]
            total.div_(torch.from_numpy(sizes.reshape(shape)).to(total))
        return total

    def _reindex(
        self,
        node: Node,
        box: Reindex,
        start: dict[int, IntArray],
        extents: dict[int, int],
        patches: dict[int, _Patch],
        copies: int,
    ) -> Tensor:
        result = self._fetch(node, 0, start, extents, patches, copies)
        for i in range(1, len(node.operands)):
            part = self._fetch(node, i, start, extents, patches, copies)
            has_source = torch.ones((), dtype=torch.bool, device="cpu")
            for axis, step in node.maps[i].items():
                cells = step.sources(start[axis][:, None] + np.arange(extents[axis]))
                shape = [len(cells)] + [1] * (len(node.shape) - 1)
                shape[node.roles.index(axis)] = cells.shape[1]
                has_source = has_source & torch.from_numpy((cells >= 0).reshape(shape))
            result = torch.where(has_source.to(self.device), part, result)
        return result
