"""Every argument as users give it: numbers of NumPy and PyTorch, and what cannot be used, refused at once."""

from __future__ import annotations

import collections
import math
import os
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from support.tiny_models import SmallCNN
from torch import nn

from krypton_engine import FallbackWarning, InputError, KryptonOcclusion

WINDOW, STRIDES = (3, 7, 6), (3, 5, 4)

STRANGE = {
    "True": True, "NumPy's True": np.bool_(True), "a true tensor": torch.tensor(True), "a list": [3],
    "a word": "3", "bytes": b"3", "a dict": {}, "an object": object(), "None in a tuple": (None,),
    "True in a tuple": (True,), "a complex number": 1j, "words": np.array(["a"]), "NaN": math.nan,
    "a huge integer": 10**30, "half": np.float32(0.5), "half in an array": np.array(0.5),
    "half in a tensor": torch.tensor(0.5), "an array": np.array([3, 1]),
}  # fmt: skip
"""What is no number, no tuple of sizes and no index."""


@pytest.fixture
def occlusion(cnn):
    return KryptonOcclusion(cnn, executor="reference")


def but(*names):
    return [pytest.param(given, id=name) for name, given in STRANGE.items() if name not in names]


def attribute(occlusion, x, **arguments):
    call = {"sliding_window_shapes": WINDOW, "strides": STRIDES, "target": 1, **arguments}
    return occlusion.attribute(x, **call)


# --- numbers of other libraries -----------------------------------------------------------------------

THREE = [np.int64(3), np.int32(3), np.uint8(3), np.array(3), torch.tensor(3)]


@pytest.mark.parametrize("three", THREE, ids=repr)
@pytest.mark.parametrize("argument", ["window", "strides", "one stride", "target", "tuple", "evaluations"])
def test_integers_of_other_libraries(occlusion, image, argument, three):
    given, plain = (
        {
            "window": {"sliding_window_shapes": (3, n, 6), "strides": 3},
            "strides": {"strides": (3, n, 4)},
            "one stride": {"strides": n},
            "target": {"target": n},
            "tuple": {"target": (n,)},
            "evaluations": {"perturbations_per_eval": n},
        }[argument]
        for n in (three, 3)
    )
    assert torch.equal(attribute(occlusion, image, **given), attribute(occlusion, image, **plain))


@pytest.mark.parametrize("targets", [np.array([0, 2, 4]), list(np.array([0, 2, 4]))], ids=["array", "list"])
def test_a_target_for_each_example_from_numpy(occlusion, images, targets):
    theirs = Occlusion(occlusion.forward_func).attribute(images, WINDOW, STRIDES, target=[0, 2, 4])
    torch.testing.assert_close(attribute(occlusion, images, target=targets), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "half", [np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5)], ids=repr
)
def test_halves_of_other_libraries(occlusion, image, half):
    theirs = Occlusion(occlusion.forward_func).attribute(image, WINDOW, STRIDES, 0.5, target=1)
    torch.testing.assert_close(attribute(occlusion, image, baselines=half), theirs, rtol=0, atol=1e-5)
    heatmap = occlusion.heatmap(image, WINDOW, STRIDES, ssim_target=half)
    assert heatmap.ssim_estimate is not None
    KryptonOcclusion(occlusion.forward_func, memory_budget=half * 2**29)


def test_a_baseline_is_as_precise_as_the_image():
    x, model = torch.zeros(1, 1, 4, 4, dtype=torch.float64), lambda x: (x - 0.1).abs().sum((1, 2, 3))
    call = {"sliding_window_shapes": (1, 2, 2), "strides": 2, "baselines": 0.1}
    theirs = Occlusion(model).attribute(x, **call)
    assert torch.equal(KryptonOcclusion(model).attribute(x, **call), theirs)
    heatmap = KryptonOcclusion(model).heatmap(x, *call.values())
    assert torch.allclose(heatmap.values, torch.full((2, 2), 1.2, dtype=torch.float64), rtol=0, atol=1e-15)


