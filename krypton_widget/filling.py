"""Between measured positions: interpolation, for display and for comparing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

COARSEST = 8
"""Step of the coarsest grid that `coarse_to_fine` lays."""


def every(shape: tuple[int, ...], step: int) -> Flags:
    """Cells of the grid of every ``step``-th cell along each axis."""
    cells = np.zeros(shape, dtype=bool)
    cells[::step, ::step] = True
    return cells


def finest_complete(measured: Flags, wanted: Flags) -> int | None:
    """Smallest step whose grid has been measured wherever it is wanted; None before the coarsest has.

    Args:
        measured: Cells that have been measured.
        wanted: Cells that are to be shown, measured or filled.
    """
    complete = None
    step = COARSEST
    while step >= 1:
        asked = wanted & every(measured.shape, step)
        if not measured[asked].all():
            break
        if asked.any():
            complete = step
        step //= 2
    return complete


def filled(values: Floats, measured: Flags) -> Floats:
    """``values`` with every cell that was not measured interpolated.

    From grid to twice finer grid, a new cell is halfway between its neighbours, unless it was measured.
    Coarse cells that nobody measured (outside a region) begin as their nearest measured neighbour.

    Args:
        values: On the grid; ignored where not measured.
        measured: Cells that have been measured, at least one.
    """
    from scipy.ndimage import distance_transform_edt

    if measured.all():
        return values.copy()
    nearest = distance_transform_edt(~measured, return_distances=False, return_indices=True)
    estimate = values[tuple(nearest)][::COARSEST, ::COARSEST]
    step = COARSEST
    while step > 1:
        step //= 2
        known, cells = measured[::step, ::step], values[::step, ::step]
        estimate = _twice(_twice(estimate, known.shape[0], 0), known.shape[1], 1)
        estimate = np.where(known, cells, estimate)
    return estimate.astype(np.float32)


def _twice(cells: Floats, size: int, axis: int) -> Floats:
    """A grid of ``size`` cells, every second of which is new: halfway, and level beyond the last."""
    cells = np.moveaxis(cells, axis, 0)
    finer = np.repeat(cells, 2, axis=0)
    finer[1:-1:2] = (cells[:-1] + cells[1:]) / 2
    return np.moveaxis(finer[:size], 0, axis)
