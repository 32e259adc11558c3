"""The CUDA engine: on a GPU where there is one, and everywhere with its kernels in loops on the host."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from support import sessions
from support.activations import check_engine, ends
from support.models import Case, compare, monai_case, torchvision_case
from support.random_cnns import build, image_and_baseline, networks, questions
from support.tiny_models import SmallCNN, TwoViews, assert_like_captum, incremental
from support.truth import brute_force
from test_clip import Branching, opened
from test_exact_models import slow
from test_exact_random import common
from test_native_kernels import release
from torch import nn

from krypton_engine import FallbackWarning, KryptonOcclusion
from krypton_engine.executors.base import Opening, Unsupported
from krypton_engine.executors.cuda import arena, cuts, engine
from krypton_engine.executors.cuda.clock import Clock
from krypton_engine.executors.cuda.convolutions import Convolutions
from krypton_engine.executors.cuda.executor import EXECUTOR as CUDA
from krypton_engine.executors.cuda.session import CudaSession
from krypton_engine.executors.cuda.walk import Walk
from krypton_engine.executors.reference.program import ReferenceProgram
from krypton_engine.executors.reference.session import ReferenceSession
from krypton_engine.graph.ir import clipped
from krypton_engine.graph.rewrites import fused
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.plan import Plan
from krypton_engine.planning.cache import Source, capture
from krypton_engine.planning.planner import Preparer


@pytest.fixture(scope="session")
def on_the_host(request):
    """The engine's kernels, compiled for the host."""
    (path,) = release(request).glob("_cuda.*")
    spec = importlib.util.spec_from_file_location("_cuda", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """Where the engine runs in this test."""
    monkeypatch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)
    if request.param == "gpu":
        assert not engine.MISSING, engine.MISSING
        monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        return torch.device("cuda")
    monkeypatch.setattr(engine, "_cuda", request.getfixturevalue("on_the_host"))
    monkeypatch.setattr(engine, "MISSING", "")
    monkeypatch.setattr(engine, "DEVICE", "cpu")
    return torch.device("cpu")


@pytest.fixture
def all_on_boxes(monkeypatch):
    """Small networks are faster in full, which would prove nothing."""
    monkeypatch.setattr(CudaSession, "measured_cut", lambda session: None)


@pytest.fixture
def way(request, monkeypatch):
    """How convolutions are computed that can be computed in several ways."""
    taken = []

    def faster(session, ways, *_):
        names = [each.__name__ for each in ways]
        taken.append(request.param in names)
        return names.index(request.param) if taken[-1] else 0

    monkeypatch.setattr(Convolutions, "faster", faster)
    yield request.param
    assert any(taken)


def opened_session(graph, window, x, kind=CudaSession, program=None):
    if program is None:
        program = CUDA.program(graph, Plan.of(graph, window), x.device)
    return kind(program, Plan.of(graph, window), Opening((x,), torch.zeros(1, device=x.device), 2**30))


def answers(session, positions=None):
    found = sessions.answers(session, positions).outputs
    return found if positions is None else found[torch.from_numpy(positions)]


# --- exactness ----------------------------------------------------------------------------------------


