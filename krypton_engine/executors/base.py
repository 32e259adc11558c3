"""Executors: each makes a program of a graph and opens sessions that stream outputs for positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Protocol, get_args

if TYPE_CHECKING:
    from torch import Tensor

    from krypton_engine.common.arrays import Floats, IntArray
    from krypton_engine.graph.gradients import Head
    from krypton_engine.perturbation.changed import ChangedCells
    from krypton_engine.perturbation.windows import SlidingWindow

Executor = Literal["auto", "native", "cuda", "reference"]
EXECUTORS: tuple[str, ...] = get_args(Executor)


class Session(Protocol):
    """A model on one input: outputs for any list of positions.

    Attributes:
        window: The sliding window whose positions it answers.
        changed: Which cells every window really changes.
        base: Output for the un-occluded input, ``(1, *output_shape)``.
        dropped: By position: the first-order effect on the head of all that trimming dropped on the way to
            its output; None for a session that drops nothing.
        at_once: How many positions a device computes in about the time of one.
    """

    window: SlidingWindow
    changed: ChangedCells
    base: Tensor
    dropped: Floats | None
    at_once: int

    def stream(self, positions: IntArray, limit: int | None = None) -> Iterator[tuple[IntArray, Tensor]]:
        """Positions and their outputs ``(positions, *output_shape)`` as they become known."""

    def trimmed(self, epsilon: float, head: Head) -> Session:
        """A session on the same that drops small changes, and tells what that does to a scalar.

        From the box of every value, rows and columns at the rim are dropped in which no element changes by
        ``epsilon`` times the root mean square of the un-occluded value.

        Args:
            epsilon: Above 0.
            head: The scalar.

        Returns:
            This session itself where nothing can be dropped.

        Raises:
            InputError: The memory budget does not hold what that takes.
        """
