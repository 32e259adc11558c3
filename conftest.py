"""Names that the examples in docstrings use without making them: a small model, an image, a map, a tuning."""

import functools
import os
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend

from krypton_engine.attr.request import MapRequest, heatmap_request
from krypton_engine.executors.native import engine
from krypton_engine.executors.reference.attention import Kept
from krypton_engine.executors.reference.grid_rows import GridExample
from krypton_engine.executors.reference.token_rows import Example
from krypton_engine.graph.draft import BoundCall, Draft
from krypton_engine.graph.ir import Graph, Node, Ref
from krypton_engine.graph.tokens.arrangement import Form
from krypton_engine.graph.tokens.grid_steps import Cells, Grids, Pool
from krypton_engine.graph.tokens.search import find_tokens
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
    with its preprocessing and the names of its classes. Only for docstrings that use them, since a
    capture takes a second: ``graph``, captured from the model, whose nodes from 6 on are the image and the
    layers; ``call``, which makes a call of an operator on these nodes, before it is one of them; ``plan``, of
    the graph with windows of 8 x 8 pixels, every 4 pixels; ``gated``, a function whose channels are
    multiplied by gates that see the whole image; ``vit``, a small vision transformer; ``token_example``, its
    tokens of ``x``; ``grid_example``, a token of ones for every cell of the graph's node 11, and their mean,
    node 14; ``pixel_request``, a request for the heatmap of a function that adds up pixels, on an image of
    the pixels 0 to 15, with windows of 2 x 2 pixels side by side.
    """
    if not isinstance(request.node, pytest.DoctestItem):
        return
    if engine.MISSING and "KRYPTON_REQUIRE_NATIVE" not in os.environ and "native" in request.node.path.parts:
        pytest.skip(engine.MISSING)
    monkeypatch.chdir(tmp_path_factory.mktemp("example"))
    model, x = _model()
    doctest_namespace |= {
        "torch": torch, "np": np, "model": model, "x": x, "heatmap": _heatmap(), "tuning": _tuning(),
        "zoo_model": _zoo_model(model),
    }  # fmt: skip
    lines = "\n".join(example.source for example in request.node.dtest.examples)
    late = {
        "graph": _graph, "call": lambda: _call, "plan": _plan, "gated": lambda: _gated, "vit": _vit,
        "token_example": _token_example, "grid_example": _grid_example, "pixel_request": _pixel_request,
    }  # fmt: skip
    for name, make in late.items():
        if re.search(rf"(?<![.\"])\b{name}\b(?!\.\w+ import)", lines):
            doctest_namespace[name] = make()


def _model() -> tuple[nn.Sequential, torch.Tensor]:
    """The model, in eval mode, and an image for it."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 12 * 10, 5),
    )  # fmt: skip
    return nn.Sequential(*layers).eval(), torch.rand(1, 3, 24, 20)


@functools.cache
def _graph() -> Graph:
    """One graph for all docstrings, as everything here that does not change."""
    model, x = _model()
    return capture(Source(model, (x,)))


def _call(target: torch._ops.OpOverload, *args: object, shape: tuple[int, ...] = ()) -> BoundCall:
    """A call whose result has this shape; arguments that are nodes become references to them."""
    bound = tuple(Ref(arg.index) if isinstance(arg, Node) else arg for arg in args)
    return BoundCall(Draft(None, _graph().nodes), target, bound, {}, shape)


@functools.cache
def _plan() -> Plan:
    return Plan.of(_graph(), SlidingWindow((3, 24, 20), (3, 8, 8), (3, 4, 4)))


def _gated(images: Tensor) -> Tensor:
    """Four channels, each the sum of the colours, times the sigmoid of its mean."""
    y = torch.nn.functional.conv2d(images, torch.ones(4, 3, 1, 1))
    return y * y.mean((2, 3), keepdim=True).sigmoid()


class _VisionTransformer(nn.Module):
    """The mean of one attention over an image's 30 patches of 4 x 4 pixels, each a token of 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)

    def tokens(self, images: Tensor) -> Tensor:
        """The patches as ``(images, 30, 8)``."""
        return self.patches(images).flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.tokens(images)
        return attend(tokens, tokens, tokens).mean(1)


@functools.cache
def _vit() -> _VisionTransformer:
    torch.manual_seed(0)
    return _VisionTransformer().eval().requires_grad_(False)


@functools.cache
def _token_example() -> Example:
    """The attention as it is kept for the gradient of the sum of its results."""
    vit, (_, x) = _vit(), _model()
    tokens, y = find_tokens(capture(Source(vit, (x,)))), vit.tokens(x)
    kept = Kept.of(y * 8**-0.5, y, y, None, gradient=torch.ones_like(y))
    (mean,) = tokens.pooled
    values = {mean.source: attend(y, y, y), mean.node.index: vit(x)}
    return Example(tokens, None, {mean.source: kept}, values, kept.influence, output=vit(x))


@functools.cache
def _grid_example() -> GridExample:
    """A grid without attention, on which every row but the last, which pads, is 1."""
    graph = _graph()
    mean = Pool(Node(14, "mean", "mean", (1, 8), (-1, None), None), source=11, grid=0, divisor=120)
    steps, forms = (Cells(graph.nodes[11]), mean), {11: Form(11, tuple(range(8)), (2, 3), (8,))}
    grids = Grids(graph, graph.nodes[11], steps, forms, places={}, sizes=(120,), after=())
    rows, means = torch.ones(121, 8).index_fill(0, torch.tensor(120), 0.0), torch.ones(1, 8)
    return GridExample(grids, None, {}, {}, {11: rows}, {}, {}, {14: means}, means)


def _pixel_request() -> MapRequest:
    def total(images: Tensor) -> Tensor:
        return images.sum((2, 3))

    pixels, size = torch.arange(16.0).view(1, 1, 4, 4), (1, 2, 2)
    return heatmap_request(total, pixels, size, size, 0.0, 0, None, None, lambda device: 2**30)


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