def check_drawn(
    data: st.DataObject, rank: int, device: torch.device, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every output for every window in float32, no further from float64 than PyTorch's own float32."""
    network = data.draw(networks(rank), "network")
    asked = data.draw(questions(network.shape), "question")
    way = data.draw(st.integers(0, 1), "way to compute convolutions")
    monkeypatch.setattr(Convolutions, "faster", lambda session, ways, *_: min(way, len(ways) - 1))
    double = build(network)
    note(f"input {network.shape}\n{double}")
    x, baseline = image_and_baseline(network.shape, asked)
    truth = brute_force(double, x, asked.window, asked.strides, baseline)
    single, x = double.float().to(device), x.float().to(device)
    baseline = baseline.float().to(device) if isinstance(baseline, torch.Tensor) else baseline
    torchs = brute_force(single, x, asked.window, asked.strides, baseline).double().cpu()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        heatmap = KryptonOcclusion(single, executor="cuda").heatmap(
            x, asked.window, asked.strides, baseline, classes="all", schedule=asked.schedule
        )
    reasons = [str(w.message) for w in caught if issubclass(w.category, FallbackWarning)]
    # Only what the engine says it has no words for may go to the reference executor.
    assert all("the reference executor runs this model: " in reason for reason in reasons), reasons
    note(f"{reasons}")
    ran.append(not reasons)
    got = (heatmap.values if heatmap.outputs is None else heatmap.outputs).double().reshape(truth.shape)
    scale = max(1.0, float(truth.abs().max()))
    error, own = float((got - truth).abs().max()), float((torchs - truth).abs().max())
    assert error <= max(4 * own, 2e-6 * scale)


@pytest.mark.parametrize(("target", "args", "kwargs"), ends())
def test_every_epilogue_of_the_graph(target, args, kwargs, device, all_on_boxes):
    check_engine("cuda", target, args, kwargs, device)


EXAMPLES = {1: 8, 2: 16, 3: 12}


@pytest.mark.parametrize("rank", EXAMPLES)
def test_random_networks(rank, device, all_on_boxes, monkeypatch):
    ran: list[int] = []

    @settings(common, max_examples=EXAMPLES[rank], derandomize=True)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        check_drawn(data, rank, device, ran, monkeypatch)

    run()
    assert sum(ran) > 0.5 * len(ran), f"{sum(ran)} of {len(ran)} ran on the engine"


MODELS = ("resnet18",)
MORE_MODELS = (
    "inception_v3", "mobilenet_v3_small",
    "densenet121", "convnext_tiny", "resnet50", "vgg11", "googlenet", "mobilenet_v2", "efficientnet_b0",
    "shufflenet_v2_x0_5", "squeezenet1_1", "regnet_y_400mf", "mnasnet0_5", "alexnet",
)  # fmt: skip


def assert_exact(case: Case, device: torch.device) -> None:
    found = compare(case, "cuda", device)
    assert found.map_range > 1e-3 * found.largest
    assert found.exact, str(found)
    assert found.warnings == () and found.heatmap.plan is not None
    assert found.heatmap.plan.executor == "cuda"


@pytest.mark.parametrize("way", ["as_product", *slow(["by_pytorch"])], indirect=True)
@pytest.mark.parametrize("name", [*MODELS, *slow(MORE_MODELS)])
def test_families(name, device, all_on_boxes, way):
    assert_exact(torchvision_case(name), device)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["as_product", "by_pytorch"], indirect=True)
def test_a_volume(device, all_on_boxes, way):
    assert_exact(monai_case("3-D ResNet10"), device)


def test_like_captum(device, all_on_boxes, images):
    with incremental():
        model = SmallCNN().to(device)
        occlusion = KryptonOcclusion(model, executor="cuda")
        x, targets = images.to(device), [1, 2, 3]
        assert_like_captum(model, x, (3, 6, 5), (3, 2, 3), baselines=0.2, target=targets, occlusion=occlusion)


def test_other_inputs_move_on(device, all_on_boxes):
    """What is recorded for one pair of images must not remember the other image of it."""
    model = TwoViews().to(device)
    occlusion = KryptonOcclusion(model, executor="cuda")
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        pair = tuple(
            torch.randn(1, *shape, generator=generator).to(device) for shape in ((3, 20, 16), (1, 18, 22))
        )
        with incremental():
            assert_like_captum(
                model, pair, ((3, 5, 5), (1, 6, 6)), ((3, 4, 4), (1, 4, 4)), target=1, occlusion=occlusion
            )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@torch.no_grad()