# --- what cannot be used ------------------------------------------------------------------------------

NAMED = {
    "sliding_window_shapes": [],
    "strides": [],
    "baselines": ["True", "NumPy's True", "a true tensor", "True in a tuple", "NaN", "half",
                  "half in an array", "half in a tensor"],
    "target": ["a list", "None in a tuple"],
    "perturbations_per_eval": ["a huge integer"],
    "on_progress": [],
    "ssim_target": ["half", "half in an array", "half in a tensor"],
    "tuning": [],
}  # fmt: skip
CASES = [(name, *case.values, case.id) for name, usable in NAMED.items() for case in but(*usable)]


@pytest.mark.parametrize(
    ("name", "given"), [case[:2] for case in CASES], ids=[f"{name}: {word}" for name, _, word in CASES]
)
def test_arguments_of_attribute(occlusion, image, name, given):
    with pytest.raises(InputError, match=name):
        attribute(occlusion, image, **{name: given})


@pytest.mark.parametrize("given", but())
@pytest.mark.parametrize(
    "name", ["activation", "region", "classes", "schedule", "resume", "on_progress", "tuning"]
)
def test_arguments_of_heatmap(occlusion, image, name, given):
    with pytest.raises(InputError, match=name):
        occlusion.heatmap(image, WINDOW, STRIDES, **{name: given})


@pytest.mark.parametrize("given", but("half", "half in an array", "half in a tensor"))
@pytest.mark.parametrize("name", ["activation", "confidence", "resume", "on_progress"])
def test_arguments_of_tune(occlusion, image, name, given):
    with pytest.raises(InputError, match=name):
        occlusion.tune(image, WINDOW, STRIDES, **{name: given})


@pytest.mark.parametrize("given", [None, 3, "images", np.array(3), torch.tensor(3), {}, [None]], ids=repr)
def test_samples(occlusion, given):
    with pytest.raises(InputError, match=r"samples|x is"):
        occlusion.tune(given, WINDOW, STRIDES)


@pytest.mark.parametrize("given", [True, "1", math.nan, -1, 0, (1,)], ids=repr)
def test_max_seconds(occlusion, image, given):
    with pytest.raises(InputError, match="max_seconds"):
        occlusion.tune(image, WINDOW, STRIDES, max_seconds=given)


@pytest.mark.parametrize("given", but())
def test_images(occlusion, image, given):
    for call in (occlusion.heatmap, occlusion.plan):
        with pytest.raises(InputError, match="x is"):
            call(given, WINDOW, STRIDES)
    with pytest.raises(InputError, match="inputs"):
        occlusion.attribute(given, WINDOW, STRIDES)
    if not (isinstance(given, torch.Tensor) and given.ndim):
        with pytest.raises(InputError, match=r"inputs\[1\].*additional_forward_args"):
            occlusion.attribute((image, given), (WINDOW, WINDOW), (STRIDES, STRIDES))


@pytest.mark.parametrize("given", but())
def test_another_class_of_a_map(occlusion, image, given):
    heatmap = occlusion.heatmap(image, WINDOW, STRIDES, region=(0, 0, 2, 2), classes="all")
    with pytest.raises(InputError, match="target is"):
        heatmap.for_target(given)
    assert heatmap.for_target(np.int64(3)).target == 3


def test_an_input_that_is_none():
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(InputError, match=r"inputs\[1\] is NoneType.*additional_forward_args"):
        KryptonOcclusion(lambda x, y=None: x.sum((1, 2, 3))).attribute((x, None), ((3, 2, 2), (1,)))


def test_a_window_that_is_a_number(occlusion, image):
    with pytest.raises(InputError, match=r"sliding_window_shapes is 7; accepted: a tuple.*\(3, 24, 20\)"):
        occlusion.attribute(image, 7)


