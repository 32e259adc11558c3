"""How the value of a position was come by."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """How the value of a position was come by."""

    UNKNOWN = 0
    """Not at all: NaN."""
    INTERPOLATED = 1
    """From measured positions around it."""
    TRIMMED = 2
    """Measured, with small changes dropped on the way."""
    EXACT = 3
    """Measured, as the full computation has it within rounding."""
