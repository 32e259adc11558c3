"""What is handed to people: maps, plans, tunings, their files and their pictures."""

from __future__ import annotations

import copy
import errno
import gc
import io
import json
import math
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import warnings
import weakref
import zipfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from krypton_engine import (
    FallbackWarning,
    Heatmap,
    InputError,
    KryptonOcclusion,
    OcclusionCancelled,
    Plan,
    Tuning,
)
from krypton_engine.approximation.ssim import SsimEstimate
from krypton_engine.common.figures import figure, figures, together
from krypton_engine.heatmap.status import Status
from krypton_engine.heatmap.verification import Sample
from krypton_engine.perturbation.windows import SlidingWindow, occlude
from krypton_engine.tuning.curves import Curve
from krypton_engine.tuning.fingerprint import Fingerprint


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


@pytest.mark.parametrize("way", [lambda x: x.topk(4, dim=3)[0], lambda x: x.sort(2)[0]], ids=["topk", "sort"])
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
    gc.collect()  # the graph and its programs, which went with the model, hold each other
    assert kept[0]() is None and kept[1]() is None
    assert str(found) == text


# --- values -------------------------------------------------------------------------------------------

WINDOW, STRIDES = (3, 6, 6), (3, 3, 3)


class Classifier(nn.Module):
    """A convolution and a linear layer: ``(n, 3, 24, 24) -> (n, 4)``."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(x).relu().amax((2, 3)))


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def occlusion():
    return KryptonOcclusion(Classifier().eval())


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


def through_torch(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, through_pickle, through_torch])
def test_a_map_is_a_value(occlusion, image, copied):
    found = occlusion.heatmap(image, WINDOW, STRIDES, target=1, classes="all", ssim_target=0.8)
    again = copied(found)
    assert again == found and hash(again) == hash(found) and again.plan == found.plan
    for name in ("values", "outputs", "image", "base"):
        torch.testing.assert_close(getattr(again, name), getattr(found, name), rtol=0, atol=0, equal_nan=True)
    values = found.values.clone()
    values[2, 3] += 1
    assert replace(found, values=values) != found
    values[2, 3] = math.nan
    assert replace(found, values=values) == replace(found, values=values.clone()) != found
    assert replace(found, target=2) != found and replace(found, outputs=None) != found and found != "a map"


def test_a_map_goes_to_another_process_and_back(occlusion, image):
    found = occlusion.heatmap(image, WINDOW, STRIDES, target=1, classes="all", ssim_target=0.8)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        attribution = pool.submit(Heatmap.attribution, found)
        back = pool.submit(copy.copy, found).result()
        torch.testing.assert_close(attribution.result(), found.attribution(), rtol=0, atol=0)
    assert back == found and back.plan == found.plan and str(back.plan) == str(found.plan)
    assert bool(back.verify(occlusion, 1.0).measured.all())


def test_parts_comparisons_and_tunings_are_values(occlusion, image):
    with pytest.raises(OcclusionCancelled) as cancelled:
        occlusion.heatmap(image, WINDOW, STRIDES, target=1, on_progress=lambda *_: False)
    again = through_pickle(cancelled.value)
    assert str(again) == str(cancelled.value) and again.partial == cancelled.value.partial
    exact = occlusion.heatmap(image, WINDOW, STRIDES, target=1)
    compared = occlusion.heatmap(image, WINDOW, STRIDES, target=1, ssim_target=0.8).compare(exact)
    assert through_pickle(compared) == compared != replace(compared, difference=compared.difference + 1)
    tuning = occlusion.tune(image, WINDOW, STRIDES, target=1)
    for copied in (copy.deepcopy, through_pickle, through_torch):
        assert copied(tuning) == tuning and hash(copied(tuning)) == hash(tuning)
    assert replace(tuning, confidence=0.8) != tuning


def scaled(model, x, gain):
    return model(x) * gain


def shifted(model, outputs):
    return outputs + model.head.bias


@pytest.mark.parametrize("executor", ["auto", "reference"])
def test_a_map_keeps_no_model(image, executor):
    model = Classifier().eval()
    occlusion = KryptonOcclusion(partial(scaled, model), executor=executor)
    found = occlusion.heatmap(
        image, WINDOW, STRIDES, target=1, additional_forward_args=torch.ones(1, 1), ssim_target=0.8,
        activation=partial(shifted, model),
    )  # fmt: skip
    kept = weakref.ref(model), weakref.ref(model.body.weight), weakref.ref(occlusion)
    del model, occlusion
    gc.collect()
    gc.collect()  # the graph and its programs, which went with the model, hold each other
    assert [each() for each in kept] == [None] * 3
    assert found.attribution().isfinite().all() and "Heatmap(" in repr(found)
    with pytest.raises(InputError, match="occlusion is Heatmap"):
        found.verify(found)


def test_a_map_is_verified_by_what_made_it_or_by_another_of_its_model(image):
    model = Classifier().eval().requires_grad_(False)
    occlusion, blur = KryptonOcclusion(model), image.flip(2) / 2
    call = dict(baselines=blur, target=1, activation="softmax")
    found = occlusion.heatmap(image, WINDOW, STRIDES, **call, ssim_target=0.8)
    truth = [
        float(model(occlude(image, blur, box[None])).softmax(1)[0, 1])
        for box in found.window.boxes(np.arange(len(found.window)))
    ]
    mine = copy.deepcopy(found).verify(occlusion, 1.0)
    other = KryptonOcclusion(model).verify(through_pickle(found), 1.0, baselines=blur, activation="softmax")
    for verified in (mine, other):
        assert bool((verified.status == Status.EXACT).all())
        np.testing.assert_allclose(verified.values.flatten(), truth, atol=1e-6)
    with pytest.raises(InputError, match="another baseline"):
        KryptonOcclusion(model).verify(through_pickle(found), activation="softmax")
    with pytest.raises(InputError, match="heatmap is .* activation="):
        KryptonOcclusion(model).verify(through_pickle(found), baselines=blur)
    even = through_pickle(occlusion.heatmap(image, WINDOW, STRIDES, 0.5, target=1, ssim_target=0.8))
    assert bool(KryptonOcclusion(model).verify(even, 1.0).measured.all())  # a number is in the map
    for copied in (copy.deepcopy, through_pickle):
        again = copied(occlusion)
        assert again.heatmap(image, WINDOW, STRIDES, target=1).verify(again) is not None


def test_verify_meets_a_number_that_is_not_finite(tmp_path):
    """A map that was finite wherever it had been measured: what is left of it nobody can foresee."""
    window = SlidingWindow((1, 40, 40), (1, 4, 4), (1, 1, 1))
    truth = torch.rand(window.grid_shape, generator=torch.Generator().manual_seed(0))
    measured = torch.zeros(truth.shape, dtype=torch.bool)
    measured[::4, ::4] = True
    given = Heatmap(truth, torch.tensor(0.0), measured, window, image=torch.rand(window.input_shape)).filled()
    sample = Sample(given, 0.5, seed=0)
    values, known = given.values.flatten().clone(), measured.flatten().clone()
    values[torch.from_numpy(sample.positions)] = truth.flatten()[torch.from_numpy(sample.positions)]
    known[torch.from_numpy(sample.positions)] = True
    values[int(sample.positions[0])] = math.nan
    verified = sample.judged(
        replace(given, values=values.reshape(truth.shape), measured=known.reshape(truth.shape))
    )
    assert verified.ssim_estimate is None and "1 position is not finite" in repr(verified)
    verified.save(tmp_path / "map.npz")
    assert Heatmap.load(tmp_path / "map.npz") == verified


def test_what_is_not_finite_is_of_no_class(tmp_path):
    """Of a model that gives NaN, or one infinite number, where it sees a corner black."""

    def model(x):
        scores = torch.stack([x[:, 0, 0, 0], x[:, 0, 3, 3] * 0.5], 1)
        scores[x[:, 0, 0, 3] == 0] = math.nan
        scores[x[:, 0, 3, 0] == 0, 1] = math.inf
        return scores

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        heatmap = KryptonOcclusion(model).heatmap(torch.ones(1, 1, 4, 4), (1, 2, 2), (1, 2, 2), target=0)
    assert heatmap.classes.tolist() == [[1, -1], [-1, 0]]
    heatmap.save(tmp_path / "map.npz")
    entries = entries_of(tmp_path / "map.npz")
    entries["classes.npy"] = array(np.array([[1, 0], [1, 0]]))  # as it was once
    write_entries(tmp_path / "map.npz", entries)
    assert Heatmap.load(tmp_path / "map.npz").classes.tolist() == [[1, -1], [-1, 0]]


def test_a_map_is_not_changed_by_a_model_that_uses_its_output_again(image):
    model, answer = Classifier().eval(), torch.zeros(1, 4)
    again = KryptonOcclusion(lambda x: answer.copy_(model(x)) if len(x) == 1 else model(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        found = again.heatmap(image, WINDOW, STRIDES, target=1)
    truth = model(image)[0].detach()
    answer.fill_(7.0)
    torch.testing.assert_close(found.base, truth[1])
    torch.testing.assert_close(found.base_outputs, truth)


# --- files --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved():
    """A map with everything that a map can have."""
    window = SlidingWindow((3, 24, 24), WINDOW, STRIDES)
    torch.manual_seed(0)
    outputs = torch.randn(*window.grid_shape, 4)
    measured = torch.rand(window.grid_shape) < 0.8
    return Heatmap(
        values=outputs[..., 1], base=torch.tensor(0.25), measured=measured, window=window, target=1,
        classes=outputs.argmax(-1), class_values=outputs.amax(-1), outputs=outputs,
        base_outputs=torch.tensor([0.0, 0.25, 0.1, 0.2]), image=torch.rand(3, 24, 24), seconds=1.5,
        trimmed=measured & (torch.rand(measured.shape) < 0.5),
        ssim_estimate=SsimEstimate(0.9, 0.8, 0.95, "online"), baseline=(0.0, 0.5, 1.0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def tuned():
    curves = tuple(
        Curve(str(i), 0.0, 60, (10, 20, 40), (0.5, 0.8, 0.97), (0.4, 0.85, 0.98), 2.0, 0.01, 0.0, 2.0)
        for i in range(12)
    )
    found = Fingerprint((3, 24, 24), WINDOW, STRIDES, (0.0,) * 3, None, (0.1, 0.2))
    return Tuning(found, curves, 0.9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_all_of_a_map_comes_back(tmp_path, saved, dtype):
    narrow = {torch.float16: torch.float8_e4m3fn, torch.float64: torch.float8_e5m2}.get(dtype, dtype)
    image = None if saved.image is None else saved.image.to(narrow)
    given = replace(saved, values=saved.values.to(dtype), base=saved.base.to(dtype), image=image)
    assert given.overlay().size == (24, 24)
    given.save(tmp_path / "map.npz")
    assert Heatmap.load(tmp_path / "map.npz") == given
    numbers = np.array([0.0, 1.0])
    plain = replace(given, target=numbers.astype(np.int64).argmax(), outputs=None, baseline="image 12")
    plain.save(tmp_path / "map.npz")
    loaded = Heatmap.load(tmp_path / "map.npz")
    assert loaded.target == 1 and loaded.baseline == "image 12" and loaded.outputs is None


def entries_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_entries(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def array(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def meta_of(entries):
    return json.loads(str(np.load(io.BytesIO(entries["meta.npy"]))))


def test_maps_of_the_first_format_are_read(tmp_path, saved):
    saved.save(tmp_path / "map.npz")
    entries = entries_of(tmp_path / "map.npz")
    meta = meta_of(entries)
    meta["format"] = 1
    del meta["tensors"]
    entries["meta.npy"] = array(np.array(json.dumps(meta)))
    write_entries(tmp_path / "old.npz", entries)
    assert Heatmap.load(tmp_path / "old.npz") == saved
    del entries["image.npy"]
    write_entries(tmp_path / "old.npz", entries)
    with pytest.raises(InputError, match=r"path is .*old\.npz"):
        Heatmap.load(tmp_path / "old.npz")


@pytest.mark.parametrize("name", ["values", "base", "measured", "classes", "outputs", "image", "trimmed"])
def test_a_map_with_a_part_missing_is_refused(tmp_path, saved, name):
    saved.save(tmp_path / "map.npz")
    entries = entries_of(tmp_path / "map.npz")
    del entries[f"{name}.npy"]
    write_entries(tmp_path / "map.npz", entries)
    with pytest.raises(InputError, match=r"path is .*map\.npz"):
        Heatmap.load(tmp_path / "map.npz")


GRID = (7, 7)

ARRAYS = [
    ("values", np.zeros((7, 6), np.float32)),
    ("values", np.zeros((7, 7, 2), np.float32)),
    ("values", np.zeros(GRID, np.int64)),
    ("values", np.zeros(GRID, np.complex64)),
    ("values", np.zeros(GRID, ">f4")),
    ("values", np.array([["a"] * 7] * 7)),
    ("values", np.array([[None] * 7] * 7)),
    ("base", np.zeros((3,), np.float32)),
    ("measured", np.ones(GRID, np.uint8)),
    ("measured", np.ones((49,), bool)),
    ("trimmed", np.ones(GRID, bool)),
    ("classes", np.full(GRID, 4)),
    ("classes", np.full(GRID, -2)),
    ("classes", np.zeros(GRID, np.float32)),
    ("class_values", np.zeros((1, 7, 7), np.float32)),
    ("outputs", np.zeros((7, 7, 5), np.float32)),
    ("base_outputs", np.zeros((5,), np.float32)),
    ("base_outputs", np.zeros((2, 2), np.float32)),
    ("image", np.zeros((24, 24, 3), np.float32)),
    ("more", np.zeros(3)),
]

METAS = [
    {"format": 3}, {"format": "1"}, {"format": None},
    {"input_shape": [3, 24]}, {"input_shape": [3, 24, -24]}, {"input_shape": [3, 10**9, 10**9]},
    {"input_shape": [3, 24.0, 24]}, {"input_shape": "abc"}, {"input_shape": None},
    {"shape": [3, 0, 6]}, {"shape": [3, 6]}, {"shape": [3, -6, 6]}, {"shape": [3, 10**30, 6]},
    {"strides": [3, 1, 3]}, {"strides": [3, -3, 3]}, {"strides": [3, 10**12, 3]}, {"strides": [3, True, 3]},
    {"target": 4}, {"target": -5}, {"target": 1.5}, {"target": "1"}, {"target": {"a": 1}}, {"target": [1.5]},
    {"seconds": -1.0}, {"seconds": math.nan}, {"seconds": "1"}, {"seconds": None},
    {"ssim_estimate": {"value": math.nan, "low": 0.0, "high": 1.0, "basis": "online"}},
    {"ssim_estimate": {"value": 1.5, "low": 0.0, "high": 1.0, "basis": "online"}},
    {"ssim_estimate": {"value": 0.5, "low": 0.0, "basis": "online"}}, {"ssim_estimate": 3},
    {"baseline": 3}, {"baseline": [None]}, {"baseline": {"a": 1}}, {"tensors": {}}, {"tensors": ["values"]},
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(ARRAYS) + len(METAS)))
def test_maps_that_cannot_be_are_refused(tmp_path, saved, case):
    saved.save(tmp_path / "map.npz")
    entries = entries_of(tmp_path / "map.npz")
    if case < len(ARRAYS):
        name, values = ARRAYS[case]
        entries[f"{name}.npy"] = array(values)
    else:
        entries["meta.npy"] = array(np.array(json.dumps(meta_of(entries) | METAS[case - len(ARRAYS)])))
    write_entries(tmp_path / "map.npz", entries)
    with pytest.raises(InputError, match=r"path is .*map\.npz.*, which is no saved heatmap: \S"):
        Heatmap.load(tmp_path / "map.npz")


@pytest.mark.parametrize(
    "field", ["format", "input_shape", "shape", "strides", "target", "seconds", "tensors"]
)
def test_maps_that_leave_something_out_are_refused(tmp_path, saved, field):
    saved.save(tmp_path / "map.npz")
    entries = entries_of(tmp_path / "map.npz")
    meta = meta_of(entries)
    del meta[field]
    entries["meta.npy"] = array(np.array(json.dumps(meta)))
    write_entries(tmp_path / "map.npz", entries)
    with pytest.raises(InputError, match=r"path is .*map\.npz"):
        Heatmap.load(tmp_path / "map.npz")


READ_ALL = """
import resource, sys
from krypton_engine import Heatmap, InputError
for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        Heatmap.load(path)
    except InputError:
        print(path, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_what_expands_beyond_the_window_is_not_expanded(tmp_path, saved):
    """128 MiB of zeros, told by the array's header or not; the system says how much was held at most."""
    saved.save(tmp_path / "map.npz")
    entries, zeros = entries_of(tmp_path / "map.npz"), bytes(2**27)
    long = array(np.zeros((0,), np.float32)).replace(b"(0,), }" + b" " * 7, b"(33554432,), }")
    assert np.load(io.BytesIO(long[:128] + zeros)).shape == (2**25,)
    paths = []
    for name in ("values", "image", "base", "meta"):
        for begin in (long[:128], entries[f"{name}.npy"]):
            paths.append(str(tmp_path / f"{name}{len(paths)}.npz"))
            write_entries(paths[-1], entries | {f"{name}.npy": begin + zeros})
    told = subprocess.run(
        [sys.executable, "-c", READ_ALL, *paths], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [line.split()[0] for line in told] == paths
    assert all(int(line.split()[1]) < 2**15 for line in told), told  # KiB


TUNINGS = [
    {"format": 1}, {"format": "2"}, {"confidence": math.nan}, {"confidence": 0.0}, {"confidence": 1},
    {"confidence": -0.5}, {"confidence": 2.0}, {"confidence": "0.9"}, {"confidence": None}, {"curves": 3},
    {"curves": [3]}, {"curves": [{}]}, {"fingerprint": {}}, {"fingerprint": None},
]  # fmt: skip

FINGERPRINTS = [
    {"input_shape": [3, 24]}, {"input_shape": [3, -24, 24]}, {"window": [3, 60, 6]}, {"window": "abc"},
    {"strides": [0, 3, 3]}, {"strides": [3.5, 3, 3]}, {"baseline": 3}, {"target": "cat"}, {"target": 1.5},
    {"answer": ["a"]}, {"answer": 1.0}, {"more": 1},
]  # fmt: skip

CURVES = [
    {"image": 3}, {"image": "1"}, {"epsilon": math.nan}, {"epsilon": -0.1}, {"epsilon": 0.3},
    {"positions": -1}, {"positions": 30}, {"positions": 1.5}, {"computed": [10, 20]},
    {"computed": [20, 10, 40]}, {"computed": [-1, 10, 40]}, {"computed": [1.5, 10, 40]}, {"computed": 3},
    {"expected": [0.5, math.nan, 0.9]}, {"expected": [0.5, 0.8, 1.5]}, {"expected": ["0.5", 0.8, 0.9]},
    {"ssim": [0.5, 0.8, math.inf]},
    {"ssim": [0.5, 0.8, 1.1]}, {"seconds": -1.0}, {"seconds": math.inf}, {"look_seconds": "1"},
    {"open_seconds": None}, {"exact_seconds": math.nan}, {"at_once": 0}, {"at_once": 1.5}, {"more": 1},
]  # fmt: skip


@pytest.mark.parametrize(
    ("part", "change"),
    [("", c) for c in TUNINGS] + [("fingerprint", c) for c in FINGERPRINTS] + [("curves", c) for c in CURVES],
    ids=str,
)
def test_tunings_that_cannot_be_are_refused(tmp_path, tuned, part, change):
    path = tmp_path / "tuning.json"
    tuned.save(path)
    assert Tuning.load(path) == tuned
    read = json.loads(path.read_text())
    changed = {"": read, "fingerprint": read["fingerprint"], "curves": read["curves"][0]}[part]
    changed |= change
    path.write_text(json.dumps(read))
    with pytest.raises(InputError, match=r"path is .*tuning\.json.*, which is no saved tuning: \S"):
        Tuning.load(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"[]", b"3", b"null", b"{}"])
def test_files_that_hold_no_tuning(tmp_path, content):
    (tmp_path / "tuning.json").write_bytes(content)
    with pytest.raises(InputError, match=r"path is .*tuning\.json"):
        Tuning.load(tmp_path / "tuning.json")


FULL = """
import resource, signal, sys
from krypton_engine import Heatmap, Tuning
folder = sys.argv[1]
values = {"map": Heatmap.load(folder + "/map.npz"), "tuning": Tuning.load(folder + "/tuning.json")}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for name in sys.argv[2:]:
    path = folder + "/out/" + name
    values[name.split(".")[0]].save(path)  # imports what drawing takes, too
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    try:
        values[name.split(".")[0]].save(path)
    except OSError as error:
        print(error.errno, error.filename == path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_a_full_disk_leaves_what_was_there(tmp_path, saved, tuned):
    names = ["map.npz", "map.png", "tuning.json", "tuning.png"]
    saved.save(tmp_path / "map.npz")
    tuned.save(tmp_path / "tuning.json")
    (tmp_path / "out").mkdir()
    told = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), *names], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [str(errno.EFBIG), "True"] * 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert Heatmap.load(tmp_path / "out" / "map.npz") == saved
    assert Tuning.load(tmp_path / "out" / "tuning.json") == tuned
    for name in ("map.png", "tuning.png"):
        Image.open(tmp_path / "out" / name).load()


@pytest.mark.parametrize("ending", ["map.npz", "map.png", "tuning.json", "tuning.png"])
def test_links_and_permissions_stay(tmp_path, saved, tuned, ending):
    value, path = saved if ending.startswith("map") else tuned, tmp_path / ending
    value.save(path)
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    link = tmp_path / f"link.{ending}"
    link.symlink_to(path)
    path.write_bytes(b"")
    value.save(link)
    assert link.is_symlink() and path.stat().st_size > 500 and path.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([ending, "plain", link.name])


def test_what_is_no_file_is_written_to(tmp_path, tuned):
    """A link to a pipe: what a shell makes of ``>(...)``, and what ``/dev/stdout`` often is."""
    reader, writer = os.pipe()
    (tmp_path / "tuning.json").symlink_to(f"/dev/fd/{writer}")
    tuned.save(tmp_path / "tuning.json")
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert json.load(pipe)["confidence"] == 0.9
    assert (tmp_path / "tuning.json").is_symlink() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("title", ["$5 for $x^2", r"\frac{a", "caf\udce9 \ud800.png", "a\nb", "$", "100 %"])
def test_a_title_is_words(tmp_path, saved, title):
    saved.save(tmp_path / "map.png", title=title)
    Image.open(tmp_path / "map.png").load()


# --- pictures -----------------------------------------------------------------------------------------


def drawn(window, drop, **rest):
    """A map of these drops, over a flat grey image."""
    return Heatmap(
        values=1.0 - drop, base=torch.tensor(1.0), measured=torch.ones(drop.shape, dtype=torch.bool),
        window=window, image=torch.full(window.input_shape, 0.5), **rest,
    )  # fmt: skip


def rgb(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("window", "axes"),
    [
        (SlidingWindow((3, 29, 23), (3, 7, 6), (3, 5, 4)), (1, 2)),
        (SlidingWindow((29, 23, 3), (7, 6, 3), (5, 4, 3)), (0, 1)),
        (SlidingWindow((29, 23), (7, 6), (5, 4)), (0, 1)),
        (SlidingWindow((3, 29, 23), (3, 29, 6), (3, 29, 4)), (1, 2)),
        (SlidingWindow((29, 23, 4), (29, 6, 4), (29, 4, 4)), (0, 1)),
    ],
    ids=["channels first", "channels last", "no channels", "strips", "strips, channels last"],
)
def test_every_pixel_has_the_drop_of_the_window_centred_nearest(window, axes):
    """By distances, one pixel at a time."""
    torch.manual_seed(0)
    drop = torch.rand(window.grid_shape) * 2 - 1
    heatmap = drawn(window, drop)
    picture = rgb(heatmap.overlay(opacity=1))
    assert picture.shape == (29, 23, 3)
    low, high = heatmap.limits()
    assert (low, high) == (-float(drop.abs().max()), float(drop.abs().max()))
    flat = drop.reshape([window.counts[axis] for axis in axes])
    nearest = []
    for axis in axes:
        centres = torch.arange(window.counts[axis]) * window.strides[axis] + window.shape[axis] / 2
        away = (torch.arange(window.input_shape[axis])[:, None] + 0.5 - centres).abs()
        nearest.append(len(centres) - 1 - away.flip(1).argmin(1))  # of two as near the later
    shown = flat[nearest[0]][:, nearest[1]].double().numpy()
    weight = (np.abs(shown) / high) ** 0.75
    colours = colormaps["RdBu_r"]((shown / high + 1) / 2)[..., :3] * 255
    grey = rgb(heatmap.overlay(opacity=0))[0, 0, 0]
    expected = grey * (1 - weight[..., None]) + colours * weight[..., None]
    np.testing.assert_allclose(picture, expected, atol=1.5)


def test_a_picture_for_single_channels_has_their_mean():
    window = SlidingWindow((3, 12, 12), (1, 4, 4), (1, 4, 4))
    drop = torch.rand(window.grid_shape)
    one = drawn(SlidingWindow((3, 12, 12), (3, 4, 4), (3, 4, 4)), drop.mean(0))
    np.testing.assert_allclose(rgb(drawn(window, drop).overlay()), rgb(one.overlay()), atol=1)


def test_the_photograph_lends_no_colour(saved):
    red = Image.new("RGB", (24, 24), (200, 10, 10))
    bare = rgb(replace(saved, values=saved.base.expand(GRID)).overlay(red))
    assert (bare == bare[..., :1]).all() and len(np.unique(bare)) == 1


def texts_of(heatmap, monkeypatch, **arguments):
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    found = []

    def note(figure, *_, **__):
        figure.canvas.draw()
        found.extend(text.get_text() for text in figure.findobj(Text))

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", note)
        heatmap.content(".png", **arguments)
    return [text for text in found if text]


def test_numbers_that_are_not_finite_are_hatched_and_told(monkeypatch):
    window = SlidingWindow((1, 32, 32), (1, 8, 8), (1, 8, 8))
    drop = torch.linspace(-0.001, 0.002, 16).reshape(4, 4)
    whole = drawn(window, drop)
    odd = drop.clone()
    odd[0, 0], odd[1, 1], odd[3, 3] = math.nan, math.inf, -math.inf
    heatmap = drawn(window, odd)
    assert heatmap.limits() == pytest.approx((-float(drop[3, 2]), float(drop[3, 2])))
    picture = rgb(heatmap.overlay())
    for row, column in ((0, 0), (8, 8), (24, 24)):
        cells = picture[row : row + 8, column : column + 8]
        assert (cells == cells[..., :1]).all() and len(np.unique(cells)) == 2, "two greys"
    assert (picture[16:24, :24] == rgb(whole.overlay(scale=heatmap.limits()))[16:24, :24]).all()
    for text in (repr(heatmap), *texts_of(heatmap, monkeypatch)):
        assert "nan" not in text and "inf" not in text.replace("not finite", "")
    assert "3 positions are not finite" in repr(heatmap)
    assert any("3 positions are not finite" in text for text in texts_of(heatmap, monkeypatch))
    assert "1 position is not finite" in repr(drawn(window, torch.where(odd.isnan(), math.nan, drop)))
    part = replace(heatmap, measured=heatmap.measured & ~odd.isnan())
    assert any("bare: 1 position is unknown" in text for text in texts_of(part, monkeypatch))
    nothing = drawn(window, torch.full((4, 4), math.nan))
    assert "16 positions are not finite" in repr(nothing) and nothing.overlay().size == (32, 32)


@pytest.mark.parametrize("size", [64, 224, 1200, pytest.param(4000, marks=pytest.mark.slow)])
def test_stripes_are_wide_enough_for_the_picture(size):
    """Shown 400 pixels wide, as in a notebook, they are told apart."""
    window = SlidingWindow((1, size, size), (1, size // 4, size // 4), (1, size // 4, size // 4))
    nothing = drawn(window, torch.full((4, 4), math.nan)).overlay()
    shown = np.asarray(nothing.convert("L").resize((400, 400), Image.Resampling.BOX)).astype(float)
    assert shown.max() - shown.min() > 48, "of 64"


@pytest.mark.parametrize("largest", [0.000372, 0.00074, 3.7e-6, 0.0751, 12.5, 41_000.0])
def test_legends_have_three_digits_and_one_notation(monkeypatch, largest):
    window = SlidingWindow((1, 16, 16), (1, 4, 4), (1, 4, 4))
    heatmap = drawn(window, torch.linspace(-largest, largest, 16).reshape(4, 4))
    texts = texts_of(heatmap, monkeypatch, title="dog")
    # Every tick has a label on both sides, of which one is shown.
    ticks = list(dict.fromkeys(text for text in texts if re.fullmatch(r"-?[\d.]+(e[-+]\d+)?", text)))
    numbers = [float(text) for text in ticks]
    assert len(ticks) > 3 and max(numbers) >= 0.5 * largest
    assert len({"e" in text for text, number in zip(ticks, numbers, strict=True) if number}) == 1
    steps = np.diff(numbers)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-2)
    assert "drop when occluded" in texts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00074, "0.00074"), (0.000372, "0.000372"), (1.23e-7, "1.23e-07"), (0.8371, "0.837"),
        (-5.1e-5, "-5.1e-05"),
        (0.9996, "1"), (1238.6, "1240"), (1e6, "1e+06"), (0.0, "0"), (-0.0, "0"), (12, "12"),
    ],
)  # fmt: skip
def test_three_digits(value, text):
    assert figure(value) == text


def test_one_notation_a_legend():
    assert figures([4.6e-6, 3.7e-4, 1e-3]) == ["4.6e-06", "3.7e-04", "1e-03"]
    assert figures([0.0, 0.25, 0.5]) == ["0", "0.25", "0.5"]
    assert together([1.05e-4], [1.05e-4, 6.8e-5]) == [["1.05e-04"], ["1.05e-04", "6.8e-05"]]
    spread = drawn(
        SlidingWindow((1, 4, 4), (1, 2, 2), (1, 2, 2)), torch.tensor([[0.7671, 0.7673], [0.7672] * 2])
    )
    assert "values=0.2327..0.2329" in repr(spread)


@pytest.mark.parametrize("value", [0.2331, 1.05e-4, -41_000.0, 3.7e-6, 0.99999])
@pytest.mark.parametrize("apart", [0.3, 1e-3, 1e-5, 1e-9])
def test_numbers_that_are_close_are_told_apart(value, apart):
    """By what is read back: the difference to a tenth, and no digit that is not needed for it."""
    other = value * (1 - apart)
    texts = figures([value, other])
    read = [float(text) for text in texts]
    assert abs((read[0] - read[1]) / (value - other) - 1) < 0.11
    digits = [len(text.partition("e")[0].replace(".", "").strip("-0")) for text in texts]
    assert max(digits) <= max(3, math.ceil(-math.log10(apart)) + 3)


def test_what_is_no_picture_is_told_what_pictures_are_of():
    window = SlidingWindow((1, 2, 8, 8, 8), (1, 2, 4, 4, 4), (1, 2, 4, 4, 4))
    with pytest.raises(InputError, match="no signal, image or volume.*drop, the numbers"):
        drawn(window, torch.rand(window.grid_shape)).overlay()


def test_channels_last_is_the_same_picture():
    """Of the same model and image, once with the channels first and once with them last."""
    torch.manual_seed(0)
    model, x = Classifier().eval(), torch.rand(1, 3, 24, 18)
    first = KryptonOcclusion(model).heatmap(x, (3, 6, 6), (3, 3, 3), target=1)
    last = KryptonOcclusion(lambda a: model(a.permute(0, 3, 1, 2))).heatmap(
        x.permute(0, 2, 3, 1).contiguous(), (6, 6, 3), (3, 3, 3), target=1
    )
    assert first.overlay().size == last.overlay().size == (18, 24)
    np.testing.assert_allclose(rgb(last.overlay()), rgb(first.overlay()), atol=1)


@pytest.mark.parametrize("window", [(8, 8, 1), (8, 8, 3), (32, 8, 1)])
def test_channels_last_are_told_by_the_shape(window):
    """Whatever the window takes of them."""
    sliding = SlidingWindow((32, 24, 3), window, window)
    assert drawn(sliding, torch.rand(sliding.grid_shape)).overlay().size == (24, 32)
    ambiguous = SlidingWindow((3, 24, 4), (3, 8, 4), (3, 8, 4))
    assert drawn(ambiguous, torch.rand(ambiguous.grid_shape)).overlay().size == (4, 24)


def test_an_image_with_one_nan_is_itself():
    """Its map is resumed by a part of its own, compared with itself, and no other image's."""

    def model(x):
        return x.nan_to_num(0.5).mean((2, 3)) * torch.tensor([1.0, 2.0, 3.0])

    x = torch.rand(1, 3, 12, 12)
    x[0, 0, 0, 0] = math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        occlusion, question = KryptonOcclusion(model), ((3, 4, 4), (3, 4, 4))
        part = occlusion.heatmap(x, *question, target=-1, region=(0, 0, 4, 12))
        whole = occlusion.heatmap(x, *question, target=-1, resume=part)
        assert whole.target == 2 and whole == occlusion.heatmap(x, *question, target=2)
        assert part.compare(whole).max_error == 0 and whole.compare(whole).ssim == pytest.approx(1)
        x[0, 0, 5, 5] = math.nan
        with pytest.raises(InputError, match="resume is the heatmap of another image"):
            occlusion.heatmap(x, *question, target=2, resume=part)


def test_numbers_are_numbers_and_words_are_refused(occlusion, image, saved, tmp_path):
    for half in (np.float32(0.5), torch.tensor(0.5)):
        assert (
            rgb(saved.overlay(opacity=half, scale=half)) == rgb(saved.overlay(opacity=0.5, scale=0.5))
        ).all()
    approximate = occlusion.heatmap(image, (3, 4, 4), (3, 2, 2), ssim_target=0.5)
    one, other = (
        approximate.verify(occlusion, fraction, seed=seed)
        for fraction, seed in ((0.2, 3), (np.float64(0.2), torch.tensor(3)))
    )
    assert one == other and {hash(one.plan)} == {hash(other.plan)}
    for call, named in (
        (lambda: saved.overlay(opacity=True), "opacity is True"),
        (lambda: saved.limits(True), "scale is True"),
        (lambda: saved.limits((0.1, True)), "scale is"),
        (lambda: approximate.verify(occlusion, True), "fraction is True"),
        (lambda: approximate.verify(occlusion, 0.2, seed=True), "seed is True"),
        (lambda: saved.compare(5), "exact is 5"),
        (lambda: saved.save(None), "path is None"),
        (lambda: saved.overlay([[1, 2], [3]]), "image is list"),
        (lambda: saved.overlay(np.zeros((24, 24, 2), np.uint8)), "image is ndarray"),
        (lambda: saved.overlay(torch.zeros(24, 24, requires_grad=True)), "image is Tensor"),
    ):
        with pytest.raises(InputError, match=named):
            call()
    saved.save(tmp_path / "map.NPZ")
    assert Heatmap.load(tmp_path / "map.NPZ") == saved


def test_a_map_of_another_activation_is_refused_as_what_it_was_given_as(occlusion, image, tmp_path):
    made = occlusion.heatmap(image, (3, 4, 4), (3, 2, 2), ssim_target=0.5, activation="softmax")
    made.save(tmp_path / "map.npz")
    with pytest.raises(InputError, match="heatmap is Heatmap.*activation="):
        occlusion.verify(Heatmap.load(tmp_path / "map.npz"))
    assert occlusion.verify(Heatmap.load(tmp_path / "map.npz"), activation="softmax").measured.sum() > 0


# --- confidences --------------------------------------------------------------------------------------


def random_curve(generator, name):
    """An image whose true loss is a random multiple of the expected one."""
    expected = 1 - np.exp(-np.linspace(0.7, 5, 12)) * generator.uniform(0.5, 2)
    ratios = generator.lognormal(0, 0.6) * np.exp(generator.normal(0, 0.2, 12))
    similar = 1 - (1 - expected) * ratios
    return Curve(
        name, 0.0, 500, tuple(range(20, 500, 40)), tuple(expected.tolist()), tuple(similar.clip(-1).tolist()),
        5.0, 0.01, 0.0, 5.0,
    )  # fmt: skip


@pytest.mark.parametrize("confidence", [0.05, 0.2, 0.3, 0.45, 0.5, 0.7, 0.8, 0.9])
def test_ranges_hold_with_their_confidence(tuned, confidence):
    """By simulation: tunings on random images, and another image each."""
    met, above, below = [], [], []
    for seed in range(250):
        generator = np.random.default_rng(seed)
        count = math.ceil(confidence / (1 - confidence) - 1e-9) + seed % 12
        curves = tuple(random_curve(generator, str(i)) for i in range(count))
        rule = Tuning(tuned.fingerprint, curves, confidence).goal(0.9)
        assert rule is not None
        for _ in range(8):
            stop = random_curve(generator, "new").stop(0.9, rule.factor)
            met.append(stop.ssim >= 0.9)
            if stop.expected == 1:
                continue
            told = SsimEstimate.of(stop.expected, "tuned", rule.spread)
            assert told.low <= told.value <= told.high
            above.append(told.low <= stop.ssim)
            below.append(stop.ssim <= told.high)
    allowed = 0.03  # of 2,000 draws, 8 of which share a tuning
    for held in (met, above, below):
        assert np.mean(held) > confidence - allowed
    if confidence >= 0.5:  # a range as wide as it has to be, and no wider
        for held in (above, below):
            assert np.mean(held) < confidence + allowed
