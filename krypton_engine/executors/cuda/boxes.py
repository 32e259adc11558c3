"""The boxes of a group of positions on their way through the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.graph.ir import Node


@dataclass
class ChangedBoxes:
    """The changed cells of one value: a box of shared ``extents`` for every copy.

    Attributes:
        value: In the value's own dimensions, if a reader of the same cells may take it as it is.
        extents: By axis.
        place: By copy: which of the boxes is its own; None for the copy's number.
        rows: The same as rows, once somebody asked for them.
    """

    value: Tensor | None
    extents: Mapping[int, int]
    place: Tensor | None = None
    rows: Tensor | None = None


class Boxes:
    """The boxes of one group on their way through the graph.

    Args:
        table: Where they lie, on the device: int32 ``(3 * slots, copies)``, start, lo and hi for each slot.
        slots: Number of a node's axis.
        extents: Their size, by node and axis.
        changed: The changed cells that were computed and are still to be read.
    """

    def __init__(
        self,
        table: Tensor,
        slots: Mapping[tuple[int, int], int],
        extents: Mapping[int, Mapping[int, int]],
        changed: dict[int, ChangedBoxes],
    ) -> None:
        self.table = table
        self.extents = extents
        self.changed = changed
        self.copies = table.shape[1]
        self._slots = slots

    def of(self, node: int, axis: int) -> tuple[int, int, int]:
        """Addresses of start, lo and hi; zeros for an axis without boxes."""
        slot = self._slots.get((node, axis))
        if slot is None:
            return 0, 0, 0
        width = self.copies * 4
        first = self.table.data_ptr() + 3 * slot * width
        return first, first + width, first + 2 * width


@dataclass
class Waiting:
    """Positions at a dominator.

    Attributes:
        node: The dominator.
        extents: Of all their boxes, by axis.
        start: By axis, where each box begins.
        place: Which box is each position's.
        rows: The boxes, ``(boxes, *extents, columns)``.
        left: What is left of each, ``(boxes, axes, 2)``.
        effect: What the rest would have done, ``(boxes,)``.
    """

    node: Node
    extents: Mapping[int, int]
    start: Mapping[int, IntArray]
    place: IntArray
    rows: Tensor
    left: Tensor
    effect: Tensor

    def kept(self, positions: IntArray) -> Waiting:
        """The boxes of some of the positions."""
        start = {axis: first[positions] for axis, first in self.start.items()}
        return replace(self, start=start, place=self.place[positions])
