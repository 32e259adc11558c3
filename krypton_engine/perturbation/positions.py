"""The role of what is covered: a list of positions, each of which covers some cells of an input."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arguments import whole
from krypton_engine.common.arrays import IntArray
from krypton_engine.errors import InputError


class Positions(Protocol):
    """Positions over an input, numbered from 0 on: those of a sliding window, or regions of any shape.

    Attributes:
        input_shape: Shape of one input without its batch dimension.
    """

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input without its batch dimension."""

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Shape of a map of one value for every position."""

    @property
    def kind(self) -> Hashable:
        """Key of all positions that one proof of a graph holds for."""

    @property
    def plain(self) -> Positions:
        """The positions alone, whatever they are filled with."""

    def __len__(self) -> int: ...

    def boxes(self, positions: IntArray) -> IntArray:
        """Bounding boxes of the covered cells: ``(positions, axes, 2)``, half-open."""

    def spans(self, axis: int) -> bool:
        """Whether every position covers the whole of an axis."""

    def starts(self, axis: int) -> IntArray:
        """First cells of the distinct intervals that positions cover along an axis."""

    def stops(self, axis: int) -> IntArray:
        """The cell after the last one of each of these intervals."""

    def mean_cells(self, extents: Mapping[int, IntArray]) -> float:
        """Cells of a box, the mean over all positions, given its extent for every interval, by axis."""

    def average(self, differences: Tensor) -> Tensor:
        """Mean of ``(..., positions)`` over the positions that cover a cell: ``(..., *input_shape)``."""

    def touching(self, region: Tensor | Sequence[int]) -> IntArray:
        """Positions that cover a cell of a region: a mask or a box, as `region_mask` takes them.

        Raises:
            InputError: The region does not fit the input, or no position covers any of it.
        """

    def describe(self) -> str:
        """The positions in words, for the first line of a plan."""


def image_axes(positions: Positions) -> int:
    """The number of the grid's last axes that make one picture: those of the input but its first, channels.

    Args:
        positions: The positions.

    Returns:
        2 for images and signals, whose grids have that many axes at most beside the channels'; of a volume as
        many as the window slides along, but 2 at least.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> image_axes(SlidingWindow((3, 24, 20), (1, 8, 8), (1, 4, 4)))
        2
        >>> image_axes(SlidingWindow((1, 24, 24, 20), (1, 8, 8, 8), (1, 4, 4, 4)))
        3
    """
    return max(2, sum(not positions.spans(axis) for axis in range(1, len(positions.input_shape))))


def region_mask(region: Tensor | Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """The cells of a region: a boolean tensor of an input's shape.

    Args:
        region: Boolean mask of the input's shape (or of its last dimensions), or a box over the last
            dimensions as ``(first_0, first_1, ..., last_0, last_1, ...)``, half-open: for an image
            ``(top, left, bottom, right)``.
        shape: Shape of one input without its batch dimension.

    Raises:
        InputError: The region does not fit the input.

    Examples:
        >>> region_mask((1, 0, 2, 3), (2, 4))
        tensor([[False, False, False, False],
                [ True,  True,  True, False]])
    """
    accepted = (
        f"a boolean mask that broadcasts to {shape}, or a box (first..., last...) of its last dimensions"
    )
    is_mask = isinstance(region, (Tensor, np.ndarray)) and region.dtype in (torch.bool, np.dtype(bool))
    if is_mask and np.ndim(region):
        cells = torch.as_tensor(region, device="cpu")
        try:
            return cells.expand(shape)
        except RuntimeError:
            raise InputError("region", f"a mask of shape {tuple(cells.shape)}", accepted) from None
    try:
        found = [whole(size) for size in region]
    except TypeError:  # nothing that has items
        found = [None]
    sizes = [size for size in found if size is not None]
    if len(sizes) < len(found):
        raise InputError("region", repr(region), accepted)
    rank = len(sizes) // 2
    first, last = sizes[:rank], sizes[rank:]
    if len(sizes) % 2 or not 0 < rank <= len(shape):
        raise InputError("region", f"{tuple(sizes)}", accepted)
    for low, high, n in zip(first, last, shape[len(shape) - rank :], strict=True):
        if not 0 <= low < high <= n:
            raise InputError(
                "region",
                f"{tuple(sizes)}",
                f"cells of the input, {shape}",
                "which is empty or leaves the input",
            )
    mask = torch.zeros(shape, dtype=torch.bool, device="cpu")
    box = tuple(slice(low, high) for low, high in zip(first, last, strict=True))
    mask[(slice(None),) * (len(shape) - rank) + box] = True
    return mask
