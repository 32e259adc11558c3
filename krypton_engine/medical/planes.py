"""Planes of a DICOM series, put in order by where they lie: pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.errors import InputError
from krypton_engine.medical.geometry import LPS, Geometry

_ALIKE = 1e-3
"""Difference of direction cosines, and of spacings in millimetres, that is rounding in a file."""

_EVEN = 0.02
"""Share of the distance between planes by which one may lie beside its place."""


@dataclass(frozen=True)
class Plane:
    """One slice as DICOM places it, in millimetres to the left, backward and up (LPS).

    Attributes:
        position: Centre of the first cell.
        along_row: Unit vector in which columns follow each other.
        along_column: Unit vector in which rows follow each other.
        spacing: Distance of rows, and distance of columns.
        thickness: Distance to the next plane, where there is only one.
    """

    position: tuple[float, float, float]
    along_row: tuple[float, float, float]
    along_column: tuple[float, float, float]
    spacing: tuple[float, float]
    thickness: float = 1.0

    @property
    def normal(self) -> Floats:
        """The unit vector across the plane.

        Examples:
            >>> Plane((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1)).normal
            array([0., 0., 1.])
        """
        across = np.cross(self.along_row, self.along_column)
        return np.asarray(across / np.linalg.norm(across))


def in_order(planes: Sequence[Plane], size: tuple[int, int]) -> tuple[IntArray, Geometry]:
    """The order of planes along their normal, and the geometry of the volume that they make.

    Args:
        planes: Planes in any order.
        size: Rows and columns of each.

    Returns:
        Indices of the planes by rising place, int64, and the geometry with axes in the order ``"DHW"``.

    Raises:
        InputError: Planes have several orientations or spacings, lie at one place, or have gaps.

    Examples:
        >>> planes = [Plane((0, 0, z), (1, 0, 0), (0, 1, 0), (0.5, 0.5)) for z in (4.0, 0.0, 2.0)]
        >>> order, geometry = in_order(planes, (8, 8))
        >>> order.tolist(), geometry.spacing
        ([1, 2, 0], (2.0, 0.5, 0.5))
        >>> in_order([planes[0], planes[0]], (8, 8))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: source has 2 images at one place; accepted: ...
    """
    first = planes[0]
    for plane in planes:
        turned = np.subtract([*plane.along_row, *plane.along_column], [*first.along_row, *first.along_column])
        if np.abs(turned).max() > _ALIKE:
            raise _refused("images of several orientations", "slices that are parallel")
        if np.abs(np.subtract(plane.spacing, first.spacing)).max() > _ALIKE:
            raise _refused("images whose pixels differ in size", "pixels of one size")
    positions = np.array([plane.position for plane in planes], dtype=np.float64)
    depths = positions @ first.normal
    order = np.argsort(depths, kind="stable").astype(np.int64)
    step = first.normal * first.thickness
    if len(planes) > 1:
        steps = np.diff(depths[order])
        usual = float(np.median(steps))
        close = int((steps < max(_ALIKE, _EVEN * usual)).sum())
        if close:
            raise _refused(
                f"{close + 1} images at one place"
                if close == len(steps)
                else f"{close} places with several images",
                "one image a place: one phase, echo or time",
            )
        step = (positions[order[-1]] - positions[order[0]]) / (len(planes) - 1)
        line = positions[order[0]] + np.arange(len(planes))[:, None] * step
        beside = np.linalg.norm(positions[order] - line, axis=1)
        if beside.max() > _EVEN * np.linalg.norm(step):
            raise _uneven(steps, usual)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = np.multiply(first.along_column, first.spacing[0])
    affine[:3, 2] = np.multiply(first.along_row, first.spacing[1])
    affine[:3, 3] = positions[order[0]]
    return order, Geometry(LPS @ affine, (len(planes), *size))


def _uneven(steps: Floats, usual: float) -> InputError:
    """The error of planes that do not follow each other evenly along one line."""
    after = int(np.abs(steps - usual).argmax())
    if abs(steps[after] - usual) > _EVEN * usual:
        given = f"{steps[after]:.4g} mm from slice {after + 1} to the next, and {usual:.4g} mm elsewhere"
        return _refused(given, "slices that are evenly spaced, without gaps")
    return _refused("images that are shifted beside each other", "slices along one line")


def _refused(given: str, accepted: str) -> InputError:
    return InputError("source", given, accepted, verb="has")
