"""The native executor: as exact as PyTorch, on every instruction set, and taken where it can run."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from support import sessions
from support.activations import check_engine, ends
from support.models import compare, torchvision_case
from support.random_cnns import FEW, build, image_and_baseline, networks, questions
from support.truth import brute_force
from torch import nn

from krypton_engine import FallbackWarning, InputError, KryptonOcclusion
from krypton_engine.executors.base import Opening
from krypton_engine.executors.native import engine
from krypton_engine.executors.native.program import NativeProgram
from krypton_engine.executors.native.session import NativeSession
from krypton_engine.executors.standby import Standby
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.plan import Plan
from krypton_engine.planning.cache import Source, capture

# With KRYPTON_REQUIRE_NATIVE=1, as in CI, a missing engine is a failure.
pytestmark = pytest.mark.skipif(
    bool(engine.MISSING) and "KRYPTON_REQUIRE_NATIVE" not in os.environ, reason=engine.MISSING
)


@pytest.fixture(autouse=True)
def incremental_whatever_it_gains(monkeypatch):
    monkeypatch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)


def no_reference() -> NoReturn:
    raise AssertionError("the engine's numbers are not finite")


def small_cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(),
        nn.Conv2d(20, 36, 3, padding=1, groups=4), nn.SiLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(36, 36, 5, padding=2, groups=36), nn.Hardswish(), nn.Conv2d(36, 40, (1, 7), padding=(0, 3)),
        nn.GELU(), nn.AvgPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(40 * 6 * 6, 50), nn.ReLU(),
        nn.Linear(50, 7),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("name", ["resnet18"])
def test_reference_is_exact_too(name):
    found = compare(torchvision_case(name), executor="reference")
    assert found.heatmap.plan is not None and found.heatmap.plan.executor.startswith("reference (asked for)")
    assert found.exact and found.warnings == (), str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", "inception_v3", "densenet121", "mobilenet_v2", "vgg11_bn"])
def test_reference_is_exact_on_more(name):
    found = compare(torchvision_case(name), executor="reference")
    assert found.exact and found.warnings == (), str(found)


def check_random(data: st.DataObject, rank: int) -> None:
    """Against float64, beside PyTorch's own float32: the rule of `models.Comparison`."""
    network = data.draw(networks(rank), "network")
    question = data.draw(questions(network.shape), "question")
    model = build(network).float()
    note(f"input {network.shape}\n{model}\n{question}")
    x, baseline = image_and_baseline(network.shape, question)
    x = x.float()
    if isinstance(baseline, torch.Tensor):
        baseline = baseline.float()
    singles = brute_force(model, x, question.window, question.strides, baseline)
    doubles = brute_force(
        copy.deepcopy(model).double(),
        x.double(),
        question.window,
        question.strides,
        baseline.double() if isinstance(baseline, torch.Tensor) else baseline,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        heatmap = KryptonOcclusion(model).heatmap(
            x, question.window, question.strides, baseline, classes="all"
        )
    assert heatmap.plan is not None
    event(heatmap.plan.executor.split()[0])
    got = heatmap.values if heatmap.outputs is None else heatmap.outputs
    error = float((got.reshape(doubles.shape) - doubles).abs().max())
    torchs = float((singles - doubles).abs().max())
    assert error <= max(3 * torchs, 1e-6 * float(doubles.abs().max())) + 1e-7, (error, torchs)


def check_many(rank, count, **how):
    unhurried = [HealthCheck.too_slow, HealthCheck.data_too_large]

    @settings(max_examples=count, deadline=None, suppress_health_check=unhurried, **how)
    @given(st.data())
    def run(data):
        check_random(data, rank)

    run()


@pytest.mark.parametrize(("rank", "count"), FEW.items())
def test_random_networks(rank, count):
    check_many(rank, count, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_more_random_networks(rank):
    check_many(rank, 600)


@pytest.mark.parametrize(("target", "args", "kwargs"), ends())
def test_every_epilogue_of_the_graph(target, args, kwargs):
    check_engine("native", target, args, kwargs)


class Levels(nn.Module):
    """Two levels of a U-Net that goes up in both ways, and the mean of the result."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fine, self.coarse = (
            nn.Conv3d(1, 16, 3, padding=1),
            nn.Conv3d(16, 24, (3, 1, 3), padding=(1, 0, 1)),
        )
        self.up, self.smooth = nn.ConvTranspose3d(24, 16, 2, 2), nn.Upsample(scale_factor=2, mode="trilinear")
        self.mix, self.head = nn.Conv3d(16 + 16 + 24, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x):
        fine = self.fine(x).relu()
        coarse = self.coarse(torch.max_pool3d(fine, 2)).relu()
        mixed = self.mix(torch.cat([fine, self.up(coarse), self.smooth(coarse)], 1)).relu()
        return self.head(mixed.mean((2, 3, 4)))


def factorised() -> nn.Module:
    """Kernels of rows and columns, then of depth, with strides: as of R(2+1)D."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 20, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False), nn.BatchNorm3d(20), nn.ReLU(),
        nn.Conv3d(20, 24, (3, 1, 1), 1, (1, 0, 0)), nn.ReLU(),
        nn.Conv3d(24, 24, 3, 2, 1, groups=3), nn.Hardswish(),
        nn.AvgPool3d((1, 2, 2), ceil_mode=True), nn.Conv3d(24, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


def of_signals() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, 16, 7, 2, 3), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(3, 2, 1),
        nn.Conv1d(16, 16, 5, dilation=2, padding=4, groups=16), nn.Conv1d(16, 32, 3, padding=1), nn.GELU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("build", "size", "window"),
    [
        (Levels, (1, 8, 8, 12), (1, 4, 4, 4)),
        (factorised, (3, 8, 30, 26), (3, 2, 6, 6)),
        (of_signals, (2, 200), (2, 16)),
    ],
)
def test_signals_and_volumes(build, size, window):
    """All of the network runs here, and as exactly as in PyTorch."""
    model, x = build().eval(), torch.randn(1, *size, generator=torch.Generator().manual_seed(2))
    strides = (window[0], *(n // 2 for n in window[1:]))
    occlusion = KryptonOcclusion(model, executor="native")
    executor = occlusion.plan(x, window, strides).executor
    assert executor.startswith("native") and "PyTorch" not in executor
    singles = brute_force(model, x, window, strides)
    doubles = brute_force(copy.deepcopy(model).double(), x.double(), window, strides)
    got = occlusion.heatmap(x, window, strides, classes="all").outputs
    assert got is not None
    error, torchs = (float((each - doubles).abs().max()) for each in (got.reshape(doubles.shape), singles))
    assert error <= max(3 * torchs, 1e-6 * float(doubles.abs().max()))


@pytest.mark.parametrize("isa", engine.instruction_sets())
def test_instruction_sets(isa):
    """Every position of a small CNN of all kinds of kernels, cut windows and single channels too."""
    model, x = small_cnn(), torch.randn(1, 3, 21, 23)
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        graph = capture(Source(model, (x,)))
        program = NativeProgram(graph, isa)
        assert program.reason == "" and not program.tail.nodes and program.program.isa == isa
        for shape, strides in (((3, 5, 6), (3, 3, 4)), ((1, 4, 4), (1, 4, 4))):
            window = SlidingWindow((3, 21, 23), shape, strides)
            session = NativeSession(
                program,
                Plan.of(graph, window),
                Opening((x,), torch.tensor(0.5), 2**30),
                Standby(no_reference),
            )
            copies = x.repeat(len(window), 1, 1, 1)
            for copied, box in zip(copies, window.boxes(np.arange(len(window))), strict=True):
                copied[tuple(slice(lo, hi) for lo, hi in box)] = 0.5
            expected, own = exact(copies.double()), model(copies)
            got = sessions.answers(session).outputs
            allowed = max(3 * float((own - expected).abs().max()), 1e-6 * float(expected.abs().max()))
            assert float((got - expected).abs().max()) <= allowed


class Lying(nn.Module):
    """A CNN that takes its images with their dimensions in another order."""

    def __init__(self, order):
        super().__init__()
        self.order, self.first, self.net = order, nn.AvgPool2d((1, 3), 1, (0, 1)), small_cnn()
        self.larger = nn.Upsample((22, 24), mode="bilinear")

    def forward(self, x):
        x = self.larger(self.first(x.permute(0, *self.order)))
        return self.net(x[:, :, 1:, 1:] if x.shape[2] == 22 else x)


LIES = {
    "channels last": (3, 1, 2),
    "on its side": (1, 3, 2),
    "last, on its side": (3, 2, 1),
    "between": (2, 1, 3),
}


@pytest.mark.parametrize("order", LIES.values(), ids=LIES)
@pytest.mark.parametrize("channels", [3, 1])
def test_images_that_lie_otherwise(order, channels):
    """All of them run in the engine, with windows over all channels and over one, exact and trimmed."""
    model = Lying(order).eval()
    lies = [order.index(dim) for dim in (1, 2, 3)]  # of the model's image, by dimension of the input
    x = torch.randn(1, 3, 21, 23).permute(0, *(1 + dim for dim in lies)).contiguous()
    x[:, :7, :7, :2] = 0.25  # in part the baseline already
    shape, strides = (tuple(sizes[dim] for dim in lies) for sizes in ((channels, 5, 6), (channels, 3, 4)))
    occlusion = KryptonOcclusion(model, "native")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        found = occlusion.heatmap(x, shape, strides, 0.25, target=1)
    assert found.plan.executor.startswith("native")
    own = brute_force(model, x, shape, strides, 0.25)[:, 1]
    truth = brute_force(copy.deepcopy(model).double(), x.double(), shape, strides, 0.25)[:, 1]
    allowed = max(3 * float((own - truth).abs().max()), 1e-6 * float(truth.abs().max()))
    assert float((found.values.flatten() - truth).abs().max()) <= allowed

    with torch.no_grad():
        graph = capture(Source(model, (x,)))
        window = SlidingWindow(tuple(x.shape[1:]), shape, strides)
        opening = Opening((x,), torch.tensor(0.25), 2**30)
        program, plan = NativeProgram(graph), Plan.of(graph, window)
        trimmed = program.open(plan, opening).trimmed(0.3, lambda outputs: outputs[:, 1])
        for part in trimmed.compute(plan.window.boxes(np.arange(len(window)))):
            assert part.dropped.any()
            assert float((part.outputs[:, 1] + part.dropped - truth[part.which]).abs().max()) < 0.02


def test_an_image_that_lies_otherwise_with_numbers_that_are_not_finite():
    """The reference executor, which takes over, has the input's own order of dimensions."""
    model, x = Lying((3, 1, 2)).eval(), torch.randn(1, 21, 23, 3)
    x[0, 4, 5, 1] = torch.inf
    found = KryptonOcclusion(model, "native").heatmap(x, (5, 6, 3), (3, 4, 3), target=1)
    own = brute_force(model, x, (5, 6, 3), (3, 4, 3))[:, 1]
    assert own.isfinite().any() and not own.isfinite().all()
    torch.testing.assert_close(found.values.flatten(), own, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_any_list_of_positions():
    """Order, repetitions and batches change nothing beyond rounding."""
    model, x = small_cnn(), torch.randn(1, 3, 21, 23)
    with torch.no_grad():
        graph = capture(Source(model, (x,)))
        window = SlidingWindow((3, 21, 23), (3, 4, 4), (3, 2, 2))
        session = NativeSession(
            NativeProgram(graph),
            Plan.of(graph, window),
            Opening((x,), torch.zeros(1), 2**30),
            Standby(no_reference),
        )
        asked = np.arange(0, len(window), 7)[::-1]
        alone = torch.stack([sessions.answers(session, [p]).outputs[p] for p in asked])
        for limit in (1, 5, None):
            together = sessions.answers(session, np.concatenate([asked, asked[:3]]), limit).outputs
            torch.testing.assert_close(together[asked.copy()], alone, rtol=1e-5, atol=1e-6)


def test_shrinking_drops_rims_and_tells_their_effect():
    """After each pooling, as in design and as in a loop over whole images."""
    torch.manual_seed(0)
    parts = nn.ModuleList([
        nn.Sequential(nn.Conv2d(3, 20, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(20, 24, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        nn.Sequential(nn.Conv2d(24, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4)),
    ])  # fmt: skip
    model, x = nn.Sequential(*parts).eval(), torch.randn(1, 3, 24, 24)
    x[:, :, :10, :10] *= 0.05  # nearly the baseline: of some boxes nothing is left
    window = SlidingWindow((3, 24, 24), (3, 6, 6), (3, 3, 3))

    views, gradients, thresholds = [], [], []
    y = x
    for part in parts[:2]:
        y = part(y)
        views.append(y)
    gradients = list(torch.autograd.grad(parts[2](y)[0, 1], views))
    thresholds = [0.8 * float(view.detach().square().mean().sqrt()) for view in views]

    with torch.no_grad():
        graph = capture(Source(model, (x,)))
        program = NativeProgram(graph)
        sites = [node.index for node in graph.nodes if "pool" in node.op]
        assert set(sites) <= set(program.shrinkable)

        def session(shrinks):
            return NativeSession(
                program,
                Plan.of(graph, window),
                Opening((x,), torch.zeros(1), 2**30),
                Standby(no_reference),
                shrinks,
            )

        def answers(shrinks):
            found = sessions.answers(session(shrinks))
            return found.outputs, found.dropped

        emptied = 0
        expected, effects = torch.empty(len(window), 4), np.zeros(len(window))
        for p, box in enumerate(window.boxes(np.arange(len(window)))):
            y = x.clone()
            y[(0, *(slice(lo, hi) for lo, hi in box))] = 0
            for part, view, gradient, threshold in zip(parts[:2], views, gradients, thresholds, strict=True):
                y = part(y)
                rows, columns = ((y - view).abs().amax((0, 1)) >= threshold).nonzero(as_tuple=True)
                kept = torch.zeros_like(y)
                if len(rows):
                    kept[:, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1
                emptied += not len(rows)
                effects[p] += float((gradient * (y - view) * (1 - kept)).double().sum())
                y = torch.where(kept > 0, y, view)
            expected[p] = parts[2](y)
        exact, nothing = answers({})
        shrunk, dropped = answers(dict(zip(sites, zip(thresholds, gradients, strict=True), strict=True)))
        assert 0 < emptied < len(window) and float((exact - expected).abs().max()) > 1e-3
        torch.testing.assert_close(shrunk, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(dropped, effects, rtol=1e-4, atol=1e-5)
        assert nothing is None
        # Of one scalar the effect explains most of what was dropped.
        missing = (exact - shrunk)[:, 1].numpy()
        assert np.abs(missing - dropped).mean() < 0.5 * np.abs(missing).mean()
        zero, none = answers(dict.fromkeys(sites, (0.0, None)))
        assert torch.equal(zero, exact) and not none.any()
        with pytest.raises(KeyError):
            session({graph.input.index: (1.0, None)})


def test_what_the_engine_lacks_runs_in_pytorch():
    """The engine stops where its vocabulary ends; the rest goes on from what it computed."""

    class Ending(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3))

        def forward(self, x):
            y = self.features(x)
            return y.cumsum(1).erf().amax((2, 3))

    torch.manual_seed(0)
    model, x = Ending().eval(), torch.randn(1, 3, 24, 24)
    plan = KryptonOcclusion(model, executor="native").plan(x, (3, 4, 4), 4)
    assert plan.executor.startswith("native") and "PyTorch in full from" in plan.executor
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        ours = KryptonOcclusion(model, executor="native").attribute(x, (3, 4, 4), 4, target=3)
        theirs = KryptonOcclusion(model, executor="reference").attribute(x, (3, 4, 4), 4, target=3)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "x", "why"),
    [
        (nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 46, 2)),
         torch.randn(1, 2, 2, 2, 2, 6), "axes"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)).double(),
         torch.randn(1, 1, 8, 8).double(), "float32"),
    ],
)  # fmt: skip
def test_what_goes_to_the_reference(model, x, why):
    window = (*x.shape[1:2], *[2] * (x.ndim - 2))
    plan = KryptonOcclusion(model.eval()).plan(x, window)
    assert plan.executor.startswith("reference") and why in plan.executor
    with pytest.warns(FallbackWarning, match=why):
        KryptonOcclusion(model.eval(), executor="native").attribute(x, window, target=1)


def test_memory_budget():
    model, x = small_cnn(), torch.randn(1, 3, 21, 23)
    with pytest.raises(InputError, match=r"memory_budget is 0\.0954 MiB"):
        KryptonOcclusion(model, executor="native", memory_budget=100_000).heatmap(x, (3, 4, 4), 2)


def test_a_small_budget_takes_the_reference():
    """VGG's packed weights would not fit; PyTorch's own do."""
    torch.manual_seed(0)
    wide = nn.Sequential(
        nn.Conv2d(3, 128, 3),
        nn.ReLU(),
        nn.Conv2d(128, 512, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512 * 64, 2),
    ).eval()
    x = torch.randn(1, 3, 12, 12)
    small = KryptonOcclusion(wide, memory_budget=200 * 2**20)
    plan = KryptonOcclusion(wide, memory_budget=5 * 2**20).plan(x, (3, 4, 4), 4)
    assert plan.executor.startswith("reference (memory_budget does not hold")
    assert small.plan(x, (3, 4, 4), 4).executor.startswith("native")


def test_unknown_executor():
    with pytest.raises(InputError, match="'auto', 'cuda', 'native', 'reference'"):
        KryptonOcclusion(small_cnn(), executor="gpu")  # type: ignore[arg-type]


def test_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert engine.threads() == 1
    finally:
        torch.set_num_threads(before)


def test_denormals_cost_nothing_but_themselves():
    """Subnormal activations are flushed, in the engine's threads only."""
    model = nn.Sequential(nn.Conv2d(1, 16, 1, bias=False), nn.Flatten(), nn.Linear(16 * 64, 2)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1e-39)
    x = torch.rand(1, 1, 8, 8)
    heatmap = KryptonOcclusion(model, executor="native").heatmap(x, (1, 2, 2), 2)
    torch.testing.assert_close(heatmap.base, model(x)[0, heatmap.target], rtol=1e-5, atol=1e-6)
    assert torch.tensor(1e-39) > 0, "this thread still has denormal numbers"


@pytest.mark.slow
def test_pure_python_install(tmp_path):
    """``pip install . -C wheel.cmake=false`` builds no engine, and the reference executor runs."""
    root = Path(__file__).resolve().parents[2]
    wheel = [sys.executable, "-m", "pip", "wheel", str(root), "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*wheel, "-C", "wheel.cmake=false"], check=True, capture_output=True)
    (built,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site), str(built)],
        check=True,
        capture_output=True,
    )
    assert not list(site.rglob("_native*.so"))
    script = (
        f"import sys; sys.path[:0] = [{str(site)!r}]; sys.meta_path = [f for f in sys.meta_path "
        "if 'krypton' not in type(f).__module__.lower() and 'ScikitBuild' not in type(f).__name__]\n"
        "import torch, krypton_engine\n"
        f"assert krypton_engine.__file__.startswith({str(site)!r}), krypton_engine.__file__\n"
        "from krypton_engine.executors.native import engine\n"
        "assert 'not installed' in engine.MISSING\n"
        "m = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 900, 2))\n"
        "occlusion = krypton_engine.KryptonOcclusion(m.eval(), executor='native')\n"
        "print(occlusion.plan(torch.rand(1, 1, 32, 32), (1, 4, 4), 4))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "reference" in ran.stdout and "not installed" in ran.stdout


@pytest.mark.slow
def test_a_failing_compile_is_loud(tmp_path):
    """And says which line installs without the engine."""
    root = Path(__file__).resolve().parents[2]
    wheel = [sys.executable, "-m", "pip", "wheel", str(root), "--no-deps", "-w", str(tmp_path)]
    done = subprocess.run(wheel, env={**os.environ, "CXX": "false"}, capture_output=True, text=True)
    assert done.returncode != 0 and not list(tmp_path.glob("*.whl"))
    assert "pip install . -C wheel.cmake=false" in done.stdout + done.stderr
