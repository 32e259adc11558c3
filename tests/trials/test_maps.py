"""What is handed to people: maps, plans, tunings, their files and their pictures."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from krypton_engine import KryptonOcclusion, Plan


def plan_of(model, x, window, strides):
    return KryptonOcclusion(model.eval()).plan(x, window, strides)


# --- plans --------------------------------------------------------------------------------------------


class UpAndDown(nn.Module):
    """A U-Net of one step: a transposed convolution does most of the way back."""

    def __init__(self, rank):
        super().__init__()
        convolution, transposed = [(nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d)][rank - 2]
        self.down = convolution(1, 8, 3, stride=2, padding=1)
        self.up = transposed(8, 8, 4, stride=2, padding=1, groups=2)
        self.last = convolution(9, 3, 1)

    def forward(self, x):
        return self.last(torch.cat([x, self.up(self.down(x).relu())], 1)).flatten(2).mean(2)


class Attending(nn.Module):
    """Attention by PyTorch's own operator and by hand."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.way == "operator":
            x = F.scaled_dot_product_attention(x, x, x)
        elif self.way == "matmul":
            x = (x @ x.transpose(1, 2)).softmax(-1) @ x
        elif self.way == "einsum":
            x = torch.einsum("bqk,bkd->bqd", torch.einsum("bqd,bkd->bqk", x, x).softmax(-1), x)
        else:
            x = torch.baddbmm(x, torch.bmm(x, x.transpose(1, 2)).softmax(-1), x)
        return self.head(x.mean(1))


@pytest.mark.parametrize(
    ("model", "x", "by_hand"),
    [
        (UpAndDown(2), torch.rand(1, 1, 16, 16), 8 * 8 * 9 * 8 + 8 * 8 * (8 * 4 * 16) + 16 * 16 * 27),
        (UpAndDown(3), torch.rand(1, 1, 8, 8, 8), 64 * 27 * 8 + 64 * (8 * 4 * 64) + 512 * 27),
        *(
            (Attending(way), torch.rand(1, 3, 32, 32), 64 * 48 * 16 + 2 * 64 * 64 * 16 + 16 * 5)
            for way in ("operator", "matmul", "einsum", "baddbmm")
        ),
    ],
    ids=["up", "up in 3-D", "operator", "matmul", "einsum", "baddbmm"],
)
def test_a_plan_counts_all_products(model, x, by_hand):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert counter.get_total_flops() == 2 * by_hand
    axes = x.ndim - 2
    found = plan_of(model, x, (x.shape[1], *(4,) * axes), (x.shape[1], *(4,) * axes))
    assert found.macs == by_hand


class Several(nn.Module):
    """An operator of several results on the way."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return self.second(self.way(self.first(x))).mean((2, 3))


@pytest.mark.parametrize(
    "way", [lambda x: x.topk(4, dim=3)[0], lambda x: x.sort(2)[0]], ids=["topk", "sort"]
)
def test_a_plan_says_where_an_operator_of_several_results_ends_it(way):
    found = plan_of(Several(way), torch.rand(1, 3, 32, 32), (3, 4, 4), 4)
    assert not all(step.local for step in found.steps)
    assert "full from here: " in str(found)


def test_a_plan_is_data():
    model = Attending("operator")
    found = plan_of(model, torch.rand(1, 3, 32, 32), (3, 4, 4), 4)
    kept = weakref.ref(model), weakref.ref(model.patches.weight)
    text = str(found)
    for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert isinstance(again, Plan) and again == found and str(again) == text
    assert len(pickle.dumps(found)) < 50_000
    del model
    gc.collect()
    assert kept[0]() is None and kept[1]() is None
    assert str(found) == text
