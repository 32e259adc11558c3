"""The boxes of a group of positions, node by node through the graph."""

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
        value: The boxes in the value's own dimensions; None where no reader may take them as they are.
        extents: Sizes of the boxes, by axis.
        place: Number of each copy's box; None where it is the copy's own.
        rows: The boxes as rows; None until a reader asks for them.
    """

    value: Tensor | None
    extents: Mapping[int, int]
    place: Tensor | None = None
    rows: Tensor | None = None


class Boxes:
    """The boxes of one group at every node of the graph.

    Args:
        table: Places of the boxes, on the device: int32 ``(3 * slots, copies)``, start, lo and hi by slot.
        slots: Number of the slot of a node's axis, by node and axis.
        extents: Sizes of the boxes, by node and axis.
        changed: Changed cells that were computed and are still to be read, by node.
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
        """Addresses of start, lo and hi; zeros for an axis without boxes.

        Examples:
            >>> boxes = Boxes(torch.zeros(3, 2, dtype=torch.int32), {(7, 1): 0}, {}, {})
            >>> start, lo, hi = boxes.of(7, 1)
            >>> lo - start, hi - lo, boxes.of(7, 0)  # bytes of two copies
            (8, 8, (0, 0, 0))
        """
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
        extents: Sizes that all their boxes share, by axis.
        start: First cell of each box, by axis.
        place: Number of each position's box.
        rows: The boxes, ``(boxes, *extents, columns)``.
        left: The part of each box that is kept, ``(boxes, axes, 2)``.
        effect: First-order effect of the part that is dropped, ``(boxes,)``.

    Examples:
        >>> start, place = {1: np.array([0, 4, 8]), 2: np.array([2, 2, 2])}, np.array([0, 1, 2])
        >>> rows, left, effect = torch.rand(3, 6, 6, 8), torch.zeros(3, 3, 2), torch.zeros(3)
        >>> waiting = Waiting(graph.nodes[9], {1: 6, 2: 6}, start, place, rows, left, effect)
        >>> some = waiting.kept(np.array([0, 2]))
        >>> some.start[1], some.place, some.rows is rows  # two positions, among the boxes of all
        (array([0, 8]), array([0, 2]), True)
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
