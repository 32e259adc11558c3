"""Owen values by a loop over whole copies: the recursion of shap.PartitionExplainer, written anew in float64.

Clusters are sets of leaves, coalitions are masks of leaves, and every evaluation is a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np


def brute_force(
    worth: Callable[[np.ndarray], np.ndarray],
    halves: Callable[[frozenset], tuple[frozenset, frozenset] | None],
    leaves: int,
    max_evals: int,
    context: int | None,
    batch: int,
) -> np.ndarray:
    """Owen values ``(leaves, values)``; ``worth`` of masks ``(n, leaves)`` is ``(n, values)``."""

    def mask(members: Iterable[int]) -> np.ndarray:
        found = np.zeros(leaves, dtype=bool)
        found[list(members)] = True
        return found

    everything = frozenset(range(leaves))
    low, high = worth(np.stack([mask(()), mask(everything)]))
    values = np.zeros((leaves, len(low)))

    def give(cluster: frozenset, credit: np.ndarray) -> None:
        values[list(cluster)] += credit / len(cluster)

    waiting = [(0.0, everything, frozenset(), low, high, 1.0)]
    limit, done = max_evals - 2, 0
    while waiting and done < limit:
        batched, masks = [], []
        while waiting and len(masks) < batch and done + len(masks) < limit:
            first = min(range(len(waiting)), key=lambda i: waiting[i][0])
            _, cluster, below, low, high, weight = waiting.pop(first)
            if (parts := halves(cluster)) is None:
                give(cluster, (high - low) * weight)
                continue
            batched.append((cluster, below, low, high, weight, parts))
            masks += [mask(below | parts[0]), mask(below | parts[1])]
        found = worth(np.stack(masks)) if masks else []
        done += len(masks)
        for i, (cluster, below, low, high, weight, parts) in enumerate(batched):
            only = found[2 * i : 2 * i + 2]
            together = (high - only[0] - only[1] + low) * weight
            share = weight / 2 if context is None else weight
            for side in (0, 1) if context is None else (context,):
                give(cluster, together if side == 0 else -together)
                for mine, other in ((0, 1), (1, 0)):
                    bottom, top = (low, only[mine]) if side == 0 else (only[other], high)
                    beside = below if side == 0 else below | parts[other]
                    rank = -np.abs(top - bottom).max() * share
                    waiting.append((rank, parts[mine], beside, bottom, top, share))
    for _, cluster, _, low, high, weight in waiting:
        give(cluster, (high - low) * weight)
    return values


def linked(matrix: np.ndarray) -> Callable[[frozenset], tuple[frozenset, frozenset] | None]:
    """The halves of the clusters of a linkage matrix; clusters of negative distance have none."""
    clusters = [frozenset([leaf]) for leaf in range(len(matrix) + 1)]
    found = {}
    for left, right, distance, _ in matrix:
        one, two = clusters[int(left)], clusters[int(right)]
        clusters.append(one | two)
        if distance >= 0:
            found[one | two] = one, two
    return found.get


def image_halves(shape: tuple[int, int, int]) -> Callable[[frozenset], tuple[frozenset, frozenset] | None]:
    """The halves of clusters of cells of an image ``(channels, height, width)``, as shap.maskers.Image's.

    Its own ranges of cells are turned around: it takes the first half of them for the last cells.
    """
    channels, height, width = shape
    numbers = np.arange(channels * height * width).reshape(shape).transpose(1, 2, 0)[::-1, ::-1, ::-1]
    found = {}

    def split(cells: np.ndarray) -> None:
        rows, columns, depth = cells.shape
        if cells.size == 1:
            return
        if rows >= columns and rows > 1:
            parts = cells[: rows // 2], cells[rows // 2 :]
        elif columns > 1:
            parts = cells[:, : columns // 2], cells[:, columns // 2 :]
        else:
            parts = cells[..., : depth // 2], cells[..., depth // 2 :]
        found[frozenset(cells.ravel().tolist())] = tuple(frozenset(part.ravel().tolist()) for part in parts)
        for part in parts:
            split(part)

    split(numbers)
    return found.get
