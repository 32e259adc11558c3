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
from krypton_engine.graph.functional import make_functional
from krypton_engine.graph.spellings import spelled
from krypton_engine.graph.translate import translate
from krypton_engine.planning.cache import Source, capture


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


def compared(net, y, x):
    return net.norm(y).lt_(0.2)


def other_order(net, y, x):
    return y.clamp(0.5, 2.0).polygamma_(1)


def corners(net, y, x):
    """As Swin numbers its windows."""
    y = y.clone()
    for i, rows in enumerate((slice(0, -3), slice(-3, None))):
        for columns in slice(0, -2), slice(-2, None, 2):
            y[:, :, rows, columns] = i
    return y


def one_row(net, y, x):
    y[:, :, -2] = net.seen[:, 0]
    y[:, 1].add_(1.0)
    return y.relu_() + y


def part_and_its_result(net, y, x):
    part = y[:, 1:].mul_(2.0)
    y.add_(1.0)
    return torch.cat([y, part], 1)


def part_of_itself(net, y, x):
    y[:, 1:].add_(y[:, :1])
    return y


def part_read_later(net, y, x):
    part = y[:, 1:]
    y[:, :2].mul_(3.0)
    return torch.cat([y, part], 1)


BY_NAME = [relu_then_sum, gated, dropped, clamped, view_of_a_part, corners, one_row, read_afterwards]
BY_PYTORCH = [
    view_before,
    piece,
    part_and_its_result,
    part_of_itself,
    part_read_later,
    itself,
    two_names,
    callers,
    buffer,
    other_type,
    compared,
]


def traced(net, x):
    with torch.no_grad():
        return torch.export.export(net, (x,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)


@pytest.mark.parametrize("then", [*BY_NAME, *BY_PYTORCH])
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


def test_an_operator_of_other_arguments_stays():
    """Of ``polygamma`` the number comes first, in place it comes last."""
    program = traced(Body(other_order), torch.randn(2, 3, 8, 7, dtype=torch.float64))
    make_functional(program)
    assert program.graph.find_nodes(op="call_function", target=torch.ops.aten.polygamma_.default)


def test_statistics_of_a_batch_in_training():
    """Their running means are written to, which no schema says."""
    program = traced(nn.BatchNorm2d(3).train(), torch.randn(2, 3, 8, 7))
    assert spelled(program) is not program


def taken(function, x):
    """Operators that run on boxes, and those that run in full."""
    graph = capture(Source(function, (x,)))
    nodes = [node for node in graph.nodes if node.depends]
    return [n.op for n in nodes if n.local], [n.op for n in nodes if not n.local]


CONV = nn.Conv2d(3, 8, 3, padding=1)
UNDONE = {
    "reshape": lambda y: y.reshape(len(y), -1).reshape(y.shape),
    "view": lambda y: y.view(len(y), -1).view(y.shape),
    "flatten": lambda y: y.flatten(1).unflatten(1, y.shape[1:]),
    "flatten_view": lambda y: y.flatten(1).view(y.shape),
    "rows": lambda y: y.flatten(0, 1).unflatten(0, (-1, 8)),
    "squeeze": lambda y: y.reshape(len(y), -1, 1).squeeze(2).reshape(y.shape),
}


@pytest.mark.parametrize("undone", UNDONE.values(), ids=UNDONE)
def test_dimensions_regrouped_and_back(undone):
    """Nothing has to run in full, whichever way it is written."""
    local, full = taken(lambda x: undone(CONV(x)).relu(), torch.randn(1, 3, 8, 7))
    assert local == ["input", "conv2d", "reshape", "relu"] and full == []


@pytest.mark.parametrize("back", [lambda y: y.reshape(y.shape[1:]), lambda y: y.flatten(0, 1)])
@pytest.mark.parametrize("one", [lambda x: x.reshape(1, *x.shape), lambda x: x.view(1, *x.shape)])
def test_waves_that_are_channels_while_they_are_padded(one, back):
    def net(x):
        return F.conv1d(back(F.pad(one(x), (2, 2), mode="reflect"))[:, None], torch.ones(2, 1, 3))

    local, full = taken(net, torch.randn(1, 2000))
    assert local[-1] == "conv1d" and full == []


@pytest.mark.parametrize("nothing", [lambda y: y.flatten(1, 1), lambda y: +y], ids=["flatten", "positive"])
def test_what_does_nothing_is_no_operator(nothing):
    assert taken(lambda x: nothing(CONV(x)), torch.randn(1, 3, 8, 7)) == (["input", "conv2d"], [])


@pytest.mark.parametrize(
    ("several", "one"),
    [
        (lambda y: F.max_pool2d(y, 2, return_indices=True)[0], "max_pool2d"),
        (lambda y: torch.native_layer_norm(y, y.shape[3:], None, None, 1e-5)[0], "layer_norm"),
        (lambda y: y.max(1)[0], "max"),
    ],
    ids=["max_pool2d", "layer_norm", "max"],
)
def test_results_that_nothing_reads(several, one):
    assert taken(lambda x: several(CONV(x)), torch.randn(1, 3, 8, 6)) == (["input", "conv2d", one], [])


def test_names_of_writes_in_place():
    """They are those of the operators that run."""

    def net(x):
        y = F.relu(CONV(x), inplace=True)
        z = F.relu(CONV(x + 1), inplace=True)
        y *= z
        return y

    program = export(net, [CONV], (torch.randn(1, 3, 8, 7),), (True,))
    names = [node.name for node in program.graph.nodes if node.op == "call_function"]
    assert names == ["conv2d", "relu", "add", "conv2d_1", "relu_1", "mul"]
    assert program.graph_signature.user_outputs == ("mul",)


def test_relu6_written_in_place_is_a_clamp():
    local, _ = taken(lambda x: F.relu6(CONV(x), inplace=True), torch.randn(1, 3, 8, 7))
    assert local == ["input", "conv2d", "hardtanh"]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.float64])
