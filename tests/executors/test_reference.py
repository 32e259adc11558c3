"""Where the reference executor writes what it computes; that it is right is `test_exact_random`'s matter."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import assert_close, incremental, settle
from support.truth import brute_force
from torch import nn

from krypton_engine import KryptonOcclusion
from krypton_engine.executors.reference.walk import Walk
from krypton_engine.perturbation.windows import SlidingWindow


class Block(nn.Module):
    """Branches side by side, some of which change the same cells; then two more, within one another."""

    def __init__(self, classes=4):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.branches = nn.ModuleList(
            nn.Conv2d(6, channels, size, padding=size // 2)
            for channels, size in ((2, 1), (5, 3), (3, 3), (4, 1))
        )
        self.inner = nn.ModuleList(nn.Conv2d(14, channels, 3, padding=1) for channels in (3, 2, 4))
        self.last = nn.Conv2d(9, 5, 3, padding=1)
        self.head = nn.Linear(5 * 14 * 14, classes)
        settle(self)

    def forward(self, x):
        x = self.stem(x).relu()
        x = torch.cat([branch(x).relu() for branch in self.branches], 1)
        a, b, c = (conv(x).relu() for conv in self.inner)
        x = torch.cat([torch.cat([a, b], dim=1), c], dim=-3)
        return self.head(self.last(x).relu().flatten(1))


@pytest.mark.parametrize("size", [3, 12], ids=["parts of the image", "nearly all of it"])
def test_branches_are_written_to_their_place(size, monkeypatch):
    torch.manual_seed(0)
    model, x = Block().double(), torch.randn(1, 3, 14, 14, dtype=torch.float64)
    written = []
    room = Walk.room

    def spied(self, node, *rest):
        into, loaded = room(self, node, *rest)
        if into is not None and not loaded:
            written.append(node.name)
        return into, loaded

    monkeypatch.setattr(Walk, "room", spied)
    window = SlidingWindow((3, 14, 14), (3, size, size), (3, 1, 1))
    with incremental():
        heatmap = KryptonOcclusion(model, executor="reference").heatmap(
            x, window.shape, window.strides, target=1, classes="all"
        )
    truth = brute_force(model, x, window.shape, window.strides).reshape(heatmap.outputs.shape)
    assert len(set(written)) >= 5
    assert_close(heatmap.outputs, truth, float(truth.abs().max()))
