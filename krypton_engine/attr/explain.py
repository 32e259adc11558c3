"""Requests carried out: attributions of a batch, a heatmap, a map verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from krypton_engine.attr.request import AttributionRequest, MapRequest
from krypton_engine.attr.targets import of_example, select
from krypton_engine.common.calling import Target
from krypton_engine.executors.base import Session
from krypton_engine.heatmap.averaging import averaged
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.identity import Origin, described
from krypton_engine.heatmap.status import Status
from krypton_engine.heatmap.verification import Sample
from krypton_engine.perturbation.changed import changed_by
from krypton_engine.perturbation.windows import as_sliding
from krypton_engine.plan.measured import Costs
from krypton_engine.planning.answer import Answer
from krypton_engine.planning.planner import Preparer
from krypton_engine.run.analysis import analyzed
from krypton_engine.run.loop import BAR, OnProgress, Watch, refine, run
from krypton_engine.run.order import coarse_to_fine


class WithoutGraph(Exception):
    """A function that only runs in full was to be explained in a way that takes a graph."""


def attributions(
    preparer: Preparer,
    requests: Sequence[AttributionRequest],
    began: float,
    on_progress: OnProgress | None,
    show_progress: bool,
    words: str = BAR,
) -> list[tuple[Tensor, ...]]:
    """Attributions of every input of every request, each ``(outputs, *input_shape)``.

    Args:
        preparer: Opens the sessions.
        requests: The checked arguments; of several requests, which count as one run, those of each.
        began: Value of ``time.perf_counter`` when the call began.
        on_progress: See `OnProgress`.
        show_progress: Whether to draw a progress bar.
        words: Words of the progress bar.

    Raises:
        OcclusionCancelled: ``on_progress`` returned False; ``.partial`` is the heatmap so far.
        WithoutGraph: A request is for an example alone, and there is no graph.

    Examples:
        >>> from krypton_engine.attr.request import attribution_request
        >>> def total(images):
        ...     return images.sum((2, 3))
        >>> arguments = total, torch.ones(1, 1, 4, 4), (1, 2, 2), (1, 2, 2), 0.0, 0
        >>> request = attribution_request(*arguments, None, None, None, None, None)
        >>> ((found,),) = attributions(Preparer("reference", None), [request], 0.0, None, show_progress=False)
        >>> found.shape, found.unique()  # every window covers four ones
        (torch.Size([1, 1, 4, 4]), tensor([4.]))
    """
    questions = [request.question for request in requests]
    total = sum(len(each.inputs[0]) * sum(map(len, each.windows)) for each in questions)
    found = []
    with Watch(total, on_progress, show_progress, words) as watch:
        for request, question in zip(requests, questions, strict=True):
            parts = []
            for i in range(len(question.inputs)):
                work = partial(_attribution, request, i, watch, watch.done, began)
                parts.append(preparer.answered(question, i, request.per_evaluation, work, watch.watched))
            found.append(tuple(parts))
        watch.finish()
    return found


def _attribution(
    request: AttributionRequest, occluded: int, watch: Watch, done: int, began: float, answer: Answer
) -> Tensor:
    """Attributions of one input over all examples: ``(outputs, *input_shape)``."""
    watch.rewind(done)
    question, rule = request.question, request.rule
    x = question.inputs[occluded]
    rows = []
    for row in answer.rows:
        session = answer.open(row)
        if request.alone and answer.plan(session) is None:
            raise WithoutGraph
        target = request.target if row is None else of_example(request.target, row, len(x))
        positions = np.arange(len(session.window), dtype=np.int64)
        builder = MapBuilder(
            session.window,
            session.base,
            partial(_of_all if row is None else select, target=target),
            target=target,
            image=None if row is None else x[row],
            plan=partial(answer.plan, session),
            began=began,
            fill=None if rule is None or row is None else positions,
        )
        if rule is None or row is None:  # of examples that only go together there is no one map
            run(session, [positions], builder, watch, request.per_evaluation)
        else:
            cheap = partial(answer.cheap, row)
            refine(session, positions, builder, watch, rule, request.per_evaluation, cheap)
        answer.confirm(row, session, builder)
        rows.append(builder.attribution().reshape(-1, *x.shape[1:]))
        del session  # before the next example's views are made
    return torch.cat(rows).to(x.device)


def _of_all(outputs: Tensor, target: Target) -> Tensor:
    """The target's part of outputs that each hold all examples, ``(positions, examples, ...)``."""
    return torch.stack([select(each, target) for each in outputs])