def test_half_precision(dtype, device):
    """Within a few roundings of what the model itself does at that precision."""
    double = SmallCNN().double()
    x = torch.randn(1, 3, 24, 20, dtype=torch.float64)
    truth = brute_force(double, x, (3, 6, 5), (3, 3, 3), 0)
    model, x = double.to(device, dtype), x.to(device, dtype)
    own = brute_force(model, x, (3, 6, 5), (3, 3, 3), 0)
    window = SlidingWindow((3, 24, 20), (3, 6, 5), (3, 3, 3))
    found = answers(opened_session(capture(Source(model, (x,))), window, x))
    assert found.dtype == dtype
    assert (found.double() - truth).abs().max() <= 3 * (own.double().cpu() - truth).abs().max()


@torch.no_grad()
def test_autocast(device):
    model, x = SmallCNN().to(device), torch.randn(1, 3, 24, 20).to(device)
    window = SlidingWindow((3, 24, 20), (3, 6, 5), (3, 3, 3))
    truth = brute_force(model, x, window.shape, window.strides, 0).double().cpu()
    with torch.autocast(device.type, torch.bfloat16):
        own = brute_force(model, x, window.shape, window.strides, 0).double().cpu()
        session = opened_session(capture(Source(model, (x,))), window, x)
        found = answers(session).double()
    assert session.basis.views[session.program.graph.frontiers[0].index].table.dtype == torch.bfloat16
    assert (found - truth).abs().max() <= 3 * (own - truth).abs().max()


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("tau", [0.1, 0.5], ids=str)
@torch.no_grad()
def test_clipped_like_the_reference(rank, tau, device):
    model, x, window, _ = opened(rank)
    x[..., ::3] = 0  # as the baseline is, so that less than a whole window changes
    model, x = model.float().to(device), x.float().to(device)
    graph = clipped(capture(Source(model, (x,))), tau)
    expected = answers(opened_session(graph, window, x, ReferenceSession, ReferenceProgram(graph)))
    torch.testing.assert_close(answers(opened_session(graph, window, x)), expected, rtol=1e-5, atol=1e-5)


# --- boxes that are cut -------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.1, 3.0, *slow([0.01, 0.5])])
@pytest.mark.parametrize("rank", [1, 2, 3])
@torch.no_grad()
def test_shrunk_like_the_reference(rank, epsilon, device):
    """Cut at the same values, both drop the same and say so."""
    model, x, window, _ = opened(rank)
    model, x = model.float().to(device), x.float().to(device)
    graph = capture(Source(model, (x,)))
    mine = opened_session(graph, window, x)
    program = ReferenceProgram(graph)
    program.shrinkable = mine.program.shrinkable
    assert len(program.shrinkable) >= 2
    theirs = opened_session(graph, window, x, ReferenceSession, program)
    exact = answers(theirs)
    mine, theirs = (session.trimmed(epsilon, lambda outputs: outputs[:, 1]) for session in (mine, theirs))
    found, expected = sessions.answers(mine), sessions.answers(theirs)
    torch.testing.assert_close(found.outputs, expected.outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.dropped, expected.dropped, rtol=1e-4, atol=1e-5)
    if epsilon >= 0.1:
        assert float((expected.outputs - exact).abs().max()) > 1e-4 and np.abs(found.dropped).max() > 1e-4


