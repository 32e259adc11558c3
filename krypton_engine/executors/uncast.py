"""Programs apart from autocast: what autocast casts is cast by operators of the graph already.

A graph that was captured under autocast says where values are cast, and where not, as in a part of the model
with autocast switched off. Autocast around its execution would cast a second time, and there as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.base import Computed, Opening, Program, Session, Walks
from krypton_engine.graph.gradients import Head
from krypton_engine.perturbation.windows import Contents
from krypton_engine.plan.measured import Costs
from krypton_engine.plan.plan import Plan

T = TypeVar("T")


def uncast(program: Program, device: torch.device) -> Program:
    """A program whose sessions switch autocast off while they work; the same one where no autocast is on.

    Args:
        program: Program of a graph that was captured under the autocast of now.
        device: Device of its inputs.

    Examples:
        >>> from krypton_engine.executors.reference.program import ReferenceProgram
        >>> program, opening = ReferenceProgram(graph), Opening((x,), torch.zeros(1), 2**30)
        >>> uncast(program, x.device) is program
        True
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     [each.open(plan, opening).base.dtype for each in (program, uncast(program, x.device))]
        [torch.bfloat16, torch.float32]
    """
    kinds = tuple(dict.fromkeys(kind for kind in ("cpu", device.type) if torch.is_autocast_enabled(kind)))
    return _Program(program, kinds) if kinds else program


def _apart(kinds: tuple[str, ...], work: Callable[[], T]) -> T:
    """The result of ``work`` without autocast on some kinds of devices."""
    with ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        return work()


@dataclass(frozen=True)
class _Program:
    """See `uncast`.

    Attributes:
        program: The program that does the work.
        kinds: Kinds of devices with autocast on.
    """

    program: Program
    kinds: tuple[str, ...]

    def describe(self, plan: Plan) -> str:
        return self.program.describe(plan)

    def open(self, plan: Plan, opening: Opening) -> Session:
        return _Session(_apart(self.kinds, lambda: self.program.open(plan, opening)), self.kinds)


class _Session:
    """See `krypton_engine.executors.base.Session`."""

    def __init__(self, session: Session, kinds: tuple[str, ...]) -> None:
        self._session = session
        self._kinds = kinds
        self.window, self.changed, self.base = session.window, session.changed, session.base
        self.at_once = session.at_once

    @property
    def executor(self) -> str:
        return self._session.executor

    @property
    def most_walks(self) -> int:
        return self._session.most_walks

    @property
    def costs(self) -> Costs | None:
        return self._session.costs

    @costs.setter
    def costs(self, costs: Costs | None) -> None:
        self._session.costs = costs

    def compute(
        self, changes: IntArray, limit: int | None = None, contents: Contents | None = None
    ) -> Iterator[Computed]:
        # While the caller looks at what was found, autocast is as the caller has it.
        parts = iter(self._session.compute(changes, limit, contents))
        while (found := _apart(self._kinds, lambda: next(parts, None))) is not None:
            yield found

    def walks(self, starts: Sequence[Tensor | None]) -> Walks:
        return _Walks(_apart(self._kinds, lambda: self._session.walks(starts)), self._kinds)

    def trimmed(self, epsilon: float, head: Head) -> Session:
        made = _apart(self._kinds, lambda: self._session.trimmed(epsilon, head))
        return self if made is self._session else _Session(made, self._kinds)


@dataclass(frozen=True)
class _Walks:
    """See `krypton_engine.executors.base.Walks`."""

    walks: Walks
    kinds: tuple[str, ...]

    def advance(self, which: IntArray, boxes: IntArray, contents: Contents) -> Tensor:
        return _apart(self.kinds, lambda: self.walks.advance(which, boxes, contents))

    def look(self, which: IntArray, boxes: IntArray, contents: Contents) -> Tensor:
        return _apart(self.kinds, lambda: self.walks.look(which, boxes, contents))

    def branch(self, source: int, into: int | None = None) -> int:
        return self.walks.branch(source, into)
