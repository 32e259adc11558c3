"""The origin of a position's value."""

from __future__ import annotations

from enum import IntEnum


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
