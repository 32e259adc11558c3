"""Cells that really change at each position, and the positions that change the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import Flags, IntArray
from krypton_engine.perturbation.fillings import Fill
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import Contents, SlidingWindow, contents_of


class Changed(Protocol):
    """The cells that every position really changes, and what they become.

    Attributes:
        any: Whether any position changes anything.
        merges: Whether positions with the same box change the same cells.
    """

    any: bool
    merges: bool

    @property
    def window(self) -> Positions:
        """The positions."""

    def boxes(self, positions: IntArray) -> IntArray:
        """Bounding boxes ``(positions, axes, 2)`` of the changed cells, all zeros where nothing changes."""

    def content(self, position: int) -> Tensor | None:
        """What the cells of a position's box become, ``(examples, *extents)``; None for the baseline's."""


class ChangedCells:
    """The cells that every window really changes: those where the baseline differs from the input.

    Args:
        window: The sliding window.
        differs: Boolean array of the input's shape, true where occluding changes the value.

    Examples:
        >>> window = SlidingWindow((4, 4), (2, 2), (2, 2))
        >>> differs = np.zeros((4, 4), dtype=bool)
        >>> differs[1, 1] = True
        >>> ChangedCells(window, differs).boxes(np.array([0, 3])).tolist()
        [[[1, 2], [1, 2]], [[0, 0], [0, 0]]]
    """

    merges = True

    def __init__(self, window: SlidingWindow, differs: Flags) -> None:
        self.window = window
        self.any = bool(differs.any())
        along = tuple(axis for axis in range(differs.ndim) if window.spans(axis))
        self._differs: Flags = np.any(differs, axis=along, keepdims=True)

    def boxes(self, positions: IntArray) -> IntArray:
        """Bounding boxes ``(positions, axes, 2)`` of the changed cells, all zeros where nothing changes.

        Two positions with the same box change the same cells: the window holds the box, so the cells that
        change in the window are those that differ from the baseline within the box.

        Examples:
            >>> differs = np.array([True, False, True, True])
            >>> ChangedCells(SlidingWindow((4,), (2,), (1,)), differs).boxes(np.array([0, 1, 2])).tolist()
            [[[0, 1]], [[2, 3]], [[2, 4]]]
        """
        return self._boxes[positions]

    def content(self, position: int) -> None:
        """None: the cells of a window become the baseline's."""

    @cached_property
    def _boxes(self) -> IntArray:
        """The boxes of all positions."""
        window = self.window
        boxes = window.boxes(np.arange(len(window), dtype=np.int64))
        if self._differs.all():
            return boxes
        axes = [axis for axis in range(len(window.counts)) if not window.spans(axis)]
        for axis in axes:
            # Which cells along this axis differ anywhere within the window along the others.
            differing: IntArray = self._differs.astype(np.int64)
            for other in axes:
                if other != axis:
                    differing = window.sums(differing, other)
            size = window.input_shape[axis]
            cells = np.arange(size).reshape([-1 if a == axis else 1 for a in range(differing.ndim)])
            before = np.maximum.accumulate(np.where(differing, cells, -1), axis)
            after = np.flip(
                np.minimum.accumulate(np.flip(np.where(differing, cells, size), axis), axis), axis
            )
            boxes[:, axis, 0] = after.take(window.starts(axis), axis).ravel()
            boxes[:, axis, 1] = before.take(window.stops(axis) - 1, axis).ravel() + 1
        empty = (boxes[..., 1] <= boxes[..., 0]).any(1) if self.any else slice(None)
        boxes[empty] = 0
        return boxes


