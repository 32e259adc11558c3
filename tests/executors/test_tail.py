"""What runs as PyTorch runs it after an executor's part."""

from __future__ import annotations

import itertools

import pytest
import torch
from captum.attr import Occlusion
from torch import nn

from krypton_engine import KryptonOcclusion
from krypton_engine.executors import tail
from krypton_engine.executors.registry import EXECUTORS


class Excited(nn.Module):
    """A frontier (the mean over the picture), and more than one operator after it."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.gate = nn.Conv2d(8, 8, 1)
        self.head = nn.Sequential(nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))

    def forward(self, x):
        x = self.features(x)
        return self.head(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("positions", [1, 3, 1000])
def test_no_tensor_is_larger_than_wanted(executor, positions, monkeypatch):
    """However few positions that leaves together, the numbers are Captum's."""
    torch.manual_seed(0)
    model, x = Excited().eval(), torch.rand(1, 3, 20, 20)
    model(x)
    largest = 8 * 20 * 20 * 4
    monkeypatch.setattr(tail, "LARGEST_TENSOR", positions * largest)
    together = []
    run = tail.Tail._run

    def spied(self, computed, copies, *rest):
        together.append(copies)
        return run(self, computed, copies, *rest)

    monkeypatch.setattr(tail.Tail, "_run", spied)
    call = {"sliding_window_shapes": (3, 6, 6), "strides": (3, 3, 3), "target": 1}
    occlusion = KryptonOcclusion(model, executor=executor)
    occlusion.attribute(x, **call)
    together.clear()  # a new graph's proof asks for a few rows at a time
    mine = occlusion.attribute(x, **call)
    assert sum(together) > 1 and max(together) <= positions
    torch.testing.assert_close(mine, Occlusion(model).attribute(x, **call), rtol=0, atol=1e-5)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_linear_layers_on_rows_in_any_order(order):
    layer, x = nn.Linear(5, 7), torch.rand(2, 3, 4, 5)
    x = x.permute(*order, 3)
    torch.testing.assert_close(tail._linear(x, layer.weight, layer.bias), layer(x))
