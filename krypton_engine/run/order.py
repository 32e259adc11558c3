"""Orders of positions that are known beforehand, and the paper's drill-down."""

from __future__ import annotations

import math

import numpy as np

from krypton_engine.common.arrays import Flags, Floats, IntArray
from krypton_engine.perturbation.windows import SlidingWindow


def row_by_row(window: SlidingWindow, positions: IntArray | None = None) -> list[IntArray]:
    """All positions in one stage, in the order of the grid.

    Args:
        window: The sliding window.
        positions: The positions wanted; None for all.

    Examples:
        >>> window = SlidingWindow((6, 6), (2, 2), (2, 2))
        >>> [stage.tolist() for stage in row_by_row(window, np.array([7, 2]))]
        [[2, 7]]
    """
    return [np.arange(len(window), dtype=np.int64) if positions is None else np.sort(positions)]


def coarse_to_fine(window: SlidingWindow, positions: IntArray | None = None) -> list[IntArray]:
    """Every 8th position along each axis first, then every 4th, every 2nd, all; none twice.

    A grid that is small along every axis starts finer, so that the first stage is never a single point.

    Args:
        window: The sliding window.
        positions: The positions wanted; None for all.

    Examples:
        >>> window = SlidingWindow((5,), (1,), (1,))
        >>> [stage.tolist() for stage in coarse_to_fine(window)]
        [[0, 4], [2], [1, 3]]
    """
    (left,) = row_by_row(window, positions)
    longest = max(window.counts, default=1)
    step = min(8, 2 ** max(0, math.ceil(math.log2(longest)) - 1))
    stages = []
    while len(left):
        on_grid = np.ones(len(left), dtype=bool)
        for index in window.coordinates(left):
            on_grid &= index % step == 0
        if on_grid.any():
            stages.append(left[on_grid])
        left = left[~on_grid]
        step //= 2
    return stages


def every_nth(window: SlidingWindow, step: int) -> IntArray:
    """Every ``step``-th position along each axis of the grid.

    Examples:
        >>> every_nth(SlidingWindow((4, 4), (1, 1), (1, 1)), 2).tolist()
        [0, 2, 8, 10]
    """
    return np.flatnonzero(_every(window.grid_shape, step))


def drill_down(window: SlidingWindow, drops: Floats, *, s1: int, s2: int, r: float) -> IntArray:
    """Stage two of the paper's drill-down, for comparison: the strongest part of a coarse map in detail.

    Stage one measures every ``s1``-th position along each axis (`every_nth`); stage two every ``s2``-th
    within the share ``r`` of these coarse cells whose value moved furthest from the base. Against every
    position measured, that is ``s1**2 / (1 + r * s1**2)`` times faster with ``s2 = 1``; against every
    ``s2``-th, ``s1**2 / (s2**2 + r * s1**2)`` (paper, section 4.2).

    Args:
        window: The sliding window.
        drops: Distance of each value from the base, on the grid; read where stage one measured.
        s1: Step of stage one, in positions.
        s2: Step of stage two.
        r: Share of the coarse cells to look at in detail, 0 to 1.

    Examples:
        >>> window = SlidingWindow((6,), (1,), (1,))
        >>> drill_down(window, np.array([0.1, 0, 0, 0.9, 0, 0]), s1=3, s2=1, r=0.5).tolist()
        [4, 5]
    """
    shape = window.grid_shape
    coarse = np.abs(drops)[tuple(slice(None, None, s1) for _ in shape)]
    chosen = np.zeros(coarse.shape, dtype=bool)
    chosen.flat[np.argsort(-coarse, axis=None)[: math.ceil(r * coarse.size)]] = True
    for axis, size in enumerate(shape):
        chosen = np.repeat(chosen, s1, axis)[(slice(None),) * axis + (slice(size),)]
    return np.flatnonzero(chosen & _every(shape, s2) & ~_every(shape, s1))


def _every(shape: tuple[int, ...], step: int) -> Flags:
    """Cells of the grid of every ``step``-th cell along each axis."""
    chosen = np.zeros(shape, dtype=bool)
    chosen[tuple(slice(None, None, step) for _ in shape)] = True
    return chosen