class ChangedRegions:
    """The cells of regions that a filling really changes.

    Args:
        regions: The regions.
        x: The input: ``(examples, *input_shape)``.
        filling: What occluded cells become, broadcast against the input.

    Examples:
        >>> regions = Regions.of(torch.tensor([0, 1, 1, 0, 1]), (5,))
        >>> changed = ChangedRegions(regions, torch.tensor([[1.0, 2, 0, 4, 5]]), torch.zeros(1))
        >>> changed.boxes(np.array([0, 1])).tolist(), changed.content(1)
        ([[[0, 4]], [[1, 5]]], tensor([[0., 0., 4., 0.]]))
    """

    merges = False

    def __init__(self, regions: Regions, x: Tensor, filling: Tensor) -> None:
        self.window = regions
        self._x, self._filling = x, filling.to(x.device).expand(x.shape)
        differs = (self._x != self._filling).any(0).cpu().numpy()
        self.any = bool(differs.any())
        # Along an axis that all regions span, boxes stay whole: executors rely on that.
        along = tuple(axis for axis in range(differs.ndim) if regions.spans(axis))
        alike = tuple(axis for axis, size in enumerate(regions.numbers.shape) if size == 1)
        self._boxes = regions.bounds(np.any(differs, axis=alike, keepdims=True))
        changes = (self._boxes[..., 1] > self._boxes[..., 0]).all(1)
        for axis in along:
            self._boxes[changes, axis] = 0, regions.input_shape[axis]

    def boxes(self, positions: IntArray) -> IntArray:
        """See `Changed.boxes`; along axes on which the mask does not vary, the boxes are whole."""
        return self._boxes[positions]

    def content(self, position: int) -> Tensor:
        """See `Changed.content`: the filling in the region, and the input's own cells beside."""
        return self.content_on(self._x, position)

    def content_on(self, x: Tensor, position: int) -> Tensor:
        """What the cells of a region's box become in another input of the shape.

        Examples:
            >>> regions, filling = Regions.of(torch.tensor([0, 1, 1, 0]), (4,)), torch.tensor([5.0])
            >>> changed = ChangedRegions(regions, torch.zeros(1, 4), filling)
            >>> changed.content_on(torch.ones(1, 4), position=0)
            tensor([[5., 1., 1., 5.]])
        """
        box = self._boxes[position]
        inside = (slice(None), *(slice(lo, hi) for lo, hi in box.tolist()))
        cells = self.window.cells(position, box).to(x.device)
        return torch.where(cells, self._filling[inside].to(x.dtype), x[inside])


@dataclass(frozen=True, eq=False)
class Filled:
    """Positions whose cells become other things at each: local means, say, or draws.

    Attributes:
        plain: The positions alone.
        fill: Function from boxes to what their cells become.

    Examples:
        >>> filled = Filled(SlidingWindow((4,), (2,), (2,)), lambda boxes: [torch.ones(1, 2) for _ in boxes])
        >>> len(filled), filled.boxes(np.array([1])).tolist(), filled.describe()
        (2, [[[2, 4]]], 'window 2, stride 2, input 4: 2 positions')
    """

    plain: SlidingWindow | Regions
    fill: Fill

    @property
    def input_shape(self) -> tuple[int, ...]:
        """See `Positions.input_shape`."""
        return self.plain.input_shape

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """See `Positions.grid_shape`."""
        return self.plain.grid_shape

    @property
    def kind(self) -> Hashable:
        """Another kind than that of the positions alone: contents reach the engine another way."""
        return "filled", self.plain.kind

    def __len__(self) -> int:
        return len(self.plain)

    def boxes(self, positions: IntArray) -> IntArray:
        """See `Positions.boxes`."""
        return self.plain.boxes(positions)

    def spans(self, axis: int) -> bool:
        """See `Positions.spans`."""
        return self.plain.spans(axis)

    def starts(self, axis: int) -> IntArray:
        """See `Positions.starts`."""
        return self.plain.starts(axis)

    def stops(self, axis: int) -> IntArray:
        """See `Positions.stops`."""
        return self.plain.stops(axis)

    def mean_cells(self, extents: Mapping[int, IntArray]) -> float:
        """See `Positions.mean_cells`."""
        return self.plain.mean_cells(extents)

    def average(self, differences: Tensor) -> Tensor:
        """See `Positions.average`."""
        return self.plain.average(differences)

    def touching(self, region: Tensor | Sequence[int]) -> IntArray:
        """See `Positions.touching`."""
        return self.plain.touching(region)

    def describe(self) -> str:
        """See `Positions.describe`."""
        return self.plain.describe()


