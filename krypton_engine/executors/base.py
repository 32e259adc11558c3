"""Executors: each makes a program of a graph and opens sessions, which compute outputs for changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

if TYPE_CHECKING:
    from torch import Tensor

    from krypton_engine.common.arrays import Floats, IntArray
    from krypton_engine.graph.gradients import Head
    from krypton_engine.perturbation.changed import ChangedCells
    from krypton_engine.perturbation.windows import SlidingWindow

Executor = Literal["auto", "native", "cuda", "reference"]
EXECUTORS: tuple[str, ...] = get_args(Executor)


@dataclass(frozen=True)
class Computed:
    """Outputs for some of the changes that a session was asked for.

    Attributes:
        which: Numbers of the changes, in the order of the request: ``(changes,)``, int64.
        outputs: The model's outputs for them: ``(changes, *output_shape)``.
        dropped: First-order effect, on the head, of all that trimming dropped on the way to each output:
            ``(changes,)``, float64. None where nothing was dropped, so that the outputs are exact.
    """

    which: IntArray
    outputs: Tensor
    dropped: Floats | None = None


class Session(Protocol):
    """A model on one input: outputs for any list of changes to it.

    Attributes:
        window: The sliding window whose positions the session answers.
        changed: The cells that every window really changes.
        base: Output for the un-occluded input, ``(1, *output_shape)``.
        at_once: How many changes a device computes in about the time of one.
    """

    window: SlidingWindow
    changed: ChangedCells
    base: Tensor
    at_once: int

    def compute(self, changes: IntArray, limit: int | None = None) -> Iterator[Computed]:
        """Outputs for every change, in any order, as they become known.

        A session neither merges equal changes nor looks for empty ones: whoever asks has done so; see
        `krypton_engine.perturbation.changed.distinct_work`.

        Args:
            changes: Boxes of input cells that take the baseline's value: ``(changes, axes, 2)``, half-open
                intervals of int64; at least one, all of them distinct, none of them empty.
            limit: Largest number of changes to compute together; None for the session's own.
        """

    def trimmed(self, epsilon: float, head: Head) -> Session:
        """A session on the same input that drops small changes, and says what each drop does to a scalar.

        From the box of every value, rows and columns at the rim are dropped in which no element changes by
        ``epsilon`` times the root mean square of the un-occluded value.

        Args:
            epsilon: Above 0.
            head: The scalar.

        Returns:
            This session itself where nothing can be dropped.

        Raises:
            InputError: The memory budget does not hold the gradients.
        """
