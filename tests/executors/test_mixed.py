"""Sessions on tokens with convolutions between: exact with all, right to the second order with some."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from support.sessions import (
    by_reference,
    check_each_is_answered_once,
    check_it_is_the_full_computation,
    computed,
    errors_of,
)
from support.tiny_mixed import MIXED, Between
from support.tiny_transformers import awake
from support.truth import brute_force
from timm.models.edgenext import SplitTransposeBlock
from torch import nn

from krypton_engine import KryptonOcclusion
from krypton_engine.approximation.ssim import ssim
from krypton_engine.errors import InputError
from krypton_engine.executors.base import Opening
from krypton_engine.executors.reference.grids import GridProgram
from krypton_engine.graph.rewrites.linearise import linearised
from krypton_engine.graph.tokens.grid_steps import Nearby, Whole
from krypton_engine.graph.tokens.grids import find_grids
from krypton_engine.graph.tokens.steps import NoTokens
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.planning.cache import Source, capture

WINDOW = SlidingWindow((3, 32, 32), (3, 8, 8), (3, 4, 4))


def target(outputs):
    return outputs[:, 1]


class Captured:
    """A network, its graph with gates linearised, and a picture."""

    def __init__(self, make):
        torch.manual_seed(0)
        self.model, self.x = awake(make()), torch.randn(1, 3, 32, 32).double()
        self.graph = linearised(capture(Source(self.model, (self.x,))))
        self.program = GridProgram(self.graph)

    def truth(self, baseline=0.0):
        return brute_force(self.model, self.x, WINDOW.shape, WINDOW.strides, baseline)

    def opened(self, epsilon=0.0, baseline=0.0):
        baseline = torch.as_tensor(baseline, dtype=self.x.dtype)
        opening = Opening((self.x,), baseline, 2**30, target)
        session = self.program.open(WINDOW, opening, by_reference)
        return session.trimmed(epsilon, target) if epsilon else session


@pytest.fixture(scope="module", params=MIXED)
def spelling(request):
    return Captured(MIXED[request.param])


@pytest.fixture(scope="module")
def mobilevit():
    return Captured(MIXED["mobilevit"])


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1)])
def test_with_all_tokens_it_is_the_full_computation(pool):
    network = Captured(partial(MIXED["mobilevit"], pool))
    check_it_is_the_full_computation(network.opened(), network.truth())


def test_a_window_of_everything_leaves_nothing_to_the_first_order(spelling):
    """Where gates come before the first attention, tokens alone do not make a narrower window exact."""
    window = SlidingWindow((3, 32, 32), (3, 32, 32), (3, 1, 1))
    opening = Opening((spelling.x,), torch.tensor([0.3], dtype=torch.float64), 2**30, target)
    session = spelling.program.open(window, opening, by_reference)
    check_it_is_the_full_computation(session, spelling.model(torch.full_like(spelling.x, 0.3)).detach())


def test_convolutions_pools_and_gates_are_steps(mobilevit):
    steps = mobilevit.program.grids.steps
    operators = [step.node.op for step in steps if isinstance(step, Nearby)]
    assert operators.count("conv2d") == 6 and operators.count("avg_pool2d") == 2
    assert any(isinstance(step, Whole) for step in steps)
    assert mobilevit.program.grids.sizes == (256, 64)


def test_errors_are_of_the_second_order(spelling):
    towards = torch.randn(1, 3, 32, 32, dtype=torch.float64)

    def errors(step):
        baseline = spelling.x + step * towards
        return errors_of(spelling.opened(1e6, baseline), target, spelling.truth(baseline))

    whole, half = errors(0.002), errors(0.001)
    assert whole[0] / half[0] > 3.3
    assert 1.8 < whole[1] / half[1] < 2.2


def test_the_more_is_trimmed_the_worse_is_the_map(spelling):
    truth, errors = target(spelling.truth()), []
    for epsilon in (0.01, 0.3, 1e6):
        outputs, dropped = computed(spelling.opened(epsilon))
        errors.append(float((target(outputs) + dropped - truth).norm()))
    assert errors[0] < errors[1] < errors[2]


def test_what_is_usually_trimmed_leaves_the_map_as_it_is(spelling):
    outputs, dropped = computed(spelling.opened(0.3))
    found, truth = (values.reshape(7, 7) for values in (target(outputs) + dropped, target(spelling.truth())))
    assert ssim(found, truth) > 0.9


@pytest.mark.parametrize("limit", [None, 7])
def test_each_change_is_answered_once_in_any_order(mobilevit, limit):
    check_each_is_answered_once(mobilevit.opened(), limit, target)


def test_positions_that_change_nothing_are_the_base(spelling):
    session = spelling.opened(0.9, spelling.x)
    outputs, dropped = computed(session)
    torch.testing.assert_close(outputs, session.base.expand_as(outputs), rtol=0, atol=1e-12)
    assert dropped.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("maxvit", "attention in windows (4), gates and norms over the image (2)"),
        ("coatnet", "attention over all tokens (2), gates and norms over the image (1)"),
    ],
)
def test_the_plan_says_what_is_linearised(name, operators):
    torch.manual_seed(0)
    model, x = awake(MIXED[name]()).float(), torch.randn(1, 3, 32, 32)
    plan = KryptonOcclusion(model).plan(x, (3, 8, 8), (3, 4, 4))
    assert plan.linearised is not None and plan.linearised.operators == operators
    assert 0 < plan.linearised.macs < plan.macs_incremental


def check_between(then, channels=8, **parts):
    """With all tokens it is exact, and without, to the first order."""
    network = Captured(partial(Between, then, channels, **parts))
    check_it_is_the_full_computation(network.opened(), network.truth())
    towards = torch.randn(1, 3, 32, 32, dtype=torch.float64)

    def error(step):
        baseline = network.x + step * towards
        return errors_of(network.opened(1e6, baseline), target, network.truth(baseline))[0]

    assert error(0.001) / error(0.0005) > 3.3


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize(("stride", "padding"), [(1, (1, 1, 1, 1)), (2, (0, 1, 0, 1))])
def test_convolutions_that_are_padded_by_themselves(groups, stride, padding):
    """As TensorFlow does."""
    conv = nn.Conv2d(8, 8, 3, stride, groups=groups)
    check_between(lambda net, x: net.conv(F.pad(x, padding)), conv=conv)


@pytest.mark.parametrize("beside", [lambda x: x, lambda x: x.flip(2)])
def test_a_shortcut_beside_a_convolution_that_is_padded_by_itself(beside):
    """As in a MaxViT of TensorFlow's; cells are cells, in whatever order those are that they are made of."""
    conv = nn.Conv2d(8, 8, 3, 2, groups=8)
    check_between(
        lambda net, x: net.conv(F.pad(x, (0, 1, 0, 1))) + F.avg_pool2d(beside(x), 2),
        conv=conv,
    )


