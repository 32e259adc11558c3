"""The program of the CUDA engine."""

from __future__ import annotations

from collections.abc import Hashable
from types import ModuleType

from krypton_engine.executors.base import Opening
from krypton_engine.executors.cuda.arena import drop
from krypton_engine.executors.cuda.prepared import Prepared
from krypton_engine.executors.cuda.session import CudaSession
from krypton_engine.executors.standby import last_resort
from krypton_engine.graph.ir import Graph, in_full
from krypton_engine.plan.plan import Plan


class CudaProgram(Prepared):
    """A prepared graph that opens sessions, of which the first of a window measures where boxes pay.

    Args:
        graph: The graph as it was captured.
        kernels: The module of ``csrc/cuda``.
    """

    def __init__(self, graph: Graph, kernels: ModuleType) -> None:
        super().__init__(graph, kernels)
        self._chosen: dict[Hashable, Prepared] = {}  # by kind of window

    def open(self, plan: Plan, opening: Opening) -> CudaSession:
        """A session that computes in full from where that measures faster on this device.

        The first one of a kind of window measures; see `CudaSession.measured_cut`.
        """
        kind, standby = plan.window.kind, last_resort(self.source, plan, opening)
        if kind not in self._chosen:
            trial = CudaSession(self, plan, opening, standby)
            cut = trial.measured_cut()
            if cut is None:
                self._chosen[kind] = self
                return trial
            del trial
            drop(self.owner)
            less = Prepared(in_full(self.source, cut), self.kernels)
            less.constants = self.constants
            less.executor = f"cuda; in full after {cut.op} ({cut.name}), which measures faster"
            self._chosen[kind] = less
        program = self._chosen[kind]
        mine = plan if program is self else Plan.of(program.source, plan.window)
        return CudaSession(program, mine, opening, standby)

    def describe(self, plan: Plan) -> str:
        """See `krypton_engine.executors.base.Program.describe`.

        Examples:
            >>> CudaProgram(graph, kernels=None).describe(plan)  # no session has measured anything yet
            'cuda'
        """
        return self._chosen.get(plan.window.kind, self).executor
