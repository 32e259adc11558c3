"""Interactions of regions: every two of them covered, on walks."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from krypton_engine.attr.explain import WithoutGraph
from krypton_engine.attr.request import AttributionRequest
from krypton_engine.attr.targets import of_example, select
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.planning import proof
from krypton_engine.planning.answer import Answer
from krypton_engine.planning.planner import Preparer
from krypton_engine.run.loop import Watch
from krypton_engine.run.walks import paired

_LEAST_WALKS = 2
"""Walks without which there are no pairs: the input, and a region covered."""


def of_pairs(preparer: Preparer, request: AttributionRequest, watch: Watch) -> Tensor:
    """Interactions of the regions of one example, with the drops of single regions on the diagonal.

    Args:
        preparer: Opens the session.
        request: The checked arguments, for one example.
        watch: Counts the outputs that are computed.

    Returns:
        ``(*selected_shape, regions, regions)``, float64.

    Examples:
        >>> from krypton_engine.attr.request import ablation_request
        >>> from krypton_engine.perturbation.regions import Regions
        >>> pixels, halves = torch.ones(1, 1, 2, 4), Regions.of(torch.arange(4) // 2, (1, 2, 4))
        >>> def squared(images):
        ...     return images.sum((2, 3)) ** 2
        >>> request = ablation_request(squared, pixels, (halves,), 0.0, 0, None, None).of_row(0, (halves,))
        >>> of_pairs(Preparer("reference", None), request, Watch(3, None, False)).tolist()
        [[48.0, -32.0], [-32.0, 48.0]]
    """
    work = partial(_of_example, request, watch, watch.done)
    try:
        return preparer.answered(request.question, 0, request.per_evaluation, work)
    except WithoutGraph as reason:
        return work(preparer.full(request.question.as_occluded(0), 0, request.per_evaluation, str(reason)))


def _of_example(request: AttributionRequest, watch: Watch, done: int, answer: Answer) -> Tensor:
    watch.rewind(done)
    (row,) = answer.rows
    session, question = answer.open(row), request.question
    if session.most_walks < _LEAST_WALKS:
        raise WithoutGraph(f"{session.executor} holds {session.most_walks} walks in memory_budget")
    (x,) = question.as_occluded(0).inputs
    target = of_example(request.target, 0, 1)
    selected = partial(select, target=target)
    single, pairs, (inputs, outputs) = paired(session, x, selected, request.per_evaluation, watch.advance)
    if answer.plan(session) is not None:
        proof.check_end(outputs, question.ask((inputs,), 0), session.base)
        builder = MapBuilder(session.window, session.base, selected, target=target)
        builder.record(np.arange(len(single)), single)
        answer.confirm(row, session, builder)
    drops = selected(session.base).double() - pairs.double()
    alone = drops.diagonal(dim1=0, dim2=1).movedim(-1, 0)
    together = drops - alone[:, None] - alone[None]
    places = torch.arange(len(alone))
    together[places, places] = alone
    return together.movedim((0, 1), (-2, -1)).cpu()
