"""The exact map predicted with a cheap map as its trend: kriging with an external drift. Pure.

A cheap session (to the first order, or trimmed by much) is right in shape and off here and there. Where both
fidelities have been measured their difference is known, and ``exact = slope * cheap + offset + residual``
elsewhere. The cheap map itself may be known in part only, and is kriged between: so a position's expected
error is that of its cheap value and that of its residual (the recursive form of co-kriging; Le Gratiet and
Garnier, International Journal for Uncertainty Quantification 4, 2014).

The numbers that hold everywhere, slope, offset and size of the residual, come from a random sample of the
positions that have both values: positions chosen because errors were expected there are no sample of the map.
The sample is small: a line that differs from the identity counts as far as it foresees each place of the
sample from the rest, and a cheap map that foresees them worse than exact values around do is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from krypton_engine.approximation.interpolation import Grid, Prediction, krige, predict
from krypton_engine.common.arrays import Flags, Floats, IntArray
from krypton_engine.perturbation.windows import SlidingWindow

_NUGGET = 0.5
"""Variance of the residual of each position by itself, in multiples of the variance that neighbours share:
residuals are rougher than maps."""

_FEWEST = 4
"""Places of a sample that a line is drawn through at least."""

_MOST_MISSED = 0.8
"""Share of the squared errors of exact values alone that those with the cheap map may come to: less help is
not worth its uncertainty."""

_SINGULAR = 1e-6
"""Share below which a number counts as none: a sample whose cheap values are all alike has no slope."""

_UNSEEN = 2.0
"""Number of residuals, each a `_SHARE_UNSEEN` of the map's variance, that count as if the sample had them
too: a small sample may have missed large but rare ones."""

_SHARE_UNSEEN = 0.01
"""See `_UNSEEN`."""


@dataclass(frozen=True)
class Drifted:
    """A whole map predicted from exact values at some positions and cheap ones at others.

    Attributes:
        exact: The exact map.
        cheap: The cheap map.
        slope: Number that the cheap map is multiplied by.

    Examples:
        >>> flat = np.zeros(2)
        >>> exact, cheap = Prediction(flat, np.array([5.0, 1.0])), Prediction(flat, np.array([1.0, 1.0]))
        >>> drifted = Drifted(exact, cheap, slope=2.0)
        >>> drifted.cheaply.tolist(), drifted.rest.tolist()
        ([4.0, 1.0], [1.0, 0.0])
    """

    exact: Prediction
    cheap: Prediction
    slope: float

    @property
    def cheaply(self) -> Floats:
        """The part of the exact map's variance that measuring the cheap one would take away."""
        return np.minimum(self.slope**2 * self.cheap.variance, self.exact.variance)

    @property
    def rest(self) -> Floats:
        """The part that only measuring the exact map would take away."""
        return self.exact.variance - self.cheaply

    def given(self, cheap: Floats) -> Prediction:
        """The exact map predicted once the cheap one is known: of its errors the residual's are left.

        Args:
            cheap: The cheap map; NaN where it is not known.

        Examples:
            >>> flat = np.zeros(2)
            >>> exact, cheap = Prediction(flat, np.array([5.0, 1.0])), Prediction(flat, np.array([1.0, 1.0]))
            >>> found = Drifted(exact, cheap, slope=2.0).given(np.array([3.0, np.nan]))
            >>> found.values.tolist(), found.variance.tolist()
            ([6.0, 0.0], [1.0, 0.0])
        """
        missed = self.slope * (cheap - self.cheap.values)
        return Prediction(self.exact.values + np.nan_to_num(missed), self.rest)


