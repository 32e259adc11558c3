"""Operators that the C++ engine has no word for: PyTorch computes them on its boxes, and the rest goes on."""

from __future__ import annotations

import copy
import os
import warnings

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from support.random_cnns import Op
from support.sessions import answers
from support.truth import brute_force
from torch import Tensor, nn

from krypton_engine import FallbackWarning, Heatmap, KryptonOcclusion
from krypton_engine.executors.base import Opening
from krypton_engine.executors.native import engine
from krypton_engine.executors.native.executor import EXECUTOR as NATIVE
from krypton_engine.executors.native.program import NativeProgram
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.plan import Plan
from krypton_engine.planning.cache import Source, capture

pytestmark = pytest.mark.skipif(
    bool(engine.MISSING) and "KRYPTON_REQUIRE_NATIVE" not in os.environ, reason=engine.MISSING
)

WINDOW, STRIDES = (3, 4, 5), (3, 3, 3)


@pytest.fixture(autouse=True)
def incremental_whatever_it_gains(monkeypatch):
    monkeypatch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)


class Between(nn.Module):
    """A module between two convolutions, before a head."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.before, self.middle = nn.Conv2d(3, 16, 3, padding=1), middle
        with torch.no_grad():
            self.before.weight *= 4
            channels = middle(torch.zeros(1, 16, 18, 16)).shape[1]
        self.after, self.head = nn.Conv2d(channels, 8, 3, padding=1), nn.Linear(8, 4)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.middle(self.before(x))).relu().mean((2, 3)))


class Halves(nn.Module):
    """A mask that more than one operator reads."""

    def forward(self, x: Tensor) -> Tensor:
        mask = x > 0.5
        return torch.where(mask, x.erf(), x) + x.masked_fill(mask, 0.1)


class Maxout(nn.Module):
    """Channels in two dimensions, read twice."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.unflatten(1, (4, 4))
        return torch.cat([y.amax(1), (y * y.softmax(1)).sum(2)], 1)


class Spatial(nn.Module):
    """The spatial half of CBAM."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        both = [x.mean(1, keepdim=True), x.amax(1, keepdim=True)]
        return x * torch.sigmoid(self.gate(torch.cat(both, 1)))


MODULES = {
    "a function": Op("torch.sin(x)"),
    "a softplus that is cut": nn.Softplus(2.0, 3.0),
    "hard shrinkage": nn.Threshold(0.2, -0.3),
    "soft shrinkage": nn.Softshrink(0.3),
    "a power": Op("(1 + x.abs()) ** 1.5"),
    "a quotient of a constant": Op("1 / (1 + x * x)"),
    "a condition": Op("torch.where(x > 0, x.sin(), 0.1 * x)"),
    "a mask": Halves(),
    "whole numbers": Op("x.round().to(torch.int64).clamp(-3, 5).to(x.dtype) * x"),
    "softmax over channels": nn.Softmax(1),
    "a gated linear unit": nn.GLU(1),
    "response normalisation": nn.LocalResponseNorm(3, alpha=0.5),
    "unit vectors": Op("F.normalize(x, dim=1)"),
    "a norm by hand": Op("(x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True) + 1e-3)"),
    "a root mean square": Op("x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-3)"),
    "running sums": Op("x.cumsum(1)"),
    "channels padded": Op("F.pad(x, (0, 0, 0, 0, 1, 2), value=0.3)"),
    "channels in two dimensions": Maxout(),
    "one channel by the constants of several": Op(
        "x.amax(1, keepdim=True) * self.weight", weight=torch.randn(1, 8, 1, 1)
    ),
    "a scaled addition": Op("torch.add(x, x.sigmoid(), alpha=0.5)"),
    "constants by cell": Op(
        "torch.cat([x * self.rows, self.both.expand(x.shape[0], -1, -1, -1)], 1) + self.columns",
        rows=torch.linspace(-1, 1, 18)[:, None],
        columns=torch.linspace(-1, 1, 16),
        both=torch.randn(1, 2, 18, 16),
    ),
    "a spatial gate": Spatial(),
}
"""What the engine has no word for, somewhere in it."""


def answered(model: nn.Module, x: Tensor, executor: str = "native", **options: object) -> Heatmap:
    """The map of all classes, which must not have fallen back."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        return KryptonOcclusion(model, executor=executor).heatmap(
            x, WINDOW, STRIDES, classes="all", **options
        )


