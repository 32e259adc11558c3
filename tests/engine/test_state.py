"""What the state of a callable, of its process or of other threads may do to its maps: nothing in silence.

Right values are Captum's, one perturbation an evaluation.
"""

from __future__ import annotations

import array
import copy
import gc
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from support.tiny_models import SmallCNN, assert_like_captum, full_inference, incremental
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor

from krypton_engine import (
    FallbackWarning,
    InputError,
    KryptonOcclusion,
    OcclusionCancelled,
    RoundingWarning,
)
from krypton_engine.graph import export
from krypton_engine.graph.draft import CaptureError
from krypton_engine.planning.cache import Source, capture

WINDOW, STRIDES = (3, 7, 6), (3, 5, 4)


def assert_right(forward, x, target=1, occlusion=None, tolerance=0.02, **more):
    """A map equals Captum's but for what would hardly show."""
    mine = (occlusion or KryptonOcclusion(forward)).attribute(x, WINDOW, STRIDES, target=target, **more)
    theirs = Occlusion(forward).attribute(x, WINDOW, STRIDES, target=target, **more)
    span = float(theirs.abs().max())
    assert span > 0 and float((mine - theirs).abs().max()) <= tolerance * span
    return mine


def spot(image):
    """A dark image with one bright spot, which most windows leave alone."""
    x = image.abs() * 0.02
    x[:, :, 10:13, 9:12] = 1
    return x


# --- rows that feel each other (W0) --------------------------------------------------------------------

LABEL = torch.tensor([2])
READS_ACROSS = {
    "stretched": lambda m: lambda a: m((a - a.min()) / (a.max() - a.min())),
    "z-score": lambda m: lambda a: m((a - a.mean()) / a.std()),
    "threshold": lambda m: lambda a: m(a * (a > a.mean())),
    "centred output": lambda m: lambda a: m(a) - m(a).mean(),
    "quantile": lambda m: lambda a: m(a.clamp_max(a.quantile(0.99))),
    "median of the batch": lambda m: lambda a: m(a) - 0.5 * m(a).median(0).values,
    "largest of the batch": lambda m: lambda a: m(a) / (1e-3 + m(a).abs().amax(0, keepdim=True)),
    "batch statistics": lambda m: lambda a: m(F.batch_norm(a, None, None, training=True)),
    "sorted": lambda m: lambda a: m(a).sort(0).values,
    "summed up": lambda m: lambda a: m(a).cumsum(0),
    "turned round": lambda m: lambda a: m(a) + 0.1 * m(a).flip(0),
    "rolled": lambda m: lambda a: m(a) + 0.1 * m(a).roll(1, 0),
    "attention over the batch": lambda m: lambda a: F.scaled_dot_product_attention(m(a), m(a), m(a)),
    "the first row": lambda m: lambda a: m(a) - 0.5 * m(a[:1]),
    "rank in the batch": lambda m: lambda a: m(a) + torch.arange(len(a), dtype=a.dtype)[:, None],
    "size of the batch": lambda m: lambda a: m(a) * len(a),
    "softmax over the batch": lambda m: lambda a: m(a) * m(a).softmax(0),
}


