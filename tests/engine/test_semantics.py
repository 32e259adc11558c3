"""What is computed, how often, and what the result may depend on."""

from __future__ import annotations

import gc
import re
import weakref

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from support.tiny_models import (
    Segmenter,
    SmallCNN,
    SmallViT,
    assert_close,
    assert_like_captum,
    full_inference,
    incremental,
    output_scale,
    peak_bytes,
)
from support.truth import brute_force, geometry
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import krypton_engine.attr.explain
from krypton_engine import FallbackWarning, InputError, KryptonOcclusion
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.planning import proof

WINDOW, STRIDES = (3, 7, 6), (3, 5, 4)
aten = torch.ops.aten


class Rows(TorchDispatchMode):
    """Notes how many rows each call of a linear layer or a convolution gets.

    In `SmallCNN` a row of ``linear`` is one answer; a row of ``convolution`` one box or one whole image.
    """

    def __init__(self):
        super().__init__()
        self.linear, self.convolution = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is aten.addmm.default:
            self.linear.append(args[1].shape[0])
        elif function is aten.convolution.default:
            self.convolution.append(args[0].shape[0])
        return function(*args, **(kwargs or {}))


@pytest.fixture
def count(monkeypatch):
    """How many answers each run of the loop over positions took; captures and their proofs are outside it."""
    counts = []
    run = krypton_engine.attr.explain.run

    def counting(*args, **kwargs):
        with Rows() as rows:
            run(*args, **kwargs)
        counts.append(sum(rows.linear))

    monkeypatch.setattr("krypton_engine.attr.explain.run", counting)
    return counts


@pytest.fixture
def explainer(cnn):
    return KryptonOcclusion(cnn, executor="reference")


# --- what costs nothing -------------------------------------------------------------------------------


def test_every_position_is_computed_once(count, explainer, image):
    heatmap = explainer.heatmap(image, WINDOW, STRIDES)
    assert count == [heatmap.values.numel()]


def test_a_position_that_changes_nothing_costs_nothing(count, explainer):
    x = torch.zeros(1, 3, 24, 20)
    x[:, :, 10:14, 8:13] = torch.randn(1, 3, 4, 5)
    heatmap = explainer.heatmap(x, (3, 6, 6), (3, 1, 1), target=1)
    rows, columns = heatmap.positions[..., 0], heatmap.positions[..., 1]
    touches = (rows < 14) & (rows + 6 > 10) & (columns < 13) & (columns + 6 > 8)
    assert 0 < int(touches.sum()) < touches.numel() / 2
    assert count[0] <= int(touches.sum())
    assert bool((heatmap.values[~touches] == heatmap.base).all()), "exactly the base, without rounding"
    assert bool((heatmap.drop[~touches] == 0).all())
    assert bool((heatmap.values[touches] != heatmap.base).any())
    assert bool(heatmap.measured.all())


@pytest.mark.parametrize("baseline", ["number", "tensor"])
def test_an_image_that_is_its_baseline_costs_nothing(count, explainer, image, baseline):
    x, baselines = (torch.full_like(image, 0.7), 0.7) if baseline == "number" else (image, image.clone())
    heatmap = explainer.heatmap(x, WINDOW, STRIDES, baselines=baselines, target=1)
    assert bool((heatmap.values == heatmap.base).all())
    assert float(explainer.attribute(x, WINDOW, STRIDES, baselines=baselines, target=1).abs().max()) == 0
    assert count == [0, 0]


def test_positions_that_change_the_same_cells_are_computed_once(count, explainer):
    x = torch.zeros(1, 3, 24, 20)
    x[:, :, 11, 9] = 1
    x[:, 1, 12, 10] = 2
    heatmap = explainer.heatmap(x, (3, 6, 6), (3, 1, 1), target=1)
    # A window holds both pixels, the first or the second alone: beside it, above it, or diagonally.
    assert count == [3]
    theirs = brute_force(explainer.forward_func, x, *geometry(heatmap))[:, 1].reshape(heatmap.values.shape)
    assert_close(heatmap.values, theirs, float(heatmap.base.abs()))
    assert len(torch.unique(heatmap.values)) == 4


