"""Sliding windows as Captum lays them: shapes, strides, positions, means over covering windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arguments import whole
from krypton_engine.common.arrays import IntArray
from krypton_engine.errors import InputError
from krypton_engine.perturbation.positions import Positions, region_mask


@dataclass(frozen=True)
class SlidingWindow:
    """A window of ``shape`` that slides by ``strides`` over an input of shape ``input_shape``.

    Along an axis of size ``H`` with window ``k`` and stride ``s`` there are ``ceil((H - k) / s) + 1``
    positions; position ``i`` covers ``[i * s, min(i * s + k, H))``, so the last window may be cut.
    Positions are numbered over the grid in C order (the last axis fastest).

    Args:
        input_shape: Shape of one input without its batch dimension.
        shape: Shape of the window, one size for every axis of ``input_shape``.
        strides: Step of the window along every axis.

    Raises:
        InputError: A size is not a positive integer, the window exceeds the input, or the stride exceeds
            the window along an axis that the window does not span.

    Examples:
        >>> window = SlidingWindow((3, 24, 20), (3, 7, 6), (3, 5, 4))
        >>> window.grid_shape, len(window)
        ((5, 5), 25)
        >>> window.boxes(np.array([24])).tolist()
        [[[0, 3], [20, 24], [16, 20]]]
    """

    input_shape: tuple[int, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if 0 in self.input_shape:
            raise InputError("inputs", "empty", problem=f"its shape without the batch is {self.input_shape}")
        for name, sizes in (("sliding_window_shapes", self.shape), ("strides", self.strides)):
            if len(sizes) != len(self.input_shape):
                raise InputError(
                    name,
                    f"{len(sizes)} sizes, {tuple(sizes)}",
                    f"as many as the input has dimensions without its batch, {self.input_shape}",
                    verb="has",
                )
            if any((whole(size) or 0) < 1 for size in sizes):
                raise InputError(name, f"{tuple(sizes)}", "positive integers")
        if any(k > n for k, n in zip(self.shape, self.input_shape, strict=True)):
            raise InputError(
                "sliding_window_shapes",
                f"{self.shape}",
                f"at most the input's dimensions, {self.input_shape}",
            )
        for axis, (n, k, s) in enumerate(zip(self.input_shape, self.shape, self.strides, strict=True)):
            if k < n and s > k:
                raise InputError(
                    "strides",
                    f"{self.strides}",
                    f"at most the window, {self.shape}, along dimension {axis}, which the window does not "
                    "span (or cells between the windows would never be occluded)",
                )

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of positions along every axis.

        Examples:
            >>> SlidingWindow((3, 24, 20), (3, 7, 6), (3, 5, 4)).counts
            (1, 5, 5)
        """
        return tuple(
            math.ceil((n - k) / s) + 1
            for n, k, s in zip(self.input_shape, self.shape, self.strides, strict=True)
        )

    @cached_property
    def grid_shape(self) -> tuple[int, ...]:
        """``counts`` without the axes that the window spans: the shape of a heatmap.

        Examples:
            >>> SlidingWindow((3, 24, 20), (3, 7, 6), (3, 5, 4)).grid_shape
            (5, 5)
        """
        return tuple(n for axis, n in enumerate(self.counts) if not self.spans(axis))

    def spans(self, axis: int) -> bool:
        """Whether the window covers the whole of ``axis``.

        Examples:
            >>> window = SlidingWindow((3, 24, 20), (3, 7, 6), (3, 5, 4))
            >>> window.spans(0), window.spans(1)
            (True, False)
        """
        return self.shape[axis] == self.input_shape[axis]

    @property
    def plain(self) -> SlidingWindow:
        """The window itself."""
        return self

    @property
    def kind(self) -> Hashable:
        """The window itself: what is proved of a graph holds for this window alone."""
        return self

    def mean_cells(self, extents: Mapping[int, IntArray]) -> float:
        """Cells of a box, the mean over all positions, given its extent for every window along each axis.

        Examples:
            >>> window = SlidingWindow((5, 6), (2, 2), (2, 2))  # the last window along the first axis is cut
            >>> window.mean_cells({axis: window.stops(axis) - window.starts(axis) for axis in (0, 1)})
            3.3333333333333335
        """
        return math.prod(float(along.mean()) for along in extents.values())

    def describe(self) -> str:
        """The window in words.

        Examples:
            >>> SlidingWindow((3, 24, 20), (3, 8, 8), (3, 4, 4)).describe()
            'window 3x8x8, stride 3x4x4, input 3x24x20: 20 positions'
        """
        shape, strides, sizes = (
            "x".join(map(str, each)) for each in (self.shape, self.strides, self.input_shape)
        )
        return f"window {shape}, stride {strides}, input {sizes}: {len(self)} positions"

    def __len__(self) -> int:
        return math.prod(self.counts)

    def starts(self, axis: int) -> IntArray:
        """First cell of every window along ``axis``.

        Examples:
            >>> SlidingWindow((10,), (4,), (3,)).starts(0).tolist()
            [0, 3, 6]
        """
        return np.arange(self.counts[axis], dtype=np.int64) * self.strides[axis]

    def stops(self, axis: int) -> IntArray:
        """The cell after the last one of every window along ``axis``.

        Examples:
            >>> SlidingWindow((9,), (4,), (3,)).stops(0).tolist()  # the last window is cut
            [4, 7, 9]
        """
        return np.minimum(self.starts(axis) + self.shape[axis], self.input_shape[axis])

    def nearest(self, axis: int) -> IntArray:
        """Position, along ``axis``, of the window that is centred nearest to every cell.

        Examples:
            >>> SlidingWindow((8,), (4,), (2,)).nearest(0).tolist()
            [0, 0, 0, 1, 1, 2, 2, 2]
        """
        cells = np.arange(self.input_shape[axis]) + 0.5
        found = np.floor((cells - (self.shape[axis] - self.strides[axis]) / 2) / self.strides[axis])
        return found.astype(np.int64).clip(0, self.counts[axis] - 1)

    def coordinates(self, positions: IntArray) -> tuple[IntArray, ...]:
        """Grid coordinates of ``positions``, one array per axis of the input.

        Examples:
            >>> rows, columns = SlidingWindow((4, 6), (2, 2), (2, 2)).coordinates(np.array([0, 2, 3]))
            >>> rows.tolist(), columns.tolist()
            ([0, 0, 1], [0, 2, 0])
        """
        if not self.counts:
            return ()
        return np.unravel_index(positions, self.counts)

    def boxes(self, positions: IntArray) -> IntArray:
        """Cells that the windows at ``positions`` cover: ``(positions, axes, 2)``, half-open.

        Examples:
            >>> SlidingWindow((4, 6), (2, 2), (2, 2)).boxes(np.array([5])).tolist()
            [[[2, 4], [4, 6]]]
        """
        boxes = np.empty((len(positions), len(self.counts), 2), dtype=np.int64)
        for axis, index in enumerate(self.coordinates(positions)):
            boxes[:, axis, 0] = self.starts(axis)[index]
            boxes[:, axis, 1] = self.stops(axis)[index]
        return boxes

    def touching(self, region: Tensor | Sequence[int]) -> IntArray:
        """Positions whose window touches ``region``.

        Args:
            region: A mask or a box, as `krypton_engine.perturbation.positions.region_mask` takes them.

        Raises:
            InputError: The region does not fit the input or touches no window.

        Examples:
            >>> window = SlidingWindow((4, 6), (2, 2), (2, 2))
            >>> window.touching((0, 3, 2, 5)).tolist()
            [1, 2]
            >>> window.touching(torch.eye(4, 6) > 0).tolist()
            [0, 4]
        """
        mask = region_mask(region, self.input_shape)
        touched = mask.numpy().astype(np.int64)
        for axis in range(len(self.counts)):
            touched = self.sums(touched, axis)
        positions = np.flatnonzero(touched)
        if not len(positions):
            raise InputError(
                "region", "no cell of the input", problem="so no window touches it", verb="holds"
            )
        return positions.astype(np.int64)

    def sums(self, cells: IntArray, axis: int) -> IntArray:
        """Sums of ``cells`` over every window along ``axis``, whose positions take its place.

        Examples:
            >>> SlidingWindow((5,), (2,), (1,)).sums(np.array([1, 0, 2, 0, 4]), axis=0).tolist()
            [1, 2, 2, 4]
        """
        total = np.concatenate([np.zeros_like(cells.take([0], axis)), cells.cumsum(axis)], axis)
        return np.asarray(total.take(self.stops(axis), axis) - total.take(self.starts(axis), axis))

    def average(self, differences: Tensor) -> Tensor:
        """Mean of ``differences`` over the windows that cover a cell: Captum's attribution.

        Args:
            differences: ``(..., positions)``, one value for every position of the grid.

        Returns:
            Float32 tensor of shape ``(..., *input_shape)``.

        Examples:
            >>> SlidingWindow((3,), (2,), (1,)).average(torch.tensor([2.0, 4.0]))
            tensor([2., 3., 4.])
        """
        differences = differences.double()
        mean = self._spread(differences.nan_to_num(0.0, 0.0, 0.0))
        # 0 times NaN is NaN: what is not finite is added where its windows are.
        for value in (math.nan, math.inf, -math.inf):
            found = differences.isnan() if math.isnan(value) else differences == value
            if bool(found.any()):
                mean[self._spread(found.double()) > 0] += value
        return mean.float()

    def _spread(self, values: Tensor) -> Tensor:
        """Mean of finite ``values`` over the windows that cover a cell; shapes as in `average`."""
        lead = values.shape[:-1]
        mean = values.reshape(*lead, *self.counts)
        for axis in range(len(self.counts)):
            cells = np.arange(self.input_shape[axis])
            cover = (cells[:, None] >= self.starts(axis)) & (cells[:, None] < self.stops(axis))
            weights = torch.from_numpy(cover / cover.sum(1, keepdims=True)).to(mean.device)
            dim = len(lead) + axis
            mean = torch.tensordot(mean, weights, dims=([dim], [1])).movedim(-1, dim)
        return mean


