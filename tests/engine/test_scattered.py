"""Regions of pieces far apart: changed piece by piece where that is cheaper, and always the same numbers."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation
from hypothesis import event, given, settings
from hypothesis import strategies as st
from support.random_cnns import drawn
from torch import nn

from krypton_engine import KryptonFeatureAblation, KryptonOcclusion, fillings
from krypton_engine.executors.native.walks import NativeWalks
from krypton_engine.executors.reference.walks import ReferenceWalks
from krypton_engine.perturbation import regions
from krypton_engine.perturbation.fillings import filled_boxes, filling_of
from krypton_engine.perturbation.regions import Regions, merged
from krypton_engine.planning import planner
from krypton_engine.run import pieces

SIZE = (96, 80)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(108, 4),
    ).eval()  # fmt: skip


def corners():
    """Region 1 in two corners, 2 in three places, 3 in one; 0 is the rest."""
    mask = torch.zeros(SIZE, dtype=torch.int64)
    mask[:6, :5] = mask[-7:, -4:] = 1
    mask[2:6, 70:78] = mask[80:90, 3:9] = mask[44:50, 36:44] = 2
    mask[20:30, 20:30] = 3
    return mask


@pytest.fixture
def steps(monkeypatch):
    """Boxes of every step that a walk takes."""
    taken = []
    for walks in (NativeWalks, ReferenceWalks):
        advance = walks.advance
        monkeypatch.setattr(
            walks,
            "advance",
            lambda self, which, boxes, contents, advance=advance: (
                taken.append(boxes.copy()) or advance(self, which, boxes, contents)
            ),
        )
    return taken


@pytest.mark.parametrize("executor", ["native", "reference"])
def test_scattered_regions_are_changed_in_pieces(steps, executor):
    model, x = network(), torch.rand(2, 3, *SIZE)
    ours = KryptonFeatureAblation(model, executor).attribute(x, 0.5, 1, feature_mask=corners())
    theirs = FeatureAblation(model).attribute(x, 0.5, 1, feature_mask=corners()[None, None])
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert [len(boxes) for boxes in steps] == [2, 2, 1] * 2, "both of 1 and 2, then what is left of 2"
    assert max((boxes[..., 1:, 1] - boxes[..., 1:, 0]).max() for boxes in steps) <= 10


def test_the_walks_come_back_for_the_next_regions(steps):
    """More scattered regions than walks: the memory of the first is used again."""
    numbers = torch.arange(12 * 10).reshape(12, 10)
    mask = torch.minimum(numbers, numbers.flip(0, 1)).repeat_interleave(8, 0).repeat_interleave(8, 1)
    model, x = network(), torch.rand(1, 3, *SIZE)
    ours = KryptonFeatureAblation(model, "native").attribute(x, 0.0, 2, feature_mask=mask)
    theirs = FeatureAblation(model).attribute(x, 0.0, 2, feature_mask=mask[None, None])
    assert torch.allclose(ours, theirs, atol=1e-5) and len(steps) > 8


@pytest.mark.parametrize("baseline", ["local mean", fillings.Noise(samples=2), 0.3])
def test_heatmaps_of_scattered_regions(steps, baseline):
    model, x, mask = network().double(), torch.rand(1, 3, *SIZE).double(), corners()
    heatmap = KryptonOcclusion(model, "reference").heatmap(x, regions=mask, baselines=baseline, target=1)
    filling, regions, found = filling_of(baseline), heatmap.window, []
    for position in range(4):
        values = []
        for sample in range(filling.samples):
            box = regions.boxes(np.array([position]))
            (content,) = filled_boxes(filling.fill(x, regions, sample), box)
            image = x.clone()
            inside = (slice(None), *(slice(lo, hi) for lo, hi in box[0].tolist()))
            image[inside] = torch.where(regions.cells(position, box[0]), content, image[inside])
            values.append(model(image)[0, 1])
        found.append(torch.stack(values).mean())
    assert torch.allclose(heatmap.values, torch.stack(found), atol=1e-9) and steps


def test_pieces_that_do_not_pay_are_changed_together(steps):
    """Large pieces near each other: one box."""
    mask = torch.zeros(SIZE, dtype=torch.int64)
    mask[10:40, 10:70] = mask[44:74, 10:70] = 1
    x = torch.rand(1, 3, *SIZE)
    KryptonFeatureAblation(network(), "native").attribute(x, 0.0, 1, feature_mask=mask)
    assert not steps


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_random_networks_and_scattered_masks(data):
    """Whatever a plan says of the cost, each region of cells apart is changed in pieces here."""
    rank = data.draw(st.integers(1, 3), "rank")
    model, generator, x, baseline = drawn(data, rank)
    sizes = x.shape[2:]
    mask = torch.zeros(sizes, dtype=torch.int64)
    for number in (1, 2):
        for _ in range(2):
            starts = [int(torch.randint(0, n, (), generator=generator)) for n in sizes]
            mask[tuple(slice(at, at + 1) for at in starts)] = number
    with mock.patch.multiple(regions, _REACH=0.0, _SPARSE=1), mock.patch.object(planner, "_PIECES_PAY", 0.0):
        scattered = len(Regions.of(mask, tuple(x.shape[1:])).scattered)
        with mock.patch.object(pieces, "_steps", wraps=pieces._steps) as walked:
            found = KryptonFeatureAblation(model, "reference").attribute(x, baseline, None, feature_mask=mask)
    event(f"{bool(scattered)}: scattered, {walked.called}: walked")
    with torch.no_grad():
        base = model(x)
        for number in mask.unique().tolist():
            drop = base - model(torch.where(mask == number, baseline, x))
            cells = found.reshape(-1, *x.shape[1:])[:, 0][:, mask == number]
            expected = drop.reshape(-1, 1).expand(cells.shape)
            assert torch.allclose(cells, expected, atol=1e-9, rtol=1e-9)


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=12))
def test_merged_boxes_hold_all_and_are_few(places):
    boxes = np.array([[(y, y + 3), (x, x + 4)] for y, x in places])
    found = merged(boxes, (96, 96))
    assert 1 <= len(found) <= 8
    for box in boxes:
        assert any((each[:, 0] <= box[:, 0]).all() and (each[:, 1] >= box[:, 1]).all() for each in found)


@pytest.mark.parametrize(("scattered", "count"), [(True, 2), (False, 1)])
def test_pieces_of_a_region(scattered, count):
    mask = torch.zeros(3, *SIZE, dtype=torch.int64)
    mask[0, 1:4, :4] = 1
    mask[0, -4:, -4:] = int(scattered)
    regions = Regions.of(mask, (3, *SIZE))
    assert len(regions.pieces(1)) == count
    assert regions.pieces(1)[:, 0].tolist() == [[0, 1]] * count, "of one channel"
    assert len(regions.scattered) == int(scattered)


def test_masks_without_order_are_looked_at_in_no_time():
    """Ten thousand regions all over the image: each of a few single cells."""
    mask = torch.randint(0, 10_000, (512, 512), generator=torch.Generator().manual_seed(0))
    assert not len(Regions.of(mask, (3, 512, 512)).scattered)