@pytest.mark.parametrize("padding", [(0, 8), (8, 0), (4, 4)])
def test_channels_of_a_padding_are_zeros(padding):
    check_between(lambda net, x: F.pad(x, (0, 0, 0, 0, *padding)), channels=16)


def test_attention_in_windows_that_reach_beyond_the_map():
    """Its zeros have a bias, and are cut off."""
    check_between(lambda net, x: net.last(F.pad(x, (4, 0, 0, 4)))[:, :, :8, 4:] + x)


PADDED = {
    "conv": lambda net, x: net.conv(net.norm(F.pad(x, (1, 1, 1, 1)))),
    "rows": lambda net, x: net.less(
        net.norm(F.pad(x, (0, 0, 4, 4))).unflatten(2, (-1, 2)).movedim(3, 2).flatten(1, 2)
    ),
    "attentions": lambda net, x: net.last(net.last(F.pad(x, (0, 4, 0, 4))))[:, :, :8, :8],
    "conv of an attention": lambda net, x: net.conv(net.last(F.pad(x, (0, 4, 0, 4)))[:, :, :10, :10]),
}


@pytest.mark.parametrize("then", PADDED.values(), ids=PADDED)
def test_what_was_computed_of_a_padding_is_not_zero(then):
    model = awake(Between(then, conv=nn.Conv2d(8, 8, 3), norm=nn.BatchNorm2d(8), less=nn.Conv2d(16, 8, 1)))
    graph = capture(Source(model, (torch.randn(1, 3, 32, 32).double(),)))
    with pytest.raises(NoTokens, match="of a padding"):
        find_grids(graph)


