"""Adaptive sampling as a pure step: from a part of a map to the positions to measure next, or to a stop.

First come a position in every two windows along each axis, then one in every window, borders included;
after that those cells whose measuring saves most of the SSIM that expected errors cost, a few each time. The
values of a step are compared with its forecast, and scale the errors that the next forecast expects.

A run and the replay of a tuning take the same steps, so that the one keeps what the other promises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from krypton_engine.approximation.drift import predict_by_drift
from krypton_engine.approximation.interpolation import predict
from krypton_engine.approximation.ssim import SPREAD, SsimEstimate, expected_ssim
from krypton_engine.common.arrays import Flags, Floats, IntArray
from krypton_engine.perturbation.changed import Work
from krypton_engine.perturbation.positions import image_axes
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.run.fidelity import FEWEST_DRAWN, Cheap, chosen_by_rate, drawn, to_be_drawn, worth_while
from krypton_engine.run.forecast import NOWHERE, Forecast, NextStep, Trajectory
from krypton_engine.run.savings import Savings, windows_apart

_GROWTH = 0.2
"""Positions that a step measures, as a share of those so far or those left, whichever are fewer:
early on as well as late too large a step costs more than looking once more."""

_SMALLEST_STEP = 8
"""Positions that a step measures at least: a forecast costs time too."""

_SMALLEST_STEP_OF_VOLUMES = 16
"""The same for a grid of three axes. Of 30 maps of a trained network, those of 11 positions along each axis
whose windows overlap by five sixths took a seventh fewer positions than with steps of 8, in 10 looks for 14,
and those of 5 a seventh more, in 4 looks for 7."""

_MOST_FIRST = 0.4
"""Share of all sets that the grid of the first looks may have for a choice among the others to save time."""


@dataclass(frozen=True)
class StoppingRule:
    """The condition for a map to be good enough, and the way that it is measured until then.

    Attributes:
        ssim_target: The SSIM with the exact map that it must have.
        factor: Number that the expected loss ``1 - SSIM`` is multiplied by before it must be small enough.
        spread: The true loss in multiples of the expected one: least, middle, most.
        basis: Source of ``spread``; see `SsimEstimate`.
        epsilon: Threshold of trimming; 0 trims nothing. See `krypton_engine.executors.base.Session`.
        at_once: Sets of positions that a step measures at least; None as suits the session.
        drift: Whether a cheap session gives the trend of the map, and exact values correct it; see
            `krypton_engine.run.loop.trend_of`.
        cost: Cost of a cheap position, in exact ones; None as measured on the way.

    Examples:
        >>> rule = StoppingRule(ssim_target=0.9, factor=2.0)
        >>> from krypton_engine.approximation.interpolation import Prediction
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
    drift: bool = False
    cost: float | None = None

    def stops(self, forecast: Forecast) -> bool:
        """Whether a map of this forecast is good enough.

        Examples:
            >>> from krypton_engine.approximation.interpolation import Prediction
            >>> forecast = Forecast(Prediction(np.zeros(4), np.zeros(4)), 0.96, 4, np.zeros(4))
            >>> [StoppingRule(0.9, factor).stops(forecast) for factor in (2.0, 3.0)]
            [True, False]
        """
        return 1 - self.factor * (1 - forecast.ssim) >= self.ssim_target

    def estimate(self, forecast: Forecast) -> SsimEstimate:
        """The SSIM of a map of this forecast; where a tuning stops, no more than its target is promised.

        Examples:
            >>> from krypton_engine.approximation.interpolation import Prediction
            >>> forecast = Forecast(Prediction(np.zeros(4), np.zeros(4)), 0.95, 4, np.zeros(4))
            >>> [round(StoppingRule(0.8, basis=b).estimate(forecast).low, 3) for b in ("online", "tuned")]
            [0.895, 0.8]
        """
        found = SsimEstimate.of(forecast.ssim, self.basis, self.spread)
        return replace(found, low=min(found.low, self.ssim_target)) if self.basis == "tuned" else found


