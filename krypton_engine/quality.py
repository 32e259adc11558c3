"""How alike two maps are: SSIM."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.errors import InputError

Floats = npt.NDArray[np.float64]

_NOISE = 64 * float(np.finfo(np.float32).eps)
"""Share of the largest value that two orders of summation in float32 may make."""

_WINDOW = 7
"""Cells along an axis that SSIM looks at together."""


def ssim(approximate: Tensor, exact: Tensor, *, image_axes: int = 2) -> float:
    """Structural similarity of two maps on the same position grid.

    Both maps become importance by the exact map's own extremes, ``(max - M) / (max - min)``, so that a
    constant bias counts as the error that it is. Then it is `skimage.metrics.structural_similarity` with
    ``data_range=1`` and a window of 7 cells, or the largest odd number that fits.

    Args:
        approximate: The target's output on the grid, without NaN.
        exact: The same, computed in full; what the measure is relative to.
        image_axes: Last axes that make one picture; those before are averaged slice by slice.

    Returns:
        At most 1. Grids of fewer than 3 cells along an axis are one single window. Where the exact map's
        range is below the noise of float32, 1.0 if the error is too, else 0.0.

    Raises:
        InputError: The shapes differ, or a cell is not finite.
    """
    if approximate.shape != exact.shape:
        raise InputError(f"approximate is {tuple(approximate.shape)}, exact {tuple(exact.shape)}")
    if not (bool(approximate.isfinite().all()) and bool(exact.isfinite().all())):
        raise InputError("approximate and exact must be finite everywhere: fill what was not measured")
    mine, truth = (_squeezed(m.detach().cpu().to(torch.float64).numpy()) for m in (approximate, exact))
    if not truth.size:
        raise InputError("approximate and exact are empty")
    low, high = float(truth.min()), float(truth.max())
    noise = _NOISE * max(abs(low), abs(high))
    if high - low <= noise:
        return 1.0 if float(np.abs(mine - truth).max()) <= noise else 0.0
    mine, truth = (high - mine) / (high - low), (high - truth) / (high - low)
    slices = itertools.product(*(range(n) for n in truth.shape[: max(0, truth.ndim - image_axes)]))
    return float(np.mean([_of_picture(mine[i], truth[i]) for i in slices]))


def _squeezed(cells: Floats) -> Floats:
    return cells.reshape([n for n in cells.shape if n > 1] or [1])


def _of_picture(mine: Floats, truth: Floats) -> float:
    """SSIM of two pictures of importance; 1 is the range."""
    from skimage.metrics import structural_similarity

    smallest = min(truth.shape)
    if smallest < 3:
        return _global(mine, truth)
    window = min(_WINDOW, smallest - 1 + smallest % 2)
    return float(structural_similarity(truth, mine, data_range=1.0, win_size=window))


def _global(mine: Floats, truth: Floats) -> float:
    """SSIM with the whole picture as its one window; constants and moments as in scikit-image."""
    c1, c2 = 0.01**2, 0.03**2
    free = max(1, truth.size - 1)
    x, y = truth - truth.mean(), mine - mine.mean()
    variances, covariance = ((x * x).sum() + (y * y).sum()) / free, (x * y).sum() / free
    means = (2 * truth.mean() * mine.mean() + c1) / (truth.mean() ** 2 + mine.mean() ** 2 + c1)
    return float(means * (2 * covariance + c2) / (variances + c2))
