"""The origin of a position's value."""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor


class Status(IntEnum):
    """The origin of a position's value, least sure first.

    Examples:
        >>> Status(4).name, Status.TRIMMED < Status.EXACT
        ('EXACT', True)
    """

    UNKNOWN = 0
    """Nowhere: the value is NaN."""
    INTERPOLATED = 1
    """Predicted from measured positions around."""
    LINEARISED = 2
    """Measured by a cheap session, and corrected by what exact values show of it."""
    TRIMMED = 3
    """Measured, with small changes of activations dropped on the way."""
    EXACT = 4
    """Measured: the value of the full computation, within rounding."""


def status_of(values: Tensor, measured: Tensor, trimmed: Tensor | None, cheap: Tensor | None) -> Tensor:
    """The origin of each value of a map.

    Args:
        values: The map, on the grid, of one number a position or several; NaN where nothing is known.
        measured: Truth values on the grid, true for positions that were computed.
        trimmed: True for those of them that had small changes dropped; None if none had.
        cheap: Values by a cheap session, NaN where that was not asked; None without one.

    Returns:
        uint8 of `Status`, on the grid.

    Examples:
        >>> values, measured = torch.tensor([1.0, 2.0, torch.nan]), torch.tensor([True, False, False])
        >>> [Status(each).name for each in status_of(values, measured, None, None).tolist()]
        ['EXACT', 'INTERPOLATED', 'UNKNOWN']
    """
    unknown = values.isnan().reshape(*measured.shape, -1).all(-1)
    status = torch.full_like(unknown, Status.INTERPOLATED, dtype=torch.uint8)
    status[unknown] = Status.UNKNOWN
    status[measured] = Status.EXACT
    if trimmed is not None:
        status[measured & trimmed] = Status.TRIMMED
    if cheap is not None:
        status[~measured & ~cheap.isnan() & ~unknown] = Status.LINEARISED
    return status.to(torch.uint8)
