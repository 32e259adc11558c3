"""Which positions next, stage by stage: row by row, coarse to fine, or where the map is least certain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from krypton_engine.approximation.interpolation import Prediction, covariance, predict
from krypton_engine.approximation.ssim import expected_ssim
from krypton_engine.common.arrays import Flags, Floats, IntArray
from krypton_engine.perturbation.changed import Work
from krypton_engine.perturbation.windows import SlidingWindow

_GROWTH = 0.2
"""How many more positions a refinement measures, as a share of those so far or those left, what is less:
early on as well as late too large a step costs more than looking once more."""

_FEWEST = 8
"""Positions that a refinement measures at least: looking at the map costs time too."""

_TELLS = 2.0
"""How far a measured position tells of others, in distances to the nearest of those measured before."""


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


def drill_down(
    window: SlidingWindow,
    so_far: Callable[[], tuple[Floats, Flags]],
    base: float,
    *,
    s1: int,
    s2: int,
    r: float,
) -> Iterator[IntArray]:
    """The paper's adaptive drill-down, for comparison: a coarse map, then its strongest part in detail.

    Stage one measures every ``s1``-th position along each axis, stage two every ``s2``-th within the share
    ``r`` of the coarse cells whose value moved furthest from the base. Against every position measured, it
    is ``s1**2 / (1 + r * s1**2)`` times faster with ``s2 = 1``; against every ``s2``-th,
    ``s1**2 / (s2**2 + r * s1**2)`` (paper, section 4.2).

    Args:
        window: The sliding window.
        so_far: Gives the map on the grid, and where it has been measured.
        base: Output for the un-occluded input.
        s1: Step of stage one, in positions.
        s2: Step of stage two.
        r: Share of the coarse cells to look at in detail, 0 to 1.
    """
    shape = window.grid_shape
    yield np.flatnonzero(_every(shape, s1))
    values, _ = so_far()
    coarse = np.abs(values - base)[tuple(slice(None, None, s1) for _ in shape)]
    chosen = np.zeros(coarse.shape, dtype=bool)
    chosen.flat[np.argsort(-coarse, axis=None)[: math.ceil(r * coarse.size)]] = True
    for axis, size in enumerate(shape):
        chosen = np.repeat(chosen, s1, axis)[(slice(None),) * axis + (slice(size),)]
    yield np.flatnonzero(chosen & _every(shape, s2) & ~_every(shape, s1))


@dataclass(frozen=True)
class Outlook:
    """What is expected of a map of which a part has been measured.

    Attributes:
        prediction: The whole map.
        ssim: What its SSIM with the exact map probably is.
        computed: How many sets of changed cells have been computed.
    """

    prediction: Prediction
    ssim: float
    computed: int


class Refinement:
    """Coarse to fine, then where the map is least certain, until it is good enough.

    First come a position in every two windows along each axis, then one in every window, borders included;
    after that those cells whose measuring saves most of the SSIM that expected errors cost, a few each time.
    What a stage finds is compared with what was predicted, and scales the errors that are expected next.

    Iterate over it for the stages; ``so_far`` must know what a stage found when the next is asked for. It
    ends when ``enough`` says so, or when everything has been measured.

    Args:
        window: The sliding window.
        work: The positions wanted, by what they change: those that change nothing are free, and those that
            change the same cells come together.
        so_far: Gives the map on the grid, and where it has been measured.
        enough: Whether to stop; not asked before a prediction has been compared with measurements.
        at_once: Sets of positions that take hardly longer than one; a stage has as many at least.

    Attributes:
        ended_early: Whether ``enough`` ended it.
    """

    def __init__(
        self,
        window: SlidingWindow,
        work: Work,
        so_far: Callable[[], tuple[Floats, Flags]],
        enough: Callable[[Outlook], bool],
        at_once: int = 1,
    ) -> None:
        self.ended_early = False
        self._window = window
        self._work = work
        self._set = np.full(len(window), -1, dtype=np.int64)
        for i, readers in enumerate(work.readers):
            self._set[readers] = i
        wanted = np.flatnonzero(self._set >= 0)
        self._first = np.array([readers[0] for readers in work.readers], dtype=np.int64)
        corners = np.unravel_index(np.concatenate([wanted, work.unchanged]), window.grid_shape or (1,))
        self._part = tuple(slice(int(c.min()), int(c.max()) + 1) for c in corners)
        self._so_far = so_far
        self._enough = enough
        self._fewest = max(_FEWEST, at_once)
        self._scale: float | None = None

    def __iter__(self) -> Iterator[IntArray]:
        measured = self._so_far()[1].ravel()
        unchanged = self._work.unchanged[~measured[self._work.unchanged]]
        first = self._sets(self._grid(2))
        if not (first or len(unchanged) or measured.any()):  # a region between the places of the grid
            first = self._sets(self._grid(1)) or self._work.readers[:1]
        yield np.concatenate([unchanged, *first])
        stage = self._grid(1)
        while self._left().any():
            found = self._look()
            if found is None:  # nothing can be predicted from what is not finite
                break
            outlook, prices = found
            if self._scale is not None and self._enough(outlook):
                self.ended_early = True
                return
            chosen = self._sets(stage) or self._sets(self._least_certain(outlook, prices))
            stage = stage[:0]
            yield np.concatenate(chosen)
            self._compare(outlook.prediction, prices, np.array([readers[0] for readers in chosen]))
        if self._left().any():
            yield np.flatnonzero(self._left())

    def _left(self) -> Flags:
        """Which positions are wanted and have not been measured."""
        return (self._set >= 0) & ~self._so_far()[1].ravel()

    def _sets(self, positions: IntArray) -> list[IntArray]:
        """The positions that change the same cells as one of ``positions``, of those not measured."""
        return [self._work.readers[i] for i in np.unique(self._set[positions[self._left()[positions]]])]

    def _grid(self, windows: int) -> IntArray:
        """A position in every so many windows along each axis of what is wanted, the last one too."""
        shape = self._window.grid_shape
        chosen = np.ones(shape, dtype=bool)
        steps = windows_apart(self._window, windows)
        for axis, (size, step, part) in enumerate(zip(shape, steps, self._part, strict=False)):
            along = np.zeros(size, dtype=bool)
            along[part.start : part.stop : step] = along[part.stop - 1] = True
            chosen &= along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return np.flatnonzero(chosen)

    def _look(self) -> tuple[Outlook, Floats] | None:
        """The outlook now, and what an error costs in every cell; None where values are not finite."""
        values, measured = self._so_far()
        if not np.isfinite(values[measured]).all():
            return None
        prediction = predict(self._window, values, measured)
        expected = prediction.variance * (self._set >= 0).reshape(values.shape) * (self._scale or 1.0)
        prices = np.zeros(values.shape)
        part = self._part if values.shape else ()
        ssim, prices[part] = expected_ssim(prediction.values[part], expected[part])
        return Outlook(prediction, ssim, int(measured.ravel()[self._first].sum())), prices

    def _least_certain(self, outlook: Outlook, prices: Floats) -> IntArray:
        """The cells whose measuring saves most, each of which leaves less to save around it."""
        left = len(self._first) - outlook.computed
        count = max(self._fewest, int(_GROWTH * min(outlook.computed, left)))
        reach = windows_apart(self._window, 1)
        offsets = np.meshgrid(*(np.arange(-n, n + 1) / n for n in reach), indexing="ij")
        away = np.asarray(np.sqrt(sum(offset**2 for offset in offsets)))
        costs = np.where(self._left().reshape(prices.shape), prices * outlook.prediction.variance, 0.0)
        remaining = 1 - covariance(away) ** 2
        padded = np.pad(self._savings(costs, away), [(n, n) for n in reach])
        inner = padded[tuple(slice(n, -n) for n in reach)]
        chosen: list[int] = []
        while len(chosen) < count:
            worst = int(inner.argmax())
            if inner.flat[worst] <= 0:
                break
            chosen.append(worst)
            corner = np.unravel_index(worst, costs.shape)
            padded[tuple(slice(c, c + 2 * n + 1) for c, n in zip(corner, reach, strict=True))] *= remaining
        # Where nothing is expected to be wrong, any cells will do.
        return np.array(chosen, dtype=np.int64) if chosen else np.flatnonzero(self._left())[:count]

    def _savings(self, costs: Floats, away: Floats) -> Floats:
        """What measuring a cell would save, itself and around it.

        What a measured cell explains of another falls off over the distance to those measured already: where
        they are dense it tells of little but itself.

        Args:
            costs: What the expected error of every cell costs; 0 where there is none.
            away: Distances within a window around a cell, in windows.
        """
        from scipy.ndimage import distance_transform_edt

        reach = [size // 2 for size in away.shape]
        measured = self._so_far()[1]
        alone = distance_transform_edt(~measured, sampling=[1 / n for n in reach])
        reached = np.where(costs > 0, _TELLS * alone, np.finfo(np.float64).tiny)
        around = np.pad(costs, [(n, n) for n in reach])
        savings = np.zeros(costs.shape)
        for offset in map(tuple, np.argwhere(away < reached.max())):
            explained = np.clip(1 - away[offset] / reached, 0, None) ** 2
            shifted = tuple(slice(o, o + size) for o, size in zip(offset, costs.shape, strict=True))
            savings += explained * around[shifted]
        return np.where(costs > 0, savings, 0.0)

    def _compare(self, prediction: Prediction, prices: Floats, positions: IntArray) -> None:
        """How far a stage was from what was predicted, in SSIM: as much is expected of the rest."""
        values, _ = self._so_far()
        misses = (values - prediction.values) ** 2
        missed, expected = (
            float((prices * squares).ravel()[positions].sum()) for squares in (misses, prediction.variance)
        )
        self._scale = max(1.0, missed / expected) if expected else 1.0


def windows_apart(window: SlidingWindow, windows: int) -> list[int]:
    """How many positions make so many windows, along every axis of the grid; at least one."""
    return [
        max(1, round(windows * size / step))
        for axis, (size, step) in enumerate(zip(window.shape, window.strides, strict=True))
        if not window.spans(axis)
    ]


def _every(shape: tuple[int, ...], step: int) -> Flags:
    """Cells of the grid of every ``step``-th cell along each axis."""
    chosen = np.zeros(shape, dtype=bool)
    chosen[tuple(slice(None, None, step) for _ in shape)] = True
    return chosen
