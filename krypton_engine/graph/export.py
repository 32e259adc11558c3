"""torch.export in a process with other threads: one export at a time, whole, and in silence.

An export is neither thread-safe nor interruptible: while one runs, the model's parameters are fakes, and
an exception out of a signal handler leaves PyTorch's modes on for good. Other threads print, log and warn
as ever meanwhile.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Any, TypeAlias, TypeVar, cast
from unittest import mock

import torch
from torch import Tensor, nn
from torch.export import Dim

from krypton_engine.common.calling import Forward
from krypton_engine.graph.spellings import spelled
from krypton_engine.graph.tracing import one_by_one, readable, recorded, restored

_ADVISING_LOGGER = "torch.fx.experimental.symbolic_shapes"
"""The logger that gives advice on a forward function which cannot be exported."""

_LONGEST_WAIT = 10.0
"""Seconds for which an export waits for evaluations of other threads to end."""

_STANDSTILL = 15.0
"""Seconds without a step after which an export seems to wait for another thread: above `_LONGEST_WAIT`."""

_PAUSE = 0.002
"""Seconds between two looks at what another thread is at."""

_SIGNALS = [*sorted(signal.valid_signals() - {signal.SIGINT}), signal.SIGINT]
"""All signals; Ctrl-C, which comes most often, is the last to be put back."""

_STANDS = "the export of another thread does not end; that thread may be waiting for this one"

T = TypeVar("T")


Handler: TypeAlias = Callable[[int, FrameType | None], object]
"""A handler of signals, as the interpreter calls it."""


class ExportError(Exception):
    """The reason why there is no exported program."""


@contextmanager
def whole() -> Iterator[None]:
    """Signals wait until the block is over, since their handlers may raise (Ctrl-C, an alarm).

    Examples:
        >>> before = signal.signal(signal.SIGTERM, lambda number, frame: print("handled"))
        >>> with whole():
        ...     signal.raise_signal(signal.SIGTERM)
        ...     print("the block is over")
        the block is over
        handled
        >>> _ = signal.signal(signal.SIGTERM, before)
    """
    if threading.current_thread() is not threading.main_thread():  # where no handler runs
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Handler] = {
        number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))
    }
    waiting = dict(handlers)
    try:
        for number in handlers:
            signal.signal(number, lambda number, frame: came.append((number, frame)))
        yield
    finally:
        try:
            _put_back(waiting)
        finally:  # where a handler that was back already raised
            _put_back(waiting)
            _deliver(came, handlers)


def _put_back(handlers: dict[int, Handler]) -> None:
    """Install handlers, and forget each that is."""
    for number, handler in list(handlers.items()):
        signal.signal(number, handler)
        del handlers[number]


def _deliver(came: list[tuple[int, FrameType | None]], handlers: Mapping[int, Handler]) -> None:
    """Call the handlers of signals that came, each of them, whichever raise."""
    if came:
        number, frame = came.pop(0)
        try:
            handlers[number](number, frame)
        finally:
            _deliver(came, handlers)


class _Gate:
    """Many evaluations of forward functions at a time, or one export, which goes first where it waits.

    States that an interrupt must not leave behind are held by locks and ``with``, after which no handler of a
    signal runs before the next statement.

    Attributes:
        exporting: The thread that exports, or is to as soon as evaluations have ended.
    """

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        """Begin anew in a child process, where the threads that were at the gate are not."""
        self.exporting: int | None = None
        self._turn = threading.RLock()
        self._evaluating: dict[int, threading.Lock] = {}  # by thread; held while that evaluates

    def evaluated(self, call: Callable[[], T]) -> T:
        """The result of ``call`` while no other thread exports, or all that do wait for this one."""
        me = threading.get_ident()
        mine = self._evaluating.setdefault(me, threading.Lock())
        if mine.locked() or self.exporting == me:  # within another evaluation, or an export
            return call()
        goes_on = True
        while True:
            with mine:
                # An export looks at this lock after it has put down its name: one of both sees the other.
                if self.exporting is None or not goes_on:
                    return call()
            goes_on = self.ended()

    def ended(self) -> bool:
        """Wait for the export of another thread to end; False if it stands still."""
        was, since = None, time.monotonic()
        while (thread := self.exporting) not in (None, threading.get_ident()):
            frame = sys._current_frames().get(thread)
            step = frame and (thread, frame.f_code, frame.f_lasti)
            del frame
            if step != was:
                was, since = step, time.monotonic()
            elif time.monotonic() - since > _STANDSTILL:
                return False
            time.sleep(_PAUSE)
        return True

    @contextmanager
    def export(self) -> Iterator[None]:
        """Keep exports and evaluations of other threads out; to be entered where signals wait.

        Raises:
            ExportError: The export of another thread stands still.
        """
        me = threading.get_ident()
        while not self._turn.acquire(timeout=_PAUSE):
            if not self.ended():
                raise ExportError(_STANDS)
        outer, self.exporting = self.exporting, me
        try:
            until = time.monotonic() + _LONGEST_WAIT
            # An evaluation that does not end may be waiting for this very thread.
            while time.monotonic() < until and any(
                lock.locked() for thread, lock in list(self._evaluating.items()) if thread != me
            ):
                time.sleep(_PAUSE)
            yield
        finally:
            self.exporting = outer
            self._turn.release()


_gate = _Gate()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_gate.forked)


def evaluated(call: Callable[[], T]) -> T:
    """The result of ``call``, which evaluates a user's forward function or looks at its state.

    No other thread exports meanwhile, since an export makes fakes of the model's parameters. The exception is
    an export that stands still, which may wait for this very thread.

    Examples:
        >>> evaluated(lambda: model(x)).shape
        torch.Size([1, 5])
    """
    return _gate.evaluated(call)


def settled() -> None:
    """Wait for an export of another thread to end.

    Raises:
        ExportError: That export stands still, maybe since it waits for this thread.

    Examples:
        >>> settled()  # at once, where no thread exports
    """
    if not _gate.ended():
        raise ExportError(_STANDS)


def exporting() -> bool:
    """Whether this thread is in an export, which nothing may cut short.

    Examples:
        >>> exporting()
        False
    """
    return _gate.exporting == threading.get_ident()


class _Here(logging.Filter):
    """A filter on what this thread warns of, or logs, until the export is over."""

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
    here, logger = _Here(), logging.getLogger(_ADVISING_LOGGER)
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


def _traceless() -> AbstractContextManager[object]:
    """An export notes no stack beside each operator: nobody reads it, and it takes a tenth of the time."""
    return mock.patch("torch.fx.config.do_not_emit_stack_traces", True, create=True)


class _Root(nn.Module):
    """Any callable as a module, so that it can be exported."""

    def __init__(self, function: Forward, modules: list[nn.Module]) -> None:
        super().__init__()
        self.function = function
        self.found = nn.ModuleList(m for m in modules if m is not function)

    def forward(self, *tensors: Tensor) -> Tensor | float:
        try:
            return self.function(*tensors)
        except Exception as error:  # of a RuntimeError torch.export prints how far it came
            raise ExportError(f"{type(error).__name__}: {error}") from error


def export(
    function: Forward,
    modules: list[nn.Module],
    tensors: tuple[Tensor, ...],
    batched: tuple[bool, ...],
    *,
    apart: bool = False,
) -> torch.export.ExportedProgram:
    """``function(*tensors)`` as functional operators, for any number of rows.

    Args:
        function: Function of tensors alone.
        modules: Modules that the function calls.
        tensors: Its arguments.
        batched: For each argument, whether its first dimension is the rows.
        apart: Whether each row is to be the only one of a call, whatever the function does to several.

    Raises:
        ExportError: With the reason.

    Examples:
        >>> program = export(lambda x: x.relu(), [], (x,), (True,))
        >>> [node.name for node in program.graph.nodes if node.op == "call_function"]
        ['relu']
    """
    # Batch 2, not 1: export would take 1 for a constant and specialise on it.
    example = tuple(
        torch.cat([t[:1], t[:1]]) if is_batched else t for t, is_batched in zip(tensors, batched, strict=True)
    )
    dynamic = tuple({0: Dim.DYNAMIC} if is_batched else None for is_batched in batched)

    def exported(call: Callable[..., Any], found: list[nn.Module]) -> torch.export.ExportedProgram:
        return spelled(
            torch.export.export(
                _Root(call, found), example, dynamic_shapes={"tensors": dynamic}, strict=False
            )
        )

    with torch.no_grad(), whole(), _gate.export(), _quiet(), _traceless(), readable():
        try:
            if apart:
                with restored(modules):
                    return exported(one_by_one(function, tensors, batched), [])
            return exported(function, modules)
        except ExportError as error:
            first = error
        except Exception as error:  # torch.export fails in as many ways as there are models
            first = ExportError(f"{type(error).__name__}: {error}")
        if not apart:  # where that fails too, the reason is the one that torch.export gives
            with suppress(Exception), restored(modules):
                return exported(recorded(function, tensors, batched), [])
        raise first
