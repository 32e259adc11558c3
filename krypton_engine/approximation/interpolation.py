"""Kriging: the values of a map between measured positions, and their expected errors. Pure.

A heatmap is smooth over about one window, because neighbouring windows share cells: so distances are
counted in windows, and what was measured within a few of them predicts the rest. The predictor is ordinary
kriging (Matérn covariance of smoothness 3/2, length one window) on the nearest measured positions.

How rough the map is differs from place to place: a saturated probability is flat with sharp edges. Two things
show it, both in units of what a map of variance 1 would have: by how much the measured positions around are
missed when the others predict them, and by how much they differ from what they predict here (after the
interpolation variance of Yamamoto, Mathematical Geology 32, 2000). The larger scales the expected error. But
positions on an even slope differ and yet predict each other: so where the second overstated the first, it is
scaled down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from krypton_engine.common.arrays import Flags, Floats, IntArray
from krypton_engine.perturbation.windows import SlidingWindow

try:
    from krypton_engine import _native as _native
except ImportError:  # built without a compiler
    _native = None  # type: ignore[assignment]

NEIGHBOURS = 12
"""Number of measured positions that predict another, and show how rough the map is around it."""

_NUGGET = 1e-6
"""Share of the variance that a measured value may be off, which keeps the equations well posed."""

_LEAST_DEVIATION = float(np.finfo(np.float32).eps)
"""Share of the map's range that no prediction is surer of."""

_MOST_SOLVED_TOGETHER = 512
"""Positions whose equations NumPy solves together: they fit the cache."""


@dataclass(frozen=True)
class Prediction:
    """A whole map predicted from a part.

    Attributes:
        values: On the grid, float64: as measured, or predicted.
        variance: Expected squared error, on the grid: 0 where measured.
    """

    values: Floats
    variance: Floats


def predict(window: SlidingWindow, values: Floats, measured: Flags) -> Prediction:
    """A map predicted from its measured part, by ordinary kriging.

    Args:
        window: The sliding window of the map.
        values: On its grid; ignored where not measured.
        measured: Truth values on the grid, at least one of them true; measured values are finite.

    Examples:
        >>> window = SlidingWindow((8,), (4,), (1,))
        >>> values, measured = np.array([0.0, 9, 9, 9, 1]), np.array([True, False, False, False, True])
        >>> predict(window, values, measured).values.round(2).tolist()
        [0.0, 0.21, 0.5, 0.79, 1.0]
    """
    if measured.all():
        return Prediction(values.astype(np.float64), np.zeros(values.shape))
    grid = Grid.of(window)
    known = measured.ravel()
    sources, targets = np.flatnonzero(known), np.flatnonzero(~known)
    heights = values.ravel()[known].astype(np.float64)
    level = float(heights.mean())

    found = krige(grid, sources, heights - level, targets, skip=0)
    # Every source is its own nearest neighbour: what the others say of it is told by those after it.
    asked = np.zeros(len(sources), dtype=bool)
    asked[found.nearest] = True
    others = krige(grid, sources, heights - level, sources[asked], skip=1)
    misses = (others.predicted - (heights - level)[asked]) ** 2 / others.variance
    at = (np.cumsum(asked) - 1)[found.nearest]
    missed, differed = ((found.closeness * told[at]).sum(1) for told in (misses, others.discord))
    calibrated = np.divide(missed, differed, out=np.ones_like(missed), where=differed > missed)
    roughness = np.maximum(missed, found.discord * calibrated)

    filled, expected = values.astype(np.float64).ravel(), np.zeros(known.shape)
    # A prediction may swing beyond all that was measured: probabilities, say, beyond 1.
    filled[~known] = (found.predicted + level).clip(heights.min(), heights.max())
    expected[~known] = np.maximum(found.variance * roughness, (_LEAST_DEVIATION * np.ptp(heights)) ** 2)
    return Prediction(filled.reshape(values.shape), expected.reshape(values.shape))


def covariance(distance: Floats) -> Floats:
    """Matérn covariance of smoothness 3/2 and length one.

    Args:
        distance: Distances in windows, of any shape.

    Examples:
        >>> covariance(np.array([0.0, 0.5, 1.0, 3.0])).round(3).tolist()
        [1.0, 0.785, 0.483, 0.034]
    """
    scaled = math.sqrt(3) * distance
    return np.asarray((1 + scaled) * np.exp(-scaled))


