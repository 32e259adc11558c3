"""SSIM of an approximate map with the exact one, and its expectation before the exact map is known. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import Floats
from krypton_engine.errors import InputError

SPREAD = 0.55, 1.1, 2.1
"""The true loss, ``1 - SSIM``, in multiples of the expected one: nine of ten above the first and nine of ten
below the last (maps of four networks, probabilities and logits, of slices with a background and of
photographs without). The last is an InceptionV3's logits', which vary within a window more than other maps
do; of a ResNet18's maps nine of ten are below 1.3."""

_NOISE = 64 * float(np.finfo(np.float32).eps)
"""Share of the largest value that two orders of summation in float32 may make."""

_WINDOW = 7
"""Cells along an axis that SSIM looks at together."""

_C1, _C2 = 0.01**2, 0.03**2
"""SSIM's constants for a range of 1, as in scikit-image."""


@dataclass(frozen=True)
class SsimEstimate:
    """An estimate of the SSIM of an approximate map with the exact one.

    Attributes:
        value: The estimate.
        low: Lower end of its range; the confidence depends on ``basis``.
        high: Upper end.
        basis: Source of the estimate: predictions compared with measurements on the way (``"online"``), a
            tuning (``"tuned"``), a random sample that was measured (``"verified"``), or certainty
            (``"exact"``).
    """

    value: float
    low: float
    high: float
    basis: str

    @staticmethod
    def of(
        expected: float, basis: str = "online", spread: tuple[float, float, float] = SPREAD
    ) -> SsimEstimate:
        """The estimate for an expected SSIM.

        Args:
            expected: SSIM that `expected_ssim` gives.
            basis: Source of the estimate.
            spread: The true loss in multiples of the expected one: least, middle, most.

        Examples:
            >>> print(SsimEstimate.of(0.9))
            0.890 (0.790 to 0.945, online)
        """
        high, value, low = (1 - times * (1 - expected) for times in spread)
        return SsimEstimate(value, low, high, basis)

    def __str__(self) -> str:
        if self.basis == "exact":
            return "exact"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}, {self.basis})"


def ssim(approximate: Tensor, exact: Tensor, *, image_axes: int = 2) -> float:
    """Structural similarity of two maps on the same position grid.

    Both maps become importance by the exact map's own extremes, ``(max - M) / (max - min)``, so that a
    constant bias counts as the error that it is. Then it is `skimage.metrics.structural_similarity` with
    ``data_range=1`` and a window of 7 cells, or the largest odd number that fits.

    Args:
        approximate: The target's output on the grid, without NaN.
        exact: The same, computed in full, to which the measure is relative.
        image_axes: Last axes that make one picture, 3 for a volume, whose window is a cube; those before are
            averaged slice by slice.

    Returns:
        At most 1. Grids of fewer than 3 cells along an axis are one single window. Where the exact map's
        range is below the noise of float32, 1.0 if the error is too, else 0.0.

    Raises:
        InputError: The shapes differ, or a cell is not finite.

    Examples:
        >>> exact = torch.arange(64.0).reshape(8, 8)
        >>> ssim(exact, exact), ssim(exact + 8, exact) < 1
        (1.0, True)
        >>> from skimage.metrics import structural_similarity
        >>> one, other = torch.rand(8, 8, 8), torch.rand(8, 8, 8)
        >>> one.view(-1)[:2] = torch.tensor([0.0, 1.0])  # so that importance is what is left of 1
        >>> theirs = structural_similarity(1 - one.numpy(), 1 - other.numpy(), data_range=1)
        >>> bool(abs(ssim(other, one, image_axes=3) - theirs) < 1e-5)
        True
    """
    if approximate.shape != exact.shape:
        raise InputError(
            "approximate", f"of shape {tuple(approximate.shape)}", f"the shape of exact, {tuple(exact.shape)}"
        )
    if not (bool(approximate.isfinite().all()) and bool(exact.isfinite().all())):
        raise InputError(
            "approximate",
            "values that are not finite, or exact does",
            "finite maps: fill what was not measured",
            verb="holds",
        )
    mine, truth = (_squeezed(m.detach().cpu().to(torch.float64).numpy()) for m in (approximate, exact))
    if not truth.size:
        raise InputError("approximate", "empty", "maps of at least one value")
    low, high = float(truth.min()), float(truth.max())
    noise = _NOISE * max(abs(low), abs(high))
    if high - low <= noise:
        return 1.0 if float(np.abs(mine - truth).max()) <= noise else 0.0
    mine, truth = (high - mine) / (high - low), (high - truth) / (high - low)
    slices = itertools.product(*(range(n) for n in truth.shape[: max(0, truth.ndim - image_axes)]))
    return float(np.mean([_of_picture(mine[i], truth[i]) for i in slices]))


