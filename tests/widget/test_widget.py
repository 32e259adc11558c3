"""The widget without a page: what it takes, when it runs, what it keeps, and how it ends."""

from __future__ import annotations

import contextlib
import copy
import gc
import re
import threading
import time
import tracemalloc
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image
from support.widget_page import Drawings, Page, map_of
from torch import nn

from krypton_engine import InputError, KryptonOcclusion
from krypton_engine.approximation.ssim import ssim
from krypton_engine.heatmap.identity import same_outputs
from krypton_engine.heatmap.status import Status
from krypton_widget import OcclusionExplorer
from krypton_widget.pictures import ModelInput
from krypton_widget.subject import Subject

SIZE = (24, 20)

PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)

TARGET = 0.8
"""SSIM that takes a part of a random network's map."""


class Slow(nn.Module):
    """A model that takes its time, and may be told to raise."""

    def __init__(self, model, seconds=0.0):
        super().__init__()
        self.model, self.seconds, self.trouble = model, seconds, None
        self.rows = []  # of every call
        self.eval()

    def forward(self, x):
        self.rows.append(len(x))
        if self.trouble is not None:
            raise self.trouble
        time.sleep(self.seconds)
        return self.model(x)


@pytest.fixture
def photo():
    return PHOTO


@pytest.fixture
def explore(cnn, photo):
    """Makes explorers of small maps, and closes them."""
    made = []

    def make(model=cnn, image=photo, **options):
        made.append(OcclusionExplorer(model, image, **{"window": 6, "stride": 2} | options))
        return made[-1]

    yield make
    for explorer in made:
        explorer.close()


def look_at(explorer, index):
    """Show an image for a moment, by another window: then the model has answered to it."""
    before = explorer.image_index, explorer.window
    explorer.image_index, explorer.window = index, 12
    explorer.wait(60)
    explorer.image_index, explorer.window = before
    explorer.wait(60)


@contextlib.contextmanager
def held(model):
    """Holds the model's next passes back until the end, or until the second event that it gives is set.

    The first is set when a pass has come.
    """
    came, go = threading.Event(), threading.Event()

    def waits(*_):
        came.set()
        go.wait(60)

    hook = model.register_forward_pre_hook(waits)
    try:
        yield came, go
    finally:
        hook.remove()
        go.set()


@contextlib.contextmanager
def begun(explore, cnn):
    """Makes an explorer with an exact map, and holds the next one, of windows of 8, in its first pass.

    Gives the explorer, and the event that lets the map go on.
    """
    model = Slow(cnn)
    explorer = explore(model, exact=True)
    explorer.wait(60)
    with held(model) as (came, go):
        explorer.window = 8
        assert came.wait(60)
        yield explorer, go


def workers() -> int:
    return sum(thread.name == "krypton explorer" for thread in threading.enumerate())


# --- what it computes ---------------------------------------------------------------------------------


def test_it_runs_at_construction_and_says_approximate(explore, cnn):
    explorer = explore(ssim_target=TARGET)
    explorer.wait(60)
    frame, heatmap = Page(explorer).frame, explorer.heatmap
    assert not explorer.running and frame["finished"] and not frame["exact"]
    measured = heatmap.measured
    assert 0 < int(measured.sum()) == frame["done"] < frame["total"] == 80
    status = np.frombuffer(frame["status"], np.uint8).reshape(measured.shape)
    values = np.frombuffer(frame["values"], np.float32).reshape(measured.shape)
    assert np.array_equal(status == Status.EXACT, measured.numpy())
    assert (status[~measured.numpy()] == Status.INTERPOLATED).all() and np.isfinite(values).all()
    assert (np.frombuffer(frame["classes"], np.int32).reshape(measured.shape)[~measured] == -1).all()
    exact = map_of(cnn, explorer, PHOTO, 6, 2)
    assert np.allclose(values[measured], exact.values[measured], rtol=0, atol=1e-5)
    assert TARGET <= frame["estimate"]["low"] <= frame["estimate"]["value"] <= frame["estimate"]["high"] <= 1
    assert frame["estimate"]["basis"] == "online" and frame["note"] == ""


def test_the_map_is_the_engines_at_every_target(explore, cnn):
    """Also where the slider came from above, and nothing was measured any more."""
    explorer = explore(ssim_target=0.96)
    for target in (0.96, TARGET, 0.9):
        explorer.ssim_target = target
        explorer.wait(60)
        expected = map_of(cnn, explorer, PHOTO, 6, 2, ssim_target=target)
        assert torch.equal(explorer.heatmap.measured, expected.measured)
        torch.testing.assert_close(explorer.heatmap.values, expected.values, rtol=0, atol=1e-5)
        assert explorer.heatmap.ssim_estimate.low == pytest.approx(expected.ssim_estimate.low, abs=1e-3)


def test_a_higher_target_goes_on_from_what_is_there(explore, cnn):
    model = Slow(cnn)
    explorer = explore(model, ssim_target=TARGET)
    explorer.wait(60)
    before = explorer.heatmap
    explorer.ssim_target = 0.96
    explorer.wait(60)
    after = explorer.heatmap
    assert (after.measured >= before.measured).all() and after.measured.sum() > before.measured.sum()
    assert after.seconds > before.seconds
    model.rows.clear()
    explorer.ssim_target = TARGET
    explorer.wait(10)
    assert torch.equal(explorer.heatmap.measured, before.measured)
    assert model.rows == [1], "whether it is still the same, and no more"


