"""Region algebra: how a changed interval travels through an operator, along one axis.

Intervals are half-open and come as two integer arrays ``lo`` and ``hi`` of any one shape, so that all
positions of a sliding window are handled at once. ``hi <= lo`` is the empty interval. Every axis is
independent of the rest: a box is empty as soon as one of its intervals is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from krypton_engine.common.arrays import IntArray

Interval = tuple[IntArray, IntArray]


class AxisMap(Protocol):
    """The reach of an operator along one axis of ``n_in`` cells that becomes one of ``n_out`` cells."""

    @property
    def n_in(self) -> int:
        """Number of input cells."""

    @property
    def n_out(self) -> int:
        """Number of output cells."""

    def changed(self, lo: IntArray, hi: IntArray) -> Interval:
        """Bounding interval of the outputs that read a cell of ``[lo, hi)``."""

    def sources(self, outputs: IntArray) -> IntArray:
        """Input cells that ``outputs`` read: one more, last, dimension if they read several.

        A cell outside ``[0, n_in)`` is padding.
        """

    def is_identity(self) -> bool:
        """Whether output ``i`` reads input ``i`` and nothing else."""


@dataclass(frozen=True)
class WindowMap:
    """A convolution or a pooling: output ``o`` reads ``o * stride - padding + dilation * [0, kernel)``.

    ``n_out`` is the exported size and never computed anew (``ceil_mode``); cells read past the end are
    padding, so padding on the right needs no number of its own. ``limit`` is the largest number of outputs
    that count as changed, those in the middle; None for all, which alone is exact.

    Examples:
        >>> step = WindowMap(n_in=10, n_out=5, kernel=3, stride=2, padding=1)
        >>> lo, hi = step.changed(np.array([4]), np.array([5]))
        >>> lo.tolist(), hi.tolist()
        ([2], [3])
    """

    n_in: int
    n_out: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    limit: int | None = None

    def changed(self, lo: IntArray, hi: IntArray) -> Interval:
        """See `AxisMap`."""
        reach = self.dilation * (self.kernel - 1)
        first = -((reach - self.padding - lo) // self.stride)
        last = (hi - 1 + self.padding) // self.stride + 1
        first, last = np.maximum(first, 0), np.minimum(last, self.n_out)
        if self.limit is not None:
            first = first + np.maximum(last - first - self.limit, 0) // 2
            last = np.minimum(last, first + self.limit)
        return first, np.where(hi > lo, last, first)

    def clipped(self, tau: float) -> WindowMap:
        """The same map with at most ``tau`` of its outputs changed, but never fewer than one.

        Examples:
            >>> WindowMap(n_in=8, n_out=8, kernel=3, padding=1).clipped(0.5).limit
            4
        """
        return replace(self, limit=max(1, math.floor(tau * self.n_out + 1e-9)))

    def extent_read(self, extent: int) -> int:
        """Length of the input interval that ``extent`` neighbouring outputs read.

        Examples:
            >>> WindowMap(n_in=10, n_out=5, kernel=3, stride=2, padding=1).extent_read(2)
            5
        """
        return (extent - 1) * self.stride + self.dilation * (self.kernel - 1) + 1

    def first_read(self, lo: IntArray) -> IntArray:
        """First input cell that output ``lo`` reads; negative where that is padding.

        Examples:
            >>> WindowMap(10, 5, kernel=3, stride=2, padding=1).first_read(np.array([0, 1])).tolist()
            [-1, 1]
        """
        return lo * self.stride - self.padding

    def sources(self, outputs: IntArray) -> IntArray:
        """See `AxisMap`.

        Examples:
            >>> WindowMap(n_in=10, n_out=5, kernel=3, stride=2, padding=1).sources(np.array([0, 1])).tolist()
            [[-1, 0, 1], [1, 2, 3]]
        """
        return self.first_read(outputs)[..., None] + self.dilation * np.arange(self.kernel)

    def is_identity(self) -> bool:
        """See `AxisMap`.

        Examples:
            >>> WindowMap(8, 8, kernel=1).is_identity(), WindowMap(8, 8, kernel=3, padding=1).is_identity()
            (True, False)
        """
        return self.kernel == 1 and self.stride == 1 and self.padding == 0 and self.n_in == self.n_out


@dataclass(frozen=True)
class IndexMap:
    """Padding, slicing, flipping, repeating: output ``o`` is input ``source[o]``, or a constant where -1.

    Examples:
        >>> flip = IndexMap(4, (3, 2, 1, 0))
        >>> lo, hi = flip.changed(np.array([0]), np.array([1]))
        >>> lo.tolist(), hi.tolist()
        ([3], [4])
    """

    n_in: int
    source: tuple[int, ...]

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return len(self.source)

    @cached_property
    def _reader_bounds(self) -> tuple[IntArray, IntArray]:
        """First and last reader of every input cell; ``n_out`` and -1 for a cell without readers."""
        first = np.full(self.n_in, self.n_out, dtype=np.int64)
        last = np.full(self.n_in, -1, dtype=np.int64)
        for output, cell in enumerate(self.source):
            if cell >= 0:
                first[cell] = min(first[cell], output)
                last[cell] = max(last[cell], output)
        return first, last

    def changed(self, lo: IntArray, hi: IntArray) -> Interval:
        """See `AxisMap`."""
        first, last = self._reader_bounds
        flat = np.broadcast(lo, hi)
        out = np.array(
            [(first[a:b].min(), last[a:b].max() + 1) if b > a else (0, 0) for a, b in flat], dtype=np.int64
        ).reshape(*flat.shape, 2)
        empty = out[..., 1] <= out[..., 0]
        return np.where(empty, 0, out[..., 0]), np.where(empty, 0, out[..., 1])

    def sources(self, outputs: IntArray) -> IntArray:
        """See `AxisMap`.

        Examples:
            >>> IndexMap(3, (2, 1, 0, -1)).sources(np.array([0, 3])).tolist()
            [2, -1]
        """
        return np.asarray(self.source, dtype=np.int64)[outputs]

    def is_identity(self) -> bool:
        """See `AxisMap`."""
        return self.source == tuple(range(self.n_in))


@dataclass(frozen=True)
class SpreadMap:
    """The reverse of a window: input ``i`` is written to outputs ``i * stride - padding + [0, reach]``.

    A transposed convolution, or an axis that takes in the dimension beside it. An output that no input is
    written to belongs to the input before it, so that every output reads some.

    Examples:
        >>> step = SpreadMap(n_in=4, n_out=8, stride=2, reach=3, padding=1)
        >>> lo, hi = step.changed(np.array([1]), np.array([2]))
        >>> lo.tolist(), hi.tolist()
        ([1], [5])
    """

    n_in: int
    n_out: int
    stride: int
    reach: int
    padding: int = 0

    def changed(self, lo: IntArray, hi: IntArray) -> Interval:
        """See `AxisMap`."""
        first = np.clip(lo * self.stride - self.padding, 0, self.n_out)
        last = np.clip((hi - 1) * self.stride - self.padding + self.reach + 1, 0, self.n_out)
        return first, np.where(hi > lo, last, first)

    def first_read(self, lo: IntArray) -> IntArray:
        """First input cell that output ``lo`` reads; negative where that is padding.

        Examples:
            >>> SpreadMap(n_in=4, n_out=8, stride=2, reach=3, padding=1).first_read(np.array([0, 3])).tolist()
            [-1, 1]
        """
        return -((self._width - self.padding - lo) // self.stride)

    def extent_read(self, extent: int) -> int:
        """Length of an input interval that holds what any ``extent`` neighbouring outputs read.

        Examples:
            >>> step = SpreadMap(n_in=4, n_out=8, stride=2, reach=3, padding=1)
            >>> step.extent_read(1), step.extent_read(2)
            (2, 3)
        """
        return (extent - 1 + self._width) // self.stride + 1

    def first_written(self, cell: IntArray) -> IntArray:
        """First output that input ``cell`` is written to; negative where that is cut off.

        Examples:
            >>> SpreadMap(4, 8, stride=2, reach=3, padding=1).first_written(np.array([0, 1])).tolist()
            [-1, 1]
        """
        return cell * self.stride - self.padding

    def extent_written(self, extent: int) -> int:
        """Length of the output interval that belongs to ``extent`` neighbouring inputs.

        Examples:
            >>> SpreadMap(n_in=4, n_out=8, stride=2, reach=3, padding=1).extent_written(2)
            6
        """
        return (extent - 1) * self.stride + self._width + 1

    def sources(self, outputs: IntArray) -> IntArray:
        """See `AxisMap`."""
        return self.first_read(outputs)[..., None] + np.arange(self.extent_read(1))

    def is_identity(self) -> bool:
        """See `AxisMap`."""
        return self.stride == 1 and self._width == 0 and self.padding == 0 and self.n_in == self.n_out

    @property
    def _width(self) -> int:
        return max(self.reach, self.stride - 1)


@dataclass(frozen=True)
class SpanMap:
    """Resizing by any factor: output ``o`` reads the inputs from ``first[o]`` up to before ``end[o]``.

    Neither falls from one output to the next, and no span is empty.

    Examples:
        >>> step = SpanMap(n_in=4, first=(0, 0, 1, 2, 2, 3), end=(1, 2, 2, 3, 4, 4))
        >>> lo, hi = step.changed(np.array([1]), np.array([2]))
        >>> lo.tolist(), hi.tolist()
        ([1], [3])
    """

    n_in: int
    first: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return len(self.first)

    @cached_property
    def _bounds(self) -> tuple[IntArray, IntArray]:
        return np.asarray(self.first, dtype=np.int64), np.asarray(self.end, dtype=np.int64)

    @property
    def longest(self) -> int:
        """Number of inputs that an output reads at most.

        Examples:
            >>> SpanMap(n_in=4, first=(0, 0, 1, 2, 2, 3), end=(1, 2, 2, 3, 4, 4)).longest
            2
        """
        first, end = self._bounds
        return int((end - first).max())

    def changed(self, lo: IntArray, hi: IntArray) -> Interval:
        """See `AxisMap`."""
        firsts, ends = self._bounds
        first, last = np.searchsorted(ends, lo, "right"), np.searchsorted(firsts, hi, "left")
        return first, np.where(hi > lo, last, first)

    def first_read(self, lo: IntArray) -> IntArray:
        """First input cell that output ``lo`` reads."""
        firsts, _ = self._bounds
        found: IntArray = firsts[lo]
        return found

    def extent_read(self, extent: int) -> int:
        """Length of an input interval that holds what any ``extent`` neighbouring outputs read.

        Examples:
            >>> SpanMap(n_in=4, first=(0, 1, 2), end=(2, 3, 4)).extent_read(2)
            3
        """
        firsts, ends = self._bounds
        return int((ends[extent - 1 :] - firsts[: len(firsts) - extent + 1]).max())

    def sources(self, outputs: IntArray) -> IntArray:
        """See `AxisMap`; an output that reads fewer than others reads its last one several times.

        Examples:
            >>> SpanMap(n_in=4, first=(0, 0, 1), end=(1, 2, 3)).sources(np.array([0, 2])).tolist()
            [[0, 0], [1, 2]]
        """
        firsts, ends = self._bounds
        cells = firsts[outputs][..., None] + np.arange(self.longest)
        read: IntArray = np.minimum(cells, ends[outputs][..., None] - 1)
        return read

    def is_identity(self) -> bool:
        """See `AxisMap`."""
        cells = tuple(range(self.n_in))
        return self.first == cells and self.end == tuple(cell + 1 for cell in cells)


IntervalMap = WindowMap | SpreadMap | SpanMap
"""Maps of which neighbouring outputs read one interval of inputs."""


def union(intervals: list[Interval]) -> Interval:
    """Bounding interval of several, of which the empty ones do not count.

    Examples:
        >>> lo, hi = union([(np.array([2, 5]), np.array([4, 5])), (np.array([3, 1]), np.array([7, 2]))])
        >>> lo.tolist(), hi.tolist()
        ([2, 1], [7, 2])
    """
    lo, hi = intervals[0]
    for other_lo, other_hi in intervals[1:]:
        mine, other = hi > lo, other_hi > other_lo
        both_lo, both_hi = np.minimum(lo, other_lo), np.maximum(hi, other_hi)
        lo, hi = (
            np.where(mine & other, both, np.where(other, theirs, ours))
            for both, theirs, ours in ((both_lo, other_lo, lo), (both_hi, other_hi, hi))
        )
    return lo, hi


def slide_inwards(lo: IntArray, extent: int, n: int) -> IntArray:
    """Starts of intervals of one ``extent`` that still hold ``[lo, ...)`` and stay within ``[0, n)``.

    Examples:
        >>> slide_inwards(np.array([-1, 4, 8]), 3, 10).tolist()
        [0, 4, 7]
    """
    return np.minimum(np.maximum(lo, 0), n - extent)
