"""The loss of SSIM that measuring a position saves, there and around it. Pure."""

from __future__ import annotations

import numpy as np

from krypton_engine.common.arrays import Flags, Floats
from krypton_engine.perturbation.windows import SlidingWindow

_REACH = 2.0
"""Distance within which a measured position explains others, in distances to the nearest one before."""


def windows_apart(window: SlidingWindow, windows: int) -> list[int]:
    """The number of positions in so many windows, along every axis of the grid; at least one.

    Examples:
        >>> windows_apart(SlidingWindow((3, 32, 32), (3, 8, 8), (3, 2, 4)), 2)
        [8, 4]
    """
    return [
        max(1, round(windows * size / step))
        for axis, (size, step) in enumerate(zip(window.shape, window.strides, strict=True))
        if not window.spans(axis)
    ]


class Savings:
    """The savings by cell; a cell that is taken leaves less to save around it.

    The share of another cell's error that a measured cell explains falls off over the distance to the cells
    measured already: where those are dense, a cell explains little but itself. Where nothing is measured, a
    cell explains all errors within a window.

    Args:
        window: The sliding window of the map.
        costs: SSIM that the expected error of every cell costs, on the grid; 0 without an error.
        measured: Truth values on the grid, true for measured cells.

    Attributes:
        left: The savings now, on the grid.

    Examples:
        >>> window, measured = SlidingWindow((8,), (2,), (2,)), np.zeros(4, dtype=bool)
        >>> Savings(window, np.array([1.0, 2, 4, 8]), measured).left.tolist()  # all within a window
        [3.0, 7.0, 14.0, 12.0]
    """

    def __init__(self, window: SlidingWindow, costs: Floats, measured: Flags) -> None:
        from scipy.ndimage import distance_transform_edt

        self._reach = windows_apart(window, 1)
        offsets = np.meshgrid(*(np.arange(-n, n + 1) / n for n in self._reach), indexing="ij")
        self._away = np.asarray(np.sqrt(sum(offset**2 for offset in offsets)))
        alone = np.full(costs.shape, np.inf)
        if measured.any():
            alone = distance_transform_edt(~measured, sampling=[1 / n for n in self._reach])
        self._reached = np.where(costs > 0, _REACH * alone, np.finfo(np.float64).tiny)
        self._padded = np.pad(self._all(costs), [(n, n) for n in self._reach])
        self.left: Floats = self._padded[tuple(slice(n, -n) for n in self._reach)]

    def take(self, cell: int) -> None:
        """Count a cell as measured.

        Examples:
            >>> window, measured = SlidingWindow((8,), (2,), (2,)), np.array([True, False, False, False])
            >>> savings = Savings(window, np.array([0, 4.0, 0, 0]), measured)
            >>> savings.left.tolist()
            [0.0, 4.0, 0.0, 0.0]
            >>> savings.take(1)
            >>> savings.left.tolist()
            [0.0, 0.0, 0.0, 0.0]
        """
        corner = np.unravel_index(cell, self.left.shape)
        around = tuple(slice(c, c + 2 * n + 1) for c, n in zip(corner, self._reach, strict=True))
        self._padded[around] *= 1 - _explained(self._away, self._reached[corner])

    def _all(self, costs: Floats) -> Floats:
        """The loss of SSIM that measuring a cell would save, in the cell and around it."""
        around = np.pad(costs, [(n, n) for n in self._reach])
        savings = np.zeros(costs.shape)
        for away in np.unique(self._away[self._away < self._reached.max()]):
            there = np.zeros(costs.shape)
            for offset in np.argwhere(self._away == away):
                there += around[tuple(slice(o, o + n) for o, n in zip(offset, costs.shape, strict=True))]
            savings += _explained(away, self._reached) * there
        return np.where(costs > 0, savings, 0.0)


def _explained(away: Floats, reached: Floats) -> Floats:
    """Share of an error that a cell explains, by its distance and the distance that the cell reaches."""
    return np.clip(1 - away / reached, 0, None) ** 2
