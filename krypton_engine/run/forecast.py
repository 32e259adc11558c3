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
        ssim: What its SSIM with the exact map probably is.
        computed: How many sets of changed cells have been computed.
        prices: What a unit of error variance costs of the SSIM, by cell of the grid.
        cheaply: How many sets have been computed cheaply.
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
        """What the expected errors of the cheap map cost of the SSIM, by cell, and those of the residual."""
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
        forecast: Of the map before the last step's positions were measured; None before the first forecast.
        measured: The first position of every set that the last step measures.
        cheap_scale: Errors of the cheap map in multiples of the variance that interpolation expects; None as
            ``scale``.
        cheaply: The first position of every set that the last step measures cheaply.
        drawn: How many sets have been drawn at random.
    """

    steps: int = 0
    scale: float | None = None
    forecast: Forecast | None = None
    measured: IntArray = field(default_factory=NOWHERE.copy)
    cheap_scale: float | None = None
    cheaply: IntArray = field(default_factory=NOWHERE.copy)
    drawn: int = 0

    def compared(self, values: Floats, cheap: Floats | None) -> tuple[float | None, float | None]:
        """``scale`` and ``cheap_scale`` after the last step's values have been measured."""
        before, scale, cheap_scale = self.forecast, self.scale, self.cheap_scale
        if before is not None and len(self.measured):
            scale = _missed(before.prediction, before.prices, values, self.measured)
        if before is not None and before.drifted is not None and cheap is not None and len(self.cheaply):
            cheap_scale = _missed(before.drifted.cheap, before.prices, cheap, self.cheaply)
        return scale, cheap_scale


@dataclass(frozen=True)
class NextStep:
    """The step that follows from a part of a map.

    Attributes:
        positions: To be measured next, ``(n,)``, int64: whole sets of those that change the same cells.
        forecast: Of the map so far; None before a forecast has been compared with
            measurements, and where values are not finite.
        over: Whether sampling is over: all is measured, or ``reached``.
        reached: Whether the stopping rule ended it.
        trajectory: Where the step after goes on from.
        cheaply: To be measured by the cheap session, as ``positions``.
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
