"""What is kept of a model between calls: nothing of it is wrong, too much, or lost without need.

Right values are Captum's, one perturbation an evaluation.
"""

from __future__ import annotations

import array
import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from support.tiny_models import SmallCNN, incremental
from torch import nn

from krypton_engine import FallbackWarning, KryptonOcclusion

WINDOW, STRIDES = (3, 7, 6), (3, 5, 4)


@pytest.fixture
def exports(monkeypatch):
    calls, export = [], torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: (calls.append(1), export(*a, **k))[1])
    return calls


def assert_right(forward, x, target=1, tolerance=0.02, **more):
    mine = KryptonOcclusion(forward).attribute(x, WINDOW, STRIDES, target=target, **more)
    theirs = Occlusion(forward).attribute(x, WINDOW, STRIDES, target=target, **more)
    span = float(theirs.abs().max())
    assert span > 0 and float((mine - theirs).abs().max()) <= tolerance * span


class Named(nn.Module):
    """A model with an attribute whose name is a global's too."""

    def __init__(self):
        super().__init__()
        self.shadowed = SmallCNN()
        self.eval()

    def forward(self, x):
        return self.shadowed(x)


def test_a_global_named_as_an_attribute_is_not_read(exports, monkeypatch):
    """As in a notebook, whose variables change from cell to cell."""
    model, x = Named(), torch.randn(1, 3, 32, 28)
    for value in (1, [2.0], np.ones(3), object()):
        monkeypatch.setitem(globals(), "shadowed", value)
        KryptonOcclusion(model).attribute(x, WINDOW, STRIDES, target=1)
    assert len(exports) == 1


# --- what forward functions leave behind ----------------------------------------------------------------


class Keeping(nn.Module):
    """A model that keeps what it computes, in one of the ways in which people do that."""

    def __init__(self, way):
        super().__init__()
        self.model, self.kept, self.log = SmallCNN(), None, []
        log = []
        hooks = {
            "a closure's list": lambda module, args, output: log.append(output),
            "last output": lambda module, args, output: setattr(self, "kept", output.detach()),
            "a list": lambda module, args, output: self.log.append(output),
            "a list of pairs": lambda module, args, output: self.log.append((len(self.log), output.detach())),
            "by name": lambda module, args, output: vars(self).setdefault("seen", {}).update(stem=output),
        }
        layer = self.model if way == "last output" else self.model.body
        layer.register_forward_hook(hooks[way])
        self.eval()

    def forward(self, x):
        return self.model(x)


@pytest.mark.parametrize("way", ["last output", "a list", "a closure's list", "a list of pairs", "by name"])
def test_a_forward_that_keeps_what_it_computes(way, image, exports):
    model = Keeping(way)
    with incremental():
        for _ in range(6):
            assert_right(model, image)
    assert len(exports) <= 4, "now and then once more, ever more seldom"


def test_a_large_map_of_features_that_is_kept(exports):
    """Larger than what is compared number by number."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 40, 36)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    )
    kept = {}
    model.eval()[1].register_forward_hook(lambda module, args, output: kept.update(features=output))
    with incremental():
        for _ in range(6):
            assert_right(model, x + len(exports))
    assert len(exports) <= 4


UNUSUAL = {
    "float8": lambda: torch.randn(4).to(torch.float8_e4m3fn),
    "sparse": lambda: torch.eye(4).to_sparse(),
    "sparse rows": lambda: torch.eye(4).to_sparse_csr(),
    "conjugate": lambda: torch.ones(4, dtype=torch.complex64).conj(),
    "quantised": lambda: torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8),
    "mkldnn": lambda: torch.randn(4).to_mkldnn(),
    "of no device": lambda: torch.empty(4, device="meta"),
    "nothing": lambda: torch.empty(0),
    "not finite": lambda: torch.full((2000,), 6e4, dtype=torch.float16),
    "not initialised": lambda: nn.parameter.UninitializedBuffer(),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_a_buffer_of_an_unusual_kind(kind, image):
    model = SmallCNN()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.register_buffer("extra", UNUSUAL[kind]())
        for _ in range(2):
            assert_right(model, image)


def test_a_lazy_layer_that_nobody_has_called(image):
    model = SmallCNN()
    model.lazy = nn.LazyLinear(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_right(model, image)


# --- what counts ----------------------------------------------------------------------------------------


class Gained(nn.Module):
    """A few numbers by which the features are multiplied."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Linear(12 * 24 * 20, 5)
        self.register_buffer("gains", torch.ones(12, dtype=dtype))
        self.eval()

    def forward(self, x):
        return self.head((self.conv(x).relu() * self.gains.float()[:, None, None]).flatten(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e5m2])
