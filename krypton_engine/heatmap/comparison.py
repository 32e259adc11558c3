"""An approximate map against the exact one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from krypton_engine.approximation.ssim import ssim
from krypton_engine.common.arrays import Flags
from krypton_engine.common.values import Value, same
from krypton_engine.errors import InputError
from krypton_engine.heatmap.status import Status

if TYPE_CHECKING:
    from krypton_engine.heatmap.heatmap import Heatmap


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


def compared(heatmap: Heatmap, exact: Heatmap) -> Comparison:
    """The distance of a map from the exact one of the same call, wherever the first is known.

    Raises:
        InputError: See `krypton_engine.Heatmap.compare`.

    Examples:
        >>> from dataclasses import replace
        >>> values = torch.tensor([[0.5, 1.5], [torch.nan, torch.nan]])
        >>> compared(replace(heatmap, values=values, measured=~values.isnan()), heatmap).difference
        tensor([[0.0000, 0.5000],
                [   nan,    nan]])
    """
    if (heatmap.window, heatmap.target) != (exact.window, exact.target):
        raise InputError(
            "exact",
            f"of target {exact.target} and {exact.window}",
            f"this map's target {heatmap.target} and {heatmap.window}",
        )
    if heatmap.image is not None and exact.image is not None and not same(heatmap.image, exact.image):
        raise InputError("exact", "the heatmap of another image")
    if None not in (heatmap.baseline, exact.baseline) and heatmap.baseline != exact.baseline:
        raise InputError("exact", f"of baseline {exact.baseline}", f"this map's, {heatmap.baseline}")
    known = heatmap.status != Status.UNKNOWN
    if bool((exact.status != Status.EXACT)[known].any()):
        raise InputError("exact", "not exact everywhere that this map is known", "a map without ssim_target")
    if not bool(known.any()):
        raise InputError("this map", "known nowhere")
    return _between(heatmap.values, exact.values, known)


def _between(values: Tensor, exact: Tensor, known: Tensor) -> Comparison:
    """The distance of two grids of values where the first is known, which is somewhere."""
    difference = torch.where(known, values - exact, math.nan)
    # Outside a region both are the same, whatever that is.
    part, level = bounding(known.numpy()), exact[known].mean()
    mine, truth = (torch.where(known, each, level)[part] for each in (values, exact))
    return Comparison(ssim(mine, truth), float(difference[known].abs().max()), difference)


def bounding(cells: Flags) -> tuple[slice, ...]:
    """The smallest part of the grid that holds all of ``cells``.

    Examples:
        >>> bounding(np.array([[False, False, False], [False, True, True]]))
        (slice(1, 2, None), slice(1, 3, None))
    """
    found = np.nonzero(cells) if cells.ndim else ()
    return tuple(slice(int(where.min()), int(where.max()) + 1) for where in found)