def test_exact_finishes_the_approximate_map(explore, cnn):
    explorer = explore(ssim_target=TARGET)
    explorer.wait(60)
    approximate = explorer.heatmap
    explorer.exact = True
    explorer.wait(60)
    exact, found = explorer.heatmap, Page(explorer).comparison
    assert exact.measured.all() and Page(explorer).frame["exact"] and Page(explorer).frame["estimate"] is None
    assert found["ssim"] == pytest.approx(
        ssim(approximate.values, map_of(cnn, explorer, PHOTO, 6, 2).values), abs=1e-4
    )
    assert np.array_equal(np.frombuffer(found["approximate"], np.float32), approximate.values.float().ravel())
    assert (found["measured"], found["seconds"]) == (int(approximate.measured.sum()), approximate.seconds)
    assert found["exactSeconds"] == exact.seconds > approximate.seconds
    explorer.exact = False
    explorer.wait(60)
    assert not Page(explorer).frame["exact"] and torch.equal(explorer.heatmap.measured, approximate.measured)


@pytest.mark.parametrize("baseline", ["grey", "black", "mean", "blur"])
def test_exact_is_the_engines_map(explore, cnn, photo, baseline):
    explorer = explore(exact=True, baseline=baseline)
    explorer.wait(60)
    x = torch.from_numpy(photo.transpose(2, 0, 1).copy())[None].float() / 255
    patch = ModelInput(PHOTO, None).patch(baseline)
    expected = KryptonOcclusion(cnn).heatmap(x, (3, 6, 6), (3, 2, 2), patch, activation="softmax")
    torch.testing.assert_close(explorer.heatmap.values, expected.values, rtol=0, atol=1e-5)
    assert explorer.heatmap.target == expected.target


def test_patches_are_coloured_in_the_picture_and_then_preprocessed(photo):
    def preprocess(array):
        return (torch.from_numpy(array.transpose(2, 0, 1).copy()).float() / 255 - 0.4) / 0.2

    given = ModelInput(photo, preprocess)
    assert torch.allclose(given.patch("black"), torch.tensor(-2.0))
    assert torch.allclose(given.patch("grey"), torch.tensor((128 / 255 - 0.4) / 0.2))
    mean = photo.reshape(-1, 3).mean(0)
    assert np.allclose(
        given.patch("mean")[0, :, 0, 0].numpy(), (mean / 255 - 0.4) / 0.2, atol=0.5 / 255 / 0.2
    )
    assert np.array_equal(given.picture, photo), "the picture shown is the model's input"
    assert given.patch("blur").std() < given.x.std()


@pytest.mark.parametrize("kind", ["pil", "array", "float array", "tensor", "batch of one", "byte tensor"])
def test_kinds_of_images(explore, photo, kind):
    shares = torch.from_numpy(photo.transpose(2, 0, 1).copy()).float() / 255
    image = {
        "pil": Image.fromarray(photo),
        "array": photo,
        "float array": (photo / 255).astype(np.float32),
        "tensor": shares,
        "batch of one": shares[None],
        "byte tensor": torch.from_numpy(photo),
    }[kind]
    explorer, given = explore(image=image), ModelInput(image, None)
    torch.testing.assert_close(given.x, shares[None])
    assert np.array_equal(given.picture, photo)
    explorer.wait(60)
    assert np.array_equal(Page(explorer).picture, photo)
    torch.testing.assert_close(explorer.heatmap.image, shares)


def test_probabilities_are_left_alone(explore, cnn):
    explorer = explore(lambda x: cnn(x).softmax(1))
    explorer.wait(60)
    assert 0 < float(explorer.heatmap.base) < 1
    assert float(explorer.heatmap.base_outputs.sum()) == pytest.approx(1, abs=1e-5)


def test_ssim_and_costs_once_the_exact_map_is_there(explore, cnn):
    model = Slow(cnn)
    explorer = explore(model, exact=True, ssim_target=TARGET)
    explorer.wait(60)
    found = Page(explorer).comparison
    assert found["positions"] == 80 > found["measured"] > 0 and found["ssimTarget"] == TARGET
    assert -1 < found["ssim"] < 1
    assert 0 < found["seconds"] < found["exactSeconds"]
    assert found["speedUp"] == pytest.approx(found["exactSeconds"] / found["seconds"])
    assert found["fullSpeedUp"] == pytest.approx(found["fullSeconds"] / found["seconds"])
    model.rows.clear()
    explorer.ssim_target = 0.96
    explorer.wait(60)
    assert Page(explorer).comparison["measured"] > found["measured"], "on its way to exact it passed that too"
    assert Page(explorer).comparison["ssim"] > found["ssim"]
    assert model.rows == [1], "whether it is still the same, and no more"


# --- tuning -------------------------------------------------------------------------------------------


@pytest.fixture
def tuning(cnn):
    samples = torch.from_numpy(
        np.random.default_rng(5).integers(0, 256, (10, 3, *SIZE)).astype(np.float32) / 255
    )
    return KryptonOcclusion(cnn).tune(samples, (3, 6, 6), (3, 2, 2), 0.0, activation="softmax")