def test_a_watched_run_computes_no_more(count, explainer):
    x = torch.zeros(1, 3, 24, 20)
    x[:, :, 11, 9] = 1
    explainer.heatmap(x, (3, 6, 6), (3, 1, 1), target=1, on_progress=lambda *_: None)
    assert count == [1]


def test_only_the_region_is_computed(count, explainer, image):
    heatmap = explainer.heatmap(image, (3, 6, 6), (3, 1, 1), region=(0, 0, 2, 3))
    assert count == [int(heatmap.measured.sum())] == [6]


def test_full_inference_skips_what_changes_nothing_too():
    model, calls = SmallViT(), []

    def forward(x):
        if not torch._C._functorch.is_functorch_wrapped_tensor(x):  # the recorder's
            calls.extend(x)
        return model(x) if float(x.sum()) < 1e9 else x  # a branch on values: there is no graph

    x = torch.zeros(1, 3, 24, 24)
    x[:, :, 11:13, 9:11] = 1
    with full_inference():
        heatmap = KryptonOcclusion(forward).heatmap(x, (3, 4, 4), (3, 1, 1), target=1)
    calls = [x for x in calls if type(x) is torch.Tensor]  # not the tracer's
    different = len(torch.unique(torch.stack(calls), dim=0))
    changing = int((heatmap.drop != 0).sum())
    assert changing == 25
    assert different == 10  # the image and its nine distinct remains: any corner, side, or all of 2 x 2 cells
    assert len(calls) <= 25
    np.testing.assert_allclose(
        heatmap.values.flatten(),
        brute_force(model, x, *geometry(heatmap))[:, 1],
        rtol=0,
        atol=1e-5,
    )


# --- what the result does not depend on ---------------------------------------------------------------


@pytest.fixture(scope="module")
def exact():
    """A float64 model, where only rounding in the last of 16 digits may differ."""
    torch.manual_seed(8)
    return SmallCNN().double(), torch.randn(2, 3, 24, 20).double()


@pytest.mark.parametrize("evaluations", [1, 2, 5, 1000])
def test_not_on_perturbations_per_eval(exact, cnn, images, evaluations):
    for model, x, tolerance in ((cnn, images, 1e-6), (*exact, 1e-7)):  # attributions are float32
        occlusion = KryptonOcclusion(model)
        with incremental():
            expected = occlusion.attribute(x, WINDOW, STRIDES, target=1)
            mine = occlusion.attribute(x, WINDOW, STRIDES, target=1, perturbations_per_eval=evaluations)
        assert_close(mine, expected, output_scale(model, x), tolerance)


def test_not_on_the_schedule_nor_on_who_watches(exact):
    model, x = exact
    occlusion = KryptonOcclusion(model)
    expected = occlusion.heatmap(x[:1], WINDOW, (3, 2, 2), target=1)
    for variant in (
        {"schedule": "coarse to fine"},
        {"on_progress": lambda *_: None},
        {"schedule": "coarse to fine", "on_progress": lambda *_: None},
        {"classes": "all"},
        {"region": (0, 0, 24, 20)},
        {"activation": lambda outputs: outputs},
    ):
        heatmap = occlusion.heatmap(x[:1], WINDOW, (3, 2, 2), target=1, **variant)
        assert_close(heatmap.values, expected.values, float(expected.base.abs()), 1e-13)


def test_not_on_the_other_examples(exact):
    model, x = exact
    occlusion = KryptonOcclusion(model)
    together = occlusion.attribute(x, WINDOW, STRIDES, target=[1, 2])
    for row, target in enumerate([1, 2]):
        alone = occlusion.attribute(x[row : row + 1], WINDOW, STRIDES, target=target)
        assert_close(together[row : row + 1], alone, output_scale(model, x), 1e-7)


