"""The program of the reference executor."""

from __future__ import annotations

from torch import Tensor

from krypton_engine.executors.outside import site_gradients
from krypton_engine.executors.reference.prepared import Prepared
from krypton_engine.executors.reference.session import ReferenceSession
from krypton_engine.graph.gradients import Head
from krypton_engine.plan.plan import Plan


class ReferenceProgram(Prepared):
    """A prepared graph that opens sessions."""

    def describe(self, plan: Plan) -> str:
        """See `krypton_engine.executors.base.Program.describe`."""
        return "reference"

    def open(
        self,
        plan: Plan,
        inputs: tuple[Tensor, ...],
        baseline: Tensor,
        memory_budget: int,
        head: Head | None = None,
    ) -> ReferenceSession:
        """See `krypton_engine.executors.base.Program.open`."""
        gradients = site_gradients(self.graph, inputs, head, memory_budget)
        return ReferenceSession(self, plan, inputs, baseline, memory_budget, gradients=gradients)
