"""Positions whose boxes are cut at every dominator, and grouped anew by the size of the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.executors.base import Computed
from krypton_engine.executors.basis import Basis
from krypton_engine.executors.cuda.boxes import Waiting
from krypton_engine.executors.cuda.engine import AXES
from krypton_engine.executors.cuda.prepared import Prepared
from krypton_engine.executors.cuda.walk import Walk
from krypton_engine.executors.grouping import Grouping
from krypton_engine.executors.layout import on_device
from krypton_engine.graph.ir import Graph
from krypton_engine.graph.regions import slide_inwards
from krypton_engine.perturbation.windows import Contents, contents_of
from krypton_engine.plan.plan import Plan


class Shrinking:
    """One example computed through a graph in segments, after each of which boxes are cut.

    Nothing waits for the GPU but the end of a segment.

    Args:
        program: The graph made ready, and its segments.
        plan: Graph x window.
        basis: The example.
        walk: Walk that computes boxes of the example.
        thresholds: Thresholds by node at the end of a segment; elements that change by less are cut off.
        free: Bytes for boxes that wait and boxes that are being computed.
    """

    def __init__(
        self,
        program: Prepared,
        plan: Plan,
        basis: Basis,
        walk: Walk,
        thresholds: Mapping[int, float],
        free: int,
    ) -> None:
        self._program = program
        self._plan = plan
        self._basis = basis
        self._walk = walk
        self._thresholds = thresholds
        self._free = free
        self._device = basis.x.device

    def computed(
        self, boxes: IntArray, contents: Contents | None, batch: int, tail_batch: int
    ) -> Iterator[Computed]:
        """Outputs for changes; see `krypton_engine.executors.base.Session.compute`."""
        dropped = np.zeros(len(boxes))
        # A quarter for what waits at two dominators, a quarter for the boxes on the way between them.
        at_once = max(1, self._free // 4 // max(2 * self._largest_cut(), 1))
        for members in np.array_split(np.arange(len(boxes)), math.ceil(len(boxes) / at_once)):
            mine = contents_of(contents, members)
            for which, outputs in self._shrinking(
                members, boxes[members], mine, max(1, batch // 2), tail_batch, dropped
            ):
                yield Computed(which, outputs, dropped[which])

    def _shrinking(
        self,
        members: IntArray,
        boxes: IntArray,
        contents: Contents | None,
        batch: int,
        tail_batch: int,
        dropped: Floats,
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """Outputs of positions that are cut at every dominator, and grouped anew by the size of the rest.

        All of them go to a dominator before one goes on.
        """
        waiting: Waiting | None = None
        for segment in self._program.segments:
            following = self._to_dominator(segment, boxes, contents, waiting, batch)
            left, effect = self._regrouped(following)
            dropped[members] += effect
            stay = np.asarray((left[..., 1] > left[..., 0]).all(1))
            gone = members[~stay]
            if len(gone):
                yield gone, self._basis.output.expand(len(gone), *self._basis.output.shape[1:])
            if not stay.any():
                return
            members, boxes, waiting = members[stay], left[stay], following.kept(np.flatnonzero(stay))
        grouping = Grouping(self._program.rest, boxes, batch)
        for part in grouping.members:
            with torch.cuda.device_of(self._basis.x):
                at = self._walk.started(grouping.group(part), waiting, part, contents_of(contents, part))
                self._walk.compute(self._program.rest.nodes, at)
                values = self._walk.exits(at)
            yield from self._program.tail.outputs(members[part], values, tail_batch, self._basis.constant)

    def _to_dominator(
        self,
        segment: Graph,
        boxes: IntArray,
        contents: Contents | None,
        waiting: Waiting | None,
        batch: int,
    ) -> Waiting:
        """The changed cells of all positions at the end of a segment."""
        end = segment.nodes[segment.output]
        view, count = self._basis.views[end.index], len(boxes)
        grouping = Grouping(segment, boxes, batch)
        extents = grouping.largest(end)
        sizes = [extents[axis] for axis in view.layout.axes]
        found = Waiting(
            end,
            extents,
            {axis: np.zeros(count, dtype=np.int64) for axis in view.layout.axes},
            np.arange(count),
            view.table.new_empty(count, *sizes, view.table.shape[1]),
            torch.zeros(count, AXES, 2, dtype=torch.int32, device=self._device),
            torch.zeros(count, dtype=torch.float64, device=self._device),
        )
        with torch.cuda.device_of(self._basis.x):
            for part in grouping.members:
                group = grouping.group(part)
                at = self._walk.started(group, waiting, part, contents_of(contents, part))
                self._walk.compute(segment.nodes, at)
                changed = at.changed.get(end.index)
                if changed is None:
                    continue  # nothing arrives: the boxes stay empty
                where = on_device(part, self._device)
                found.left[where], found.effect[where] = self._walk.cut(end, at, self._thresholds[end.index])
                assert changed.rows is not None
                cells = [changed.extents[axis] for axis in view.layout.axes]
                inside: tuple[Tensor | slice, ...] = (where, *map(slice, cells))
                found.rows[inside] = changed.rows.reshape(len(part), *cells, -1)
                for axis, first in found.start.items():
                    lo = group.lo[end.index][axis]
                    first[part] = slide_inwards(lo, changed.extents[axis], end.size(axis))
        return found

    def _regrouped(self, following: Waiting) -> tuple[IntArray, Floats]:
        """The rests of the boxes, ``(positions, axes of the input, 2)``, and the effects of what was cut off.

        Here alone a session waits for the GPU, once it has measured which ways are faster.
        """
        node, layout = following.node, self._basis.views[following.node.index].layout
        left, effect = following.left.cpu().numpy(), following.effect.cpu().numpy()
        boxes = np.tile(np.array([0, 1]), (len(left), len(self._plan.window.input_shape), 1))
        for axis in node.axes:
            boxes[:, axis] = (0, node.size(axis))
        for k, axis in enumerate(layout.axes):
            boxes[:, axis] = left[:, k]
        return boxes, effect

    def _largest_cut(self) -> int:
        """Bytes of the boxes of one position at the dominator where they are largest."""
        sizes = []
        for segment in self._program.segments:
            end = segment.nodes[segment.output]
            extents = [int(extent.max()) for extent in self._plan.extents(end).values()]
            cells = math.prod(end.size(axis) for axis in end.axes)
            sizes.append(end.bytes() // cells * math.prod(extents))
        return max(sizes, default=0)
