"""Two fidelities of one map: positions measured cheaply, positions measured exactly, those drawn. Pure."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from krypton_engine.common.arrays import Flags, Floats, IntArray
from krypton_engine.perturbation.changed import Work
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.run.savings import Savings

FEWEST_DRAWN = 8
"""Sets that are measured by both fidelities before anything is expected of the cheap map."""

_FEWEST_RELIED_ON = 24
"""Sets that are drawn before a cheap map that no tuning has judged is relied on: errors in an eighth of the
map escape them one time in twenty-five. Of twelve maps of a network with group norms, 16 left two short of
.95, by .084 and .048, and 24 one, by .024."""

_FEW_WINDOWS = 24
"""Windows side by side up to which more sets are drawn: where a window covers a large part of the image, the
first order may be wrong for many positions at once."""

_FEWEST_OF_FEW_WINDOWS = 64
"""Sets that are drawn then. With windows of a sixteenth of the image, 24 left a map of an EfficientNet-B0
short of .80 by .127 and one of a ConvNeXtV2 of .95 by .059, 40 the first by .084, and 64 none by more than
.007."""

_SHARE_DRAWN = 8
"""Cost of all that is measured, in exact sets, for each set that was drawn at random."""

_FEWEST_SETS = 8 * FEWEST_DRAWN
"""Sets of a map that a cheap map is worth while for: of fewer, those drawn are a large part."""

DEAREST = 0.5
"""Cost of a cheap position, in exact ones, that a cheap map is worth while for where no tuning says so."""

USUAL_EPSILON = 0.3
"""Threshold of trimming of a linearised session where no tuning gives one: a position of an EfficientNet-B0
then takes a third of the time, and a map keeps an SSIM of .997."""

_GOLDEN_RATIO = 0.618034
"""A number whose multiples, modulo 1, fall evenly."""

_LEAST_COST = 2.0**-10
"""Least cost of a cheap position, in exact ones: no position is free."""


@dataclass(frozen=True)
class Cheap:
    """The cheap fidelity of a map.

    Attributes:
        base: The value of both maps where nothing changes.
        cost: Cost of a cheap position, in exact ones; see `rounded_cost`.
        judged: Whether a tuning has judged maps that rely on this fidelity, so that a map's own draws need
            not do so alone.
    """

    base: float
    cost: float
    judged: bool = False


def rounded_cost(cheap_seconds: float, exact_seconds: float) -> float:
    """The cost of a cheap position in exact ones, as a power of 2: noise in the times moves no position.

    Args:
        cheap_seconds: Time of some positions.
        exact_seconds: Time of as many exact ones.

    Examples:
        >>> rounded_cost(1.1, 5.2), rounded_cost(1.3, 4.9)
        (0.25, 0.25)
    """
    ratio = min(1.0, max(_LEAST_COST, cheap_seconds / max(exact_seconds, 1e-9)))
    return float(2.0 ** round(math.log2(ratio)))


def worth_while(work: Work) -> bool:
    """Whether a map has enough sets of positions for a cheap map, or of a volume for a choice among them.

    Examples:
        >>> from krypton_engine.perturbation.changed import ChangedCells, distinct_work
        >>> changed = ChangedCells(SlidingWindow((100,), (2,), (1,)), np.ones(100, dtype=bool))
        >>> [worth_while(distinct_work(changed, np.arange(count))) for count in (10, 64)]
        [False, True]
    """
    return len(work.positions) >= _FEWEST_SETS


def drawn(window: SlidingWindow, work: Work) -> IntArray:
    """All sets of positions in a random order, whose beginnings are spread evenly over the grid: ``(sets,)``.

    The order depends on the map alone: the sets are strung on a curve that stays close to itself (Morton's),
    from a start that their boxes decide, in steps of the golden ratio.

    Examples:
        >>> from krypton_engine.perturbation.changed import ChangedCells, distinct_work
        >>> window = SlidingWindow((65,), (2,), (1,))
        >>> work = distinct_work(ChangedCells(window, np.ones(65, dtype=bool)), np.arange(64))
        >>> int(np.diff(np.sort(drawn(window, work)[:8])).min()) >= 5  # the first 8 of 64 lie apart
        True
    """
    firsts = np.array([alike[0] for alike in work.positions], dtype=np.int64)
    where = np.unravel_index(firsts, window.grid_shape)
    key = np.zeros(len(firsts), dtype=np.int64)
    bits = max(window.grid_shape).bit_length()
    for bit in range(bits):
        for axis, along in enumerate(where):
            key |= ((along >> bit) & 1) << (bit * len(where) + axis)
    count, start = len(firsts), zlib.crc32(work.boxes.tobytes()) / 2**32
    places = ((start + _GOLDEN_RATIO * np.arange(2 * count)) % 1 * count).astype(np.int64)
    places = np.concatenate([places, np.arange(count)])
    order = places[np.sort(np.unique(places, return_index=True)[1])]
    return np.argsort(key, kind="stable")[order]


def to_be_drawn(spent: float, relied_on: bool, judged: bool, windows: float) -> int:
    """The number of sets that are drawn.

    Args:
        spent: Cost of all that is measured, in exact sets.
        relied_on: Whether the cheap map is of use.
        judged: Whether a tuning has judged that; see `Cheap`.
        windows: Number of windows that cover the image side by side.

    Examples:
        >>> [to_be_drawn(cost, relied_on=True, judged=False, windows=100) for cost in (40, 800)]
        [24, 100]
        >>> [to_be_drawn(40, relied, judged, windows=10) for relied, judged in ((1, 0), (1, 1), (0, 0))]
        [64, 8, 8]
    """
    fewest = FEWEST_DRAWN
    if relied_on and not judged:
        fewest = _FEWEST_RELIED_ON if windows > _FEW_WINDOWS else _FEWEST_OF_FEW_WINDOWS
    return max(fewest, int(spent) // _SHARE_DRAWN)


def chosen_by_rate(
    window: SlidingWindow,
    costs: tuple[Floats, Floats],
    measured: tuple[Flags, Flags],
    price: float,
    budget: float,
    fewest: int,
) -> tuple[IntArray, IntArray]:
    """The cells to measure cheaply and the cells to measure exactly, by saving for the cost.

    Measuring exactly takes away both parts of a cell's error. A cell that is measured exactly is measured
    cheaply too, so that the two maps can be compared.

    Args:
        window: The sliding window of the map.
        costs: SSIM that the expected errors of the cheap map cost, by cell, and those of the residual; 0
            where that fidelity cannot be measured.
        measured: Cells where the cheap map is known, and cells where the exact map is.
        price: Cost of a cheap cell, in exact ones.
        budget: Cost of all chosen cells at most, in exact ones.
        fewest: Cells of a fidelity that take hardly longer than one.

    Examples:
        >>> window, first = SlidingWindow((8,), (2,), (2,)), np.array([True, False, False, False])
        >>> costs = np.array([0, 0, 4.0, 0]), np.array([0, 3.0, 0, 0])
        >>> cheaply, exactly = chosen_by_rate(window, costs, (first, first), 0.25, budget=0.25, fewest=1)
        >>> cheaply.tolist(), exactly.tolist()  # 4 for a quarter rather than 3 for one and a quarter
        ([2], [])
    """
    cheap, rest = (Savings(window, *each) for each in zip(costs, measured, strict=True))
    both = 1 + price * ~measured[0]
    picks: tuple[list[int], list[int]] = ([], [])
    spent = 0.0
    while spent < budget or any(0 < len(each) < fewest for each in picks):
        rates = cheap.left / price, np.where(rest.left > 0, (cheap.left + rest.left) / both, 0.0)
        cells = [int(rate.argmax()) for rate in rates]
        gains = [rate.flat[cell] for rate, cell in zip(rates, cells, strict=True)]
        if spent >= budget:  # what has begun is filled up
            gains = [g * (0 < len(each) < fewest) for g, each in zip(gains, picks, strict=True)]
        which = int(gains[1] > gains[0])
        if gains[which] <= 0:
            break
        cell = cells[which]
        picks[which].append(cell)
        spent += float(both.flat[cell]) if which else price
        cheap.take(cell)
        if which:
            rest.take(cell)
    return np.array(picks[0], dtype=np.int64), np.array(picks[1], dtype=np.int64)
