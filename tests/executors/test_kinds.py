"""Operators that are local although many engines think otherwise: each in a small network, on boxes, exactly.

`KINDS` is a table of what stands in the middle of a network, of its input, and of what follows it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from support.truth import brute_force
from torch import Tensor, nn
from torchvision import transforms

from krypton_engine import FallbackWarning, KryptonOcclusion

TOLERANCE = 1e-9
CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Net(nn.Module):
    """A convolution, ``middle``, another convolution, and a linear layer on the mean of its cells.

    Args:
        middle: From the net and a value of six channels to the next value.
        channels: Of that value.
        before: From the net and the input to an image of three channels, or of ``given``.
        given: Channels of the image.
        rank: Spatial dimensions.
        parts: Modules and tensors that ``middle`` and ``before`` use.
    """

    def __init__(self, middle, channels=6, before=None, given=3, rank=2, **parts):
        super().__init__()
        convolution = CONVOLUTION[rank]
        self.first = nn.Sequential(convolution(given, 6, 3, padding=1), nn.ReLU())
        self.last = nn.Sequential(convolution(channels, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4, 3)
        self.middle, self.before = middle, before
        self.spatial = tuple(range(2, rank + 2))
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x):
        x = x if self.before is None else self.before(self, x)
        return self.head(self.last(self.middle(self, self.first(x))).mean(self.spatial))


def middle(function, channels=6, rank=2, **parts):
    """A network with ``function`` in its middle."""
    return lambda: Net(function, channels, rank=rank, **parts)


def before(function, given=3, rank=2, **parts):
    """A network that ``function`` makes the image for."""
    return lambda: Net(lambda net, x: x, before=function, given=given, rank=rank, **parts)


def assigned(cells, value):
    """Assignment to cells of a copy."""

    def function(net, x):
        y = x.clone()
        y[cells(x) if callable(cells) else cells] = value
        return y

    return function


def space_to_depth(net, x):
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


def depth_to_space(net, x):
    b, c, h, w = x.shape
    return x.reshape(b, c // 2, 2, h, w).permute(0, 1, 3, 2, 4).reshape(b, c // 2, 2 * h, w)


def windows(net, x):
    """Cells in windows, each of which takes its mean away."""
    b, c, h, w = x.shape
    y = x.view(b, c, h // 4, 4, w // 4, 4)
    return (y - y.mean((3, 5), keepdim=True)).reshape(b, c, h, w)


def spectrum(net, x):
    """The magnitudes of a spectrogram, as an image."""
    wave = x if x.ndim == 2 else x[:, 0]
    found = torch.stft(wave, 16, 4, window=net.window, return_complex=True)
    return found.abs()[:, None]


def traced(layers):
    def make():
        model = nn.Sequential(*layers(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
        return torch.jit.trace(model.double().eval(), torch.rand(1, 3, 16, 20, dtype=torch.float64))

    return make


def scripted():
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    return torch.jit.script(model.double().eval())


def core():
    """A program of the fewest operators, with a module's training flag but nothing that heeds it."""
    model = plain()
    rows = ({0: torch.export.Dim("rows")},)
    x = torch.rand(2, 3, 16, 20, dtype=torch.float64)
    return torch.export.export(model, (x,), dynamic_shapes=rows).run_decompositions().module()


class Recurrent(nn.Module):
    """Convolutions, then a recurrent layer along the columns."""

    def __init__(self, kind):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU())
        self.sequence = kind(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.sequence(self.body(x).mean(2).transpose(1, 2))[0][:, -1])


