"""Prediction between measured positions, and the SSIM that it is expected to have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.maps import SIDE, smooth_map

from krypton_engine.approximation.interpolation import NEIGHBOURS, Grid, covariance, krige, predict
from krypton_engine.approximation.ssim import SsimEstimate, expected_ssim, ssim
from krypton_engine.perturbation.windows import SlidingWindow


@pytest.fixture(scope="module")
def window():
    return SlidingWindow((3, 240, 240), (3, 16, 16), (3, 4, 4))


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


@pytest.mark.parametrize("by_numpy", [False, True], ids=["by the engine", "by NumPy"])
@pytest.mark.parametrize("level_known", [False, True], ids=["ordinary", "simple"])
@pytest.mark.parametrize("shape", [(40,), (9, 7), (5, 6, 4)], ids=str)
def test_weights_solve_the_equations(shape, level_known, by_numpy, monkeypatch):
    """Each target's own, built from coordinates: covariances, weights of sum one."""
    if by_numpy:
        monkeypatch.setattr("krypton_engine.approximation.interpolation._native", None)
    generator, scales, nugget = np.random.default_rng(0), np.array([0.25, 0.5, 1.0])[: len(shape)], 0.01
    grid = Grid(shape, scales)
    rows = [generator.permutation(np.prod(shape))[:8] for _ in range(700)]  # more than are solved together
    positions, targets = np.array(rows)[:, 1:], np.array(rows)[:, 0]
    near = covariance(np.linalg.norm(grid.places(positions.ravel()).reshape(700, 7, -1)
                                     - grid.places(targets)[:, None], axis=-1))  # fmt: skip
    weights, multipliers = grid.weights(positions, near, nugget, level_known)
    for at, w, k, multiplier in zip(positions, weights, near, multipliers, strict=True):
        places = grid.places(at)
        between = covariance(np.linalg.norm(places[:, None] - places[None], axis=-1)) + nugget * np.eye(7)
        np.testing.assert_allclose(between @ w + multiplier, k, atol=1e-10)
        assert multiplier == 0 if level_known else w.sum() == pytest.approx(1)


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
    grid = Grid((25, 25), np.array([0.25, 0.25]))
    asked = np.array([np.ravel_multi_index(target, (25, 25))])
    sources = np.sort(generator.permutation(np.setdiff1d(np.arange(5 * 25, 25 * 25), asked))[:60])
    places = grid.places(np.concatenate([asked, sources]))
    between = np.linalg.norm(places[:, None] - places[None], axis=-1)
    root = np.linalg.cholesky(covariance(between) + 1e-9 * np.eye(61))
    heights = 3.0 * root @ generator.normal(size=(61, 2000))
    told = [krige(grid, sources, height[1:], asked, 0).discord.item() for height in heights.T]
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
    grid, known = Grid(truth.shape, np.array([0.25, 0.25])), np.flatnonzero(measured)
    heights = truth[measured] - truth[measured].mean()
    others = krige(grid, known, heights, known, 1)
    here = krige(grid, known, heights, np.flatnonzero(~measured), 0)
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
