"""A session of the C++ engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import numpy as np
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.base import Computed, Opening, Session, Walks
from krypton_engine.executors.native import engine
from krypton_engine.executors.native.prepared import Prepared
from krypton_engine.executors.native.walks import NativeWalks
from krypton_engine.executors.standby import Standby
from krypton_engine.executors.tail import unchanging
from krypton_engine.graph.gradients import Head, first_order
from krypton_engine.perturbation.changed import changed_by
from krypton_engine.perturbation.windows import Contents, contents_of
from krypton_engine.plan.measured import Costs
from krypton_engine.plan.plan import Plan


class NativeSession:
    """A native program on one example: its views, and outputs for any list of positions.

    Args:
        program: The graph made ready.
        plan, opening: As in `krypton_engine.executors.base.Program.open`.
        standby: The reference executor's session on the same example. It takes over for good where the engine
            computes a number that is not finite: sums of changes and Winograd's tiles carry NaN and infinity
            further than PyTorch does.
        shrinks: Threshold and gradient by node. Rows and columns at the rim of the node's boxes are dropped
            where no element changes by the threshold; 0 drops nothing. The gradient of a scalar by the
            node's value, of the same shape, gives the effect of that on the scalar; None ignores it.
        gradients: Gradients of a scalar by the value of every site (see
            `krypton_engine.graph.ir.Graph.sites`), for the effects of global values outside boxes.

    Attributes:
        window: The positions that the session answers.
        changed: The cells that every position really changes.
        base: Output for the un-occluded input, ``(1, *output_shape)``.

    Raises:
        InputError: The budget does not hold the views and one position.
        KeyError: ``shrinks`` names a node that is not ``program.shrinkable``.

    Examples:
        >>> from krypton_engine.executors.native.program import NativeProgram
        >>> session = NativeProgram(graph).open(plan, Opening((x,), torch.zeros(1), memory_budget=2**30))
        >>> (exact,) = session.compute(plan.window.boxes(np.array([0, 7, 19])))
        >>> occluded = x.clone()
        >>> occluded[..., :8, :8] = 0.0
        >>> torch.allclose(exact.outputs[:1], model(occluded), atol=1e-5), exact.outputs.shape, exact.dropped
        (True, torch.Size([3, 5]), None)
        >>> trimmed = session.trimmed(0.5, head=lambda outputs: outputs[:, 0])
        >>> [found.dropped.shape for found in trimmed.compute(plan.window.boxes(np.array([0, 7, 19])))]
        [(3,)]
    """

    at_once = 1

    def __init__(
        self,
        program: Prepared,
        plan: Plan,
        opening: Opening,
        standby: Standby,
        shrinks: Mapping[int, tuple[float, Tensor | None]] = MappingProxyType({}),
        gradients: Mapping[int, Tensor] = MappingProxyType({}),
    ) -> None:
        x = opening.inputs[program.graph.occluded]
        baseline = opening.baseline.to(x).expand(x.shape)
        self.program = program
        self.window = plan.window
        self.changed = changed_by(self.window, x, baseline)
        # Integers are the engine's from where the model makes numbers of float32 of them.
        x, baseline = x.float(), baseline.float()
        self._constant = unchanging(program.graph, opening.inputs, program.constants)
        self._approximate = bool(shrinks) or bool(gradients)
        self.costs: Costs | None = None
        self._inputs = opening.inputs
        # The views of a second session come on top of these.
        beside = replace(opening, memory_budget=opening.memory_budget - program.program.view_bytes)
        self._again = partial(NativeSession, program, plan, beside, standby)
        self._free = beside.memory_budget - program.program.weight_bytes
        armed = [
            (program.shrinkable[node], threshold, None if g is None else program.as_image(node, g))
            for node, (threshold, g) in shrinks.items()
        ]
        sites = [(program.sites[node], program.as_image(node, g)) for node, g in gradients.items()]
        held = sum(g.nbytes for _, _, g in armed if g is not None) + sum(g.nbytes for _, g in sites)
        self.batch = program.largest_batch(plan, opening.memory_budget - held)
        self._standby = standby
        self._plan = plan
        self._x = x
        self._session: engine._native.Session | None = program.begin(
            plan, program.kept, x, baseline, armed, sites
        )
        base = program.outputs(1, self._session.base, self._constant)
        self.base = self._take_over().base if base is None else base

    @property
    def executor(self) -> str:
        """See `krypton_engine.executors.base.Session`."""
        words = self.program.describe(self._plan)
        return words + "; the reference executor where numbers are not finite" * self._standby.opened

    def _take_over(self) -> Session:
        """The reference executor's session, which answers from now on; the engine's views are freed."""
        self._session = None
        self._standby.session.costs = self.costs
        return self._standby.session

    def trimmed(self, epsilon: float, head: Head) -> NativeSession:
        """A session that drops small changes; see `krypton_engine.executors.base.Session`."""
        if self._session is None:
            return self
        cut, sites = self.program.shrinkable, self.program.sites
        effects = first_order(self.program.graph, self._inputs, {*cut, *sites}, head, self._free)
        if not effects:
            return self
        made = self._again(
            {node: (epsilon * rms, gradient) for node, (rms, gradient) in effects.items() if node in cut},
            {node: gradient for node, (_, gradient) in effects.items() if node in sites},
        )
        made.costs = self.costs
        return made

    @property
    def most_walks(self) -> int:
        """Walks that the memory holds beside this session; see `NativeWalks.most`."""
        return NativeWalks.most(self.program, self._free)

    def walks(self, starts: Sequence[Tensor | None]) -> Walks:
        """See `krypton_engine.executors.base.Session.walks`."""
        if self._session is None:
            return self._standby.session.walks(starts)
        inputs = [self._x if start is None else start.to(self._x) for start in starts]
        return NativeWalks(
            self.program, self._plan, inputs, self._constant, lambda now: self._take_over().walks(now)
        )

    def compute(
        self, changes: IntArray, limit: int | None = None, contents: Contents | None = None
    ) -> Iterator[Computed]:
        """Outputs batch by batch; see `krypton_engine.executors.base.Session.compute`."""
        count = self.batch if limit is None else min(limit, self.batch)
        for start in range(0, len(changes), count):
            boxes = self.program.as_boxes(changes[start : start + count])
            session, values, dropped = self._session, None, np.empty(len(boxes))
            if session is not None:
                session.timed = self.costs is not None
                cells = None
                if contents is not None:
                    cells = self.program.as_cells(contents(start + i) for i in range(len(boxes)))
                compute = partial(session.run, boxes, dropped, contents=cells)
                values = self.program.outputs(len(boxes), compute, self._constant, self.costs)
                if self.costs is not None:
                    self.program.charge(self.costs, session.times())
            if values is None:
                rest = contents_of(contents, np.arange(start, len(changes)))
                for found in self._take_over().compute(changes[start:], limit, rest):
                    yield replace(found, which=found.which + start)
                return
            yield Computed(
                np.arange(start, start + len(boxes)), values, dropped if self._approximate else None
            )
