"""Hierarchies of clusters of cells: an image halved again and again, or a user's tree over regions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import Flags, Floats, IntArray
from krypton_engine.errors import InputError
from krypton_engine.perturbation.regions import Regions


class Tree(Protocol):
    """Clusters of cells by number, each of them the union of two smaller ones, down to leaves.

    Attributes:
        root: Number of the cluster of all cells.
    """

    root: int

    def halves(self, cluster: int) -> tuple[int, int] | None:
        """The two clusters that a cluster is the union of; None of one that is not to be split."""

    def size(self, cluster: int) -> int:
        """Leaves of a cluster."""

    def box(self, cluster: int) -> IntArray:
        """Bounding box of the cells of a cluster: ``(axes, 2)``, half-open."""

    def cells(self, cluster: int, box: IntArray) -> Tensor:
        """Whether each cell of a box is of a cluster: broadcasts to ``(1, *extents)``."""

    def spread(self, credits: Mapping[int, Floats]) -> Tensor:
        """The credit of every cell, where clusters share theirs out among their leaves evenly.

        Args:
            credits: ``(values,)``, by cluster.

        Returns:
            ``(values, *input_shape)``, float64.
        """


class Halves:
    """The clusters of an image that is halved along its longest axis, down to single cells.

    These are the clusters of ``shap.maskers.Image``: the first of equally long axes is halved, the channels
    (the first axis of ours) only where single pixels are left. Of an odd number of cells the later half is
    the smaller one, since shap 0.51 numbers an image's cells from the last to the first. Clusters are made
    as they are asked for.

    Args:
        shape: Shape of one input without its batch dimension, channels first.

    Examples:
        >>> tree = Halves((3, 24, 20))
        >>> left, right = tree.halves(tree.root)
        >>> tree.box(left).tolist(), tree.size(left)
        ([[0, 3], [12, 24], [0, 20]], 720)
    """

    root = 0

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._boxes = [np.array([(0, n) for n in shape], dtype=np.int64).reshape(-1, 2)]
        self._halves: dict[int, tuple[int, int] | None] = {}

    def halves(self, cluster: int) -> tuple[int, int] | None:
        """See `Tree.halves`."""
        if cluster not in self._halves:
            self._halves[cluster] = self._split(self._boxes[cluster])
        return self._halves[cluster]

    def _split(self, box: IntArray) -> tuple[int, int] | None:
        extents = box[:, 1] - box[:, 0]
        if extents.max(initial=1) == 1:
            return None
        axis = 0 if extents[1:].max(initial=1) == 1 else 1 + int(extents[1:].argmax())
        left, right = box.copy(), box.copy()
        left[axis, 0] = right[axis, 1] = box[axis, 1] - extents[axis] // 2
        self._boxes += [left, right]
        return len(self._boxes) - 2, len(self._boxes) - 1

    def size(self, cluster: int) -> int:
        """See `Tree.size`."""
        return int(np.prod(self._boxes[cluster][:, 1] - self._boxes[cluster][:, 0]))

    def box(self, cluster: int) -> IntArray:
        """See `Tree.box`."""
        return self._boxes[cluster]

    def cells(self, cluster: int, box: IntArray) -> Tensor:
        """See `Tree.cells`."""
        mine = self._boxes[cluster]
        found: Flags = np.ones((1,) * (len(box) + 1), dtype=bool)
        for axis, ((first, last), (lo, hi)) in enumerate(zip(mine.tolist(), box.tolist(), strict=True)):
            along = np.arange(lo, hi)
            inside = (along >= first) & (along < last)
            found = found & inside.reshape([-1 if i == axis + 1 else 1 for i in range(len(box) + 1)])
        return torch.from_numpy(found)

    def spread(self, credits: Mapping[int, Floats]) -> Tensor:
        """See `Tree.spread`.

        Examples:
            >>> tree = Halves((1, 2, 2))
            >>> bottom, _ = tree.halves(tree.root)
            >>> tree.spread({tree.root: np.array([4.0]), bottom: np.array([1.0])}).tolist()
            [[[[1.0, 1.0], [1.5, 1.5]]]]
        """
        (count,) = {len(credit) for credit in credits.values()}
        found = torch.zeros((count, *self.shape), dtype=torch.float64, device="cpu")
        for cluster, credit in credits.items():
            inside = tuple(slice(lo, hi) for lo, hi in self._boxes[cluster].tolist())
            share = torch.from_numpy(credit / self.size(cluster))
            found[(slice(None), *inside)] += share.reshape(-1, *[1] * len(self.shape))
        return found

    def regions(self, least: int) -> Regions:
        """Clusters without a cell in common that cover the image, the largest ones split first.

        Args:
            least: Number of regions; fewer where no more can be split.

        Examples:
            >>> regions = Halves((3, 24, 20)).regions(4)
            >>> len(regions), regions.numbers.shape, regions.boxes(np.array([3])).tolist()
            (4, (1, 24, 20), [[[0, 3], [0, 12], [0, 10]]])
        """
        found = [self.root]
        while len(found) < least:
            largest = max(found, key=self.size)
            halves = self.halves(largest)
            if halves is None:
                break
            found[found.index(largest) : found.index(largest) + 1] = halves
        boxes = np.stack([self._boxes[cluster] for cluster in found])
        whole = (boxes == self._boxes[self.root]).all((0, 2))
        numbers = np.zeros(np.where(whole, 1, self.shape), dtype=np.int64)
        for number, box in enumerate(boxes):
            inside = [slice(None) if all_ else slice(*ends) for all_, ends in zip(whole, box, strict=True)]
            numbers[tuple(inside)] = number
        return Regions(self.shape, numbers, np.arange(len(found)))


class Linkage:
    """The clusters of a linkage matrix of SciPy's, whose leaves are regions.

    Args:
        regions: The regions.
        matrix: ``(regions - 1, 4)``: two clusters that are joined, their distance, and the leaves of both;
            clusters are numbered regions first, then one for every row. A cluster whose distance is negative
            is not split, as in ``shap.PartitionExplainer``.

    Raises:
        InputError: The matrix is no tree over the regions.

    Examples:
        >>> regions = Regions.of(torch.tensor([[7, 7, 2], [7, 2, 4]]), (3, 2, 3))
        >>> tree = Linkage(regions, [[0, 2, 1.0, 2], [1, 3, 1.0, 3]])
        >>> tree.halves(tree.root), tree.size(3), tree.box(3).tolist()
        ((1, 3), 2, [[0, 3], [0, 2], [0, 3]])
        >>> Linkage(regions, [[0, 1, 1.0, 2], [0, 3, 1.0, 3]])
        Traceback (most recent call last):
        krypton_engine.errors.InputError: tree joins cluster 0 twice; accepted: a linkage matrix ...
    """

    def __init__(self, regions: Regions, matrix: object) -> None:
        self.regions = regions
        joined, self._distances = _checked(matrix, len(regions))
        self._halves = [None] * len(regions) + [(left, right) for left, right in joined]
        self._members = [np.array([number]) for number in range(len(regions))]
        boxes = list(regions.boxes(np.arange(len(regions))))
        for left, right in joined:
            self._members.append(np.concatenate([self._members[left], self._members[right]]))
            a, b = boxes[left], boxes[right]
            boxes.append(np.stack([np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 1], b[:, 1])], axis=1))
        self._boxes: list[IntArray] = boxes
        self.root = len(boxes) - 1

    def halves(self, cluster: int) -> tuple[int, int] | None:
        """See `Tree.halves`."""
        stays = cluster >= len(self.regions) and self._distances[cluster - len(self.regions)] < 0
        return None if stays else self._halves[cluster]

    def size(self, cluster: int) -> int:
        """See `Tree.size`."""
        return len(self._members[cluster])

    def box(self, cluster: int) -> IntArray:
        """See `Tree.box`."""
        return self._boxes[cluster]

    def cells(self, cluster: int, box: IntArray) -> Tensor:
        """See `Tree.cells`."""
        belongs = np.zeros(len(self.regions), dtype=bool)
        belongs[self._members[cluster]] = True
        return torch.from_numpy(belongs[self.regions.inside(box)])[None]

    def spread(self, credits: Mapping[int, Floats]) -> Tensor:
        """See `Tree.spread`; every cell of a region has the region's."""
        (count,) = {len(credit) for credit in credits.values()}
        found = np.zeros((count, len(self.regions)))
        for cluster, credit in credits.items():
            found[:, self._members[cluster]] += credit[:, None] / self.size(cluster)
        return self.regions.average(torch.from_numpy(found))