def expected_ssim(predicted: Floats, variance: Floats, *, image_axes: int = 2) -> tuple[float, Floats]:
    """The probable `ssim` of a predicted map, and where measuring would raise it most.

    In every window of cells the exact map is taken for the prediction plus errors that have nothing to do
    with it, of the given variance: the covariance then is the prediction's variance ``v``, the exact map's
    is ``v`` plus the mean error variance ``e``, and SSIM is ``(2 v + C2) / (2 v + e + C2)``. So an error
    counts most where the map is flat.

    Args:
        predicted: The map on the position grid.
        variance: Expected squared error of every cell, of the same shape.
        image_axes: As in `ssim`.

    Returns:
        The expected SSIM, and for every cell about what a unit of its variance costs of it. The map's range
        counts as the noise of float32 at least. 1 and zeros for a map of zeros.

    Examples:
        >>> predicted, variance = np.arange(64.0).reshape(8, 8), np.zeros((8, 8))
        >>> expected_ssim(predicted, variance)[0]
        1.0
        >>> variance[4, 4] = 100.0
        >>> value, prices = expected_ssim(predicted, variance)
        >>> value < 1, prices.shape
        (True, (8, 8))
    """
    shape = predicted.shape
    low, high = float(predicted.min()), float(predicted.max())
    span = max(high - low, _NOISE * max(abs(low), abs(high)))
    if span == 0:
        return 1.0, np.zeros(shape)
    cells, errors = _squeezed(predicted) / span, _squeezed(variance) / span**2
    pictures = range(max(0, cells.ndim - image_axes), cells.ndim)
    smallest = min(cells.shape[axis] for axis in pictures)
    side = min(_WINDOW, smallest - 1 + smallest % 2)
    sizes = [1] * cells.ndim
    for axis in pictures:
        sizes[axis] = side if smallest >= 3 else cells.shape[axis]
    count = math.prod(sizes)
    spread = _means(cells**2, sizes) - _means(cells, sizes) ** 2
    even = 2 * np.maximum(spread, 0) * count / max(1, count - 1) + _C2
    whole = even + _means(errors, sizes)
    # The derivative of each window's SSIM by its mean error, given back to the cells that it averages.
    weights = np.pad(even / whole**2, [(size - 1, size - 1) for size in sizes])
    prices = _means(weights, sizes) / whole.size / span**2
    return float((even / whole).mean()), prices.reshape(shape)


def _means(cells: Floats, sizes: list[int]) -> Floats:
    """Means over all boxes of ``sizes`` cells that fit."""
    for axis, size in enumerate(sizes):
        along = np.moveaxis(cells, axis, 0)
        fit = len(along) - size + 1
        sums = np.add.reduce([along[first : first + fit] for first in range(size)])
        cells = np.moveaxis(sums / size, 0, axis)
    return cells


def _squeezed(cells: Floats) -> Floats:
    return cells.reshape([n for n in cells.shape if n > 1] or [1])


def _of_picture(mine: Floats, truth: Floats) -> float:
    """SSIM of two pictures of importance; 1 is the range."""
    from skimage.metrics import structural_similarity

    smallest = min(truth.shape)
    if smallest < 3:
        return _global(mine, truth)
    window = min(_WINDOW, smallest - 1 + smallest % 2)
    compare: Callable[..., float] = structural_similarity  # which has no types
    return float(compare(truth, mine, data_range=1.0, win_size=window))


def _global(mine: Floats, truth: Floats) -> float:
    """SSIM with the whole picture as its one window; constants and moments as in scikit-image."""
    free = max(1, truth.size - 1)
    x, y = truth - truth.mean(), mine - mine.mean()
    variances, covariance = ((x * x).sum() + (y * y).sum()) / free, (x * y).sum() / free
    means = (2 * truth.mean() * mine.mean() + _C1) / (truth.mean() ** 2 + mine.mean() ** 2 + _C1)
    return float(means * (2 * covariance + _C2) / (variances + _C2))
