"""A tuning out of samples: the request, and how it is carried out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor
from tqdm.auto import tqdm

from krypton_engine.attr.acceptance import fingerprint
from krypton_engine.attr.checks import check_callable
from krypton_engine.attr.explain import builder_for
from krypton_engine.attr.request import MapRequest
from krypton_engine.attr.targets import as_kept
from krypton_engine.common.arguments import real
from krypton_engine.common.calling import Target
from krypton_engine.common.values import digest
from krypton_engine.errors import InputError, OcclusionCancelled
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.planning.answer import Answer
from krypton_engine.planning.planner import Preparer
from krypton_engine.run.loop import declines
from krypton_engine.tuning.curves import Curve
from krypton_engine.tuning.replay import curves_of
from krypton_engine.tuning.tuning import CONFIDENCE, Tuning

OnSample = Callable[[Tuning, int, int], object]
"""Called as ``on_progress(tuning_so_far, done, total)``; returning False cancels."""


@dataclass(frozen=True)
class TuningRequest:
    """The checked arguments of `KryptonOcclusion.tune`.

    Attributes:
        samples: The request for the map of every sample.
        target: Target of every sample; None for each sample's predicted class.
        confidence: Share of images that are to meet their target.
        seconds: Time after which no more work begins; infinity for no end.
        known: A tuning that gets more samples.
    """

    samples: tuple[MapRequest, ...]
    target: Target
    confidence: float
    seconds: float
    known: Tuning | None


def tuning_request(
    samples: Tensor | Iterable[Tensor],
    target: Target,
    confidence: float | None,
    max_seconds: float | None,
    resume: Tuning | None,
    on_progress: object,
    asked_of: Callable[[Tensor], MapRequest],
) -> TuningRequest:
    """The arguments of `KryptonOcclusion.tune`, checked; ``asked_of`` gives the request of one sample.

    Raises:
        InputError: An argument that cannot be used.

    Examples:
        >>> from krypton_engine.attr.inputs import question_of
        >>> from krypton_engine.attr.request import map_request
        >>> def asked_of(image):
        ...     question = question_of(model, image, (3, 8, 8), (3, 4, 4), baselines=0.0, additional=None)
        ...     return map_request(question, target=None, activate=None)
        >>> request = tuning_request([x, x / 2], None, 0.5, None, None, None, asked_of)
        >>> len(request.samples), request.confidence, request.seconds
        (2, 0.5, inf)
    """
    check_callable("on_progress", on_progress)
    if resume is not None and not isinstance(resume, Tuning):
        raise InputError("resume", repr(resume), "a tuning for the same, or None")
    try:
        images = [x[None] for x in samples] if isinstance(samples, Tensor) else list(samples)
    except TypeError:  # nothing that has items
        raise InputError("samples", repr(samples), "a batch, or a list of images") from None
    if not images:
        raise InputError("samples", "empty", "at least one image")
    shapes = {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in images}
    if len(shapes) > 1:
        raise InputError("samples", f"shapes {sorted(map(str, shapes))}", "images of one shape", verb="have")
    maps = (asked_of(x) for x in images)
    return learning_request(maps, target, confidence, max_seconds, resume)


def learning_request(
    maps: Iterable[MapRequest],
    target: Target,
    confidence: float | None,
    max_seconds: float | None,
    known: Tuning | None,
) -> TuningRequest:
    """The request for a tuning, given the request for a map of every sample.

    Args:
        maps: The requests, which are made once the other arguments are known to be good.
        target: Index of the outputs; None for each sample's predicted class.
        confidence: Share of images that are to meet their target; None for the usual one.
        max_seconds: Time after which no more work begins; None for no end.
        known: A tuning that gets more samples.

    Raises:
        InputError: The confidence is no share, the time no positive number, or a target has several values.

    Examples:
        >>> request = learning_request((), None, 0.95, max_seconds=None, known=tuning)
        >>> request.confidence, request.seconds
        (0.95, inf)
    """
    if confidence is None:
        confidence = CONFIDENCE if known is None else known.confidence
    share = real(confidence) or 0.0
    if not 0 < share < 1:
        raise InputError("confidence", repr(confidence), "numbers above 0 and below 1")
    seconds = math.inf if max_seconds is None else real(max_seconds) or 0.0
    if not seconds > 0:
        raise InputError("max_seconds", repr(max_seconds), "a positive number, or None")
    requests = tuple(maps)
    for request in requests:
        request.wants_one_number()
    return TuningRequest(requests, target, share, seconds, known)


def learn(
    preparer: Preparer,
    request: TuningRequest,
    began: float,
    on_progress: OnSample | None,
    show_progress: bool,
) -> Tuning:
    """The tuning that samples make.

    Args:
        request: The checked arguments.
        on_progress: See `OnSample`.
        preparer, began, show_progress: As in `krypton_engine.attr.explain.attributions`.

    Raises:
        InputError: The known tuning was made for something else.
        OcclusionCancelled: ``on_progress`` returned False; ``.partial`` is the tuning so far.

    Examples:
        >>> from krypton_engine.attr.inputs import question_of
        >>> from krypton_engine.attr.request import map_request
        >>> def mean(images):
        ...     return images.mean((2, 3))
        >>> questions = (question_of(mean, image, (3, 8, 8), (3, 4, 4), 0.0, None) for image in (x, x / 2))
        >>> maps = [map_request(question, target=0, activate=None) for question in questions]
        >>> request = learning_request(maps, target=0, confidence=0.5, max_seconds=None, known=None)
        >>> found = learn(Preparer("reference", None), request, 0.0, None, show_progress=False)
        >>> len(found.images), found.fingerprint.window, found.confidence
        (2, (3, 8, 8), 0.5)
    """
    first = request.samples[0]
    target = None if request.target is None else as_kept(request.target, first.classes)
    found = fingerprint(first.question, 0, target, first.activate)
    known = request.known
    tuning = (
        Tuning(found, (), request.confidence)
        if known is None
        else replace(known, confidence=request.confidence)
    )
    tuning.check(found)
    deadline = None if math.isinf(request.seconds) else began + request.seconds
    total = len(request.samples)
    with tqdm(total=total, desc="Krypton tuning", unit="image", disable=not show_progress) as bar:
        for done, sample in enumerate(request.samples, 1):
            image = digest(sample.question.inputs[0])
            if image not in tuning.images:
                work = partial(_curves, sample, image, tuning, deadline)
                try:
                    curves = preparer.answered(sample.question, 0, None, work)
                except OcclusionCancelled:
                    break
                tuning = tuning.with_curves(curves)
            bar.update()
            if on_progress is not None and declines(on_progress(tuning, done, total)):
                raise OcclusionCancelled(tuning)
    return tuning


def _curves(
    sample: MapRequest, image: str, tuning: Tuning, deadline: float | None, answer: Answer
) -> list[Curve]:
    """The curves of one sample of a tuning."""
    session = answer.open(answer.rows[0])
    builders: list[MapBuilder] = []

    def builder(began: float) -> MapBuilder:
        builders.append(builder_for(sample, session, answer, began))
        return builders[-1]

    at_once = tuning.at_once or session.at_once
    linearise = partial(answer.cheap, answer.rows[0])
    curves = curves_of(
        image, session, sample.wanted, builder, tuning.ways, at_once, tuning.costs, deadline, linearise
    )
    answer.confirm(answer.rows[0], session, builders[0])  # of the exact map
    return curves
