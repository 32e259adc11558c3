"""Contributions of features in random orders, each of which is a walk from the baseline to the input."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from krypton_engine.attr.explain import WithoutGraph
from krypton_engine.attr.request import AttributionRequest
from krypton_engine.attr.targets import of_example, select
from krypton_engine.common.arguments import real, whole
from krypton_engine.common.arrays import IntArray
from krypton_engine.errors import InputError
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.perturbation.regions import Regions
from krypton_engine.planning import proof
from krypton_engine.planning.answer import Answer
from krypton_engine.planning.planner import Preparer
from krypton_engine.run.loop import Watch
from krypton_engine.run.tally import Tally
from krypton_engine.run.walks import walked

WORDS = "Shapley Value Sampling attribution"
"""Words of the progress bar, the same as Captum's."""

_MOST_WALKS = 16
"""Walks side by side, at most: beyond, their views leave every cache and nothing is gained."""


@dataclass(frozen=True)
class Limits:
    """The end of sampling.

    Attributes:
        most: Number of permutations.
        seconds: Time after which no more are begun; None for no limit.
        error: Standard error that suffices; None for no such end.
    """

    most: int
    seconds: float | None
    error: float | None

    @staticmethod
    def of(n_samples: object, max_seconds: object, max_standard_error: object) -> Limits:
        """The limits that a user gives.

        Raises:
            InputError: Numbers that are not positive.

        Examples:
            >>> Limits.of(25, None, 0.01)
            Limits(most=25, seconds=None, error=0.01)
            >>> Limits.of(0, None, None)
            Traceback (most recent call last):
            krypton_engine.errors.InputError: n_samples is 0; accepted: an integer of at least 1
        """
        most = whole(n_samples) or 0
        if most < 1:
            raise InputError("n_samples", repr(n_samples), "an integer of at least 1")
        numbers = []
        for name, given in (("max_seconds", max_seconds), ("max_standard_error", max_standard_error)):
            number = None if given is None else real(given) or 0.0
            if number is not None and not number > 0:
                raise InputError(name, repr(given), "a positive number, or None")
            numbers.append(number)
        return Limits(most, *numbers)

    def reached(self, tallies: Sequence[Tally], began: float) -> bool:
        """Whether enough has been drawn.

        Args:
            tallies: What has been drawn, as often of each.
            began: Value of ``time.perf_counter`` when the call began.

        Examples:
            >>> tally = Tally()
            >>> tally.add(torch.tensor([1.0, 1.5]))
            >>> Limits(2, None, None).reached([tally], 0.0), Limits(9, None, 0.1).reached([tally], 0.0)
            (True, False)
        """
        late = self.seconds is not None and time.perf_counter() - began >= self.seconds
        sure = self.error is not None and all(float(each.error.max()) <= self.error for each in tallies)
        return late or sure or all(each.count >= self.most for each in tallies)


class Orders:
    """Permutations, drawn as they are asked for, and kept.

    Args:
        drawn: The permutations.

    Examples:
        >>> orders = Orders(iter([[0, 1], [1, 0], [0, 1]]))
        >>> orders.some(1, 1), orders.some(0, 9)
        ([[1, 0]], [[0, 1], [1, 0], [0, 1]])
    """

    def __init__(self, drawn: Iterable[Sequence[int]]) -> None:
        self._drawn = iter(drawn)
        self._known: list[Sequence[int]] = []

    def some(self, first: int, count: int) -> list[Sequence[int]]:
        """Permutations from number ``first`` on; fewer where no more can be drawn."""
        self._known += itertools.islice(self._drawn, max(0, first + count - len(self._known)))
        return self._known[first : first + count]