def _checked(matrix: object, regions: int) -> tuple[list[tuple[int, int]], Floats]:
    """The clusters that every row of a linkage matrix joins, and their distances."""
    accepted = f"a linkage matrix of SciPy's over the {regions} regions, of shape ({regions - 1}, 4)"
    try:
        rows = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("tree", type(matrix).__name__, accepted) from None
    if rows.shape != (regions - 1, 4):
        raise InputError("tree", f"shape {rows.shape}", accepted, verb="has")
    known = np.arange(regions, 2 * regions - 1)[:, None]
    strange = ~((rows[:, :2] >= 0) & (rows[:, :2] < known) & (rows[:, :2] == np.floor(rows[:, :2])))
    if strange.any():
        row = int(strange.any(1).argmax())
        raise InputError("tree", f"row {row}, {rows[row].tolist()}", accepted, verb="has")
    joined = rows[:, :2].astype(np.int64)
    numbers, counts = np.unique(joined, return_counts=True)
    if (counts > 1).any():
        raise InputError("tree", f"cluster {numbers[counts > 1][0]} twice", accepted, verb="joins")
    return [(int(left), int(right)) for left, right in joined], rows[:, 2]


def halved(regions: Regions) -> Floats:
    """A linkage matrix of regions that are halved by their centres, along the axis on which these lie widest.

    Args:
        regions: The regions.

    Returns:
        ``(regions - 1, 4)``; the distances are the numbers of regions that are joined.

    Examples:
        >>> halved(Regions.of(torch.arange(4), (4,))).tolist()
        [[0.0, 1.0, 2.0, 2.0], [2.0, 3.0, 2.0, 2.0], [4.0, 5.0, 4.0, 4.0]]
    """
    boxes = regions.boxes(np.arange(len(regions))).astype(np.float64)
    centres, rows = boxes.mean(2), []

    def join(members: IntArray) -> int:
        """The number of the cluster of some regions."""
        if len(members) == 1:
            return int(members[0])
        axis = int(np.ptp(centres[members], axis=0).argmax()) if centres.shape[1] else 0
        ordered = members[np.argsort(centres[members, axis], kind="stable")] if centres.shape[1] else members
        left, right = (join(half) for half in np.array_split(ordered, 2))
        rows.append([left, right, len(members), len(members)])
        return len(regions) + len(rows) - 1

    join(np.arange(len(regions)))
    return np.array(rows, dtype=np.float64).reshape(-1, 4)
