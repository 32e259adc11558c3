"""What is not finite stays where it belongs: no sum may weigh it with 0 and tell the rest of the map."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from krypton_engine import FallbackWarning, KryptonOcclusion
from krypton_engine.executors.registry import EXECUTORS
from krypton_engine.perturbation.windows import SlidingWindow

NUMBERS = [math.nan, math.inf, -math.inf]


def covering_means(window, differences):
    """For every cell the mean over the windows that hold it, one cell after the other."""
    mean = np.empty(window.input_shape)
    boxes = window.boxes(np.arange(len(window)))
    for cell in np.ndindex(*window.input_shape):
        told = [
            d for d, box in zip(differences, boxes, strict=True)
            if all(low <= c < high for c, (low, high) in zip(cell, box, strict=True))
        ]  # fmt: skip
        with np.errstate(invalid="ignore"):
            mean[cell] = np.sum(told) / len(told)
    return mean


@given(
    st.tuples(*[st.integers(1, 7)] * 2),
    st.tuples(*[st.integers(1, 4)] * 2),
    st.tuples(*[st.integers(1, 4)] * 2),
    st.lists(st.tuples(st.integers(0, 48), st.sampled_from(NUMBERS)), max_size=3),
    st.integers(0, 2**31),
)
def test_a_mean_is_that_of_the_windows_that_hold_the_cell(shape, size, step, strange, seed):
    size = tuple(min(k, n) for k, n in zip(size, shape, strict=True))
    step = tuple(min(s, k) for s, k in zip(step, size, strict=True))
    window = SlidingWindow(shape, size, step)
    differences = np.random.default_rng(seed).normal(size=len(window))
    for position, value in strange:
        differences[position % len(window)] = value
    mine = window.average(torch.from_numpy(differences)).numpy()
    np.testing.assert_allclose(mine, covering_means(window, differences), rtol=1e-6, atol=1e-6)


class Fragile(nn.Module):
    """A linear model that answers ``value`` when one cell is occluded, and the one beside it is not."""

    def __init__(self, value):
        super().__init__()
        self.value = value
        self.weight = torch.arange(256.0).reshape(16, 16).sin()
        self.eval()

    def forward(self, x):
        total = (x * self.weight).sum((1, 2, 3))
        occluded = (x[:, 0, 8, 8] == 0) & (x[:, 0, 7, 7] != 0)
        return torch.where(occluded, total + self.value, total)


@pytest.mark.parametrize("value", NUMBERS, ids=str)
@pytest.mark.parametrize("strides", [(1, 4, 4), (1, 2, 3)], ids=["apart", "overlapping"])
def test_a_position_tells_its_own_cells(value, strides):
    """The other cells are Captum's for a model whose answer is finite there."""
    x = torch.linspace(1, 2, 256).reshape(1, 1, 16, 16)
    call = {"sliding_window_shapes": (1, 4, 4), "strides": strides}
    own = Occlusion(lambda x: Fragile(1e4)(x) - Fragile(0.0)(x)).attribute(x, **call) != 0
    assert 0 < int(own.sum()) < 128
    if strides == (1, 4, 4):
        assert int(own.sum()) == 16
    theirs = Occlusion(Fragile(0.0)).attribute(x, **call)
    occlusion = KryptonOcclusion(Fragile(value))
    for mine in (
        occlusion.attribute(x, **call),
        occlusion.attribute((x,), **call)[0],
        occlusion.heatmap(x, *call.values()).attribution()[None],
    ):
        torch.testing.assert_close(mine[~own], theirs[~own], rtol=0, atol=1e-4)
        torch.testing.assert_close(mine[own], torch.full_like(mine[own], -value), equal_nan=True)


def test_infinities_of_both_signs_have_no_mean():
    window = SlidingWindow((6,), (3,), (1,))
    mine = window.average(torch.tensor([math.inf, 0.0, -math.inf, 1.0]))
    expected = torch.tensor([math.inf, math.inf, math.nan, -math.inf, -math.inf, 1.0])
    torch.testing.assert_close(mine, expected, equal_nan=True)