def as_sliding(positions: Positions) -> SlidingWindow:
    """The sliding window whose positions these are, whatever fills them.

    Raises:
        TypeError: They are others.

    Examples:
        >>> window = SlidingWindow((4,), (2,), (1,))
        >>> as_sliding(window) is window
        True
    """
    if not isinstance(positions.plain, SlidingWindow):
        raise TypeError(f"{positions.describe()}: not those of a sliding window")
    return positions.plain


Contents = Callable[[int], Tensor]
"""A function from the number of a change to what the cells of its box become: ``(examples, *extents)``."""


def contents_of(contents: Contents | None, which: IntArray) -> Contents | None:
    """The contents of some changes, numbered anew.

    Args:
        contents: Contents of all changes; None for the baseline's.
        which: Numbers of some of them.

    Examples:
        >>> contents_of(lambda i: torch.full((1, 2), float(i)), np.array([3, 5]))(1)
        tensor([[5., 5.]])
    """
    return None if contents is None else lambda i: contents(int(which[i]))


def occlude(x: Tensor, baseline: Tensor, boxes: IntArray, contents: Contents | None = None) -> Tensor:
    """Copies of ``x`` whose cells inside each box are the baseline's, or those that ``contents`` gives.

    Args:
        x: ``(examples, *input_shape)``.
        baseline: Baseline of the same shape.
        boxes: ``(copies, axes, 2)``.
        contents: Function that gives the cells of a box by its number; None for the baseline's.

    Returns:
        ``(copies * examples, *input_shape)``, copy by copy, in the memory layout of ``x``.

    Examples:
        >>> x = torch.ones(1, 4)
        >>> occlude(x, torch.zeros(1, 4), np.array([[[0, 2]], [[2, 4]]])).tolist()
        [[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]]
    """
    dtype = torch.result_type(x, baseline)
    copies = torch.cat([x.to(dtype)] * len(boxes))
    for i, box in enumerate(boxes.tolist()):
        cells = (slice(None), *(slice(lo, hi) for lo, hi in box))
        become = baseline[cells] if contents is None else contents(i)
        copies[i * len(x) : (i + 1) * len(x)][cells] = become.to(dtype)
    return copies


