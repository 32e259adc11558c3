"""Captures: what is captured, what is not, and that a stale or wrong one never makes a wrong number."""

from __future__ import annotations

import array
import functools
import gc
import threading
import warnings
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from support.tiny_models import (
    SmallCNN,
    SmallViT,
    assert_close,
    assert_like_captum,
    full_inference,
    incremental,
    output_scale,
    settle,
)
from support.truth import brute_force
from torch import nn
from torch.nn.utils import parametrize

from krypton_engine import FallbackWarning, KryptonOcclusion
from krypton_engine.planning.cache import Source, capture

WINDOW, STRIDES = (3, 7, 6), (3, 5, 4)


@pytest.fixture
def exports(monkeypatch):
    """Counts calls of torch.export."""
    calls = []
    export = torch.export.export

    def counting(*args, **kwargs):
        calls.append(args)
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counting)
    return calls


# --- stale captures -----------------------------------------------------------------------------------


def data_write(model):
    def change():
        model.body.weight.data.mul_(-1.5)

    return model, change


def replaced_parameter(model):
    def change():
        model.head.weight = nn.Parameter(torch.randn_like(model.head.weight))

    return model, change


def replaced_submodule(model):
    def change():
        model.body = nn.Conv2d(12, 16, 3, padding=1).eval()

    return model, change


def replaced_buffer(model):
    def change():
        model.norm.running_mean = torch.ones(12)

    return model, change


def loaded_state(model):
    state = SmallCNN().state_dict()
    return model, lambda: model.load_state_dict(state)


def assigned_state(model):
    state = SmallCNN().state_dict()
    return model, lambda: model.load_state_dict(state, assign=True)


def forward_hook(model):
    return model, lambda: model.body.register_forward_hook(lambda module, args, output: output.neg())


def forward_pre_hook(model):
    return model, lambda: model.body.register_forward_pre_hook(lambda module, args: (args[0] * 2,))


def removed_hook(model):
    handle = model.body.register_forward_hook(lambda module, args, output: output.neg())
    return model, handle.remove


def parametrisation(model):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    def change():
        parametrize.register_parametrization(model.body, "weight", Double())
        model.eval()

    return model, change


def replaced_forward(model):
    plain = model.forward

    def change():
        model.forward = lambda x: plain(x) ** 2

    return model, change


def python_attribute(model):
    model.gain = 1.0

    def forward(x):
        return model(x) * model.gain

    def change():
        model.gain = 3.0

    return forward, change


def closure_number(model, gain=1.0, other=3.0):
    def change():
        nonlocal gain
        gain = other

    return lambda x: model(x) * gain, change


def closure_tensor(model):
    return closure_number(model, torch.tensor(1.0), torch.tensor(3.0))


def closure_module(model):
    other = SmallCNN()

    def forward(x):
        return model(x) + other(x)

    def change():
        nonlocal other
        other = SmallCNN()

    return forward, change


def closure_list(model):
    gains = [1.0]

    def change():
        gains[0] = 3.0

    return lambda x: model(x) * gains[0], change


def a_global(model):
    global GAIN
    GAIN = 1.0

    def forward(x):
        return model(x) * GAIN

    def change():
        global GAIN
        GAIN = 3.0

    return forward, change


def default_argument(model):
    def forward(x, gain=1.0):
        return model(x) * gain

    def change():
        forward.__defaults__ = (3.0,)

    return forward, change


CHANGES = [
    data_write, replaced_parameter, replaced_submodule, replaced_buffer, loaded_state, assigned_state,
    forward_hook, forward_pre_hook, removed_hook, parametrisation, replaced_forward, python_attribute,
    closure_number, closure_tensor, closure_module, closure_list, a_global, default_argument,
]  # fmt: skip