def test_not_on_earlier_calls(cnn, image, images):
    fresh = KryptonOcclusion(cnn).attribute(image, WINDOW, STRIDES, target=1)
    occlusion = KryptonOcclusion(cnn)
    occlusion.attribute(images, (1, 5, 5), (1, 4, 4), baselines=0.3, target=[0, 1, 2])
    occlusion.heatmap(images[:1], WINDOW, (3, 7, 6), region=(0, 0, 3, 3))
    assert torch.equal(occlusion.attribute(image, WINDOW, STRIDES, target=1), fresh)


# --- gradients ----------------------------------------------------------------------------------------


class Marked(torch.autograd.Function):
    """The same numbers, with a mark that lives as long as their autograd graph."""

    @staticmethod
    def forward(ctx, numbers, mark):
        ctx.mark = mark
        return numbers.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Mark:
    pass


def marked(numbers, marks):
    mark = Mark()
    marks.append(weakref.ref(mark))
    return Marked.apply(numbers, mark)


def test_maps_and_tunings_keep_no_autograd_graph(cnn, image):
    """Of the image, the baseline, an argument, the outputs or the activation: each has a graph."""
    marks = []

    def model(x, scale):
        with torch.enable_grad():
            return marked(cnn(x) * scale, marks)

    def activation(outputs):
        with torch.enable_grad():
            return marked(outputs * torch.ones(5, requires_grad=True), marks)

    def answers(x, baseline, scale):
        occlusion = KryptonOcclusion(model)
        exact = occlusion.heatmap(x, WINDOW, STRIDES, baseline, 1, scale, activation=activation)
        asked = x, WINDOW, (3, 3, 3), baseline, 1, scale
        approximate = occlusion.heatmap(*asked, activation=activation, ssim_target=0.5)
        verified = approximate.verify(occlusion, 0.1)
        samples = [x, x / 2]
        tuning = occlusion.tune(samples, *asked[1:], activation=activation, confidence=0.5)
        attributed = occlusion.attribute(x, WINDOW, STRIDES, baseline, 1, scale)
        return exact, verified, tuning, attributed, occlusion  # which keeps what its maps were asked

    with torch.no_grad(), full_inference():
        plain = answers(image, torch.zeros_like(image), torch.tensor(2.0))
        marks.clear()
    with torch.enable_grad(), full_inference():
        given = (image, torch.zeros_like(image), torch.tensor(2.0))
        found = answers(*(marked(each.clone().requires_grad_(), marks) for each in given))
        del given
        gc.collect()
    assert len(marks) > 10 and not any(mark() for mark in marks)
    assert torch.equal(found[0].values, plain[0].values) and torch.equal(found[3], plain[3])
    assert not any(values.requires_grad for values in (found[0].values, found[1].values, found[3]))
    assert len(found[2].images) == 2


def test_a_map_builder_keeps_no_autograd_graph():
    window, numbers = SlidingWindow((4,), (2,), (2,)), torch.tensor([[1.0, 2.0]], requires_grad=True)
    weights = torch.tensor([3.0, 4.0], requires_grad=True)
    builder = MapBuilder(window, numbers, lambda o: o[:, 1], activate=lambda o: o * weights)
    builder.record(np.array([0]), numbers * 2)
    builder.record_cheaply(np.array([1]), numbers * 3)
    kept = [builder.heatmap().values, builder.drops(), *builder.kept(), builder.kept_of(numbers)]
    assert not any(each.requires_grad for each in kept)
    assert builder.so_far()[0][0] == 16 and builder.cheap()[1] == 24
    assert builder.scalar(numbers).requires_grad  # which trimming differentiates


# --- memory -------------------------------------------------------------------------------------------