@pytest.mark.parametrize("keeps_all", [True, False])
def test_a_tuning_says_when_to_stop(explore, cnn, tuning, keeps_all, monkeypatch):
    """Where not all classes are kept, the engine may trim."""
    if not keeps_all:
        monkeypatch.setattr("krypton_widget.task.LARGEST_KEPT", 0)
    explorer = explore(tuning=tuning, ssim_target=TARGET, baseline="black")
    explorer.wait(60)
    kept = "all" if keeps_all else "predicted"
    expected = map_of(cnn, explorer, PHOTO, 6, 2, ssim_target=TARGET, tuning=tuning, classes=kept)
    assert torch.equal(explorer.heatmap.measured, expected.measured)
    assert Page(explorer).frame["finished"] and Page(explorer).frame["note"] == ""
    assert Page(explorer).frame["estimate"]["basis"] == "tuned"
    explorer.exact = True
    explorer.wait(60)
    assert (explorer.heatmap.status == Status.EXACT).all(), "what was trimmed is measured anew"
    exact = map_of(cnn, explorer, PHOTO, 6, 2)
    torch.testing.assert_close(explorer.heatmap.values, exact.values, rtol=0, atol=1e-5)
    assert Page(explorer).comparison["ssim"] == pytest.approx(ssim(expected.values, exact.values), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 7}, "the tuning is for another patch size"),
        ({"window": 7, "stride": 3}, "the tuning is for another patch size and stride"),
        ({"baseline": "grey"}, "the tuning is for another patch colour"),
        ({"target": "second"}, "the tuning is for another class"),
        ({"region": (0, 0, 12, 12)}, "the tuning is for whole maps"),
    ],
)
def test_where_a_tuning_does_not_fit_it_is_said(explore, photo, cnn, tuning, options, words):
    explorer = explore(tuning=tuning, ssim_target=TARGET, baseline="black")
    explorer.wait(60)
    for name, value in options.items():
        setattr(explorer, name, (explorer.heatmap.target + 1) % 5 if value == "second" else value)
    explorer.wait(60)
    assert not explorer.error and Page(explorer).frame["finished"] and Page(explorer).frame["note"] == words
    assert Page(explorer).frame["estimate"] is None or Page(explorer).frame["estimate"]["basis"] == "online"
    assert explorer.heatmap.trimmed is None


def test_a_tuning_of_another_model_is_told(explore, cnn, tuning):
    other = copy.deepcopy(cnn)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    explorer = explore(other, tuning=tuning, baseline="black")
    with pytest.raises(InputError, match="tuning is one of.*made for something else"):
        explorer.wait(60)
    assert "made for something else" in explorer.error


def test_a_tuning_of_too_few_images_means_exact(explore, cnn, tuning):
    few = replace(tuning, curves=tuple(c for c in tuning.curves if c.image in sorted(tuning.images)[:3]))
    explorer = explore(tuning=few, ssim_target=TARGET, baseline="black")
    explorer.wait(60)
    assert Page(explorer).frame["exact"] and "too few images" in Page(explorer).frame["note"]


# --- controls -----------------------------------------------------------------------------------------


def test_stride_is_lowered_with_the_window(explore):
    explorer = explore(window=8, stride=8)
    explorer.window = 5
    assert explorer.stride == 5
    explorer.stride = 99
    assert explorer.stride == 5
    explorer.wait(60)
    assert explorer.heatmap.window.shape == (3, 5, 5)


@pytest.mark.parametrize("first", ["window", "stride"])
def test_controls_set_together_fit_in_any_order(explore, photo, first):
    explorer = explore(image=[photo, np.tile(photo, (2, 2, 1))])
    values = {"stride": 22, "window": 24, "image_index": 1}
    explorer.set_state({first: values[first], **values})  # as the page sets them
    assert not explorer.error and (explorer.window, explorer.stride) == (24, 22)


def test_another_class_costs_nothing(explore, cnn):
    model = Slow(cnn)
    explorer = explore(model, exact=True)
    explorer.wait(60)
    model.rows.clear()
    target = (explorer.heatmap.target + 1) % 5
    explorer.target = target
    explorer.wait(10)
    assert not explorer.error
    assert (
        Page(explorer).frame["target"]
        == explorer.heatmap.target
        == Page(explorer).comparison["target"]
        == target
    )
    assert model.rows == [1], "whether it is still the same, and no more"


def test_a_map_seen_before_costs_nothing(explore, cnn):
    model = Slow(cnn)
    explorer = explore(model)
    explorer.wait(60)
    explorer.window = 8
    explorer.wait(60)
    model.rows.clear()
    explorer.window = 6
    explorer.wait(10)
    assert Page(explorer).frame["window"] == 6 and Page(explorer).frame["finished"]
    assert model.rows == [1], "whether it is still the same, and no more"


def test_a_region(explore):
    explorer = explore(exact=True, region=(0, 0, 6, 6))
    explorer.wait(60)
    assert explorer.heatmap.measured.sum() == 9
    status = np.frombuffer(Page(explorer).frame["status"], np.uint8)
    assert (status == Status.EXACT).sum() == 9 and (status == Status.UNKNOWN).sum() == 71
    mask = np.zeros(SIZE, dtype=bool)
    mask[-1, -1] = True
    explorer.region = mask
    explorer.wait(60)
    assert explorer.heatmap.measured.sum() == 10, "what was measured stays"