def twice(x):
    """Every cell four times."""
    return x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).flatten(4, 5).flatten(2, 3)


def test_convolutions_of_repeated_cells():
    conv, less = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 2, 2)
    check_between(lambda net, x: net.less(net.conv(twice(x))), conv=conv, less=less)


CORNER = torch.arange(64).view(8, 8) % 5 < 3


@pytest.mark.parametrize("fill", [0.5, torch.tensor(0.5).double()], ids=["number", "tensor"])
def test_cells_that_a_constant_picks(fill):
    check_between(lambda net, x: torch.where(CORNER, x, fill) + torch.where(CORNER, 0.1, x))


def test_a_product_with_other_weights_for_every_cell():
    weights = torch.randn(8, 8, 8, 8).double()
    model = awake(Between(lambda net, x: (x.movedim(1, 3)[..., None, :] @ weights)[..., 0, :].movedim(3, 1)))
    with pytest.raises(NoTokens, match="matmul meets a constant that is another one for every token"):
        find_grids(capture(Source(model, (torch.randn(1, 3, 32, 32).double(),))))


ADDED = torch.randn(16, 16).double()
AGAIN = {
    "a constant": (lambda net, x: twice(x) + ADDED, "other constants where a token comes again"),
    "a gate": (lambda net, x: twice(x) * x.mean((2, 3), keepdim=True), "made of all of them"),
    "a padding": (
        lambda net, x: F.pad(x, (4, 4, 4, 4)) + x.mean((2, 3), keepdim=True),
        "made of all of them",
    ),
}


@pytest.mark.parametrize(("then", "reason"), AGAIN.values(), ids=AGAIN)
def test_a_cell_that_comes_again_is_not_one_token(then, reason):
    less = nn.Conv2d(8, 8, 2, 2)
    model = awake(Between(lambda net, x: net.less(then(net, x)), less=less))
    with pytest.raises(NoTokens, match=reason):
        find_grids(capture(Source(model, (torch.randn(1, 3, 32, 32).double(),))))


@pytest.mark.parametrize("asks", [0, 1])
def test_attention_to_tokens_of_another_grid(asks):
    """Of as many, put together of the same ones, of which others change."""

    def then(net, x):
        parts = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        both = [net.rows(parts).flatten(1, 2), net.conv(x).flatten(2).transpose(1, 2)]
        q, k = (each[:, None] for each in (both[asks], both[1 - asks]))
        return F.scaled_dot_product_attention(q, k, k)[:, 0].transpose(1, 2).unflatten(2, (4, 4))

    model = awake(Between(then, rows=nn.Linear(32, 8), conv=nn.Conv2d(8, 8, 3, 2, 1)))
    with pytest.raises(NoTokens, match="tokens of another grid"):
        find_grids(capture(Source(model, (torch.randn(1, 3, 32, 32).double(),))))


def test_memory(mobilevit):
    with pytest.raises(InputError, match="memory_budget"):
        mobilevit.program.open(WINDOW, Opening((mobilevit.x,), torch.zeros(1), 2**18, target), by_reference)


def test_a_map_with_a_target_is_near_the_truth(mobilevit):
    x = mobilevit.x.float()
    model = mobilevit.model
    found = KryptonOcclusion(model.float()).heatmap(x, (3, 8, 8), (3, 2, 2), target=1, ssim_target=0.9)
    truth = brute_force(model, x, (3, 8, 8), (3, 2, 2))[:, 1].reshape(13, 13)
    model.double()
    assert ssim(torch.as_tensor(found.values).reshape(13, 13), truth) > 0.85


def test_channels_that_attend_to_channels_are_no_tokens():
    block = SplitTransposeBlock(16, num_scales=2, num_heads=2)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    model, x = nn.Sequential(nn.Conv2d(3, 16, 4, 4), block, *head).eval(), torch.randn(1, 3, 32, 32)
    with pytest.raises(NoTokens, match="linalg_vector_norm reads several tokens"):
        find_grids(linearised(capture(Source(model, (x,)))))
