"""Sessions of another executor that are opened only when they are needed."""

from __future__ import annotations

from collections.abc import Callable

from krypton_engine.executors import registry
from krypton_engine.executors.base import Opening, Session
from krypton_engine.graph.ir import Graph
from krypton_engine.plan.plan import Plan


class Standby:
    """Another executor's session on the same example, opened when it is needed, once for all that share it.

    Args:
        open_session: Opens it.

    Examples:
        >>> from krypton_engine.executors.reference.program import ReferenceProgram
        >>> opening = Opening((x,), torch.zeros(1), memory_budget=2**30)
        >>> standby = Standby(lambda: ReferenceProgram(graph).open(plan, opening))
        >>> standby.opened, standby.session.executor, standby.opened
        (False, 'reference', True)
    """

    def __init__(self, open_session: Callable[[], Session]) -> None:
        self._open = open_session
        self._session: Session | None = None

    @property
    def opened(self) -> bool:
        """Whether the other session has been opened."""
        return self._session is not None

    @property
    def session(self) -> Session:
        """The session."""
        self._session = self._session or self._open()
        return self._session


def last_resort(graph: Graph, plan: Plan, opening: Opening) -> Standby:
    """The executor that runs every graph, standing by on an example.

    Examples:
        >>> last_resort(graph, plan, Opening((x,), torch.zeros(1), memory_budget=2**30)).session.executor
        'reference'
    """
    device = opening.inputs[graph.occluded].device
    return Standby(lambda: registry.preferred(device)[-1].program(graph, plan, device).open(plan, opening))