@dataclass(frozen=True)
class Sampling:
    """The sampling of one map: the positions wanted, and the rule that ends it. Holds no progress.

    Args:
        window: The sliding window.
        work: The positions wanted, by the cells that they change: positions that change nothing are free,
            and positions that change the same cells are measured together.
        rule: Stopping rule; None to measure everything.
        at_once: Sets of positions that take hardly longer than one; a step has as many at least.
        cheap: The cheap fidelity; None for exact values alone.

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
    cheap: Cheap | None = None

    def next(
        self, values: Floats, measured: Flags, so_far: Trajectory | None = None, cheap: Floats | None = None
    ) -> NextStep:
        """The step that follows from a part of a map.

        Args:
            values: The target's values, on the grid; ignored where not measured.
            measured: Truth values on the grid, true where a value has been measured.
            so_far: The trajectory of the step before, all of whose positions are measured by now; None for
                the first step.
            cheap: The cheap map: NaN where it has not been measured, infinite where it is not finite. None
                where there is no cheap fidelity.
        """
        left = (self._set >= 0) & ~measured.ravel()
        if so_far is None:
            return self._first(measured, left)
        if not left.any():
            return self._over(None, so_far)
        if not np.isfinite(values[measured]).all():  # nothing can be predicted, so all of it is measured
            return NextStep(np.flatnonzero(left), None, False, False, replace(so_far, steps=so_far.steps + 1))
        trend = None if cheap is None or np.isinf(cheap).any() else cheap
        scale, cheap_scale = so_far.compared(values, trend)
        scales = scale or 1.0, cheap_scale or 1.0
        forecast = self._forecast(values, measured, trend, scales, self._drawn(so_far.drawn))
        known = np.full(left.shape, True) if trend is None else np.isfinite(trend).ravel()
        unseen = left if forecast.drifted is None else left & ~known
        grid = self._sets(self._grid(2), unseen) or self._sets(self._grid(1), unseen)
        unchecked = [] if grid or forecast.drifted is None else self._sets(self._largest(trend), left)
        early = scale is cheap_scale is None or bool(unchecked)
        if self.cheap is not None:  # draws alone foresee such errors that they test nothing
            early |= bool(grid) or (forecast.drifted is None and self._of_grid(so_far.measured))
        compared = None if early else forecast
        if compared is not None and self.rule is not None and self.rule.stops(forecast):
            return self._over(compared, so_far, reached=True)
        exactly, cheaply = (
            (unchecked, []) if unchecked else self._chosen(forecast, measured, left, known, grid)
        )
        draws = so_far.drawn
        if self.cheap is not None:
            spent = len(exactly) + self.cheap.cost * len(cheaply) + self._spent(forecast)
            relied_on, windows = forecast.drifted is not None, measured.size / self._of_a_window
            draws = max(draws, to_be_drawn(spent, relied_on, self.cheap.judged, windows))
            more = self._drawn(draws)
            exactly, cheaply = _with(exactly, more, left), _with(cheaply, more, ~known)
        firsts, cheap_firsts = _firsts_of(exactly), _firsts_of(cheaply)
        then = Trajectory(so_far.steps + 1, scale, forecast, firsts, cheap_scale, cheap_firsts, draws)
        positions, cheap_positions = (np.concatenate([NOWHERE, *sets]) for sets in (exactly, cheaply))
        return NextStep(positions, compared, False, False, then, cheap_positions)

    def _first(self, measured: Flags, left: Flags) -> NextStep:
        """Positions that change nothing, and a coarse grid; a finer one where a region lies in its gaps.

        With a cheap fidelity, in place of the grid: the first of those that are drawn, by both.
        """
        unchanged = self.work.unchanged[~measured.ravel()[self.work.unchanged]]
        if self.cheap is not None:
            both = self._drawn(FEWEST_DRAWN)
            exactly = [alike for alike in both if left[alike[0]]]
            positions = np.concatenate([unchanged, *exactly])
            then = Trajectory(1, drawn=FEWEST_DRAWN)
            return NextStep(positions, None, False, False, then, np.concatenate([unchanged, *both]))
        chosen = self._sets(self._grid(2), left)
        if not (chosen or len(unchanged) or measured.any()):
            chosen = self._sets(self._grid(1), left) or self.work.positions[:1]
        return NextStep(np.concatenate([unchanged, *chosen]), None, False, False, Trajectory(1))

    def _over(self, forecast: Forecast | None, so_far: Trajectory, reached: bool = False) -> NextStep:
        return NextStep(NOWHERE, forecast, True, reached, so_far)

    def _chosen(
        self, forecast: Forecast, measured: Flags, left: Flags, known: Flags, grid: list[IntArray]
    ) -> tuple[list[IntArray], list[IntArray]]:
        """The sets to measure exactly and those to measure cheaply.

        Args:
            forecast: Forecast of the map so far.
            measured: Truth values on the grid, true where the map has been measured exactly.
            left: Positions that have not.
            known: Positions whose cheap values are known, or not to be had.
            grid: Sets that are looked at first, by either fidelity.
        """
        if forecast.drifted is None or self.cheap is None:
            cells = self._least_certain(forecast, left, measured) if not grid else NOWHERE
            return grid or self._sets(cells, left), []
        losses = forecast.losses(left)
        if grid:
            by_cheap, by_both = losses[0].sum() / self.cheap.cost, sum(each.sum() for each in losses)
            return ([], grid) if by_cheap * (1 + self.cheap.cost) >= by_both else (grid, grid)
        budget = _GROWTH * min(self._spent(forecast), len(self._firsts) - forecast.computed)
        fewest = self._fewest
        cheaply, exactly = chosen_by_rate(
            self.window,
            losses,
            (known.reshape(measured.shape), measured),
            self.cheap.cost,
            max(budget, fewest * self.cheap.cost),
            self.at_once,
        )
        if not len(exactly) and not len(cheaply):  # nothing is expected to be wrong: any cells will do
            exactly = np.flatnonzero(left)[:fewest]
        return self._sets(exactly, left), self._sets(np.concatenate([exactly, cheaply]), left & ~known)

    def _largest(self, cheap: Floats | None) -> IntArray:
        """The cell of the largest change by the cheap map, which is not relied on before that is measured.

        A small part of large changes is met by few draws, and the first order is at its worst there.
        """
        if cheap is None or self.cheap is None:
            return NOWHERE
        changes = np.nan_to_num(np.abs(cheap - self.cheap.base), nan=-1.0)
        return np.array([changes.argmax()], dtype=np.int64)

    @cached_property
    def pays(self) -> bool:
        """Whether a choice of positions may take less time than all: of maps with one axis or three.

        Maps of images are taken to; their figures are of runs that choose, however small the map.
        """
        if len(self.window.grid_shape) == 2:
            return True
        first, all_of = self._sets(self._grid(1), self._set >= 0), self.work.positions
        return worth_while(self.work) and len(first) <= _MOST_FIRST * len(all_of)

    @cached_property
    def _fewest(self) -> int:
        """Positions that a step measures at least."""
        volume = len(self.window.grid_shape) == 3
        return max(_SMALLEST_STEP_OF_VOLUMES if volume else _SMALLEST_STEP, self.at_once)

    @cached_property
    def _of_a_window(self) -> int:
        """Positions whose windows lie in the place of one."""
        return math.prod(windows_apart(self.window, 1))

    def _spent(self, forecast: Forecast) -> float:
        """The cost of all that has been measured, in exact sets."""
        return forecast.computed + (0.0 if self.cheap is None else self.cheap.cost * forecast.cheaply)

    def _drawn(self, count: int) -> list[IntArray]:
        """The first so many sets that are drawn at random."""
        return [self.work.positions[i] for i in self._order[:count]]

    @cached_property
    def _order(self) -> IntArray:
        """All sets in the order in which they are drawn."""
        return drawn(self.window, self.work)

    @cached_property
    def _set(self) -> IntArray:
        """Number of the set of changed cells, by position; -1 where nothing changes, or it is not wanted."""
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
        """A position in every so many windows along each axis of the wanted part, its last one too."""
        shape = self.window.grid_shape
        chosen = np.ones(shape, dtype=bool)
        steps = windows_apart(self.window, windows)
        for axis, (size, step, part) in enumerate(zip(shape, steps, self._part, strict=False)):
            along = np.zeros(size, dtype=bool)
            along[part.start : part.stop : step] = along[part.stop - 1] = True
            chosen &= along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return np.flatnonzero(chosen)

    def _of_grid(self, positions: IntArray) -> bool:
        """Whether a position changes what one of the finer grid does."""
        return bool(np.isin(self._set[self._grid(1)], self._set[positions]).any())

    def _forecast(
        self,
        values: Floats,
        measured: Flags,
        trend: Floats | None,
        scales: tuple[float, float],
        draws: list[IntArray],
    ) -> Forecast:
        """The forecast of a map whose measured values are finite.

        Args:
            values: The target's values.
            measured: Truth values on the grid, true where a value has been measured.
            trend: The cheap map, as far as known; None without one.
            scales: Scales of the expected errors; see `Forecast`.
            draws: Sets that were drawn at random.
        """
        wanted = (self._set >= 0).reshape(values.shape)
        computed, drifted = int(measured.ravel()[self._firsts].sum()), None
        if trend is not None and self.cheap is not None:
            sample = np.sort(_firsts_of(draws))
            drifted = predict_by_drift(self.window, values, measured, trend, self.cheap.base, sample)
        if drifted is None:
            prediction = predict(self.window, values, measured)
            expected = prediction.variance * wanted * scales[0]
        else:
            prediction = drifted.exact
            expected = (drifted.rest * scales[0] + drifted.cheaply * scales[1]) * wanted
        prices = np.zeros(values.shape)
        part = self._part if values.shape else ()
        ssim, prices[part] = expected_ssim(
            prediction.values[part], expected[part], image_axes=image_axes(self.window)
        )
        cheaply = 0 if trend is None else int(np.isfinite(trend).ravel()[self._firsts].sum())
        return Forecast(prediction, ssim, computed, prices, cheaply, drifted, scales)

    def _least_certain(self, forecast: Forecast, left: Flags, measured: Flags) -> IntArray:
        """The cells whose measuring saves most."""
        rest = len(self._firsts) - forecast.computed
        count = max(self._fewest, int(_GROWTH * min(forecast.computed, rest)))
        variance = forecast.prediction.variance
        costs = np.where(left.reshape(variance.shape), forecast.prices * variance, 0.0)
        savings = Savings(self.window, costs, measured)
        chosen: list[int] = []
        while len(chosen) < count:
            worst = int(savings.left.argmax())
            if savings.left.flat[worst] <= 0:
                break
            chosen.append(worst)
            savings.take(worst)
        # Where nothing is expected to be wrong, any cells will do.
        return np.array(chosen, dtype=np.int64) if chosen else np.flatnonzero(left)[:count]


def _firsts_of(sets: list[IntArray]) -> IntArray:
    """The first position of every set."""
    return np.array([alike[0] for alike in sets], dtype=np.int64)


def _with(sets: list[IntArray], more: list[IntArray], lacking: Flags) -> list[IntArray]:
    """The sets and those of ``more`` that are lacking."""
    firsts = {int(alike[0]) for alike in sets}
    return sets + [alike for alike in more if lacking[alike[0]] and int(alike[0]) not in firsts]