def test_a_region_of_one_position(explore):
    explorer = explore(window=3, stride=3, region=(3, 3, 5, 5))
    explorer.wait(60)
    assert explorer.heatmap.measured.sum() == 1 and Page(explorer).frame["finished"]


def test_an_approximate_region(explore, cnn):
    explorer = explore(ssim_target=TARGET, region=(0, 0, 14, 20))
    explorer.wait(60)
    expected = map_of(cnn, explorer, PHOTO, 6, 2, ssim_target=TARGET, region=(0, 0, 14, 20))
    assert torch.equal(explorer.heatmap.measured, expected.measured)
    assert Page(explorer).frame["total"] == 7 * 8 and Page(explorer).frame["done"] < 56
    explorer.exact = True
    explorer.wait(60)
    assert (
        Page(explorer).frame["exact"] and Page(explorer).frame["done"] == 56 and not Page(explorer).comparison
    )
    explorer.region = None
    explorer.wait(60)
    assert explorer.heatmap.measured.all() and Page(explorer).comparison


def test_large_photographs():
    given = ModelInput(
        image=Image.new("RGB", (1500, 1100), (200, 40, 90)),
        preprocess=lambda image: (
            torch.from_numpy(np.asarray(image.resize((20, 24))).copy()).movedim(-1, 0) / 255
        ),
    )
    assert np.ptp(given.picture.reshape(-1, 3), axis=0).max() == 0
    assert torch.allclose(given.patch("blur"), given.x, atol=0.02)


def test_several_images(explore, photo):
    explorer = explore(image=[photo, Image.fromarray(255 - photo)])
    explorer.wait(60)
    first = explorer.heatmap
    explorer.image_index = 1
    explorer.wait(60)
    assert not torch.equal(first.image, explorer.heatmap.image)
    assert len(Page(explorer).thumbnails) == 2


@pytest.mark.parametrize("move", [{"image_index": 1}, {"window": 8}, {"baseline": "black"}])
@pytest.mark.parametrize("stop", ["cancel", "trouble"])
def test_no_map_stays_under_a_question_that_it_does_not_answer(explore, cnn, photo, move, stop, tmp_path):
    model = Slow(cnn)
    explorer = explore(model, image=[photo, 255 - photo], exact=True)
    explorer.wait(60)
    assert Page(explorer).frame["finished"] and Page(explorer).comparison
    began, cancelled = threading.Event(), threading.Event()

    def stopped(*_):
        began.set()
        cancelled.wait(60)
        if stop == "trouble":
            raise RuntimeError("no luck today")

    look_at(explorer, 1)  # so that the next pass is the map's
    hook = model.register_forward_pre_hook(stopped)
    for name, value in move.items():
        setattr(explorer, name, value)
    assert began.wait(60)
    if stop == "cancel":
        explorer.cancel()
    cancelled.set()
    with contextlib.suppress(RuntimeError, InputError):
        explorer.wait(60)
    hook.remove()
    assert not explorer.running and bool(explorer.error) == (stop == "trouble")
    assert explorer.heatmap is None and Page(explorer).frame == {} and Page(explorer).comparison == {}
    assert Page(explorer).view["image"] == explorer.image_index
    with pytest.raises(InputError, match="nothing of the map asked for"):
        explorer.save(tmp_path / "map.png")


def test_a_file_is_of_the_picture_that_it_explains(explore, cnn, photo, monkeypatch, tmp_path):
    """Also while the map of another picture is on its way."""
    model = Slow(cnn)
    explorer = explore(model, image=[photo, 255 - photo])
    explorer.wait(60)
    drawings = Drawings(monkeypatch)
    look_at(explorer, 1)  # so that the next pass is the map's
    with held(model) as (began, _):
        explorer.image_index = 1
        assert began.wait(60)
        _, first = drawings.of(explorer, tmp_path)
        with pytest.raises(InputError, match="nothing of the map asked for"):  # a page shows the other one
            explorer.save(tmp_path / "map.html")
        assert not Page(explorer).press_save("html")
        assert "nothing of the map asked for" in explorer.error and not Page(explorer).failed
    explorer.wait(60)
    ((name, content),) = Page(explorer).press_save("html")
    assert name.endswith(".html") and content.startswith(b"<!doctype html>") and not explorer.error
    _, second = drawings.of(explorer, tmp_path)
    assert np.array_equal(first["image"], photo) and np.array_equal(second["image"], 255 - photo)


def test_no_map_of_another_class_or_model_stays(explore, cnn):
    model = Slow(copy.deepcopy(cnn))
    explorer = explore(model, ssim_target=TARGET)
    explorer.wait(60)
    model.trouble = RuntimeError("no luck today")
    explorer.target = (explorer.heatmap.target + 1) % 5
    with pytest.raises(InputError, match="no luck today"):
        explorer.wait(60)
    assert explorer.heatmap is None and Page(explorer).frame == {} and Page(explorer).failed
    model.trouble = None
    explorer.target = None
    explorer.wait(60)
    assert explorer.heatmap is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    passes = []

    def cancels(*_):
        passes.append(1)
        if len(passes) == 2:  # the first asks whether the model is the same
            explorer.cancel()

    hook = model.register_forward_pre_hook(cancels)
    explorer.exact = True
    explorer.wait(60)
    hook.remove()
    assert explorer.heatmap is None and Page(explorer).comparison == {}


