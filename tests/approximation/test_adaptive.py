"""Adaptive sampling: which positions are measured, and that a replay takes the steps of a run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from support.maps import SIDE, smooth_map

from krypton_engine.approximation.interpolation import predict
from krypton_engine.approximation.ssim import SsimEstimate, expected_ssim, ssim
from krypton_engine.executors.base import Computed
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.perturbation.changed import ChangedCells, Work, distinct_work
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.run.adaptive import Sampling, StoppingRule
from krypton_engine.run.loop import Watch, refine
from krypton_engine.run.order import drill_down, every_nth
from krypton_engine.run.savings import Savings, windows_apart
from krypton_engine.tuning.replay import replay


@pytest.fixture(scope="module")
def window():
    return SlidingWindow((3, 240, 240), (3, 16, 16), (3, 4, 4))


def walk(sampling, truth, share=1.0):
    """Positions step by step, the forecasts, and what was measured when a share of the sets was computed."""
    measured = np.zeros(truth.shape, dtype=bool)
    steps, forecasts = [], []
    step = sampling.next(np.full(truth.shape, np.nan), measured)
    while not step.over:
        assert not measured.flat[step.positions].any()
        measured.flat[step.positions] = True
        steps.append(step.positions)
        step = sampling.next(np.where(measured, truth, np.nan), measured, step.trajectory)
        if step.forecast is not None:
            forecasts.append(step.forecast)
            if step.forecast.computed >= share * len(sampling.work.positions):
                break
    return steps, forecasts, measured


def sampled(window, truth, free=(), share=1.0):
    """As `walk`, with a set for every position that is not free."""
    free = np.array(free, dtype=np.int64)
    rest = np.setdiff1d(np.arange(truth.size), free)
    work = Work(np.zeros((len(rest), 3, 2), dtype=np.int64), [np.array([p]) for p in rest], free)
    return walk(Sampling(window, work), truth, share)


def test_to_the_end_it_is_every_position_once(window):
    steps, forecasts, measured = sampled(window, smooth_map(9), free=range(500))
    together = np.concatenate(steps)
    assert sorted(together.tolist()) == list(range(SIDE**2)) and measured.all()
    assert all(a.computed < b.computed for a, b in itertools.pairwise(forecasts))
    assert set(range(500)) <= set(steps[0].tolist())


@given(st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(0, 99))
def test_any_grid_is_finished(sizes, seed):
    window = SlidingWindow(tuple(sizes), (1,) * len(sizes), (1,) * len(sizes))
    truth = np.random.default_rng(seed).normal(size=window.grid_shape)
    free = np.flatnonzero(np.random.default_rng(seed + 1).random(truth.size) < 0.2)
    steps, _, measured = sampled(window, truth, free)
    assert measured.all() and len(np.concatenate(steps)) == truth.size


def test_a_device_that_computes_many_at_once_looks_less_often(window):
    truth = smooth_map(12)
    work = Work(
        np.zeros((SIDE**2, 3, 2), dtype=np.int64),
        [np.array([p]) for p in range(SIDE**2)],
        np.empty(0, dtype=np.int64),
    )
    steps, _, measured = walk(Sampling(window, work, at_once=100), truth)
    sizes = [len(step) for step in steps]
    assert measured.all() and sum(sizes) == SIDE**2
    assert min(sizes[2:-1]) == 100 and len(sizes) < 2 + SIDE**2 / 100


def test_the_first_stages_are_grids(window):
    steps, _, _ = sampled(window, smooth_map(10), share=0.1)
    assert windows_apart(window, 1) == [4, 4]
    rows = np.unique(np.concatenate(steps[:2]) // SIDE)
    assert rows.tolist() == [*range(0, SIDE, 4)]


def test_equal_windows_come_together(window):
    truth = smooth_map(11)
    alike = [np.array([2 * i, 2 * i + 1]) for i in range(truth.size // 2)] + [np.array([truth.size - 1])]
    truth.flat[1::2] = truth.flat[:-1:2]
    work = Work(np.zeros((len(alike), 3, 2), dtype=np.int64), alike, np.empty(0, dtype=np.int64))
    steps, _, _ = walk(Sampling(window, work), truth)
    measured = np.zeros(truth.shape, dtype=bool)
    for step in steps:
        measured.flat[step] = True
        assert np.array_equal(measured.flat[0 : truth.size - 1 : 2], measured.flat[1::2])


def test_infinity_is_measured_to_the_end(window):
    truth = smooth_map(12)
    truth[20, 20] = np.inf
    steps, _, measured = sampled(window, truth, share=0.05)
    assert measured.all() and len(steps) < 8


def test_what_tells_of_others_is_measured_before_what_is_worse_alone(window):
    """Holes of 3 x 3 cells on the left, single cells on the right, the worst of which cost most."""
    noise = np.random.default_rng(15).normal(size=(SIDE, SIDE))
    left = gaussian_filter(noise, 0.7)
    truth = np.where(np.arange(SIDE) < SIDE // 2, left / left.std(), noise)
    holes, alone = np.zeros((2, SIDE, SIDE), dtype=bool)
    centres = [SIDE * row + column for row in (10, 26, 42) for column in (6, 14, 22)]
    for row, column in zip(*np.unravel_index(centres, truth.shape), strict=True):
        holes[row - 1 : row + 2, column - 1 : column + 2] = True
    alone[2::4, 30::4] = True
    known = ~(holes | alone)
    found = predict(window, truth, known)
    costs = found.variance * expected_ssim(found.values, found.variance)[1]
    assert (costs[alone] > costs[holes].max()).sum() >= 8

    steps, _, _ = sampled(window, truth, np.flatnonzero(known), share=0.01)
    assert len(steps[1]) == 8
    chosen = [cell for cell in steps[1] if holes.flat[cell]]
    assert len(chosen) >= 4 and set(chosen) <= set(centres)


@pytest.mark.parametrize("share", [1 / 16, 1 / 9, 1 / 4], ids=["1/16", "1/9", "1/4"])
def test_adaptive_sampling_beats_every_nth_position(window, share):
    """The better of linear and cubic interpolation of a uniform grid, at the same share of positions."""
    from scipy.interpolate import CloughTocher2DInterpolator, LinearNDInterpolator, NearestNDInterpolator

    gains = []
    for seed in range(4):
        truth = smooth_map(seed)
        step = round(share**-0.5)
        places = np.argwhere(np.ones(truth.shape, dtype=bool))
        known = (places % step == 0).all(1)
        _, forecasts, _ = sampled(window, truth, share=share + 0.01)
        within = [each for each in forecasts if each.computed <= known.sum()][-1]
        mine = ssim(torch.from_numpy(within.prediction.values), torch.from_numpy(truth))
        nearest = NearestNDInterpolator(places[known], truth.ravel()[known])(places)
        theirs = []
        for kind in (LinearNDInterpolator, CloughTocher2DInterpolator):
            filled = kind(places[known], truth.ravel()[known])(places)
            filled = np.where(np.isnan(filled), nearest, filled).reshape(truth.shape)
            theirs.append(ssim(torch.from_numpy(filled), torch.from_numpy(truth)))
        gains.append(mine - max(theirs))
    assert np.median(gains) >= 0 and min(gains) > -0.03


class Table:
    """A session that looks its outputs up in a map."""

    at_once = 1
    costs = None

    def __init__(self, window, differs, truth):
        self.window, self.changed = window, ChangedCells(window, differs)
        self.base = torch.zeros(1, 1, dtype=torch.float64)
        self.asked = []
        every = np.arange(len(window), dtype=np.int64)
        self.outputs = dict(zip(map(bytes, self.changed.boxes(every)), truth.flatten(), strict=True))

    def compute(self, changes, limit=None, contents=None):
        self.asked.append(len(changes))
        values = [self.outputs[bytes(change)] for change in changes]
        yield Computed(np.arange(len(changes)), torch.tensor(values, dtype=torch.float64)[:, None])


@given(
    st.integers(0, 9999),
    st.tuples(st.integers(6, 24), st.integers(6, 24)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from([0.4, 0.7, 0.9, 0.97]),
    st.sampled_from([1, 20]),
)
def test_a_run_stops_where_its_replay_says(seed, size, shape, target, at_once):
    generator = np.random.default_rng(seed)
    window = SlidingWindow(size, shape, (1, 1))
    differs = generator.random(size) < generator.choice([0.05, 1.0])
    truth = gaussian_filter(generator.normal(size=window.grid_shape), generator.choice([0.5, 2, 4]))
    work = distinct_work(ChangedCells(window, differs), np.arange(truth.size))
    truth.flat[work.unchanged] = 0.0  # the base
    for alike in work.positions:
        truth.flat[alike] = truth.flat[alike[0]]
    session, rule = Table(window, differs, truth), StoppingRule(target, at_once=at_once)
    builder = MapBuilder(window, session.base, lambda outputs: outputs[:, 0], fill=np.arange(truth.size))
    with Watch(truth.size, None, False) as watch:
        refine(session, np.arange(truth.size), builder, watch, rule)
    found = builder.heatmap()
    forecasts = [
        (computed, expected)
        for computed, expected, *_ in replay(window, work, truth, truth, at_once)
        if 1 - rule.factor * (1 - expected) >= target
    ]
    if forecasts:
        computed, expected = forecasts[0]
        assert sum(session.asked) == computed
        assert found.ssim_estimate == SsimEstimate.of(expected)
    else:
        assert sum(session.asked) == len(work.positions)
        assert bool(found.measured.all())


def test_a_map_that_is_not_to_be_interpolated_is_not_refined():
    window = SlidingWindow((24, 24), (4, 4), (1, 1))
    truth = gaussian_filter(np.random.default_rng(0).normal(size=window.grid_shape), 2)
    session = Table(window, np.ones((24, 24), dtype=bool), truth)
    builder = MapBuilder(window, session.base, lambda outputs: outputs[:, 0])
    with Watch(len(window), None, False) as watch, pytest.raises(ValueError, match="fill="):
        refine(session, np.arange(len(window)), builder, watch, StoppingRule(0.9))


def test_savings_where_nothing_is_measured():
    """Nothing else explains an error: what a cell saves is all within a window of it."""
    window, costs = SlidingWindow((18,), (4,), (2,)), np.arange(1.0, 9.0)
    savings = Savings(window, costs, np.zeros(8, dtype=bool))
    assert savings.left.tolist() == [sum(costs[max(0, i - 2) : i + 3]) for i in range(8)]


def test_drill_down_costs_what_the_paper_says(window):
    truth = smooth_map(13)
    s1, s2, r = 4, 2, 0.25
    coarse, fine = every_nth(window, s1), drill_down(window, truth, s1=s1, s2=s2, r=r)
    assert len(coarse) == len(range(0, SIDE, s1)) ** 2 and not np.isin(fine, coarse).any()
    measured = np.zeros(truth.shape, dtype=bool)
    measured.flat[[*coarse, *fine]] = True
    # Stage two: the cells every s2 within a share r, less those of stage one.
    assert measured.sum() / truth.size == pytest.approx(1 / s1**2 + r * (1 / s2**2 - 1 / s1**2), rel=0.1)
    strongest = np.abs(truth)[::s1, ::s1].argmax()
    row, column = (s1 * c for c in np.unravel_index(strongest, truth[::s1, ::s1].shape))
    assert measured[row : row + s1 : s2, column : column + s1 : s2].all()