def heatmap(
    preparer: Preparer,
    request: MapRequest,
    began: float,
    on_progress: OnProgress | None,
    show_progress: bool,
    origin: Origin,
) -> Heatmap:
    """The heatmap that a request asks for.

    Args:
        request: The checked arguments.
        preparer, began, on_progress, show_progress: As in `attributions`.
        origin: Token of the map.

    Raises:
        InputError: The known part is of another map.
        OcclusionCancelled: ``on_progress`` returned False; ``.partial`` is the heatmap so far.

    Examples:
        >>> from krypton_engine.attr import explain
        >>> explain.heatmap(Preparer("reference", None), pixel_request, 0.0, None, False, Origin()).drop
        tensor([[10., 18.],
                [42., 50.]])
    """
    wanted = request.wanted if request.known is None else request.known.missing(request.wanted)

    def way(answer: Answer, session: Session, builder: MapBuilder) -> None:
        if request.rule is None:
            plain, in_rows = request.question.windows[0].plain, request.schedule == "rows"
            run(session, [wanted] if in_rows else coarse_to_fine(as_sliding(plain), wanted), builder, watch)
        else:
            cheap = partial(answer.cheap, answer.rows[0])
            refine(session, request.wanted, builder, watch, request.rule, cheap=cheap)

    count = 1 + len(request.further)
    with Watch(count * len(wanted), on_progress, show_progress) as watch:
        if count == 1:
            found = _measured(preparer, request, way, watch, began, origin)
        else:
            found = _sampled(preparer, request, way, watch, began, origin)
        watch.finish()
    return found


def _sampled(
    preparer: Preparer,
    request: MapRequest,
    way: Callable[[Answer, Session, MapBuilder], None],
    watch: Watch,
    began: float,
    origin: Origin,
) -> Heatmap:
    """The mean of the maps of a filling's samples, measured one after another by one session.

    The first map is compared with the user's own forward function; the others differ from it in what covers
    the cells alone.
    """
    # The class of averaged outputs takes all of them.
    keeping = replace(request, keep_outputs=request.keep_outputs or request.classes is not None)

    def as_asked(found: Heatmap) -> Heatmap:
        return replace(
            found,
            samples=found.samples if request.keep_samples else None,
            outputs=found.outputs if request.keep_outputs else None,
        )

    def so_far(before: Heatmap | None, count: int, found: Heatmap) -> Heatmap:
        # No map of all samples: another baseline, so that nothing takes the one for the other.
        part = f"{request.filled}; only {count} of its {1 + len(request.further)} samples everywhere"
        return replace(as_asked(averaged(before, found, count)), baseline=part)

    def measure(answer: Answer) -> Heatmap:
        watch.rewind(0)
        session, mean = answer.open(answer.rows[0]), None
        for count, question in enumerate((request.question, *request.further)):
            x = question.as_occluded(0).inputs[0]
            session.changed = changed_by(question.windows[0], x, question.baseline(0, 0))
            watch.shown = partial(so_far, mean, count)
            builder = builder_for(keeping, session, answer, began, origin)
            way(answer, session, builder)
            mean = averaged(mean, builder.heatmap(), count)
            if not count:
                answer.confirm(answer.rows[0], session, builder)
        assert mean is not None
        return as_asked(mean)

    return preparer.answered(request.question, 0, None, measure, watch.watched)


