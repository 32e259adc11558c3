"""Forecasts of a map on its way, their comparison with what was measured, and the step that follows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from krypton_engine.approximation.drift import Drifted
from krypton_engine.approximation.interpolation import Prediction
from krypton_engine.common.arrays import Flags, Floats, IntArray

NOWHERE: IntArray = np.empty(0, dtype=np.int64)
"""No positions."""


@dataclass(frozen=True)
class Forecast:
    """The expected map where only a part has been measured.

    Attributes:
        prediction: The whole map.
        ssim: Its probable SSIM with the exact map.
        computed: Number of sets of changed cells that have been computed.
        prices: SSIM that a unit of error variance costs, by cell of the grid.
        cheaply: Number of sets that have been computed cheaply.
        drifted: The two maps behind the prediction; None without a cheap one, or where it is of no use.
        scales: Errors in multiples of the variance expected, of the exact map and of the cheap one.
    """

    prediction: Prediction
    ssim: float
    computed: int
    prices: Floats
    cheaply: int = 0
    drifted: Drifted | None = None
    scales: tuple[float, float] = (1.0, 1.0)

    def losses(self, left: Flags) -> tuple[Floats, Floats]:
        """Loss of SSIM by the expected errors of the cheap map, by cell, and by those of the residual.

        Args:
            left: Cells that count, a flat array of truth values; others lose nothing.

        Examples:
            >>> exact = Prediction(np.zeros(2), np.array([5.0, 1.0]))
            >>> drifted = Drifted(exact, Prediction(np.zeros(2), np.ones(2)), slope=2.0)
            >>> forecast = Forecast(exact, 0.9, computed=1, prices=np.array([10.0, 10.0]), drifted=drifted)
            >>> [each.tolist() for each in forecast.losses(np.array([True, False]))]
            [[40.0, 0.0], [10.0, 0.0]]
        """
        assert self.drifted is not None
        prices = self.prices * left.reshape(self.prices.shape)
        return prices * self.drifted.cheaply * self.scales[1], prices * self.drifted.rest * self.scales[0]


@dataclass(frozen=True)
class Trajectory:
    """The course of a map's sampling so far.

    Attributes:
        steps: Steps taken.
        scale: Errors in multiples of the variance that a forecast expects; None as long as none has
            been compared with measurements.
        forecast: Forecast of the map before the last step's positions were measured; None before the first.
        measured: The first position of every set that the last step measures.
        cheap_scale: Errors of the cheap map in multiples of the variance that interpolation expects; None as
            ``scale``.
        cheaply: The first position of every set that the last step measures cheaply.
        drawn: Number of sets that have been drawn at random.
    """

    steps: int = 0
    scale: float | None = None
    forecast: Forecast | None = None
    measured: IntArray = field(default_factory=NOWHERE.copy)
    cheap_scale: float | None = None
    cheaply: IntArray = field(default_factory=NOWHERE.copy)
    drawn: int = 0

    def compared(self, values: Floats, cheap: Floats | None) -> tuple[float | None, float | None]:
        """``scale`` and ``cheap_scale`` after the last step's values have been measured.

        Examples:
            >>> forecast = Forecast(Prediction(np.zeros(2), np.ones(2)), 0.9, computed=1, prices=np.ones(2))
            >>> trajectory = Trajectory(steps=1, forecast=forecast, measured=np.array([1]))
            >>> trajectory.compared(np.array([0.0, 3.0]), None)  # 3 squared, where 1 was expected
            (9.0, None)
        """
        before, scale, cheap_scale = self.forecast, self.scale, self.cheap_scale
        if before is None:
            return scale, cheap_scale
        prediction, drifted = before.prediction, before.drifted
        if drifted is not None and cheap is not None:
            prediction = drifted.given(cheap)
            if len(self.cheaply):
                cheap_scale = _missed(drifted.cheap, before.prices, cheap, self.cheaply)
        if len(self.measured):
            scale = _missed(prediction, before.prices, values, self.measured)
        return scale, cheap_scale


@dataclass(frozen=True)
class NextStep:
    """The step that follows from a part of a map.

    Attributes:
        positions: Positions to be measured next, ``(n,)``, int64: whole sets that change the same cells.
        forecast: Forecast of the map so far; None before a forecast has been compared with measurements,
            and where values are not finite.
        over: Whether sampling is over: all is measured, or ``reached``.
        reached: Whether the stopping rule ended the sampling.
        trajectory: The course that the step after this one continues.
        cheaply: Positions to be measured by the cheap session, as ``positions``.
    """

    positions: IntArray
    forecast: Forecast | None
    over: bool
    reached: bool
    trajectory: Trajectory
    cheaply: IntArray = field(default_factory=NOWHERE.copy)


def _missed(before: Prediction, prices: Floats, values: Floats, positions: IntArray) -> float:
    """The distance of measurements from a prediction, in multiples of the expected one; at least 1."""
    squares = (values - before.values) ** 2
    missed, expected = (
        float((prices * each).ravel()[positions].sum()) for each in (squares, before.variance)
    )
    return max(1.0, missed / expected) if expected else 1.0