@torch.no_grad()
def test_what_is_dropped_is_added_back(device):
    """After the cuts all is linear, so that the first order is all there is."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 5, padding=2), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 3),
        nn.Flatten(), nn.Linear(4 * 22 * 18, 3),
    ).to(device)  # fmt: skip
    x = torch.randn(1, 2, 24, 20).to(device)
    window, graph = SlidingWindow((2, 24, 20), (2, 5, 5), (2, 3, 3)), capture(Source(model, (x,)))
    session = opened_session(graph, window, x)
    shrunk = sessions.answers(session.trimmed(0.8, lambda outputs: outputs[:, 1]))
    found, exact = shrunk.outputs[:, 1].double(), answers(session)[:, 1].double()
    assert float((found - exact).abs().max()) > 1e-3
    torch.testing.assert_close(found + torch.from_numpy(shrunk.dropped), exact, rtol=1e-5, atol=1e-5)


# --- what pays, and what is kept ----------------------------------------------------------------------


def test_the_cheapest_cut():
    assert cuts.cheapest_cut([0, 1, 2, 3], [0, 4, 8, 12]) == 3, "boxes pay all the way"
    assert cuts.cheapest_cut([0, 5, 10, 15], [0, 4, 8, 12]) == 0, "nowhere"
    assert cuts.cheapest_cut([0, 1, 8, 15], [0, 4, 8, 12]) == 1, "at first"
    assert cuts.cheapest_cut([0, 4, 8], [0, 4, 8]) == 2, "boxes, if it is all the same"


def test_in_full_from_any_dominator(device, monkeypatch):
    """Wherever it goes on in full, the numbers stay; and the plan says where."""
    torch.manual_seed(0)
    model, x = Branching(2).eval(), torch.randn(1, 2, 26, 21)
    model(x)
    model, x = model.to(device), x.to(device)
    count = len(fused(capture(Source(model, (x,)))).dominators)
    assert count > 3
    for k in range(count):
        capture(Source(model, (x,)), again=True)  # a new program, which has measured nothing
        monkeypatch.setattr(
            CudaSession, "measured_cut", lambda session, k=k: session.program.graph.dominators[k]
        )
        with incremental():
            occlusion = KryptonOcclusion(model, executor="cuda")
            assert_like_captum(model, x, (2, 4, 4), (2, 3, 3), target=1, occlusion=occlusion)
            plan = occlusion.heatmap(x, (2, 4, 4), (2, 3, 3), target=1).plan
        assert "in full after" in plan.executor


@torch.no_grad()
def test_the_cut_is_measured(device):
    model, x = SmallCNN().to(device), torch.randn(1, 3, 24, 20).to(device)
    window = SlidingWindow((3, 24, 20), (3, 6, 5), (3, 3, 3))
    session = opened_session(capture(Source(model, (x,))), window, x)
    cut = session.measured_cut()
    assert cut is None or cut in session.program.graph.dominators
    assert set(session.program.faster.values()) <= {0, 1} and len(session.program.faster) >= 2
    clock = Clock(device)
    clock.mark()
    clock.mark()
    first, second = clock.seconds()
    assert 0 <= first <= second


@torch.no_grad()
def test_memory_is_leased(device):
    """One after the other sessions share an arena, and at one time they do not."""
    model = SmallCNN().to(device)
    x, y = (torch.randn(1, 3, 24, 20, generator=torch.Generator().manual_seed(i)) for i in range(2))
    x, y = x.to(device), y.to(device)
    graph, window = capture(Source(model, (x,))), SlidingWindow((3, 24, 20), (3, 6, 5), (3, 3, 3))
    one = opened_session(graph, window, x)
    expected = answers(one)
    two = opened_session(graph, window, y)
    assert one.arena is not two.arena
    for_y = answers(two)
    assert torch.equal(answers(one), expected) and not torch.equal(for_y, expected)
    given_back = one.arena
    del one
    gc.collect()
    three = opened_session(graph, window, y)
    assert three.arena is given_back
    assert torch.equal(answers(three), for_y)


class Alike:
    """A program that equals every other."""

    def __eq__(self, other):
        return isinstance(other, Alike)

    __hash__ = object.__hash__


def test_programs_that_are_equal_share_no_memory():
    """An arena serves the program that leased it, and goes with it."""
    one, other = Alike(), Alike()
    mine = arena.lease(one, "a window", torch.device("cpu"))
    arena.give_back(mine)
    assert arena.lease(other, "a window", torch.device("cpu")) is not mine
    arena.drop(other)
    assert arena.lease(one, "a window", torch.device("cpu")) is mine
    arena.give_back(mine)
    arena.drop(one)
    assert arena.lease(one, "a window", torch.device("cpu")) is not mine


@pytest.mark.slow
@torch.no_grad()
def test_many_sessions_leak_nothing(device):
    model, x = SmallCNN().to(device), torch.randn(1, 3, 24, 20).to(device)
    graph, window = capture(Source(model, (x,))), SlidingWindow((3, 24, 20), (3, 6, 5), (3, 3, 3))
    arenas = set()
    for _ in range(5):
        session = opened_session(graph, window, x)
        answers(session, np.arange(4))
        arenas.add(id(session.arena))
        del session
        gc.collect()
    assert len(arenas) == 1


@torch.no_grad()
def test_weights_that_are_an_input(device, monkeypatch):
    """They may be others for the next session of the same window."""
    monkeypatch.setattr(Convolutions, "faster", lambda session, ways, *_: len(ways) - 1)

    def model(x, weights):
        return torch.nn.functional.conv2d(x, weights, padding=1).relu().amax((2, 3))

    window = SlidingWindow((3, 16, 18), (3, 5, 4), (3, 3, 3))
    x = torch.randn(1, 3, 16, 18).to(device)
    graph, arenas = None, set()
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randn(8, 3, 3, 3, generator=generator).to(device)
        graph = graph or capture(Source(model, (x,), 0, (weights,)))
        program = CUDA.program(graph, Plan.of(graph, window), x.device)
        session = CudaSession(
            program, Plan.of(graph, window), Opening((x, weights), torch.zeros(1, device=device), 2**30)
        )
        expected = brute_force(lambda x, w=weights: model(x, w), x, window.shape, window.strides, 0)
        torch.testing.assert_close(answers(session), expected.cpu().reshape(len(window), -1))
        arenas.add(id(session.arena))
        del session
        gc.collect()
    assert len(arenas) == 1


def test_inference_mode_and_then_without(device, image):
    """What was made in inference mode stays there."""
    model, x = SmallCNN().to(device), image.to(device)
    occlusion = KryptonOcclusion(model, executor="cuda")
    with torch.inference_mode():
        inside = occlusion.attribute(x, (3, 6, 5), (3, 3, 3), target=1)
    torch.testing.assert_close(occlusion.attribute(x, (3, 6, 5), (3, 3, 3), target=1), inside.clone())


def test_few_at_a_time(device, monkeypatch, image):
    """Nobody computes more positions together than was asked for, nor fills groups up beyond."""
    model, x = SmallCNN().to(device), image.to(device)
    copies, compute = [], Walk.compute

    def noted(walk, nodes, at):
        copies.append(at.copies)
        compute(walk, nodes, at)

    monkeypatch.setattr(Walk, "compute", noted)
    with torch.no_grad():
        session = opened_session(
            capture(Source(model, (x,))), SlidingWindow((3, 24, 20), (3, 6, 5), (3, 3, 3)), x
        )
        for limit in (1, 3, 5, 12):
            copies.clear()
            sessions.answers(session, limit=limit)
            assert max(copies) <= limit, (limit, copies)


# --- who takes it -------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_it_is_built_where_nvcc_is():
    """Unless somebody asked for fewer, for every GPU since Turing, and it loads where there is none."""
    assert not engine.MISSING
    assert "CUDAARCHS" in os.environ or engine.architectures().startswith("75-real")


def test_the_engine_says_what_it_is_for(monkeypatch):
    monkeypatch.setattr(engine, "MISSING", "not built")
    with pytest.raises(Unsupported, match="not built"):
        engine.about(1)
    monkeypatch.setattr(engine, "MISSING", "")
    monkeypatch.setattr(engine, "architectures", lambda: "90")
    assert engine.about(1) == "built for compute capabilities 9.0 and PTX"
    with pytest.raises(Unsupported, match="no GPU that torch sees; built for compute capabilities 9.0"):
        engine.about(0)
    assert engine.capabilities("75-real;86-real;100a-real;120-virtual") == "7.5, 8.6, 10.0 and PTX"


def test_auto_takes_it(device, image):
    model, x = SmallCNN().to(device), image.to(device)
    with incremental():
        plan = KryptonOcclusion(model).heatmap(x, (3, 6, 5), (3, 3, 3)).plan
    assert plan.executor.startswith("cuda")


def test_the_budget_follows_the_gpu(monkeypatch):
    def properties(device):
        return SimpleNamespace(total_memory={0: 8, 1: 80}[device.index] * 2**30)

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    budgets = {
        name: Preparer("auto", None).budget(torch.device(name)) // 2**30
        for name in ("cpu", "cuda:0", "cuda:1")
    }
    assert budgets == {"cpu": 2, "cuda:0": 2, "cuda:1": 10}
    assert Preparer("auto", 7).budget(torch.device("cuda:1")) == 7


@pytest.mark.skipif(not engine.MISSING and torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(cnn, image):
    with pytest.warns(FallbackWarning, match="the reference executor runs this model: the CUDA engine"):
        heatmap = KryptonOcclusion(cnn, executor="cuda").heatmap(image, (3, 6, 5), (3, 3, 3))
    assert "the CUDA engine" in heatmap.plan.executor


@pytest.mark.parametrize(
    ("model", "shape", "reason"),
    [
        (nn.Conv2d(1, 2, 3).double(), (1, 8, 8), "no kernels for torch.float64"),
        (nn.Conv3d(2, 2, 3), (2, 6, 6, 6), "3 axes at most"),
    ],
)
def test_it_says_what_it_lacks(device, model, shape, reason):
    x = torch.randn(1, *shape).to(device, next(model.parameters()).dtype)
    window = (1, *[3] * (len(shape) - 1))
    with pytest.warns(FallbackWarning, match=reason), torch.no_grad():
        model = model.to(device).eval()
        KryptonOcclusion(lambda x: model(x).sum((2, 3)).sum(-1), executor="cuda").attribute(x, window)


# --- on a GPU alone -----------------------------------------------------------------------------------


@pytest.mark.gpu
@torch.no_grad()
def test_recorded_groups_say_the_same():
    """A group that comes again is recorded, then replayed: three times the same numbers."""
    model, x = SmallCNN().cuda(), torch.randn(1, 3, 24, 20).cuda()
    window = SlidingWindow((3, 24, 20), (3, 6, 5), (3, 3, 3))
    session = opened_session(capture(Source(model, (x,))), window, x)
    first, *others = (answers(session) for _ in range(4))
    assert any(session.arena._recorded.values())
    for other in others:
        torch.testing.assert_close(other, first)


@pytest.mark.gpu
def test_two_threads_two_streams():
    model = SmallCNN().cuda()
    images = [torch.randn(1, 3, 24, 20).cuda() for _ in range(2)]
    occlusion = KryptonOcclusion(model, executor="cuda")
    expected = [occlusion.attribute(x, (3, 6, 5), (3, 3, 3), target=1) for x in images]
    found: list[list[torch.Tensor]] = [[], []]

    def work(i: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                found[i].append(occlusion.attribute(images[i], (3, 6, 5), (3, 3, 3), target=1))
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(found[i]) == 20
        for mine in found[i]:
            torch.testing.assert_close(mine, expected[i])


@pytest.mark.gpu
def test_a_thousand_runs_leak_nothing():
    model, x = SmallCNN().cuda(), torch.randn(1, 3, 24, 20).cuda()
    occlusion = KryptonOcclusion(model, executor="cuda")
    held = []
    for run in range(1000):
        occlusion.attribute(x, (3, 6, 5), (3, 3, 3), target=1)
        if run in (99, 999):
            gc.collect()
            torch.cuda.synchronize()
            held.append((torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]))
    (before, free_before), (after, free_after) = held
    assert after <= before and free_before - free_after < 2**20


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_the_inputs_device_decides():
    model, x = SmallCNN().to("cuda:1"), torch.randn(1, 3, 24, 20).to("cuda:1")
    with incremental():
        occlusion = KryptonOcclusion(model, executor="cuda")
        assert_like_captum(model, x, (3, 6, 5), (3, 3, 3), target=1, occlusion=occlusion)
