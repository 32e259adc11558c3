"""Numbers as users give them, of Python, NumPy or PyTorch; a truth value is no number."""

from __future__ import annotations

import operator
from numbers import Real
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from krypton_engine.errors import InputError


def whole(given: object) -> int | None:
    """An integer of any library as Python's; None for anything else.

    Examples:
        >>> whole(np.int32(3)), whole(torch.tensor(3)), whole(3.0), whole(True)
        (3, 3, None, None)
    """
    if isinstance(given, bool) or getattr(given, "dtype", None) in (torch.bool, np.dtype(bool)):
        return None
    if not isinstance(given, SupportsIndex):
        return None
    try:
        return operator.index(given)
    except TypeError:
        return None


def real(given: object) -> float | None:
    """A real number of any library as Python's, NaN and infinity too; None for anything else.

    Examples:
        >>> real(np.float32(0.5)), real(torch.tensor(2)), real("2"), real(True)
        (0.5, 2.0, None, None)
    """
    if isinstance(given, (Tensor, np.ndarray)) and given.ndim == 0:
        given = given.item()
    return float(given) if isinstance(given, Real) and not isinstance(given, bool) else None


def at_least(least: int, name: str, given: object) -> int:
    """A whole number that is large enough.

    Args:
        least: The smallest that is.
        name: The argument that a user gave the number as.
        given: The number.

    Raises:
        InputError: Anything else.

    Examples:
        >>> at_least(1, "samples", 3)
        3
        >>> at_least(1, "samples", 0)
        Traceback (most recent call last):
        krypton_engine.errors.InputError: samples is 0; accepted: an integer of at least 1
    """
    number = whole(given)
    if number is None or number < least:
        raise InputError(name, repr(given), f"an integer of at least {least}")
    return number
