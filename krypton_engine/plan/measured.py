"""Times and cells of a run, step by step: what a plan sets beside its expectations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Time and cells of one step over a whole run.

    Attributes:
        seconds: Time, of all threads together.
        cells: Cells of the boxes that were computed, summed over positions; 0 for a full computation.
    """

    seconds: float
    cells: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.cells + other.cells)


class Costs:
    """The costs of a run by number of the operator, added up by the sessions that compute it.

    Examples:
        >>> costs = Costs()
        >>> costs.add(7, seconds=0.5, cells=100)
        >>> costs.add(7, seconds=0.25, cells=20)
        >>> costs.of_run(positions=2, seconds=1.0).costs[7]
        Cost(seconds=0.75, cells=120)
    """

    def __init__(self) -> None:
        self._found: dict[int, Cost] = {}

    def add(self, index: int, seconds: float, cells: int = 0) -> None:
        """Add the cost of one call of an operator.

        Args:
            index: Number of the operator in the graph.
            seconds: Time, of all threads together.
            cells: Cells of the boxes that were computed; 0 for a full computation.
        """
        self._found[index] = self._found.get(index, Cost(0.0)) + Cost(seconds, cells)

    def of_run(self, positions: int, seconds: float) -> Measured:
        """The costs so far as those of a finished run.

        Args:
            positions: Distinct positions that were computed.
            seconds: Time of the run.
        """
        return Measured(positions, seconds, dict(self._found))


@dataclass(frozen=True)
class Measured:
    """A timed run of a plan.

    Attributes:
        positions: Distinct positions that were computed.
        seconds: Time of the run, from the call to the last value.
        costs: Costs by number of the operator; operators that an executor fuses count for the first of them.
            Empty where the executor cannot time single steps.
    """

    positions: int
    seconds: float
    costs: Mapping[int, Cost]
