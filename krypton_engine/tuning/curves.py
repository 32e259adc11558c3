"""Curves of the approximate maps of samples: SSIM and time at every refinement."""

from __future__ import annotations

import math
from dataclasses import dataclass

from krypton_engine.heatmap.files import is_count, is_number, is_similarity

_JUST_BEYOND = 1 + 1e-9
"""Ratio of a factor to the one at which a sample would still have stopped: a little above 1."""


@dataclass(frozen=True, order=True)
class Way:
    """A way to measure a map.

    Attributes:
        epsilon: Threshold of trimming; see `krypton_engine.executors.base.Session`.
        drift: Whether a cheap session gives the trend of the map, see `krypton_engine.run.loop.trend_of`;
            else the measured positions themselves are trimmed.
    """

    epsilon: float = 0.0
    drift: bool = False


@dataclass(frozen=True)
class Stop:
    """The point at which the map of one image was good enough.

    Attributes:
        computed: Distinct positions computed by then.
        expected: Expected SSIM at that point.
        ssim: SSIM with the exact map at that point.
        seconds: Time until that point.
        cheaply: Distinct positions computed cheaply by then.
    """

    computed: int
    expected: float
    ssim: float
    seconds: float
    cheaply: int = 0


@dataclass(frozen=True)
class Curve:
    """The course of one image's approximate map, forecast by forecast.

    Attributes:
        image: Fingerprint of the input.
        epsilon: Threshold of trimming; see `Way`.
        positions: Distinct positions that change something.
        computed: Number of them that had been computed, by forecast.
        expected: Expected SSIM, by forecast.
        ssim: SSIM with the exact map, by forecast.
        seconds: Time of all positions, from the first on.
        look_seconds: Time of one forecast.
        open_seconds: Time before the first position: gradients.
        exact_seconds: Time of the exact map.
        at_once: Positions that a step measured at least; see `krypton_engine.executors.base.Session`.
        drift: Whether a cheap session gave the trend; see `Way`.
        cheaply: Number of positions that had been computed cheaply, by forecast; empty without a drift.
        cheap_seconds: Time of all positions by the cheap session.
        cost: Cost of a cheap position, in exact ones, by which the steps were chosen.

    Examples:
        >>> curve = Curve(
        ...     "an image", 0.0, 100, computed=(20, 40), expected=(0.8, 0.9), ssim=(0.82, 0.95),
        ...     seconds=2.0, look_seconds=0.1, open_seconds=0.0, exact_seconds=2.0,
        ... )
        >>> curve.stop(target=0.85, factor=1.0)
        Stop(computed=40, expected=0.9, ssim=0.95, seconds=1.0, cheaply=0)
        >>> curve.stop(target=0.85, factor=2.0).computed  # sure of it at the end only
        100
    """

    image: str
    epsilon: float
    positions: int
    computed: tuple[int, ...]
    expected: tuple[float, ...]
    ssim: tuple[float, ...]
    seconds: float
    look_seconds: float
    open_seconds: float
    exact_seconds: float
    at_once: int = 1
    drift: bool = False
    cheaply: tuple[int, ...] = ()
    cheap_seconds: float = 0.0
    cost: float = 1.0

    @property
    def way(self) -> Way:
        """The way in which the map was measured.

        Examples:
            >>> tuning.curves[0].way
            Way(epsilon=0.0, drift=False)
        """
        return Way(self.epsilon, self.drift)

    def is_whole(self) -> bool:
        """Whether every number is present and possible, as in a curve that a tuning made.

        Examples:
            >>> from dataclasses import replace
            >>> curve = tuning.curves[0]
            >>> curve.is_whole(), replace(curve, seconds=-1.0).is_whole()
            (True, False)
        """
        steps = self.computed, self.expected, self.ssim
        times = (
            self.seconds, self.look_seconds, self.open_seconds, self.exact_seconds, self.cheap_seconds
        )  # fmt: skip
        return (
            isinstance(self.image, str)
            and all(is_number(each) and each >= 0 for each in (self.epsilon, *times))
            and all(isinstance(each, tuple) for each in steps)
            and len({len(each) for each in steps}) == 1
            and isinstance(self.drift, bool)
            and isinstance(self.cheaply, tuple)
            and len(self.cheaply) in (0, len(self.computed))
            and all(
                is_count(n) and n <= self.positions for n in (*self.computed, *self.cheaply, self.positions)
            )
            and all(list(counts) == sorted(counts) for counts in (self.computed, self.cheaply))
            and is_number(self.cost)
            and 0 < self.cost <= 1
            and all(map(is_similarity, (*self.expected, *self.ssim)))
            and is_count(self.at_once)
            and self.at_once >= 1
        )

    def factor(self, target: float) -> float:
        """The least factor on the expected loss that never stops below a target.

        Args:
            target: SSIM with the exact map.

        Returns:
            0 where no factor stops below the target; infinity where every one does.

        Examples:
            >>> curve = tuning.curves[0]
            >>> curve.expected, curve.ssim
            ((0.8, 0.9, 0.95), (0.82, 0.88, 0.97))
            >>> curve.factor(target=0.9)  # less would stop at the second, whose SSIM is 0.88
            1.0
        """
        early = [e for e, s in zip(self.expected, self.ssim, strict=True) if s < target]
        return max(
            ((1 - target) / (1 - e) * _JUST_BEYOND if e < 1 else math.inf for e in early),
            default=0.0,
        )

    def stop(self, target: float, factor: float) -> Stop:
        """The point at which a factor on the expected loss stops.

        Args:
            target: SSIM that is asked for.
            factor: On the expected loss ``1 - SSIM``.

        Examples:
            >>> curve = tuning.curves[0]
            >>> curve.computed, curve.expected
            ((20, 40, 60), (0.8, 0.9, 0.95))
            >>> [curve.stop(target=0.85, factor=factor).computed for factor in (1.0, 2.0, 4.0)]
            [40, 60, 100]
        """
        steps = zip(self.computed, self.expected, self.ssim, self.counts, strict=True)
        for looks, (n, e, s, cheaply) in enumerate(steps, 1):
            if 1 - factor * (1 - e) >= target:
                return Stop(n, e, s, self.seconds_of(n, looks, cheaply), cheaply)
        again = self.exact_seconds if self.epsilon and not self.drift else 0.0
        cheaply = self.counts[-1] if self.counts else 0
        took = self.seconds_of(self.positions, len(self.computed), cheaply) + again
        return Stop(self.positions, 1.0, 1.0, took, cheaply)

    @property
    def counts(self) -> tuple[int, ...]:
        """Positions computed cheaply by every forecast, zeros without a drift.

        Examples:
            >>> tuning.curves[0].counts
            (0, 0, 0)
        """
        return self.cheaply or (0,) * len(self.computed)

    def seconds_of(self, computed: int, looks: int, cheaply: int = 0) -> float:
        """Time of so many positions, and so many cheap ones, with so many forecasts on the way.

        Examples:
            >>> curve = tuning.curves[0]
            >>> curve.positions, curve.seconds, curve.look_seconds
            (100, 2.0, 0.01)
            >>> curve.seconds_of(50, looks=2)
            1.02
        """
        work = self.seconds * computed + self.cheap_seconds * cheaply
        return self.open_seconds + work / max(1, self.positions) + looks * self.look_seconds