@pytest.mark.parametrize("executor", ["auto", pytest.param("reference", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", READS_ACROSS)
def test_rows_that_feel_each_other(kind, executor, image):
    forward = READS_ACROSS[kind](SmallCNN())
    with warnings.catch_warnings():
        # Some are recorded row by row, and need no full inference.
        warnings.simplefilter("ignore", FallbackWarning)
        assert_right(forward, spot(image), occlusion=KryptonOcclusion(forward, executor=executor))


@pytest.mark.parametrize("kind", READS_ACROSS)
def test_rows_of_a_batch_that_feel_each_other(kind, image):
    """Of several rows, what each says depends on the others for good: no graph of one row says that."""
    forward = READS_ACROSS[kind](SmallCNN())
    occlusion, images = KryptonOcclusion(forward, executor="reference"), torch.cat([image, image.flip(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        assert_right(forward, image, occlusion=occlusion)
        assert_right(forward, images, occlusion=occlusion)
    with full_inference():
        assert_like_captum(forward, images, WINDOW, STRIDES, target=1)


COMPARES_ROWS = {
    "running maximum": lambda y: y.cummax(0).values,
    "running minimum": lambda y: y.cummin(0).values,
    "sorted": lambda y: y.sort(0).values,
}


@pytest.mark.parametrize("seed", [0, 2, 5])
@pytest.mark.parametrize("kind", COMPARES_ROWS)
def test_rows_of_one_number_that_are_compared(kind, seed, image):
    """Three such rows lie in one of six orders, in which nothing may show."""
    torch.manual_seed(seed)
    model = SmallCNN(classes=1)
    with full_inference():
        assert_right(lambda a: COMPARES_ROWS[kind](model(a)), image, target=0)


PICKED = {
    "by labels": lambda m: lambda a: m(a)[torch.arange(len(a)), LABEL][:, None],
    "probability": lambda m: lambda a: m(a).softmax(1)[torch.arange(a.shape[0]), 1],
    "gathered": lambda m: lambda a: m(a).gather(1, LABEL.expand(len(a), 1)),
    "by a mask": lambda m: lambda a: m(a)[:, [True, False, True, False, False]].sum(1),
}


LIKE_ANOTHER = {
    "new_zeros": lambda m: lambda a: m(a + a.new_zeros((24, 20))),
    "ones_like": lambda m: lambda a: m(a * torch.ones_like(a)) + m(a).new_full((5,), 2.0),
    "full_like": lambda m: lambda a: m(torch.where(a > 0, a, torch.full_like(a, 0.1))),
}


@pytest.mark.parametrize("kind", LIKE_ANOTHER)
def test_a_number_in_the_form_of_another_value_depends_on_nothing(kind, image):
    with incremental():
        assert_right(LIKE_ANOTHER[kind](SmallCNN()), image)


LEVEL = torch.tensor(2.0)
FILLED = {
    "number of rows": lambda m: lambda a: m(a) * torch.full_like(m(a), a.shape[0]),
    "number of rows, new": lambda m: lambda a: m(a) * a.new_full((5,), float(len(a))),
    "height": lambda m: lambda a: m(a) * torch.full_like(m(a), a.shape[2]),
    "a closure's number": lambda m: lambda a: m(a) * torch.full_like(m(a), LEVEL.item()),
    "a closure's number, alone": lambda m: lambda a: m(a) * LEVEL.item(),
    "a tensor": lambda m: lambda a: m(a) * torch.full_like(m(a), torch.tensor(2.5)),
    "the image's largest number": lambda m: lambda a: m(a) * torch.full_like(m(a), a.abs().max().item()),
}


@pytest.mark.parametrize("kind", FILLED)
def test_a_value_filled_with_a_number_of_the_forward(kind, image):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        assert_right(FILLED[kind](SmallCNN()), image)


def test_a_value_filled_with_the_number_of_a_parameter(image):
    model = SmallCNN()
    model.level = nn.Parameter(torch.tensor(2.0))

    class Filled(Wrapper):
        def forward(self, x):
            return self.model(x) * torch.full_like(self.model(x), self.model.level.item())

    filled = Filled(model).eval()
    for level in (2.0, 3.0, 0.5):
        with torch.no_grad():
            model.level.fill_(level)
        with incremental():
            assert_right(filled, image)


@pytest.mark.parametrize("kind", PICKED)
def test_rows_that_are_counted(kind, image):
    """``arange(len(x))`` counts the rows that run together; it is no constant."""
    forward = PICKED[kind](SmallCNN())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        mine = KryptonOcclusion(forward).attribute(image, WINDOW, STRIDES)
    theirs = Occlusion(forward).attribute(image, WINDOW, STRIDES)
    assert torch.allclose(mine, theirs, rtol=0, atol=1e-6) and float(theirs.abs().max()) > 1e-4


# --- stale maps (W3) -----------------------------------------------------------------------------------


def confident(model, image):
    """A model that is sure of its answer, class 1: all but saturated."""
    with torch.no_grad():
        rest = model(image)
        model.head.bias[1] += 5 - (rest[0, 1] - rest[0].mean())
    return model


class Tempered(nn.Module):
    """Probabilities at a temperature that may stand anywhere."""

    def __init__(self, model, temperature):
        super().__init__()
        self.model, self.temperature = model, temperature
        self.eval()

    def forward(self, x):
        return (self.model(x) / self.temperature()).softmax(1)


class Slots:
    """A number that no ``__dict__`` shows."""

    __slots__ = ("number",)

    def __init__(self, number):
        self.number = number

    def __call__(self):
        return self.number


HIDDEN = array.array("d", [1.0])
ENVIRONMENT: dict[str, float] = {}


def in_slots():
    slots = Slots(1.0)
    return slots, lambda value: setattr(slots, "number", value)


def in_an_array():
    def change(value):
        HIDDEN[0] = value

    change(1.0)
    return lambda: HIDDEN[0], change


def in_a_global():
    ENVIRONMENT["temperature"] = 1.0
    return lambda: ENVIRONMENT["temperature"], lambda value: ENVIRONMENT.update(temperature=value)


@pytest.mark.parametrize("place", [in_slots, in_an_array, in_a_global])
def test_the_temperature_of_a_confident_classifier(place, image):
    read, write = place()
    model = Tempered(confident(SmallCNN(), image), read)
    occlusion = KryptonOcclusion(model)
    with incremental():
        for temperature in (1.0, 1.5, 2.0, 4.0):
            write(temperature)
            assert_right(model, image, occlusion=occlusion)


class Regression(nn.Module):
    """One number near 250, which windows hardly move."""

    def __init__(self):
        super().__init__()
        self.model = SmallCNN(classes=1)
        self.eval()

    def forward(self, x):
        return 250 + 0.1 * self.model(x)


def test_an_offset_hides_no_hook(image):
    model = Regression()
    slots = Slots(1.0)
    model.model.stem.register_forward_hook(lambda module, args, output: output * slots())
    occlusion = KryptonOcclusion(model)
    with incremental():
        for slots.number in (1.0, 1.4, 0.7):
            mine = occlusion.attribute(image, WINDOW, STRIDES, target=0)
            theirs = Occlusion(model).attribute(image, WINDOW, STRIDES, target=0)
            assert float((mine - theirs).abs().max()) < 0.1 * float(theirs.abs().max())


class Offset(nn.Module):
    """Numbers around zero, a hidden factor of them, and what stands between them and the output."""

    def __init__(self, image, seed, last, classes=1):
        super().__init__()
        torch.manual_seed(seed)
        self.model, self.last = SmallCNN(classes=classes), last
        self.register_buffer("middle", self.model(image)[0].detach() if classes == 1 else torch.zeros(5))
        self.eval()

    def forward(self, x):
        return self.last((self.model(x) - self.middle) * HIDDEN[0])


HARDLY_MORE_THAN_ROUNDING = {
    "regression": (0, torch.float32, 1, lambda y: 250 + 0.05 * y, 1.2),
    "probability": (0, torch.float32, 1, lambda y: (3 * y + 10).sigmoid(), 1.2),
    "bfloat16": (2, torch.bfloat16, 5, lambda y: y, 1.1),
    "float16": (1, torch.float16, 5, lambda y: y, 1.02),
}


@pytest.mark.parametrize("kind", HARDLY_MORE_THAN_ROUNDING)
def test_a_difference_of_a_few_roundings_that_shows(kind, image, exports):
    """A new capture tells it from what rounding does; there is one as long as nothing changes."""
    seed, dtype, classes, last, factor = HARDLY_MORE_THAN_ROUNDING[kind]
    HIDDEN[0] = 1.0
    model, x = Offset(image, seed, last, classes).to(dtype), (image * (1 if classes == 1 else 2)).to(dtype)
    occlusion = KryptonOcclusion(model)
    with incremental():
        before = occlusion.attribute(x, WINDOW, STRIDES, target=0)
        HIDDEN[0] = factor
        for _ in range(3):
            after = occlusion.attribute(x, WINDOW, STRIDES, target=0)
    exact = Occlusion(model.double()).attribute(x.double(), WINDOW, STRIDES, target=0)
    span, stale = float(exact.abs().max()), float((before - exact).abs().max())
    assert stale > 0.015 * span, "the change shows"
    assert float((after - exact).abs().max()) < 0.5 * stale
    assert len(exports) == 2


WITHIN_ROUNDING = {
    "probability": (0, lambda y: (3 * y + 11).sigmoid(), 1.15),
    "another probability": (2, lambda y: (3 * y + 11).sigmoid(), 1.15),
    "regression": (1, lambda y: 250 + 0.05 * y, 1.05),
}


@pytest.mark.parametrize("kind", WITHIN_ROUNDING)
def test_a_difference_no_larger_than_rounding_that_shows(kind, image, exports):
    """What the function said when it was captured is known to the last digit."""
    seed, last, factor = WITHIN_ROUNDING[kind]
    HIDDEN[0] = 1.0
    model = Offset(image, seed, last)
    occlusion = KryptonOcclusion(model)
    with incremental():
        before = [occlusion.attribute(image, WINDOW, STRIDES, target=0) for _ in range(3)][-1]
        assert len(exports) == 1, "nothing has changed"
        HIDDEN[0] = factor
        after = occlusion.attribute(image, WINDOW, STRIDES, target=0)
    assert len(exports) == 2
    exact = Occlusion(model.double()).attribute(image.double(), WINDOW, STRIDES, target=0)
    span, stale = float(exact.abs().max()), float((before - exact).abs().max())
    assert stale > 0.03 * span, "the change shows"
    assert float((after - exact).abs().max()) < 0.5 * stale


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "half"])
@pytest.mark.parametrize("kind", ["another probability", "regression"])
def test_a_resumed_map_is_fresh_or_refused_or_doubted(kind, whole, known, image):
    """Rounding hides no more of a map of an earlier call than of a graph of one."""
    seed, last, factor = WITHIN_ROUNDING[kind]
    HIDDEN[0] = 1.0
    model = Offset(image, seed, last)
    occlusion, arguments = KryptonOcclusion(model), (image, WINDOW, STRIDES)
    if whole:
        part = occlusion.heatmap(*arguments, target=0)
    else:
        with pytest.raises(OcclusionCancelled) as cut:
            occlusion.heatmap(*arguments, target=0, on_progress=lambda h, done, total: done < total // 2)
        part = cut.value.partial
    if not known:  # the same numbers in another model: nothing was captured from it
        model = copy.deepcopy(model)
        occlusion = KryptonOcclusion(model)
    with incremental(), warnings.catch_warnings():
        warnings.filterwarnings("error", ".*fresh", RoundingWarning)
        occlusion.heatmap(*arguments, target=0, resume=part)
    HIDDEN[0] = factor
    heard = []
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            occlusion.heatmap(*arguments, target=0, resume=part)
    except InputError as refused:
        assert "holds" in str(refused)
    else:
        assert any(each.category is RoundingWarning for each in heard)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_hook_on_a_model_of_16_bits(dtype, image):
    model, x = SmallCNN().to(dtype), image.to(dtype)
    occlusion = KryptonOcclusion(model)
    before = occlusion.attribute(x, WINDOW, STRIDES, target=1)
    model.body.register_forward_hook(lambda module, args, output: output * 1.5)
    after = occlusion.attribute(x, WINDOW, STRIDES, target=1)
    exact = Occlusion(model.double()).attribute(image.double(), WINDOW, STRIDES, target=1)
    span = float(exact.abs().max())
    assert float((after - exact).abs().max()) < 0.1 * span < 0.2 * span < float((before - exact).abs().max())


def test_under_autocast_after_a_call_outside(image):
    model = SmallCNN()
    occlusion = KryptonOcclusion(model)
    assert_right(model, image, occlusion=occlusion)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = occlusion.attribute(image, WINDOW, STRIDES, target=1)
        theirs = Occlusion(model).attribute(image, WINDOW, STRIDES, target=1)
    outside = assert_right(model, image, occlusion=occlusion)
    span = float(outside.abs().max())
    assert float((inside - theirs).abs().max()) <= 2**-9, "two roundings of bfloat16"
    assert span > 2**-7
    assert not torch.equal(inside, outside), "autocast rounds to 8 bits: another function"


def test_a_hook_for_all_modules(image):
    model = SmallCNN()
    occlusion = KryptonOcclusion(model)
    assert_right(model, image, occlusion=occlusion)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: output * 1.5 if isinstance(module, nn.Linear) else None
    )
    try:
        with incremental():
            assert_right(model, image, occlusion=occlusion)
    finally:
        handle.remove()
    assert_right(model, image, occlusion=occlusion)


# --- values that change and do not count, answers that disagree (L7, L8) --------------------------------


@pytest.fixture
def exports(monkeypatch):
    calls, export = [], torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: (calls.append(1), export(*a, **k))[1])
    return calls


def explained_six_times(model, image):
    occlusion = KryptonOcclusion(model)
    with incremental():
        for _ in range(6):
            assert_right(model, image, occlusion=occlusion)
    return occlusion


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.model, self.calls, self.log, self.seen = SmallCNN(), 0, [], {}
        self.eval()

    def forward(self, x):
        self.calls += 1
        self.log.append(tuple(x.shape))
        self.seen[self.calls] = float(self.calls)
        return self.model(x)


def test_counters_and_logs_are_captured_ever_more_seldom(image, exports):
    explained_six_times(Counted(), image)
    assert len(exports) <= 4, "now and then once more, ever more seldom"


class CountedInABuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = SmallCNN()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.eval()

    def forward(self, x):
        self.calls += 1
        return self.model(x)


def test_a_buffer_that_no_output_reads_is_a_counter(image, exports):
    model = CountedInABuffer()
    occlusion = explained_six_times(model, image)
    assert len(exports) <= 4
    with incremental():
        with torch.no_grad():
            model.model.head.weight.mul_(-2)
        assert_right(model, image, occlusion=occlusion)


class Plain(nn.Module):
    """Without a batch norm: the graph's weights are the model's own."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.Linear(12 * 24 * 20, 5)
        self.eval()

    def forward(self, x):
        return self.head(self.conv(x).relu().flatten(1))


def test_weights_written_to_in_place(image, exports):
    """The old graph and the new one share them, and look the same; what was packed of them is old."""
    model = Plain()
    occlusion = KryptonOcclusion(model)
    state = {name: -tensor for name, tensor in model.state_dict().items()}
    with incremental():
        assert_right(model, image, occlusion=occlusion)
        with torch.no_grad():
            model.conv.weight.mul_(1.5)
            model.head.weight[:, : 12 * 200].mul_(-1)
        assert_right(model, image, occlusion=occlusion)
        assert_right(model, image, occlusion=occlusion)
        model.load_state_dict(state)
        assert_right(model, image, occlusion=occlusion)
        model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
        assert_right(model, image, occlusion=occlusion)
        model.load_state_dict({name: tensor * 2 for name, tensor in state.items()}, assign=True)
        assert_right(model, image, occlusion=occlusion)
    assert len(exports) == 5


class Leveled(Plain):
    """A number of the class, a global of ``forward``: what `vars` of the model does not show."""

    level = 1.0

    def forward(self, x):
        return super().forward(x) * self.level * ENVIRONMENT.get("gain", 1.0)


def test_numbers_of_a_class_a_global_and_a_hook(image, exports):
    ENVIRONMENT.clear()
    model, gains = Leveled(), [1.0]
    model.conv.register_forward_hook(lambda module, args, output: output * gains[0])
    occlusion = KryptonOcclusion(model)
    changes = [
        lambda: None,
        lambda: setattr(Leveled, "level", 2.0),
        lambda: ENVIRONMENT.update(gain=3.0),
        lambda: gains.__setitem__(0, 0.5),
        lambda: setattr(model, "level", 3.0),
    ]
    try:
        with incremental():
            for count, change in enumerate(changes, 1):
                change()
                assert_right(model, image, occlusion=occlusion)
                assert len(exports) == count, "seen before anything was computed"
    finally:
        Leveled.level = 1.0
        ENVIRONMENT.clear()


@pytest.mark.parametrize("kind", ["tensor in a dict", "long array"])
def test_arguments_that_are_no_tensors(kind, image, exports):
    model = SmallCNN()
    argument = {"gain": torch.ones(5)} if kind == "tensor in a dict" else np.ones(5000, dtype=np.float32)

    def forward(x, gains):
        gain = gains["gain"] if isinstance(gains, dict) else torch.from_numpy(gains[2000:2005].copy())
        return model(x) * gain

    occlusion = KryptonOcclusion(forward)
    for factor in (1, 2):
        numbers = argument["gain"] if isinstance(argument, dict) else argument
        numbers *= factor
        with incremental():
            assert_right(forward, image, occlusion=occlusion, additional_forward_args=argument)
        assert len(exports) == factor


def test_a_number_that_counts_is_never_taken_for_a_counter(image, exports):
    model = SmallCNN()
    gains = [1.0]

    def forward(x):
        return model(x) * gains[-1]

    occlusion = KryptonOcclusion(forward)
    with incremental():
        for gain in (1.0, 2.0, 1.0, 2.0, 3.0, 1.0):
            gains[0] = gain
            assert_right(forward, image, occlusion=occlusion)
    assert len(exports) == 3, "one for each number"


def test_one_output_squeezed(image, exports):
    model = SmallCNN(classes=1)

    def forward(x):
        return model(x).squeeze()

    occlusion = KryptonOcclusion(forward)
    with incremental():
        for _ in range(3):
            mine = occlusion.attribute(image, WINDOW, STRIDES)
            heatmap = occlusion.heatmap(image, WINDOW, STRIDES)
    theirs = Occlusion(forward).attribute(image, WINDOW, STRIDES)
    assert torch.allclose(mine, theirs, atol=1e-6)
    assert torch.allclose(heatmap.attribution()[None], theirs, atol=1e-6)
    assert len(exports) == 1


def test_answers_in_double_of_a_float_model(image, exports):
    model = SmallCNN()

    def forward(x):
        return model(x).double()

    occlusion = KryptonOcclusion(forward)
    with incremental():
        for _ in range(3):
            assert_right(forward, image, occlusion=occlusion)
    assert len(exports) == 1


def test_a_random_function_is_captured_again_ever_more_seldom(image, exports):
    model = SmallCNN()
    model.calls = 0

    def forward(x):
        model.calls += 1
        return model(x) + torch.randn(())

    occlusion = KryptonOcclusion(forward)
    with full_inference():
        for _ in range(12):
            occlusion.attribute(image, WINDOW, STRIDES, target=1)
    assert len(exports) <= 8, "with the first calls, the third and the sixth, two each"


def test_a_table_that_a_wild_image_would_leave(image):
    """A proof asks of other images; those that a model cannot take prove nothing against it."""
    model, curve = SmallCNN(), torch.linspace(0, 1, 256) ** 2.2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        assert_right(lambda a: model(curve[(a * 255).round().long()]), image.sigmoid())


def test_a_cancelled_map_of_a_model_that_changed(image):
    temperature = Slots(1.0)
    model = Tempered(SmallCNN(), temperature)
    occlusion = KryptonOcclusion(model)
    occlusion.heatmap(image, WINDOW, STRIDES, target=1)
    temperature.number = 0.3
    with pytest.raises(OcclusionCancelled) as cut:
        occlusion.heatmap(image, WINDOW, STRIDES, target=1, on_progress=lambda h, done, total: done < 12)
    partial = cut.value.partial
    whole = Occlusion(model).attribute(image, WINDOW, STRIDES, target=1)
    known = KryptonOcclusion(Tempered(model.model, temperature)).heatmap(image, WINDOW, STRIDES, target=1)
    assert torch.allclose(known.attribution()[None], whole, atol=1e-5), "the other map is Captum's"
    where = partial.measured
    assert bool(where.any()) and torch.allclose(partial.values[where], known.values[where], atol=1e-4)


def test_a_saturated_map_says_that_it_proves_little(image):
    model = Tempered(confident(SmallCNN(), image), Slots(0.25))
    with pytest.warns(RoundingWarning, match="what rounding does"):
        KryptonOcclusion(model).attribute(image, WINDOW, STRIDES, target=1)


# --- threads with first calls (W4) ----------------------------------------------------------------------


def test_first_calls_at_once(image):
    """Every thread gets its own right map, and all that others print, log and warn of meanwhile is heard."""
    models = [SmallCNN() for _ in range(4)]
    models += models[:2]  # and one model in two threads
    expected = [Occlusion(model).attribute(image, WINDOW, STRIDES, target=1) for model in models]
    found, errors, printed, logged = {}, [], io.StringIO(), []
    before = (sys.stdout, sys.stderr, logging.root.manager.disable, list(warnings.filters))

    class Listening(logging.Handler):
        def emit(self, record):
            logged.append(record.getMessage())

    def explain(number):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", FallbackWarning)
                found[number] = KryptonOcclusion(models[number]).attribute(image, WINDOW, STRIDES, target=1)
        except BaseException as error:  # shown by the assertion
            errors.append(error)

    handler = Listening()
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    logger.addHandler(handler)
    said, threads = 0, [threading.Thread(target=explain, args=(i,)) for i in range(len(models))]
    sys.stdout = printed
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            print(f"line {said}")
            logger.error("word %d", said)
            said += 1
            time.sleep(0.02)
    finally:
        sys.stdout = before[0]
        logger.removeHandler(handler)
    assert [word for word in logged if word.startswith("word")] == [f"word {i}" for i in range(said)]
    assert not errors
    assert printed.getvalue().split("\n")[:-1] == [f"line {i}" for i in range(said)]
    assert (sys.stderr, logging.root.manager.disable) == before[1:3]
    for number, attribution in found.items():
        assert torch.allclose(attribution, expected[number], atol=1e-5)
    assert len(found) == len(models)
    with incremental():
        for model in models:
            assert_right(model, image)


def test_another_threads_warnings_and_logs_are_heard_while_one_exports():
    exporting, heard = threading.Event(), threading.Event()

    def forward(x):
        exporting.set()
        heard.wait(30)
        warnings.warn("of the forward function", UserWarning, stacklevel=1)
        return x.relu().sum((2, 3))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = threading.Thread(target=lambda: capture(Source(forward, (torch.rand(1, 3, 9, 9),))))
        thread.start()
        assert exporting.wait(60)
        warnings.warn("of another thread", UserWarning, stacklevel=1)
        heard.set()
        thread.join(60)
    assert [str(w.message) for w in caught] == ["of another thread"]


def test_a_failure_that_passes_is_not_kept(image, monkeypatch):
    model, export, broken = SmallCNN(), torch.export.export, [True]

    def flaky(*args, **kwargs):
        if broken:
            raise RuntimeError("something else in the process")
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", flaky)
    occlusion = KryptonOcclusion(model)
    with full_inference():
        assert_right(model, image, occlusion=occlusion)
    broken.clear()
    with incremental():
        assert_right(model, image, occlusion=KryptonOcclusion(model))


def test_a_forward_that_waits_for_a_thread_which_explains(image, monkeypatch):
    monkeypatch.setattr(export, "_LONGEST_WAIT", 0.2)
    inner, outer = SmallCNN(), SmallCNN()
    found = []

    def forward(x):
        if not torch.compiler.is_exporting() and not found:
            with ThreadPoolExecutor(1) as pool:
                work = pool.submit(KryptonOcclusion(inner).attribute, image, WINDOW, STRIDES, target=1)
                found.append(work.result(timeout=60))
        return outer(x)

    assert_right(forward, image)
    theirs = Occlusion(inner).attribute(image, WINDOW, STRIDES, target=1)
    assert torch.allclose(found[0], theirs, atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_of_a_process_in_an_evaluation():
    """A thread that is at the gate when the process forks is not in the child, and keeps nobody out there."""
    program = """if True:
        import os, signal, threading, time, torch, torch.nn as nn
        torch.set_num_threads(1)
        from krypton_engine.graph import export
        from krypton_engine.planning.cache import Source, capture
        def evaluate():
            export.evaluated(lambda: time.sleep(3))
        threading.Thread(target=evaluate, daemon=True).start()
        time.sleep(0.5)
        child = os.fork()
        if not child:
            signal.alarm(60)
            capture(Source(nn.Conv2d(3, 4, 3), (torch.rand(1, 3, 8, 8),)))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=120)


# --- interrupts inside captures (W5) ---------------------------------------------------------------------


SIGNALLED: list[str] = []


class Interrupted(nn.Module):
    """A model at whose ``place`` a signal arrives, once, while it is being exported."""

    def __init__(self, place, number):
        super().__init__()
        self.model, self.place, self.number = SmallCNN(), place, number
        self.eval()

    def at(self, place):
        if torch.compiler.is_exporting() and place == self.place and not SIGNALLED:
            SIGNALLED.append(place)
            signal.raise_signal(self.number)
            for _ in range(100):  # where a handler would run
                pass

    def forward(self, x):
        self.at("begin")
        x = self.model.stem(x)
        self.at("middle")
        x = self.model.head(self.model.pool(self.model.body(x).relu()).flatten(1))
        self.at("end")
        return x


class Alarm(Exception):
    pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM], ids=["ctrl-c", "alarm"])
