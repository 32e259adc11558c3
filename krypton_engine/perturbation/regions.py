"""Regions of any shape: the cells of an input that share a number in a mask."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from krypton_engine.common.arrays import Flags, IntArray
from krypton_engine.common.values import Value
from krypton_engine.errors import InputError
from krypton_engine.perturbation.positions import region_mask
from krypton_engine.perturbation.windows import SlidingWindow

_SPARSE = 4
"""Cells of its bounding box, for each of its own, from which a region may be changed in pieces."""

_MOST_PIECES = 8
"""Pieces at most: each is a change of its own, of every layer."""

_MOST_PARTS = 32
"""Connected parts up to which pieces are looked for: beyond, they lie everywhere."""

_MOST_LOOKED_AT = 2**26
"""Cells of sparse boxes in which parts are looked for at most."""

_REACH = 1 / 8
"""Share of an axis by which a change grows to each side on its way, to judge what pieces would cost."""


def whole_numbers(mask: Tensor, name: str) -> Tensor:
    """The numbers of a mask, in int64.

    Args:
        mask: The mask.
        name: The argument that a user gave the mask as, for messages.

    Raises:
        InputError: The mask holds other numbers.

    Examples:
        >>> whole_numbers(torch.tensor([1.0, 2.0]), "feature_mask")
        tensor([1, 2])
        >>> whole_numbers(torch.tensor([1.0, 2.5]), "feature_mask")
        Traceback (most recent call last):
        krypton_engine.errors.InputError: feature_mask holds 2.5; accepted: whole numbers, ...
    """
    accepted = "whole numbers, one for every region, of 64 bits with their sign"
    if mask.layout != torch.strided or mask.is_nested or mask.is_quantized or mask.is_meta:
        raise InputError(name, "sparse, nested, quantised or without cells", problem="and so no mask")
    if mask.is_complex():
        raise InputError(name, f"{mask.dtype}", accepted, verb="holds")
    if mask.dtype == torch.uint64:
        wrapped = mask.view(torch.int64)
        if bool((wrapped < 0).any()):
            number = int(wrapped[wrapped < 0].reshape(-1)[0]) + 2**64
            raise InputError(name, f"{number}", accepted, verb="holds")
    if mask.is_floating_point():
        strange = ~(mask.abs() < 2.0**63) | (mask != mask.round())
        if bool(strange.any()):
            raise InputError(name, f"{mask[strange].reshape(-1)[0].item():g}", accepted, verb="holds")
    return mask.long()


@dataclass(frozen=True, eq=False)
class Regions(Value):
    """Sets of cells without a cell in common, which need not be connected.

    Attributes:
        input_shape: Shape of one input without its batch dimension.
        numbers: The region of every cell, from 0 on: of the input's rank, each dimension the input's or 1.
        ids: The user's number of every region, rising.
        apart: Whether scattered regions are changed piece by piece.

    Examples:
        >>> regions = Regions.of(torch.tensor([[7, 7, 2], [7, 2, 2]]), (3, 2, 3))
        >>> len(regions), regions.ids.tolist(), regions.boxes(np.array([0])).tolist()
        (2, [2, 7], [[[0, 3], [0, 2], [1, 3]]])
    """

    input_shape: tuple[int, ...]
    numbers: IntArray
    ids: IntArray
    apart: bool = field(default=False, compare=False)

    @staticmethod
    def of(mask: Tensor, input_shape: tuple[int, ...], name: str = "feature_mask") -> Regions:
        """The regions of a mask.

        Args:
            mask: Whole numbers, of a shape that broadcasts to the input's.
            input_shape: Shape of one input without its batch dimension.
            name: The argument that a user gave the mask as, for messages.

        Raises:
            InputError: The mask has another type or shape.

        Examples:
            >>> Regions.of(torch.zeros(2, 4, dtype=torch.int64), (3, 2, 3))
            Traceback (most recent call last):
            krypton_engine.errors.InputError: feature_mask has shape (2, 4); accepted: a shape that ...
        """
        mask = whole_numbers(mask, name)
        shape = (1,) * (len(input_shape) - mask.ndim) + tuple(mask.shape)
        fits = len(shape) == len(input_shape) and all(
            mine in (1, n) for mine, n in zip(shape, input_shape, strict=True)
        )
        if not fits:
            raise InputError(
                name,
                f"shape {tuple(mask.shape)}",
                f"a shape that broadcasts to the input's without the batch, {input_shape}",
                verb="has",
            )
        ids, numbers = np.unique(mask.cpu().numpy(), return_inverse=True)
        return Regions(input_shape, numbers.reshape(shape).astype(np.int64), ids.astype(np.int64))

    @staticmethod
    def tiles(input_shape: tuple[int, ...], sizes: tuple[int, ...]) -> Regions:
        """Boxes side by side, numbered row by row; those at the far edges may be cut.

        Args:
            input_shape: Shape of one input without its batch dimension.
            sizes: Size of the boxes along every axis.

        Examples:
            >>> Regions.tiles((3, 2, 5), (3, 1, 4)).numbers.tolist()
            [[[0, 0, 0, 0, 1], [2, 2, 2, 2, 3]]]
        """
        numbers = torch.zeros((1,) * len(input_shape), dtype=torch.int64)
        for axis, (n, size) in enumerate(zip(input_shape, sizes, strict=True)):
            if size < n:
                along = (torch.arange(n) // size).reshape([-1 if i == axis else 1 for i in range(len(sizes))])
                numbers = numbers * -(-n // size) + along
        return Regions.of(numbers, input_shape)

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """``(regions,)``: regions have no grid."""
        return (len(self),)

    @property
    def plain(self) -> Regions:
        """The regions themselves."""
        return self

    @property
    def kind(self) -> Hashable:
        """All regions of inputs of a shape are of one kind."""
        return "regions", self.input_shape

    def __len__(self) -> int:
        return len(self.ids)

    def boxes(self, positions: IntArray) -> IntArray:
        """Bounding boxes of regions: ``(positions, axes, 2)``, half-open."""
        return self._boxes[positions]

    @cached_property
    def _boxes(self) -> IntArray:
        return self.bounds(np.True_)

    def bounds(self, counts: Flags | np.bool_) -> IntArray:
        """Bounding boxes of the cells of every region that count; zeros where none does.

        Args:
            counts: Whether a cell counts, broadcast against ``numbers``.

        Examples:
            >>> regions = Regions.of(torch.tensor([0, 0, 1, 1]), (4,))
            >>> regions.bounds(np.array([False, True, False, False])).tolist()
            [[[1, 2]], [[0, 0]]]
        """
        counted = np.where(counts, self.numbers + 1, 0)
        found = np.zeros((len(self), len(self.input_shape), 2), dtype=np.int64)
        if not counted.ndim:
            return found
        for i, slices in enumerate(ndimage.find_objects(counted, max_label=len(self))):
            if slices is not None:
                found[i] = [(along.start, along.stop) for along in slices]
        filled = (found[..., 1] > found[..., 0]).all(1)
        for axis, (mine, size) in enumerate(zip(counted.shape, self.input_shape, strict=True)):
            if mine != size:  # the same along the axis
                found[filled, axis] = 0, size
        return found

    def cells(self, position: int, box: IntArray) -> Tensor:
        """Whether each cell of a box is of a region: broadcasts to ``(1, *extents)``.

        Examples:
            >>> regions = Regions.of(torch.tensor([[7, 7, 2], [7, 2, 2]]), (3, 2, 3))
            >>> regions.cells(0, np.array([[0, 3], [0, 2], [1, 3]]))
            tensor([[[[False,  True],
                      [ True,  True]]]])
        """
        return torch.from_numpy(self.inside(box) == position)[None]

    def inside(self, box: IntArray) -> IntArray:
        """The region of every cell of a box: of the input's rank, each dimension the box's or 1.

        Examples:
            >>> regions = Regions.of(torch.tensor([[7, 7, 2], [7, 2, 2]]), (3, 2, 3))
            >>> regions.inside(np.array([[0, 3], [0, 1], [1, 3]])).tolist()
            [[[1, 0]]]
        """
        cells = tuple(
            slice(None) if size == 1 else slice(lo, hi)
            for (lo, hi), size in zip(box.tolist(), self.numbers.shape, strict=True)
        )
        return self.numbers[cells]

    @cached_property
    def sizes(self) -> IntArray:
        """Cells of every region.

        Examples:
            >>> Regions.of(torch.tensor([[7, 7, 2], [7, 2, 2]]), (3, 2, 3)).sizes.tolist()
            [9, 9]
        """
        alike = math.prod(self.input_shape) // max(1, self.numbers.size)
        return np.bincount(self.numbers.reshape(-1), minlength=len(self)) * alike

    def spans(self, axis: int) -> bool:
        """Whether the box of every region covers the whole of an axis."""
        whole = self._boxes[:, axis] == (0, self.input_shape[axis])
        return bool(whole.all())

    def pieces(self, position: int) -> IntArray:
        """Boxes that hold a region together, ``(pieces, axes, 2)``: several far apart, or its bounding box.

        Examples:
            >>> corners = torch.zeros(32, 32, dtype=torch.int64)
            >>> corners[1:3, 1:3] = corners[-2:, -2:] = 1
            >>> regions = Regions.of(corners, (32, 32))
            >>> regions.pieces(1).tolist()
            [[[1, 3], [1, 3]], [[30, 32], [30, 32]]]
            >>> len(regions.pieces(0)), regions.scattered.tolist()
            (1, [1])
        """
        found = self._pieces.get(position)
        return self.boxes(np.array([position])) if found is None else found

    @property
    def scattered(self) -> IntArray:
        """Positions of the regions that consist of pieces far apart."""
        return np.array(sorted(self._pieces), dtype=np.int64)

    @cached_property
    def _pieces(self) -> dict[int, IntArray]:
        """The boxes of the regions that have several."""
        box_cells = (self._boxes[..., 1] - self._boxes[..., 0]).prod(1)
        sparse = np.flatnonzero(_SPARSE * self.sizes < box_cells)
        if box_cells[sparse].sum() * self.numbers.size > _MOST_LOOKED_AT * math.prod(self.input_shape):
            return {}
        whole = [axis for axis in range(len(self.input_shape)) if self.spans(axis)]
        found = {}
        for position in sparse.tolist():
            box = self._boxes[position]
            mine = self.inside(box) == position
            pieces = _connected(mine)
            if pieces is None:
                continue
            # Along an axis on which the mask does not vary there is one cell for all.
            varies = np.array(mine.shape) > 1
            pieces = np.where(varies[:, None], pieces + box[:, :1], box)
            pieces[:, whole] = box[whole]
            pieces = merged(pieces, self.input_shape)
            if len(pieces) > 1:
                found[position] = pieces
        return found

    @cached_property
    def _intervals(self) -> list[tuple[IntArray, IntArray]]:
        """By axis: the distinct intervals of boxes, and the number among them of every box to be changed.

        Of regions in pieces, the bounding boxes are among the intervals too.
        """
        boxes = self._boxes
        if self.apart:
            every = range(len(self))
            boxes = np.concatenate([*(self.pieces(position) for position in every), boxes])
        count = len(boxes) - len(self) if self.apart else len(self)
        found = []
        for axis in range(len(self.input_shape)):
            distinct, which = np.unique(boxes[:, axis], axis=0, return_inverse=True)
            found.append((distinct, which.reshape(-1)[:count]))
        return found

    def starts(self, axis: int) -> IntArray:
        """First cells of the distinct intervals of boxes along an axis."""
        return self._intervals[axis][0][:, 0]

    def stops(self, axis: int) -> IntArray:
        """The cell after the last one of each of these intervals."""
        return self._intervals[axis][0][:, 1]

    def mean_cells(self, extents: Mapping[int, IntArray]) -> float:
        """Cells of a region's box, or of all its pieces', the mean over all regions.

        Examples:
            >>> regions = Regions.of(torch.tensor([[0, 1, 1], [0, 1, 1]]), (2, 3))
            >>> regions.mean_cells({axis: regions.stops(axis) - regions.starts(axis) for axis in (0, 1)})
            3.0
        """
        cells = np.ones(len(self._intervals[0][1]))
        for axis, along in extents.items():
            cells *= along[self._intervals[axis][1]]
        return float(cells.sum() / len(self))

    def average(self, differences: Tensor) -> Tensor:
        """The difference of its region at every cell: Captum's attribution.

        Args:
            differences: ``(..., regions)``.

        Returns:
            ``(..., *input_shape)``, of the same dtype.

        Examples:
            >>> Regions.of(torch.tensor([0, 1, 1, 0]), (4,)).average(torch.tensor([2.0, 5.0]))
            tensor([2., 5., 5., 2.])
        """
        spread = differences[..., torch.from_numpy(self.numbers).to(differences.device)]
        return spread.expand((*differences.shape[:-1], *self.input_shape))

    def touching(self, region: Tensor | Sequence[int]) -> IntArray:
        """Regions that share a cell with another one; see `Positions.touching`.

        Raises:
            InputError: That region does not fit the input, or holds no cell.

        Examples:
            >>> Regions.of(torch.tensor([0, 1, 1, 2]), (4,)).touching((0, 2)).tolist()
            [0, 1]
        """
        touched = region_mask(region, self.input_shape).numpy()
        found = np.unique(np.broadcast_to(self.numbers, self.input_shape)[touched])
        if not len(found):
            raise InputError("region", "no cell of the input", verb="holds")
        return found

    @property
    def grid(self) -> SlidingWindow | None:
        """The sliding window whose positions are these regions: equal boxes, side by side, numbered by rows.

        Returns:
            None where there is none: then regions have no neighbours.

        Examples:
            >>> Regions.of(torch.tensor([[0, 0, 1], [0, 0, 1], [2, 2, 3]]), (3, 3)).grid.shape
            (2, 2)
            >>> Regions.of(torch.tensor([[0, 0, 1], [0, 1, 1]]), (2, 3)).grid
        """
        if not len(self):
            return None
        shape = tuple(self._boxes[0, :, 1].tolist())
        if self._boxes[0, :, 0].any() or not all(shape):
            return None
        window = SlidingWindow(self.input_shape, shape, shape)
        everywhere = np.arange(len(window), dtype=np.int64)
        alike = len(window) == len(self) and np.array_equal(window.boxes(everywhere), self._boxes)
        filled = self._boxes[..., 1] - self._boxes[..., 0]
        return window if alike and np.array_equal(filled.prod(1), self.sizes) else None

    def describe(self) -> str:
        """The regions in words.

        Examples:
            >>> Regions.of(torch.tensor([[0, 1, 1], [0, 1, 1]]), (2, 3)).describe()
            '2 regions, input 2x3'
        """
        return f"{len(self)} regions, input {'x'.join(map(str, self.input_shape))}"


def _connected(cells: Flags) -> IntArray | None:
    """Bounding boxes of connected cells, ``(parts, axes, 2)``; None for one part, and for very many."""
    numbers, count = ndimage.label(cells, np.ones((3,) * cells.ndim))
    if not 1 < count <= _MOST_PARTS:
        return None
    slices = ndimage.find_objects(numbers)
    return np.array([[(along.start, along.stop) for along in each] for each in slices], dtype=np.int64)


def merged(boxes: IntArray, shape: tuple[int, ...]) -> IntArray:
    """Boxes as few as pays: two become one where that costs no more than both, as they grow on their way.

    Args:
        boxes: ``(boxes, axes, 2)``.
        shape: The input's shape.

    Returns:
        ``(merged, axes, 2)``, at most eight.

    Examples:
        >>> merged(np.array([[[0, 2]], [[3, 5]], [[90, 99]]]), (99,)).tolist()
        [[[0, 5]], [[90, 99]]]
    """
    size = np.array(shape)
    reach = np.ceil(_REACH * size).astype(np.int64)

    def cost(box: IntArray) -> IntArray:
        low, high = np.maximum(box[..., 0] - reach, 0), np.minimum(box[..., 1] + reach, size)
        return np.asarray((high - low).prod(-1))

    found = boxes
    while len(found) > 1:
        first, second = np.triu_indices(len(found), 1)
        low = np.minimum(found[first, :, 0], found[second, :, 0])
        high = np.maximum(found[first, :, 1], found[second, :, 1])
        union = np.stack([low, high], -1)
        saved = cost(found[first]) + cost(found[second]) - cost(union)
        best = int(saved.argmax())
        if saved[best] < 0 and len(found) <= _MOST_PIECES:
            break
        others = np.delete(found, [first[best], second[best]], axis=0)
        found = np.concatenate([others, union[best][None]])
    return found[np.lexsort(found[:, ::-1, 0].T)]
