"""Numbers as users give them: Python's, NumPy's, or a tensor without dimensions; a truth value is none."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def whole(given: Any) -> int | None:
    """An integer; None for anything else."""
    if isinstance(given, bool) or getattr(given, "dtype", None) in (torch.bool, np.dtype(bool)):
        return None
    try:
        return operator.index(given)
    except TypeError:
        return None


def real(given: Any) -> float | None:
    """A number on the real line, which may be none (NaN); None for anything else."""
    if isinstance(given, (Tensor, np.ndarray)) and given.ndim == 0:
        given = given.item()
    return float(given) if isinstance(given, Real) and not isinstance(given, bool) else None
