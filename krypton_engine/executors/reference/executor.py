"""The reference executor: runs every graph, anywhere that PyTorch does."""

from __future__ import annotations

import torch

from krypton_engine.executors.programs import kept
from krypton_engine.executors.reference.program import ReferenceProgram
from krypton_engine.graph.ir import Graph
from krypton_engine.plan.plan import Plan


class ReferenceExecutor:
    """See `krypton_engine.executors.base.Executor`.

    Examples:
        >>> cpu = torch.device("cpu")
        >>> EXECUTOR.about(), EXECUTOR.preference(cpu)
        ("PyTorch on changed boxes, on the model's own device", 0)
        >>> EXECUTOR.pays(graph, plan, cpu, memory_budget=0)
        >>> EXECUTOR.program(graph, plan, cpu) is EXECUTOR.program(graph, plan, cpu)  # made once
        True
    """

    name = "reference"

    def about(self) -> str:
        """See `krypton_engine.executors.base.Executor.about`."""
        return "PyTorch on changed boxes, on the model's own device"

    def preference(self, device: torch.device) -> int:
        """0, the lowest, for every device."""
        return 0

    def program(self, graph: Graph, plan: Plan, device: torch.device) -> ReferenceProgram:
        """The graph made ready, for every window."""
        return kept(graph, self.name, ReferenceProgram)

    def pays(self, graph: Graph, plan: Plan, device: torch.device, memory_budget: int) -> None:
        """Return always: no executor has a lower preference."""


EXECUTOR = ReferenceExecutor()
