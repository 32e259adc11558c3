"""MONAI's OcclusionSensitivity on this engine, beside MONAI's own."""

from __future__ import annotations

import warnings

import pytest
import torch
from monai.networks.nets import DenseNet
from monai.visualize import OcclusionSensitivity as Original
from torch import nn

from krypton_engine import FallbackWarning, InputError
from krypton_engine.compat.monai import OcclusionSensitivity


def flat(channels=1, classes=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, classes),
    ).eval()  # fmt: skip


def deep():
    torch.manual_seed(0)
    return DenseNet(
        spatial_dims=3, in_channels=1, out_channels=3, init_features=2, growth_rate=2, block_config=(6,)
    ).eval()


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = flat()

    def forward(self, x, scale):
        return scale * self.net(x)


def both(module, x, b_box=None, kwargs=None, **options):
    """Ours and MONAI's, each the map and the most probable class."""
    options |= {"verbose": False}
    kwargs = kwargs or {}
    return OcclusionSensitivity(module, **options)(x, b_box, **kwargs), Original(module, **options)(
        x, b_box, **kwargs
    )


@pytest.mark.parametrize("mode", ["gaussian", "mean_patch", "mean_img", 0.3])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_mode(mode, channels):
    x = torch.rand(1, channels, 40, 36)
    ours, theirs = both(flat(channels), x, mask_size=9, overlap=0.4, mode=mode)
    assert torch.allclose(ours[0], theirs[0], atol=1e-6) and torch.equal(ours[1], theirs[1])
    assert type(ours[0]) is type(theirs[0]) and torch.equal(ours[0].affine, theirs[0].affine)
    assert float(theirs[0].std()) > 0


@pytest.mark.parametrize(
    ("options", "b_box"),
    [
        ({"mask_size": (8, 5)}, [2, 30, 1, 34]),
        ({"mask_size": 12, "overlap": 0.0}, [3, 9, -1, -1]),
        ({"activate": False}, None),
        ({"activate": lambda out: out.softmax(1) ** 2, "n_batch": 3}, None),
        ({"mask_size": 36, "overlap": 0.9}, None),
        ({"executor": "reference"}, None),
    ],
)
def test_every_argument(options, b_box):
    x, theirs = torch.rand(1, 1, 40, 36), {k: v for k, v in options.items() if k != "executor"}
    mine = OcclusionSensitivity(flat(), **({"mask_size": 8, "verbose": False} | options))(x, b_box)
    right = Original(flat(), **({"mask_size": 8, "verbose": False} | theirs))(x, b_box)
    assert mine[0].shape == right[0].shape and torch.allclose(mine[0], right[0], atol=1e-6)
    assert torch.equal(mine[1], right[1])


@pytest.mark.parametrize("b_box", [None, [2, 20, -1, -1, 3, 12]])
def test_volumes(b_box):
    x = torch.rand(1, 1, 24, 20, 16)
    ours, theirs = both(deep(), x, b_box, mask_size=(6, 5, 4), overlap=0.25)
    assert torch.allclose(ours[0], theirs[0], atol=1e-6) and torch.equal(ours[1], theirs[1])


def test_further_arguments_of_the_module():
    ours, theirs = both(Scaled().eval(), torch.rand(1, 1, 24, 20), kwargs={"scale": 3.0}, mask_size=6)
    assert torch.allclose(ours[0], theirs[0], atol=1e-6)


def test_less_is_computed():
    """Windows are boxes of the engine; the module itself is asked a few times, for the proof."""
    module, rows = flat(), []
    module.register_forward_hook(lambda *given: rows.append(len(given[1][0])))
    OcclusionSensitivity(module, 6, overlap=0.5, verbose=False, executor="native")(torch.rand(1, 1, 96, 96))
    assert sum(rows) < 30 < 31 * 31


def test_what_has_no_graph_runs_as_monai_runs_it():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = flat()

        def forward(self, x):
            return self.net(x) if float(x.sum()) > -1e9 else x

    with pytest.warns(FallbackWarning):
        ours, theirs = both(Odd().eval(), torch.rand(1, 1, 24, 20), mask_size=6)
    assert torch.equal(ours[0], theirs[0])


def test_a_module_in_training_is_put_back():
    module = DenseNet(
        spatial_dims=2, in_channels=1, out_channels=2, init_features=4, block_config=(2, 2), dropout_prob=0.5
    ).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        OcclusionSensitivity(module, 16, overlap=0.0, verbose=False)(torch.rand(1, 1, 32, 32))
    assert all(part.training for part in module.modules())


@pytest.mark.parametrize(
    ("options", "x", "error"),
    [
        ({"mask_size": 200}, torch.rand(1, 1, 24, 20), ValueError),
        ({"mask_size": 8}, torch.rand(2, 1, 24, 20), ValueError),
        ({"mode": "test"}, torch.rand(1, 1, 24, 20), NotImplementedError),
        ({"executor": "fast"}, torch.rand(1, 1, 24, 20), InputError),
    ],
)
def test_what_is_refused(options, x, error):
    with pytest.raises(error):
        OcclusionSensitivity(flat(), verbose=False, **options)(x)


def test_numbers_that_are_not_finite():
    x = torch.rand(1, 1, 40, 36)
    x[..., 3, 3] = torch.nan
    ours, theirs = both(flat(), x, mask_size=8, overlap=0.5, mode=0.0)
    assert torch.allclose(ours[0], theirs[0], atol=1e-6, equal_nan=True)
