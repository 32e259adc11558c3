"""The program of the C++ engine."""

from __future__ import annotations

from krypton_engine.executors.base import Opening
from krypton_engine.executors.native.prepared import Prepared
from krypton_engine.executors.native.session import NativeSession
from krypton_engine.executors.outside import site_gradients
from krypton_engine.executors.standby import last_resort
from krypton_engine.plan.plan import Plan

SPEED = 2.0
"""Speed of the engine over that of PyTorch on the same boxes, about (measured on VGG16 and ResNet18)."""


class NativeProgram(Prepared):
    """A prepared graph that opens sessions.

    Examples:
        >>> program = NativeProgram(graph)
        >>> session = program.open(plan, Opening((x,), torch.zeros(1), memory_budget=2**30))
        >>> program.pays(plan), torch.allclose(session.base, model(x), atol=1e-5)
        (True, True)
    """

    def open(self, plan: Plan, opening: Opening) -> NativeSession:
        """See `krypton_engine.executors.base.Program.open`; the executor that runs every graph stands by."""
        standby, gradients = last_resort(self.given, plan, opening), site_gradients(self.graph, opening)
        return NativeSession(self, plan, opening, standby, gradients=gradients)

    def pays(self, plan: Plan) -> bool:
        """Whether this is faster than the reference executor, which computes the rest in boxes too."""
        rest = {node.index for node in self.tail.nodes}
        here = sum(step.macs_incremental for step in plan.steps if step.index not in rest)
        there = [step for step in plan.steps if step.index in rest]
        return here / SPEED + sum(s.macs for s in there) < here + sum(s.macs_incremental for s in there)
