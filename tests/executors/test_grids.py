"""Sessions on tokens of grids: exact with all of them, right to the second order with some, or a reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.sessions import (
    by_reference,
    check_each_is_answered_once,
    check_it_is_the_full_computation,
    computed,
    errors_of,
)
from support.tiny_models import SmallCNN
from support.tiny_swins import SWINS, padded, video
from support.tiny_transformers import SPELLINGS, awake
from support.truth import brute_force, occlude, windows
from timm.models.levit import Levit
from torch import nn

from krypton_engine import KryptonOcclusion
from krypton_engine.approximation.ssim import ssim
from krypton_engine.errors import InputError
from krypton_engine.executors.base import Opening, Unsupported
from krypton_engine.executors.reference.grids import GridProgram
from krypton_engine.graph.tokens.grids import find_grids
from krypton_engine.graph.tokens.steps import NoTokens
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.planning.cache import Source, capture

BUDGET = 2**30


def target(outputs):
    return outputs[:, 1]


def sliding(size):
    return SlidingWindow((3, size, size), (3, 8, 8), (3, 4, 4))


class Captured:
    """A network, its graph, and a picture."""

    def __init__(self, make, size=32):
        torch.manual_seed(0)
        self.model, self.x = awake(make()), torch.randn(1, 3, size, size).double()
        self.graph, self.window = capture(Source(self.model, (self.x,))), sliding(size)

    def truth(self, baseline=0.0):
        return brute_force(self.model, self.x, self.window.shape, self.window.strides, baseline)

    def opened(self, epsilon=0.0, baseline=0.0, budget=BUDGET):
        baseline = torch.as_tensor(baseline, dtype=self.x.dtype)
        session = GridProgram(self.graph).open(
            self.window, Opening((self.x,), baseline, budget, target), by_reference
        )
        return session.trimmed(epsilon, target) if epsilon else session

    def computed(self, epsilon=0.0, baseline=0.0):
        """Outputs and dropped effects of all positions."""
        return computed(self.opened(epsilon, baseline))


@pytest.fixture(scope="module", params=SWINS)
def spelling(request):
    return Captured(SWINS[request.param])


@pytest.fixture(scope="module")
def plain():
    return Captured(SWINS["torchvision"])


def test_grids_become_coarser_and_windows_hold_every_token_once(spelling):
    grids = find_grids(spelling.graph)
    assert grids.sizes == (64, 16) and len(grids.attentions) == 3
    for attention in grids.attentions:
        members = attention.members.flatten().sort()[0].tolist()
        assert attention.members.shape[1] == 16 and members == list(range(grids.sizes[attention.grid]))
    first, shifted, _ = grids.attentions
    assert not torch.equal(first.members, shifted.members)


def test_with_all_tokens_it_is_the_full_computation(spelling):
    check_it_is_the_full_computation(spelling.opened(), spelling.truth())


def test_errors_are_of_the_second_order(spelling):
    towards = torch.randn(1, 3, 32, 32, dtype=torch.float64)

    def errors(step):
        baseline = spelling.x + step * towards
        # So much is trimmed that the tokens are those that a window touches.
        return errors_of(spelling.opened(1e6, baseline), target, spelling.truth(baseline))

    whole, half = errors(0.01), errors(0.005)
    assert 3.3 < whole[0] / half[0] < 4.7
    assert 1.8 < whole[1] / half[1] < 2.2


def test_windows_that_reach_beyond_the_grid():
    network = Captured(padded, 40)
    members = find_grids(network.graph).attentions[0].members
    assert (members < 0).any() and (members >= 0).sum() == 100
    outputs, dropped = network.computed()
    assert (outputs - network.truth()).abs().max() < 1e-10
    assert not dropped.any()


def test_windows_of_a_video():
    torch.manual_seed(0)
    model, x = awake(video()), torch.randn(1, 3, 8, 16, 16).double()
    window = SlidingWindow((3, 8, 16, 16), (3, 4, 8, 8), (3, 2, 4, 4))
    opening = Opening((x,), torch.zeros(1).double(), BUDGET, target)
    session = GridProgram(capture(Source(model, (x,)))).open(window, opening, by_reference)
    truth = brute_force(model, x, window.shape, window.strides)
    for found in session.compute(window.boxes(np.arange(len(window)))):
        assert (found.outputs - truth[found.which]).abs().max() < 1e-10


def test_the_more_is_trimmed_the_worse_is_the_map(plain):
    truth, errors = target(plain.truth()), []
    for epsilon in (0.0, 0.3, 3.0, 1e6):
        outputs, dropped = plain.computed(epsilon)
        errors.append(float((target(outputs) + dropped - truth).norm()))
    assert errors[0] < 1e-10 < errors[1] < errors[2] <= errors[3] < float(truth.std() * len(truth) ** 0.5)


def test_what_is_usually_trimmed_leaves_the_map_as_it_is(spelling):
    outputs, dropped = spelling.computed(0.3)
    found, truth = (values.reshape(7, 7) for values in (target(outputs) + dropped, target(spelling.truth())))
    assert ssim(found, truth) > 0.95


@pytest.mark.parametrize("limit", [None, 1, 7])
def test_each_change_is_answered_once_in_any_order(plain, limit):
    check_each_is_answered_once(plain.opened(1e6), limit, target)


def test_positions_that_change_nothing_are_the_base(plain):
    outputs, dropped = plain.computed(0.9, plain.x)
    base = plain.opened().base
    torch.testing.assert_close(outputs, base.expand_as(outputs), rtol=0, atol=1e-12)
    assert dropped.abs().max() < 1e-12


def test_single_precision(plain):
    model, x = awake(SWINS["torchvision"]()).float(), plain.x.float()
    cells = list(windows(x.shape[1:], plain.window.shape, plain.window.strides).values())
    opening = Opening((x,), torch.zeros(1), BUDGET, target)
    session = GridProgram(capture(Source(model, (x,)))).open(plain.window, opening, by_reference)
    (found,) = session.compute(plain.window.boxes(np.array([7])))
    with torch.no_grad():
        torch.testing.assert_close(found.outputs, model(occlude(x, cells[7])), rtol=1e-4, atol=1e-5)


def test_memory(plain):
    with pytest.raises(InputError, match="memory_budget"):
        plain.opened(budget=2**16)


def test_the_plan_says_what_is_linearised():
    torch.manual_seed(0)
    model, x = awake(SWINS["torchvision"]()).float(), torch.randn(1, 3, 32, 32)
    plan = KryptonOcclusion(model).plan(x, (3, 8, 8), (3, 4, 4))
    assert not plan.incremental and plan.linearised is not None
    assert plan.linearised.operators == "attention in windows (3)"
    assert 0 < plan.linearised.macs < 0.5 * plan.macs
    assert "a map to the first order in attention in windows (3)" in " ".join(str(plan).split())


class Mixing(nn.Module):
    """Windows whose tokens are mixed by a linear layer."""

    def __init__(self):
        super().__init__()
        self.patches, self.mix = nn.Conv2d(3, 16, 4, 4), nn.Linear(64, 64)

    def forward(self, x):
        x = self.patches(x).flatten(2)
        return self.mix(x.softmax(1)).mean(2)


def small_levit():
    """Fewer tokens ask than are asked, where the grid becomes coarser."""
    return Levit(64, embed_dim=(16, 32), key_dim=8, depth=(1, 1), num_heads=(2, 2), num_classes=5)


@pytest.mark.parametrize(
    ("make", "size", "reason"),
    [
        (SmallCNN, (24, 20), "no attention is computed of its cells"),
        (Mixing, (32, 32), "reads several tokens"),
        (SPELLINGS["timm"], (32, 32), "cat joins tokens with constants"),
        (small_levit, (64, 64), "not of every token of a window to all"),
    ],
)
def test_why_not(make, size, reason):
    graph = capture(Source(make().eval(), (torch.randn(1, 3, *size),)))
    with pytest.raises(NoTokens, match=reason):
        find_grids(graph)
    with pytest.raises(Unsupported, match=reason):
        GridProgram(graph)
