"""Autocast around a model that switches it off for a part: each part is computed as the model asks for."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from captum.attr import FeatureAblation, Occlusion
from support.tiny_models import incremental
from torch import nn

from krypton_engine import KryptonFeatureAblation, KryptonOcclusion


class PartlyCast(nn.Module):
    """A step in bfloat16, and two in full."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        x = self.first(x).relu()
        with torch.autocast("cpu", enabled=False):
            return self.last(self.second(x.to(self.last.weight.dtype)).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PartlyCast().eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(1, 3, 24, 20)


def check(model, x, theirs, ours, call):
    """Ours is no further from float64 than Captum's, which is a hundredth of what a second cast would do."""
    truth = theirs(copy.deepcopy(model).double()).attribute(x.double(), **call)
    with incremental(), torch.autocast("cpu", torch.bfloat16):
        errors = [(made(model).attribute(x, **call) - truth).abs().max() for made in (ours, theirs)]
        assert torch.is_autocast_enabled("cpu")
    assert errors[0] <= 3 * errors[1]


@pytest.mark.parametrize("executor", ["reference", "native", "auto"])
def test_windows(executor, model, x):
    call = dict(sliding_window_shapes=(3, 6, 5), strides=(3, 3, 3), target=1)
    check(model, x, Occlusion, partial(KryptonOcclusion, executor=executor), call)


@pytest.mark.parametrize("executor", ["reference", "native", "auto"])
def test_walks(executor, model, x):
    """Scattered regions change piece by piece."""
    mask = torch.zeros(1, 1, 24, 20, dtype=torch.int64)
    mask[..., 1:3, 1:3] = mask[..., -2:, -2:] = 1
    mask[..., 20:, 2:4] = mask[..., 3:5, -3:] = 2
    call = dict(feature_mask=mask, target=1)
    check(model, x, FeatureAblation, partial(KryptonFeatureAblation, executor=executor), call)


def test_what_is_found_is_looked_at_under_autocast(model, x):
    """Sessions switch it off for their own work alone."""
    seen = []
    with torch.autocast("cpu", torch.bfloat16):
        KryptonOcclusion(model).attribute(
            x,
            sliding_window_shapes=(3, 6, 5),
            target=1,
            on_progress=lambda *_: seen.append(torch.is_autocast_enabled("cpu")),
        )
    assert seen and all(seen)