def check(model: nn.Module, x: Tensor) -> str:
    """Against float64, beside PyTorch's own float32; what the plan says of the executor."""
    truth = brute_force(copy.deepcopy(model).double(), x.double(), WINDOW, STRIDES)
    singles = brute_force(model, x, WINDOW, STRIDES)
    heatmap = answered(model, x)
    error = float((heatmap.outputs.reshape(truth.shape) - truth).abs().max())
    torchs = float((singles - truth).abs().max())
    assert float(truth.std(0).max()) > 1e-4 * float(truth.abs().max())  # windows do matter
    assert error <= max(3 * torchs, 1e-6 * float(truth.abs().max())), (error, torchs)
    return str(heatmap.plan.executor)


@pytest.mark.parametrize("name", MODULES)
def test_exact(name):
    executor = check(Between(MODULES[name]), torch.randn(1, 3, 18, 16))
    assert executor.startswith("native") and "PyTorch on its boxes for" in executor
    assert "in full" not in executor


RESIZED = {
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear from corner to corner": nn.Upsample((23, 31), mode="bilinear", align_corners=True),
    "bilinear by fractions": nn.Upsample(scale_factor=(1.3, 0.7), mode="bilinear"),
    "bicubic": nn.Upsample((11, 29), mode="bicubic"),
    "smoothed": Op("F.interpolate(x, (7, 9), mode='bilinear', antialias=True)"),
    "areas": Op("F.interpolate(x, (7, 5), mode='area')"),
    "cells of several sizes": nn.AdaptiveAvgPool2d((7, 5)),
    "one axis alone": nn.Upsample((18, 37), mode="bilinear"),
    "channels to cells": nn.PixelShuffle(2),
    "cells to channels": nn.PixelUnshuffle(2),
    "cells to channels by views": Op(
        "x.view(-1, 16, 9, 2, 8, 2).permute(0, 1, 3, 5, 2, 4).reshape(-1, 64, 9, 8)"
    ),
    "channels to cells by views": Op(
        "x.view(-1, 4, 2, 2, 18, 16).permute(0, 1, 4, 2, 5, 3).reshape(-1, 4, 36, 32)"
    ),
    "cells in groups": Op("x.view(-1, 16, 9, 2, 8, 2).sin().amax((3, 5))"),
    "windows": Op("x.unfold(2, 3, 2).unfold(3, 4, 3).amax((4, 5))"),
    "transposed": nn.ConvTranspose2d(16, 8, 2, 2),
    "transposed, padded": nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1),
    "transposed, dilated": nn.ConvTranspose2d(16, 8, 3, (2, 1), (2, 1), dilation=2, groups=4),
    "transposed with gaps": nn.ConvTranspose2d(16, 8, (2, 1), (3, 4), output_padding=(2, 1)),
    "transposed, of what is not 0 at 0": nn.Sequential(Op("x.cos()"), nn.ConvTranspose2d(16, 8, 5, 2)),
    "one after the other": nn.Sequential(
        nn.Upsample((25, 13), mode="bicubic"),
        nn.PReLU(16),
        nn.ConvTranspose2d(16, 16, 3, 2),
        nn.PixelShuffle(4),
    ),
    "a pyramid": Op("x + F.interpolate(F.avg_pool2d(x, 2).cos(), x.shape[2:], mode='bilinear')"),
}
"""What makes another grid of cells; the engine goes on after it."""

OWN_WORDS = (
    "bilinear", "bilinear from corner to corner", "bilinear by fractions", "bicubic", "smoothed", "areas",
    "cells of several sizes", "one axis alone", "channels to cells", "transposed",
)  # fmt: skip
"""Those that the engine makes by itself."""


@pytest.mark.parametrize("name", RESIZED)
def test_other_grids(name):
    executor = check(Between(RESIZED[name]), torch.randn(1, 3, 18, 16))
    assert executor.startswith("native") and "in full" not in executor
    assert ("PyTorch" not in executor) == (name in OWN_WORDS)


class ByColumns(nn.Module):
    """A recurrent head on what is left of every column, or of every row."""

    def __init__(self, reduction) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.reduction = nn.Conv2d(3, 16, 3, padding=1), reduction
        self.recurrent, self.head = nn.GRU(16, 8, batch_first=True), nn.Linear(8, 4)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(self.reduction(self.first(2 * x).relu()).transpose(1, 2))[0][:, -1])


@pytest.mark.parametrize(
    "reduction",
    [lambda x: x.mean(2), lambda x: x.sum(3) / 9, lambda x: x.mean(3, keepdim=True).squeeze(3)],
    ids=["columns", "rows", "kept"],
)
def test_sums_along_an_axis(reduction):
    executor = check(ByColumns(reduction), torch.randn(1, 3, 18, 16))
    assert (
        executor.startswith("native") and "in full from mean" not in executor and "from sum" not in executor
    )


