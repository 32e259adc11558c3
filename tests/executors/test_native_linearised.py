"""Linearised graphs in the C++ engine: as the reference executor has them, to the rounding of float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.gates import CHANNELS, GATES, Gated
from support.sessions import answers
from support.truth import brute_force
from torch import nn

from krypton_engine import _native
from krypton_engine.errors import InputError
from krypton_engine.executors.base import Opening, Unsupported
from krypton_engine.executors.native import engine
from krypton_engine.executors.native.executor import EXECUTOR as NATIVE
from krypton_engine.executors.native.lowering import lowered
from krypton_engine.executors.reference.executor import EXECUTOR as REFERENCE
from krypton_engine.graph.rewrites.linearise import linearised
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.plan import Plan
from krypton_engine.planning.cache import Source, capture

SHAPE = (3, 24, 20)


def head(outputs):
    return outputs[:, 2]


def gated(kind):
    torch.manual_seed(0)
    return Gated(kind).float()


def opened(executor, model, x, baseline=0.0, memory_budget=2**30, head=head, size=(6, 6), stride=(5, 5)):
    graph = linearised(capture(Source(model, (x,))))
    assert graph.sites
    plan = Plan.of(graph, SlidingWindow(x.shape[1:], (3, *size), (3, *stride)))
    program = executor.program(graph, plan, x.device)
    return program.open(plan, Opening((x,), torch.as_tensor(baseline), memory_budget, head))


def compare(native, reference):
    """Outputs and effects are equal, measured by the range of the outputs' first-order map."""
    torch.testing.assert_close(native.base, reference.base, rtol=1e-5, atol=1e-6)
    found, expected = answers(native), answers(reference)
    torch.testing.assert_close(found.outputs, expected.outputs, rtol=2e-5, atol=2e-6)
    scale = np.ptp(head(expected.outputs).numpy() + expected.dropped)
    assert np.abs(expected.dropped).max() > 1e-4 * scale
    np.testing.assert_allclose(found.dropped, expected.dropped, atol=2e-5 * scale)


@pytest.fixture
def x():
    return torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", GATES)
def test_as_the_reference_executor(name, x):
    model = gated(GATES[name])
    compare(opened(NATIVE, model, x), opened(REFERENCE, model, x))


@pytest.mark.parametrize("name", GATES)
def test_windows_of_nearly_all(name, x):
    """Boxes hold every cell, so that nothing is left out."""
    model = gated(GATES[name])
    found = answers(opened(NATIVE, model, x, size=(23, 19), stride=(1, 1)))
    truth = brute_force(model, x, (3, 23, 19), (3, 1, 1))
    torch.testing.assert_close(found.outputs, truth, rtol=2e-5, atol=2e-6)
    assert np.abs(found.dropped).max() < 1e-5 * float(truth.abs().max())


@pytest.mark.parametrize("name", [name for name in GATES if "response norm" in name])
def test_what_follows_a_meeting_is_part_of_it(name, x):
    """A response norm, `x * n * weight + bias + x`, goes over the cells once."""
    graph = linearised(capture(Source(gated(GATES[name]), (x,))))
    to = lowered(graph, _native.Program("", (1, *SHAPE[1:]), SHAPE[0]))
    sums = [node for node in graph.nodes if node.op == "add" and node.axes]
    residuals = [node for node in sums if all(graph.nodes[i].depends for i in node.operands)]
    assert [to.begins[node.index] for node in residuals] == list(graph.sites)


class Scaled(nn.Module):
    """Global values that meet each other and constants, and one that is added."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x):
        mean = x.mean((2, 3))
        gate = (0.5 * self.first(mean)).sigmoid() * (1 + self.second(mean)) - 0.25
        return x * gate[..., None, None] + mean[..., None, None].tanh()


def test_arithmetic_of_global_values(x):
    model = gated(Scaled)
    compare(opened(NATIVE, model, x), opened(REFERENCE, model, x))


class Grey(nn.Module):
    """One channel for all, which meets a number for each, and one number that all channels meet."""

    def forward(self, x):
        grey = x.mean(1, keepdim=True)
        return (
            x + grey * x.mean((2, 3), keepdim=True).sigmoid() + (x * grey.mean((2, 3), keepdim=True)).tanh()
        )


def test_broadcasts_over_channels(x):
    model = gated(Grey)
    compare(opened(NATIVE, model, x), opened(REFERENCE, model, x))


class Inverted(nn.Module):
    """Inverted residuals with gates, as in EfficientNet and MobileNetV3; the second changes the size."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.expand = nn.ModuleList(nn.Conv2d(16, 40, 1) for _ in range(2))
        self.depthwise = nn.ModuleList(nn.Conv2d(40, 40, 5, s, 2, groups=40) for s in (1, 2))
        self.down = nn.ModuleList(nn.Conv2d(40, 10, 1) for _ in range(2))
        self.up = nn.ModuleList(nn.Conv2d(10, 40, 1) for _ in range(2))
        self.project = nn.ModuleList(nn.Conv2d(40, 16, 1) for _ in range(2))
        self.head = nn.Linear(16, 5)
        self.eval()

    def forward(self, x):
        x = nn.functional.hardswish(self.stem(x))
        for i, depthwise in enumerate(self.depthwise):
            y = nn.functional.silu(depthwise(nn.functional.silu(self.expand[i](x))))
            s = nn.functional.silu(self.down[i](nn.functional.adaptive_avg_pool2d(y, 1)))
            y = self.project[i](self.up[i](s).sigmoid() * y)
            x = x + y if y.shape == x.shape else y
        return self.head(x.mean((2, 3))).softmax(1)


