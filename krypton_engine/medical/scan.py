"""Scan: an image with its geometry, as a model takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.common.arguments import real
from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.values import Value
from krypton_engine.errors import InputError
from krypton_engine.medical.geometry import Geometry, Order


@dataclass(frozen=True, eq=False)
class Scan(Value):
    """An image in the scanner's own numbers, and where it lies in the patient.

    Attributes:
        tensor: Float32 ``(C, D, H, W)``: channels, slices, rows, columns; of a picture ``(C, H, W)``. With
            the geometry's order ``"WHD"`` the axes after the channels are the other way round.
        geometry: Place of every cell; of a picture, that of its one slice.
        levels: The numbers that are black and white on a screen (window and level); None where unknown.

    Raises:
        InputError: The tensor does not fit the geometry.

    Examples:
        >>> scan = Scan.of(np.zeros((1, 40, 64, 64)), Geometry.of_spacing((40, 64, 64), (3.0, 0.5, 0.5)))
        >>> scan
        Scan(1 x 40 x 64 x 64, 3 x 0.5 x 0.5 mm)
        >>> scan.window_mm(12)
        (1, 4, 24, 24)
    """

    tensor: Tensor = field(repr=False)
    geometry: Geometry
    levels: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if tuple(self.tensor.shape[1:]) not in (self.geometry.shape, self._plane):
            raise InputError(
                "tensor",
                f"shape {tuple(self.tensor.shape)}",
                f"(channels, {', '.join(map(str, self.geometry.shape))}), as of the geometry",
                verb="has",
            )

    @staticmethod
    def of(cells: AnyArray, geometry: Geometry, levels: tuple[float, float] | None = None) -> Scan:
        """The scan of an array of real numbers: the channels, then the geometry's axes."""
        with np.errstate(over="ignore"):  # beyond float32 lies infinity
            numbers = np.array(cells, dtype=np.float32, order="C")
        return Scan(torch.from_numpy(numbers), geometry, levels)

    @property
    def _plane(self) -> tuple[int, ...]:
        """Sizes of the picture that the geometry's one slice is; those of no picture where it has several."""
        depth = self.geometry.order.index("D")
        shape = self.geometry.shape
        return shape[:depth] + shape[depth + 1 :] if shape[depth] == 1 else ()

    @property
    def is_picture(self) -> bool:
        """Whether the tensor has no axis of slices.

        Examples:
            >>> Scan.of(np.zeros((1, 8, 8)), Geometry.of_spacing((1, 8, 8))).is_picture
            True
        """
        return self.tensor.ndim == 3

    def window_mm(self, size: float | Sequence[float]) -> tuple[int, ...]:
        """A window, or strides, in cells: what `krypton_engine.KryptonOcclusion` takes.

        Args:
            size: Millimetres along all axes, or along each of the tensor's in its order.

        Returns:
            All channels, then the nearest number of cells, at least 1 and at most the scan's.

        Raises:
            InputError: Sizes that are not positive, or too many or too few.

        Examples:
            >>> scan = Scan.of(np.zeros((1, 40, 64, 64)), Geometry.of_spacing((40, 64, 64), (3.0, 0.5, 0.5)))
            >>> scan.window_mm((6, 16, 16)), scan.window_mm(1)
            ((1, 2, 32, 32), (1, 1, 2, 2))
        """
        shape = tuple(self.tensor.shape[1:])
        named = zip(self.geometry.order, self.geometry.spacing, strict=True)
        spacing = [mm for axis, mm in named if axis != "D" or not self.is_picture]
        given = size if isinstance(size, Sequence) else [size] * len(shape)
        sizes = [real(each) or 0.0 for each in given]
        if len(sizes) != len(shape) or not all(0 < mm < np.inf for mm in sizes):
            raise InputError("size", repr(size), f"positive millimetres, or {len(shape)} of them")
        cells = (min(max(1, round(mm / step)), n) for mm, step, n in zip(sizes, spacing, shape, strict=True))
        return (len(self.tensor), *cells)

    def arranged(self, order: Order) -> Scan:
        """The same scan with its axes in that order.

        Examples:
            >>> Scan.of(np.zeros((1, 2, 3, 4)), Geometry.of_spacing((2, 3, 4))).arranged("WHD").tensor.shape
            torch.Size([1, 4, 3, 2])
        """
        if order == self.geometry.order:
            return self
        turned_round = self.tensor.transpose(-1, 1 if self.is_picture else -3).contiguous()
        return Scan(turned_round, self.geometry.arranged(order), self.levels)

    def bytes(self) -> npt.NDArray[np.uint8]:
        """The scan as it looks on a screen: uint8 of the tensor's shape.

        Black and white are the ``levels``, or the smallest and the largest number.

        Examples:
            >>> cells = np.array([[[-1000.0, -160.0], [40.0, 2000.0]]])
            >>> Scan.of(cells, Geometry.of_spacing((1, 2, 2)), levels=(-160.0, 240.0)).bytes().tolist()
            [[[0, 0], [128, 255]]]
        """
        cells = self.tensor.double().numpy()
        finite = cells[np.isfinite(cells)]
        ends = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        low, high = self.levels or ends
        shares = (np.nan_to_num(cells, nan=low, posinf=high, neginf=low) - low) / (high - low or 1.0)
        return np.asarray((shares.clip(0, 1) * 255 + 0.5).astype(np.uint8))

    def __repr__(self) -> str:
        sizes = " x ".join(map(str, self.tensor.shape))
        return f"Scan({sizes}, {' x '.join(f'{mm:.4g}' for mm in self.geometry.spacing)} mm)"