def test_numbers_written_past_the_counter(dtype, image, exports):
    """In another order, with the same sum; and from infinity to something finite."""
    model = Gained(dtype)
    with torch.no_grad():
        model.gains.copy_(torch.linspace(0.25, 3, 12).to(dtype))
    with incremental():
        assert_right(model, image)
        model.gains.data.copy_(model.gains.data.float().flip(0).to(dtype))
        assert_right(model, image)
    assert len(exports) == 2, "seen before anything was computed"


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_numbers_of_a_closure_written_to_while_a_counter_runs(kind, image):
    """A graph holds those of its day: it never comes to look like the one that follows it."""
    model = SmallCNN()
    gains = torch.linspace(0.5, 1.5, 5) if kind == "tensor" else np.linspace(0.5, 1.5, 5, dtype=np.float32)
    calls = [0]

    def forward(x):
        calls[0] += 1
        return model(x) * torch.as_tensor(gains)

    for factor in (1, 1, 3, 1 / 3, 2, 5):
        gains[:] = gains * factor
        assert_right(forward, image)


class Leveled(nn.Module):
    """A plain number that counts from 30 on."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.model, self.level = SmallCNN(), 1
        self.eval()

    def forward(self, x):
        return self.model(x) * (max(self.level, 30) / 30)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("seed", [7, pytest.param(4, marks=pytest.mark.slow)])
def test_a_number_that_is_shown_to_count_counts(seed, dtype, image, exports):
    model, x = Leveled(seed).to(dtype), (image * 2).to(dtype)
    with incremental():
        for model.level in (1, 2, 40, 33, 2, 40, 60):
            before = len(exports)
            assert_right(model, x, tolerance=0.05)  # three roundings of 8 bits
            if model.level in (33, 60):
                assert len(exports) == before + 1, "a change that is seen is not left to the proof"


def test_a_capture_in_the_very_state_comes_first(image, exports):
    """Other captures may take what differs for idle."""
    model = Leveled(0)
    levels = (1, 2, 40, 41, 2, 41)
    found = []
    with incremental():
        for model.level in levels:
            assert_right(model, image)
            found.append(len(exports))
    assert found[-2:] == [found[3]] * 2, "both are known"


HIDDEN = array.array("d", [1.0])


class Hidden(nn.Module):
    """A factor that no state shows."""

    def __init__(self):
        super().__init__()
        self.model = SmallCNN()
        self.eval()

    def forward(self, x):
        return self.model(x) * float(HIDDEN[0])


def test_a_stale_graph_of_16_bits_is_captured_again(image, exports):
    HIDDEN[0] = 1.0
    model, x = Hidden().bfloat16(), image.bfloat16()
    with incremental():
        assert_right(model, x, tolerance=0.1)
        HIDDEN[0] = 1.5
        for _ in range(3):
            assert_right(model, x, tolerance=0.1)
    assert len(exports) == 2


# --- what lives how long --------------------------------------------------------------------------------


def test_a_model_that_a_function_names_second_is_freed(image):
    first = nn.Identity()

    def behind(model):
        return lambda x: model(first(x))

    def explained(model):
        with incremental():
            assert_right(behind(model), image)
        return model.head.weight.shape

    shape = explained(SmallCNN(classes=97))
    for _ in range(2):  # first the model, then what was kept for it
        gc.collect()
    # A fake, which holds no numbers, may be left in PyTorch.
    tensors = (each for each in gc.get_objects() if type(each) in (torch.Tensor, nn.Parameter))
    assert not [each for each in tensors if each.shape == shape]


@pytest.mark.parametrize("way", ["hook of a parameter", "attribute of a parameter", "hook of a layer"])
def test_a_parameter_that_refers_to_its_model_keeps_nothing_alive(way, image):
    model = SmallCNN()
    if way == "hook of a parameter":
        model.head.weight.register_hook(lambda gradient, model=model: gradient)
    elif way == "attribute of a parameter":
        model.head.weight.owner = model
    else:
        model.body.register_forward_hook(lambda module, args, output, model=model: output * 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        assert_right(model, image)
    freed = weakref.ref(model)
    del model
    gc.collect()
    assert freed() is None
