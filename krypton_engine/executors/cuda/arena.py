"""Memory of sessions on a GPU, and the work that was recorded to read it."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.common.precision import precisions
from krypton_engine.executors.layout import on_device

_MOST_GRAPHS = 128
"""Recorded groups that an arena keeps: those of about 20 bins of a window's positions. Further ones
are not recorded: to make room for them would cost more than they save."""

_MOST_ARENAS = 4
"""Arenas that are kept between sessions, of all programs together: their memory serves nothing else."""


class Arena:
    """Views at addresses that stay, and the work that was recorded to read them.

    An arena belongs to one thread and one stream, so that later work on the stream may write over its values.

    Args:
        owner: Program whose sessions the arena serves; an equal one is another.
        key: Kind of session.
        device: Device that the memory is on.
    """

    def __init__(self, owner: object, key: Hashable, device: torch.device) -> None:
        self.owner = owner
        self.key = key
        self.device = device
        self._tables: dict[Hashable, Tensor] = {}
        self._constants: dict[Hashable, Tensor] = {}
        self._forget()

    def _forget(self) -> None:
        """Forget all recordings; a pool of memory ends with the last graph in it."""
        self._records: dict[Hashable, bool] = {}  # by what has been met: whether to record it
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor, dict[int, Tensor]]] = {}
        self._exits: dict[int, Tensor] = {}
        self._settings: tuple[object, ...] | None = None
        self._pool: Any = None
        self._aside: Any = None

    def table(self, key: Hashable, rows: Tensor) -> Tensor:
        """Rows copied to where the rows of ``key`` lie, so that recorded work reads them.

        Examples:
            >>> arena = Arena("a program", "a window", torch.device("cpu"))
            >>> first = arena.table("view", torch.zeros(2, 3))
            >>> arena.table("view", torch.ones(2, 3)) is first, first.sum()
            (True, tensor(6.))
        """
        mine = self._tables.get(key)
        if mine is None or (mine.shape, mine.dtype) != (rows.shape, rows.dtype):
            self._tables[key] = mine = rows
            self._forget()
        else:
            mine.copy_(rows)
        return mine

    def constant(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """A tensor made once and shared by all sessions.

        Examples:
            >>> arena = Arena("a program", "a window", torch.device("cpu"))
            >>> first = arena.constant("ones", lambda: torch.ones(2))
            >>> arena.constant("ones", lambda: torch.ones(2)) is first
            True
        """
        if key not in self._constants:
            self._constants[key] = make()
        return self._constants[key]

    def run(
        self,
        key: Hashable,
        coordinates: npt.NDArray[np.int32],
        compute: Callable[[Tensor], dict[int, Tensor]],
    ) -> dict[int, Tensor]:
        """The values that ``compute`` makes of coordinates; recorded when a ``key`` comes a second time.

        Args:
            key: Equal for calls that do the same.
            coordinates: Numbers that change from call to call, ``(rows, copies)``.
            compute: Works on the current stream, without waiting for it.

        Examples:
            >>> arena = Arena("a program", "a window", torch.device("cpu"))
            >>> arena.run("twice", np.array([[3, 5]], dtype=np.int32), lambda table: {7: 2 * table})
            {7: tensor([[ 6, 10]], dtype=torch.int32)}
        """
        table = on_device(coordinates, self.device)
        if self.device.type != "cuda":
            return compute(table)
        if self._settings != (now := settings()):
            self._forget()
            self._settings = now
        if key not in self._records:
            found = compute(table)
            for index, value in found.items():
                self._exit(index, value)
            self._records[key] = True  # all memory and constants that it needs are there
            return found
        if key not in self._recorded and self._records[key]:
            full = len(self._recorded) == _MOST_GRAPHS
            self._records[key] = not full and self._record(key, table, compute)
        if key not in self._recorded:
            return compute(table)
        graph, mine, out = self._recorded[key]
        mine.copy_(table)
        graph.replay()
        return {index: value.clone() for index, value in out.items()}

    def _exit(self, index: int, value: Tensor) -> Tensor:
        """The tensor in which all recorded groups leave a value."""
        mine = self._exits.get(index)
        if mine is None or len(mine) < len(value) or mine.dtype != value.dtype:
            self._exits[index] = mine = torch.empty_like(value)
        return mine[: len(value)]

    def _record(self, key: Hashable, table: Tensor, compute: Callable[[Tensor], dict[int, Tensor]]) -> bool:
        """Whether what ``compute`` does could be recorded."""
        if self._pool is None:
            # Memory is shared between graphs that were recorded on one stream.
            self._pool, self._aside = torch.cuda.graph_pool_handle(), torch.cuda.Stream(self.device)
        mine, graph, here = table.clone(), torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        self._aside.wait_stream(here)
        try:
            with _RECORDING, torch.cuda.stream(self._aside):
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    found = compute(mine)
                    out = {index: self._exit(index, value).copy_(value) for index, value in found.items()}
                except RuntimeError:
                    with contextlib.suppress(RuntimeError):
                        graph.capture_end()
                    raise
                graph.capture_end()
        except RuntimeError:  # somebody waited for the device meanwhile, or memory is short
            self._pool = None
            return False
        here.wait_stream(self._aside)
        self._recorded[key] = graph, mine, out
        return True


_FREE: deque[Arena] = deque(maxlen=_MOST_ARENAS)
"""Arenas that wait for a session; the one that has waited longest gives way."""


def lease(owner: object, key: Hashable, device: torch.device) -> Arena:
    """Memory for a session: an arena that was given back, if one fits, else a new one.

    Examples:
        >>> program = object()
        >>> arena = lease(program, "a window", torch.device("cpu"))
        >>> give_back(arena)
        >>> lease(program, "a window", torch.device("cpu")) is arena
        True
    """
    found, others = None, []
    with contextlib.suppress(IndexError):
        while found is None:  # other threads do the same, so that only single steps are safe
            arena = _FREE.popleft()
            if arena.owner is owner and (arena.key, arena.device) == (key, device):
                found = arena
            else:
                others.append(arena)
    _FREE.extendleft(reversed(others))
    return found or Arena(owner, key, device)


def give_back(arena: Arena) -> None:
    """Keep an arena for another session.

    Examples:
        >>> program = object()
        >>> arena = lease(program, "a window", torch.device("cpu"))
        >>> give_back(arena)
        >>> [lease(program, key, torch.device("cpu")) is arena for key in ("another", "a window")]
        [False, True]
    """
    _FREE.append(arena)


def drop(owner: object) -> None:
    """Forget the arenas that wait for sessions of ``owner``.

    Examples:
        >>> program = object()
        >>> arena = lease(program, "a window", torch.device("cpu"))
        >>> give_back(arena)
        >>> drop(program)
        >>> lease(program, "a window", torch.device("cpu")) is arena
        False
    """
    for _ in range(len(_FREE)):
        with contextlib.suppress(IndexError):
            arena = _FREE.popleft()
            if arena.owner is not owner:
                _FREE.append(arena)


_RECORDING = threading.Lock()
"""PyTorch records one graph at a time."""


def settings() -> tuple[object, ...]:
    """PyTorch's global settings that change arithmetic: a recorded graph keeps those of its recording.

    Examples:
        >>> settings()[1]  # deterministic algorithms alone?
        False
    """
    products = torch.backends.cuda.matmul
    return (
        precisions(),
        torch.are_deterministic_algorithms_enabled(),
        products.allow_fp16_reduced_precision_reduction,
        products.allow_bf16_reduced_precision_reduction,
    )
