"""Owen values: credit handed down a tree of clusters, the clusters that change most first.

This is the recursion of ``shap.PartitionExplainer`` (shap 0.51), evaluation for evaluation.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from krypton_engine.common.arrays import Floats
from krypton_engine.perturbation.hierarchy import Tree

Context = int | None
"""What clusters come to: 0 where what is beside them is covered, 1 where it is present, None for both."""


@dataclass(frozen=True, eq=False)
class Coalition:
    """Cells that are present while the rest is covered, by their way from a coalition of before.

    Attributes:
        value: What the model says of it: ``(values,)``, float64.
        source: The coalition of before; None of nothing, and of everything.
        cluster: The cluster that has come or gone since.
        comes: Whether the cluster has come.
    """

    value: Floats
    source: Coalition | None = None
    cluster: int = -1
    comes: bool = True


Step = tuple[Coalition, int, bool]
"""A coalition, and a cluster that comes to it (True) or goes (False)."""

Evaluate = Callable[[Sequence[Step]], Floats]
"""A function that gives the values after some steps: ``(steps, values)``."""


@dataclass(frozen=True, eq=False)
class _Visit:
    """A cluster between two coalitions, without it and with it, one of which comes from the other."""

    cluster: int
    bottom: Coalition
    top: Coalition
    weight: float

    @property
    def rank(self) -> float:
        """Visits of lower rank come first."""
        return -float(np.abs(self.top.value - self.bottom.value).max(initial=0.0)) * self.weight

    @property
    def credit(self) -> Floats:
        """What the cluster gets where it is not split."""
        return (self.top.value - self.bottom.value) * self.weight

    def steps(self, left: int, right: int) -> tuple[Step, Step]:
        """To the coalitions in which only the left half is present, and only the right one.

        Both leave from the coalition that the visit shares with its siblings.
        """
        if self.top.source is self.bottom:
            return (self.bottom, left, True), (self.bottom, right, True)
        return (self.top, right, False), (self.top, left, False)


def owen(
    tree: Tree,
    evaluate: Evaluate,
    nothing: Coalition,
    everything: Coalition,
    evaluations: int,
    context: Context,
    batch: int,
) -> dict[int, Floats]:
    """Credits of clusters, which each shares out among its leaves.

    Args:
        tree: The clusters.
        evaluate: See `Evaluate`.
        nothing: The coalition of no cell.
        everything: The coalition of all cells.
        evaluations: Number of steps, at most; one more where it is odd.
        context: See `Context`.
        batch: Number of steps that are evaluated together; one more where it is odd.

    Returns:
        ``(values,)`` by cluster: together what everything is worth more than nothing.

    Examples:
        >>> from krypton_engine.perturbation.hierarchy import Halves
        >>> tree = Halves((1, 1, 2))
        >>> def worth(steps):  # the cells are worth 1 and 2, and both together 6
        ...     return np.array([[1.0 if cluster == 1 else 2.0] for _, cluster, comes in steps])
        >>> nothing = Coalition(np.zeros(1))
        >>> everything = Coalition(np.full(1, 6.0), nothing, tree.root)
        >>> credits = owen(tree, worth, nothing, everything, evaluations=2, context=0, batch=2)
        >>> {cluster: credit.tolist() for cluster, credit in sorted(credits.items())}
        {0: [3.0], 1: [1.0], 2: [2.0]}
    """
    credits: dict[int, Floats] = {}
    numbers = itertools.count()  # of visits that rank alike the first comes first; shap draws lots
    waiting: list[tuple[float, int, _Visit]] = []

    def give(cluster: int, credit: Floats) -> None:
        credits[cluster] = credits.get(cluster, 0.0) + credit

    def put(visit: _Visit) -> None:
        heapq.heappush(waiting, (visit.rank, next(numbers), visit))

    put(_Visit(tree.root, nothing, everything, 1.0))
    left_over = evaluations
    while waiting and left_over > 0:
        split: list[tuple[_Visit, int, int]] = []
        steps: list[Step] = []
        while waiting and len(steps) < min(batch, left_over):
            visit = heapq.heappop(waiting)[2]
            halves = tree.halves(visit.cluster)
            if halves is None:
                give(visit.cluster, visit.credit)
            else:
                split.append((visit, *halves))
                steps += visit.steps(*halves)
        values = evaluate(steps) if steps else np.empty((0, 0))
        left_over -= len(steps)
        for (visit, one, other), by_one, by_other in zip(split, values[::2], values[1::2], strict=True):
            bottom, top = visit.bottom, visit.top
            if context is None:
                share = visit.weight / 2
            else:
                share = visit.weight
                # What both halves do only together stays with the cluster.
                together = (top.value - by_one - by_other + bottom.value) * share
                give(visit.cluster, together if context == 0 else -together)
            if context != 1:
                for half, value in ((one, by_one), (other, by_other)):
                    put(_Visit(half, bottom, Coalition(value, bottom, half, comes=True), share))
            if context != 0:
                for half, value in ((one, by_other), (other, by_one)):
                    put(_Visit(half, Coalition(value, top, half, comes=False), top, share))
    for _, _, visit in waiting:
        give(visit.cluster, visit.credit)
    return credits
