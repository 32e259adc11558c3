"""The role of what is covered: a list of positions, each of which covers some cells of an input."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Protocol

from krypton_engine.common.arrays import IntArray


class Positions(Protocol):
    """Positions over an input, numbered from 0 on: those of a sliding window, or regions of any shape.

    Attributes:
        input_shape: Shape of one input without its batch dimension.
    """

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input without its batch dimension."""

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Shape of a map of one value for every position."""

    @property
    def kind(self) -> Hashable:
        """Key of all positions that one proof of a graph holds for."""

    def __len__(self) -> int: ...

    def boxes(self, positions: IntArray) -> IntArray:
        """Bounding boxes of the covered cells: ``(positions, axes, 2)``, half-open."""

    def spans(self, axis: int) -> bool:
        """Whether every position covers the whole of an axis."""

    def starts(self, axis: int) -> IntArray:
        """First cells of the distinct intervals that positions cover along an axis."""

    def stops(self, axis: int) -> IntArray:
        """The cell after the last one of each of these intervals."""

    def mean_cells(self, extents: Mapping[int, IntArray]) -> float:
        """Cells of a box, the mean over all positions, given its extent for every interval, by axis."""

    def describe(self) -> str:
        """The positions in words, for the first line of a plan."""
