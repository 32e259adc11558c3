"""What the families of operators state as facts is what PyTorch does."""

from __future__ import annotations

import math

import pytest
import torch

from krypton_engine.graph.ir import Epilogue
from krypton_engine.graph.operators.base import FACTS, arguments

FUNCTIONS = {
    "identity": lambda x, _: x,
    "silu": lambda x, _: x * x.sigmoid(),
    "sigmoid": lambda x, _: 1 / (1 + (-x).exp()),
    "hardswish": lambda x, _: x * (x + 3).clamp(0, 6) / 6,
    "hardsigmoid": lambda x, _: (x + 3).clamp(0, 6) / 6,
    "tanh": lambda x, _: 1 - 2 / ((2 * x).exp() + 1),
    "leaky_relu": lambda x, slope: torch.where(x > 0, x, slope * x),
    "elu": lambda x, alpha: torch.where(x > 0, x, alpha * x.expm1()),
    "gelu": lambda x, _: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x, _: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}
"""What an epilogue's names mean."""

aten = torch.ops.aten
CALLS = {
    aten.hardtanh.default: [(), (-0.5, 1.5)],
    aten.clamp.default: [(-0.25,), (None, 0.5), (-1, 1)],
    aten.clamp_min.default: [(-0.5,)],
    aten.leaky_relu.default: [(), (0.3,)],
    aten.elu.default: [(), (0.7,)],
}
"""Further arguments of activations."""


def ends():
    for target, facts in FACTS.items():
        for args in CALLS.get(target, [()]):
            if facts.epilogue(arguments(target, (None, *args), {})) is not None:
                yield pytest.param(target, args, {}, id=f"{target}{args}")
    yield pytest.param(aten.gelu.default, (), {"approximate": "tanh"}, id="gelu by tanh")


@pytest.mark.parametrize(("target", "args", "kwargs"), ends())
def test_an_epilogue_is_what_the_operator_computes(target, args, kwargs):
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    end = FACTS[target].epilogue(arguments(target, (x, *args), kwargs))
    assert isinstance(end, Epilogue)
    mine = FUNCTIONS[end.function](x.clamp(end.low, end.high), end.parameter)
    torch.testing.assert_close(mine, target(x, *args, **kwargs), rtol=1e-12, atol=1e-12)


def test_a_scaled_elu_is_no_epilogue():
    given = arguments(aten.elu.default, (torch.zeros(1), 1.6, 1.05), {})
    assert FACTS[aten.elu.default].epilogue(given) is None


@pytest.mark.parametrize("target", [t for t, facts in FACTS.items() if facts.in_place is not None], ids=str)
def test_in_place_is_the_same_over_the_first_operand(target):
    operands = [torch.randn(3, 4) for _ in target._schema.arguments if "Tensor" in str(_.type)]
    expected, first = target(*operands), operands[0].clone()
    result = FACTS[target].in_place(first, *operands[1:])
    assert torch.equal(result, expected) and result.data_ptr() == first.data_ptr()


@pytest.mark.parametrize("target", [t for t, facts in FACTS.items() if facts.out is not None], ids=str)
def test_out_is_the_same_where_it_is_wanted(target):
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    args = ([a, b], 1) if target is aten.cat.default else (a, b) if target is aten.add.Tensor else (a,)
    expected = target(*args)
    room = torch.empty(3, 20)[:, : expected.shape[1]]
    FACTS[target].out(*args, out=room)
    assert torch.equal(room, expected)