def test_what_is_cancelled_before_it_begins_leaves_no_other_map(explore, cnn):
    with begun(explore, cnn) as (explorer, _):
        explorer.window = 9
        explorer.cancel()
        assert not explorer.running and explorer.heatmap is None and Page(explorer).frame == {}
    explorer.wait(60)
    assert explorer.heatmap is None


@pytest.mark.parametrize(("window", "stride"), [(6, 2), (8, 4), (6, 6), (10, 5)])
def test_all_targets_are_answered_by_what_ended_exact(explore, cnn, window, stride):
    model = Slow(cnn)
    explorer = explore(model, window=window, stride=stride, ssim_target=0.97, exact=True)
    explorer.wait(60)
    assert Page(explorer).comparison["ssimTarget"] == 0.97
    model.rows.clear()
    for target in (0.95, 0.96, 0.98):
        explorer.ssim_target = target
        explorer.wait(60)
        assert Page(explorer).comparison["ssimTarget"] == target
    explorer.exact = False
    explorer.wait(60)
    assert Page(explorer).frame["finished"]
    assert model.rows == [1] * 4, "whether it is still the same, and no more"


def test_a_map_is_of_the_model_as_it_is(explore, cnn):
    """Also where nothing of the old one is taken up, and the class explained is the predicted one."""
    model = Slow(copy.deepcopy(cnn))
    explorer = explore(model)
    explorer.wait(60)
    before = explorer.heatmap.target
    with torch.no_grad():
        model.model.head.bias[(before + 2) % 5] += 9
    explorer.window = 8
    explorer.wait(60)
    answer = model(ModelInput(PHOTO, None).x).softmax(1)[0]
    assert explorer.heatmap.target == Page(explorer).view["predicted"] == int(answer.argmax()) != before
    shown = np.frombuffer(Page(explorer).view["probabilities"], np.float32)
    np.testing.assert_allclose(shown, answer.detach().numpy(), atol=1e-6)
    explorer.window = 6
    explorer.wait(60)
    assert float(explorer.heatmap.base) == pytest.approx(float(answer.max()), abs=1e-6)


def test_a_model_that_never_says_the_same_is_asked_once(explore, cnn):
    """Else every answer were another model's, for ever."""
    calls = []

    def model(x):
        calls.append(len(x))
        return cnn(x) + len(calls)

    explorer = explore(model, activation=None, exact=True)
    explorer.wait(60)
    assert calls[:2] == [1, 1] and Page(explorer).frame["finished"]


def test_no_map_of_another_model_stays_whichever_run_finds_out(explore, cnn, monkeypatch):
    model = Slow(copy.deepcopy(cnn))
    explorer = explore(model, ssim_target=TARGET)
    explorer.wait(60)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    asked, answered, begun, cancelled = (threading.Event() for _ in range(4))

    def slowly(*outputs):
        asked.set()
        answered.wait(60)
        return same_outputs(*outputs)

    def waits(*_):
        begun.set()
        cancelled.wait(60)

    monkeypatch.setattr("krypton_widget.measuring.same_outputs", slowly)
    explorer.exact = True
    assert asked.wait(60)  # whether the model is the same
    hook = model.register_forward_pre_hook(waits)
    explorer.ssim_target = 0.9  # newer
    answered.set()
    assert begun.wait(60)
    explorer.cancel()
    cancelled.set()
    hook.remove()
    explorer.wait(60)
    assert explorer.heatmap is None and Page(explorer).frame == {}


def test_what_was_begun_and_cancelled_gives_the_page_back(explore, cnn, tmp_path):
    """The controls are where the map on the page is: it is shown, with all that belongs to it."""
    model = Slow(cnn)
    explorer = explore(model, exact=True)
    explorer.wait(60)
    view, comparison = Page(explorer).view, Page(explorer).comparison
    with held(model) as (began, _):
        explorer.window = 8
        assert began.wait(60)
        explorer.window = 6
        explorer.cancel()
    explorer.wait(60)
    assert Page(explorer).view == view and Page(explorer).comparison == comparison != {}
    assert Page(explorer).frame["asked"]["window"] == 6 and Page(explorer).frame["finished"]
    explorer.save(tmp_path / "map.html")


def test_the_title_of_a_file_never_calls_an_approximate_map_exact(explore, monkeypatch, tmp_path):
    drawings = Drawings(monkeypatch)
    explorer = explore(ssim_target=TARGET)
    explorer.wait(60)
    assert "approximate" in drawings.of(explorer, tmp_path)[1]["title"]
    explorer.exact = True
    explorer.wait(60)
    assert drawings.of(explorer, tmp_path)[1]["title"].endswith("exact")
    part = explore(exact=True, region=(0, 0, 6, 6))
    part.wait(60)
    assert drawings.of(part, tmp_path)[1]["title"].endswith("exact in the region")


