"""torch.export for a process with other things to do: one export at a time, whole, and in silence.

An export is neither thread-safe nor interruptible: while one runs, the model's parameters are fakes, and
an exception out of a signal handler leaves PyTorch's modes on for good. What other threads print, log and
warn of meanwhile is none of its business.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim

_TALKATIVE = "torch.fx.experimental.symbolic_shapes"
"""The logger that gives advice on a forward function which cannot be exported."""

_PATIENCE = 10.0
"""Seconds for which an export waits for evaluations of other threads to end."""


class ExportError(Exception):
    """Why there is no exported program."""


@contextmanager
def whole() -> Iterator[None]:
    """Signals wait until the block is over, since their handlers may raise (Ctrl-C, an alarm)."""
    if threading.current_thread() is not threading.main_thread():  # where no handler runs
        yield
        return
    came: list[tuple[int, Any]] = []
    handlers = {
        number: handler for number in signal.valid_signals() if callable(handler := signal.getsignal(number))
    }
    try:
        for number in handlers:
            signal.signal(number, lambda number, frame: came.append((number, frame)))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for came_as, frame in came:
            handlers[signal.Signals(came_as)](came_as, frame)


class _Gate:
    """Many evaluations of forward functions at a time, or one export, which goes first where it waits."""

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        """Begin anew in a child process, where the threads that were at the gate are not."""
        self._condition = threading.Condition()
        self._evaluating: Counter[int] = Counter()
        self.exporting: int | None = None
        self._waiting = 0

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Keep exports of other threads out."""
        me, entered = threading.get_ident(), False
        try:
            with whole(), self._condition:
                nested = me in self._evaluating or self.exporting == me
                self._condition.wait_for(lambda: nested or not (self._waiting or self.exporting))
                self._evaluating[me] += 1
                entered = True
            yield
        finally:
            with whole(), self._condition:
                self._evaluating[me] -= entered
                self._evaluating += Counter()  # without zeros
                self._condition.notify_all()

    @contextmanager
    def export(self) -> Iterator[None]:
        """Keep exports and evaluations of other threads out; to be entered where signals wait."""
        me = threading.get_ident()

        def others() -> bool:
            return bool(self._evaluating.keys() - {me})

        with self._condition:
            self._waiting += 1
            # An evaluation that does not end may be waiting for this very thread.
            self._condition.wait_for(lambda: self.exporting in (None, me) and not others(), _PATIENCE)
            self._condition.wait_for(lambda: self.exporting in (None, me))
            self._waiting -= 1
            self.exporting = me
        try:
            yield
        finally:
            with self._condition:
                self.exporting = None
                self._condition.notify_all()


_gate = _Gate()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_gate.forked)

evaluation = _gate.evaluation
"""Context in which a user's forward function is evaluated: no other thread exports meanwhile."""


def exporting() -> bool:
    """Whether this thread is in an export, which nothing may cut short."""
    return _gate.exporting == threading.get_ident()


class _Here(logging.Filter):
    """What this thread warns of, or logs, until the export is over."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def match(self, _: str) -> bool:
        """Whether a filter of ``warnings`` applies."""
        return threading.get_ident() == self._thread

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a logger passes a record on."""
        return record.thread != self._thread


@contextmanager
def _quiet() -> Iterator[None]:
    """An export warns and logs nothing; other threads do as ever."""
    here, logger = _Here(), logging.getLogger(_TALKATIVE)
    # The list takes any object with ``match`` where filterwarnings() puts regular expressions.
    silence, filters = ("ignore", here, Warning, None, 0), cast("list[Any]", warnings.filters)
    filters.insert(0, silence)
    logger.addFilter(here)
    try:
        yield
    finally:
        logger.removeFilter(here)
        for each in (filters, cast("list[Any]", warnings.filters)):  # catch_warnings() elsewhere changes it
            if silence in each:
                each.remove(silence)


class _Root(nn.Module):
    """Makes a module of any callable, so that it can be exported."""

    def __init__(self, function: Callable[..., Any], modules: list[nn.Module]) -> None:
        super().__init__()
        self.function = function
        self.found = nn.ModuleList(m for m in modules if m is not function)

    def forward(self, *tensors: Tensor) -> Any:
        try:
            return self.function(*tensors)
        except Exception as error:  # of a RuntimeError torch.export prints how far it came
            raise ExportError(f"{type(error).__name__}: {error}") from error


def export(
    function: Callable[..., Any],
    modules: list[nn.Module],
    tensors: tuple[Tensor, ...],
    batched: tuple[bool, ...],
) -> torch.export.ExportedProgram:
    """``function(*tensors)`` as functional operators, for any number of rows.

    Args:
        function: Of tensors alone.
        modules: Those that it calls.
        tensors: Its arguments.
        batched: For each of them, whether its first dimension is the rows.

    Raises:
        ExportError: With the reason.
    """
    # Batch 2, not 1: export would take 1 for a constant and specialise on it.
    example = tuple(
        torch.cat([t[:1], t[:1]]) if is_batched else t for t, is_batched in zip(tensors, batched, strict=True)
    )
    dynamic = tuple({0: Dim.DYNAMIC} if is_batched else None for is_batched in batched)
    with torch.no_grad(), whole(), _gate.export(), _quiet():
        try:
            program = torch.export.export(
                _Root(function, modules), example, dynamic_shapes={"tensors": dynamic}, strict=False
            )
            return program.run_decompositions({})
        except ExportError:
            raise
        except Exception as error:  # torch.export fails in as many ways as there are models
            raise ExportError(f"{type(error).__name__}: {error}") from error