@pytest.mark.parametrize("changed", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_model_is_captured_again(changed, images):
    forward, change = changed(SmallCNN())
    occlusion = KryptonOcclusion(forward)
    with incremental():
        before = assert_like_captum(forward, images, WINDOW, STRIDES, occlusion=occlusion, target=1)
    change()
    with incremental():
        after = assert_like_captum(forward, images, WINDOW, STRIDES, occlusion=occlusion, target=1)
        assert_like_captum(forward, images, WINDOW, STRIDES, target=1)
    assert float((before - after).abs().max()) > 1e-3, "the change did not change anything"


def test_another_type(images):
    model = SmallCNN()
    occlusion = KryptonOcclusion(model)
    with incremental():
        for dtype in (torch.float32, torch.float64, torch.float32):
            model.to(dtype)
            assert_like_captum(model, images.to(dtype), WINDOW, STRIDES, occlusion=occlusion, target=1)
            assert_like_captum(model, images.to(dtype), WINDOW, STRIDES, target=1)


def test_a_change_that_only_occluded_images_show(image):
    """The un-occluded image has no negative cell, so its output cannot tell the two models apart."""
    model = SmallCNN()
    floor = array.array("d", [-9.0])  # where nobody looks

    def forward(x):
        return model(x.clamp_min(floor[0]))

    x = image.abs()
    occlusion = KryptonOcclusion(forward)
    with incremental():
        assert_like_captum(forward, x, WINDOW, STRIDES, occlusion=occlusion, baselines=-1, target=1)
        floor[0] = -0.1
        assert_like_captum(forward, x, WINDOW, STRIDES, occlusion=occlusion, baselines=-1, target=1)


def test_a_change_that_only_the_second_example_shows(images):
    """Each example proves itself; where a later one cannot, all begin again with a new capture."""
    model = SmallCNN()
    floor = array.array("d", [-9.0])  # where nobody looks

    def forward(x):
        return model(x.clamp_min(floor[0]))

    x = images[:2].abs()
    baselines = torch.tensor([0.0, -1.0]).view(2, 1, 1, 1).expand_as(x)
    occlusion = KryptonOcclusion(forward)
    with incremental():
        assert_like_captum(forward, x, WINDOW, STRIDES, occlusion=occlusion, baselines=baselines, target=1)
    floor[0] = -0.1
    with incremental():
        assert_like_captum(forward, x, WINDOW, STRIDES, occlusion=occlusion, baselines=baselines, target=1)


def test_a_model_that_trains_on(images):
    model = SmallCNN()
    occlusion = KryptonOcclusion(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model.train()
        F.cross_entropy(model(images), torch.tensor([0, 1, 2])).backward()
        optimiser.step()
        model.eval()
        with incremental():
            assert_like_captum(model, images, WINDOW, STRIDES, occlusion=occlusion, target=1)


@pytest.mark.parametrize("size", [0.0, 1e-4])
def test_an_output_near_zero_is_no_disagreement(cnn, image, size):
    """What cancels in the un-occluded output leaves only rounding, which must not count as a wrong graph."""
    with torch.no_grad():
        base = cnn(image) - size
    occlusion = KryptonOcclusion(lambda x: cnn(x) - base)
    with incremental():
        mine = occlusion.attribute(image, WINDOW, STRIDES, target=1)
    assert_close(mine, Occlusion(cnn).attribute(image, WINDOW, STRIDES, target=1), output_scale(cnn, image))


class Amplifier(nn.Module):
    """A network that blows up what differs from its answer to one image, which for that one is rounding."""

    def __init__(self, image, factor):
        super().__init__()
        self.model, self.factor = SmallCNN(), factor
        with torch.no_grad():
            self.answer = self.model(image) + 0.001 / factor
        self.eval()

    def forward(self, x):
        return torch.tanh((self.model(x) - self.answer) * self.factor)


def test_rounding_that_a_model_amplifies_is_no_disagreement(image):
    """Krypton and PyTorch are as far apart as two good orders of summation are after a network like that."""
    model = Amplifier(image, 3e4)
    with incremental():
        mine = KryptonOcclusion(model).attribute(image, WINDOW, STRIDES, target=1)
    assert_close(mine, Occlusion(model).attribute(image, WINDOW, STRIDES, target=1), 1, 0.05)


def test_an_output_of_nothing_but_rounding(image):
    with pytest.warns(FallbackWarning, match="largely rounding"):
        KryptonOcclusion(Amplifier(image, 3e6)).attribute(image, WINDOW, STRIDES, target=1)


def test_a_wrong_graph_of_a_model_that_amplifies(image):
    model = Amplifier(image, 3e4)
    occlusion = KryptonOcclusion(lambda x: model(x))
    with incremental():
        occlusion.attribute(image, WINDOW, STRIDES, target=1)
        model.answer = model.answer + 0.1 / model.factor
        mine = occlusion.attribute(image, WINDOW, STRIDES, target=1)
    assert_close(mine, Occlusion(model).attribute(image, WINDOW, STRIDES, target=1), 1, 0.05)


def test_a_random_model_amplifies_nothing(image):
    model = SmallCNN()
    with pytest.warns(FallbackWarning, match="disagrees"):
        KryptonOcclusion(lambda x: model(x) + torch.randn(()) / 100).attribute(
            image, WINDOW, STRIDES, target=1
        )


# --- what a graph cannot say --------------------------------------------------------------------------


def test_a_branch_on_the_batch(image, images):
    model = SmallCNN()

    def forward(x):
        return model(x) * (2 if x.shape[0] > 1 else 1)

    for x in (image, images):
        with full_inference():
            assert_like_captum(forward, x, WINDOW, STRIDES, target=1)


def test_a_branch_on_the_values(image):
    """Two positions that agree do not show it: only windows on the bright corner take the other branch."""
    model = SmallCNN()
    x = image.clone()
    x[:, :, -4:, -4:] = 10

    def forward(x):
        return model(x) if x.mean() > 0.2 else -model(x)

    with full_inference():
        assert_like_captum(forward, x, WINDOW, STRIDES, target=1)


READS_VALUES = {
    "tolist": lambda y: max(y.amax((1, 2)).flatten().tolist()),
    "numpy": lambda y: y.detach().numpy().max(),
    "array": lambda y: np.asarray(y.detach()).max(),
    "item": lambda y: y.max().item(),
}


@pytest.mark.parametrize("kind", READS_VALUES)
def test_a_decision_by_values_that_no_operator_shows(kind):
    """What is decided while a graph is recorded would be decided for good."""
    model, x = SmallCNN(), 0.1 * torch.randn(1, 3, 24, 20)
    x[..., 4:6, 4:6] += 6
    forward = lambda y: model(y) if READS_VALUES[kind](y) > 3 else -model(y)  # noqa: E731
    with pytest.warns(FallbackWarning, match="full inference"):
        found = KryptonOcclusion(forward).heatmap(x, (3, 8, 8), (3, 4, 4), target=1)
    truth = brute_force(forward, x, (3, 8, 8), (3, 4, 4))[:, 1]
    assert float(truth.max()) * float(truth.min()) < 0, "both branches are taken"
    torch.testing.assert_close(found.values.flatten(), truth, rtol=0, atol=1e-5)


def test_a_batch_size_written_down(image):
    model = SmallCNN()

    def forward(x):
        return model(x.reshape(1, 3, 24, 20))

    with full_inference():
        assert_like_captum(forward, image, WINDOW, STRIDES, target=1)


def test_the_mean_over_the_batch(images):
    model = SmallCNN()
    with full_inference():
        assert_like_captum(lambda x: model(x - x.mean(0)), images, WINDOW, STRIDES, target=1)


def test_the_mean_over_a_batch_of_one(image):
    """Every output is that of a black image: the map is flat, and reading across copies would show."""
    model = SmallCNN()
    with full_inference():
        mine = KryptonOcclusion(lambda x: model(x - x.mean(0))).attribute(image, WINDOW, STRIDES, target=1)
    assert_close(mine, torch.zeros_like(mine), output_scale(model, image))


def test_the_mean_over_the_batch_where_little_changes(images):
    """Most windows change nothing, so a proof has to choose its positions."""
    model = SmallCNN()
    x = images.clone()
    x[:, :, 6:] = 0
    with full_inference():
        assert_like_captum(lambda x: model(x - x.mean(0)), x, WINDOW, STRIDES, target=1)


def test_batch_statistics(images):
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12, track_running_stats=False), SmallCNN(12)
    ).eval()
    with full_inference():
        assert_like_captum(model, images, WINDOW, STRIDES, target=1)