def test_one_baseline_for_two_inputs(image):
    both = KryptonOcclusion(lambda x, y: (x + y).sum((1, 2, 3)))
    for baseline in (0, 0.5, torch.zeros(1)):
        with pytest.raises(InputError, match="2 tensors and baselines 1.*a tuple"):
            both.attribute((image, image), (WINDOW, WINDOW), baselines=baseline)


# --- what a forward function returns ------------------------------------------------------------------


class ModelOutput(collections.OrderedDict):
    """As in Hugging Face's transformers: a dictionary with attributes."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass
class Answer:
    logits: torch.Tensor


Pair = collections.namedtuple("Pair", ["main", "aux"])

FORMS = {
    "a tuple": (lambda y: (y, y), "tuple of Tensor, Tensor", "[0]"),
    "a list": (lambda y: [y], "list of Tensor", "[0]"),
    "a dict": (lambda y: {"out": y, "aux": y}, "dict of out, aux", "['out']"),
    "a model's output": (lambda y: ModelOutput(loss=y, logits=y), "ModelOutput of loss, logits", ".logits"),
    "a dataclass": (Answer, "Answer", ".logits"),
    "a named tuple": (lambda y: Pair(y, y), "Pair", "[0]"),
    "an array": (lambda y: y.numpy(), "ndarray", "torch.as_tensor"),
    "nothing": (lambda y: None, "NoneType", "one tensor"),
    "a word": (lambda y: "cat", "str", "one tensor"),
    "truth values": (lambda y: y > 0, "torch.bool", ".float()"),
    "a truth value": (lambda y: bool(y[0, 0] > 0), "torch.bool", ".float()"),
    "complex numbers": (lambda y: y + 1j, "torch.complex64", ".abs()"),
    "no number": (lambda y: y[:, :0], "(1, 0)", "at least one"),
}


@pytest.mark.parametrize("call", ["attribute", "heatmap"])
@pytest.mark.parametrize("form", FORMS)
def test_results(image, form, call):
    made, *told = FORMS[form]
    with pytest.raises(InputError, match="forward_func returns") as caught:
        getattr(KryptonOcclusion(lambda x: made(x.sum((2, 3)))), call)(image, WINDOW, STRIDES, target=0)
    assert all(word in str(caught.value) for word in told), str(caught.value)


@pytest.mark.parametrize("form", ["a model's output", "a dict", "a dataclass", "a tuple"])
def test_the_way_out_that_is_named_works(cnn, image, form):
    made, *_ = FORMS[form]
    with pytest.raises(InputError) as caught:
        KryptonOcclusion(lambda x: made(cnn(x))).attribute(image, WINDOW, STRIDES, target=1)
    lambda_ = re.search(r"lambda x: model\(x\)\S+?(?=;)", str(caught.value))
    assert lambda_ is not None
    taken = eval(lambda_[0], {"model": lambda x: made(cnn(x))})
    theirs = Occlusion(cnn).attribute(image, WINDOW, STRIDES, target=1)
    mine = KryptonOcclusion(taken).attribute(image, WINDOW, STRIDES, target=1)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("made", [lambda y: (y, y), lambda y: y > 0, lambda y: None])
def test_results_of_an_activation(cnn, image, made):
    with pytest.raises(InputError, match="activation returns"):
        KryptonOcclusion(cnn).heatmap(image, WINDOW, STRIDES, activation=made)


@pytest.mark.parametrize(
    "made", [lambda y: y[:, :1], lambda y: y[:, 0], lambda y: y[:, :1, None, None]], ids=["1", "none", "map"]
)
def test_softmax_of_one_output(cnn, image, made):
    """It is 1, whatever the model says."""
    one = KryptonOcclusion(lambda x: made(cnn(x)))
    with pytest.raises(InputError, match=r"activation.*softmax.*sigmoid"):
        one.heatmap(image, WINDOW, STRIDES, activation="softmax")
    with pytest.raises(InputError, match=r"activation.*softmax.*sigmoid"):
        one.tune(image, WINDOW, STRIDES, activation="softmax")
    mine = one.heatmap(image, WINDOW, STRIDES, activation=torch.sigmoid).attribution()
    theirs = Occlusion(lambda x: cnn(x)[:, 0].sigmoid()).attribute(image, WINDOW, STRIDES)[0]
    torch.testing.assert_close(mine.reshape(theirs.shape), theirs, rtol=0, atol=1e-6)


# --- what a forward function does to its inputs -------------------------------------------------------


def test_a_forward_that_writes_into_what_it_is_given(cnn):
    """Its arguments stay as they are, and every answer is that of a fresh copy."""

    def forward(x, v):
        x -= 0.5
        v += 1
        return cnn(x) * v

    x, v = torch.randn(1, 3, 24, 20), torch.rand(1, 5)
    x_before, v_before = x.clone(), v.clone()
    mine = KryptonOcclusion(forward).attribute(x, WINDOW, STRIDES, target=1, additional_forward_args=v)
    assert torch.equal(x, x_before) and torch.equal(v, v_before)
    theirs = Occlusion(lambda x, v: cnn(x - 0.5) * (v + 1)).attribute(
        x, WINDOW, STRIDES, target=1, additional_forward_args=v
    )
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


# --- integer images -----------------------------------------------------------------------------------

CONVERSIONS = {
    "float": lambda x: x.float() / 255,
    "division": lambda x: x / 255 - 0.5,
    "comparison": lambda x: (x > 100).float(),
    "maximum first": lambda x: F.max_pool2d(x, 3, 1, 1).float() / 255,
    "double": lambda x: x.double().mul(0.01).float(),
}


@pytest.mark.parametrize(
    ("conversion", "dtype"),
    [*((name, torch.uint8) for name in CONVERSIONS), ("division", torch.int16), ("float", torch.int64)],
    ids=str,
)
def test_integer_images(cnn, conversion, dtype, monkeypatch):
    """Captum's numbers, incrementally, whatever kind of number the baseline is."""
    monkeypatch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)

    def model(x):
        return cnn(CONVERSIONS[conversion](x))

    x = torch.randint(0, 256, (1, 3, 24, 20)).to(dtype)
    for baseline in (None, 7, 0.5, torch.full((1, 3, 1, 1), 200, dtype=torch.uint8), torch.tensor(99.5)):
        call = {"sliding_window_shapes": WINDOW, "strides": STRIDES, "baselines": baseline, "target": 1}
        theirs = Occlusion(model).attribute(x, **call)
        for executor in ("auto", "reference"):
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "occlusion runs as batched", FallbackWarning)
                mine = KryptonOcclusion(model, executor).attribute(x, **call)
            torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)


