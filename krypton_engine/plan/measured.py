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


class Costs:
    """Takes what every step of a run costs, by number of the operator, from the sessions that compute it."""

    def __init__(self) -> None:
        self._found: dict[int, Cost] = {}

    def add(self, index: int, seconds: float, cells: int = 0) -> None:
        """Count more time, and more cells, for an operator."""
        self._found[index] = self._found.get(index, Cost(0.0)) + Cost(seconds, cells)

    def of_run(self, positions: int, seconds: float) -> Measured:
        """All of it, of a run that computed so many distinct positions and took so long."""
        return Measured(positions, seconds, dict(self._found))


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
