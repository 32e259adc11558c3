"""Adaptive sampling as a pure step: from a part of a map to the positions to measure next, or to a stop.

First come a position in every two windows along each axis, then one in every window, borders included;
after that those cells whose measuring saves most of the SSIM that expected errors cost, a few each time. What
a step finds is compared with its forecast, and scales the errors that the next forecast expects.

A run and the replay of a tuning take the same steps, so that what the one promises is what the other does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from krypton_engine.approximation.interpolation import Prediction, covariance, predict
from krypton_engine.approximation.ssim import SPREAD, SsimEstimate, expected_ssim
from krypton_engine.common.arrays import Flags, Floats, IntArray
from krypton_engine.perturbation.changed import Work
from krypton_engine.perturbation.windows import SlidingWindow

_GROWTH = 0.2
"""Positions that a step measures, as a share of those so far or those left, whichever are fewer:
early on as well as late too large a step costs more than looking once more."""

_SMALLEST_STEP = 8
"""Positions that a step measures at least: a forecast costs time too."""

_REACH = 2.0
"""Distance within which a measured position explains others, in distances to the nearest one before."""


@dataclass(frozen=True)
class Forecast:
    """The expected map where only a part has been measured.

    Attributes:
        prediction: The whole map.
        ssim: What its SSIM with the exact map probably is.
        computed: How many sets of changed cells have been computed.
        prices: What a unit of error variance costs of the SSIM, by cell of the grid.
    """

    prediction: Prediction
    ssim: float
    computed: int
    prices: Floats


@dataclass(frozen=True)
class StoppingRule:
    """The condition for a map to be good enough, and the way that it is measured until then.

    Attributes:
        ssim_target: The SSIM with the exact map that it must have.
        factor: The expected loss ``1 - SSIM`` times this is what must be small enough.
        spread: The true loss in multiples of the expected one: least, middle, most.
        basis: Where that is known from; see `SsimEstimate`.
        epsilon: What to trim; 0 nothing. See `krypton_engine.executors.base.Session`.
        at_once: How many sets of positions a step measures at least; None as suits the session.

    Examples:
        >>> rule = StoppingRule(ssim_target=0.9, factor=2.0)
        >>> flat = Prediction(np.zeros(4), np.zeros(4))
        >>> [rule.stops(Forecast(flat, ssim, 4, np.zeros(4))) for ssim in (0.94, 0.96)]
        [False, True]
    """

    ssim_target: float
    factor: float = SPREAD[2]
    spread: tuple[float, float, float] = SPREAD
    basis: str = "online"
    epsilon: float = 0.0
    at_once: int | None = None

    def stops(self, forecast: Forecast) -> bool:
        """Whether a map of this forecast is good enough."""
        return 1 - self.factor * (1 - forecast.ssim) >= self.ssim_target

    def estimate(self, forecast: Forecast) -> SsimEstimate:
        """The SSIM of a map of this forecast: where a tuning stops, its target is promised, no more."""
        found = SsimEstimate.of(forecast.ssim, self.basis, self.spread)
        return replace(found, low=min(found.low, self.ssim_target)) if self.basis == "tuned" else found


@dataclass(frozen=True)
class Trajectory:
    """The course of a map's sampling so far.

    Attributes:
        steps: Steps taken.
        scale: Errors in multiples of the variance that interpolation expects; None as long as no forecast has
            been compared with measurements.
        forecast: Of the map before the last step's positions were measured; None before the first forecast.
        measured: The first position of every set that the last step measures.
    """

    steps: int = 0
    scale: float | None = None
    forecast: Forecast | None = None
    measured: IntArray | None = None


@dataclass(frozen=True)
class NextStep:
    """The step that follows from a part of a map.

    Attributes:
        positions: To be measured next, ``(n,)``, int64: whole sets of those that change the same cells. Empty
            where sampling is over.
        forecast: Of the map so far; None before a forecast has been compared with
            measurements, and where values are not finite.
        over: Whether sampling is over: all is measured, or ``reached``.
        reached: Whether the stopping rule ended it.
        trajectory: Where the step after goes on from.
    """

    positions: IntArray
    forecast: Forecast | None
    over: bool
    reached: bool
    trajectory: Trajectory


@dataclass(frozen=True)
class Sampling:
    """The sampling of one map: the positions wanted, and the rule that ends it. Holds no progress.

    Args:
        window: The sliding window.
        work: The positions wanted, by what they change: those that change nothing are free, and those that
            change the same cells come together.
        rule: When to stop; None for never.
        at_once: Sets of positions that take hardly longer than one; a step has as many at least.

    Examples:
        >>> from krypton_engine.perturbation.changed import ChangedCells, distinct_work
        >>> window = SlidingWindow((9,), (2,), (1,))
        >>> work = distinct_work(ChangedCells(window, np.ones(9, dtype=bool)), np.arange(len(window)))
        >>> values, measured = np.linspace(0, 1, len(window)), np.zeros(len(window), dtype=bool)
        >>> first = Sampling(window, work).next(values, measured)
        >>> first.positions.tolist()
        [0, 4, 7]
        >>> measured[first.positions] = True
        >>> Sampling(window, work).next(values, measured, first.trajectory).positions.tolist()
        [2, 6]
    """

    window: SlidingWindow
    work: Work
    rule: StoppingRule | None = None
    at_once: int = 1

    def next(self, values: Floats, measured: Flags, so_far: Trajectory | None = None) -> NextStep:
        """The step that follows from a part of a map.

        Args:
            values: The target's values, on the grid; ignored where not measured.
            measured: Where they have been measured.
            so_far: The trajectory of the step before, all of whose positions are measured by now; None for
                the first step.
        """
        left = (self._set >= 0) & ~measured.ravel()
        if so_far is None:
            return self._first(measured, left)
        if not left.any():
            return self._over(None, so_far)
        if not np.isfinite(values[measured]).all():  # nothing can be predicted, so all of it is measured
            return NextStep(np.flatnonzero(left), None, False, False, replace(so_far, steps=so_far.steps + 1))
        scale = so_far.scale if so_far.forecast is None else _missed(so_far.forecast, values, so_far.measured)
        forecast = self._forecast(values, measured, scale or 1.0)
        compared = None if scale is None else forecast
        if compared is not None and self.rule is not None and self.rule.stops(forecast):
            return self._over(compared, so_far, reached=True)
        chosen = self._sets(self._grid(1), left) if so_far.steps == 1 else []
        chosen = chosen or self._sets(self._least_certain(forecast, measured, left), left)
        firsts = np.array([alike[0] for alike in chosen], dtype=np.int64)
        then = Trajectory(so_far.steps + 1, scale, forecast, firsts)
        return NextStep(np.concatenate(chosen), compared, False, False, then)

    def _first(self, measured: Flags, left: Flags) -> NextStep:
        """Positions that change nothing, and a coarse grid; a finer one where a region lies in its gaps."""
        unchanged = self.work.unchanged[~measured.ravel()[self.work.unchanged]]
        chosen = self._sets(self._grid(2), left)
        if not (chosen or len(unchanged) or measured.any()):
            chosen = self._sets(self._grid(1), left) or self.work.positions[:1]
        return NextStep(np.concatenate([unchanged, *chosen]), None, False, False, Trajectory(1))

    def _over(self, forecast: Forecast | None, so_far: Trajectory, reached: bool = False) -> NextStep:
        return NextStep(np.empty(0, dtype=np.int64), forecast, True, reached, so_far)

    @cached_property
    def _set(self) -> IntArray:
        """By position: the number of its set of changed cells; -1 where it is free or not wanted."""
        numbers = np.full(len(self.window), -1, dtype=np.int64)
        for i, alike in enumerate(self.work.positions):
            numbers[alike] = i
        return numbers

    @cached_property
    def _firsts(self) -> IntArray:
        """The first position of every set."""
        return np.array([alike[0] for alike in self.work.positions], dtype=np.int64)

    @cached_property
    def _part(self) -> tuple[slice, ...]:
        """The smallest part of the grid that holds all positions wanted."""
        wanted = np.concatenate([np.flatnonzero(self._set >= 0), self.work.unchanged])
        corners = np.unravel_index(wanted, self.window.grid_shape or (1,))
        return tuple(slice(int(c.min()), int(c.max()) + 1) for c in corners)

    def _sets(self, positions: IntArray, left: Flags) -> list[IntArray]:
        """The sets of those of ``positions`` that are left."""
        return [self.work.positions[i] for i in np.unique(self._set[positions[left[positions]]])]

    def _grid(self, windows: int) -> IntArray:
        """A position in every so many windows along each axis of what is wanted, the last one too."""
        shape = self.window.grid_shape
        chosen = np.ones(shape, dtype=bool)
        steps = windows_apart(self.window, windows)
        for axis, (size, step, part) in enumerate(zip(shape, steps, self._part, strict=False)):
            along = np.zeros(size, dtype=bool)
            along[part.start : part.stop : step] = along[part.stop - 1] = True
            chosen &= along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return np.flatnonzero(chosen)

    def _forecast(self, values: Floats, measured: Flags, scale: float) -> Forecast:
        """The forecast of a map whose measured values are finite."""
        prediction = predict(self.window, values, measured)
        expected = prediction.variance * (self._set >= 0).reshape(values.shape) * scale
        prices = np.zeros(values.shape)
        part = self._part if values.shape else ()
        ssim, prices[part] = expected_ssim(prediction.values[part], expected[part])
        return Forecast(prediction, ssim, int(measured.ravel()[self._firsts].sum()), prices)

    def _least_certain(self, forecast: Forecast, measured: Flags, left: Flags) -> IntArray:
        """The cells whose measuring saves most, each of which leaves less to save around it."""
        rest = len(self._firsts) - forecast.computed
        fewest = max(_SMALLEST_STEP, self.at_once)
        count = max(fewest, int(_GROWTH * min(forecast.computed, rest)))
        reach = windows_apart(self.window, 1)
        offsets = np.meshgrid(*(np.arange(-n, n + 1) / n for n in reach), indexing="ij")
        away = np.asarray(np.sqrt(sum(offset**2 for offset in offsets)))
        variance = forecast.prediction.variance
        costs = np.where(left.reshape(variance.shape), forecast.prices * variance, 0.0)
        remaining = 1 - covariance(away) ** 2
        padded = np.pad(_savings(costs, away, measured), [(n, n) for n in reach])
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
        return np.array(chosen, dtype=np.int64) if chosen else np.flatnonzero(left)[:count]


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


def _savings(costs: Floats, away: Floats, measured: Flags) -> Floats:
    """The loss of SSIM that measuring a cell would save, in the cell and around it.

    What a measured cell explains of another falls off over the distance to those measured already: where they
    are dense it explains little but itself.

    Args:
        costs: What the expected error of every cell costs; 0 where there is none.
        away: Distances within a window around a cell, in windows.
        measured: Which cells are measured.
    """
    from scipy.ndimage import distance_transform_edt

    reach = [size // 2 for size in away.shape]
    alone = distance_transform_edt(~measured, sampling=[1 / n for n in reach])
    reached = np.where(costs > 0, _REACH * alone, np.finfo(np.float64).tiny)
    around = np.pad(costs, [(n, n) for n in reach])
    savings = np.zeros(costs.shape)
    for offset in map(tuple, np.argwhere(away < reached.max())):
        explained = np.clip(1 - away[offset] / reached, 0, None) ** 2
        shifted = tuple(slice(o, o + size) for o, size in zip(offset, costs.shape, strict=True))
        savings += explained * around[shifted]
    return np.where(costs > 0, savings, 0.0)


def _missed(forecast: Forecast, values: Floats, positions: IntArray | None) -> float:
    """The distance of measurements from their forecast, in multiples of the expected one; at least 1."""
    squares = (values - forecast.prediction.values) ** 2
    missed, expected = (
        float((forecast.prices * each).ravel()[positions].sum())
        for each in (squares, forecast.prediction.variance)
    )
    return max(1.0, missed / expected) if expected else 1.0