def test_dropout_that_stays_on(image):
    model = SmallCNN()
    with full_inference():
        mine = KryptonOcclusion(lambda x: F.dropout(model(x), training=True)).attribute(
            image, WINDOW, STRIDES, target=1
        )
    assert mine.isfinite().all() and mine.shape == image.shape


def test_dropout_in_the_middle_that_stays_on(image):
    model = SmallCNN()
    occlusion = KryptonOcclusion(lambda x: model(F.dropout(x, training=True)))
    with full_inference():
        mine = occlusion.attribute(image, WINDOW, STRIDES, target=1)
    assert mine.isfinite().all()


def test_attention_runs_in_full_with_one_warning(images):
    model, x = SmallViT(size=20), images[..., :20, :]
    occlusion = KryptonOcclusion(model)
    with full_inference():
        assert_like_captum(model, x, WINDOW, STRIDES, occlusion=occlusion, evaluations=(None, 2), target=1)
        assert_like_captum(model, x[:1], WINDOW, STRIDES, occlusion=occlusion, target=1)


def test_the_warning_says_why(images):
    with pytest.warns(FallbackWarning, match="full inference.*sum reads across the batch"):
        KryptonOcclusion(lambda x: x.sum()).attribute(images, WINDOW, STRIDES)


@pytest.mark.parametrize("call", ["attribute", "heatmap"])
def test_the_warning_points_at_the_users_line(call):
    with pytest.warns(FallbackWarning) as caught:
        getattr(KryptonOcclusion(SmallViT()), call)(torch.randn(1, 3, 24, 24), WINDOW, STRIDES, target=1)
    assert [warning.filename for warning in caught] == [__file__]


