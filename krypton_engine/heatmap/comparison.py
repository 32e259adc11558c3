"""An approximate map against the exact one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from krypton_engine.approximation.ssim import ssim
from krypton_engine.common.arrays import Flags
from krypton_engine.common.values import Value


@dataclass(frozen=True, eq=False)
class Comparison(Value):
    """An approximate map against the exact one.

    Attributes:
        ssim: `krypton_engine.approximation.ssim.ssim` of the two.
        max_error: Largest absolute difference.
        difference: Approximate minus exact, on the grid.
    """

    ssim: float
    max_error: float
    difference: Tensor


def compared(values: Tensor, exact: Tensor, known: Tensor, image_axes: int = 2) -> Comparison:
    """The distance of two maps wherever the first is known.

    Args:
        values: The approximate map, on the grid.
        exact: The exact one.
        known: Truth values on the grid, at least one of them true.
        image_axes: As in `krypton_engine.approximation.ssim.ssim`.

    Examples:
        >>> values, known = torch.tensor([1.0, 2.5, torch.nan]), torch.tensor([True, True, False])
        >>> compared(values, torch.tensor([1.0, 2.0, 3.0]), known).difference
        tensor([0.0000, 0.5000,    nan])
    """
    difference = torch.where(known, values - exact, math.nan)
    # Outside a region both are the same, whatever that is.
    part, level = bounding(known.numpy()), exact[known].mean()
    mine, truth = (torch.where(known, each, level)[part] for each in (values, exact))
    similar = ssim(mine, truth, image_axes=image_axes)
    return Comparison(similar, float(difference[known].abs().max()), difference)


def bounding(cells: Flags) -> tuple[slice, ...]:
    """The smallest part of the grid that holds all of ``cells``.

    Examples:
        >>> bounding(np.array([[False, False, False], [False, True, True]]))
        (slice(1, 2, None), slice(1, 3, None))
    """
    found = np.nonzero(cells) if cells.ndim else ()
    return tuple(slice(int(where.min()), int(where.max()) + 1) for where in found)