def smallest_budget(model, x, window, strides):
    """Fewest bytes that are accepted, found by halving."""
    low, high = 1, 2**31
    while high - low > 1024:
        middle = (low + high) // 2
        try:
            KryptonOcclusion(model, "reference", middle).heatmap(x, window, strides, region=(0, 0, 1, 1))
            high = middle
        except InputError:
            low = middle
    return high


def test_the_budget_bounds_the_batch_and_changes_nothing_else(exact):
    model, x = exact
    x = x[:1]
    expected = KryptonOcclusion(model).heatmap(x, WINDOW, (3, 2, 2), target=1)
    least = smallest_budget(model, x, WINDOW, (3, 2, 2))
    batches = []
    for budget in (least, least + 2**19, 2**31):
        with torch.no_grad(), Rows() as rows:
            heatmap = KryptonOcclusion(model, "reference", budget).heatmap(x, WINDOW, (3, 2, 2), target=1)
        batches.append(max(rows.convolution))
        assert_close(heatmap.values, expected.values, float(expected.base.abs()), 1e-13)
    assert batches[0] < batches[1] < batches[2] <= expected.values.numel()


class Aside(nn.Module):
    """A value that a convolution reads around its box, and a linear layer as a whole, turned round."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 15, padding=7), nn.Conv2d(4, 1, 3)
        self.head = nn.Linear(4 * 8 * 8, 2)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head(x.permute(0, 2, 3, 1).flatten(1)) + self.second(x).mean((1, 2, 3))[:, None]


def test_groups_that_wait_for_the_rest_of_the_model_stay_as_they_are(monkeypatch):
    monkeypatch.setattr("krypton_engine.executors.reference.session.ReferenceSession.largest_batch", 8)
    model, x = Aside().eval().double(), torch.randn(1, 3, 8, 8, dtype=torch.float64)
    occlusion = KryptonOcclusion(model, executor="reference")
    heatmap = occlusion.heatmap(x, (3, 2, 2), (3, 1, 1), classes="all")
    expected = brute_force(model, x, *geometry(heatmap)).reshape(7, 7, 2)
    assert_close(heatmap.outputs, expected, float(expected.abs().max()), 1e-13)


@pytest.mark.parametrize("spare", [0, 8 * 2**20, 64 * 2**20], ids=["none", "8 MiB", "64 MiB"])
def test_the_budget_is_kept(spare):
    model, x = Segmenter(), torch.randn(1, 3, 96, 80)
    window, strides = (3, 16, 16), (3, 6, 6)
    budget = smallest_budget(model, x, window, strides) + spare
    occlusion = KryptonOcclusion(model, "reference", budget)
    with incremental():
        peak = peak_bytes(lambda: occlusion.heatmap(x, window, strides, target=(1, 40, 40)))
    assert peak <= budget


def test_the_budget_is_kept_by_full_inference():
    model, x = SmallViT(size=96), torch.randn(1, 3, 96, 96)
    occlusion = KryptonOcclusion(model, memory_budget=192 * 2**20)
    with full_inference():
        peak = peak_bytes(lambda: occlusion.heatmap(x, (3, 16, 16), (3, 12, 12), target=1))
    assert peak <= 192 * 2**20


class Broad(nn.Module):
    """Large values before the pooling; ``after`` says what is made of the output."""

    def __init__(self, after):
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 8, 8, stride=8)
        self.head, self.after = nn.Linear(8, 4), after
        self.eval()

    def forward(self, x):
        x = self.stem(x)
        x = self.down(x.relu() * x.sigmoid() + x.tanh())
        return self.after(self.head(x.relu().mean((2, 3))))


def crowd(x):
    """Many values of 4 MiB a row that are held together, from a frontier on."""
    parts = [x.softmax(1)[:, :1].repeat(1, 2**20) * i for i in range(12)]
    return torch.cat([part.mean(1, keepdim=True) for part in reversed(parts)], dim=1)


AFTER = {
    "each row by itself": (lambda y: y, incremental),
    "rows that feel each other": (lambda y: y * y.softmax(0), full_inference),
    "rows that feel each other in one order": (lambda y: y.cummax(0).values, full_inference),
}


def refused_below(model, x, window, strides):
    """Fewest bytes that a model asks for, in words: nothing is run, and so nothing is proved."""
    with pytest.raises(InputError, match="MiB") as refused:
        KryptonOcclusion(model, "reference", 1).heatmap(x, window, strides)
    mebibytes = re.findall(r"([\d.]+) MiB", refused.value.problem)
    return int(1.01 * sum(map(float, mebibytes)) * 2**20)


@pytest.mark.parametrize("kind", AFTER)
def test_the_budget_is_kept_where_rows_are_proved(kind):
    """Three rows of the large values would not fit it: these are computed one by one."""
    (after, expected), x = AFTER[kind], torch.randn(1, 3, 448, 448)
    model, window = Broad(after), (3, 224, 224)
    budget, maps = refused_below(model, x, window, window), []
    occlusion = KryptonOcclusion(model, "reference", budget)
    with expected():
        peak = peak_bytes(lambda: maps.append(occlusion.attribute(x, window, window, target=1)))
    theirs = Occlusion(model).attribute(x, window, window, target=1)
    assert peak <= budget and torch.allclose(maps[0], theirs, rtol=0, atol=1e-5)


def test_rows_that_no_budget_holds_are_not_computed_together():
    model, x, window = Broad(crowd), torch.randn(1, 3, 64, 64), (3, 16, 16)
    small = KryptonOcclusion(model, "reference", refused_below(model, x, window, window))
    with pytest.warns(FallbackWarning, match="reads across the batch.*memory_budget leaves"):
        mine = small.attribute(x, window, window, target=1)
    assert torch.allclose(mine, Occlusion(model).attribute(x, window, window, target=1), atol=1e-5)
    with incremental():  # the reason was the budget, not the model
        again = KryptonOcclusion(model, "reference").attribute(x, window, window, target=1)
    assert torch.allclose(mine, again, atol=1e-5)


# --- numbers that are none ----------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["auto", "reference"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_not_a_number_spreads_as_in_pytorch(segmenter, image, value, executor):
    """Finite where no NaN reaches, and where a window hides it as if it were not there."""
    x = image.clone()
    x[0, 1, 5, 4] = value
    target = (2, 12, 12)
    occlusion = KryptonOcclusion(segmenter, executor=executor)
    with incremental():
        far, near = (occlusion.heatmap(x, WINDOW, STRIDES, target=t) for t in (target, (2, 6, 5)))
    for heatmap, (channel, row, column) in ((far, target), (near, (2, 6, 5))):
        outputs = brute_force(segmenter, x, *geometry(heatmap))[:, channel, row, column]
        assert torch.equal(heatmap.values.flatten().isfinite(), outputs.isfinite())
        finite = outputs.isfinite()
        assert_close(heatmap.values.flatten()[finite], outputs[finite], 1.0)
    assert bool(far.values.isfinite().all())
    assert not bool(near.values.isfinite().all()) and bool(near.values.isfinite().any())


@pytest.mark.parametrize("executor", ["auto", "reference"])
def test_not_a_number_through_a_classifier(cnn, image, executor):
    x = image.clone()
    x[0, 1, 5, 4] = float("nan")
    occlusion = KryptonOcclusion(cnn, executor=executor)
    with incremental():
        heatmap = occlusion.heatmap(x, WINDOW, STRIDES, target=1)
    assert heatmap.plan is not None and "reference" in heatmap.plan.executor
    outputs = brute_force(cnn, x, *geometry(heatmap))[:, 1].reshape(heatmap.values.shape)
    assert bool(outputs.isfinite().any()) and not bool(outputs.isfinite().all())
    assert torch.equal(heatmap.values.isnan(), outputs.isnan())
    assert_close(heatmap.values, outputs, output_scale(cnn, image))


@pytest.mark.parametrize("executor", ["auto", "reference"])
def test_what_overflows_within_the_network(image, executor):
    """A baseline that is finite, and infinite after a layer; ReLU6 makes it finite again."""
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU6(), nn.Flatten(),
        nn.Linear(16 * 24 * 20, 3),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[1].weight.fill_(10.0)
        model[1].weight[8:].fill_(-10.0)
        model[0].weight.abs_()
    occlusion = KryptonOcclusion(model, executor=executor)
    with incremental():
        heatmap = occlusion.heatmap(image, WINDOW, STRIDES, 3e37, target=1)
        tame = occlusion.heatmap(image, WINDOW, STRIDES, 3.0, target=1)
    outputs = brute_force(model, image, *geometry(heatmap), 3e37)[:, 1].reshape(heatmap.values.shape)
    with torch.no_grad():
        assert bool(model[:2](torch.full_like(image, 3e37)).isinf().any())
    assert bool(outputs.isfinite().all())
    assert_close(heatmap.values, outputs, 1.0)
    # A session of its own: the next one is the engine's again.
    assert tame.plan is not None and "not finite" not in tame.plan.executor


def test_an_unoccluded_nan_is_captums_nan(segmenter, image):
    """Where no window touches the NaN, Captum's arithmetic is the same as ours."""
    x = image.clone()
    x[0, 1, 23, 19] = float("nan")
    theirs = Occlusion(segmenter).attribute(x, WINDOW, STRIDES, target=(2, 4, 4))
    mine = KryptonOcclusion(segmenter).attribute(x, WINDOW, STRIDES, target=(2, 4, 4))
    assert torch.equal(mine[..., :16, :14].isnan(), theirs[..., :16, :14].isnan())
    assert_close(mine[..., :16, :14], theirs[..., :16, :14], 1.0)