MOVED = {
    "some": Op("x[:, [3, 1, 15, 0]] + x.flip(1)[:, 2:6] + x.roll(3, 1)[:, ::4]"),
    "interleaved": Op("torch.stack([x, 2 * x], 2).flatten(1, 2)"),
    "shuffled": nn.ChannelShuffle(4),
    "one of them everywhere": Op("x[:, :1].expand(-1, 16, -1, -1) * x"),
    "exchanged": Op("torch.cat(x.chunk(2, 1)[::-1], 1)"),
    "shuffled and taken apart": Op(
        "torch.cat([self.left(torch.cat([x, x * x], 1).unflatten(1, (2, 16)).transpose(1, 2).flatten(1, 2)"
        "[:, 8:19]), x[:, 3].unsqueeze(1).repeat_interleave(3, 1)], 1)",
        left=nn.Conv2d(11, 5, 1),
    ),
    "read when they are moved, too": Op("(lambda y: y.relu() + y.flip(1) * y[:, 7:8])(torch.cat([x, x], 1))"),
    "added up": Op(
        "x * torch.sigmoid(x.mean(1, keepdim=True)) + x.sum(1, keepdim=True) - x[:, 2].unsqueeze(1)"
    ),
    "normalised": nn.Sequential(Op("torch.cat([x.flip(1), x], 1)"), nn.BatchNorm2d(32), nn.ReLU()),
}
"""Channels that are moved about, repeated or added up, for which the engine has words."""


@pytest.mark.parametrize("name", MOVED)
def test_moved_channels(name):
    assert "PyTorch" not in check(Between(MOVED[name]), torch.randn(1, 3, 18, 16))


def test_a_shuffle_is_one_copy():
    """Values side by side, shuffled and taken apart, are read from what they were made of."""
    x = torch.randn(1, 3, 18, 16)
    text = "torch.cat([x.relu(), x.tanh()], 1).unflatten(1, (2, 16)).transpose(1, 2).flatten(1, 2)[:, 1:32:2]"
    program = NativeProgram(capture(Source(Between(Op(text)), (x,))))
    built = [node.op for node in program.values.values()]
    assert built.count("cat") == built.count("reshape") == 0 and built.count("slice") == 1


def test_before_the_first_convolution():
    """The channels of the input are an axis that windows may slide along."""
    x = torch.rand(1, 4, 16, 15)
    model = nn.Sequential(
        Op("x.flip(1).log1p() / torch.tensor([1.0, 2.0, 3.0, 4.0]).to(x)[:, None, None]"),
        nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 14 * 13, 3),
    ).eval()  # fmt: skip
    truth = brute_force(copy.deepcopy(model).double(), x.double(), (2, 4, 4), (1, 4, 4))
    heatmap = KryptonOcclusion(model, executor="native").heatmap(x, (2, 4, 4), (1, 4, 4), classes="all")
    assert "PyTorch on its boxes for flip, log1p" in heatmap.plan.executor
    torch.testing.assert_close(heatmap.outputs.reshape(truth.shape).double(), truth, rtol=0, atol=1e-5)


def test_one_unknown_operator_costs_its_own_time_alone():
    """All else is the engine's: the values, the vectors and the order of them."""
    x = torch.randn(1, 3, 18, 16)
    program = NativeProgram(capture(Source(Between(MODULES["a function"]), (x,))))
    assert program.reason == "" and program.foreign == ("sin",) and not program.tail.nodes


