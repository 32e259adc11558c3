"""Executors: each makes a program of a graph and opens sessions that stream outputs for positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Protocol, get_args

if TYPE_CHECKING:
    from torch import Tensor

    from krypton_engine.windows import ChangedCells, IntArray, SlidingWindow

Executor = Literal["auto", "native", "reference"]
EXECUTORS: tuple[str, ...] = get_args(Executor)


class Session(Protocol):
    """A model on one input: outputs for any list of positions.

    Attributes:
        window: The sliding window whose positions it answers.
        changed: Which cells every window really changes.
        base: Output for the un-occluded input, ``(1, *output_shape)``.
    """

    window: SlidingWindow
    changed: ChangedCells
    base: Tensor

    def stream(self, positions: IntArray, limit: int | None = None) -> Iterator[tuple[IntArray, Tensor]]:
        """Positions and their outputs ``(positions, *output_shape)`` as they become known."""
