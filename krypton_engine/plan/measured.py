"""What a run took, step by step: the measured half of a plan that explains itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a step took over a whole run.

    Attributes:
        seconds: Time, of all threads together.
        cells: Cells of the boxes that were computed, summed over positions; 0 for a full computation.
    """

    seconds: float
    cells: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.cells + other.cells)


@dataclass(frozen=True)
class Measured:
    """A timed run of a plan.

    Attributes:
        positions: Distinct positions that were computed.
        seconds: Time of the run, from the call to the last value.
        costs: By number of the operator. An operator that an executor fuses into the next is counted there;
            empty where the executor tells no step from another.
    """

    positions: int
    seconds: float
    costs: Mapping[int, Cost]