def verified(
    preparer: Preparer, heatmap: Heatmap, request: MapRequest, sample: Sample, began: float, origin: Origin
) -> Heatmap:
    """A map with a sample of its positions measured, and judged by them.

    Args:
        preparer: Opens the sessions.
        heatmap: The map.
        request: Checked arguments of the call that made the map.
        sample: The positions.
        began: Value of ``time.perf_counter`` when the call began.
        origin: Token of the new map.

    Raises:
        InputError: A map of another model, image or baseline.

    Examples:
        >>> from krypton_engine.attr import explain
        >>> preparer, origin, measured = Preparer("reference", None), Origin(), torch.eye(2, dtype=torch.bool)
        >>> exact = explain.heatmap(preparer, pixel_request, 0.0, None, False, origin)
        >>> rough = replace(exact, values=exact.values.where(measured, 100.0), measured=measured)
        >>> found = verified(preparer, rough, pixel_request, Sample(rough, fraction=0.5, seed=0), 0.0, origin)
        >>> rough.values.tolist(), found.values.tolist(), found.ssim_estimate.value
        ([[110.0, 100.0], [100.0, 70.0]], [[110.0, 102.0], [78.0, 70.0]], 1.0)
    """
    known = (heatmap.status != Status.UNKNOWN).numpy()
    request = replace(request, wanted=np.flatnonzero(known), known=heatmap, rule=None, fills=True)
    with Watch(len(sample.positions), None, False) as watch:

        def way(_: Answer, session: Session, builder: MapBuilder) -> None:
            run(session, [sample.positions], builder, watch)

        found = _measured(preparer, request, way, watch, began, origin, "heatmap")
    return sample.judged(found.filled(known))


def _measured(
    preparer: Preparer,
    request: MapRequest,
    way: Callable[[Answer, Session, MapBuilder], None],
    watch: Watch,
    began: float,
    origin: Origin,
    known_as: str = "resume",
) -> Heatmap:
    """A heatmap, from its known part on.

    ``way`` measures by an answer's session and lets the builder note the outputs; ``known_as`` is the name of
    the argument that gave the known part.
    """

    def measure(answer: Answer) -> Heatmap:
        watch.rewind(0)
        session = answer.open(answer.rows[0])
        session.costs = Costs() if request.analyze else None
        builder = builder_for(request, session, answer, began, origin)
        if request.known is not None:
            builder.resume(request.known, known_as)
            answer.recall(session, builder)
        way(answer, session, builder)
        made = analyzed(builder.heatmap(), session, request.known)
        answer.confirm(answer.rows[0], session, builder)
        return made

    return preparer.answered(request.question, 0, None, measure, watch.watched)


def builder_for(
    request: MapRequest, session: Session, answer: Answer, began: float, origin: Origin | None = None
) -> MapBuilder:
    """A map builder that notes the values that a request asks for.

    Args:
        request: The checked arguments.
        session: Session that answers for positions.
        answer: Answer that opened the session.
        began: Value of ``time.perf_counter`` when the run began.
        origin: Token of the map.

    Examples:
        >>> from krypton_engine.attr.request import heatmap_request
        >>> arguments = model, x, (3, 8, 8), (3, 4, 4), 0.0
        >>> request = heatmap_request(*arguments, 2, None, "softmax", lambda device: 2**30)
        >>> def measured(answer):
        ...     session = answer.open(0)
        ...     builder = builder_for(request, session, answer, began=0.0)
        ...     for found in session.compute(session.changed.boxes(np.arange(20))):
        ...         builder.record(found.which, found.outputs)
        ...     return builder.heatmap()
        >>> made = Preparer("reference", None).answered(request.question, 0, None, measured)
        >>> made.target, torch.allclose(made.base, model(x).softmax(1)[0, 2]), made.values.isfinite().all()
        (2, True, tensor(True))
    """
    return MapBuilder(
        session.window,
        session.base,
        partial(select, target=request.target),
        activate=request.activate,
        target=request.target,
        keep_outputs=request.keep_outputs,
        classify=request.classes is not None,
        image=request.question.inputs[0][0],
        baseline=request.filled or described(request.question.baseline(0, 0)),
        plan=partial(answer.plan, session),
        began=began,
        fill=request.wanted if request.fills else None,
        origin=origin,
    )
