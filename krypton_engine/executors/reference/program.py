"""The program of the reference executor."""

from __future__ import annotations

from krypton_engine.executors.base import Opening
from krypton_engine.executors.outside import site_gradients
from krypton_engine.executors.reference.prepared import Prepared
from krypton_engine.executors.reference.session import ReferenceSession
from krypton_engine.plan.plan import Plan


class ReferenceProgram(Prepared):
    """A prepared graph that opens sessions.

    Examples:
        >>> program = ReferenceProgram(graph)
        >>> session = program.open(plan, Opening((x,), torch.zeros(1), memory_budget=2**30))
        >>> program.describe(plan), torch.allclose(session.base, model(x), atol=1e-5)
        ('reference', True)
    """

    def describe(self, plan: Plan) -> str:
        """See `krypton_engine.executors.base.Program.describe`."""
        return "reference"

    def open(self, plan: Plan, opening: Opening) -> ReferenceSession:
        """See `krypton_engine.executors.base.Program.open`."""
        return ReferenceSession(self, plan, opening, gradients=site_gradients(self.graph, opening))
