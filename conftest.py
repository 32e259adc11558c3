"""Names that the examples in docstrings use without making them: a small model, an image, a map, a tuning."""

import functools
import re

import numpy as np
import pytest
import torch
from torch import nn

from krypton_engine.graph.ir import Graph
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.plan import Plan
from krypton_engine.planning.cache import Source, capture
from krypton_engine.tuning.curves import Curve
from krypton_engine.tuning.fingerprint import Fingerprint
from krypton_engine.tuning.tuning import Tuning
from krypton_engine.zoo.load import ZooModel
from krypton_engine.zoo.preprocess import Preprocess


@pytest.fixture(autouse=True)
def example_names(request, doctest_namespace, monkeypatch, tmp_path_factory):
    """The names, anew for every docstring, in an empty folder.

    ``torch`` and ``np``; ``model``, which tells five classes apart, and ``x``, an image for it; ``heatmap``,
    four values around a base of 1; ``tuning``, made on ten images that are alike; ``zoo_model``, the model
    with its preprocessing and the names of its classes; ``graph``, captured from the model, whose nodes from
    6 on are the image and the layers; ``plan``, of the graph with windows of 8 x 8 pixels, every 4 pixels.
    """
    if not isinstance(request.node, pytest.DoctestItem):
        return
    monkeypatch.chdir(tmp_path_factory.mktemp("example"))
    model, x = _model()
    doctest_namespace |= {
        "torch": torch, "np": np, "model": model, "x": x, "heatmap": _heatmap(), "tuning": _tuning(),
        "zoo_model": _zoo_model(model),
    }  # fmt: skip
    lines = "\n".join(example.source for example in request.node.dtest.examples)
    if re.search(r"(?<![.\"])\b(graph|plan)\b(?!\.\w+ import)", lines):  # a capture takes a second
        doctest_namespace["graph"], doctest_namespace["plan"] = _graph_and_plan()


def _model() -> tuple[nn.Sequential, torch.Tensor]:
    """The model, in eval mode, and an image for it."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 12 * 10, 5),
    )  # fmt: skip
    return nn.Sequential(*layers).eval(), torch.rand(1, 3, 24, 20)


@functools.cache
def _graph_and_plan() -> tuple[Graph, Plan]:
    """One graph and one plan for all docstrings: neither changes."""
    model, x = _model()
    graph = capture(Source(model, (x,)))
    return graph, Plan.of(graph, SlidingWindow((3, 24, 20), (3, 8, 8), (3, 4, 4)))


def _heatmap() -> Heatmap:
    """A map of class 0 on a grid of two by two positions; one of them raises the value."""
    window = SlidingWindow((3, 24, 20), (3, 12, 10), (3, 12, 10))
    values = torch.tensor([[0.5, 1.0], [1.0, 1.25]])
    return Heatmap(values, torch.tensor(1.0), torch.ones(2, 2, dtype=torch.bool), window, target=0)


def _zoo_model(model: nn.Module) -> ZooModel:
    """The model for pictures of any size, whose pixels it takes from -2 (black) to 2 (white)."""
    preprocess, names = Preprocess((24, 20), (0.5,) * 3, (0.25,) * 3), ["cat", "dog", "fox", "hen", "owl"]
    return ZooModel("a model", model, preprocess, (3, 24, 20), names, "random weights", preprocess.picture)


def _tuning() -> Tuning:
    """A tuning whose samples all take 2 s in full, and reach an SSIM of 0.97 after 60 of 100 positions."""
    curves = [
        Curve(
            f"image {number}", 0.0, 100, computed=(20, 40, 60), expected=(0.8, 0.9, 0.95),
            ssim=(0.82, 0.88, 0.97), seconds=2.0, look_seconds=0.01, open_seconds=0.0, exact_seconds=2.0,
        )
        for number in range(10)
    ]  # fmt: skip
    fingerprint = Fingerprint((3, 24, 20), (3, 8, 8), (3, 4, 4), (0.5, 0.5, 0.5), None, (0.25, 0.75))
    return Tuning(fingerprint, tuple(curves))