def test_a_triangle_keeps_its_type(dtype):
    """As a mask of flags, such as people write them for an attention, has to."""

    def net(x):
        return x.flatten(1)[..., None].expand(-1, -1, 4).mul(2).to(dtype).tril(1).triu(-1)

    x = torch.randn(3, 1, 2, 2)
    found = export(net, [], (x[:1],), (True,)).module(check_guards=False)(x)
    assert found.dtype == dtype and torch.equal(found, net(x))


def test_random_numbers_between_equal_limits_are_written():
    def net(x):
        y = torch.zeros_like(x)
        y[:, 1].uniform_(2.0, 2.0)
        return x * y

    x = torch.randn(3, 2, 4, 3)
    assert torch.equal(export(net, [], (x[:1],), (True,)).module(check_guards=False)(x), net(x))


def test_casts_of_autocast_are_operators():
    """They are part of a program, since weights are cast once, not for every window."""
    net, x = nn.Sequential(CONV, nn.ReLU(inplace=True)), torch.randn(1, 3, 8, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert taken(net, x) == (["input", "_to_copy", "conv2d", "relu"], [])


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


def test_a_write_in_place_of_somebody_elses(operators):
    relu_ = operators("relu_(Tensor(a!) x) -> Tensor(a!)", lambda x: x.add_(100.0))
    with pytest.raises(Exception, match="custom"):
        export(lambda x: relu_(CONV(x)), [CONV], (torch.randn(1, 3, 8, 7),), (True,))


def test_a_view_of_somebody_elses(operators):
    mul = operators("mul(Tensor(a) x) -> Tensor(a)", lambda x: x.view_as(x), "CompositeImplicitAutograd")

    def net(x):
        y = CONV(x)
        view = mul(y)
        view.relu_()
        return y

    x = torch.randn(1, 3, 8, 7)
    with torch.no_grad():
        assert torch.equal(export(net, [CONV], (x,), (True,)).module(check_guards=False)(x), net(x))


@pytest.mark.parametrize("name", ["clone", "dropout", "softmax"])
def test_an_operator_of_somebody_elses_is_itself(operators, name):
    """What it does is not what PyTorch's operator of that name does."""
    operator = operators(f"{name}(Tensor x, float p) -> Tensor", lambda x, p: x * p)
    torch.library.register_fake(f"krypton_test::{name}", lambda x, p: torch.empty_like(x))
    program = export(lambda x: operator(CONV(x), 3.0), [CONV], (torch.randn(1, 3, 8, 7),), (True,))
    last = translate(program, (True,), 0).nodes[-1]
    assert last.op == f"krypton_test::{name}" and not last.local


NAMES = ["relu_", "add_", "mul_", "clamp_", "view", "part", "cat", "sum", "sigmoid", "dropout"]
PARTS = ["slice_", "select_", "copy_", "fill_"]
NUMBERS = st.integers(0, 9)
STEPS = st.lists(st.tuples(st.sampled_from(NAMES + PARTS), NUMBERS, NUMBERS), min_size=2, max_size=9)


def walked(y, steps):
    """Values made of one another, some in place; all of them, side by side."""
    values = [y, y * 0.5]
    for name, i, j in steps:
        a, b = values[i % len(values)], values[j % len(values)]
        if name == "add_" or name == "mul_":
            getattr(a, name)(b[:, :1].clone())
        elif name == "clamp_":
            a.clamp_(-0.7, 0.6)
        elif name == "slice_":
            a[:, : 1 + j % 2, j % 4 :: 2].mul_(b.sum())
        elif name == "select_":
            a[..., j % 3 - 1].relu_()
        elif name == "copy_":
            a[:, :1] = b[:, :1].clone()
        elif name == "fill_":
            a[:, -1:, :2] = 0.5
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


@settings(max_examples=8)
@given(STEPS)
def test_random_writes(steps):
    def net(x):
        return walked(F.avg_pool2d(x, 1), steps)

    x = torch.randn(3, 2, 4, 3, dtype=torch.float64)
    program = export(net, [], (x[:1],), (True,))
    assert torch.equal(program.module(check_guards=False)(x), net(x))