def sampled(
    preparer: Preparer,
    requests: Sequence[AttributionRequest],
    orders: Orders,
    limits: Limits,
    began: float,
    show_progress: bool,
) -> list[tuple[Tensor, Tensor]]:
    """Shapley values of every request's regions, and their standard errors.

    Args:
        preparer: Opens the sessions.
        requests: One for every example.
        orders: Permutations of the users' numbers of regions, the same for every request.
        limits: The end of sampling; seconds are shared out among the requests.
        began: Value of ``time.perf_counter`` when the call began.
        show_progress: Whether to draw a progress bar.

    Returns:
        For every request values and errors, each ``(1, *selected_shape, *input_shape)``, float64.

    Raises:
        WithoutGraph: The forward function only runs in full.

    Examples:
        >>> from krypton_engine.attr.request import ablation_request
        >>> halves = Regions.of(torch.arange(20) // 10, (3, 24, 20))
        >>> request = ablation_request(model, x, (halves,), 0.0, 2, None, None).of_row(0, (halves,))
        >>> limits = Limits(most=2, seconds=None, error=None)
        >>> ((values, errors),) = sampled(
        ...     Preparer("reference", None), [request], Orders([[0, 1], [1, 0]]), limits, 0.0, False
        ... )
        >>> drop = (model(x) - model(0 * x))[0, 2].double()
        >>> values.shape, torch.allclose(values[0, 0, 0, 0] + values[0, 0, 0, -1], drop, atol=1e-5)
        (torch.Size([1, 3, 24, 20]), True)
    """
    found = []
    steps = sum(limits.most * len(request.question.windows[0]) for request in requests)
    with Watch(steps, None, show_progress, WORDS) as watch:
        for number, request in enumerate(requests):
            share = None
            if limits.seconds is not None:
                share = limits.seconds * (number + 1) / len(requests)
            bare, mine = request.question.from_baseline(), replace(limits, seconds=share)
            start = bare.as_occluded(0).inputs[0]
            work = partial(_of_example, request, start, orders, mine, began, watch, watch.done)
            found.append(preparer.answered(bare, 0, request.per_evaluation, work))
        watch.finish()
    return found


def _of_example(
    request: AttributionRequest,
    start: Tensor,
    orders: Orders,
    limits: Limits,
    began: float,
    watch: Watch,
    done: int,
    answer: Answer,
) -> tuple[Tensor, Tensor]:
    """Values and errors of one example."""
    watch.rewind(done)
    (row,) = answer.rows
    session = answer.open(row)
    if row is None or answer.plan(session) is None:
        raise WithoutGraph
    if not session.most_walks:
        raise WithoutGraph("memory_budget does not hold the views of a walk: all features run in full")
    regions = session.window
    assert isinstance(regions, Regions)
    selected = partial(select, target=of_example(request.target, 0, 1))
    builder = MapBuilder(regions, session.base, selected, target=request.target)
    place = {int(number): i for i, number in enumerate(regions.ids)}
    tally = Tally()
    at_once = min(session.most_walks, _MOST_WALKS, request.per_evaluation or _MOST_WALKS)
    while not tally.count or not limits.reached([tally], began):
        some = orders.some(tally.count, at_once)
        if not some:
            break
        mine = np.array([[place[number] for number in order if number in place] for order in some])
        values = [selected(session.base).expand(len(mine), *selected(session.base).shape[1:])]
        for outputs in walked(session, start, mine, watch.advance):
            if len(values) == 1:
                builder.record(mine[:, 0], outputs)
            values.append(selected(outputs).clone())  # not a part of all outputs, which would stay with it
        proof.check_end(outputs, request.question.base, session.base)
        tally.add(_by_region(torch.stack(values, 1).double().diff(dim=1), mine, len(regions)))
    answer.confirm(row, session, builder)
    mean, error = (regions.average(each.movedim(0, -1))[None] for each in (tally.mean, tally.error))
    return mean, error


def _by_region(contributions: Tensor, places: IntArray, count: int) -> Tensor:
    """Contributions ``(walks, steps, ...)`` by region: ``(walks, regions, ...)``."""
    found = torch.zeros((len(places), count, *contributions.shape[2:]), dtype=contributions.dtype)
    for mine, order, each in zip(found, places, contributions.cpu(), strict=True):
        mine[torch.from_numpy(order)] = each
    return found