def in_pieces(positions: Positions) -> Positions | None:
    """The same positions, the scattered regions among them changed piece by piece; None where there are none.

    Examples:
        >>> corners = torch.zeros(32, 32, dtype=torch.int64)
        >>> corners[1:3, 1:3] = corners[-2:, -2:] = 1
        >>> in_pieces(Regions.of(corners, (32, 32))).apart, in_pieces(Regions.of(corners[:4, :4], (4, 4)))
        (True, None)
    """
    plain = positions.plain
    if not isinstance(plain, Regions) or not len(plain.scattered):
        return None
    apart = replace(plain, apart=True)
    return replace(positions, plain=apart) if isinstance(positions, Filled) else apart


_TOGETHER = 64
"""Positions whose contents are made together."""

_MOST_KEPT = 2**26
"""Bytes of contents that are kept, since they are looked at before they are computed with."""


class ChangedFillings:
    """The cells of positions whose contents differ from position to position.

    Args:
        filled: The positions, and what fills them.
        x: The input: ``(1, *input_shape)``.

    Examples:
        >>> window = SlidingWindow((4,), (2,), (2,))
        >>> def twice(boxes):
        ...     return [torch.full((1, 2), 2.0) for _ in boxes]
        >>> changed = ChangedFillings(Filled(window, twice), torch.tensor([[2.0, 2.0, 3.0, 4.0]]))
        >>> changed.boxes(np.array([0, 1])).tolist(), changed.content(1)
        ([[[0, 0]], [[2, 4]]], tensor([[2., 2.]]))
    """

    merges = False
    any = True

    def __init__(self, filled: Filled, x: Tensor) -> None:
        self.window = filled
        self._x = x
        self._made: dict[int, list[Tensor]] = {}
        self._bytes = 0

    def boxes(self, positions: IntArray) -> IntArray:
        """See `Changed.boxes`: whole boxes, or none where the contents are the input's own cells."""
        boxes = self.window.boxes(positions).copy()
        for i, position in enumerate(positions.tolist()):
            if torch.equal(self.content(position), self._inside(boxes[i])):
                boxes[i] = 0
        return boxes

    def content(self, position: int) -> Tensor:
        """See `Changed.content`."""
        block, number = divmod(position, _TOGETHER)
        if block not in self._made:
            last = min((block + 1) * _TOGETHER, len(self.window))
            some = np.arange(block * _TOGETHER, last, dtype=np.int64)
            made = self.window.fill(self.window.boxes(some))
            if self._bytes > _MOST_KEPT:
                self._made, self._bytes = {}, 0
            self._made[block] = made
            self._bytes += sum(each.numel() * each.element_size() for each in made)
        content = self._made[block][number].to(self._x)
        if isinstance(self.window.plain, Regions):
            box = self.window.boxes(np.array([position]))[0]
            cells = self.window.plain.cells(position, box).to(self._x.device)
            content = torch.where(cells, content, self._inside(box))
        return content

    def _inside(self, box: IntArray) -> Tensor:
        return self._x[(slice(None), *(slice(lo, hi) for lo, hi in box.tolist()))]


def changed_by(positions: Positions, x: Tensor, baseline: Tensor) -> Changed:
    """The cells that positions change in an input.

    Args:
        positions: A sliding window, or regions, which may be filled.
        x: The input: ``(examples, *input_shape)``.
        baseline: Values that replace the covered cells, broadcast against the input.

    Examples:
        >>> window, x = SlidingWindow((4,), (2,), (2,)), torch.tensor([[0.0, 0.0, 3.0, 4.0]])
        >>> changed_by(window, x, torch.zeros(1)).boxes(np.array([0, 1])).tolist()
        [[[0, 0]], [[2, 4]]]
    """
    if isinstance(positions, Filled):
        return ChangedFillings(positions, x)
    if isinstance(positions, Regions):
        return ChangedRegions(positions, x, baseline)
    assert isinstance(positions, SlidingWindow)
    return ChangedCells(positions, (x != baseline).any(0).cpu().numpy())


