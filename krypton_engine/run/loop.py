"""The one loop over positions: order or sampling -> session -> map builder, watched and cancelled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.errors import InputError, OcclusionCancelled
from krypton_engine.executors.base import Computed, Session
from krypton_engine.executors.layout import on_device
from krypton_engine.graph.gradients import Head
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.changed import Work, distinct_work
from krypton_engine.perturbation.windows import as_sliding
from krypton_engine.run.adaptive import Sampling, StoppingRule
from krypton_engine.run.fidelity import DEAREST, USUAL_EPSILON, Cheap, rounded_cost, worth_while
from krypton_engine.run.pieces import computed

OnProgress = Callable[[Heatmap, int, int], object]
"""Called as ``on_progress(heatmap_so_far, done, total)``; returning False (NumPy's too) cancels the run."""


_LOOKS = 10
"""Looks at a map, with what they choose, that choosing positions costs, over the share of them that it saves.
Volumes and signals whose rest takes less time than so many looks are measured to the end: small maps, and
those of very small networks. Images take every look, however little they save."""


def declines(answer: object) -> bool:
    """Whether a callback's answer cancels: Python's False, or NumPy's.

    Examples:
        >>> declines(None), declines(False), declines(np.False_), declines(0)
        (False, True, True, False)
    """
    return isinstance(answer, (bool, np.bool_)) and not answer


BAR = "Occlusion attribution"
"""Words of the progress bar, the same as Captum's."""

WATCHED_SECONDS = 0.1
"""Seconds of work between two calls of ``on_progress``: a delay that people take for none."""


class Watch:
    """Progress of a run, or of several that count as one, shown to a watcher.

    Args:
        total: Number of positions of all runs together.
        on_progress: See `OnProgress`.
        show_progress: Whether to draw a progress bar.
        words: Words of the progress bar.

    Attributes:
        seconds: Time that ``on_progress`` took.
        shown: Function from the map of a run to the one that ``on_progress`` sees, of several runs.
    """

    def __init__(
        self, total: int, on_progress: OnProgress | None, show_progress: bool, words: str = BAR
    ) -> None:
        self.total = total
        self.done = 0
        self.seconds = 0.0
        self.shown: Callable[[Heatmap], Heatmap] = lambda heatmap: heatmap
        self.on_progress = on_progress
        self._bar = tqdm(total=total, desc=words, unit="pos", disable=not show_progress)
        self.watched = on_progress is not None or show_progress

    def advance(self, count: int, heatmap: Callable[[], Heatmap] | None = None) -> None:
        """Count ``count`` more positions as done, and show ``on_progress`` the map, if one is made.

        Raises:
            OcclusionCancelled: ``on_progress`` returned False.

        Examples:
            >>> watch = Watch(4, lambda _, done, total: print(done, "of", total), show_progress=False)
            >>> watch.advance(3, lambda: heatmap)
            3 of 4
        """
        self.done += count
        self._bar.update(count)
        if self.on_progress is not None and heatmap is not None:
            began = time.perf_counter()
            so_far = self.shown(heatmap())
            if declines(self.on_progress(so_far, self.done, self.total)):
                raise OcclusionCancelled(so_far)
            self.seconds += time.perf_counter() - began

    def expect(self, more: int) -> None:
        """Count on ``more`` positions beyond those asked for.

        Examples:
            >>> watch = Watch(4, None, show_progress=False)
            >>> watch.expect(2)
            >>> watch.total
            6
        """
        self.total += more
        self._bar.total = self.total

    def rewind(self, done: int) -> None:
        """Count from ``done`` again: later positions are computed once more.

        Examples:
            >>> watch = Watch(4, None, show_progress=False)
            >>> watch.advance(3, lambda: heatmap)
            >>> watch.rewind(1)
            >>> watch.done
            1
        """
        if self.done != done:
            self.done = self._bar.n = done
            self._bar.refresh()

    def finish(self) -> None:
        """Count the positions so far as all: the map was good enough before its end.

        Examples:
            >>> watch = Watch(4, None, show_progress=False)
            >>> watch.advance(3, lambda: heatmap)
            >>> watch.finish()
            >>> watch.total
            3
        """
        self.total = self._bar.total = self.done
        self._bar.refresh()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class Pace:
    """The number of positions that are computed together.

    In a watched run the number is one at first, then as many as take about ``WATCHED_SECONDS``.

    Args:
        watched: Whether anybody watches.
        at_most: Largest number of positions; None leaves that to the session.

    Attributes:
        limit: The number now; None as the session likes.

    Examples:
        >>> pace = Pace(watched=True, at_most=None)
        >>> pace.limit
        1
        >>> pace.took(1, seconds=0.001)
        >>> pace.limit
        2
    """

    def __init__(self, watched: bool, at_most: int | None) -> None:
        self.watched = watched
        self.at_most = at_most
        self.limit = 1 if watched else at_most

    def part(self, count: int) -> int:
        """The number of sets, of ``count``, that are handed to the session at once.

        Examples:
            >>> [Pace(watched, at_most=None).part(100) for watched in (True, False)]
            [8, 100]
        """
        return min(count, 8 * self.limit) if self.watched and self.limit else count

    def took(self, count: int, seconds: float) -> None:
        """Follow the pace of the last ``count`` sets; the limit at most doubles.

        Examples:
            >>> pace = Pace(watched=True, at_most=None)
            >>> pace.took(1, seconds=0.001)
            >>> pace.took(2, seconds=0.002)
            >>> pace.limit
            4
        """
        if self.watched and self.limit is not None:
            fits = max(1, min(2 * self.limit, int(count * WATCHED_SECONDS / max(seconds, 1e-9))))
            self.limit = fits if self.at_most is None else min(fits, self.at_most)


def run(
    session: Session,
    stages: Iterable[IntArray],
    builder: MapBuilder,
    watch: Watch,
    at_most: int | None = None,
) -> None:
    """Work through ``stages``, recording every output.

    Args:
        session: Session that answers for positions.
        stages: Lists of positions, worked through in turn.
        builder: Builder that takes the outputs.
        watch: Progress of the run.
        at_most: Largest number of positions to compute together.

    Raises:
        OcclusionCancelled: ``on_progress`` returned False; the exception carries the partial heatmap.

    Examples:
        >>> from krypton_engine.executors.full import FullSession
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> from krypton_engine.run.order import coarse_to_fine
        >>> window = SlidingWindow((3, 24, 20), (3, 12, 10), (3, 12, 10))
        >>> with torch.no_grad(), Watch(len(window), None, show_progress=False) as watch:
        ...     session = FullSession(model, (x,), 0, window, torch.zeros(1), None, model(x), 4)
        ...     builder = MapBuilder(window, session.base, lambda outputs: outputs[:, 0])
        ...     run(session, coarse_to_fine(window), builder, watch)
        >>> builder.heatmap().measured.tolist()
        [[True, True], [True, True]]
    """
    pace = Pace(watch.watched, at_most)
    for stage in stages:
        _measure(session, stage, builder, watch, pace)


def _measure(
    session: Session,
    positions: IntArray,
    builder: MapBuilder,
    watch: Watch,
    pace: Pace,
    cheaply: bool = False,
) -> None:
    """Record the outputs for ``positions``; those that change the same cells are computed once."""
    record = builder.record_cheaply if cheaply else builder.record
    work = distinct_work(session.changed, positions)
    if len(work.unchanged):
        record(work.unchanged, session.base.expand(len(work.unchanged), *session.base.shape[1:]))
        watch.advance(len(work.unchanged), builder.heatmap)
    start = 0
    while start < len(work.boxes):
        part = work.part(slice(start, start + pace.part(len(work.boxes))))
        began, watching = time.perf_counter(), watch.seconds
        for found in computed(session, part, pace.limit):
            answered, outputs, dropped = _for_positions(found, part.positions)
            record(answered, outputs, dropped)
            watch.advance(len(answered), builder.heatmap)
        start += len(part.boxes)
        pace.took(len(part.boxes), time.perf_counter() - began - (watch.seconds - watching))


def _for_positions(found: Computed, alike: list[IntArray]) -> tuple[IntArray, Tensor, Floats | None]:
    """Positions that the computed changes answer, and the output and the dropped effect of each.

    Args:
        found: The outputs of some changes.
        alike: Positions that make each change.
    """
    each = [alike[change] for change in found.which]
    positions, outputs, dropped = np.concatenate(each), found.outputs, found.dropped
    if len(positions) > len(each):
        repeats = np.array([len(mine) for mine in each])
        outputs = outputs.repeat_interleave(on_device(repeats, outputs.device), 0, output_size=len(positions))
        dropped = None if dropped is None else dropped.repeat(repeats)
    return positions, outputs, dropped


Opener = Callable[[Head], Session | None]
"""A function from the scalar of first-order effects to a cheap session; None where there is none."""


def refine(
    session: Session,
    positions: IntArray,
    builder: MapBuilder,
    watch: Watch,
    rule: StoppingRule,
    at_most: int | None = None,
    cheap: Opener = lambda _: None,
) -> None:
    """Measure ``positions`` where that matters, until the map is good enough; the rest is predicted.

    Args:
        session: Session that answers for positions.
        positions: The positions wanted.
        builder: Builder that takes the outputs, and the forecast of the map.
        watch: Progress of the run.
        rule: Stopping rule.
        at_most: Largest number of positions to compute together.
        cheap: Function that opens the session for the map's trend, where the rule asks for one.

    Raises:
        OcclusionCancelled: As `run`.

    Examples:
        >>> from krypton_engine.executors.full import FullSession
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window = SlidingWindow((3, 24, 20), (3, 8, 8), (3, 2, 2))
        >>> with torch.no_grad(), Watch(len(window), None, show_progress=False) as watch:
        ...     session = FullSession(model, (x,), 0, window, torch.zeros(1), None, model(x), 8)
        ...     builder = MapBuilder(window, session.base, lambda out: out[:, 0], fill=np.arange(len(window)))
        ...     refine(session, np.arange(len(window)), builder, watch, StoppingRule(ssim_target=0.5))
        >>> heatmap = builder.heatmap()
        >>> bool(heatmap.measured.all()), bool(heatmap.values.isfinite().all())
        (False, True)
    """
    window, work = as_sliding(session.window), distinct_work(session.changed, positions)
    sampling = Sampling(window, work, rule, rule.at_once or session.at_once)
    if not sampling.pays:
        run(session, [_left(positions, builder)], builder, watch, at_most)
        return
    measured_by, cheaper = _sessions(session, builder, rule, work, cheap)
    pace, cheap_pace = Pace(watch.watched, at_most), Pace(watch.watched, at_most)
    if cheaper is not None:
        sampling = replace(
            sampling, cheap=Cheap(builder.base, rule.cost or 1.0, judged=rule.cost is not None)
        )
    step = sampling.next(*builder.so_far(), None, builder.cheap())
    position_seconds = math.inf  # the least so far: many together take less time each
    while not step.over:
        began = time.perf_counter()
        if cheaper is not None and len(step.cheaply):
            watch.expect(len(step.cheaply))
            _measure(cheaper, step.cheaply, builder, watch, cheap_pace, cheaply=True)
        between, watching = time.perf_counter(), watch.seconds
        _measure(measured_by, step.positions, builder, watch, pace)
        after = time.perf_counter()
        if changing := len(np.setdiff1d(step.positions, work.unchanged)):
            took = after - between - (watch.seconds - watching)
            position_seconds = min(position_seconds, took / changing)
        if step.trajectory.steps == 1 and sampling.cheap is not None and rule.cost is None:
            # Both have measured the same positions.
            cost = rounded_cost(between - began, after - between)
            cheaper = cheaper if cost <= DEAREST else None
            sampling = replace(sampling, cheap=Cheap(builder.base, cost) if cheaper is not None else None)
        thinking = time.thread_time()
        step = sampling.next(*builder.so_far(), step.trajectory, builder.cheap())
        look_seconds = time.thread_time() - thinking
        if step.forecast is not None:
            builder.expect(rule.estimate(step.forecast), step.forecast.prediction.values)
        if not step.over and sampling.cheap is None and len(session.window.grid_shape) != 2:
            left = _left(positions, builder)
            if len(left) * position_seconds < _LOOKS * look_seconds:
                _measure(measured_by, left, builder, watch, pace)
                break
    if not step.reached:  # nothing less than the exact map is good enough
        again = builder.trimmed()
        watch.expect(len(again))
        run(session, [again], builder, watch, at_most)


def _left(positions: IntArray, builder: MapBuilder) -> IntArray:
    """Positions, of those given, that have not been measured."""
    left: IntArray = positions[~builder.so_far()[1].ravel()[positions]]
    return left


def _sessions(
    session: Session, builder: MapBuilder, rule: StoppingRule, work: Work, cheap: Opener
) -> tuple[Session, Session | None]:
    """The session that measures, and the one that gives the map's trend."""
    with suppress(InputError):  # the budget does not hold that: so it is measured as it is
        if rule.drift:
            trend = trend_of(session, rule.epsilon, cheap, builder.scalar) if worth_while(work) else None
            return session, trend
        if rule.epsilon:
            return session.trimmed(rule.epsilon, builder.scalar), None
    return session, None


def trend_of(session: Session, epsilon: float, linearise: Opener, head: Head) -> Session | None:
    """The session that gives a map's trend: trimmed, of a network that sees the whole image linearised too.

    Args:
        session: The exact one.
        epsilon: Threshold of trimming; 0 for the usual one of linearised networks, and none for others.
        linearise: Opens the linearised session.
        head: The scalar that first-order effects are effects on.

    Returns:
        None where there is none that differs from the exact one.

    Raises:
        InputError: The memory budget does not hold the gradients.

    Examples:
        >>> from krypton_engine.executors.full import FullSession
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window = SlidingWindow((3, 24, 20), (3, 12, 10), (3, 12, 10))
        >>> session = FullSession(model, (x,), 0, window, torch.zeros(1), None, model(x), 4)
        >>> trend_of(session, 0.3, lambda head: None, head=lambda outputs: outputs[:, 0])  # drops nothing
    """
    linearised = linearise(head)
    if linearised is not None:
        return linearised.trimmed(epsilon or USUAL_EPSILON, head)
    trimmed = session.trimmed(epsilon, head) if epsilon else session
    return None if trimmed is session else trimmed
