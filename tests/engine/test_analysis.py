"""A run that is timed: what was expected of every layer beside what was measured."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from support.tiny_models import incremental

from krypton_engine import KryptonOcclusion, OcclusionCancelled

WINDOW, STRIDES = (3, 7, 6), (3, 5, 4)


@pytest.fixture(scope="module", params=["native", "reference"])
def occlusion(cnn, request):
    return KryptonOcclusion(cnn, executor=request.param)


@pytest.fixture(scope="module")
def analyzed(occlusion, image):
    with incremental():
        return occlusion.heatmap(image, WINDOW, STRIDES, target=1, analyze=True)


def test_timing_changes_nothing(occlusion, image, analyzed):
    plain = occlusion.heatmap(image, WINDOW, STRIDES, target=1)
    assert plain.plan.measured is None and "expected" not in str(plain.plan)
    assert torch.equal(plain.values, analyzed.values)
    assert plain == analyzed and plain.plan == analyzed.plan and hash(plain.plan) == hash(analyzed.plan)


def test_every_layer_has_its_time_and_cells(occlusion, analyzed):
    plan, measured = analyzed.plan, analyzed.plan.measured
    assert measured.positions == analyzed.values.numel() and 0 < measured.seconds == analyzed.seconds
    assert all(cost.seconds >= 0 for cost in measured.costs.values())
    layers = [step for step in plan.steps if step.macs]
    assert len(layers) >= 3
    for step in layers:
        cost = measured.costs[step.index]
        assert cost.seconds > 0
        if step.local:  # every cell of this image differs from the baseline: boxes are those of the plan
            expected = step.share * step.cells * measured.positions
            shared = cost.cells / expected
            assert shared == pytest.approx(1) if "native" in plan.executor else 1 <= shared < 2


def test_a_map_that_goes_on_counts_what_is_new(occlusion, image, analyzed):
    with pytest.raises(OcclusionCancelled) as cancelled:
        occlusion.heatmap(image, WINDOW, STRIDES, target=1, on_progress=lambda _, done, __: done < 5)
    part = cancelled.value.partial
    rest = occlusion.heatmap(image, WINDOW, STRIDES, target=1, resume=part, analyze=True)
    new = analyzed.values.numel() - int(part.measured.sum())
    assert rest.plan.measured.positions == new and rest.plan.measured.seconds < rest.seconds


def test_positions_that_change_nothing_are_not_counted(occlusion, image):
    half = image.clone()
    half[..., 10:] = 0
    heatmap = occlusion.heatmap(half, WINDOW, STRIDES, target=1, analyze=True)
    computed = heatmap.plan.measured.positions
    assert 0 < computed < heatmap.values.numel()


def test_approximate_maps_are_timed(occlusion, image):
    heatmap = occlusion.heatmap(image, (3, 6, 6), (3, 1, 1), target=1, ssim_target=0.5, analyze=True)
    measured = heatmap.plan.measured
    assert measured.positions == int(heatmap.measured.sum()) < heatmap.values.numel()
    assert sum(cost.seconds for cost in measured.costs.values()) > 0


def test_the_shares_are_of_all_the_time(analyzed):
    text = str(analyzed.plan)
    rows = re.findall(r"^\S+ +\S+ +([\d.]+)% +([\d.]+)% +[\d.]+ +[\d.]+", text, re.MULTILINE)
    assert len(rows) >= 4
    for shares in zip(*rows, strict=True):
        assert sum(map(float, shares)) == pytest.approx(100, abs=0.05 * len(rows))
    assert "furthest above its expected share" in text


@pytest.mark.parametrize("width", [80, 79, 66, 60])
def test_lines_fit_the_terminal(analyzed, width):
    lines = analyzed.plan.table(width).splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.startswith("step ") and line.endswith("incremental") for line in lines)
    assert any(line.startswith("step ") and line.endswith("measured") for line in lines)


def test_what_was_measured_goes_with_the_map(analyzed):
    again = pickle.loads(pickle.dumps(analyzed))
    assert again.plan.measured == analyzed.plan.measured and str(again.plan) == str(analyzed.plan)


def test_a_model_without_a_graph_has_nothing_to_tell():
    def reads_the_batch(x):
        return x.flatten(1).sum(1, keepdim=True) * (1 if x.sum().item() > 0 else 2)

    x = torch.rand(1, 3, 8, 8)
    with pytest.warns(UserWarning, match="full inference"):
        heatmap = KryptonOcclusion(reads_the_batch).heatmap(x, (3, 4, 4), (3, 2, 2), analyze=True)
    assert heatmap.plan is None and bool(heatmap.measured.all())