def test_an_exact_region_of_an_approximate_map_is_exact(explore, monkeypatch, tmp_path):
    """Where its one position is known, nothing is measured, and the rest of the map says nothing of it."""
    explorer = explore(ssim_target=0.5)
    explorer.wait(60)
    assert Page(explorer).frame["estimate"] is not None and explorer.heatmap.measured[0, 0]
    with explorer.hold_trait_notifications():
        explorer.region, explorer.exact = (0, 0, 1, 1), True
    explorer.wait(60)
    frame = Page(explorer).frame
    assert (frame["exact"], frame["done"], frame["total"], frame["estimate"]) == (True, 1, 1, None)
    assert Drawings(monkeypatch).of(explorer, tmp_path)[1]["title"].endswith("exact in the region")


def test_classes_of_one_name_are_told_apart(explore):
    explorer = explore(class_names=["crane", "cat", "crane", "dog", "owl"])
    assert Page(explorer).names == ["crane (0)", "cat", "crane (2)", "dog", "owl"]


def test_the_patch_may_be_as_large_as_the_image_that_is_shown(explore, photo):
    explorer = explore(image=[photo, np.tile(photo, (2, 2, 1))])
    explorer.image_index = 1
    explorer.wait(60)
    explorer.window = 2 * min(SIZE)
    explorer.wait(60)
    assert Page(explorer).frame["window"] == 2 * min(SIZE)


def test_a_control_that_is_refused_keeps_its_value(explore):
    """The page sets several at once, which traitlets rolls back for its own errors only."""
    explorer = explore()
    with pytest.raises(traitlets.TraitError, match="ssim_target is 1.4"), explorer.hold_trait_notifications():
        explorer.ssim_target = 1.4
    assert explorer.ssim_target == 0.95


def test_what_the_page_may_not_set_goes_back_and_is_told(explore, monkeypatch):
    explorer = explore()
    explorer.wait(60)
    sent = []
    monkeypatch.setattr(explorer, "send_state", lambda key=None: sent.append(key))
    explorer.set_state({"window": 35, "stride": 4})
    assert (explorer.window, explorer.stride) == (6, 2) and sent[-1] == ["stride", "window"]
    assert "window is 35; accepted: 1 to 20" in explorer.error
    explorer.set_state({"limit": 0.0})
    assert explorer.limit == 1 and sent[-1] == ["limit"] and "limit is 0.0" in explorer.error
    explorer.set_state({"window": 8})
    explorer.wait(60)
    assert Page(explorer).frame["window"] == 8 and not explorer.error


def test_a_refusal_does_not_undo_what_a_run_has_said(explore, cnn):
    """Traitlets set back all that changed while several controls were set, whoever changed it."""
    with begun(explore, cnn) as (explorer, go):

        class Late:
            """A number that takes its time: the run would end meanwhile."""

            def __index__(self):
                go.set()
                time.sleep(0.5)
                return 99

        explorer.set_state({"window": Late()})
    explorer.wait(60)
    assert explorer.window == 8 == Page(explorer).frame["window"] == explorer.heatmap.window.shape[1]
    assert not explorer.running and "window is 99" in explorer.error


# --- latest wins --------------------------------------------------------------------------------------


def test_many_moves_leave_one_worker_and_the_right_map(explore, cnn):
    explorer = explore()
    generator = np.random.default_rng(1)
    for _ in range(200):
        explorer.window = int(generator.integers(3, 12))
        explorer.stride = int(generator.integers(1, 12))
        explorer.exact = bool(generator.integers(2))
        time.sleep(float(generator.uniform(0, 0.005)))
    explorer.window, explorer.stride, explorer.exact = 7, 3, True
    explorer.wait(120)
    assert workers() == 1
    x = ModelInput(PHOTO, None).x
    expected = KryptonOcclusion(cnn).heatmap(
        x, (3, 7, 7), (3, 3, 3), ModelInput(PHOTO, None).patch("grey"), activation="softmax"
    )
    torch.testing.assert_close(explorer.heatmap.values, expected.values, rtol=0, atol=1e-5)
    assert Page(explorer).frame["window"] == 7 and Page(explorer).frame["finished"] and not explorer.running


@pytest.mark.slow
def test_many_moves_leave_no_memory_behind(explore):
    """Python's own, counted object by object; what a whole kernel holds, the browser test weighs."""
    explorer = explore()

    def bytes_after_moves():
        for i in range(100):
            explorer.window, explorer.stride = 3 + i % 9, 1 + i % 3
            if i % 10 == 0:
                explorer.wait(60)
        explorer.wait(60)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    bytes_after_moves()
    tracemalloc.start()
    try:
        first, *_, last = [bytes_after_moves() for _ in range(4)]
    finally:
        tracemalloc.stop()
    assert last - first < 200_000, "a kept heatmap alone has 100 kB for every move"


