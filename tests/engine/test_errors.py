"""Arguments that cannot be used: one message that names them, before any work starts."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from support.tiny_models import SmallCNN, tuple_of

from krypton_engine import InputError, KryptonOcclusion
from krypton_engine.errors import OutdatedError

WINDOW, STRIDES = (3, 7, 6), (3, 5, 4)


@pytest.fixture
def counted(cnn):
    """A forward function that counts how often it really runs; tracing does not count."""

    def forward(*inputs):
        if not torch.compiler.is_exporting():
            forward.calls += 1
        return cnn(inputs[0])

    forward.calls = 0
    return forward


def refuses(forward, call, *args, names, **kwargs):
    """An `InputError` of at most four lines that holds all of ``names``, and no occluded forward pass."""
    occlusion = KryptonOcclusion(forward)
    with warnings.catch_warnings(), pytest.raises(InputError) as caught:
        warnings.simplefilter("error")
        getattr(occlusion, call)(*args, **kwargs)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, AssertionError)
    message = str(caught.value)
    for name in names:
        assert name in message
    assert len(message.splitlines()) <= 4
    assert forward.calls <= 1, "occluded images were run before the argument was refused"


# --- windows ------------------------------------------------------------------------------------------

# What it is: window, strides, and what the message says.
BAD_WINDOWS = {
    "window higher than the image": ((3, 25, 6), 1, ["sliding_window_shapes", "(3, 25, 6)", "(3, 24, 20)"]),
    "window wider than the image": ((3, 7, 21), 1, ["sliding_window_shapes", "(3, 7, 21)", "(3, 24, 20)"]),
    "window over too many channels": ((4, 7, 6), 1, ["sliding_window_shapes", "(4, 7, 6)", "(3, 24, 20)"]),
    "window of size zero": ((3, 0, 6), 1, ["sliding_window_shapes", "(3, 0, 6)", "positive"]),
    "window of negative size": ((3, -7, 6), 1, ["sliding_window_shapes", "(3, -7, 6)", "positive"]),
    "window without channels": ((7, 6), 1, ["sliding_window_shapes", "(7, 6)", "3"]),
    "window with the batch": ((1, 3, 7, 6), 1, ["sliding_window_shapes", "(1, 3, 7, 6)", "3"]),
    "window that is a number": (7, 1, ["sliding_window_shapes", "7"]),
    "window that is a list": ([3, 7, 6], 1, ["sliding_window_shapes", "[3, 7, 6]"]),
    "window of fractions": ((3, 7.5, 6), 1, ["sliding_window_shapes", "7.5"]),
    "window of no size": ((), 1, ["sliding_window_shapes", "()"]),
    "window of None": (None, 1, ["sliding_window_shapes", "None"]),
    "window of words": (("3", "7", "6"), 1, ["sliding_window_shapes"]),
    "two windows for one image": ((WINDOW, WINDOW), 1, ["sliding_window_shapes"]),
    "stride larger than the window": (WINDOW, (3, 8, 4), ["strides", "(3, 8, 4)", "(3, 7, 6)"]),
    "one stride, larger than the window": (WINDOW, 7, ["strides", "7", "(3, 7, 6)"]),
    "stride of zero": (WINDOW, (3, 0, 4), ["strides", "(3, 0, 4)", "positive"]),
    "one stride of zero": (WINDOW, 0, ["strides", "0", "positive"]),
    "negative stride": (WINDOW, (3, -5, 4), ["strides", "(3, -5, 4)", "positive"]),
    "two strides for three axes": (WINDOW, (5, 4), ["strides", "(5, 4)"]),
    "four strides for three axes": (WINDOW, (1, 3, 5, 4), ["strides", "(1, 3, 5, 4)"]),
    "stride of fractions": (WINDOW, (3, 2.5, 4), ["strides", "2.5"]),
    "one stride of a fraction": (WINDOW, 2.5, ["strides", "2.5"]),
    "stride of words": (WINDOW, "dense", ["strides", "dense"]),
}


@pytest.mark.parametrize("call", ["attribute", "heatmap", "plan"])
@pytest.mark.parametrize("case", BAD_WINDOWS)
def test_windows(counted, image, case, call):
    window, strides, names = BAD_WINDOWS[case]
    refuses(counted, call, image, window, strides, names=names)
    assert counted.calls == 0


@pytest.mark.parametrize("given", ["resnet18", None, 3])
def test_what_cannot_be_called(given):
    with pytest.raises(InputError, match="forward_func is .*accepted: a model"):
        KryptonOcclusion(given)


# --- inputs -------------------------------------------------------------------------------------------

BAD_INPUTS = {
    "empty batch": (torch.zeros(0, 3, 24, 20), ["inputs", "(0, 3, 24, 20)"]),
    "empty image": (torch.zeros(1, 3, 0, 20), ["inputs", "(3, 0, 20)"]),
    "number in a tensor": (torch.tensor(3.0), ["inputs", "()"]),
    "list": ([[1.0, 2.0]], ["inputs", "list"]),
    "none": (None, ["inputs", "NoneType"]),
    "tuple of nothing": ((), ["inputs"]),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_inputs(counted, case):
    inputs, names = BAD_INPUTS[case]
    refuses(counted, "attribute", inputs, WINDOW, STRIDES, names=names)
    assert counted.calls == 0


@pytest.mark.parametrize(
    "x",
    [torch.zeros(2, 3, 24, 20), torch.zeros(0, 3, 24, 20), torch.tensor(1.0), (torch.zeros(1, 3, 24, 20),)],
)
def test_heatmap_takes_one_example(counted, x):
    refuses(counted, "heatmap", x, WINDOW, STRIDES, names=["x is", "one example"])
    assert counted.calls == 0


def test_heatmap_wants_one_row(image):
    def forward(x):
        forward.calls += 1
        return x.mean((0, 2, 3))

    forward.calls = 0
    refuses(forward, "heatmap", image, WINDOW, STRIDES, names=["forward", "shape (3,)", "one row"])


# --- baselines ----------------------------------------------------------------------------------------

BAD_BASELINES = {
    "another height": (torch.zeros(1, 3, 23, 20), ["baselines", "(1, 3, 23, 20)", "(1, 3, 24, 20)"]),
    "another batch": (torch.zeros(2, 3, 24, 20), ["baselines", "(2, 3, 24, 20)", "(1, 3, 24, 20)"]),
    "a dimension more": (torch.zeros(2, 1, 3, 24, 20), ["baselines", "(2, 1, 3, 24, 20)"]),
    "two for one input": ((0.0, 1.0), ["baselines", "2", "1"]),
    "another word": ("fog", ["baseline"]),
    "a set": ({0.0}, ["baseline"]),
}


@pytest.mark.parametrize("call", ["attribute", "heatmap"])
@pytest.mark.parametrize("case", BAD_BASELINES)
def test_baselines(counted, image, case, call):
    baselines, names = BAD_BASELINES[case]
    refuses(counted, call, image, WINDOW, STRIDES, baselines, target=1, names=names)


@pytest.mark.parametrize("filling", ["blur", [0.0]], ids=["a word", "a list"])
def test_fillings_are_of_heatmaps_alone(counted, image, filling):
    refuses(counted, "attribute", image, WINDOW, STRIDES, filling, target=1, names=["baseline"])


# --- targets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["attribute", "heatmap"])
@pytest.mark.parametrize(
    "target", [5, -6, (1, 1), (5,), torch.tensor(5), [5], [1, 2], torch.tensor([1, 2]), 1.5, "cat"], ids=str
)
def test_targets(counted, image, target, call):
    told = target.item() if isinstance(target, torch.Tensor) and not target.ndim else target
    names = ["target", repr(told)[:12], "(1, 5)"]
    refuses(counted, call, image, WINDOW, STRIDES, target=target, names=names)


@pytest.mark.parametrize("target", [[0, 1], [0, 1, 5], torch.tensor([0, 1, 5]), torch.zeros(3, 1)], ids=str)
def test_targets_of_a_batch(counted, images, target):
    names = ["target", "(3, 5)", "3 examples"]
    refuses(counted, "attribute", images, WINDOW, STRIDES, target=target, names=names)


# --- everything else ----------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluations", [0, -1, 1.5, "all"], ids=str)
def test_perturbations_per_eval(counted, image, evaluations):
    names = ["perturbations_per_eval", repr(evaluations), "None", "1"]
    refuses(
        counted,
        "attribute",
        image,
        WINDOW,
        STRIDES,
        target=1,
        perturbations_per_eval=evaluations,
        names=names,
    )
    assert counted.calls == 0


@pytest.mark.parametrize(
    ("argument", "value", "accepted"),
    [
        ("activation", "sigmoid", ["'softmax'", "callable"]),
        ("activation", 3, ["'softmax'", "callable"]),
        ("classes", "some", ["'predicted'", "'all'"]),
        ("classes", 5, ["'predicted'", "'all'"]),
        ("schedule", "random", ["'rows'", "'coarse to fine'"]),
        ("schedule", None, ["'rows'", "'coarse to fine'"]),
        ("region", (0, 0, 25, 20), ["(3, 24, 20)"]),
        ("region", (5, 5, 5, 9), ["empty"]),
        ("region", (1, 2, 3), ["box"]),
        ("region", torch.ones(24, 21, dtype=torch.bool), ["(24, 21)", "(3, 24, 20)"]),
        ("region", torch.zeros(24, 20, dtype=torch.bool), ["no"]),
        ("region", "centre", ["box"]),
    ],
)
def test_choices_of_a_heatmap(counted, image, argument, value, accepted):
    refuses(counted, "heatmap", image, WINDOW, STRIDES, names=[argument, *accepted], **{argument: value})


def test_an_activation_that_drops_the_rows(counted, image):
    names = ["activation", "(1, 5)"]
    refuses(counted, "heatmap", image, WINDOW, STRIDES, activation=lambda outputs: outputs.sum(), names=names)


@pytest.mark.parametrize("executor", ["gpu", "", None, 3, ["reference"]], ids=str)
def test_executors(executor):
    with pytest.raises(InputError, match="executor.*'auto', 'cuda', 'native', 'reference'") as caught:
        KryptonOcclusion(SmallCNN(), executor=executor)
    assert repr(executor) in str(caught.value)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), "2 GiB"], ids=str)
def test_memory_budgets(budget):
    with pytest.raises(InputError, match="memory_budget.*bytes"):
        KryptonOcclusion(SmallCNN(), memory_budget=budget)


@pytest.mark.parametrize("call", ["attribute", "heatmap"])
def test_a_memory_budget_that_is_too_small(counted, image, call):
    occlusion = KryptonOcclusion(counted, memory_budget=1000)
    with pytest.raises(InputError, match=r"memory_budget is .*MiB"):
        getattr(occlusion, call)(image, WINDOW, STRIDES, target=1)
    assert counted.calls <= 1


def test_every_output_of_many_positions_within_the_budget(image):
    head = torch.randn(5, 300_000)
    model = SmallCNN()
    occlusion = KryptonOcclusion(lambda x: model(x) @ head, memory_budget=256 * 2**20)
    with pytest.raises(InputError, match=r'classes is "all".*memory_budget'):
        occlusion.heatmap(image, (3, 2, 2), (3, 1, 1), classes="all")


@pytest.mark.parametrize("call", ["attribute", "heatmap"])
def test_what_the_model_raises_comes_through(image, call):
    def forward(x):
        raise RuntimeError("a fault of the model")

    with pytest.raises(RuntimeError, match="a fault of the model"):
        getattr(KryptonOcclusion(forward), call)(image, WINDOW, STRIDES, target=1)


def test_nothing_is_left_behind(counted, image):
    """A refused call changes nothing for the next one."""
    occlusion = KryptonOcclusion(counted)
    expected = occlusion.attribute(image, WINDOW, STRIDES, target=1)
    for bad in ({"target": 9}, {"target": 1, "baselines": torch.zeros(7)}):
        with pytest.raises(InputError):
            occlusion.attribute(image, WINDOW, STRIDES, **bad)
    for one, other in zip(
        tuple_of(occlusion.attribute(image, WINDOW, STRIDES, target=1)), tuple_of(expected), strict=True
    ):
        assert torch.equal(one, other)


def test_an_error_is_its_fields(image):
    """Argument, what was given and what is accepted, also after a trip to another process."""
    with pytest.raises(InputError) as caught:
        KryptonOcclusion(SmallCNN()).heatmap(image, WINDOW, STRIDES, ssim_target=1.5)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value)), copy.deepcopy(caught.value)):
        assert type(error) is InputError and str(error) == str(caught.value)
        assert (error.argument, error.given) == ("ssim_target", "1.5") and "at most 1" in error.accepted
    outdated = OutdatedError("resume", "a map", problem="of another model")
    assert isinstance(outdated.named("--resume"), OutdatedError)
    assert str(outdated.named("--resume")) == "--resume is a map, of another model"