def test_inverted_residuals(x):
    """What follows the engine's part, a softmax here, is PyTorch's."""
    torch.manual_seed(1)
    model = Inverted()
    native = opened(NATIVE, model, x)
    assert "PyTorch on its boxes for softmax" in native.executor
    compare(native, opened(REFERENCE, model, x))


class Smoothest(nn.Module):
    """A reduction that is no sum, nor the largest of all cells."""

    def forward(self, x):
        return x * x.logsumexp((2, 3), keepdim=True).sigmoid()


def test_what_the_engine_has_no_word_for(x):
    with pytest.raises(Unsupported, match="the C\\+\\+ engine lacks logsumexp"):
        opened(NATIVE, gated(Smoothest), x)


class OnPixels(nn.Module):
    """Operators over all of the input itself, whose channels windows may leave out."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.rest = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), nn.SiLU(), nn.Conv2d(CHANNELS, 5, 3))

    def forward(self, x):
        return self.rest(self.function(x)).tanh().mean((2, 3))


@pytest.mark.parametrize(
    "function",
    {
        "gate": lambda x: x * (4 * x.mean((2, 3), keepdim=True)).sigmoid(),
        "white balance": lambda x: (
            (x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / (1 + x.std((2, 3), keepdim=True))
        ),
        "norm": lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1e-3),
        "channel norm": lambda x: nn.functional.instance_norm(x),
        "largest": lambda x: x / x.amax((1, 2, 3), keepdim=True),
        "largest of each": lambda x: x / x.amax((2, 3), keepdim=True),
    }.values(),
)
def test_operators_on_the_input_itself(function, x):
    torch.manual_seed(0)
    model = OnPixels(function).eval()
    compare(opened(NATIVE, model, x), opened(REFERENCE, model, x))
    found = answers(opened(NATIVE, model, x, baseline=0.1 * x, size=SHAPE[1:], stride=(1, 1)))
    truth = brute_force(model, x, SHAPE, (3, 1, 1), 0.1 * x)
    torch.testing.assert_close(found.outputs, truth, rtol=1e-4, atol=1e-5)


def test_batches_do_not_matter(x):
    session = opened(NATIVE, gated(GATES["group norm"]), x)
    alone, together = answers(session, limit=1), answers(session)
    assert torch.equal(alone.outputs, together.outputs)
    assert np.array_equal(alone.dropped, together.dropped)


@pytest.mark.parametrize("name", ["sigmoid", "group norm"])
def test_trimmed_too(name, x):
    """What trimming drops and what global values do outside are added up."""
    model = gated(GATES[name])
    session = opened(NATIVE, model, x)
    whole = answers(session)
    values = head(whole.outputs).numpy() + whole.dropped
    trimmed = answers(session.trimmed(0.2, head))
    assert not torch.equal(trimmed.outputs, whole.outputs)
    assert np.abs(head(trimmed.outputs).numpy() + trimmed.dropped - values).max() < 0.1 * np.ptp(values)


def test_the_truth_is_near(x):
    """Gates move little: the first order leaves a small part of what they do outside boxes."""
    model = gated(GATES["linear"])
    found = answers(opened(NATIVE, model, x))
    truth = head(brute_force(model, x, (3, 6, 6), (3, 5, 5))).numpy()
    values = head(found.outputs).numpy()
    error, frozen = np.abs(values + found.dropped - truth).max(), np.abs(values - truth).max()
    assert error < 0.2 * frozen


def test_the_budget_counts_what_tells_of_the_outside(x):
    model = gated(GATES["instance norm"])
    session = opened(NATIVE, model, x)
    tables = session.program.program.outside_bytes
    # Two sites of 16 stored channels, a factor and a summand each, in float64.
    assert tables == (24 * 20 + 1 + 22 * 18 + 1) * 2 * 16 * 8
    made, plan = session.program, Plan.of(session.program.graph, session.window)
    others = made.program.view_bytes + made.program.weight_bytes
    others += made.program.run_bytes(made.extents(plan), made.kept, engine.threads(), 0)
    with pytest.raises(InputError):
        made.largest_batch(plan, others + tables)
    assert made.largest_batch(plan, others + 2 * tables) > 1


def test_a_target_without_a_gradient(x):
    with pytest.raises(Unsupported, match="no gradient"):
        opened(NATIVE, gated(GATES["sigmoid"]), x, head=lambda outputs: outputs[:, 2].detach())


def test_numbers_that_are_not_finite(x):
    """The reference executor takes over, and tells of effects as before."""
    model = gated(GATES["sigmoid"])
    baseline = torch.zeros_like(x)
    baseline[..., 12:, 10:] = 1e38
    native = opened(NATIVE, model, x, baseline)
    found, expected = answers(native, limit=4), answers(opened(REFERENCE, model, x, baseline))
    assert "not finite" in native.executor
    torch.testing.assert_close(found.outputs, expected.outputs, rtol=1e-4, atol=1e-5, equal_nan=True)
    finite = np.isfinite(expected.dropped)
    np.testing.assert_allclose(found.dropped[finite], expected.dropped[finite], rtol=1e-4, atol=1e-6)