def test_the_engine_runs_images_of_bytes(cnn):
    x = torch.randint(0, 256, (1, 3, 24, 20), dtype=torch.uint8)
    heatmap = KryptonOcclusion(lambda x: cnn(x.float() / 255)).heatmap(x, (3, 4, 4), (3, 2, 2), target=1)
    assert heatmap.plan is not None and heatmap.plan.executor.startswith("native")
    approximate = KryptonOcclusion(lambda x: cnn(x.float() / 255), "native").heatmap(
        x, (3, 4, 4), (3, 2, 2), target=1, ssim_target=0.8
    )
    assert torch.allclose(
        approximate.values[approximate.measured], heatmap.values[approximate.measured], atol=1e-5
    )


def test_what_wraps_around_wraps_around_here_too():
    """``x - 100`` of bytes is no negative number; of a float baseline's copies it is, in Captum too."""
    net = SmallCNN()

    def model(x):
        return net((x - 100).float() / 255)

    x = torch.randint(0, 256, (1, 3, 24, 20), dtype=torch.uint8)
    for baseline in (0, 300, -1, 0.5):
        theirs = Occlusion(model).attribute(x, WINDOW, STRIDES, baseline, target=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            mine = KryptonOcclusion(model).attribute(x, WINDOW, STRIDES, baseline, target=1)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)


