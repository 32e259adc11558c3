"""Writes in place: functional by another name where nothing else sees them, else by PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim

from krypton_engine.graph.export import export
from krypton_engine.graph.spellings import spelled
from krypton_engine.graph.translate import translate


class Body(nn.Module):
    """A convolution, and what a test does with its result."""

    def __init__(self, then):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1).double()
        self.norm = nn.BatchNorm2d(4).double()
        self.register_buffer("seen", torch.zeros(4, 1, 1, dtype=torch.float64))
        self.then = then
        self.eval()

    def forward(self, x):
        return self.then(self, self.conv(x), x)


def relu_then_sum(net, y, x):
    return F.relu(y, inplace=True) + net.norm(net.conv(x)).add_(y)


def gated(net, y, x):
    return F.silu(y.mul_(y.sigmoid()), inplace=True)


def dropped(net, y, x):
    return F.dropout(net.norm(y), 0.5, training=False, inplace=True).flatten(1)


def clamped(net, y, x):
    return torch.cat([y.clamp_(-0.5, 0.5), F.leaky_relu(net.conv(x), 0.1, inplace=True)], 1)


def view_before(net, y, x):
    view = y.flatten(2)
    y.relu_()
    return view


def view_of_a_part(net, y, x):
    part = y[:, :2]
    part.mul_(3.0)
    return y


def piece(net, y, x):
    first, second = y.chunk(2, 1)
    first.add_(second)
    return y


def itself(net, y, x):
    same = net.norm(y).contiguous()
    same.relu_()
    return F.dropout(same, training=False).add_(1.0)


def two_names(net, y, x):
    other = F.dropout(y, training=False)
    other.neg_()
    return y + other


def read_afterwards(net, y, x):
    y.relu_()
    return y + y.mul_(2.0)


def callers(net, y, x):
    x.relu_()
    return y + net.conv(x)


def buffer(net, y, x):
    net.seen.add_(1.0)
    return y * net.seen


def other_type(net, y, x):
    return y.float().add_(net.norm(y)).relu_()


BY_NAME = [relu_then_sum, gated, dropped, clamped]
BY_PYTORCH = [view_before, view_of_a_part, piece, itself, two_names, callers, buffer, other_type]


def traced(net, x):
    with torch.no_grad():
        return torch.export.export(net, (x,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)


@pytest.mark.parametrize("then", [*BY_NAME, *BY_PYTORCH, read_afterwards])
def test_the_result_of_a_program(then):
    net, x = Body(then), torch.randn(3, 3, 8, 7, dtype=torch.float64)
    program = spelled(traced(net, torch.cat([x[:1]] * 2)))
    calls = [call for call in program.graph.nodes if isinstance(call.target, torch._ops.OpOverload)]
    assert not any(call.target._schema.is_mutable for call in calls)
    with torch.no_grad():
        found = program.module(check_guards=False)(x.clone())
        net.seen.zero_()
        assert torch.equal(found, net(x.clone()))


@pytest.mark.parametrize("then", BY_NAME)
def test_what_nothing_else_sees_is_not_traced_again(then):
    program = traced(Body(then), torch.randn(2, 3, 8, 7, dtype=torch.float64))
    assert spelled(program) is program


@pytest.mark.parametrize("then", BY_PYTORCH)
def test_what_something_else_sees_is_left_to_pytorch(then):
    program = traced(Body(then), torch.randn(2, 3, 8, 7, dtype=torch.float64))
    assert spelled(program) is not program


def test_statistics_of_a_batch_in_training():
    """Their running means are written to, which no schema says."""
    program = traced(nn.BatchNorm2d(3).train(), torch.randn(2, 3, 8, 7))
    assert spelled(program) is not program


CONV = nn.Conv2d(3, 8, 3, padding=1)


@pytest.fixture
def operators():
    """Operators of somebody else's, named like PyTorch's."""
    library = torch.library.Library("krypton_test", "DEF")

    def define(schema, function, key="CompositeExplicitAutograd"):
        library.define(schema)
        library.impl(schema.partition("(")[0], function, key)
        return getattr(torch.ops.krypton_test, schema.partition("(")[0])

    yield define
    library._destroy()


@pytest.mark.parametrize("name", ["clone", "dropout", "softmax"])
def test_an_operator_of_somebody_elses_is_itself(operators, name):
    """What it does is not what PyTorch's operator of that name does."""
    operator = operators(f"{name}(Tensor x, float p) -> Tensor", lambda x, p: x * p)
    torch.library.register_fake(f"krypton_test::{name}", lambda x, p: torch.empty_like(x))
    program = export(lambda x: operator(CONV(x), 3.0), [CONV], (torch.randn(1, 3, 8, 7),), (True,))
    last = translate(program, (True,), 0).nodes[-1]
    assert last.op == f"krypton_test::{name}" and not last.local


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["relu_", "add_", "mul_", "clamp_", "view", "part", "cat", "sum", "sigmoid", "dropout"]
        ),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    min_size=2,
    max_size=9,
)


def walked(y, steps):
    """Values made of one another, some in place; all of them, side by side."""
    values = [y, y * 0.5]
    for name, i, j in steps:
        a, b = values[i % len(values)], values[j % len(values)]
        if name == "add_" or name == "mul_":
            getattr(a, name)(b[:, :1].clone())
        elif name == "clamp_":
            a.clamp_(-0.7, 0.6)
        elif name == "relu_":
            values.append(F.relu(a, inplace=True))
        elif name == "view":
            values.append(a.view(a.shape))
        elif name == "part":
            values.append(a[:, :])
        elif name == "cat":
            values.append(torch.cat([a], 1))
        elif name == "sum":
            values.append(a + b)
        elif name == "sigmoid":
            values.append(a.sigmoid())
        else:
            values.append(F.dropout(a, training=False, inplace=bool(j % 2)))
    return torch.cat(values, 1)


@settings(max_examples=25)
@given(STEPS)
def test_random_writes(steps):
    def net(x):
        return walked(F.avg_pool2d(x, 1), steps)

    x = torch.randn(3, 2, 4, 3, dtype=torch.float64)
    program = export(net, [], (x[:1],), (True,))
    assert torch.equal(program.module(check_guards=False)(x), net(x))