@dataclass(frozen=True)
class Work:
    """Distinct sets of changed cells among some positions, so that each is computed once.

    Attributes:
        boxes: ``(distinct, axes, 2)``, half-open intervals of int64, none of them empty.
        positions: Positions that change just the cells of a box, by box.
        unchanged: Positions at which nothing changes.
        contents: What the cells of a box become, by its number; None for the baseline's.
    """

    boxes: IntArray
    positions: list[IntArray]
    unchanged: IntArray
    contents: Contents | None = None

    def part(self, which: IntArray | slice) -> Work:
        """Some of the sets, with nothing unchanged.

        Examples:
            >>> window = SlidingWindow((6,), (2,), (2,))
            >>> work = distinct_work(ChangedCells(window, np.ones(6, bool)), np.arange(3))
            >>> work.part(slice(1, None)).boxes.tolist()
            [[[2, 4]], [[4, 6]]]
        """
        numbers = np.arange(len(self.boxes))[which]
        return Work(
            self.boxes[numbers],
            [self.positions[i] for i in numbers],
            np.empty(0, dtype=np.int64),
            contents_of(self.contents, numbers),
        )


def distinct_work(changed: Changed, positions: IntArray) -> Work:
    """Positions sorted by the cells that they change.

    Args:
        changed: The cells that every window changes.
        positions: Positions of its window, in any order.

    Examples:
        >>> window = SlidingWindow((6,), (2,), (1,))
        >>> differs = np.array([False, False, True, False, False, False])
        >>> work = distinct_work(ChangedCells(window, differs), np.arange(5))
        >>> work.boxes.tolist(), [alike.tolist() for alike in work.positions], work.unchanged.tolist()
        ([[[2, 3]]], [[1, 2]], [0, 3, 4])
    """
    if not changed.window.input_shape:  # one number an example: a single position, without a box to look at
        nothing = np.empty(0, dtype=np.int64)
        if not changed.any:
            return Work(np.empty((0, 0, 2), dtype=np.int64), [], positions)
        return Work(np.zeros((1, 0, 2), dtype=np.int64), [positions], nothing)
    if not len(positions):
        return Work(np.empty((0, len(changed.window.input_shape), 2), dtype=np.int64), [], positions)
    if not changed.merges:
        return _each_by_itself(changed, positions)
    boxes, inverse = distinct_rows(changed.boxes(positions))
    filled = np.asarray((boxes[..., 1] > boxes[..., 0]).all(axis=1))
    ordered, ends = positions[np.argsort(inverse, kind="stable")], np.cumsum(np.bincount(inverse)).tolist()
    alike = [ordered[start:end] for start, end in itertools.pairwise([0, *ends])]
    return Work(
        boxes[filled],
        [group for group, keep in zip(alike, filled, strict=True) if keep],
        positions[~filled[inverse]],
    )


def _each_by_itself(changed: Changed, positions: IntArray) -> Work:
    """The work of positions none of which changes the cells of another."""
    boxes = changed.boxes(positions)
    filled = np.asarray((boxes[..., 1] > boxes[..., 0]).all(axis=1))
    found = positions[filled]

    def contents(i: int) -> Tensor:
        content = changed.content(int(found[i]))
        assert content is not None
        return content

    return Work(boxes[filled], [found[i : i + 1] for i in range(len(found))], positions[~filled], contents)


def distinct_rows(rows: IntArray) -> tuple[IntArray, IntArray]:
    """Distinct rows, sorted, and the number among them of every row: `numpy.unique`, three times faster.

    Args:
        rows: ``(n, ...)``, at least one.

    Examples:
        >>> rows, number = distinct_rows(np.array([[3, 1], [2, 5], [3, 1]]))
        >>> rows.tolist(), number.tolist()
        ([[2, 5], [3, 1]], [1, 0, 1])
    """
    rank = np.zeros(len(rows), dtype=np.int64)
    for column in rows.reshape(len(rows), -1).T:
        values, along = np.unique(column, return_inverse=True)
        rank = np.unique(rank * len(values) + along, return_inverse=True)[1]
    some = np.empty(rank.max() + 1, dtype=np.int64)
    some[rank] = np.arange(len(rows))
    return rows[some], rank