@pytest.mark.parametrize("value", NUMBERS, ids=str)
def test_a_part_of_a_map(value):
    """Cells that only unknown windows cover are unknown; a known answer that is none counts."""
    x = torch.linspace(1, 2, 256).reshape(1, 1, 16, 16)
    heatmap = KryptonOcclusion(Fragile(value)).heatmap(x, (1, 4, 4), (1, 4, 4), region=(4, 4, 16, 16))
    mine = heatmap.attribution()[0]
    assert bool(mine[:4].isnan().all()) and bool(mine[:, :4].isnan().all())
    own = mine[8:12, 8:12]
    assert bool(own.isnan().all()) if math.isnan(value) else bool((own == -value).all())
    rest = mine[4:, 4:].clone()
    rest[4:8, 4:8] = 0
    assert bool(rest.isfinite().all())


@pytest.mark.parametrize("value", NUMBERS, ids=str)
def test_an_approximate_map_is_measured_where_it_is_not_finite(value):
    """Nothing is guessed from what is no number: the map is the exact one."""
    x = torch.linspace(1, 2, 256).reshape(1, 1, 16, 16)
    occlusion = KryptonOcclusion(Fragile(value))
    exact = occlusion.heatmap(x, (1, 4, 4), (1, 1, 1))
    mine = occlusion.heatmap(x, (1, 4, 4), (1, 1, 1), ssim_target=0.5)
    assert bool((~exact.values.isfinite()).any())
    torch.testing.assert_close(mine.values, exact.values, equal_nan=True)


# --- the executors ------------------------------------------------------------------------------------

NETWORKS = {
    "3x3": lambda: [nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)],
    "then a clamp": lambda: [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU6(), nn.Conv2d(16, 8, 3, padding=1)],
    "padded maximum": lambda: [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)],
    "padded average": lambda: [nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.AvgPool2d(3, 2, 1)],
    "depthwise": lambda: [
        nn.Conv2d(3, 8, 1), nn.Hardswish(), nn.Conv2d(8, 8, 3, padding=2, groups=8, dilation=2)
    ],
    "sigmoid": lambda: [nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Conv2d(8, 8, 3, padding=1)],
}  # fmt: skip


def kinds(values):
    """0 for a finite number, and another number for each that is not."""
    return values.isnan() + 2 * (values == math.inf) + 3 * (values == -math.inf)


@pytest.mark.parametrize("kind", NETWORKS)
def test_executors(kind, monkeypatch):
    """A pixel that is no number, at a corner and within: every output is as in PyTorch on occluded copies."""
    monkeypatch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)
    model = nn.Sequential(*NETWORKS[kind](), nn.Conv2d(8, 2, 1), nn.Flatten()).eval()
    occlusions = [KryptonOcclusion(model, executor=executor) for executor in EXECUTORS]
    strange = 0
    for value, (row, column) in itertools.product(NUMBERS, [(0, 0), (7, 9)]):
        x = torch.randn(1, 3, 14, 13)
        x[0, 1, row, column] = value
        expected = []
        for top, left in itertools.product((0, 4, 8, 12), (0, 4, 8)):
            copied = x.clone()
            copied[:, :, top : top + 4, left : left + 5] = 0
            with torch.no_grad():
                expected.append(model(copied)[0])
        expected = torch.stack(expected)
        finite = expected.isfinite()
        strange += int((~finite).sum())
        for occlusion in occlusions:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "occlusion runs as batched", FallbackWarning)
                warnings.filterwarnings("ignore", "the reference executor runs", FallbackWarning)
                heatmap = occlusion.heatmap(x, (3, 4, 5), (3, 4, 4), target=0, classes="all")
            mine = heatmap.outputs.reshape(expected.shape)
            assert torch.equal(kinds(mine), kinds(expected))
            torch.testing.assert_close(mine[finite], expected[finite], rtol=0, atol=1e-5)
    assert strange > 0
