"""Sessions on tokens: exact with all of them, right to the second order with some, or a reason why not."""

from __future__ import annotations

import pytest
import timm
import torch
from support.sessions import (
    by_reference,
    check_each_is_answered_once,
    check_it_is_the_full_computation,
    computed,
    errors_of,
)
from support.tiny_models import SmallCNN
from support.tiny_swins import TIMM
from support.tiny_transformers import SPELLINGS, Signal, awake
from support.truth import brute_force, occlude, windows

from krypton_engine.errors import InputError
from krypton_engine.executors.base import Opening, Unsupported
from krypton_engine.executors.reference.tokens import TokenProgram
from krypton_engine.graph.tokens.search import find_tokens
from krypton_engine.graph.tokens.steps import NoTokens
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.planning.cache import Source, capture

WINDOW = SlidingWindow((3, 32, 32), (3, 8, 8), (3, 5, 5))
BUDGET = 2**30


def target(outputs):
    return outputs[:, 1]


def opened(graph, x, epsilon=0.0, baseline=None, window=WINDOW, budget=BUDGET):
    baseline = torch.zeros(1, dtype=x.dtype) if baseline is None else baseline
    session = TokenProgram(graph).open(window, Opening((x,), baseline, budget, target), by_reference)
    return session.trimmed(epsilon, target) if epsilon else session


class Captured:
    """A network, its graph, and a picture."""

    def __init__(self, name):
        torch.manual_seed(0)
        self.model, self.x = awake(SPELLINGS[name]()), torch.randn(1, 3, 32, 32).double()
        self.graph = capture(Source(self.model, (self.x,)))

    def truth(self, baseline=0.0):
        return brute_force(self.model, self.x, WINDOW.shape, WINDOW.strides, baseline)


@pytest.fixture(scope="module", params=SPELLINGS)
def spelling(request):
    return Captured(request.param)


@pytest.fixture(scope="module")
def plain():
    return Captured("timm")


def test_with_all_tokens_it_is_the_full_computation(spelling):
    check_it_is_the_full_computation(opened(spelling.graph, spelling.x), spelling.truth())


def test_errors_are_of_the_second_order(spelling):
    towards = torch.randn(1, 3, 32, 32, dtype=torch.float64)

    def errors(step):
        baseline = spelling.x + step * towards
        session = opened(spelling.graph, spelling.x, 0.2, baseline)
        return errors_of(session, target, spelling.truth(baseline))

    whole, half = errors(0.02), errors(0.01)
    assert 3.4 < whole[0] / half[0] < 4.6
    assert 1.8 < whole[1] / half[1] < 2.2


def test_all_tokens_of_a_signal():
    model, x = awake(Signal()), torch.randn(1, 3, 40).double()
    window = SlidingWindow((3, 40), (3, 6), (3, 3))
    session = opened(capture(Source(model, (x,))), x, window=window)
    truth = brute_force(model, x, window.shape, window.strides)
    assert (computed(session)[0] - truth).abs().max() < 1e-10


@pytest.mark.parametrize("limit", [None, 1, 7])
def test_each_change_is_answered_once_in_any_order(plain, limit):
    check_each_is_answered_once(opened(plain.graph, plain.x, 0.2), limit, target)


def test_the_more_is_trimmed_the_worse_is_the_map(plain):
    truth, errors = target(plain.truth()), []
    for epsilon in (0.0, 0.1, 0.2, 1.0):
        outputs, dropped = computed(opened(plain.graph, plain.x, epsilon))
        errors.append(float((target(outputs) + dropped - truth).norm()))
    assert (
        errors[0] < 1e-10 < errors[1] < errors[2] < errors[3] < 0.2 * float(truth.std() * len(truth) ** 0.5)
    )


def test_positions_that_change_nothing_are_the_base(plain):
    session = opened(plain.graph, plain.x, 0.9, plain.x)
    assert not session.changed.any
    outputs, dropped = computed(session)
    torch.testing.assert_close(outputs, session.base.expand_as(outputs), rtol=0, atol=1e-12)
    assert dropped.abs().max() < 1e-12


def test_single_precision(plain):
    model, x = awake(SPELLINGS["timm"]()).float(), plain.x.float()
    cells = list(windows(x.shape[1:], WINDOW.shape, WINDOW.strides).values())
    session = opened(capture(Source(model, (x,))), x)
    outputs, _ = computed(session)
    with torch.no_grad():
        torch.testing.assert_close(outputs[7:8], model(occlude(x, cells[7])), rtol=1e-4, atol=1e-5)


def test_memory(plain):
    with pytest.raises(InputError, match="memory_budget"):
        opened(plain.graph, plain.x, budget=2**16)


def test_outputs_without_a_gradient(plain):
    graph = capture(Source(lambda x: plain.model(x).round(), (plain.x,)))
    session = opened(graph, plain.x)
    assert (computed(session)[0] - plain.truth().round()).abs().max() < 1e-10
    with pytest.raises(Unsupported, match="gradient"):
        flat = Opening((plain.x,), torch.zeros(1).double(), BUDGET, lambda y: y.sum(1) * torch.inf)
        TokenProgram(plain.graph).open(WINDOW, flat, by_reference)


SWIN = {**TIMM, "depths": (1, 1)}


class Mixing(torch.nn.Module):
    """Tokens mixed by a linear layer after an attention."""

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 16, 8, 8)
        self.mix = torch.nn.Linear(16, 16)

    def forward(self, x):
        x = self.patches(x).flatten(2)
        return self.mix(x).mean(2)


class Masked(torch.nn.Module):
    """A causal attention."""

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 16, 8, 8)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)[:, None]
        return torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True).mean((1, 2))


class Local(torch.nn.Sequential):
    """Nothing but what is local."""

    def __init__(self):
        super().__init__(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())


def swin():
    return timm.create_model("swin_tiny_patch4_window7_224", **SWIN)


def xcit():
    return timm.create_model("xcit_nano_12_p16_224", img_size=32, depth=1)


@pytest.mark.parametrize(
    ("make", "size", "reason"),
    [
        (swin, (32, 32), "no row of tokens is made of its cells, which layer_norm reads"),
        (lambda: timm.create_model("mobilevit_xxs"), (64, 64), "no row of tokens is made of its cells"),
        (SmallCNN, (24, 20), "no row of tokens is made of its cells"),
        (xcit, (32, 32), "linalg_vector_norm reads all tokens"),
        (Mixing, (32, 32), "linear reads all tokens"),
        (Masked, (32, 32), "an attention is causal"),
        (Local, (32, 32), "nothing is computed in full"),
    ],
)
def test_why_not(make, size, reason):
    graph = capture(Source(make().eval(), (torch.randn(1, 3, *size),)))
    with pytest.raises(NoTokens, match=reason):
        find_tokens(graph)
    x = torch.zeros(1, 3, *size)
    with pytest.raises(Unsupported, match=reason):
        opened(graph, x, window=SlidingWindow((3, *size), (3, 8, 8), (3, 8, 8)))
