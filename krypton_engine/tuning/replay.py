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
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.changed import Work, distinct_work
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.run.adaptive import Sampling
from krypton_engine.run.loop import Watch, run
from krypton_engine.tuning.curves import Curve

Look = tuple[int, float, float, float]
"""A forecast of a replay: sets of positions computed, expected SSIM, true SSIM, seconds that it took."""


_HOPELESS: Look = (0, math.nextafter(1.0, 0.0), 0.0, 0.0)
"""The forecast of a map with a value that is not finite: only the whole map is like it."""


def replay(
    window: SlidingWindow, work: Work, measurable: Floats, exact: Floats, at_once: int = 1
) -> list[Look]:
    """The forecasts that a run would have made of a map that is already known.

    Args:
        window: The sliding window.
        work: All positions, by what they change.
        measurable: What measuring gives, on the grid.
        exact: The exact map.
        at_once: Sets of positions that a step measures at least.

    Returns:
        Every forecast on the way to the end; the steps are those of a run without a stopping rule.
    """
    if not (np.isfinite(exact).all() and np.isfinite(measurable).all()):
        return [_HOPELESS]
    sampling = Sampling(window, work, at_once=at_once)
    measured = np.zeros(exact.shape, dtype=bool)
    truth = torch.from_numpy(exact)
    looks: list[Look] = []
    began = time.perf_counter()
    step = sampling.next(measurable, measured)
    while not step.over:
        measured.flat[step.positions] = True
        step = sampling.next(measurable, measured, step.trajectory)
        if step.forecast is not None:
            took = time.perf_counter() - began
            similar = ssim(torch.from_numpy(step.forecast.prediction.values), truth)
            looks.append((step.forecast.computed, step.forecast.ssim, similar, took))
            began = time.perf_counter()
    return looks


def curves_of(
    image: str,
    session: Session,
    positions: IntArray,
    builder: Callable[[float], MapBuilder],
    epsilons: Sequence[float],
    at_once: int,
    deadline: float | None = None,
) -> list[Curve]:
    """Curves of one sample image, one for each threshold of trimming that its memory allows.

    Args:
        image: Fingerprint of the image.
        session: On that image.
        positions: The positions wanted.
        builder: Makes a map builder, from the time at which a run began.
        epsilons: Thresholds of trimming, 0 first.
        at_once: Positions that a step measures at least.
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
        recording = builder(opening)
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
        looks = replay(session.window, work, values, truth, at_once)
        computed = tuple(look[0] for look in looks)
        expected, similar, took_looking = (tuple(look[i] for look in looks) for i in (1, 2, 3))
        curves.append(
            Curve(
                image, epsilon, len(work.positions), computed, expected, similar, took,
                float(np.median(took_looking)) if looks else 0.0, opened - opening,
                curves[0].exact_seconds if curves else took, at_once,
            )
        )  # fmt: skip
    return curves
