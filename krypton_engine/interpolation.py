"""Between measured positions: what a map probably is there, and how far off that may be. Pure.

A heatmap is smooth over about one window, because neighbouring windows share cells: so distances are
counted in windows, and what was measured within a few of them predicts the rest. The predictor is ordinary
kriging (Matérn covariance of smoothness 3/2, length one window) on the nearest measured positions. How
rough the map is differs from place to place: every measured position is predicted from the others, and what
that misses by nearby scales the expected error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from krypton_engine.windows import SlidingWindow

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

NEIGHBOURS = 12
"""Measured positions that predict another: more change nothing in the fourth digit."""

_LOCALITY = 0.75
"""How far misses count for the error nearby, in windows (standard deviation)."""

_NUGGET = 1e-6
"""Share of the variance that a measured value may be off, which keeps the equations well posed."""

_AT_ONCE = 4096
"""Positions predicted together: their equations fit the cache."""


@dataclass(frozen=True)
class Prediction:
    """A whole map out of a part of it.

    Attributes:
        values: On the grid: as measured, or predicted.
        variance: Expected squared error: 0 where measured.
    """

    values: Floats
    variance: Floats


def predict(window: SlidingWindow, values: Floats, measured: Flags) -> Prediction:
    """The map that the measured part of it suggests.

    Args:
        window: The sliding window, whose grid this is.
        values: On the grid; ignored where not measured.
        measured: At least one cell; their values are finite.
    """
    if measured.all():
        return Prediction(values.astype(np.float64), np.zeros(values.shape))
    scales = [
        step / size
        for axis, (size, step) in enumerate(zip(window.shape, window.strides, strict=True))
        if not window.spans(axis)
    ]
    places: Floats = np.argwhere(np.ones(values.shape, dtype=bool)).astype(np.float64) * scales
    known = measured.ravel()
    sources, targets = places[known], places[~known]
    heights = values.ravel()[known].astype(np.float64)
    level = float(heights.mean())

    # Every source is its own nearest neighbour: what the others say of it is told by those after it.
    predicted, own_variance = _krige(sources, heights - level, targets, skip=0)
    others_say, variance = _krige(sources, heights - level, sources, skip=1)
    misses = np.zeros(known.shape)
    misses[known] = (others_say - (heights - level)) ** 2 / variance
    roughness = _smoothed(misses.reshape(values.shape), measured, scales)

    filled, expected = values.astype(np.float64).ravel(), np.zeros(known.shape)
    # A prediction may swing beyond all that was measured: probabilities, say, beyond 1.
    filled[~known] = (predicted + level).clip(heights.min(), heights.max())
    expected[~known] = own_variance * roughness.ravel()[~known]
    return Prediction(filled.reshape(values.shape), expected.reshape(values.shape))


def covariance(distance: Floats) -> Floats:
    """Matérn, smoothness 3/2, of distances in windows."""
    scaled = math.sqrt(3) * distance
    return np.asarray((1 + scaled) * np.exp(-scaled))


def _krige(sources: Floats, heights: Floats, targets: Floats, skip: int) -> tuple[Floats, Floats]:
    """Best linear unbiased prediction at ``targets``, and its variance in units of the map's own.

    Args:
        sources: Places ``(n, axes)``.
        heights: Values there.
        targets: Places ``(m, axes)``.
        skip: How many of the nearest sources not to use.
    """
    from scipy.spatial import cKDTree

    count = min(NEIGHBOURS, len(sources) - skip)
    if count <= 0:  # a single source, asked about itself
        return np.zeros(len(targets)), np.ones(len(targets))
    tree = cKDTree(sources)
    predicted, variance = np.empty(len(targets)), np.empty(len(targets))
    for start in range(0, len(targets), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        distance, nearest = (
            np.reshape(found, (-1, count + skip))[:, skip:]
            for found in tree.query(targets[part], count + skip)
        )
        between = np.linalg.norm(sources[nearest][:, :, None] - sources[nearest][:, None], axis=-1)
        # Weights sum to one (the last row): the level of the map is not known.
        equations = np.ones((len(nearest), count + 1, count + 1))
        equations[:, :count, :count] = covariance(between) + _NUGGET * np.eye(count)
        equations[:, count, count] = 0
        right = np.ones((len(nearest), count + 1))
        right[:, :count] = covariance(distance)
        weights = np.linalg.solve(equations, right[..., None])[..., 0]
        predicted[part] = (weights[:, :count] * heights[nearest]).sum(1)
        variance[part] = np.maximum(1 + _NUGGET - (weights * right).sum(1), _NUGGET)
    return predicted, variance


def _smoothed(misses: Floats, measured: Flags, scales: list[float]) -> Floats:
    """Mean of ``misses`` over the measured cells around each cell; far from any, that of all."""
    from scipy.ndimage import gaussian_filter

    widths = [_LOCALITY / scale for scale in scales]
    one = math.prod(width * math.sqrt(2 * math.pi) for width in widths)
    total = one * gaussian_filter(misses, widths, mode="constant")
    count = one * gaussian_filter(measured.astype(np.float64), widths, mode="constant")
    overall = float(misses[measured].mean())
    return np.asarray((total + overall) / (count + 1))