class Grid:
    """Positions by number, how far apart they are, and the covariances between them.

    Args:
        shape: Shape of the grid.
        scales: Windows from one position to the next, by axis.
    """

    def __init__(self, shape: tuple[int, ...], scales: Floats) -> None:
        self._shape = shape
        self._scales = scales
        away = np.meshgrid(
            *(np.arange(n) * scale for n, scale in zip(shape, scales, strict=True)), indexing="ij"
        )
        # By distance along each axis, as a table: most of the time would go into exponentials.
        self._covariances = covariance(np.sqrt(sum(along**2 for along in away))).ravel()

    @staticmethod
    def of(window: SlidingWindow) -> Grid:
        """The grid of a sliding window.

        Examples:
            >>> Grid.of(SlidingWindow((8,), (4,), (1,))).places(np.array([0, 4])).tolist()
            [[0.0], [1.0]]
        """
        scales = [
            step / size
            for axis, (size, step) in enumerate(zip(window.shape, window.strides, strict=True))
            if not window.spans(axis)
        ]
        return Grid(window.grid_shape, np.array(scales))

    def places(self, positions: IntArray) -> Floats:
        """Coordinates of some positions, in windows: ``(n, axes)``.

        Examples:
            >>> Grid((2, 3), np.array([0.5, 0.25])).places(np.array([5])).tolist()
            [[0.5, 0.5]]
        """
        return np.stack(np.unravel_index(positions, self._shape), 1) * self._scales

    def covariances(self, positions: IntArray) -> Floats:
        """Covariances within each row of positions ``(n, some)``: ``(n, some, some)``.

        Examples:
            >>> Grid((3,), np.array([0.5])).covariances(np.array([[0, 2]])).round(3).tolist()
            [[[1.0, 0.483], [0.483, 1.0]]]
        """
        offsets = np.zeros((), dtype=np.int32)
        for along, size in zip(np.unravel_index(positions, self._shape), self._shape, strict=True):
            near = along.astype(np.int32)
            offsets = offsets * size + np.abs(near[:, :, None] - near[:, None])
        return np.asarray(self._covariances.take(offsets))

    def weights(
        self, positions: IntArray, near: Floats, nugget: float, level_known: bool
    ) -> tuple[Floats, Floats]:
        """Weights of simple or ordinary kriging, by the C++ engine, or by NumPy where there is none.

        Args:
            positions: Sources of every target: ``(targets, some)``, int64.
            near: Their covariances with the target: ``(targets, some)``.
            nugget: Number added to the variance of each source.
            level_known: Whether the map's mean is known; if not, weights sum to one.

        Returns:
            Weights ``(targets, some)``, and the Lagrange multipliers of their sums, ``(targets,)``; 0 where
            the level is known.

        Examples:
            >>> grid, near = Grid((3,), np.array([1.0])), covariance(np.array([[1.0, 1.0]]))
            >>> weights, multipliers = grid.weights(np.array([[0, 2]]), near, nugget=0.0, level_known=False)
            >>> weights.round(6).tolist(), multipliers.round(3).tolist()
            ([[0.5, 0.5]], [-0.087])
        """
        weights, multipliers = np.empty(near.shape), np.zeros(len(near))
        if _native is not None:
            near = np.ascontiguousarray(near)
            _native.kriging_weights(
                self._covariances, self._shape, positions, near, nugget, level_known, weights, multipliers
            )
            return weights, multipliers
        count = near.shape[1]
        unknowns = count + (not level_known)
        for start in range(0, len(near), _MOST_SOLVED_TOGETHER):
            part = slice(start, start + _MOST_SOLVED_TOGETHER)
            # Where the level is not known, weights sum to one: the last row.
            equations = np.ones((len(near[part]), unknowns, unknowns))
            equations[:, :count, :count] = self.covariances(positions[part]) + nugget * np.eye(count)
            equations[:, count:, count:] = 0
            right = np.ones((len(equations), unknowns))
            right[:, :count] = near[part]
            solved = np.linalg.solve(equations, right[..., None])[..., 0]
            weights[part] = solved[:, :count]
            multipliers[part] = solved[:, count:].sum(1)
        return weights, multipliers


@dataclass(frozen=True)
class Kriged:
    """Predictions for some targets from their nearest sources.

    Attributes:
        predicted: Best linear unbiased prediction.
        variance: Expected squared error of the prediction, of a map of variance 1.
        discord: Squared distance of the sources from the prediction, over that of a map of variance 1.
        nearest: The sources ``(targets, some)``.
        near: Squared covariances of the sources with the target.
        closeness: Weights of the sources by ``near``, of sum 1.
    """

    predicted: Floats
    variance: Floats
    discord: Floats
    nearest: IntArray
    near: Floats
    closeness: Floats


def krige(
    grid: Grid,
    sources: IntArray,
    heights: Floats,
    targets: IntArray,
    skip: int,
    *,
    level_known: bool = False,
    nugget: float = _NUGGET,
) -> Kriged:
    """Kriging from the nearest sources, and how well these agree with it.

    Args:
        grid: The positions.
        sources: Positions that are known, ``(n,)``.
        heights: Their values, ``(n,)``.
        targets: Positions to be predicted, ``(m,)``.
        skip: Number of the nearest sources that are not used.
        level_known: Whether the map's mean is 0 (simple kriging), or unknown (ordinary kriging).
        nugget: Share of the variance that changes from one position to the next.

    Examples:
        >>> grid, sources = Grid((3,), np.array([1.0])), np.array([0, 2])
        >>> found = krige(grid, sources, np.array([1.0, 3.0]), np.array([1]), skip=0)
        >>> found.predicted.round(6).tolist(), found.closeness.tolist()
        ([2.0], [[0.5, 0.5]])
    """
    from scipy.spatial import cKDTree

    size, count = len(targets), min(NEIGHBOURS, len(sources) - skip)
    if count <= 0:  # a single source, asked about itself
        none = np.zeros((size, 0))
        return Kriged(np.zeros(size), np.ones(size), np.zeros(size), none.astype(np.int64), none, none)
    distance, nearest = (
        np.reshape(each, (-1, count + skip))[:, skip:]
        for each in cKDTree(grid.places(sources)).query(grid.places(targets), count + skip)
    )
    near = covariance(distance)
    closeness = near**2 + np.finfo(np.float64).tiny
    closeness /= closeness.sum(1, keepdims=True)
    weights, multipliers = grid.weights(sources[nearest], near, nugget, level_known)
    there, explained = heights[nearest], (weights * near).sum(1) + multipliers
    predicted = (weights * there).sum(1)
    variance = np.maximum(1 + nugget - explained, _NUGGET)
    # By these equations a source is 1 + explained - 2 near from the prediction, squared, in the mean.
    apart = (closeness * (there - predicted[:, None]) ** 2).sum(1)
    discord = apart / np.maximum(1 + explained - 2 * (closeness * near).sum(1), _NUGGET)
    return Kriged(predicted, variance, discord, nearest, near**2, closeness)
