"""Adaptive sampling of volumes: kept targets on maps of every roughness, and maps that are measured whole."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, uniform_filter
from skimage.metrics import structural_similarity

from krypton_engine.executors.full import FullSession
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.perturbation.changed import ChangedCells, distinct_work
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.run.adaptive import Sampling, StoppingRule
from krypton_engine.run.loop import Watch, refine


def window_of(count, per_window):
    """A window of so many cells that slides cell by cell, to so many positions along each of three axes."""
    size = count - 1 + per_window
    return SlidingWindow((1, *(size,) * 3), (1, *(per_window,) * 3), (1, 1, 1, 1))


def moving_averages(window, kind, seed):
    """What the windows of a linear model say of noise, or a saturated probability of that."""
    random = np.random.default_rng(seed)
    cells = random.standard_normal(window.input_shape[1:])
    if kind == "smooth":
        cells = gaussian_filter(cells, window.shape[1] / 2)
    if kind == "sparse":
        cells *= random.random(cells.shape) < 0.5 / np.prod(window.shape)
    size, count = window.shape[1], window.grid_shape[0]
    means = uniform_filter(cells, size, mode="constant")[(slice(size // 2, size // 2 + count),) * 3]
    means = (means - means.mean()) / means.std()
    return 1 / (1 + np.exp(-3 * means - 3)) if kind == "saturated" else means


def approximated(window, truth, target):
    """The map that a run without a tuning ends with, and the share of its positions that are measured."""
    work = distinct_work(ChangedCells(window, np.ones(window.input_shape, bool)), np.arange(len(window)))
    sampling = Sampling(window, work, StoppingRule(target))
    measured = np.zeros(truth.shape, dtype=bool)
    step = sampling.next(truth, measured)
    while not step.over:
        measured.flat[step.positions] = True
        step = sampling.next(truth, measured, step.trajectory)
    return step.forecast.prediction.values if step.reached else truth, float(measured.mean())


@pytest.mark.parametrize(("count", "per_window"), [(7, 2), (11, 2), (11, 5)])
@pytest.mark.parametrize("target", [0.8, 0.9])
def test_untuned_targets_are_kept_on_maps_smooth_and_rough(count, per_window, target):
    """On nine of ten, by scikit-image; and what is smooth takes few positions."""
    window, kept, shares = window_of(count, per_window), [], {}
    for kind in ("white", "smooth", "sparse", "saturated"):
        for seed in range(3):
            truth = moving_averages(window, kind, seed)
            found, share = approximated(window, truth, target)
            span = np.ptp(truth)
            pictures = [(truth.max() - each) / span for each in (truth, found)]
            kept.append(structural_similarity(*pictures, data_range=1, win_size=7) >= target)
            shares.setdefault(kind, []).append(share)
    assert np.mean(kept) >= 0.9
    assert np.mean(shares["smooth"]) < 1 / 3 and np.mean(shares["smooth"]) < np.mean(shares["white"])


@pytest.mark.parametrize(
    ("shape", "strides", "pays"),
    [
        ((1, 8, 8, 8), (1, 8, 8, 8), False),  # side by side
        ((1, 8, 8, 8), (1, 6, 6, 6), False),  # the first look is all
        ((1, 16, 16, 16), (1, 8, 8, 8), False),  # 27 positions
        ((1, 16, 16, 16), (1, 4, 4, 4), True),
        ((1, 8, 8, 8), (1, 4, 4, 4), True),
    ],
    ids=str,
)
def test_a_choice_pays_where_windows_overlap_and_are_many(shape, strides, pays):
    window = SlidingWindow((1, 32, 32, 32), shape, strides)
    work = distinct_work(ChangedCells(window, np.ones(window.input_shape, bool)), np.arange(len(window)))
    assert Sampling(window, work).pays == pays
    flat = SlidingWindow((1, 32, 32), (1, 16, 16), (1, 8, 8))  # images always choose
    assert Sampling(flat, distinct_work(ChangedCells(flat, np.ones((1, 32, 32), bool)), np.arange(9))).pays


@pytest.mark.parametrize("count", [6, 9])
def test_what_takes_less_time_than_choosing_is_measured_to_the_end(count):
    """A map of a sum, which takes microseconds a position, and is rough."""
    torch.manual_seed(0)
    window = window_of(count, 2)
    x = torch.randn(1, *window.input_shape)

    def total(images):
        return (images * x).sum((1, 2, 3, 4))[:, None]

    with torch.no_grad(), Watch(len(window), None, show_progress=False) as watch:
        session = FullSession(total, (x,), 0, window, torch.zeros(1), None, total(x), 256)
        builder = MapBuilder(window, session.base, lambda outputs: outputs[:, 0], fill=np.arange(len(window)))
        refine(session, np.arange(len(window)), builder, watch, StoppingRule(ssim_target=0.9))
    heatmap = builder.heatmap()
    assert bool(heatmap.measured.all()) and heatmap.ssim_estimate.basis == "exact"