@pytest.mark.parametrize("place", ["begin", "middle", "end"])
def test_an_interrupt_in_a_capture_waits_until_it_is_over(place, number, image):
    def raises(*_):
        raise Alarm

    SIGNALLED.clear()
    model = Interrupted(place, number)
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGALRM)}
    signal.signal(signal.SIGALRM, raises)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
    try:
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Alarm):
            KryptonOcclusion(model).attribute(image, WINDOW, STRIDES, target=1)
        assert signal.getsignal(signal.SIGALRM) is raises
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert [place] == SIGNALLED and torch.is_grad_enabled() and type(torch.rand(2) + 1) is torch.Tensor
    parameters = [type(p) for p in model.parameters()]
    assert set(parameters) == {nn.Parameter}
    model(image).sum().backward()
    with incremental():
        assert_right(model, image)


# --- memory (L4) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, pytest.param(nn.Identity, marks=pytest.mark.slow)])
def test_captures_of_many_image_sizes_are_forgotten(norm, monkeypatch):
    """Captures of a model, with the engine's packed weights, stay within a bound."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), norm(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    programs = []
    for size in range(16, 28):
        graph = capture(Source(model, (torch.rand(1, 3, size, 24),)))
        programs.append(weakref.ref(graph))
        monkeypatch.setattr("krypton_engine.planning.memory._LARGEST_MEMORY", 3.5 * 5 * graph.constant_bytes)
    del graph
    gc.collect()
    assert [ref() is not None for ref in programs] == [False] * 8 + [True] * 4


# --- places and modes (P2, P3, R7) -----------------------------------------------------------------------


def test_under_a_default_device(image):
    model = SmallCNN()
    expected = Occlusion(model).attribute(image, WINDOW, STRIDES, target=1)
    with torch.device("meta"), incremental():  # what is made without a device ends there
        mine = KryptonOcclusion(model).attribute(image, WINDOW, STRIDES, target=1)
        heatmap = KryptonOcclusion(model).heatmap(image, WINDOW, STRIDES, target=1, ssim_target=0.9)
    assert torch.allclose(mine, expected, atol=1e-5) and heatmap.values.device.type == "cpu"


def test_a_frozen_script(image):
    model = SmallCNN()
    traced = torch.jit.trace(model, image)
    frozen = torch.jit.freeze(traced.eval())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        mine = KryptonOcclusion(frozen).attribute(image, WINDOW, STRIDES, target=1)
    assert torch.allclose(mine, Occlusion(model).attribute(image, WINDOW, STRIDES, target=1), atol=1e-5)


class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


def normalised(model):
    weight_norm = nn.utils.parametrizations.weight_norm(model.body)
    weight_norm.parametrizations.train()
    return model


SAME_IN_TRAINING = {
    "a wrapper": Wrapper,
    "DataParallel": lambda m: nn.DataParallel(m),
    "dropout of nothing": lambda m: nn.Sequential(m, nn.Dropout(0.0)).train(False).append(nn.Dropout(0.0)),
    "a flatten": lambda m: nn.Sequential(m, nn.Flatten()),
    "weight norm": normalised,
}


@pytest.mark.parametrize("kind", SAME_IN_TRAINING)
def test_what_does_the_same_in_training_is_no_reason_to_warn(kind, image):
    model = SAME_IN_TRAINING[kind](SmallCNN())
    flags = [m.training for m in model.modules()]
    assert any(flags)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*training mode.*")
        KryptonOcclusion(model).attribute(image, WINDOW, STRIDES, target=1)
    assert [m.training for m in model.modules()] == flags


def test_an_array_of_numbers_counts(image):
    model = SmallCNN()
    gains = np.ones(5, dtype=np.float32)

    def forward(x):
        return model(x) * torch.from_numpy(gains.copy())

    occlusion = KryptonOcclusion(forward)
    assert_right(forward, image, occlusion=occlusion)
    gains[:] = 3
    assert_right(forward, image, occlusion=occlusion)


class Counts(nn.Module):
    """A loop over rows, which has to be recorded, with a counter of its calls."""

    def __init__(self, in_place):
        super().__init__()
        self.net, self.in_place = SmallCNN(), in_place
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.in_place:
            self.calls += 1
        else:
            self.calls = self.calls + 1
        return torch.cat([self.net(row[None]) for row in x])


@pytest.mark.parametrize("in_place", [True, False])
def test_recording_is_no_call(in_place, image):
    model = Counts(in_place).eval()
    called = []
    model.net.register_forward_pre_hook(lambda net, given: called.extend(given))
    with suppress(CaptureError):
        capture(Source(model, (image,)))
    real = sum(type(x) is torch.Tensor and not is_functorch_wrapped_tensor(x) for x in called)
    assert called and type(model.calls) is torch.Tensor and float(model.calls) == real
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)  # of what is assigned anew
        assert_right(model, image)


def test_what_has_no_graph_says_why(image):
    with pytest.raises(CaptureError, match="reads across the batch"):
        capture(Source(lambda x: x - x.mean(), (torch.cat([image, image]),)))


@pytest.mark.parametrize("place", [in_slots, in_a_global])
def test_a_map_of_another_temperature_is_not_resumed(place, image):
    read, write = place()
    model = Tempered(confident(SmallCNN(), image), read)
    occlusion = KryptonOcclusion(model)

    def half(heatmap, done, total):
        return done < total // 2

    write(1.0)
    with pytest.raises(OcclusionCancelled) as cut:
        occlusion.heatmap(image, WINDOW, STRIDES, target=1, on_progress=half)
    again = occlusion.heatmap(image, WINDOW, STRIDES, target=1, resume=cut.value.partial)
    assert bool(again.measured.all())
    write(2.0)
    with pytest.raises(InputError, match="resume"):
        occlusion.heatmap(image, WINDOW, STRIDES, target=1, resume=cut.value.partial)
    write(1.0)
    occlusion.heatmap(image, WINDOW, STRIDES, target=1, resume=cut.value.partial)
