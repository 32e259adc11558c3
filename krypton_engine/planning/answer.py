"""Plans that can run: a program for a window, and the sessions that answer a question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from krypton_engine.executors.base import Opening, Program, Session
from krypton_engine.graph.gradients import Head
from krypton_engine.graph.ir import Graph
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.plan.plan import Plan


@dataclass
class Answer:
    """Sessions for one occluded input: one for every example, or one for all of them together.

    Attributes:
        rows: The examples that have a session of their own; ``[None]`` if all share one.
        open: Opens the session of a row; raises `Disagreement` if it contradicts the user's own forward
            function. Views live as long as a session, so open one after the other.
        plan: Plan of a session, with the executor that answered; None without a graph.
        recall: Raises `OutdatedError` if values that a builder resumed contradict the user's own forward
            function of today.
        confirm: Raises `Disagreement` if a session's answers for a row contradict the user's own forward
            function where differences matter: at the largest drop that was recorded.
        cheap: Opens a session on a row that answers to the first order only, in much less time, given the
            scalar that first-order effects are on; None where there is none.
    """

    rows: list[int | None]
    open: Callable[[int | None], Session]
    plan: Callable[[Session], Plan | None]
    recall: Callable[[Session, MapBuilder], None]
    confirm: Callable[[int | None, Session, MapBuilder], None] = lambda *_: None
    cheap: Callable[[int | None, Head], Session | None] = lambda *_: None


@dataclass(frozen=True)
class Ready:
    """An executor's program for a window.

    Attributes:
        expected: Plan of incremental work.
        captured: The graph as it was captured.
        graph: The graph that is run: the captured one, or its full inference where incremental work does not
            pay.
        physical: Plan of the graph that is run.
        program: Program that runs it.
        why: Reason why no other executor runs it; empty for the first choice.

    Examples:
        >>> from krypton_engine.planning.planner import Preparer
        >>> ready = Preparer("reference", None).plan(graph, plan.window, torch.device("cpu"))
        >>> ready.plan.executor, ready.plan.steps == plan.steps
        ('reference (asked for)', True)
        >>> session = ready.open(Opening((x,), torch.zeros(1), memory_budget=2**30))
        >>> session.base.shape, ready.ran(session) == ready.plan
        (torch.Size([1, 5]), True)
    """

    expected: Plan
    captured: Graph
    graph: Graph
    physical: Plan
    program: Program
    why: str

    @property
    def plan(self) -> Plan:
        """The expected cost of incremental work, and its executor as known before a session is open."""
        return self._run_by(self.program.describe(self.physical))

    def ran(self, session: Session) -> Plan:
        """The plan with what an open session has learnt of its executor."""
        return self._run_by(session.executor)

    def _run_by(self, executor: str) -> Plan:
        return replace(self.expected, executor=f"{executor} ({self.why})" if self.why else executor)

    def open(self, opening: Opening) -> Session:
        """A session on one example; see `krypton_engine.executors.base.Program.open`."""
        return self.program.open(self.physical, opening)