def test_what_the_export_warns_of_is_not_shown(cnn, image):
    def warns(x):
        if torch.compiler.is_exporting():
            warnings.warn("of its own doing", FutureWarning, stacklevel=1)
        return cnn(x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KryptonOcclusion(warns).attribute(image, WINDOW, STRIDES, target=1)


def test_an_export_that_fails_does_not_print(capfd, image):
    model = SmallCNN()
    with full_inference():
        KryptonOcclusion(lambda x: model(x) if x.mean() > -9 else -model(x)).attribute(
            image, WINDOW, target=1
        )
    out, err = capfd.readouterr()
    assert out == err == ""


# --- training mode ------------------------------------------------------------------------------------


class WithDropout(SmallCNN):
    def forward(self, x):
        return F.dropout(super().forward(x), training=self.training)


def flags(model):
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: lambda x: m(x)], ids=["model", "lambda"])
def test_training_mode_is_evaluated_without_a_trace(wrap, images):
    model = WithDropout().train()
    model.body.eval()
    before, state = flags(model), {name: t.clone() for name, t in model.state_dict().items()}
    occlusion = KryptonOcclusion(wrap(model))
    with full_inference(1):
        mine = occlusion.attribute(images, WINDOW, STRIDES, target=1)
        again = occlusion.attribute(images, WINDOW, STRIDES, target=1)
        occlusion.heatmap(images[:1], WINDOW, STRIDES)
    assert flags(model) == before
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    theirs = Occlusion(model.eval()).attribute(images, WINDOW, STRIDES, target=1)
    for attribution in (mine, again):
        assert_close(attribution, theirs, output_scale(model, images))


def test_training_flags_come_back_after_an_error(image):
    model = SmallCNN().train()
    model.body.eval()
    before = flags(model)
    with pytest.raises(RuntimeError), pytest.warns(FallbackWarning):
        KryptonOcclusion(model).attribute(image[:, :2], (2, 7, 6), target=1)
    assert flags(model) == before


def test_training_flags_come_back_with_the_last_of_several_threads(image):
    """One ends while the other still runs: what it has not computed yet is evaluated all the same."""
    model = WithDropout().train()
    before = flags(model)
    alone = KryptonOcclusion(model).heatmap(image, WINDOW, STRIDES, target=1)
    first, second = threading.Event(), threading.Event()
    found = []

    def wait(*_):
        first.set()
        assert second.wait(60)

    def slow():
        occlusion = KryptonOcclusion(model, executor="reference")
        found.append(
            occlusion.heatmap(
                image, WINDOW, STRIDES, target=1, schedule="coarse to fine", on_progress=lambda *_: wait()
            )
        )

    thread = threading.Thread(target=slow)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        thread.start()
        assert first.wait(60)
        KryptonOcclusion(model).heatmap(image, WINDOW, STRIDES, target=1)
        assert not any(flags(model).values()), "the other thread still explains it"
        second.set()
        thread.join(60)
    assert flags(model) == before
    assert torch.allclose(found[0].values, alone.values, atol=1e-5)


# --- every kind of callable ---------------------------------------------------------------------------


class Wrapper:
    """A callable object, and methods, around a model."""

    def __init__(self, model):
        self.model = model

    def __call__(self, x):
        return self.model(x).softmax(1)

    def method(self, x):
        return self.model(x) * 2


def gained(model, gain, x, *, offset=0):
    return model(x) * gain + offset


def summed(model, other, x):
    return model(x) + other(x)


