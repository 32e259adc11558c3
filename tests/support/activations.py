"""Activations that may end a convolution, and what the names of epilogues mean."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from krypton_engine import KryptonOcclusion
from krypton_engine.graph.box_operators import NO_EPILOGUE, Convolution
from krypton_engine.graph.operators.base import FACTS, arguments
from krypton_engine.graph.rewrites import fused
from krypton_engine.planning.cache import Source, capture
from support.truth import brute_force

FUNCTIONS = {
    "identity": lambda x, _: x,
    "silu": lambda x, _: x * x.sigmoid(),
    "sigmoid": lambda x, _: 1 / (1 + (-x).exp()),
    "hardswish": lambda x, _: x * (x + 3).clamp(0, 6) / 6,
    "hardsigmoid": lambda x, _: (x + 3).clamp(0, 6) / 6,
    "tanh": lambda x, _: 1 - 2 / ((2 * x).exp() + 1),
    "leaky_relu": lambda x, slope: torch.where(x > 0, x, slope * x),
    "elu": lambda x, alpha: torch.where(x > 0, x, alpha * x.expm1()),
    "selu": lambda x, _: 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * x.expm1()),
    "celu": lambda x, alpha: torch.where(x > 0, x, alpha * (x / alpha).expm1()),
    "mish": lambda x, _: x * torch.tanh(torch.logaddexp(x, torch.zeros_like(x))),
    "softplus": lambda x, beta: torch.logaddexp(beta * x, torch.zeros_like(x)) / beta,
    "log_sigmoid": lambda x, _: -torch.logaddexp(-x, torch.zeros_like(x)),
    "abs": lambda x, _: torch.maximum(x, -x),
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
    aten.celu.default: [(), (0.7,)],
    aten.softplus.default: [(), (2.5,), (1, 30)],
}
"""Further arguments of activations."""


def ends() -> list[Any]:
    """Every activation that the graph calls an epilogue, with arguments."""
    found = [pytest.param(aten.gelu.default, (), {"approximate": "tanh"}, id="gelu by tanh")]
    for target, facts in FACTS.items():
        for args in CALLS.get(target, [()]):
            if facts.epilogue(arguments(target, (None, *args), {})) is not None:
                found.append(pytest.param(target, args, {}, id=f"{target}{args}"))
    return found


class Ended(nn.Module):
    """A convolution that an activation ends, between others."""

    def __init__(self, target, args, kwargs):
        super().__init__()
        torch.manual_seed(1)
        self.before, self.after = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3)
        self.activation = lambda x: target(x, *args, **kwargs)
        with torch.no_grad():
            self.before.weight *= 6
        self.eval()

    def forward(self, x):
        return self.after(self.activation(self.before(x))).mean((2, 3))


def check_engine(executor: str, target, args, kwargs, device: str = "cpu") -> None:
    """Compare an engine with a loop over copies in float64, and look whether it fuses the activation.

    Args:
        executor: Which engine.
        target: An activation, of `ends`; so are the others.
        args: Its further arguments.
        kwargs: The same by name.
        device: Where the engine runs.
    """
    model, x = Ended(target, args, kwargs), torch.randn(1, 3, 14, 13)
    truth = brute_force(copy.deepcopy(model).double(), x.double(), (3, 4, 5), (3, 3, 3))
    model, x = model.to(device), x.to(device)
    graph = fused(capture(Source(model, (x,))))
    found = [node.on_box for node in graph.nodes if isinstance(node.on_box, Convolution)]
    assert [convolution.epilogue != NO_EPILOGUE for convolution in found] == [True, False]
    heatmap = KryptonOcclusion(model, executor=executor).heatmap(x, (3, 4, 5), (3, 3, 3), classes="all")
    assert str(heatmap.plan.executor).startswith(executor) and "in full" not in str(heatmap.plan.executor)
    outputs = heatmap.outputs.reshape(truth.shape).double().cpu()
    assert float(truth.std(0).max()) > 1e-3 * float(truth.abs().max())
    torch.testing.assert_close(outputs, truth, rtol=0, atol=3e-6 * float(truth.abs().max()))