def test_integers_are_what_they_are():
    model = nn.Sequential(Op("(x // 3).to(torch.float32) / 20"), nn.Conv2d(3, 4, 3), nn.Flatten(1)).eval()
    x = torch.randint(0, 255, (1, 3, 12, 12), dtype=torch.uint8)
    ours, theirs = (answered(model, x, executor).outputs for executor in ("native", "reference"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_what_is_no_value_is_computed_anew_outside_of_boxes():
    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mask = x.sin() > 0.3
            return torch.where(mask, x.erf(), x) * (1 + mask.any(3, keepdim=True).any(2, keepdim=True))

    assert "in full" in check(Between(Counted()), torch.randn(1, 3, 18, 16))


def test_trimmed_too():
    """Boxes of what PyTorch computes are cut like others, and the rest is told of."""
    x = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(5))
    graph = capture(Source(Between(MODULES["softmax over channels"]), (x,)))
    plan = Plan.of(graph, SlidingWindow(x.shape[1:], (3, 6, 6), (3, 5, 5)))
    session = NATIVE.program(graph, plan, x.device).open(plan, Opening((x,), torch.zeros(()), 2**30))
    exact, trimmed = answers(session), answers(session.trimmed(0.8, lambda outputs: outputs[:, 2]))
    error = exact.outputs[:, 2] - trimmed.outputs[:, 2]
    assert float(error.abs().max()) > 1e-5
    # To the first order, what was dropped makes up for it.
    assert float((error - torch.from_numpy(trimmed.dropped)).abs().max()) < 0.3 * float(error.abs().max())


def test_what_goes_wrong_there_is_raised_here():
    def fails(given: list[np.ndarray], out: np.ndarray, corners: np.ndarray) -> None:
        raise ZeroDivisionError("no such box")

    program = engine._native.Program("", (1, 6, 5), 3)
    value = program.foreign([0], (1, 6, 5), 2, fails, 8)
    extents, x = np.array([[1, 2, 2], [1, 2, 2]]), np.zeros((1, 6, 5, 3), dtype=np.float32)
    with pytest.raises(ZeroDivisionError, match="no such box"):
        engine._native.Session(program, extents, [value], x, x, 2, [])


def test_memory_is_foreseen():
    """What PyTorch takes for a box counts with the boxes."""
    extents, taken = np.array([[1, 4, 4], [1, 4, 4]]), []
    for bytes_of_cell in (0, 1000):
        program = engine._native.Program("", (1, 8, 8), 3)
        kept = [program.foreign([0], (1, 8, 8), 3, lambda *_: None, bytes_of_cell)]
        taken.append(program.run_bytes(extents, kept, 2, 1))
    more = taken[1] - taken[0]
    assert more > 0 and more % (2 * 16 * 1000) == 0  # of both threads, for cells of as many boxes as fit


@pytest.mark.parametrize("slopes", [1, 16])
def test_learnt_slopes(slopes):
    slope = nn.PReLU(slopes)
    with torch.no_grad():
        slope.weight.copy_(torch.linspace(-0.4, 1.3, slopes))
    assert "boxes for" not in check(Between(slope), torch.randn(1, 3, 18, 16))


@pytest.mark.parametrize("kind", ["along columns", "along rows", "the same everywhere", "written into rows"])
def test_constants_beside_the_image(kind):
    """A map of coordinates, say, that is concatenated or written into the image: cropped at every box."""

    class Coordinates(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3 if kind == "written into rows" else 4, 8, 3)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            height, width = x.shape[2:]
            if kind == "written into rows":
                x = x.clone()
                x[:, 1:2, 4:9] = torch.linspace(-1, 1, width).expand(1, 5, width)
            else:
                values = {
                    "along columns": torch.linspace(-1, 1, width),
                    "along rows": torch.linspace(-1, 1, height)[:, None],
                    "the same everywhere": torch.tensor(0.3),
                }[kind]
                x = torch.cat([x, values.expand(len(x), 1, height, width)], 1)
            return self.head(self.convolution(x).relu().mean((2, 3)))

    torch.manual_seed(0)
    model, x = Coordinates().eval(), torch.randn(1, 3, 24, 20)
    window = (3, 6, 5), (3, 3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        mine = KryptonOcclusion(model, "native").attribute(x, *window, target=1)
    right = Occlusion(model).attribute(x, *window, target=1)
    torch.testing.assert_close(mine, right, atol=1e-5, rtol=0)


CHANNELS = {
    "space to depth": "x.view(-1, 3, 9, 2, 8, 2).permute(0, 1, 3, 5, 2, 4).reshape(-1, 12, 9, 8)",
    "maximum of neighbours": "F.max_pool3d(x[:, None], (3, 1, 1), 1, (1, 0, 0)).squeeze(1)",
    "mean of neighbours": "F.avg_pool3d(x[:, None], (3, 1, 1), 1, (1, 0, 0), False, False).squeeze(1)",
    "resized": "F.interpolate(x[:, None], scale_factor=(2, 1, 1), mode='trilinear').flatten(1, 2)",
}


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_of_the_input_that_are_regrouped(name):
    torch.manual_seed(3)
    x = torch.randn(1, 3, 18, 16)
    moved = Op(CHANNELS[name])
    model = nn.Sequential(moved, nn.Conv2d(moved(x).shape[1], 4, 3), nn.Flatten(), nn.LazyLinear(2)).eval()
    model(x)
    for window in (WINDOW, (2, 4, 5)):  # all channels, and some
        strides = (window[0], *STRIDES[1:])
        ours = KryptonOcclusion(model, "native").attribute(x, window, strides, target=1)
        theirs = Occlusion(model).attribute(x, window, strides, target=1)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
