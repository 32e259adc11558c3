"""The one loop over positions: schedule -> session -> heatmap so far; progress and cancel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from krypton_engine.errors import OcclusionCancelled
from krypton_engine.executors import Session
from krypton_engine.heatmap import Heatmap, Recorder
from krypton_engine.quality import SPREAD, SsimEstimate
from krypton_engine.schedule import Outlook, Refinement
from krypton_engine.windows import IntArray, distinct_work

OnProgress = Callable[[Heatmap, int, int], object]
"""Called as ``on_progress(heatmap_so_far, done, total)``; returning False (NumPy's too) cancels the run."""

WATCHED_SECONDS = 0.1
"""Work between two calls of ``on_progress``: what a person takes for immediate."""


class Watch:
    """Who watches a run, which may be one of several that count as one.

    Args:
        total: Positions of all runs together.
        on_progress: See `OnProgress`.
        show_progress: Whether to draw a progress bar.
        description: What the bar says.
    """

    def __init__(
        self,
        total: int,
        on_progress: OnProgress | None,
        show_progress: bool,
        description: str = "Krypton occlusion",
    ) -> None:
        self.total = total
        self.done = 0
        self.on_progress = on_progress
        self._bar = tqdm(total=total, desc=description, unit="pos", disable=not show_progress)
        self.watched = on_progress is not None or show_progress

    def advance(self, count: int, heatmap: Callable[[], Heatmap]) -> None:
        """Count ``count`` more positions as done.

        Raises:
            OcclusionCancelled: ``on_progress`` returned False.
        """
        self.done += count
        self._bar.update(count)
        if self.on_progress is not None:
            so_far = heatmap()
            answer = self.on_progress(so_far, self.done, self.total)
            if isinstance(answer, (bool, np.bool_)) and not answer:
                raise OcclusionCancelled(so_far)

    def rewind(self, done: int) -> None:
        """Count from ``done`` again: what came after it is computed once more."""
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
        # Positions that change the same cells stay together, so that a later part does not repeat them.
        work = distinct_work(session.changed, stage)
        sets = [work.unchanged] * bool(len(work.unchanged)) + work.readers
        start = 0
        while start < len(sets):
            part = sets[start : start + 8 * limit] if watch.watched and limit else sets
            began = time.perf_counter()
            for positions, outputs in session.stream(np.concatenate(part), limit):
                effects = None if session.dropped is None else session.dropped[positions]
                recorder.record(positions, outputs, effects)
                watch.advance(len(positions), recorder.heatmap)
            start += len(part)
            if watch.watched and limit is not None:
                limit = _paced(limit, len(part), time.perf_counter() - began)
                limit = limit if at_most is None else min(limit, at_most)


@dataclass(frozen=True)
class Goal:
    """When a map is good enough.

    Attributes:
        ssim_target: The SSIM with the exact map that it must have.
        spread: How many times the expected loss ``1 - SSIM`` the true one is: at least, about, at most.
        basis: Where that is known from; see `SsimEstimate`.
        epsilon: What to trim; 0 nothing. See `krypton_engine.executors.Session`.
    """

    ssim_target: float
    spread: tuple[float, float, float] = SPREAD
    basis: str = "online"
    epsilon: float = 0.0

    def estimate(self, outlook: Outlook) -> SsimEstimate:
        """What a map of this outlook has."""
        return SsimEstimate.of(outlook.ssim, self.basis, self.spread)


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
        estimate = goal.estimate(outlook)
        recorder.expect(estimate)
        return estimate.low >= goal.ssim_target

    work = distinct_work(session.changed, positions)
    trimmed = session.trimmed(goal.epsilon, recorder.scalar) if goal.epsilon else session
    refinement = Refinement(session.window, work, recorder.so_far, enough)
    run(trimmed, refinement, recorder, watch, at_most)
    if not refinement.ended_early:  # nothing less than the exact map is good enough
        run(session, [recorder.trimmed()], recorder, watch, at_most)


def _paced(limit: int, count: int, seconds: float) -> int:
    """Positions that take ``WATCHED_SECONDS`` at the pace of the last ones; at most twice the last limit."""
    return max(1, min(2 * limit, int(count * WATCHED_SECONDS / max(seconds, 1e-9))))