def test_an_older_run_stops_within_a_pass(explore, cnn):
    class Gate(nn.Module):
        """Stands still in the middle of a pass, once it is told to."""

        def __init__(self):
            super().__init__()
            self.cnn, self.begun, self.ended = cnn, 0, 0
            self.closed, self.inside, self.open = False, threading.Event(), threading.Event()

        def forward(self, x):
            self.begun += 1
            if self.closed:
                self.inside.set()
                assert self.open.wait(30)
            y = self.cnn(x)
            self.ended += 1
            return y

    gate = Gate().eval()
    explorer = explore(gate)
    explorer.wait(60)
    gate.closed = True
    explorer.window = 9
    assert gate.inside.wait(30)
    explorer.window = 5
    gate.closed = False
    gate.open.set()
    explorer.wait(60)
    assert gate.begun == gate.ended + 1, "the pass of the older run did not end"
    assert Page(explorer).frame["window"] == 5 and Page(explorer).frame["finished"] and not explorer.error
    assert explorer.heatmap.plan.incremental


def test_a_weight_replaced_between_two_runs(explore, cnn):
    """Captured anew inside a run that may be stopped."""
    model = copy.deepcopy(cnn)
    explorer = explore(model, exact=True)
    explorer.wait(60)
    layer = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    layer.weight = nn.Parameter(-layer.weight.detach())
    explorer.window = 7
    explorer.wait(60)
    x = ModelInput(PHOTO, None).x
    expected = KryptonOcclusion(model).heatmap(
        x,
        (3, 7, 7),
        (3, 2, 2),
        ModelInput(PHOTO, None).patch("grey"),
        explorer.heatmap.target,
        activation="softmax",
    )
    torch.testing.assert_close(explorer.heatmap.values, expected.values, rtol=0, atol=1e-5)
    assert explorer.heatmap.plan.incremental


def test_nothing_of_another_model_is_in_a_map(explore, cnn):
    """The same controls after the weights have changed: what was known is of another map."""
    model = copy.deepcopy(cnn)
    explorer = explore(model, exact=False, ssim_target=0.8)
    explorer.wait(60)
    with torch.no_grad():
        next(model.parameters()).mul_(-1)
    explorer.exact = True
    explorer.wait(60)
    assert not explorer.error
    found = explorer.heatmap
    window = found.window
    expected = KryptonOcclusion(model).heatmap(
        ModelInput(PHOTO, None).x,
        window.shape,
        window.strides,
        ModelInput(PHOTO, None).patch("grey"),
        found.target,
        activation="softmax",
    )
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=1e-5)


def test_cancelling_keeps_what_was_measured(explore, cnn):
    explorer = explore(Slow(cnn, 0.02), stride=1, exact=True, executor="reference")
    Page(explorer).until_drawn()
    explorer.cancel()
    explorer.wait(5)
    assert not explorer.running


def test_cancelling_what_has_not_begun(explore, cnn):
    explorer = explore(Slow(cnn, 0.05))
    explorer.window = 8
    explorer.window = 9
    explorer.cancel()
    explorer.wait(10)
    assert not explorer.running and not explorer.error


def test_timing_full_inference_gives_way_within_a_pass(cnn, photo):
    subject = Subject(cnn, [photo], None)
    passes, operators = [], []
    hook = cnn.register_forward_hook(lambda *_: passes.append(1))
    subject.time_full_inference(0, lambda: operators.append(1) or len(operators) > 2)
    hook.remove()
    assert not passes and subject.pass_seconds((3, *SIZE)) is None


def test_full_inference_is_timed_in_the_batches_that_the_model_takes(cnn, photo):
    def model(x):
        if len(x) > 1:
            raise RuntimeError("too many")
        return cnn(x)

    subject = Subject(model, [photo], None)
    subject.time_full_inference(0, lambda: False)
    assert 0 < subject.pass_seconds((3, *SIZE)) < 60


def test_a_model_that_takes_one_image_only_is_explained(explore, cnn):
    """Whatever it says to more of them, when full inference is timed too."""

    def model(x):
        if len(x) > 1:
            raise ValueError("one, please")
        return cnn(x)

    explorer = explore(model, exact=True)
    explorer.wait(60)
    assert Page(explorer).frame["exact"] and Page(explorer).frame["finished"] and not Page(explorer).failed
    assert 0 < Page(explorer).comparison["fullSeconds"] < 60 * 80


def test_a_page_is_saved_under_its_own_class_only(explore, cnn, tmp_path):
    with begun(explore, cnn) as (explorer, _):  # nothing on the page has changed yet
        with explorer.hold_trait_notifications():
            explorer.window, explorer.target = 6, (explorer.heatmap.target + 1) % 5
        with pytest.raises(InputError, match="nothing of the map asked for"):
            explorer.save(tmp_path / "map.html")
    explorer.wait(60)
    explorer.save(tmp_path / "map.html")


def test_wait_times_out_by_name(explore, cnn):
    model = Slow(cnn)
    explorer = explore(model)
    explorer.wait(60)
    with held(model) as (began, _):
        explorer.window = 8
        assert began.wait(60)
        with pytest.raises(TimeoutError, match=r"timeout=0\.05"):
            explorer.wait(0.05)


def test_closing_ends_the_worker(explore):
    explorer = explore()
    explorer.close()
    time.sleep(0.1)
    assert workers() == 0
    explorer.window = 8
    assert not explorer.running


