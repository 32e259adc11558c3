"""Changed cells of a group, and any box put together from them and the un-occluded view."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.common.arrays import Flags, IntArray
from krypton_engine.executors.layout import View


@dataclass
class ChangedBoxes:
    """The changed cells of one value for a group.

    ``value`` holds a box for every member, from ``start`` on and of shared ``extents``, perhaps ``loaded``
    into the view's table, where a member's box is the ``place``-th (the baseline's cells lie before the
    first: the -1st). ``lo`` and ``hi`` bound what changes in it. The other cells are as in the view, or,
    where the box was ``cut``, count as such.
    """

    lo: dict[int, IntArray]
    hi: dict[int, IntArray]
    start: dict[int, IntArray]
    extents: dict[int, int]
    place: IntArray
    value: Tensor | None
    loaded: bool = False
    cut: bool = False

    def lies_at(self, start: Mapping[int, IntArray], extents: Mapping[int, int]) -> bool:
        """Whether the boxes have these extents and starts.

        Examples:
            >>> first, end, place = {0: np.array([1])}, {0: np.array([4])}, np.array([0])
            >>> boxes = ChangedBoxes(first, end, first, {0: 3}, place, None)
            >>> boxes.lies_at(first, {0: 3}), boxes.lies_at(first, {0: 5}), boxes.lies_at(end, {0: 3})
            (True, False, False)
        """
        return all(
            np.array_equal(first, start[axis]) and self.extents[axis] == extents[axis]
            for axis, first in self.start.items()
        )

    def changes_all(self) -> bool:
        """Whether every member's box changes from end to end.

        Examples:
            >>> first, end, place = {0: np.array([1])}, {0: np.array([4])}, np.array([0])
            >>> [ChangedBoxes(first, end, first, {0: size}, place, None).changes_all() for size in (3, 5)]
            [True, False]
        """
        return all(
            np.array_equal(self.lo[axis], first) and np.array_equal(self.hi[axis], first + self.extents[axis])
            for axis, first in self.start.items()
        )


def compose(
    view: View,
    boxes: ChangedBoxes | None,
    coordinates: Mapping[int, IntArray],
    copies: int,
    fill: float,
) -> Tensor:
    """Cells of a value at ``coordinates`` (per axis ``(copies, cells)``), in its own dimensions.

    Examples:
        >>> from krypton_engine.executors.base import Opening
        >>> from krypton_engine.executors.basis import Basis
        >>> from krypton_engine.executors.tail import weights_of
        >>> basis = Basis(graph, weights_of(graph), plan.window, Opening((x,), torch.zeros(1), 2**30), {})
        >>> view, places = basis.view(graph.input), {1: np.array([[-1, 0, 1]]), 2: np.array([[4, 5]])}
        >>> cells = compose(view, None, places, copies=1, fill=0.0)
        >>> torch.equal(cells[:, :, 1:], x[:, :, :2, 4:6]), cells[:, :, 0].abs().sum()
        (True, tensor(0.))
    """
    if boxes is not None and not boxes.loaded and boxes.value is not None:
        _load(view, boxes)
    rank = len(view.layout.axes)
    from_view: npt.NDArray[np.int32] | int = 0
    from_boxes: npt.NDArray[np.int32] | int = view.changed_at
    changed: Flags | bool = boxes is not None and boxes.loaded
    outside: Flags | bool = False
    if boxes is not None and boxes.loaded:
        sizes = [boxes.extents[axis] for axis in view.layout.axes]
        mine = boxes.place.astype(np.int32).reshape(-1, *[1] * rank)
        from_boxes = from_boxes + mine * math.prod(sizes)
    for k, axis in enumerate(view.layout.axes):
        cells = coordinates[axis].astype(np.int32)  # half the traffic of int64
        shape = [len(cells)] + [1] * rank
        shape[k + 1] = cells.shape[1]
        if cells.min() < 0 or cells.max() >= view.layout.sizes[k]:
            outside = outside | ((cells < 0) | (cells >= view.layout.sizes[k])).reshape(shape)
        from_view = from_view + (cells * view.layout.stride(k)).reshape(shape)
        if boxes is not None and boxes.loaded:
            lo, hi = (side[axis][:, None].astype(np.int32) for side in (boxes.lo, boxes.hi))
            inside = (cells >= lo) & (cells < hi)
            changed = changed & inside.reshape([len(inside), *shape[1:]])
            relative = (cells - boxes.start[axis][:, None].astype(np.int32)) * math.prod(sizes[k + 1 :])
            from_boxes = from_boxes + relative.reshape([len(relative), *shape[1:]])
    index = from_view if changed is False else np.where(changed, from_boxes, from_view)
    if outside is not False:
        index = np.where(outside, view.fills[fill], index)
    box = (copies, *(coordinates[axis].shape[1] for axis in view.layout.axes))
    index = np.broadcast_to(index, box).flatten()
    return view.layout.as_value(
        view.table.index_select(0, torch.from_numpy(index).to(view.table.device)), box
    )


def _load(view: View, boxes: ChangedBoxes) -> None:
    """Write changed cells into the table of their view."""
    assert boxes.value is not None
    place(view, boxes.extents, len(boxes.value)).copy_(boxes.value)
    boxes.loaded = True


def place(view: View, sizes: Mapping[int, int], copies: int) -> Tensor:
    """Room for changed cells in a view's table, after the un-occluded ones; in the value's dimensions.

    Examples:
        >>> from krypton_engine.executors.base import Opening
        >>> from krypton_engine.executors.basis import Basis
        >>> from krypton_engine.executors.tail import weights_of
        >>> basis = Basis(graph, weights_of(graph), plan.window, Opening((x,), torch.zeros(1), 2**30), {})
        >>> place(basis.view(graph.input), {1: 8, 2: 9}, copies=4).shape
        torch.Size([4, 3, 8, 9])
    """
    box = (copies, *(sizes[axis] for axis in view.layout.axes))
    end = view.changed_at + math.prod(box)
    if len(view.table) < end:
        grown = view.table.new_empty(end, view.table.shape[1])
        grown[: view.changed_at] = view.table[: view.changed_at]
        view.table = grown
    return view.layout.as_value(view.table[view.changed_at : end], box)


def settle(view: View, boxes: ChangedBoxes) -> None:
    """Make the changed box of a single position a part of a view.

    Examples:
        >>> from krypton_engine.executors.base import Opening
        >>> from krypton_engine.executors.basis import Basis
        >>> from krypton_engine.executors.tail import weights_of
        >>> basis = Basis(graph, weights_of(graph), plan.window, Opening((x,), torch.zeros(1), 2**30), {})
        >>> first, last, ones = {1: np.array([2]), 2: np.array([3])}, None, torch.ones(1, 3, 2, 4)
        >>> view = basis.view(graph.input)
        >>> settle(view, ChangedBoxes(first, last, first, {1: 2, 2: 4}, np.array([0]), ones))
        >>> now = view.layout.as_value(view.table[:480], (1, 24, 20))
        >>> torch.equal(now[..., 2:4, 3:7], ones), int((now != x).sum()) == 24
        (True, True)
    """
    sizes = [boxes.extents[axis] for axis in view.layout.axes]
    value = place(view, boxes.extents, 1) if boxes.value is None else boxes.value
    rows = view.layout.as_rows(value).reshape(math.prod(sizes), -1)
    index = np.zeros((1,) * len(sizes), dtype=np.int64)
    for k, axis in enumerate(view.layout.axes):
        cells = boxes.start[axis][0] + np.arange(boxes.extents[axis])
        index = index + (cells * view.layout.stride(k)).reshape(
            [-1 if j == k else 1 for j in range(len(sizes))]
        )
    # Boxes that are loaded lie in the table itself.
    view.table[torch.from_numpy(index.reshape(-1)).to(rows.device)] = rows.to(view.table.dtype).clone()
