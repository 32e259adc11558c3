"""The place of an image's cells in the patient."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from krypton_engine.common.arguments import whole
from krypton_engine.common.arrays import AnyArray, Floats
from krypton_engine.common.values import Value
from krypton_engine.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

Order: TypeAlias = Literal["DHW", "WHD"]
"""The meaning of an image's axes: slices, rows, columns, or the other way round."""

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS to the coordinates of DICOM and ITK, and back: to the left, backward, up."""

_PARALLEL = 1e-9
"""Volume of three directions, each of length 1, below which they span no space."""


@dataclass(frozen=True, eq=False)
class Geometry(Value):
    """Where the centre of every cell lies in the patient.

    An image has three axes here: a picture is a volume of one slice.

    Attributes:
        affine: Float64 ``(4, 4)``: from the indices of a cell, in the order of the image's axes, to
            millimetres to the patient's right, forward and up (RAS, as NIfTI and nibabel have it).
        shape: Number of cells along every axis.
        order: What the axes are: ``"DHW"``, slices, rows and columns, or ``"WHD"``, as nibabel and MONAI.
        series: Headers of the DICOM files that it comes from, slice by slice: what a written object has to
            say of its source, and nothing else; empty for other files.

    Raises:
        InputError: The affine has another shape, holds other numbers, or cannot be inverted; a size is no
            positive integer.

    Examples:
        >>> geometry = Geometry.of_spacing((40, 64, 64), (3.0, 0.5, 0.5))
        >>> geometry.spacing, geometry.world((1, 2, 4))
        ((3.0, 0.5, 0.5), array([2., 1., 3.]))
    """

    affine: Floats
    shape: tuple[int, int, int]
    order: Order = "DHW"
    series: tuple[Dataset, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise InputError("order", repr(self.order), " or ".join(map(repr, get_args(Order))))
        if len(self.shape) != 3 or any((whole(n) or 0) < 1 for n in self.shape):
            raise InputError("shape", f"{tuple(self.shape)}", "three positive integers")
        object.__setattr__(self, "affine", checked_affine(self.affine))
        object.__setattr__(self, "shape", tuple(map(int, self.shape)))

    @staticmethod
    def of_spacing(
        shape: tuple[int, int, int],
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        order: Order = "DHW",
    ) -> Geometry:
        """The geometry of an image of which no more is known than the size of its cells.

        Columns lie to the right, rows forward and slices up, from the origin on: an identity affine in NIfTI
        where the spacing is 1.

        Args:
            shape: Number of cells along every axis.
            spacing: Millimetres from cell to cell along every axis.
            order: Meaning of the axes.

        Raises:
            InputError: A spacing is not positive.

        Examples:
            >>> Geometry.of_spacing((2, 3, 4)).affine.tolist()
            [[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
        """
        if not all(0 < size < np.inf for size in spacing):
            raise InputError("spacing", f"{tuple(spacing)}", "positive millimetres")
        affine = np.zeros((4, 4))
        for axis, size in enumerate(spacing):
            affine["WHD".index(order[axis]), axis] = size
        affine[3, 3] = 1
        return Geometry(affine, shape, order)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from cell to cell along every axis.

        Examples:
            >>> Geometry.of_spacing((2, 3, 4), (5.0, 1.5, 0.5)).spacing
            (5.0, 1.5, 0.5)
        """
        first, second, third = map(float, np.linalg.norm(self.affine[:3, :3], axis=0))
        return first, second, third

    def world(self, indices: npt.ArrayLike) -> Floats:
        """World coordinates of cells, in millimetres (RAS).

        Args:
            indices: ``(..., 3)``, fractions of cells too.

        Returns:
            Float64 ``(..., 3)``.

        Examples:
            >>> Geometry.of_spacing((2, 3, 4), (5.0, 1.5, 0.5)).world([[0, 0, 0], [1, 0, 2]]).tolist()
            [[0.0, 0.0, 0.0], [1.0, 0.0, 5.0]]
        """
        indices = np.asarray(indices, dtype=np.float64)
        return np.asarray(indices @ self.affine[:3, :3].T + self.affine[:3, 3])

    def of_grid(
        self, shape: tuple[int, ...], strides: tuple[int, ...], counts: tuple[int, int, int]
    ) -> Geometry:
        """The geometry of a grid of windows, whose cells' centres are the windows' centres.

        A last window that the image's end cuts counts as whole, and one alone is as large as its cell.

        Args:
            shape: Size of the window in cells along every axis.
            strides: Step of the window along every axis.
            counts: Number of windows along every axis.

        Examples:
            >>> grid = Geometry.of_spacing((4, 8, 8)).of_grid((4, 4, 4), (4, 2, 2), (1, 3, 3))
            >>> grid.shape, grid.spacing, grid.world((0, 0, 0))
            ((1, 3, 3), (4.0, 2.0, 2.0), array([1.5, 1.5, 1.5]))
        """
        alone = zip(shape, strides, counts, strict=True)
        step = np.diag([*(float(size if count == 1 else stride) for size, stride, count in alone), 1.0])
        step[:3, 3] = [(size - 1) / 2 for size in shape]
        return Geometry(self.affine @ step, counts, self.order, self.series)

    def arranged(self, order: Order) -> Geometry:
        """The same cells with their axes in that order.

        Examples:
            >>> Geometry.of_spacing((2, 3, 4)).arranged("WHD").shape
            (4, 3, 2)
        """
        if order == self.order:
            return self
        return replace(self, affine=self.affine[:, [2, 1, 0, 3]], shape=self.shape[::-1], order=order)


def checked_affine(given: npt.ArrayLike) -> Floats:
    """An affine as a float64 array of its own that cannot be written to.

    Raises:
        InputError: Anything else than an invertible affine of four by four finite numbers.

    Examples:
        >>> checked_affine(np.eye(4)).dtype, checked_affine(np.eye(4)).flags.writeable
        (dtype('float64'), False)
        >>> checked_affine(np.zeros((4, 4)))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: affine is [[0.0, ...; accepted: an invertible 4 x 4 affine, ...
    """
    try:
        affine = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        affine = np.empty(0)
    if affine.shape == (4, 4) and np.isfinite(affine).all() and (affine[3] == (0, 0, 0, 1)).all():
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if lengths.all() and abs(np.linalg.det(affine[:3, :3] / lengths)) > _PARALLEL:
            affine.setflags(write=False)
            return affine
    shown = affine.tolist() if affine.size <= 16 else f"of shape {affine.shape}"
    raise InputError("affine", f"{shown}", "an invertible 4 x 4 affine, from indices to millimetres (RAS)")


def turned(cells: AnyArray, order: Order, wanted: Order) -> AnyArray:
    """Cells ``(..., axis, axis, axis)`` of an order of axes in another order.

    Examples:
        >>> turned(np.zeros((1, 2, 3, 4)), "DHW", "WHD").shape
        (1, 4, 3, 2)
    """
    return cells if order == wanted else np.swapaxes(cells, -1, -3)
