"""A session on a GPU."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.base import Computed, Opening, Walks
from krypton_engine.executors.basis import Basis
from krypton_engine.executors.cuda.arena import give_back, lease
from krypton_engine.executors.cuda.cuts import Race
from krypton_engine.executors.cuda.prepared import Prepared
from krypton_engine.executors.cuda.shrinking import Shrinking
from krypton_engine.executors.cuda.walk import Walk
from krypton_engine.executors.grouping import Group, Grouping, WindowBins, WindowGrouping
from krypton_engine.executors.memory import Batches
from krypton_engine.executors.standby import Standby
from krypton_engine.executors.tail import joined
from krypton_engine.graph.gradients import Head, first_order
from krypton_engine.graph.ir import Node
from krypton_engine.perturbation.changed import distinct_work
from krypton_engine.perturbation.windows import Contents, SlidingWindow, contents_of
from krypton_engine.plan.measured import Costs
from krypton_engine.plan.plan import Plan

_UNFOLDED_BYTES = 128 * 2**20
"""Bytes of the rows that a convolution multiplies at a time."""

_MOST_HALVINGS = 5
"""Halvings of the largest group, unless a caller wants fewer positions at a time: groups of few sizes
can be recorded once and for all."""

_BATCHES_WORTH_BINS = 4
"""Positions, in largest batches, from which on they are sorted into bins by the sizes of their boxes."""


class CudaSession:
    """A program on one example: its views, and outputs for any list of changes.

    Nothing waits for the GPU but the reader of the outputs, a convolution that has not been measured yet, and
    a session that shrinks. A session is used by the thread and on the stream that it was opened on.

    Args:
        program: The graph made ready.
        plan, opening: As in `krypton_engine.executors.base.Program.open`.
        standby: The reference executor's session on the same example, for walks.
        shrinks: For nodes of ``program.shrinkable``, the threshold below which changes are dropped at the rim
            of their boxes, and the gradient of a scalar by the node's value.

    Attributes:
        basis: The example.
        arena: Memory of all that recorded groups read.

    Raises:
        InputError: The budget does not hold the views and one position.
    """

    largest_batch = 256
    largest_tensor = 2**30
    at_once = 128

    def __init__(
        self,
        program: Prepared,
        plan: Plan,
        opening: Opening,
        standby: Standby,
        shrinks: Mapping[int, tuple[float, Tensor]] = MappingProxyType({}),
    ) -> None:
        graph, x = program.graph, opening.inputs[program.graph.occluded]
        stream = torch.cuda.current_stream(x.device).cuda_stream if x.device.type == "cuda" else 0
        # What was made in inference mode cannot be written outside of it.
        inference = torch.is_inference_mode_enabled()
        key = plan.window.kind, bool(shrinks), threading.get_ident(), stream, inference
        self.arena = lease(program.owner, key, x.device)
        weakref.finalize(self, give_back, self.arena)
        self.program = program
        self.executor = program.executor
        self.window = plan.window
        self.costs: Costs | None = None
        gradients = {index: gradient for index, (_, gradient) in shrinks.items()}
        with torch.cuda.device_of(x):
            batches = Batches.of(
                plan, opening.memory_budget, gradients.values(), self.largest_batch, self.largest_tensor,
                program.tail.batch,
            )  # fmt: skip
            unfolds = min(_UNFOLDED_BYTES, batches.free // 8)
            # Twice the exits: where recorded groups leave them, and a group's own.
            each = plan.bytes_per_position + 2 * sum(node.bytes() for node in program.exits)
            boxes = max(1, min(batches.boxes, (batches.free - unfolds) // 2 // each))
            self._batches = replace(batches, boxes=boxes)
            self._sizes = [boxes >> k for k in range(boxes.bit_length())]
            self.basis = Basis(graph, program.constants, plan.window, opening, gradients, self.arena.table)
            self._walk = Walk(program, self.basis, self.arena, unfolds, self.largest_batch)
        self.changed, self.base = self.basis.changed, self.basis.output
        self._shrinking: Shrinking | None = None
        if shrinks:
            thresholds = {index: threshold for index, (threshold, _) in shrinks.items()}
            self._shrinking = Shrinking(program, plan, self.basis, self._walk, thresholds, batches.free)
        self._inputs = opening.inputs
        # The views of a second session come on top of these.
        beside = replace(opening, memory_budget=opening.memory_budget - plan.bytes_views)
        self._again = partial(CudaSession, program, plan, beside, standby)
        self._standby = standby

    @property
    def most_walks(self) -> int:
        """Walks that the memory holds, of the executor that has them."""
        return self._standby.session.most_walks

    def walks(self, starts: Sequence[Tensor | None]) -> Walks:
        """See `krypton_engine.executors.base.Session.walks`; views that move on are the other executor's."""
        return self._standby.session.walks(starts)

    def compute(
        self, changes: IntArray, limit: int | None = None, contents: Contents | None = None
    ) -> Iterator[Computed]:
        """Outputs group by group; the GPU is given the next group before the last one is waited for."""
        batch = self._batches.boxes if limit is None else min(limit, self._batches.boxes)
        at_once = self._batches.tail if limit is None else batch
        waiting: Computed | None = None
        for found in self._computed(changes, contents, batch, at_once):
            if waiting is not None:
                yield waiting
            waiting = found
        if waiting is not None:
            yield waiting

    def trimmed(self, epsilon: float, head: Head) -> CudaSession:
        """A session that drops small changes; see `krypton_engine.executors.base.Session`."""
        graph, sites = self.program.graph, self.program.shrinkable
        effects = first_order(graph, self._inputs, sites, head, self._batches.free)
        if not effects:
            return self
        return self._again({node: (epsilon * rms, gradient) for node, (rms, gradient) in effects.items()})

    def measured_cut(self) -> Node | None:
        """The dominator from which on full computation is faster than boxes; None if there is none.

        The group of the middle position, by the size of groups, runs on boxes, and the copies of as many in
        full; each pass is timed at every dominator.
        """
        work = distinct_work(self.changed, np.arange(len(self.window)))
        if not len(work.boxes):
            return None
        grouping = self._grouping(work.boxes, self._batches.boxes)
        members = sorted(grouping.members, key=len)
        positions = np.cumsum([len(each) for each in members])
        group = grouping.group(members[int(np.searchsorted(positions, positions[-1] / 2))])
        return Race(self.program, self.basis, self._walk, self._batches, group).cut()

    def _computed(
        self, changes: IntArray, contents: Contents | None, batch: int, at_once: int
    ) -> Iterator[Computed]:
        if self._shrinking is not None:
            yield from self._shrinking.computed(changes, contents, batch, at_once)
            return
        grouping, tail = self._grouping(changes, batch), self.program.tail

        def frontiers(members: IntArray) -> dict[int, Tensor]:
            return self._frontiers(grouping.group(members), contents_of(contents, members))

        for members, values in joined(grouping.members, frontiers, at_once):
            for which, outputs in tail.outputs(members, values, at_once, self.basis.constant):
                yield Computed(which, outputs)

    def _grouping(self, boxes: IntArray, batch: int) -> Grouping:
        graph, bins = self.program.graph, self.program.bins
        window = self.window.plain
        # A box that is cut in the middle need not lie in that of the whole window.
        if graph.clips or not isinstance(window, SlidingWindow):
            return Grouping(graph, boxes, batch)
        # To tell apart the phases of a window among few positions would make small groups.
        many = len(boxes) >= _BATCHES_WORTH_BINS * self.largest_batch
        positions = self.largest_batch if many else len(window)
        key = window, positions
        if key not in bins:
            bins[key] = WindowBins(graph, window, positions)
        few = min(batch, self._batches.boxes >> _MOST_HALVINGS)
        fit = [size for size in self._sizes if size <= batch]
        sizes = [size for size in fit if size >= few] or fit[:1]
        return WindowGrouping(graph, boxes, sizes, bins[key])

    def _frontiers(self, group: Group, contents: Contents | None) -> dict[int, Tensor]:
        """Frontier values, or their averages, for the positions of one group."""
        nodes = self.program.graph.nodes
        with torch.cuda.device_of(self.basis.x):
            if contents is not None or not isinstance(self.window.plain, SlidingWindow):
                # Sizes and contents are this image's own, so that nothing recorded would serve the next.
                at = self._walk.started(group, contents=contents)
                self._walk.compute(nodes, at)
                return self._walk.exits(at)
            extents, count = group.extents, len(group.members)
            # Copies of the last one fill it up.
            size = min(size for size in self._sizes if size >= count)
            key = (size, *(tuple(each.values()) for each in extents.values()))
            coordinates = np.pad(self._walk.coordinates(group), ((0, 0), (0, size - count)), "edge")

            def compute(table: Tensor) -> dict[int, Tensor]:
                at = self._walk.at(table, extents)
                self._walk.compute(nodes, at)
                return self._walk.exits(at)

            found = self.arena.run(key, coordinates, compute)
            return {index: value[:count] for index, value in found.items()}