KINDS = {
    "softmax in a lambda": lambda model: lambda x: model(x).softmax(1),
    "log-softmax in a lambda": lambda model: lambda x: F.log_softmax(model(x), dim=-1),
    "partial": lambda model: functools.partial(gained, model, 2.0),
    "partial with keywords": lambda model: functools.partial(gained, model, 2.0, offset=1),
    "bound method of the model": lambda model: lambda x: model.features(x).flatten(1),
    "the model's forward": lambda model: model.forward,
    "callable object": Wrapper,
    "method of an object": lambda model: Wrapper(model).method,
    "nested": lambda model: nn.Sequential(nn.Sequential(nn.Identity(), model), nn.Softmax(1)).eval(),
    "a tuple's first": lambda model: lambda x: (model(x), x)[0],
    "a type and back": lambda model: lambda x: model(x.float().to(torch.float32)).double().float(),
    "moved to where it is": lambda model: lambda x: model(x.cpu().contiguous()),
    "detached": lambda model: lambda x: model(x.detach()).clone(),
    "normalised": lambda model: lambda x: model((x - torch.tensor([[[0.1]], [[0.2]], [[0.3]]])) / 0.5),
    "two models": lambda model: functools.partial(summed, model, SmallCNN()),
    "of the image's mean": lambda model: lambda x: model(x) + x.mean((1, 2, 3))[:, None] * 0.1,
    "flipped and added": lambda model: lambda x: model(x) + model(x.flip(3)),
    "checked": lambda model: lambda x: model(x) if x.shape[1] == 3 else None,
    "without gradients": lambda model: torch.no_grad()(lambda x: model(x)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_callable_is_incremental(kind, cnn, images):
    forward = KINDS[kind](cnn)
    with incremental():
        assert_like_captum(forward, images, WINDOW, STRIDES, target=1)


# --- captures are kept, and let go --------------------------------------------------------------------


def test_a_capture_is_used_again(exports, images):
    model = SmallCNN()
    first = KryptonOcclusion(model)
    first.attribute(images[:1], WINDOW, STRIDES, target=1)
    assert len(exports) == 1
    first.attribute(images[1:2], WINDOW, STRIDES, target=2)  # another image
    first.attribute(images, (1, 8, 8), (1, 3, 3), target=2)  # a batch, and another window
    second = KryptonOcclusion(model)
    second.attribute(images[1:], WINDOW, STRIDES, baselines=1, target=1)
    second.heatmap(images[:1], WINDOW, STRIDES)
    assert len(exports) == 1
    second.attribute(images[..., :16], WINDOW, STRIDES, target=1)  # another size
    assert len(exports) == 2
    first.attribute(images, WINDOW, STRIDES, target=1)  # and the first is still there
    assert len(exports) == 2


def test_a_lambda_made_again_uses_the_capture_again(exports, images):
    model = SmallCNN()
    for _ in range(3):
        KryptonOcclusion(lambda x: model(x).softmax(1)).attribute(images, WINDOW, STRIDES, target=1)
    assert len(exports) == 1


def test_what_cannot_be_captured_is_not_tried_thrice(exports, images):
    """Twice, since the first time something else in the process may have failed it."""
    model = SmallCNN()

    def forward(x):
        return model(x) if x.mean() > -9 else -model(x)

    occlusion = KryptonOcclusion(forward)
    with full_inference():
        occlusion.attribute(images, WINDOW, STRIDES, target=1)
        for target in (2, 3, 4):
            occlusion.attribute(images, WINDOW, STRIDES, target=target)
    assert len(exports) == 2


def test_different_lambdas_around_one_model(cnn, images):
    with incremental():
        for forward in (lambda x: cnn(x), lambda x: cnn(x) ** 2, lambda x: -cnn(x)):
            assert_like_captum(forward, images, WINDOW, STRIDES, target=1)


def on_values(model):
    return lambda x: model(x) if x.mean() > -9 else -model(x)


# --- an average pooling before a convolution ----------------------------------------------------------


class PooledBranch(nn.Module):
    """An Inception block's last branch: average pooling, then fewer channels by a kernel of one cell."""

    def __init__(self, counts_padding, bias):
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=counts_padding)
        self.branch = nn.Conv2d(10, 4, 1, bias=bias)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 22 * 18, 5)
        settle(self)

    def forward(self, x):
        return self.head(self.norm(self.branch(self.pool(self.stem(x).relu()))).relu().flatten(1))


