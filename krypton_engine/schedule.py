"""Which positions next: lists of positions, stage by stage."""

from __future__ import annotations

import math

import numpy as np

from krypton_engine.windows import IntArray, SlidingWindow


def row_by_row(window: SlidingWindow, positions: IntArray | None = None) -> list[IntArray]:
    """All positions in one stage, in the order of the grid.

    Args:
        window: The sliding window.
        positions: The positions wanted; None for all.
    """
    return [np.arange(len(window), dtype=np.int64) if positions is None else np.sort(positions)]


def coarse_to_fine(window: SlidingWindow, positions: IntArray | None = None) -> list[IntArray]:
    """Every 8th position along each axis first, then every 4th, every 2nd, all; none twice.

    A grid that is small along every axis starts finer, so that the first stage is never a single point.

    Args:
        window: The sliding window.
        positions: The positions wanted; None for all.
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