def predict_by_drift(
    window: SlidingWindow, values: Floats, measured: Flags, cheap: Floats, base: float, sample: IntArray
) -> Drifted | None:
    """The exact map predicted with a cheap one as its trend.

    Args:
        window: The sliding window of both maps.
        values: Exact values on its grid; ignored where not measured.
        measured: Truth values on the grid, true where an exact value was measured; at least one is.
        cheap: Cheap values on the grid; NaN where they are not known. At least one is known.
        base: The value of both maps where nothing changes.
        sample: Positions of the random sample, measured: ``(n,)``, int64, in rising order.

    Returns:
        None where exact values alone predict about as well, or the sample is too small to tell.

    Examples:
        >>> window = SlidingWindow((9,), (2,), (1,))
        >>> exact, cheap = np.array([0.0, 1, 4, 9, 4, 1, 0, 0]), np.array([0.0, 2, 8, 18, 8, 2, 0, 0])
        >>> sample = np.array([0, 2, 3, 5])
        >>> measured = np.isin(np.arange(8), sample)
        >>> predict_by_drift(window, exact, measured, cheap, 0.0, sample).exact.values.round(2).tolist()
        [0.0, 1.0, 4.0, 9.0, 4.0, 1.0, 0.0, 0.0]
    """
    if len(sample) < _FEWEST:
        return None
    trend = predict(window, cheap, np.isfinite(cheap))
    grid, sources, targets = Grid.of(window), np.flatnonzero(measured), np.flatnonzero(~measured)
    at = np.searchsorted(sources, sample)
    y, c = values.ravel()[sources].astype(np.float64) - base, trend.values.ravel() - base
    # The larger the change, the larger what the cheap map misses of it.
    sizes = np.sqrt((1 + c**2 / max(float((c**2).mean()), np.finfo(np.float64).tiny)) / 2)

    line = _line(c[sample], y[at], sizes[sample])
    rest = (y - line.of(c[sources])) / sizes[sources]
    around = partial(krige, grid, sources, level_known=True, nugget=_NUGGET)
    others = around(rest, sources, skip=1)
    missed = rest - others.predicted
    missed[at] = line.missed / sizes[sample] - others.predicted[at]
    level = float(y.mean())
    alone_missed = y[at] - level - krige(grid, sources, y - level, sources[at], skip=1).predicted
    if float(((missed[at] * sizes[sample]) ** 2).sum()) > _MOST_MISSED * float((alone_missed**2).sum()):
        return None

    squares = missed**2 / others.variance
    unseen = _SHARE_UNSEEN * float(np.var(y[at]))
    usual = (float(squares[at].sum()) + _UNSEEN * unseen) / (len(sample) + _UNSEEN)
    found = around(rest, targets, skip=0)
    scale = (usual + (found.near * squares[found.nearest]).sum(1)) / (1 + found.near.sum(1))
    filled, variance = values.astype(np.float64).ravel(), np.zeros(values.size)
    ends = np.concatenate([y, line.of(c[np.isfinite(cheap).ravel()])])
    predicted = line.of(c[targets]) + sizes[targets] * found.predicted
    filled[targets] = base + predicted.clip(ends.min(), ends.max())
    variance[targets] = sizes[targets] ** 2 * found.variance * scale
    variance[targets] += line.slope**2 * trend.variance.ravel()[targets]
    return Drifted(
        Prediction(filled.reshape(values.shape), variance.reshape(values.shape)), trend, line.slope
    )


@dataclass(frozen=True)
class _Line:
    """The line from cheap to exact changes.

    Attributes:
        slope: Slope of the line.
        offset: Exact change where nothing changes by the cheap map.
        missed: Distance of each place of the sample from the line through all others.
    """

    slope: float
    offset: float
    missed: Floats

    def of(self, cheap: Floats) -> Floats:
        """Exact changes by cheap ones."""
        return self.slope * cheap + self.offset


def _line(cheap: Floats, exact: Floats, sizes: Floats) -> _Line:
    """The line from cheap to exact changes that a small sample supports.

    The mean of four lines (the identity, one with a slope, one with an offset, one with both), weighed by how
    well each foresees every place of the sample from the others.

    Args:
        cheap: Changes by the cheap map: ``(n,)``.
        exact: True ones.
        sizes: Numbers that errors are proportional to: ``(n,)``.
    """
    columns = np.stack([cheap, np.ones_like(cheap)], 1)
    lines, misses = [], []
    for kept in ([], [0], [1], [0, 1]):
        design = columns[:, kept] / sizes[:, None]
        q, r = np.linalg.qr(design)
        if len(kept) and np.abs(np.diagonal(r)).min() <= _SINGULAR * np.abs(r).max():
            continue
        wanted = (exact - cheap) / sizes
        line = np.array([1.0, 0.0])
        line[kept] += np.linalg.solve(r, q.T @ wanted)
        leverage = (q**2).sum(1)
        lines.append(line)
        misses.append((exact - columns @ line) / np.maximum(1 - leverage, _SINGULAR))
    squares = np.array([((each / sizes) ** 2).sum() for each in misses])
    evidence = -len(cheap) / 2 * np.log(np.maximum(squares, np.finfo(np.float64).tiny))
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    slope, offset = (weights @ np.array(lines)).tolist()
    return _Line(slope, offset, weights @ np.array(misses))