class Counting(Net):
    """A network that counts its calls in a buffer."""

    def __init__(self):
        super().__init__(lambda net, x: x, calls=torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def plain():
    return Net(lambda net, x: x).double().eval()


def by_rows(function):
    """A function around a plain network."""

    def make():
        model = plain()
        return lambda x: function(model, x)

    return make


@dataclass(frozen=True)
class Kind:
    """A network, and the image that it is asked about.

    Attributes:
        make: Gives the network, or another callable.
        shape: Of the image, without the batch.
        dtype: Of the image.
    """

    make: Callable[[], Callable[[Tensor], Tensor]]
    shape: tuple[int, ...] = (3, 16, 20)
    dtype: torch.dtype = torch.float64


GREY, WAVE, VOLUME = (1, 16, 20), (1, 160), (3, 8, 6, 8)
RESIZES = {
    f"resize {mode} {size} {options}": Kind(
        before(lambda net, x, size=size, mode=mode, options=options: F.interpolate(
            x, size, mode=mode, **options
        ))
    )
    for size in ((24, 30), (11, 33))
    for mode, options in (
        ("nearest", {}), ("nearest-exact", {}), ("area", {}), ("bilinear", {}), ("bicubic", {}),
        ("bilinear", {"align_corners": True}), ("bilinear", {"antialias": True}),
        ("bicubic", {"antialias": True}),
    )
}  # fmt: skip

KINDS = {
    "repeat": Kind(before(lambda net, x: x.repeat(1, 3, 1, 1)), GREY),
    "expand": Kind(before(lambda net, x: x.expand(-1, 3, -1, -1)), GREY),
    "repeat cells": Kind(middle(lambda net, x: x.repeat(1, 1, 1, 2))),
    "normalise": Kind(before(lambda net, x: net.step(x), step=transforms.Normalize([0.4] * 3, [0.2] * 3))),
    "TF.normalize": Kind(before(lambda net, x: TF.normalize(x, [0.4] * 3, [0.2] * 3))),
    "blur": Kind(before(lambda net, x: net.step(x), step=transforms.GaussianBlur(5, 1.5))),
    **RESIZES,
    "resize by a factor": Kind(before(lambda net, x: F.interpolate(x, scale_factor=1.37, mode="bilinear"))),
    "resize a wave": Kind(before(lambda net, x: F.interpolate(x, 210, mode="linear"), 1, 1), WAVE),
    "resize a volume": Kind(
        before(lambda net, x: F.interpolate(x, (11, 9, 10), mode="trilinear"), rank=3), VOLUME
    ),
    "traced": Kind(traced(lambda: (nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()))),
    "traced and transposed": Kind(
        traced(lambda: (nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 6, 4, 2, 1)))
    ),
    "scripted": Kind(scripted),
    "core operators": Kind(core),
    "torch.convolution": Kind(
        middle(
            lambda net, x: torch.convolution(
                x, net.weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1
            ),
            weight=torch.linspace(-1, 1, 324).view(6, 6, 3, 3),
        )
    ),
    "lstm": Kind(lambda: Recurrent(nn.LSTM)),
    "gru": Kind(lambda: Recurrent(nn.GRU)),
    "len(x)": Kind(by_rows(lambda model, x: model(x).view(len(x), -1))),
    "a loop over rows": Kind(by_rows(lambda model, x: torch.cat([model(row[None]) for row in x]))),
    "vmap": Kind(by_rows(lambda model, x: torch.vmap(lambda row: model(row[None])[0])(x))),
    "largest channel": Kind(middle(lambda net, x: x.max(1, keepdim=True)[0], 1)),
    "maxout": Kind(middle(lambda net, x: x.unflatten(1, (3, 2)).max(2)[0], 3)),
    "pool with indices": Kind(middle(lambda net, x: F.max_pool2d(x, 2, return_indices=True)[0])),
    "adaptive maximum": Kind(middle(lambda net, x: F.adaptive_max_pool2d(x, (8, 5)))),
    "adaptive maximum of uneven windows": Kind(middle(lambda net, x: F.adaptive_max_pool2d(x, (7, 9)))),
    "largest channels": Kind(middle(lambda net, x: x.topk(2, 1)[0], 2)),
    "median of channels": Kind(middle(lambda net, x: x - x.median(1, keepdim=True).values)),
    "zeros_like": Kind(middle(lambda net, x: torch.maximum(x, torch.zeros_like(x)))),
    "new_zeros": Kind(middle(lambda net, x: torch.cat([x, x.new_zeros(len(x), 2, 16, 20)], 1), 8)),
    "where": Kind(middle(lambda net, x: torch.where(x > 0.1, x, 0.0))),
    "assign a channel": Kind(middle(assigned((slice(None), 0), 0.5))),
    "assign a row": Kind(middle(assigned((slice(None), slice(None), 3), 0.5))),
    "assign channels": Kind(middle(assigned((slice(None), [0, 2]), 0.5))),
    "assign rows": Kind(middle(assigned((slice(None), slice(None), [1, 5]), 0.5))),
    "assign by a mask": Kind(middle(assigned(lambda x: x > 0.3, 0.5))),
    "einsum": Kind(
        middle(
            lambda net, x: torch.einsum("bchw,dc->bdhw", x, net.weight),
            weight=torch.linspace(-1, 1, 36).view(6, 6),
        )
    ),
    "einsum along an axis": Kind(
        middle(
            lambda net, x: torch.einsum("bchw,hc->bchw", x, net.weight),
            weight=torch.linspace(-1, 1, 96).view(16, 6),
        )
    ),
    "tensordot": Kind(
        middle(
            lambda net, x: torch.tensordot(x, net.weight, ([1], [0])).permute(0, 3, 1, 2),
            weight=torch.linspace(-1, 1, 36).view(6, 6),
        )
    ),
    "gather": Kind(
        middle(
            lambda net, x: x.gather(1, net.order.expand(len(x), -1, 16, 20)),
            order=torch.tensor([1, 0, 3, 2, 5, 4]).view(1, 6, 1, 1),
        )
    ),
    "rot90": Kind(middle(lambda net, x: torch.rot90(x, 1, (2, 3)))),
    "type_as": Kind(middle(lambda net, x: (x > 0).type_as(x) + x)),
    "triangle": Kind(middle(lambda net, x: x.tril(1) - x.triu(2))),
    "diff": Kind(middle(lambda net, x: x.diff(dim=3))),
    "pixel_shuffle": Kind(middle(lambda net, x: F.pixel_shuffle(torch.cat([x, x[:, :2]], 1), 2), 2)),
    "pixel_unshuffle": Kind(middle(lambda net, x: F.pixel_unshuffle(x, 2), 24)),
    "space to depth": Kind(middle(space_to_depth, 24)),
    "depth to space": Kind(middle(depth_to_space, 3)),
    "windows": Kind(middle(windows)),
    "unfold": Kind(middle(lambda net, x: x.unfold(2, 3, 2).flatten(-1).mean(-1))),
    "columns": Kind(
        middle(lambda net, x: F.unfold(x, 3, 2, (2, 1), (1, 2)).unflatten(2, (16, 9)).amax((1,))[:, None], 1)
    ),
    "columns and back": Kind(middle(lambda net, x: F.fold(F.unfold(x, 2, stride=2), (16, 20), 2, stride=2))),
    "transposed": Kind(middle(lambda net, x: net.step(x), step=nn.ConvTranspose2d(6, 6, 3, 2, 1, 1))),
    "transposed wave": Kind(
        lambda: Net(lambda net, x: net.step(x), given=1, rank=1, step=nn.ConvTranspose1d(6, 6, 4, 2, 1)),
        WAVE,
    ),
    "transposed volume": Kind(
        middle(lambda net, x: net.step(x), rank=3, step=nn.ConvTranspose3d(6, 6, 2, 2)), VOLUME
    ),
    "wave without channels": Kind(before(lambda net, x: x[:, None], 1, 1), (160,)),
    "spectrogram": Kind(
        before(spectrum, 1, window=torch.hann_window(16, dtype=torch.float64)), (1, 256)
    ),
    "spectrogram of a wave without channels": Kind(
        before(spectrum, 1, window=torch.hann_window(16, dtype=torch.float64)), (256,)
    ),
    ".data": Kind(middle(lambda net, x: x * net.head.weight.data.mean())),
    "x.data": Kind(middle(lambda net, x: x.data * 2)),
    "a buffer counted up": Kind(Counting),
    "cross entropy": Kind(
        by_rows(
            lambda model, x: F.cross_entropy(model(x), torch.tensor([2]).expand(len(x)), reduction="none")
        )),
    "instance norm": Kind(
        middle(lambda net, x: net.step(x), step=nn.InstanceNorm2d(6, affine=True, track_running_stats=True))
    ),
    "rrelu": Kind(middle(lambda net, x: net.step(x), step=nn.RReLU())),
    "bytes that are resized": Kind(
        before(lambda net, x: net.step(x).double() / 255, step=transforms.Resize((20, 25))), dtype=torch.uint8
    ),
    "bytes": Kind(before(lambda net, x: x.double() / 255), dtype=torch.uint8),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    """The planner would run networks that small in full."""
    monkeypatch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_local_and_exact(name):
    kind = KINDS[name]
    model = kind.make()
    if isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule):
        model = model.double()
        model = model if isinstance(model, torch.fx.GraphModule) else model.eval()
    x = torch.rand(1, *kind.shape, dtype=torch.float64)
    x = x if kind.dtype.is_floating_point else (x * 255).to(kind.dtype)
    channels = kind.shape[: len(kind.shape) > 1]
    window = (*channels, *(4 for _ in kind.shape[len(channels) :]))
    strides = (*channels, *(4 if n < 40 else 3 * n // 20 for n in kind.shape[len(channels) :]))
    strides = tuple(min(step, size) for step, size in zip(strides, window, strict=True))
    expected = brute_force(model, x, window, strides)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        heatmap = KryptonOcclusion(model).heatmap(x, window, strides, classes="all")
    got = heatmap.values if heatmap.outputs is None else heatmap.outputs
    error = float((got.reshape(expected.shape) - expected).abs().max())
    assert error <= TOLERANCE * max(1.0, float(expected.abs().max()))
    steps = heatmap.plan.steps
    convolutions = [step.local for step in steps if step.op.startswith("conv")]
    assert convolutions and all(convolutions), str(heatmap.plan)
    assert heatmap.plan.redundancy_ratio > 1