# --- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "cat.png"}, "image is str"),
        ({"image": []}, "image is an empty list"),
        ({"image": np.zeros((24, 20, 5), dtype=np.uint8)}, r"the model raised .* \(1, 5, 24, 20\)"),
        ({"image": np.zeros((24, 20, 3), dtype=np.int64)}, "image"),
        ({"image": np.full((24, 20, 3), np.nan)}, "not finite"),
        ({"class_names": ["one", "two"]}, "class_names holds 2 names; accepted: 5"),
        ({"window": 21}, "window is 21; accepted: 1 to 20"),
        ({"stride": 0}, "stride is 0"),
        ({"ssim_target": 0.0}, r"ssim_target is 0\.0; accepted"),
        ({"ssim_target": 1.5}, r"ssim_target is 1\.5; accepted"),
        ({"tuning": "tuning.json"}, "tuning is str; accepted"),
        ({"target": 5}, "target is 5; accepted: classes 0 to 4"),
        ({"preprocess": 3}, "preprocess is int"),
        ({"preprocess": lambda image: 1 / 0}, "preprocess raised ZeroDivisionError"),
        ({"preprocess": lambda image: image}, "preprocess returns ndarray"),
        ({"model": 3}, "model is int"),
        ({"model": lambda x: 1 / 0}, "the model raised ZeroDivisionError"),
        ({"model": lambda x: x}, "model returns"),
        ({"colormap": "no such"}, "colormap is 'no such'"),
        ({"limit": -1.0}, "limit is -1.0"),
        ({"overlay": "lines"}, "overlay is 'lines'; accepted: 'cells', 'smooth', 'contours'"),
        ({"threshold": 1.5}, "threshold is 1.5; accepted: numbers from 0 to 1"),
        ({"dots": "none"}, "dots is 'none'"),
        ({"region": (0, 0, 99, 99)}, "region"),
        ({"region": np.ones((3, 3), dtype=bool)}, "region is a mask"),
        ({"region": 5}, "region is 5; accepted"),
        ({"region": (1, 2)}, r"region is \(1, 2\); accepted"),
        ({"executor": "gpu"}, "executor is 'gpu'"),
    ],
)
def test_bad_input_is_named(explore, options, message):
    with pytest.raises(InputError, match=message):
        explore(**options)


def troubled(explore, cnn, trouble):
    """A model that raises from its second map on, and its explorer, which asks for that map."""
    model = Slow(cnn)
    explorer = explore(model)
    explorer.wait(60)
    model.trouble = trouble
    explorer.window = 8
    return model, explorer


def test_a_model_that_raises_is_told_in_words_and_survived(explore, cnn):
    model, explorer = troubled(explore, cnn, RuntimeError("no luck today"))
    with pytest.raises(Exception, match="no luck today"):
        explorer.wait(60)
    assert "no luck today" in explorer.error and not explorer.running
    model.trouble = None
    explorer.window = 7
    explorer.wait(60)
    assert explorer.error == "" and Page(explorer).frame["window"] == 7


def test_out_of_memory_is_told_in_words(explore, cnn):
    _, explorer = troubled(explore, cnn, MemoryError("no room"))
    with pytest.raises(MemoryError):
        explorer.wait(60)
    assert explorer.error.startswith("Out of memory.")


@pytest.mark.parametrize(
    ("second", "message", "remedy"),
    [
        (lambda photo: "cat.png", r"image\[1\] is str", ("image_index", 0)),
        (lambda photo: photo[:8, :9], r"window is 10, larger than this image .* 8 x 9", ("window", 5)),
    ],
    ids=["no picture", "smaller than the patch"],
)
def test_a_bad_image_in_the_list_is_told_when_it_is_picked(explore, photo, second, message, remedy):
    explorer = explore(image=[photo, second(photo)], window=10)
    explorer.image_index = 1
    with pytest.raises(InputError, match=message):
        explorer.wait(60)
    assert re.search(message, explorer.error)
    setattr(explorer, *remedy)
    explorer.wait(60)
    assert not explorer.error and Page(explorer).frame["window"] == explorer.window


# --- files --------------------------------------------------------------------------------------------


def test_saved_files(explore, tmp_path):
    explorer = explore()
    explorer.wait(60)
    for suffix in ("png", "npz", "html"):
        explorer.save(tmp_path / f"map.{suffix}")
        assert (tmp_path / f"map.{suffix}").stat().st_size > 1000
    page = (tmp_path / "map.html").read_text()
    assert "http://" not in page and "https://" not in page
    with pytest.raises(InputError, match=r"accepted: names that end in \.png"):
        explorer.save(tmp_path / "map.gif")
    with pytest.raises(InputError, match="does not exist"):
        explorer.save(tmp_path / "no" / "map.png")


@pytest.mark.parametrize("name", ["widget.js", "widget.css"])
def test_the_page_comes_with_the_package(name):
    assert files("krypton_widget").joinpath("static", name).stat().st_size > 1000


def test_it_is_an_ordinary_widget(explore):
    from ipywidgets import DOMWidget, IntSlider, VBox, link

    explorer = explore()
    slider = IntSlider(min=1, max=20)
    link((explorer, "window"), (slider, "value"))
    seen = []
    explorer.observe(lambda change: seen.append(change["new"]), "window")
    slider.value = 9
    assert explorer.window == 9 and seen == [9]
    assert isinstance(explorer, DOMWidget) and VBox([explorer, slider]).children[0] is explorer
