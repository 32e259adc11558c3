"""Types of NumPy arrays, by their content."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

AnyArray: TypeAlias = npt.NDArray[Any]
"""Numbers of any dtype, which are yet to be looked at."""

IntArray = npt.NDArray[np.int64]
"""Positions, cells, sizes: int64."""

Floats = npt.NDArray[np.float64]
"""Values on a grid of positions, and results of arithmetic on them: float64."""

Flags = npt.NDArray[np.bool_]
"""A truth value for every cell or position."""
