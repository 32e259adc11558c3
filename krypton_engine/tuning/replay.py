"""An approximate map replayed on the exact one: what each refinement expects, and what is true."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from krypton_engine.approximation.ssim import ssim
from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.errors import InputError
from krypton_engine.executors.base import Session
from krypton_engine.heatmap.builder import Recorder
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.changed import Work, distinct_work
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.run.loop import Watch, run
from krypton_engine.run.order import Outlook, Refinement
from krypton_engine.tuning.curves import Curve

Step = tuple[int, float, float, float]
"""Of a replay: positions computed, expected SSIM, true SSIM, seconds of looking."""


_HOPELESS: Step = (0, math.nextafter(1.0, 0.0), 0.0, 0.0)
"""A map with values that are not finite: nothing but all of it is like it."""


def replay(
    window: SlidingWindow, work: Work, measurable: Floats, exact: Floats, at_once: int = 1
) -> list[Step]:
    """How an approximate map would have come about.

    Args:
        window: The sliding window.
        work: All positions, by what they change.
        measurable: What measuring gives, on the grid.
        exact: The exact map.
        at_once: As a session has it.
    """
    if not (np.isfinite(exact).all() and np.isfinite(measurable).all()):
        return [_HOPELESS]
    measured = np.zeros(exact.shape, dtype=bool)
    truth = torch.from_numpy(exact)
    steps: list[Step] = []
    last = time.perf_counter()

    def note(outlook: Outlook) -> bool:
        nonlocal last
        took = time.perf_counter() - last
        similar = ssim(torch.from_numpy(outlook.prediction.values), truth)
        steps.append((outlook.computed, outlook.ssim, similar, took))
        last = time.perf_counter()
        return False

    for stage in Refinement(window, work, lambda: (measurable, measured), note, at_once):
        measured.flat[stage] = True
    return steps


def curves_of(
    image: str,
    session: Session,
    positions: IntArray,
    recorder: Callable[[float], Recorder],
    epsilons: Sequence[float],
    at_once: int,
    deadline: float | None = None,
) -> list[Curve]:
    """What one sample shows, for everything that might be trimmed.

    Args:
        image: Its fingerprint.
        session: Answers for positions of it.
        positions: The positions wanted.
        recorder: Makes what takes the outputs, given when its run began.
        epsilons: How much to trim, nothing first.
        at_once: In what steps to refine.
        deadline: When to give up, of ``time.perf_counter``.

    Raises:
        OcclusionCancelled: The deadline has passed.
    """

    def in_time(*_: object) -> bool:
        return deadline is None or time.perf_counter() < deadline

    work = distinct_work(session.changed, positions)
    curves: list[Curve] = []
    exact: Heatmap | None = None
    for epsilon in epsilons:
        opening = time.perf_counter()
        recording = recorder(opening)
        try:
            trimmed = session.trimmed(epsilon, recording.scalar) if epsilon else session
        except InputError:  # the memory budget does not hold that; another day's may
            continue
        if epsilon and trimmed is session:  # nothing can be trimmed here: it costs what it costs without
            curves.append(replace(curves[0], epsilon=epsilon))
            continue
        opened = time.perf_counter()
        with Watch(len(positions), None if deadline is None else in_time, False) as watch:
            run(trimmed, [positions], recording, watch)
        found = recording.heatmap()
        took = time.perf_counter() - opened
        exact = exact or found
        values, truth = (h.values.double().numpy() for h in (found, exact))
        steps = replay(session.window, work, values, truth, at_once)
        computed = tuple(step[0] for step in steps)
        expected, similar, looks = (tuple(step[i] for step in steps) for i in (1, 2, 3))
        curves.append(
            Curve(
                image, epsilon, len(work.readers), computed, expected, similar, took,
                float(np.median(looks)) if looks else 0.0, opened - opening,
                curves[0].exact_seconds if curves else took, at_once,
            )
        )  # fmt: skip
    return curves