def replaced(x: Tensor, box: IntArray, content: Tensor) -> Tensor:
    """A copy of ``x`` with other values in the cells of a box.

    Args:
        x: ``(examples, *input_shape)``.
        box: ``(axes, 2)``.
        content: The values: ``(examples, *extents)``.

    Examples:
        >>> replaced(torch.zeros(1, 4), np.array([[1, 3]]), torch.ones(1, 2))
        tensor([[0., 1., 1., 0.]])
    """
    return occlude(x, x, box[None], lambda _: content)


def filled(
    x: Tensor,
    boxes: IntArray,
    contents: Contents,
    starts: Mapping[int, IntArray],
    extents: Mapping[int, int],
) -> Tensor:
    """Parts of ``x``, one for every change, in which the cells of its box are those that ``contents`` gives.

    Args:
        x: ``(examples, *input_shape)``.
        boxes: ``(changes, axes, 2)``.
        contents: Contents of the boxes.
        starts: First cell of each part, by axis.
        extents: Size of the parts, by axis; each holds the box of its change.

    Returns:
        ``(changes * examples, *extents)``, change by change.

    Examples:
        >>> ones = lambda _: torch.ones(1, 1)
        >>> filled(torch.zeros(1, 4), np.array([[[1, 2]], [[3, 4]]]), ones, {0: np.array([0, 2])}, {0: 2})
        tensor([[0., 1.],
                [0., 1.]])
    """
    parts = []
    for i, changed in enumerate(boxes):
        first = [int(starts[axis][i]) for axis in range(len(changed))]
        inside = [slice(start, start + extents[axis]) for axis, start in enumerate(first)]
        box = changed - np.array(first)[:, None]
        parts.append(replaced(x[(slice(None), *inside)], box, contents(i).to(x)))
    return torch.cat(parts)
