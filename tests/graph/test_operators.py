"""What the families of operators state as facts is what PyTorch does."""

from __future__ import annotations

import pytest
import torch
from support.activations import FUNCTIONS, ends

from krypton_engine.graph.box_operators import Epilogue
from krypton_engine.graph.operators.base import FACTS, arguments

aten = torch.ops.aten


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