@pytest.mark.parametrize("executor", ["auto", "reference"])
def test_a_baseline_of_nan(segmenter, image, executor):
    with incremental():
        assert_nan_baseline = KryptonOcclusion(segmenter, executor).heatmap(
            image, WINDOW, STRIDES, baselines=float("nan"), target=(2, 12, 12)
        )
    outputs = brute_force(segmenter, image, *geometry(assert_nan_baseline), float("nan"))[:, 2, 12, 12]
    assert torch.equal(assert_nan_baseline.values.flatten().isnan(), outputs.isnan())


# --- executors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["auto", "reference"])
def test_every_executor_gives_captums_numbers(cnn, images, executor):
    occlusion = KryptonOcclusion(cnn, executor=executor)
    with incremental():
        assert_like_captum(cnn, images, WINDOW, STRIDES, occlusion=occlusion, target=1)


def test_where_nothing_is_gained_auto_runs_in_full_and_the_reference_insists(image):
    model = SmallViT()
    x = torch.randn(1, 3, 24, 24)
    with full_inference():
        assert_like_captum(model, x, WINDOW, STRIDES, target=1)
    with incremental():
        assert_like_captum(
            model, x, WINDOW, STRIDES, occlusion=KryptonOcclusion(model, executor="reference"), target=1
        )


def test_a_plan_says_what_runs(cnn, image):
    occlusion = KryptonOcclusion(cnn)
    with incremental():
        plan = occlusion.heatmap(image, WINDOW, STRIDES).plan
    assert plan is not None and plan.incremental
    text = str(occlusion.plan(image, WINDOW, STRIDES))
    assert "incrementally" in text and "redundancy ratio" in text
    vit = KryptonOcclusion(SmallViT()).plan(torch.randn(1, 3, 24, 24), WINDOW, STRIDES)
    assert not vit.incremental and "batched full inference" in str(vit)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_the_proof_can_fail_in_any_precision(dtype):
    """Two outputs that differ by an eighth are never taken for the same."""
    eps = torch.finfo(dtype).eps
    assert eps < proof.summation(eps) <= 1 / 8
