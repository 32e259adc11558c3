"""Prediction between measured positions, and the SSIM that it is expected to have."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from krypton_engine.approximation.interpolation import NEIGHBOURS, _Grid, _krige, covariance, predict
from krypton_engine.approximation.ssim import SsimEstimate, expected_ssim, ssim
from krypton_engine.perturbation.changed import Work
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.run.order import Refinement, drill_down, windows_apart

SIDE = 57


@pytest.fixture(scope="module")
def window():
    return SlidingWindow((3, 240, 240), (3, 16, 16), (3, 4, 4))


def smooth_map(seed: int, shape: tuple[int, ...] = (SIDE, SIDE), reach: float = 4.0) -> np.ndarray:
    """A random map that is smooth over ``reach`` cells and rougher in one half."""
    generator = np.random.default_rng(seed)
    smooth = gaussian_filter(generator.normal(size=shape), reach) * reach
    rough = gaussian_filter(generator.normal(size=shape), reach / 3) * reach / 3
    rough[..., : shape[-1] // 2] = 0
    return smooth + 0.5 * rough


def by_hand(places, heights, target):
    """Ordinary kriging of one place, written out with Lagrange's multiplier."""
    nearest = np.argsort(np.linalg.norm(places - target, axis=1), kind="stable")[:NEIGHBOURS]
    places, heights = places[nearest], heights[nearest]
    inverse = np.linalg.inv(covariance(np.linalg.norm(places[:, None] - places[None], axis=-1)))
    to = covariance(np.linalg.norm(places - target, axis=1))
    level = inverse.sum(0) @ heights / inverse.sum()
    return level + to @ inverse @ (heights - level)


def test_kriging_written_out():
    window = SlidingWindow((3, 120, 240), (3, 16, 12), (3, 4, 6))
    truth = smooth_map(0, window.grid_shape)
    measured = np.random.default_rng(1).random(truth.shape) < 0.1
    found = predict(window, truth, measured)
    cells = np.argwhere(measured)
    distances = np.array([16 / 4, 12 / 6])
    for cell in np.argwhere(~measured)[::40]:
        gaps = np.sort(np.linalg.norm((cells - cell) / distances, axis=1))
        if gaps[NEIGHBOURS - 1] == gaps[NEIGHBOURS]:
            continue  # two are equally far: either may be taken
        expected = by_hand(cells / distances, truth[measured], cell / distances)
        low, high = truth[measured].min(), truth[measured].max()
        assert found.values[tuple(cell)] == pytest.approx(np.clip(expected, low, high), abs=2e-4)


def test_what_was_measured_stays(window):
    truth = smooth_map(2)
    measured = np.random.default_rng(3).random(truth.shape) < 0.2
    found = predict(window, np.where(measured, truth, np.nan), measured)
    assert np.array_equal(found.values[measured], truth[measured])
    assert np.isfinite(found.values).all()
    assert (found.variance[measured] == 0).all() and (found.variance[~measured] > 0).all()
    assert found.values.min() == truth[measured].min() and found.values.max() == truth[measured].max()