# --- where PyTorch makes its tensors ------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["native", "reference"])
def test_a_default_device(cnn, image, executor):
    """``torch.set_default_device``: what is made on the way lies where the image lies."""
    rolled = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(3, 2, 1), nn.Flatten(), nn.Linear(480, 3)
    )
    models = [
        cnn,
        lambda x: rolled(torch.roll(F.pad(x, (1, 1, 1, 1), mode="reflect")[..., 1:-1, 1:-1], 2, 3)),
    ]
    region = torch.zeros(24, 20, dtype=torch.bool)
    region[3:9, 4:10] = True
    numbers = region.numpy()
    for model in models:
        theirs = Occlusion(model).attribute(image, WINDOW, STRIDES, 0.5, target=1)
        part = KryptonOcclusion(model, executor).heatmap(image, WINDOW, STRIDES, 0.5, 1, region=region)
        previous = torch.get_default_device()
        torch.set_default_device("meta")
        try:
            occlusion = KryptonOcclusion(model, executor)
            mine = occlusion.attribute(image, WINDOW, STRIDES, 0.5, target=1)
            again = occlusion.heatmap(image, WINDOW, STRIDES, 0.5, 1, region=numbers)
            box = occlusion.heatmap(image, WINDOW, STRIDES, 0.5, 1, region=(3, 4, 9, 10))
            occlusion.heatmap(image, WINDOW, STRIDES, 0.5, 1, ssim_target=0.8)
        finally:
            torch.set_default_device(previous)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
        torch.testing.assert_close(again.values, part.values, equal_nan=True, rtol=0, atol=1e-6)
        torch.testing.assert_close(box.values, part.values, equal_nan=True, rtol=0, atol=1e-6)


# --- scripts ------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """A class of one's own, which ``torch.jit.script`` compiles and holds."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.eval()

    def forward(self, x):
        return self.layers(x).mean((2, 3)) * 2


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::krypton_engine.FallbackWarning")
def test_frozen_scripts():
    """They have no ``training`` flag."""
    frozen, x = torch.jit.freeze(torch.jit.script(Scaled())), torch.randn(1, 3, 24, 20)
    theirs = Occlusion(frozen).attribute(x, WINDOW, STRIDES, target=1)
    mine = KryptonOcclusion(frozen).attribute(x, WINDOW, STRIDES, target=1)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


SCRIPTED = """
import torch
from test_arguments import Scaled
from krypton_engine import KryptonOcclusion
model, x = Scaled(), torch.randn(1, 3, 64, 64)
script = torch.jit.script(model)
heatmap = KryptonOcclusion(model, executor="native").heatmap(x, (3, 6, 6), (3, 4, 4))
assert heatmap.plan.executor.startswith("native"), heatmap.plan.executor
"""


def test_nothing_outlives_the_interpreter():
    """A script keeps its model beyond the end; the engine's objects may not stay with it."""
    where = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPTED],
        env={**os.environ, "PYTHONPATH": where},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr and "nanobind" not in done.stderr


# --- the progress bar ---------------------------------------------------------------------------------


def test_the_bar_is_called_as_captums(cnn, image, capsys):
    names = []
    for kind in (Occlusion, KryptonOcclusion):
        kind(cnn).attribute(image, WINDOW, STRIDES, target=1, show_progress=True)
        names.append(capsys.readouterr().err.split(":")[0].strip())
    assert names[0] == names[1] != ""
    KryptonOcclusion(cnn).attribute(image, WINDOW, STRIDES, target=1, show_progress=True)
    assert f"{names[0]}: 100%" in capsys.readouterr().err
