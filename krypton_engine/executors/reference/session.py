"""A session of the reference executor: PyTorch on the changed boxes of groups of positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import numpy as np
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.base import Computed, Opening
from krypton_engine.executors.basis import Basis
from krypton_engine.executors.grouping import Grouping
from krypton_engine.executors.memory import Batches, for_one_position
from krypton_engine.executors.reference.prepared import Prepared
from krypton_engine.executors.reference.walk import Walk
from krypton_engine.executors.reference.walks import ReferenceWalks
from krypton_engine.executors.tail import joined
from krypton_engine.graph.gradients import Head, first_order
from krypton_engine.perturbation.windows import Contents, contents_of
from krypton_engine.plan.measured import Costs
from krypton_engine.plan.plan import Plan


class ReferenceSession:
    """A program on one example: its views, and outputs for any list of changes.

    Args:
        program: The graph made ready.
        plan, opening: As in `krypton_engine.executors.base.Program.open`.
        shrinks: Thresholds by node. The node's boxes are cut down to the cells of which an element changes by
            the threshold at least. Axes that a window spans are left alone.
        gradients: Gradients of a scalar by the value of every node whose boxes are cut down, and of every
            site, for the effect of all other cells on the scalar.

    Raises:
        InputError: The budget does not hold the views and one position.

    Examples:
        >>> from krypton_engine.executors.reference.program import ReferenceProgram
        >>> program, opening = ReferenceProgram(graph), Opening((x,), torch.zeros(1), memory_budget=2**30)
        >>> session, changes = ReferenceSession(program, plan, opening), plan.window.boxes(np.array([0, 7]))
        >>> (exact,) = session.compute(changes)
        >>> occluded = x.clone()
        >>> occluded[..., :8, :8] = 0.0
        >>> torch.allclose(exact.outputs[:1], model(occluded), atol=1e-5), exact.dropped
        (True, None)
        >>> (trimmed,) = session.trimmed(0.5, head=lambda outputs: outputs[:, 0]).compute(changes)
        >>> trimmed.outputs.shape, trimmed.dropped.shape
        (torch.Size([2, 5]), (2,))
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
        program: Prepared,
        plan: Plan,
        opening: Opening,
        shrinks: Mapping[int, float] = MappingProxyType({}),
        gradients: Mapping[int, Tensor] = MappingProxyType({}),
    ) -> None:
        self.program = program
        self.window = plan.window
        self._batches = Batches.of(
            plan, opening.memory_budget, gradients.values(), self.largest_batch, self.largest_tensor,
            program.tail.batch,
        )  # fmt: skip
        self._basis = Basis(program.graph, program.constants, plan.window, opening, gradients)
        self.changed, self.base = self._basis.changed, self._basis.output
        self._thresholds = shrinks
        self.costs: Costs | None = None
        self._inputs = opening.inputs
        self._view_bytes, self._for_one = plan.bytes_views, for_one_position(plan)
        # The views of a second session come on top of these.
        beside = replace(opening, memory_budget=opening.memory_budget - plan.bytes_views)
        self._again = partial(ReferenceSession, program, plan, beside)

    def compute(
        self, changes: IntArray, limit: int | None = None, contents: Contents | None = None
    ) -> Iterator[Computed]:
        """Outputs group by group; the layers after the frontier wait for several groups.

        See `krypton_engine.executors.base.Session.compute`.
        """
        batch = self._batches.boxes if limit is None else min(limit, self._batches.boxes)
        at_once = self._batches.tail if limit is None else batch
        grouping, dropped = Grouping(self.program.graph, changes, batch), np.zeros(len(changes))
        tail, basis = self.program.tail, self._basis
        # No step waits for a GPU, so that a clock would tell nothing.
        costs = self.costs if basis.x.device.type == "cpu" else None

        def frontiers(members: IntArray) -> dict[int, Tensor]:
            mine = contents_of(contents, members)
            walk = Walk(self.program, basis, grouping.group(members), mine, self._thresholds, costs)
            found = walk.frontiers()
            dropped[members] = walk.dropped
            return found

        for members, values in joined(grouping.members, frontiers, at_once):
            for which, outputs in tail.outputs(members, values, at_once, basis.constant, costs):
                approximate = self._thresholds or self._basis.outside
                yield Computed(which, outputs, dropped[which] if approximate else None)

    @property
    def most_walks(self) -> int:
        """Walks whose views the memory holds beside what one position takes."""
        return int(max(0, self._batches.free - self._for_one) // max(self._view_bytes, 1))

    def walks(self, starts: Sequence[Tensor | None]) -> ReferenceWalks:
        """See `krypton_engine.executors.base.Session.walks`."""
        return ReferenceWalks(self.program, [self._example(start) for start in starts], self._batches.tail)

    def _example(self, start: Tensor | None) -> Basis:
        """An example of its own, of another input or of the session's."""
        if start is None:
            return self._basis.fork()
        graph, inputs = self.program.graph, list(self._inputs)
        inputs[graph.occluded] = start.to(inputs[graph.occluded])
        opening = Opening(tuple(inputs), self._basis.baseline, 0)
        return Basis(graph, self.program.constants, self.window, opening, {})

    def trimmed(self, epsilon: float, head: Head) -> ReferenceSession:
        """A session that drops small changes; see `krypton_engine.executors.base.Session`.

        Where operators are fused, the native executor drops at fewer values than this one.
        """
        graph, cut = self.program.graph, self.program.shrinkable
        effects = first_order(graph, self._inputs, {*cut, *graph.sites}, head, self._batches.free)
        if not effects:
            return self
        thresholds = {node: epsilon * rms for node, (rms, _) in effects.items() if node in cut}
        made = self._again(thresholds, {node: gradient for node, (_, gradient) in effects.items()})
        made.costs = self.costs
        return made
