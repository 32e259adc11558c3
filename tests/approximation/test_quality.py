"""SSIM of two maps, against scikit-image and cases that can be told by hand."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from krypton_engine import InputError
from krypton_engine.approximation.ssim import ssim


@pytest.fixture
def exact():
    rows, columns = np.mgrid[:23, :21]
    return torch.tensor(1 - np.exp(-((rows - 6) ** 2 + (columns - 4) ** 2) / 9), dtype=torch.float32)


def test_a_map_equals_itself(exact):
    assert ssim(exact, exact) == pytest.approx(1, abs=1e-12)


def test_it_is_scikit_images_on_importance(exact):
    other = exact + 0.05 * torch.randn(exact.shape)
    low, high = exact.min(), exact.max()
    pictures = [((high - m) / (high - low)).double().numpy() for m in (exact, other)]
    assert ssim(other, exact) == pytest.approx(structural_similarity(*pictures, data_range=1), abs=1e-6)


def test_scale_of_the_outputs_does_not_matter(exact):
    other = exact + 0.05 * torch.randn(exact.shape)
    assert ssim(300 * other - 7, 300 * exact - 7) == pytest.approx(ssim(other, exact), abs=1e-4)


def test_a_constant_bias_is_an_error(exact):
    """Plain SSIM of probabilities would call this nearly perfect."""
    biased = exact - 0.1 * (exact.max() - exact.min())
    assert structural_similarity(exact.numpy(), biased.numpy(), data_range=1) > 0.98
    assert ssim(biased, exact) < 0.5


@pytest.mark.parametrize("shape", [(5, 5), (3, 9), (4, 4), (2, 9), (2, 2), (7,), (1, 1, 8, 9), (3, 8, 9)])
def test_any_grid(shape):
    exact = torch.rand(shape)
    assert ssim(exact, exact) == pytest.approx(1)
    assert ssim(1 - exact, exact) < 0.9


def test_slices_are_averaged():
    exact, other = torch.rand(3, 9, 9), torch.rand(3, 9, 9)
    exact.view(3, -1)[:, 0], exact.view(3, -1)[:, 1] = 0.0, 1.0  # so that every slice has the same range
    each = [ssim(a, b) for a, b in zip(other, exact, strict=True)]
    assert ssim(other, exact) == pytest.approx(np.mean(each))


def test_a_constant_map():
    constant = torch.full((9, 9), 0.7)
    assert ssim(constant + 1e-7, constant) == 1.0
    assert ssim(constant + 1e-2, constant) == 0.0
    assert ssim(torch.zeros(9, 9), torch.zeros(9, 9)) == 1.0


def test_bad_maps_are_named():
    with pytest.raises(InputError, match="approximate is"):
        ssim(torch.zeros(3, 4), torch.zeros(4, 3))
    with pytest.raises(InputError, match="finite"):
        ssim(torch.tensor([[float("nan"), 1.0]]), torch.tensor([[0.0, 1.0]]))
