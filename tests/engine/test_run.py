"""The one loop: progress, cancelling, and the order in which positions are computed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_models import SmallCNN, SmallViT, assert_close, full_inference, output_scale
from support.truth import brute_force, geometry

from krypton_engine import Heatmap, InputError, KryptonOcclusion, OcclusionCancelled
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.run.order import coarse_to_fine, row_by_row

WINDOW, STRIDES = (3, 6, 6), (3, 2, 2)  # 10 x 8 positions


class Watcher:
    """Notes what it is told; cancels after ``enough`` positions."""

    def __init__(self, enough=math.inf, answer=False):
        self.enough, self.answer = enough, answer
        self.heatmaps, self.done, self.totals = [], [], []

    def __call__(self, heatmap, done, total):
        self.heatmaps.append(heatmap)
        self.done.append(done)
        self.totals.append(total)
        return self.answer if done >= self.enough else None


@pytest.fixture(scope="module")
def occlusion(cnn):
    return KryptonOcclusion(cnn)


# --- progress -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["rows", "coarse to fine"])
def test_progress_reaches_the_total(cnn, image, occlusion, schedule):
    watcher = Watcher()
    final = occlusion.heatmap(image, WINDOW, STRIDES, target=1, schedule=schedule, on_progress=watcher)
    assert set(watcher.totals) == {80} and watcher.done[-1] == 80
    assert len(watcher.done) > 3
    assert watcher.done == sorted(set(watcher.done)), "every call tells of something new"
    for heatmap, done in zip(watcher.heatmaps, watcher.done, strict=True):
        assert isinstance(heatmap, Heatmap)
        assert int(heatmap.measured.sum()) == done
        assert torch.equal(heatmap.values.isnan(), ~heatmap.measured)
        assert torch.equal(heatmap.values[heatmap.measured], final.values[heatmap.measured])
    outputs = brute_force(cnn, image, *geometry(final))[:, 1].reshape(10, 8)
    assert_close(final.values, outputs, output_scale(cnn, image))


def test_a_heatmap_on_the_way_can_be_looked_at(image, occlusion):
    texts = []

    def look(heatmap, done, total):
        texts.append(repr(heatmap))
        assert heatmap.attribution().shape == (3, 24, 20)
        assert heatmap.overlay().size == (20, 24)

    occlusion.heatmap(image, WINDOW, STRIDES, schedule="coarse to fine", on_progress=look)
    assert "measured=100%" in texts[-1]


def test_progress_of_a_batch_counts_all_its_examples(images, occlusion):
    watcher = Watcher()
    occlusion.attribute(images, WINDOW, STRIDES, target=1, on_progress=watcher)
    assert set(watcher.totals) == {240} and watcher.done[-1] == 240
    assert watcher.done == sorted(set(watcher.done))


def test_progress_of_two_inputs_counts_both(cnn, image):
    watcher = Watcher()
    KryptonOcclusion(lambda x, y: cnn(x) - cnn(y)).attribute(
        (image, image), (WINDOW, (3, 12, 10)), (STRIDES, (3, 12, 10)), target=1, on_progress=watcher
    )
    assert set(watcher.totals) == {84} and watcher.done[-1] == 84


def test_progress_of_full_inference():
    watcher, model = Watcher(), SmallViT()
    x = torch.randn(2, 3, 24, 24)
    with full_inference():
        KryptonOcclusion(model).attribute(x, WINDOW, STRIDES, target=1, on_progress=watcher)
    assert set(watcher.totals) == {watcher.done[-1]}
    assert watcher.done == sorted(set(watcher.done))


def test_progress_where_nothing_changes(image, occlusion):
    watcher = Watcher()
    occlusion.heatmap(torch.zeros_like(image), WINDOW, STRIDES, on_progress=watcher)
    assert watcher.done[-1] == watcher.totals[-1] == 80


def test_progress_of_a_region(image, occlusion):
    watcher = Watcher()
    heatmap = occlusion.heatmap(image, WINDOW, STRIDES, region=(0, 0, 5, 5), on_progress=watcher)
    assert set(watcher.totals) == {int(heatmap.measured.sum())} and watcher.done[-1] == watcher.totals[0] == 9


def test_what_the_watcher_raises_comes_through(image, occlusion):
    def broken(*_):
        raise KeyError("a fault of the watcher")

    with pytest.raises(KeyError, match="a fault of the watcher"):
        occlusion.heatmap(image, WINDOW, STRIDES, on_progress=broken)


@pytest.mark.parametrize("call", ["attribute", "heatmap"])
def test_a_progress_bar(capsys, image, occlusion, call):
    getattr(occlusion, call)(image, WINDOW, STRIDES, target=1)
    assert capsys.readouterr() == ("", "")
    getattr(occlusion, call)(image, WINDOW, STRIDES, target=1, show_progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "Occlusion attribution" in err and "80/80" in err and "100%" in err


# --- resuming -----------------------------------------------------------------------------------------


def test_a_cancelled_map_is_resumed(image, occlusion):
    call = {"x": image, "sliding_window_shapes": WINDOW, "strides": STRIDES, "target": 1, "classes": "all"}
    whole = occlusion.heatmap(**call)
    with pytest.raises(OcclusionCancelled) as cancelled:
        occlusion.heatmap(**call, schedule="coarse to fine", on_progress=Watcher(enough=20))
    part = cancelled.value.partial
    known = int(part.measured.sum())
    watcher = Watcher()
    resumed = occlusion.heatmap(**call, resume=part, on_progress=watcher)
    assert watcher.done[-1] == 80 - known, "nothing is measured twice"
    assert resumed.seconds > part.seconds
    assert_close(resumed.outputs, whole.outputs, float(whole.outputs.abs().max()))
    assert torch.equal(resumed.classes, whole.classes) and resumed.measured.all()
    assert torch.equal(resumed.values[part.measured], part.values[part.measured])
    assert torch.equal(occlusion.heatmap(**call, resume=whole).values, whole.values), "nothing left to do"


def test_only_what_a_region_lacks_is_computed(image, occlusion):
    box, watcher = (0, 0, 6, 6), Watcher()
    part = occlusion.heatmap(image, WINDOW, STRIDES, region=box)
    more = occlusion.heatmap(image, WINDOW, STRIDES, region=(0, 0, 12, 6), resume=part, on_progress=watcher)
    assert watcher.done[-1] == int(more.measured.sum() - part.measured.sum())


@pytest.mark.parametrize(
    "other",
    [
        {"target": 2},
        {"strides": 3},
        {"classes": "all"},
        {"x": torch.zeros(1, 3, 24, 20)},
        {"activation": "softmax"},
        {"baselines": 0.5},
        {"baselines": torch.linspace(0, 1, 24 * 20).expand(1, 3, -1).reshape(1, 3, 24, 20)},
    ],
)
def test_a_part_of_another_map_is_refused(image, occlusion, other):
    call = {"x": image, "sliding_window_shapes": WINDOW, "strides": STRIDES, "target": 1}
    part = occlusion.heatmap(**{**call, **other}, region=(0, 0, 6, 6))
    with pytest.raises(InputError, match="resume"):
        occlusion.heatmap(**call, resume=part)


def test_a_part_of_a_map_of_other_weights_is_refused(image):
    model = SmallCNN().eval()
    occlusion = KryptonOcclusion(model)
    part = occlusion.heatmap(image, WINDOW, STRIDES, target=1, region=(0, 0, 6, 6))
    with torch.no_grad():
        next(model.parameters()).mul_(-1)
    with pytest.raises(InputError, match="resume is .* its weights"):
        occlusion.heatmap(image, WINDOW, STRIDES, target=1, resume=part)


def test_a_heatmap_keeps_its_own_image(cnn, image):
    mine = image.clone()
    heatmap = KryptonOcclusion(cnn).heatmap(mine, WINDOW, STRIDES, target=1)
    mine.zero_()
    torch.testing.assert_close(heatmap.image, image[0], rtol=0, atol=0)


# --- cancelling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [False, np.False_], ids=["Python", "NumPy"])
def test_a_cancelled_heatmap_carries_what_was_computed(cnn, image, occlusion, answer):
    watcher = Watcher(enough=20, answer=answer)
    with pytest.raises(OcclusionCancelled) as caught:
        occlusion.heatmap(image, WINDOW, STRIDES, target=1, on_progress=watcher)
    partial = caught.value.partial
    assert isinstance(partial, Heatmap)
    count = int(partial.measured.sum())
    assert count == watcher.done[-1] and 20 <= count < 80
    outputs = brute_force(cnn, image, *geometry(partial))[:, 1].reshape(10, 8)
    known = partial.measured
    assert_close(partial.values[known], outputs[known], output_scale(cnn, image))
    assert bool(partial.values[~known].isnan().all())
    assert "partial" in str(caught.value)


def test_a_cancelled_attribution_carries_the_example_it_was_at(images, occlusion):
    watcher = Watcher(enough=100)
    with pytest.raises(OcclusionCancelled) as caught:
        occlusion.attribute(images, WINDOW, STRIDES, target=[0, 1, 2], on_progress=watcher)
    partial = caught.value.partial
    assert watcher.done[-1] < 240
    assert int(partial.measured.sum()) == watcher.done[-1] - 80  # the first example was done
    assert torch.equal(partial.image, images[1]) and partial.target == 1


def test_at_once(image, occlusion):
    with pytest.raises(OcclusionCancelled) as caught:
        occlusion.heatmap(image, WINDOW, STRIDES, on_progress=Watcher(enough=0))
    assert 0 < int(caught.value.partial.measured.sum()) < 80


def test_full_inference_is_cancelled_too():
    with full_inference(), pytest.raises(OcclusionCancelled) as caught:
        KryptonOcclusion(SmallViT()).heatmap(
            torch.randn(1, 3, 24, 24), WINDOW, STRIDES, target=1, on_progress=Watcher(enough=20)
        )
    assert 20 <= int(caught.value.partial.measured.sum()) < 100


@pytest.mark.parametrize("answer", [None, True, 0, ""], ids=repr)
def test_only_false_cancels(image, occlusion, answer):
    watcher = Watcher(enough=0, answer=answer)
    occlusion.heatmap(image, WINDOW, STRIDES, on_progress=watcher)
    assert watcher.done[-1] == 80


def test_the_explainer_goes_on_after_a_cancel(image, occlusion):
    expected = occlusion.heatmap(image, WINDOW, STRIDES, target=1)
    with pytest.raises(OcclusionCancelled):
        occlusion.heatmap(image, WINDOW, STRIDES, target=1, on_progress=Watcher(enough=5))
    assert torch.equal(occlusion.heatmap(image, WINDOW, STRIDES, target=1).values, expected.values)


# --- schedules ----------------------------------------------------------------------------------------


@st.composite
def grids(draw):
    """Windows of one cell, so that the grid is the input."""
    sizes = tuple(draw(st.lists(st.integers(1, 20), min_size=1, max_size=3)))
    return SlidingWindow(sizes, (1,) * len(sizes), (1,) * len(sizes))


@given(grids())
def test_row_by_row(window):
    (stage,) = row_by_row(window)
    assert stage.tolist() == list(range(len(window)))


@given(grids(), st.data())
def test_coarse_to_fine_is_every_position_once(window, data):
    wanted = None
    if data.draw(st.booleans()):
        share = np.random.default_rng(data.draw(st.integers(0, 1000))).random(len(window)) < 0.3
        wanted = np.flatnonzero(share)
    stages = coarse_to_fine(window, wanted)
    together = np.concatenate(stages).tolist() if stages else []
    assert len(set(together)) == len(together)
    assert sorted(together) == (list(range(len(window))) if wanted is None else wanted.tolist())
    assert all(len(stage) for stage in stages)


@given(grids())
def test_each_stage_halves_the_step(window):
    so_far = set()
    for step, stage in zip(steps_of(window), coarse_to_fine(window), strict=False):
        so_far |= set(stage.tolist())
        on_grid = np.ones(len(window), dtype=bool)
        for index in window.coordinates(np.arange(len(window))):
            on_grid &= index % step == 0
        assert so_far == set(np.flatnonzero(on_grid).tolist())


def steps_of(window):
    """8, 4, 2, 1; from the first of these that leaves more than one position along the longest axis."""
    return [step for step in (8, 4, 2, 1) if step == 1 or step < max(window.counts)]


def test_the_first_stage_is_every_eighth():
    window = SlidingWindow((3, 60, 44), (3, 4, 4), (3, 1, 1))  # 57 x 41 positions
    stages = coarse_to_fine(window)
    assert len(stages) == 4
    _, rows, columns = window.coordinates(stages[0])
    assert sorted(set(rows.tolist())) == list(range(0, 57, 8))
    assert sorted(set(columns.tolist())) == list(range(0, 41, 8))
    assert len(stages[0]) == 8 * 6


def test_a_coarse_map_is_measured_first(image, occlusion):
    watcher = Watcher()
    occlusion.heatmap(image, (3, 4, 4), (3, 1, 1), schedule="coarse to fine", on_progress=watcher)
    rows, columns = torch.meshgrid(torch.arange(21), torch.arange(17), indexing="ij")
    for heatmap, done in zip(watcher.heatmaps, watcher.done, strict=True):
        for step in (8, 4, 2):
            on_grid = (rows % step == 0) & (columns % step == 0)
            if done <= int(on_grid.sum()):
                assert not bool((heatmap.measured & ~on_grid).any())


def test_an_unknown_schedule(image, occlusion):
    with pytest.raises(InputError, match="schedule is 'spiral'"):
        occlusion.heatmap(image, WINDOW, STRIDES, schedule="spiral")
