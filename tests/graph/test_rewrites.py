"""Rewritten graphs compute what they did before: random networks, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.activations import FUNCTIONS
from support.graphs import values
from support.random_cnns import build, networks
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from krypton_engine.graph.box_operators import Convolution
from krypton_engine.graph.boxes import propagate
from krypton_engine.graph.export import export
from krypton_engine.graph.ir import Graph, clipped
from krypton_engine.graph.rewrites import SIMPLIFICATIONS, fused, simplified
from krypton_engine.graph.translate import translate
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.planning.cache import Source, capture

common = settings(
    deadline=None,
    derandomize=True,
    max_examples=6,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def translated(model: nn.Module, x: torch.Tensor) -> Graph:
    """The graph as the exporter has it, before anything is rewritten."""
    return translate(export(model, [model], (x,), (True,)), (True,), 0)


def drawn(data: st.DataObject, rank: int) -> tuple[nn.Module, torch.Tensor]:
    network = data.draw(networks(rank))
    return build(network), torch.randn(3, *network.shape, dtype=torch.float64)


@common
@given(st.data(), st.integers(1, 3))
def test_simplifications_one_by_one(data, rank):
    model, x = drawn(data, rank)
    graph = translated(model, x[:1])
    before = values(graph, x)[graph.output]
    scale = max(1.0, float(before.abs().max()))
    for rewrite in SIMPLIFICATIONS:
        graph = rewrite.apply(graph)
        assert [node.index for node in graph.nodes] == list(range(len(graph.nodes))), rewrite.name
        after = values(graph, x)[graph.output]
        torch.testing.assert_close(after, before, rtol=0, atol=1e-10 * scale, msg=rewrite.name)
        with FlopCounterMode(display=False) as counted:
            values(graph, x[:1])
        assert sum(node.macs for node in graph.nodes) == counted.get_total_flops() // 2, rewrite.name


class Residual(nn.Module):
    """Operators with one operand and with two, constants with and without a batch, reductions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.weight, self.head = nn.Parameter(torch.rand(8, 1, 1)), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = self.weight * x + torch.tanh(self.second(x))
        x = torch.cat([x[:, :4], 2 * x[:, 4:]], 1)
        return self.head(torch.relu(x).mean((2, 3)))


ROWS_OF_ONE = {
    "mapped": lambda model, x: torch.vmap(lambda row: model(row[None])[0])(x),
    "mapped over what is mapped": lambda model, x: torch.vmap(
        lambda row: torch.vmap(lambda again: model(again[None])[0])(row[None])[0]
    )(x),
    "a loop": lambda model, x: torch.cat([model(row[None]) for row in x]),
    "a loss": lambda model, x: nn.functional.cross_entropy(
        model(x), torch.ones(len(x), dtype=torch.long), reduction="none"
    ),
    "there and back": lambda model, x: model((x[:, None].sigmoid() * x.unsqueeze(1))[:, 0]),
}


@pytest.mark.parametrize("way", ROWS_OF_ONE)
def test_rows_of_one_are_dropped(way):
    torch.manual_seed(0)
    model, x = Residual().double().eval(), torch.randn(3, 3, 12, 10, dtype=torch.float64)
    graph = capture(Source(lambda rows: ROWS_OF_ONE[way](model, rows), (x[:1],)))
    for node in graph.nodes:
        assert not node.axes or len(node.shape) <= 4, node.op
    with torch.no_grad():
        expected = torch.cat([ROWS_OF_ONE[way](model, row[None]) for row in x])
    torch.testing.assert_close(values(graph, x)[graph.output].view(expected.shape), expected)


@common
@given(st.data(), st.integers(1, 3))
def test_fused_convolutions(data, rank):
    """The end of a fused convolution is what its fields say, and so are its boxes."""
    model, x = drawn(data, rank)
    graph = simplified(translated(model, x[:1]))
    whole, found = fused(graph), values(graph, x)
    assert values(whole, x).keys() == found.keys()
    for node in whole.nodes:
        operator = node.on_box
        if not isinstance(operator, Convolution) or not operator.steps:
            continue
        assert node.macs == graph.nodes[operator.steps[0]].macs
        result = found[operator.steps[0]]
        if operator.residual:
            result = result + found[node.operands[1]]
        result = result.clamp(operator.epilogue.low, operator.epilogue.high)
        result = FUNCTIONS[operator.epilogue.function](result, operator.epilogue.parameter)
        torch.testing.assert_close(result, found[node.index], rtol=1e-9, atol=1e-9)
    window = SlidingWindow(x.shape[1:], (x.shape[1], *[2] * rank), (x.shape[1], *[2] * rank))
    for axis in range(1, rank + 1):
        places = window.starts(axis), window.stops(axis)
        mine, its = propagate(whole, axis, *places), propagate(graph, axis, *places)
        assert mine.keys() == its.keys() - whole.absorbed
        for index, (lo, hi) in mine.items():
            empty = its[index][1] <= its[index][0]
            assert ((lo == its[index][0]) & (hi == its[index][1]) | (empty & (hi <= lo))).all()


class Block(nn.Module):
    """Two convolutions that are added, one of them after a batch norm and an activation."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        return nn.functional.silu(self.a(x) + self.b(x)).mean((2, 3))


def test_two_convolutions_are_one_that_adds_the_other():
    whole = fused(simplified(translated(Block().eval(), torch.zeros(1, 3, 9, 9))))
    ops = [node.op for node in whole.nodes if node.depends and node.op != "input"]
    assert ops == ["conv2d", "relu", "conv2d", "conv2d", "add", "silu", "mean"]
    local = [node for node in whole.nodes if node.local and node.operands]
    assert [node.op for node in local] == ["relu", "conv2d", "silu"]
    stem, other, end = local
    assert stem.on_box.epilogue.low == 0 and not stem.on_box.residual and other.on_box.steps == ()
    assert end.on_box.residual and end.on_box.epilogue.function == "silu"
    assert end.operands == (stem.index, other.index)
    kernels = [whole.nodes[node.on_box.weight].shape[2:] for node in (other, end)]
    assert kernels == [(1, 1), (3, 3)]  # the one of the larger boxes, which are those of the sum


def test_where_boxes_are_clipped_nothing_is_added():
    graph = simplified(translated(Block().eval(), torch.zeros(1, 3, 9, 9)))
    whole = fused(clipped(graph, 0.5))
    found = [node.on_box for node in whole.nodes if isinstance(node.on_box, Convolution)]
    assert len(found) == 3 and not any(convolution.residual for convolution in found)
    assert found[0].epilogue.low == 0