@pytest.mark.parametrize("counts_padding", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_an_average_pooling_swaps_with_the_convolution_after_it(counts_padding, bias, image):
    model = PooledBranch(counts_padding, bias)
    (pool,) = (n for n in capture(Source(model, (image,))).nodes if n.op == "avg_pool2d")
    assert pool.shape[1] == 4
    for executor in ("reference", "auto"):
        occlusion = KryptonOcclusion(model, executor=executor)
        with incremental():
            assert_like_captum(model, image, WINDOW, STRIDES, target=1, occlusion=occlusion)
    with incremental():
        assert_like_captum(model.double(), image.double(), WINDOW, STRIDES, target=1)


@pytest.mark.parametrize(
    "convolution",
    [
        {"kernel_size": 3, "padding": 1},
        {"stride": 2, "padding": (11, 9)},
        {"groups": 2},
        {"out_channels": 12},
    ],
    ids=str,
)
def test_where_that_would_be_wrong_or_dear_it_stays(convolution, image):
    model = PooledBranch(True, True)
    model.branch = nn.Conv2d(10, **{"out_channels": 4, "kernel_size": 1} | convolution)
    model.norm = nn.Identity()
    model.head = nn.Linear(model.branch.out_channels * 22 * 18, 5)
    model.eval()
    (pool,) = (n for n in capture(Source(model, (image,))).nodes if n.op == "avg_pool2d")
    assert pool.shape[1] == 10
    assert_like_captum(model, image, WINDOW, STRIDES, target=1)


@pytest.mark.filterwarnings("ignore::krypton_engine.FallbackWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        lambda model: lambda x: model(x).softmax(1),
        lambda model: model.forward,
        lambda model: functools.partial(gained, model, 2.0),
        on_values,
    ],
    ids=["model", "lambda", "method", "partial", "not capturable"],
)
def test_a_capture_dies_with_its_model(wrap, image):
    model = SmallCNN()
    KryptonOcclusion(wrap(model)).attribute(image, WINDOW, STRIDES, target=1)
    gone = [weakref.ref(model), weakref.ref(model.head.weight), weakref.ref(model.norm.running_mean)]
    del model
    gc.collect()
    gc.collect()  # what the model held in cycles of its own
    assert [ref() is None for ref in gone] == [True] * 3


def test_an_image_is_not_kept(cnn):
    x = torch.randn(1, 3, 24, 20)
    occlusion = KryptonOcclusion(cnn)
    occlusion.attribute(x, WINDOW, STRIDES, target=1)
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None


# --- batch norms in convolutions ----------------------------------------------------------------------


class Graphs(nn.Module):
    """Convolutions and batch norms in every order; ``kind`` says which."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.conv = nn.Conv2d(
            12, 12, 3, padding=1, bias=kind != "without bias", groups=3 if kind == "groups" else 1
        )
        self.first, self.second = nn.BatchNorm2d(12), nn.BatchNorm2d(12, affine=kind != "not affine")
        self.head = nn.Linear(12, 4)
        settle(self)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(getattr(self, "_" + self.kind.replace(" ", "_"))(x).relu().mean((2, 3)))

    def _two_readers(self, x):
        y = self.conv(x)
        return self.first(y) + y

    def _two_norms_read_it(self, x):
        y = self.conv(x)
        return self.first(y) - self.second(y)

    def _called_twice(self, x):
        return self.second(self.conv(self.first(self.conv(x)).relu()))

    def _norm_called_twice(self, x):
        return self.first(self.conv(self.first(self.conv(x)).relu()))

    def _norm_before(self, x):
        return self.conv(self.first(x))

    def _norm_of_a_norm(self, x):
        return self.second(self.first(self.conv(x)))

    def _norm_of_a_sum(self, x):
        return self.first(self.conv(x) + x)

    def _without_bias(self, x):
        return self.first(self.conv(x))

    def _not_affine(self, x):
        return self.second(self.conv(x))

    def _groups(self, x):
        return self.first(self.conv(x))

    def _normed_weight(self, x):
        weight = self.conv.weight / self.conv.weight.norm()
        return self.first(F.conv2d(x, weight, self.conv.bias, padding=1))


GRAPHS = [name for name in vars(Graphs) if name.startswith("_") and not name.startswith("__")]


@pytest.mark.parametrize("kind", [name[1:].replace("_", " ") for name in GRAPHS])
def test_batch_norms_are_folded_only_where_that_is_right(kind, images):
    model = Graphs(kind)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with incremental():
        occlusion = KryptonOcclusion(model, executor="reference")
        assert_like_captum(model, images, WINDOW, STRIDES, occlusion=occlusion, target=1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
