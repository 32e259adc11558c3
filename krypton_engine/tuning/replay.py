"""An approximate map replayed on the exact one: the SSIM that each refinement expects, and the true one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch

from krypton_engine.approximation.ssim import ssim
from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.errors import InputError
from krypton_engine.executors.base import Session
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.perturbation.changed import Work, distinct_work
from krypton_engine.perturbation.positions import image_axes
from krypton_engine.perturbation.windows import SlidingWindow, as_sliding
from krypton_engine.run.adaptive import Sampling
from krypton_engine.run.fidelity import Cheap, rounded_cost, worth_while
from krypton_engine.run.loop import Opener, Watch, run, trend_of
from krypton_engine.tuning.curves import Curve, Way


class Look(NamedTuple):
    """A forecast of a replay.

    Attributes:
        computed: Sets of positions computed.
        expected: Expected SSIM.
        ssim: True SSIM.
        seconds: Time that it took.
        cheaply: Sets of positions computed cheaply.
    """

    computed: int
    expected: float
    ssim: float
    seconds: float
    cheaply: int = 0


_HOPELESS = Look(0, math.nextafter(1.0, 0.0), 0.0, 0.0)
"""The forecast of a map with a value that is not finite: only the whole map is like it."""


def replay(
    window: SlidingWindow,
    work: Work,
    measurable: Floats,
    exact: Floats,
    at_once: int = 1,
    cheap: Cheap | None = None,
    cheaply: Floats | None = None,
) -> list[Look]:
    """The forecasts that a run would have made of a map that is already known.

    Args:
        window: The sliding window.
        work: All positions, by the cells that they change.
        measurable: Values that measuring would give, on the grid.
        exact: The exact map.
        at_once: Sets of positions that a step measures at least.
        cheap: The cheap fidelity; None without one.
        cheaply: Values that the cheap session gives, on the grid; None without one.

    Returns:
        Every forecast on the way to the end; the steps are those of a run without a stopping rule.

    Examples:
        >>> from krypton_engine.perturbation.changed import ChangedCells
        >>> window, exact = SlidingWindow((33,), (2,), (1,)), np.arange(32.0)
        >>> work = distinct_work(ChangedCells(window, np.ones(33, dtype=bool)), np.arange(32))
        >>> looks = replay(window, work, exact, exact)
        >>> looks[0].computed < looks[-1].computed < 32, round(looks[-1].ssim, 2)  # even slopes are foreseen
        (True, 1.0)
    """
    if not (np.isfinite(exact).all() and np.isfinite(measurable).all()):
        return [_HOPELESS]
    sampling = Sampling(window, work, at_once=at_once, cheap=cheap)
    measured = np.zeros(exact.shape, dtype=bool)
    trend = None if cheaply is None else np.full(exact.shape, np.nan)
    truth = torch.from_numpy(exact)
    looks: list[Look] = []
    began = time.perf_counter()
    step = sampling.next(measurable, measured, None, trend)
    while not step.over:
        measured.flat[step.positions] = True
        if trend is not None and cheaply is not None:
            trend.flat[step.cheaply] = cheaply.flat[step.cheaply]
        step = sampling.next(measurable, measured, step.trajectory, trend)
        if step.forecast is not None:
            took = time.perf_counter() - began
            predicted = torch.from_numpy(step.forecast.prediction.values)
            similar = ssim(predicted, truth, image_axes=image_axes(window))
            forecast = step.forecast
            looks.append(Look(forecast.computed, forecast.ssim, similar, took, forecast.cheaply))
            began = time.perf_counter()
    return looks


@dataclass(frozen=True)
class Recorded:
    """A whole map by one session.

    Attributes:
        values: On the grid, float64.
        base: The value where nothing changes.
        seconds: Time of all positions.
        open_seconds: Time before the first: gradients.
    """

    values: Floats
    base: float
    seconds: float
    open_seconds: float


def curves_of(
    image: str,
    session: Session,
    positions: IntArray,
    builder: Callable[[float], MapBuilder],
    ways: Sequence[Way],
    at_once: int,
    costs: Mapping[Way, float] = MappingProxyType({}),
    deadline: float | None = None,
    linearise: Opener = lambda _: None,
) -> list[Curve]:
    """Curves of one sample image, one for each way that its memory allows.

    Every session measures the whole map once, whatever the number of ways that use it.

    Args:
        image: Fingerprint of the image.
        session: On that image.
        positions: The positions wanted.
        builder: Function from the time at which a run began to a map builder.
        ways: The ways; exact values alone come first.
        at_once: Positions that a step measures at least.
        costs: Cost of a cheap position in exact ones, by way; measured on this sample where not given.
        deadline: Value of ``time.perf_counter`` after which to give up.
        linearise: Opens the linearised session.

    Raises:
        OcclusionCancelled: The deadline has passed.

    Examples:
        >>> from krypton_engine.executors.full import FullSession
        >>> window = SlidingWindow((3, 24, 20), (3, 12, 10), (3, 12, 10))
        >>> session = FullSession(model, (x,), 0, window, torch.zeros(1), None, model(x), 4)
        >>> builder = lambda began: MapBuilder(window, session.base, lambda outputs: outputs[:, 0])
        >>> with torch.no_grad():
        ...     (curve,) = curves_of("an image", session, np.arange(4), builder, [Way()], at_once=1)
        >>> curve.way, curve.positions
        (Way(epsilon=0.0, drift=False), 4)
    """

    def in_time(*_: object) -> bool:
        return deadline is None or time.perf_counter() < deadline

    def recorded(source: Way) -> Recorded | None:
        """The whole map by a session; None where there is none but the exact one."""
        opening = time.perf_counter()
        recording = builder(opening)
        measuring: Session | None = session
        if source.drift:
            measuring = trend_of(session, source.epsilon, linearise, recording.scalar)
        elif source.epsilon:
            measuring = session.trimmed(source.epsilon, recording.scalar)
        if measuring is None or (source != Way() and measuring is session):
            return None
        opened = time.perf_counter()
        with Watch(len(positions), None if deadline is None else in_time, False) as watch:
            run(measuring, [positions], recording, watch)
        values = recording.heatmap().values.double().numpy()
        return Recorded(values, recording.base, time.perf_counter() - opened, opened - opening)

    @cache
    def linearises() -> bool:
        with suppress(InputError):
            return linearise(builder(time.perf_counter()).scalar) is not None
        return False

    work = distinct_work(session.changed, positions)
    maps: dict[Way, Recorded | None] = {}
    curves: list[Curve] = []
    for way in ways:
        # A drift whose session is trimmed, not linearised, has a map that is measured as by itself.
        source = Way(way.epsilon, way.drift and linearises())
        if source not in maps:
            try:
                maps[source] = recorded(source)
            except InputError:  # the memory budget does not hold that; another day's may
                continue
        found = maps[source]
        exact = maps[Way()]
        assert exact is not None
        cost = costs.get(way, 1.0)
        if found is not None and way.drift:
            cost = costs.get(way) or rounded_cost(found.seconds, exact.seconds)
        if found is None or (way.drift and (source == Way() or not worth_while(work))):
            if way.epsilon or way in costs:  # costs what it costs without
                curves.append(replace(curves[0], epsilon=way.epsilon, drift=way.drift, cost=cost))
            continue
        curves.append(_curve(image, as_sliding(session.window), work, way, exact, found, at_once, cost))
    return curves


def _curve(
    image: str,
    window: SlidingWindow,
    work: Work,
    way: Way,
    exact: Recorded,
    found: Recorded,
    at_once: int,
    cost: float,
) -> Curve:
    """The curve of one way, of which ``found`` is the session's map."""
    if way.drift:
        cheaply = np.where(np.isfinite(found.values), found.values, np.inf)
        by_both = Cheap(exact.base, cost, judged=True)
        looks = replay(window, work, exact.values, exact.values, at_once, by_both, cheaply)
    else:
        looks = replay(window, work, found.values, exact.values, at_once)
    computed, expected, similar, took, counts = (
        tuple(getattr(look, field) for look in looks)
        for field in ("computed", "expected", "ssim", "seconds", "cheaply")
    )
    return Curve(
        image,
        way.epsilon,
        len(work.positions),
        computed,
        expected,
        similar,
        exact.seconds if way.drift else found.seconds,
        float(np.median(took)) if looks else 0.0,
        found.open_seconds,
        exact.seconds,
        at_once,
        way.drift,
        counts if way.drift else (),
        found.seconds if way.drift else 0.0,
        cost,
    )
