"""Gates and norms over the image, in the spellings that people write: all on boxes, and the same in full."""

from __future__ import annotations

import pytest
import torch
from support.gates import GATES, Gated
from support.graphs import values
from torch import nn

from krypton_engine.graph.rewrites.linearise import linearised
from krypton_engine.planning.cache import Source, capture


@pytest.mark.parametrize("name", GATES)
def test_nothing_is_full_but_the_head(name):
    torch.manual_seed(0)
    model, x = Gated(GATES[name]), torch.randn(1, 3, 12, 10, dtype=torch.float64)
    graph = capture(Source(model, (x,)))
    made = linearised(graph)
    assert made.sites
    assert [node.name for node in made.nodes if node.depends and not node.local] == []
    both = torch.randn(2, 3, 12, 10, dtype=torch.float64)
    for rows in (x, both):
        torch.testing.assert_close(values(made, rows)[made.output], model(rows), rtol=1e-12, atol=1e-12)


def test_a_model_without_global_values_is_left_alone():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(1, 3, 12, 10)
    graph = capture(Source(model.eval(), (x,)))
    assert linearised(graph) is graph


def test_what_cannot_be_on_boxes_stays_in_full():
    """A gate is on boxes, a sort of all cells and what follows are not."""
    x = torch.randn(1, 3, 12, 10)

    def function(x):
        ordered = x.flatten(2).sort(2).values.view(x.shape)
        return x.cumsum(2) * x.mean((1, 2, 3), keepdim=True) + ordered

    graph = capture(Source(function, (x,)))
    made = linearised(graph)
    assert [made.nodes[site].op for site in made.sites] == ["mul"]
    full = [node.op for node in made.nodes if node.depends and not node.local]
    assert full == ["reshape", "sort", "reshape", "add"]
    torch.testing.assert_close(values(made, x)[made.output], function(x), rtol=1e-5, atol=1e-5)