def test_expected_errors_are_those_that_happen(window):
    """On average, and in the rough half more than in the smooth one."""
    ratios, halves = [], []
    for seed in range(8):
        truth = smooth_map(seed)
        measured = np.random.default_rng(seed).random(truth.shape) < 0.15
        found = predict(window, truth, measured)
        error = (found.values - truth) ** 2
        ratios.append(error.sum() / found.variance.sum())
        halves.append(found.variance[:, SIDE // 2 + 6 :].mean() / found.variance[:, : SIDE // 2 - 6].mean())
    assert 0.5 < np.median(ratios) < 2
    assert min(halves) > 3


@pytest.mark.parametrize("target", [(12, 12), (0, 12)], ids=["inside", "outside"])
def test_discord_is_the_variance_of_maps_that_are_as_assumed(target):
    """Outside of all that was measured, Lagrange's multiplier counts."""
    generator = np.random.default_rng(0)
    grid = _Grid((25, 25), np.array([0.25, 0.25]))
    asked = np.array([np.ravel_multi_index(target, (25, 25))])
    sources = np.sort(generator.permutation(np.setdiff1d(np.arange(5 * 25, 25 * 25), asked))[:60])
    places = grid.places(np.concatenate([asked, sources]))
    between = np.linalg.norm(places[:, None] - places[None], axis=-1)
    root = np.linalg.cholesky(covariance(between) + 1e-9 * np.eye(61))
    heights = 3.0 * root @ generator.normal(size=(61, 2000))
    told = [_krige(grid, sources, height[1:], asked, 0).discord.item() for height in heights.T]
    assert np.mean(told) == pytest.approx(9, rel=0.1)


def saturated_map() -> tuple[np.ndarray, np.ndarray]:
    """Flat on either side of an edge, and where every third cell along each axis was measured."""
    truth = np.zeros((SIDE, SIDE))
    truth[:, SIDE // 2 :] = 1.0
    measured = np.zeros(truth.shape, dtype=bool)
    measured[::3, ::3] = True
    return truth, measured


def test_an_edge_is_where_errors_are_expected(window):
    """Nothing but the edge is uncertain."""
    truth, measured = saturated_map()
    variance = predict(window, truth, measured).variance
    across = variance.mean(0)
    assert across[: SIDE // 2 - 12].max() < 1e-6 and across[SIDE // 2 - 2 : SIDE // 2 + 2].max() > 1e-2
    assert (variance[~measured] > 0).all()


def test_where_neighbours_differ_more_than_around_errors_are_larger(window):
    """Between both sides of an edge, whose neighbours are missed by less than they differ there."""
    truth, measured = saturated_map()
    grid, known = _Grid(truth.shape, np.array([0.25, 0.25])), np.flatnonzero(measured)
    heights = truth[measured] - truth[measured].mean()
    others = _krige(grid, known, heights, known, 1)
    here = _krige(grid, known, heights, np.flatnonzero(~measured), 0)
    misses = (others.predicted - heights) ** 2 / others.variance
    by_misses = here.variance * (here.closeness * misses[here.nearest]).sum(1)
    expected = predict(window, truth, measured).variance[~measured]
    assert (expected >= by_misses * (1 - 1e-9)).all() and (expected > 1.2 * by_misses + 1e-6).sum() > 10


def test_far_from_everything():
    """Nothing overflows or vanishes where the next measured position is hundreds of windows away."""
    window = SlidingWindow((4000,), (1,), (1,))
    measured = np.zeros(4000, dtype=bool)
    measured[[0, 1, 3]] = True
    found = predict(window, np.arange(4000.0), measured)
    assert np.isfinite(found.values).all() and np.isfinite(found.variance).all()


@pytest.mark.parametrize("shape", [(1,), (9,), (1, 12), (5, 4, 6)], ids=str)
def test_any_number_of_axes(shape):
    window = SlidingWindow(shape, (1,) * len(shape), (1,) * len(shape))
    grid = window.grid_shape
    truth = np.arange(np.prod(grid, dtype=int), dtype=float).reshape(grid)
    measured = np.zeros(grid, dtype=bool)
    measured.flat[::2] = True
    found = predict(window, truth, measured)
    assert found.values.shape == grid and np.isfinite(found.values).all()


def test_one_measured_position(window):
    measured = np.zeros((SIDE, SIDE), dtype=bool)
    measured[3, 4] = True
    found = predict(window, np.where(measured, 5.0, np.nan), measured)
    assert (found.values == 5.0).all()


def test_two_measured_positions(window):
    measured = np.zeros((SIDE, SIDE), dtype=bool)
    measured[3, 4] = measured[30, 40] = True
    values = np.where(measured, 5.0, np.nan)
    values[3, 4] = 1.0
    found = predict(window, values, measured)
    assert found.values[3, 5] < 2 < 4 < found.values[30, 39]
    assert np.isfinite(found.variance).all() and (found.variance[~measured] > 0).all()


# --- expected SSIM ------------------------------------------------------------------------------------


def test_without_errors_it_is_one():
    value, _ = expected_ssim(smooth_map(4), np.zeros((SIDE, SIDE)))
    assert value == pytest.approx(1)


def test_it_is_the_mean_over_random_errors():
    """What SSIM really is, with independent errors of that variance."""
    truth = smooth_map(5)
    deviation = 0.04 * np.ptp(truth)
    value, _ = expected_ssim(truth, np.full(truth.shape, deviation**2))
    generator = np.random.default_rng(6)
    # The exact map is prediction plus errors; its extremes are the prediction's but for a little.
    real = [
        ssim(
            torch.from_numpy(truth), torch.from_numpy(truth + deviation * generator.normal(size=truth.shape))
        )
        for _ in range(20)
    ]
    assert value == pytest.approx(np.mean(real), abs=0.03)


@pytest.mark.parametrize("shape", [(9, 11), (30,), (2, 40), (4, 10, 9), (2, 2)], ids=str)
def test_prices_are_the_derivative(shape):
    predicted = smooth_map(7, shape, 2.0)
    variance = np.random.default_rng(8).random(shape) * 0.01 * np.ptp(predicted) ** 2
    value, prices = expected_ssim(predicted, variance)
    for cell in list(np.ndindex(shape))[:: max(1, predicted.size // 7)]:
        less = variance.copy()
        less[cell] *= 0.999
        assert (expected_ssim(predicted, less)[0] - value) / 0.001 == pytest.approx(
            prices[cell] * variance[cell], rel=0.02, abs=1e-9
        )


def test_a_constant_map_is_certain():
    assert expected_ssim(np.full((9, 9), 3.0), np.zeros((9, 9)))[0] == 1
    assert expected_ssim(np.zeros((9, 9)), np.zeros((9, 9)))[0] == 1


def test_errors_of_a_map_within_rounding_count_as_rounding():
    """A saturated probability: what is measured hardly differs, and so may the rest, or a little more."""
    flat = 1 - 1e-6 * smooth_map(4) / np.ptp(smooth_map(4))
    assert expected_ssim(flat, np.full(flat.shape, (1e-7) ** 2))[0] > 0.8
    assert expected_ssim(flat, np.full(flat.shape, (1e-5) ** 2))[0] < 0.1


def test_estimates_are_ordered():
    estimate = SsimEstimate.of(0.93)
    assert estimate.low < estimate.value < estimate.high <= 1
    assert str(SsimEstimate.of(0.9)).startswith("0.890 (0.790 to 0.945")


# --- refinement ---------------------------------------------------------------------------------------


def refine(window, truth, free=(), share=1.0):
    """Positions in the order in which they are measured, stage by stage, and the outlooks."""
    free = np.array(free, dtype=np.int64)
    rest = np.setdiff1d(np.arange(truth.size), free)
    work = Work(np.zeros((len(rest), 3, 2), dtype=np.int64), [np.array([p]) for p in rest], free)
    measured = np.zeros(truth.shape, dtype=bool)
    outlooks, stages = [], []

    def enough(outlook):
        outlooks.append(outlook)
        return outlook.computed >= share * len(rest)

    so_far = lambda: (np.where(measured, truth, np.nan), measured)  # noqa: E731
    for stage in Refinement(window, work, so_far, enough):
        assert not measured.flat[stage].any()
        measured.flat[stage] = True
        stages.append(stage)
    return stages, outlooks, measured


def test_to_the_end_it_is_every_position_once(window):
    stages, outlooks, measured = refine(window, smooth_map(9), free=range(500))
    together = np.concatenate(stages)
    assert sorted(together.tolist()) == list(range(SIDE**2)) and measured.all()
    assert all(a.computed < b.computed for a, b in itertools.pairwise(outlooks))
    assert set(range(500)) <= set(stages[0].tolist())


@given(st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(0, 99))
def test_any_grid_is_finished(sizes, seed):
    window = SlidingWindow(tuple(sizes), (1,) * len(sizes), (1,) * len(sizes))
    truth = np.random.default_rng(seed).normal(size=window.grid_shape)
    free = np.flatnonzero(np.random.default_rng(seed + 1).random(truth.size) < 0.2)
    stages, _, measured = refine(window, truth, free)
    assert measured.all() and len(np.concatenate(stages)) == truth.size


def test_a_device_that_computes_many_at_once_looks_less_often(window):
    truth, measured = smooth_map(12), np.zeros((SIDE, SIDE), dtype=bool)
    work = Work(
        np.zeros((SIDE**2, 3, 2), dtype=np.int64),
        [np.array([p]) for p in range(SIDE**2)],
        np.empty(0, dtype=np.int64),
    )
    sizes = []
    for stage in Refinement(window, work, lambda: (truth, measured), lambda _: False, at_once=100):
        measured.flat[stage] = True
        sizes.append(len(stage))
    assert measured.all() and sum(sizes) == SIDE**2
    assert min(sizes[2:-1]) == 100 and len(sizes) < 2 + SIDE**2 / 100


def test_the_first_stages_are_grids(window):
    stages, _, _ = refine(window, smooth_map(10), share=0.1)
    steps = windows_apart(window, 1)
    assert steps == [4, 4]
    rows = np.unique(np.concatenate(stages[:2]) // SIDE)
    assert rows.tolist() == [*range(0, SIDE, 4)]


def test_equal_windows_come_together(window):
    truth = smooth_map(11)
    readers = [np.array([2 * i, 2 * i + 1]) for i in range(truth.size // 2)] + [np.array([truth.size - 1])]
    truth.flat[1::2] = truth.flat[:-1:2]
    work = Work(np.zeros((len(readers), 3, 2), dtype=np.int64), readers, np.empty(0, dtype=np.int64))
    measured = np.zeros(truth.shape, dtype=bool)
    for stage in Refinement(window, work, lambda: (truth, measured), lambda o: o.computed > 300):
        measured.flat[stage] = True
        assert np.array_equal(measured.flat[0 : truth.size - 1 : 2], measured.flat[1::2])


def test_infinity_is_measured_to_the_end(window):
    truth = smooth_map(12)
    truth[20, 20] = np.inf
    stages, _, measured = refine(window, truth, share=0.05)
    assert measured.all() and len(stages) < 8


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

    stages, _, _ = refine(window, truth, np.flatnonzero(known), share=0.01)
    assert len(stages[1]) == 8
    chosen = [cell for cell in stages[1] if holes.flat[cell]]
    assert len(chosen) >= 4 and set(chosen) <= set(centres)


@pytest.mark.parametrize("share", [1 / 16, 1 / 9, 1 / 4], ids=["1/16", "1/9", "1/4"])
def test_refinement_beats_every_nth_position(window, share):
    """The better of linear and cubic interpolation of a uniform grid, at the same share of positions."""
    from scipy.interpolate import CloughTocher2DInterpolator, LinearNDInterpolator, NearestNDInterpolator

    gains = []
    for seed in range(4):
        truth = smooth_map(seed)
        step = round(share**-0.5)
        places = np.argwhere(np.ones(truth.shape, dtype=bool))
        known = (places % step == 0).all(1)
        _, outlooks, _ = refine(window, truth, share=share + 0.01)
        within = [outlook for outlook in outlooks if outlook.computed <= known.sum()][-1]
        mine = ssim(torch.from_numpy(within.prediction.values), torch.from_numpy(truth))
        nearest = NearestNDInterpolator(places[known], truth.ravel()[known])(places)
        theirs = []
        for kind in (LinearNDInterpolator, CloughTocher2DInterpolator):
            filled = kind(places[known], truth.ravel()[known])(places)
            filled = np.where(np.isnan(filled), nearest, filled).reshape(truth.shape)
            theirs.append(ssim(torch.from_numpy(filled), torch.from_numpy(truth)))
        gains.append(mine - max(theirs))
    assert np.median(gains) >= 0 and min(gains) > -0.03


def test_drill_down_costs_what_the_paper_says(window):
    truth = smooth_map(13)
    measured = np.zeros(truth.shape, dtype=bool)
    s1, s2, r = 4, 2, 0.25
    stages = []
    for stage in drill_down(window, lambda: (truth, measured), 0.0, s1=s1, s2=s2, r=r):
        assert not measured.flat[stage].any()
        measured.flat[stage] = True
        stages.append(stage)
    assert len(stages[0]) == len(range(0, SIDE, s1)) ** 2
    # Stage two: the cells every s2 within a share r, less those of stage one.
    assert measured.sum() / truth.size == pytest.approx(1 / s1**2 + r * (1 / s2**2 - 1 / s1**2), rel=0.1)
    strongest = np.abs(truth)[::s1, ::s1].argmax()
    row, column = (s1 * c for c in np.unravel_index(strongest, truth[::s1, ::s1].shape))
    assert measured[row : row + s1 : s2, column : column + s1 : s2].all()
