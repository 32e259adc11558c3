"""The one loop over positions: schedule -> session -> heatmap so far; progress and cancel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from krypton_engine.approximation.ssim import SPREAD, SsimEstimate
from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.errors import InputError, OcclusionCancelled
from krypton_engine.executors.base import Computed, Session
from krypton_engine.executors.layout import on_device
from krypton_engine.heatmap.builder import Recorder
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.changed import distinct_work
from krypton_engine.run.order import Outlook, Refinement

OnProgress = Callable[[Heatmap, int, int], object]
"""Called as ``on_progress(heatmap_so_far, done, total)``; returning False (NumPy's too) cancels the run."""


def declines(answer: object) -> bool:
    """Whether a callback's answer cancels: Python's False, or NumPy's."""
    return isinstance(answer, (bool, np.bool_)) and not answer


BAR = "Occlusion attribution"
"""What the progress bar says: the same as Captum's."""

WATCHED_SECONDS = 0.1
"""Work between two calls of ``on_progress``: what a person takes for immediate."""


class Watch:
    """Who watches a run, which may be one of several that count as one.

    Args:
        total: Positions of all runs together.
        on_progress: See `OnProgress`.
        show_progress: Whether to draw a progress bar.

    Attributes:
        seconds: Time that ``on_progress`` took.
    """

    def __init__(self, total: int, on_progress: OnProgress | None, show_progress: bool) -> None:
        self.total = total
        self.done = 0
        self.seconds = 0.0
        self.on_progress = on_progress
        self._bar = tqdm(total=total, desc=BAR, unit="pos", disable=not show_progress)
        self.watched = on_progress is not None or show_progress

    def advance(self, count: int, heatmap: Callable[[], Heatmap]) -> None:
        """Count ``count`` more positions as done.

        Raises:
            OcclusionCancelled: ``on_progress`` returned False.
        """
        self.done += count
        self._bar.update(count)
        if self.on_progress is not None:
            began = time.perf_counter()
            so_far = heatmap()
            if declines(self.on_progress(so_far, self.done, self.total)):
                raise OcclusionCancelled(so_far)
            self.seconds += time.perf_counter() - began

    def expect(self, more: int) -> None:
        """Count on ``more`` positions than were asked for."""
        self.total += more
        self._bar.total = self.total

    def rewind(self, done: int) -> None:
        """Count from ``done`` again: what came after it is computed once more."""
        if self.done != done:
            self.done = self._bar.n = done
            self._bar.refresh()

    def finish(self) -> None:
        """What has been done is all there is to do: a map that was good enough before its end."""
        self.total = self._bar.total = self.done
        self._bar.refresh()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def run(
    session: Session,
    stages: Iterable[IntArray],
    recorder: Recorder,
    watch: Watch,
    at_most: int | None = None,
) -> None:
    """Work through ``stages``, recording every output.

    Args:
        session: Answers for positions.
        stages: Lists of positions, worked through in turn; the next is asked for when the last is recorded.
        recorder: Takes the outputs.
        watch: Who watches.
        at_most: Largest number of positions to compute together.

    Watched runs start with a single position, then compute about ``WATCHED_SECONDS`` of work at a time.

    Raises:
        OcclusionCancelled: ``on_progress`` returned False; the exception carries the partial heatmap.
    """
    limit = 1 if watch.watched else at_most
    for stage in stages:
        work = distinct_work(session.changed, stage)
        if len(work.unchanged):
            recorder.record(work.unchanged, session.base.expand(len(work.unchanged), *session.base.shape[1:]))
            watch.advance(len(work.unchanged), recorder.heatmap)
        start = 0
        while start < len(work.boxes):
            count = 8 * limit if watch.watched and limit else len(work.boxes)
            changes, readers = work.boxes[start : start + count], work.readers[start : start + count]
            began, watching = time.perf_counter(), watch.seconds
            for computed in session.compute(changes, limit):
                positions, outputs, dropped = _for_positions(computed, readers)
                recorder.record(positions, outputs, dropped)
                watch.advance(len(positions), recorder.heatmap)
            start += len(changes)
            if watch.watched and limit is not None:
                working = time.perf_counter() - began - (watch.seconds - watching)
                limit = _paced(limit, len(changes), working)
                limit = limit if at_most is None else min(limit, at_most)


def _for_positions(computed: Computed, readers: list[IntArray]) -> tuple[IntArray, Tensor, Floats | None]:
    """The positions that read what was computed, and the output and dropped effect for each of them."""
    each = [readers[change] for change in computed.which]
    positions, outputs, dropped = np.concatenate(each), computed.outputs, computed.dropped
    if len(positions) > len(each):
        repeats = np.array([len(mine) for mine in each])
        outputs = outputs.repeat_interleave(on_device(repeats, outputs.device), 0, output_size=len(positions))
        dropped = None if dropped is None else dropped.repeat(repeats)
    return positions, outputs, dropped


@dataclass(frozen=True)
class Goal:
    """When a map is good enough.

    Attributes:
        ssim_target: The SSIM with the exact map that it must have.
        factor: The expected loss ``1 - SSIM`` times this is what must be small enough.
        spread: The true loss in multiples of the expected one: least, middle, most.
        basis: Where that is known from; see `SsimEstimate`.
        epsilon: What to trim; 0 nothing. See `krypton_engine.executors.base.Session`.
        at_once: In what steps to refine; None as suits the session.
    """

    ssim_target: float
    factor: float = SPREAD[2]
    spread: tuple[float, float, float] = SPREAD
    basis: str = "online"
    epsilon: float = 0.0
    at_once: int | None = None

    def reached(self, outlook: Outlook) -> bool:
        """Whether a map of this outlook is good enough."""
        return 1 - self.factor * (1 - outlook.ssim) >= self.ssim_target

    def estimate(self, outlook: Outlook) -> SsimEstimate:
        """What a map of this outlook has: where it stops, the target is what is promised, and no more."""
        found = SsimEstimate.of(outlook.ssim, self.basis, self.spread)
        return replace(found, low=min(found.low, self.ssim_target)) if self.basis == "tuned" else found


def refine(
    session: Session,
    positions: IntArray,
    recorder: Recorder,
    watch: Watch,
    goal: Goal,
    at_most: int | None = None,
) -> None:
    """Measure ``positions`` where it matters until ``goal`` is reached; the rest is interpolated.

    Args:
        session: Answers for positions.
        positions: The positions wanted.
        recorder: Takes the outputs, and what is expected of the map.
        watch: Who watches.
        goal: When to stop.
        at_most: Largest number of positions to compute together.

    Raises:
        OcclusionCancelled: As `run`.
    """

    def enough(outlook: Outlook) -> bool:
        recorder.expect(goal.estimate(outlook), outlook.prediction.values)
        return goal.reached(outlook)

    work = distinct_work(session.changed, positions)
    trimmed = session
    if goal.epsilon:
        with suppress(InputError):  # the budget does not hold that: so it is measured as it is
            trimmed = session.trimmed(goal.epsilon, recorder.scalar)
    steps = goal.at_once or session.at_once
    refinement = Refinement(session.window, work, recorder.so_far, enough, steps)
    run(trimmed, refinement, recorder, watch, at_most)
    if not refinement.ended_early:  # nothing less than the exact map is good enough
        again = recorder.trimmed()
        watch.expect(len(again))
        run(session, [again], recorder, watch, at_most)


def _paced(limit: int, count: int, seconds: float) -> int:
    """Positions that take ``WATCHED_SECONDS`` at the pace of the last ones; at most twice the last limit."""
    return max(1, min(2 * limit, int(count * WATCHED_SECONDS / max(seconds, 1e-9))))
