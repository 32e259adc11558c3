"""Random small CNNs for Hypothesis.

A network is drawn as a list of layers that know nothing of each other, so that Hypothesis can drop any of
them when it shrinks. What a layer asks for is cut to what the shape it meets allows (a kernel to the size of
the image, groups to a divisor of the channels), and a layer that cannot be had there is left out.
`build` gives the network; printing that shows what was really built.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import note
from hypothesis import strategies as st
from torch import Tensor, nn

FEW = {1: 4, 2: 8, 3: 5}
"""Examples by rank, of a default test: enough for a fault of a kind of layer or of question."""

by_rank = pytest.mark.parametrize(
    ("rank", "count"),
    [*FEW.items(), *(pytest.param(rank, 30 * count, marks=pytest.mark.slow) for rank, count in FEW.items())],
)
"""A test of ``count`` networks of ``rank`` axes, the same ones every time; thirty times as many if slow."""

Three = tuple[int, int, int]
"""One number for each spatial axis; networks of fewer axes use the first ones."""

MOST_CHANNELS = 12
MOST_CELLS = {1: 80, 2: 420, 3: 800}
"""Layers that would make more channels, or more cells of them, are left out."""

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE = {
    "avg": {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d},
    "max": {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d},
}


def assign(x: Tensor, cells: Any, value: Any) -> Tensor:
    """A copy of ``x`` with ``value`` assigned to ``cells``."""
    y = x.clone()
    y[cells] = value
    return y


class Op(nn.Module):
    """A module that is an expression of ``x``; the expression is also what it prints.

    Args:
        text: Python, in which ``self`` has the parts.
        parts: Submodules and tensors.
    """

    def __init__(self, text: str, **parts: Any) -> None:
        super().__init__()
        self.text = text
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.expression = eval(f"lambda self, x: {text}", {"torch": torch, "F": F, "assign": assign})

    def forward(self, x: Tensor) -> Tensor:
        return self.expression(self, x)

    def extra_repr(self) -> str:
        return self.text


# --- layers ------------------------------------------------------------------------------------------

Shape = tuple[int, ...]
"""Channels and spatial sizes."""


@dataclass(frozen=True)
class Layer:
    """What a layer asks for."""

    def make(self, shape: Shape) -> nn.Module | None:
        """The module for inputs of ``shape``; None if there is none."""
        raise NotImplementedError

    grows = False
    """Whether it may add cells or channels."""


def _divisor(n: int, choice: int) -> int:
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    return divisors[min(choice, len(divisors) - 1)]


@dataclass(frozen=True)
class Conv(Layer):
    """A convolution. ``groups`` counts divisors of the channels; 9 is depthwise."""

    out: int = 4
    kernel: Three = (3, 3, 3)
    stride: Three = (1, 1, 1)
    padding: Three | str = (1, 1, 1)
    dilation: Three = (1, 1, 1)
    groups: int = 0
    mode: str = "zeros"
    bias: bool = True

    def make(self, shape: Shape) -> nn.Module | None:
        channels, sizes = shape[0], shape[1:]
        rank = len(sizes)
        kernel, dilation, stride = list(self.kernel[:rank]), list(self.dilation[:rank]), self.stride[:rank]
        padding: str | tuple[int, ...]
        same = isinstance(self.padding, str)
        if same:
            padding, stride = "same", (1,) * rank
            reach = [(d * (k - 1) + 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
            kernel = [k if r < n else 1 for k, r, n in zip(kernel, reach, sizes, strict=True)]
        else:
            most = {"zeros": 99, "circular": min(sizes)}.get(self.mode, min(sizes) - 1)
            padding = tuple(min(p, most) for p in self.padding[:rank])
            for i, n in enumerate(sizes):
                room = n + 2 * padding[i]
                if dilation[i] * (kernel[i] - 1) + 1 > room:
                    dilation[i] = 1
                kernel[i] = min(kernel[i], room)
        groups = _divisor(channels, self.groups)
        out = max(groups, self.out - self.out % groups)
        return CONV[rank](
            channels, out, tuple(kernel), stride, padding, tuple(dilation), groups, self.bias, self.mode
        )


@dataclass(frozen=True)
class Pad(Layer):
    """``F.pad``; negative numbers crop."""

    before: Three = (1, 1, 1)
    after: Three = (0, 0, 0)
    mode: str = "constant"
    value: float = 0.7
    grows = True

    def make(self, shape: Shape) -> nn.Module | None:
        pads: list[int] = []
        for n, before, after in zip(shape[1:], self.before, self.after, strict=False):
            most = {"constant": 9, "replicate": 9, "circular": n}.get(self.mode, n - 1)
            crop = -((n - 1) // 2)
            least = crop if self.mode in ("constant", "reflect") else 0
            pads = [min(max(before, least), most), min(max(after, least), most), *pads]
        value = f", value={self.value}" if self.mode == "constant" else ""
        return Op(f"F.pad(x, {pads}, mode={self.mode!r}{value})")


def _pool_sizes(
    shape: Shape, kernel: Three, stride: Three, padding: Three, dilation: Three
) -> list[list[int]]:
    """Kernel, stride, padding and dilation that PyTorch takes, without a window that is all padding."""
    found = []
    for n, k, s, p, d in zip(shape[1:], kernel, stride, padding, dilation, strict=False):
        d = d if d * (k - 1) + 1 <= n else 1
        k = min(k, n)
        found.append((k, s, min(p, k // 2) if d == 1 else 0, d))
    return [list(row) for row in zip(*found, strict=True)]


@dataclass(frozen=True)
class MaxPool(Layer):
    kernel: Three = (2, 2, 2)
    stride: Three = (2, 2, 2)
    padding: Three = (0, 0, 0)
    dilation: Three = (1, 1, 1)
    ceil_mode: bool = False

    def make(self, shape: Shape) -> nn.Module | None:
        sizes = _pool_sizes(shape, self.kernel, self.stride, self.padding, self.dilation)
        return MAX_POOL[len(shape) - 1](*sizes, ceil_mode=self.ceil_mode)


@dataclass(frozen=True)
class AvgPool(Layer):
    kernel: Three = (2, 2, 2)
    stride: Three = (2, 2, 2)
    padding: Three = (0, 0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None

    def make(self, shape: Shape) -> nn.Module | None:
        rank = len(shape) - 1
        kernel, stride, padding, _ = _pool_sizes(shape, self.kernel, self.stride, self.padding, (1, 1, 1))
        extra = {} if self.divisor is None or rank == 1 else {"divisor_override": self.divisor}
        return AVG_POOL[rank](kernel, stride, padding, self.ceil_mode, self.count_include_pad, **extra)


@dataclass(frozen=True)
class BatchNorm(Layer):
    affine: bool = True

    def make(self, shape: Shape) -> nn.Module | None:
        return BATCH_NORM[len(shape) - 1](shape[0], affine=self.affine)


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda _: nn.ReLU(),
    "relu_": lambda _: nn.ReLU(inplace=True),
    "silu": lambda _: nn.SiLU(),
    "silu_": lambda _: nn.SiLU(inplace=True),
    "gelu": lambda _: nn.GELU(),
    "gelu tanh": lambda _: nn.GELU(approximate="tanh"),
    "sigmoid": lambda _: nn.Sigmoid(),
    "tanh": lambda _: nn.Tanh(),
    "leaky relu_": lambda _: nn.LeakyReLU(0.2, inplace=True),
    "hardswish": lambda _: nn.Hardswish(),
    "hardswish_": lambda _: nn.Hardswish(inplace=True),
    "hardsigmoid": lambda _: nn.Hardsigmoid(),
    "relu6_": lambda _: nn.ReLU6(inplace=True),
    "elu": lambda _: nn.ELU(),
    "mish": lambda _: nn.Mish(),
    "softplus": lambda _: nn.Softplus(),
    "log sigmoid": lambda _: nn.LogSigmoid(),
    "selu": lambda _: nn.SELU(),
    "celu": lambda _: nn.CELU(0.6),
    "softsign": lambda _: nn.Softsign(),
    "square": lambda _: Op("x**2"),
    "softmax": lambda _: Op("x.softmax(1)"),
    "condition": lambda _: Op("torch.where(x > 0, x.sin(), 0.3 * x)"),
    "minimum": lambda _: Op("torch.minimum(x, 0.3 - x)"),
    "prelu": lambda channels: nn.PReLU(channels),
    "prelu of one": lambda _: nn.PReLU(),
    "dropout": lambda _: nn.Dropout(),
}


@dataclass(frozen=True)
class Activation(Layer):
    name: str = "relu"

    def make(self, shape: Shape) -> nn.Module | None:
        return ACTIVATIONS[self.name](shape[0])


@dataclass(frozen=True)
class Residual(Layer):
    """Two convolutions and a shortcut, 1x1 and strided where the shapes want it."""

    out: int = 4
    kernel: Three = (3, 3, 3)
    stride: Three = (1, 1, 1)
    first: str = "batch norm"
    inner: str = "relu_"
    grows = True

    def make(self, shape: Shape) -> nn.Module | None:
        channels, rank = shape[0], len(shape) - 1
        kernel = [k | 1 for k in self.kernel[:rank]]
        stride = self.stride[:rank]
        padding = [k // 2 for k in kernel]
        body: list[nn.Module] = [
            CONV[rank](channels, self.out, kernel, stride, padding, bias=False),
            ACTIVATIONS[self.inner](self.out),
            CONV[rank](self.out, self.out, kernel, 1, padding),
        ]
        if self.first == "batch norm":
            body.insert(1, BATCH_NORM[rank](self.out))
        elif self.first == "relu":  # a pre-activation, which in place reaches the shortcut too
            body.insert(0, nn.ReLU())
        plain = self.out == channels and set(stride) == {1}
        shortcut = nn.Identity() if plain else CONV[rank](channels, self.out, 1, stride)
        return Op("self.body(x) + self.shortcut(x)", body=nn.Sequential(*body), shortcut=shortcut)


@dataclass(frozen=True)
class Branches(Layer):
    """Branches side by side, like Inception's; each is a convolution, a pooling or nothing."""

    kinds: tuple[str, ...] = ("1x1", "3x3")
    stride: Three = (1, 1, 1)
    grows = True

    def make(self, shape: Shape) -> nn.Module | None:
        channels, rank = shape[0], len(shape) - 1
        if rank == 3 and min(shape[1:]) < 3 and {"avg", "avg 1x1"} & set(self.kinds):
            return None  # in 3-D PyTorch does not count the padding when it compares image and kernel
        stride = self.stride[:rank]
        conv = CONV[rank]
        tall = [3] + [1] * (rank - 1)
        branches = {
            "1x1": lambda: conv(channels, 2, 1, stride),
            "1x1 relu": lambda: nn.Sequential(conv(channels, 3, 1, stride), nn.ReLU()),
            "3x3": lambda: conv(channels, 3, 3, stride, 1),
            "5x5 dilated": lambda: conv(channels, 2, 5, stride, 4, 2),
            "3x1": lambda: nn.Sequential(
                conv(channels, 2, tall[::-1], 1, [k // 2 for k in tall[::-1]]),
                nn.ReLU(inplace=True),
                conv(2, 2, tall, stride, [k // 2 for k in tall]),
            ),
            "max": lambda: MAX_POOL[rank](3, stride, 1),
            "avg": lambda: AVG_POOL[rank](3, stride, 1, count_include_pad=False),
            "avg 1x1": lambda: nn.Sequential(
                AVG_POOL[rank](3, 1, 1), conv(channels, max(1, channels - 1), 1, stride), nn.ReLU()
            ),
            "nothing": lambda: nn.Identity() if set(stride) == {1} else AVG_POOL[rank](1, stride),
        }
        parts = {f"branch{i}": branches[kind]() for i, kind in enumerate(self.kinds)}
        listed = ", ".join(f"self.{name}(x)" for name in parts)
        return Op(f"torch.cat([{listed}], 1)", **parts)


def _axis(shape: Shape, axis: int) -> tuple[int, int]:
    """The dimension (of a batch) and the size of a spatial axis."""
    dim = 1 + axis % (len(shape) - 1)
    return dim + 1, shape[dim]


def _along(dim: int, cells: str) -> str:
    return ", ".join([":"] * dim + [cells])


@dataclass(frozen=True)
class Channels(Layer):
    """What is done to the channels' order: ``kind`` is the expression's name."""

    kind: str = "slice"
    count: int = 2
    grows = True

    def make(self, shape: Shape) -> nn.Module | None:
        c, rank = shape[0], len(shape) - 1
        some = min(self.count, c - 1)
        groups = _divisor(c, self.count)
        spaces = ", ".join(f"x.shape[{2 + i}]" for i in range(rank))
        letters = "efg"[:rank]
        table = f"torch.linspace(-1, 1, {c * c}, dtype=x.dtype).view({c}, {c})"
        channel = "x[:, {0}].unsqueeze(1) * {1} + {2}"
        texts = {
            "slice": f"x[:, {some}:]",
            "step": f"x[:, ::{self.count}]",
            "flip": "x.flip(1)",
            "roll": f"x.roll({self.count}, 1)",
            "split": f"torch.cat(x.split([{some}, {c - some}], 1)[::-1], 1)",
            "chunk": "(lambda a, b: a * torch.sigmoid(b))(*x.chunk(2, 1))",
            "glu": "F.glu(x, 1)",
            "unbind": "torch.stack(x.unbind(1)[::-1], 1)",
            "index": f"x[:, torch.tensor({[(3 * i + 1) % c for i in range(c + 1)]})]",
            "shuffle": f"x.view(-1, {groups}, {c // groups}, {spaces}).transpose(1, 2)"
            f".reshape(-1, {c}, {spaces})",
            "select": f"x[:, {some}].unsqueeze(1)",
            "each": f"torch.cat([{', '.join(channel.format(i, i + 1, 0.1 * i) for i in range(c))}], 1)",
            "softmax": "x.softmax(1) * 3",
            "norm": "F.normalize(x, dim=1)",
            "mean": "x - x.mean(1, keepdim=True)",
            "max and mean": "torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)",
            "largest": "x.max(1, keepdim=True)[0]",
            "topk": f"x.topk({max(some, 1)}, 1)[0]",
            "sorted": "x.sort(1)[0]",
            "product": f"torch.einsum('bc{letters},dc->bd{letters}', x, {table})",
            "variance": "(x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1).sqrt()",
        }
        needs_two = {"slice", "split", "chunk", "glu", "max and mean", "variance"}
        if (self.kind in needs_two and c < 2) or (self.kind in {"chunk", "glu"} and c % 2):
            return None
        return Op(texts[self.kind])


@dataclass(frozen=True)
class PartialConv(Layer):
    """ShuffleNet's unit: one half goes through a convolution, and the channels are shuffled."""

    def make(self, shape: Shape) -> nn.Module | None:
        c, rank = shape[0], len(shape) - 1
        if c % 2:
            return None
        return Op(
            f"torch.cat([x.chunk(2, 1)[0], self.conv(x.chunk(2, 1)[1])], 1)"
            f".unflatten(1, (2, {c // 2})).transpose(1, 2).flatten(1, 2)",
            conv=CONV[rank](c // 2, c // 2, 3, padding=1, groups=c // 2),
        )


@dataclass(frozen=True)
class ConvNeXt(Layer):
    """permute, layer_norm, linear, permute, with layer scale and a shortcut."""

    kernel: int = 3

    def make(self, shape: Shape) -> nn.Module | None:
        c, rank = shape[0], len(shape) - 1
        last = [0, *range(2, rank + 2), 1]
        first = [0, rank + 1, *range(1, rank + 1)]
        return Op(
            "x + self.block(x) * self.scale",
            block=nn.Sequential(
                CONV[rank](c, c, self.kernel | 1, padding=self.kernel // 2, groups=c),
                Op(f"x.permute({last})"),
                nn.LayerNorm(c),
                nn.Linear(c, 2 * c),
                nn.GELU(),
                nn.Linear(2 * c, c),
                Op(f"x.permute({first})"),
            ),
            scale=torch.linspace(0.5, 1, c, dtype=torch.float64).reshape(c, *[1] * rank),
        )


@dataclass(frozen=True)
class LocalResponse(Layer):
    size: int = 3

    def make(self, shape: Shape) -> nn.Module | None:
        # PyTorch's own takes a volume as a view, which a transposed one is not.
        return Op("self.norm(x.contiguous())", norm=nn.LocalResponseNorm(self.size, alpha=0.5))


@dataclass(frozen=True)
class SpatialAttention(Layer):
    """CBAM's: a gate for every cell, from a convolution over what the channels say there."""

    def make(self, shape: Shape) -> nn.Module | None:
        return Op(
            "x * torch.sigmoid(self.gate(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))",
            gate=CONV[len(shape) - 1](2, 1, 3, padding=1),
        )


@dataclass(frozen=True)
class SpaceToDepth(Layer):
    """Every other cell along each axis, side by side as channels (YOLO's focus)."""

    grows = True

    def make(self, shape: Shape) -> nn.Module | None:
        rank = len(shape) - 1
        if min(shape[1:]) < 2:
            return None
        stops = [n - n % 2 for n in shape[1:]]
        pieces = []
        for starts in itertools.product((0, 1), repeat=rank):
            cells = ", ".join(f"{a}:{stop}:2" for a, stop in zip(starts, stops, strict=True))
            pieces.append(f"x[:, :, {cells}]")
        return Op(f"torch.cat([{', '.join(pieces)}], 1)")


@dataclass(frozen=True)
class Moved(Layer):
    """Cells moved along an axis: ``kind`` is the expression's name."""

    kind: str = "crop"
    axis: int = 0
    by: int = 1
    grows = True

    def make(self, shape: Shape) -> nn.Module | None:
        dim, n = _axis(shape, self.axis)
        by = min(self.by, n - 1)
        parts_of = _divisor(n, self.by)
        rest = [1 if d + 1 != dim else max(by, 1) for d in range(len(shape))]
        border = torch.linspace(-1, 1, max(by, 1), dtype=torch.float64).reshape(1, *rest)
        border_sizes = ["-1" if d + 1 == dim else f"x.shape[{d + 1}]" for d in range(len(shape))]
        texts = {
            "crop": f"x[{_along(dim, f'{by // 2}:{n - by + by // 2}')}]",
            "stride": f"x[{_along(dim, f'{by // 2}::{self.by + 1}')}]",
            "flip": f"x.flip({dim})",
            "roll": f"x.roll({self.by}, {dim})",
            "mirror": f"torch.cat([x, x.flip({dim})], {dim})",
            "border": f"torch.cat([self.border.expand(x.shape[0], {', '.join(border_sizes)}), x], {dim})",
            "swap": f"torch.cat([x[{_along(dim, f'{by}:')}], x[{_along(dim, f':{by}')}]], {dim})",
            "narrow": f"x.narrow({dim}, {by}, {n - by})",
            "repeat": f"x.repeat_interleave(2, {dim})",
            "tile": f"x.repeat({', '.join('2' if d == dim else '1' for d in range(len(shape) + 1))})",
            "windows": f"(lambda y: (y - y.mean({dim + 1}, keepdim=True)).flatten({dim}, {dim + 1}))"
            f"(x.unflatten({dim}, ({n // parts_of}, {parts_of})))",
            "apart": f"x.unflatten({dim}, ({n // parts_of}, {parts_of})).amax({dim + 1})",
            "merge": f"torch.stack([x, 2 * x], {dim + 1}).flatten({dim}, {dim + 1})",
            "unfold": f"x.unfold({dim}, {min(self.by, n)}, 2).mean(-1)",
        }
        parts = {"border": border} if self.kind == "border" else {}
        return Op(texts[self.kind], **parts)


@dataclass(frozen=True)
class Upsample(Layer):
    """A resize by ``scale`` tenths; "linear" in as many dimensions as there are axes."""

    scale: int = 20
    mode: str = "nearest"
    corners: bool = False
    grows = True

    def make(self, shape: Shape) -> nn.Module | None:
        rank = len(shape) - 1
        planes = self.mode.startswith(("bicubic", "bilinear"))
        if min(shape[1:]) * self.scale < 10 or (planes and rank != 2):
            return None
        if self.mode.endswith(" antialias"):
            size = [max(1, n * self.scale // 10) for n in shape[1:]]
            return Op(f"F.interpolate(x, {size}, mode={self.mode.split()[0]!r}, antialias=True)")
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[rank] if self.mode == "linear" else self.mode
        corners = {"align_corners": self.corners} if self.mode in ("linear", "bicubic") else {}
        return nn.Upsample(scale_factor=self.scale / 10, mode=mode, **corners)


@dataclass(frozen=True)
class AdaptiveAverage(Layer):
    """An average over windows of several sizes, which may overlap."""

    cells: Three = (5, 4, 3)
    grows = True

    def make(self, shape: Shape) -> nn.Module | None:
        rank = len(shape) - 1
        if math.prod(self.cells[:rank]) == 1:  # a head
            return None
        return ADAPTIVE["avg"][rank](self.cells[:rank])


@dataclass(frozen=True)
class Transposed(Layer):
    """A transposed convolution. ``groups`` counts divisors of the channels."""

    out: int = 4
    kernel: Three = (3, 3, 3)
    stride: Three = (2, 2, 2)
    padding: Three = (1, 1, 1)
    after: Three = (0, 0, 0)
    dilation: Three = (1, 1, 1)
    groups: int = 0
    grows = True

    def make(self, shape: Shape) -> nn.Module | None:
        channels, rank = shape[0], len(shape) - 1
        kernel, stride, dilation = self.kernel[:rank], self.stride[:rank], self.dilation[:rank]
        after = [min(a, s - 1) for a, s in zip(self.after, stride, strict=False)]
        padding = []
        for n, p, k, s, d, a in zip(shape[1:], self.padding, kernel, stride, dilation, after, strict=False):
            length = (n - 1) * s + d * (k - 1) + 1 + a
            padding.append(min(p, d * (k - 1), (length - 1) // 2))
        groups = _divisor(channels, self.groups)
        out = max(groups, self.out - self.out % groups)
        return TRANSPOSED[rank](channels, out, kernel, stride, padding, after, groups, True, dilation)


@dataclass(frozen=True)
class Assign(Layer):
    """Slice assignment: of a constant, or of something made of the same cells."""

    axis: int = 0
    start: int = 1
    length: int = 2
    step: int = 1
    value: str = "0.5"

    def make(self, shape: Shape) -> nn.Module | None:
        dim, n = _axis(shape, self.axis)
        start = min(self.start, n - 1)
        stop = min(start + self.length * self.step, n)
        cells = _along(dim, f"{start}:{stop}:{self.step}").replace(":", "slice(None)", dim)
        cells = cells.replace(f"{start}:{stop}:{self.step}", f"slice({start}, {stop}, {self.step})")
        value = {
            "0.5": "0.5",
            "twice": f"2 * x[{_along(dim, f'{start}:{stop}:{self.step}')}]",
            "mirrored": f"x[{_along(dim, f'{start}:{stop}:{self.step}')}].flip({dim})",
        }[self.value]
        return Op(f"assign(x, ({cells}), {value})")


@dataclass(frozen=True)
class Embedding(Layer):
    """A constant that varies in space."""

    kind: str = "map"

    def make(self, shape: Shape) -> nn.Module | None:
        sizes = {
            "map": shape[1:],
            "full": (1, *shape),
            "last axis": shape[-1:],
            "first axis": (1, shape[1], *[1] * (len(shape) - 2)),
            "channel": (shape[0], *[1] * (len(shape) - 1)),
        }[self.kind]
        generator = torch.Generator().manual_seed(5)
        table = torch.randn(sizes, generator=generator, dtype=torch.float64)
        return Op("x * (1 + 0.3 * self.table) + self.table", table=table)


@dataclass(frozen=True)
class Pointwise(Layer):
    """Expressions of the cell alone, written with several operators."""

    kind: str = "where"

    def make(self, shape: Shape) -> nn.Module | None:
        texts = {
            "where": "torch.where(x > 0.1, x, 0.3 * x.abs())",
            "maximum": "torch.maximum(x, x.flip(1)) - x.square() / 4",
            "clamp": "x.clamp(-0.5, 1.5)",
            "normalise": "(x - self.mean) / self.std",
            "masked": "x.masked_fill(x.abs() < 0.2, 1.0)",
            "power": "(x.abs() + 0.1) ** 0.5",
            "float": "(x.float().double() > 0).to(x.dtype) + x",
        }
        column = (shape[0], *[1] * (len(shape) - 1))
        parts = {}
        if self.kind == "normalise":
            parts = {
                "mean": torch.linspace(-0.2, 0.4, shape[0], dtype=torch.float64).reshape(column),
                "std": torch.linspace(0.5, 2, shape[0], dtype=torch.float64).reshape(column),
            }
        return Op(texts[self.kind], **parts)


@dataclass(frozen=True)
class Transpose(Layer):
    """The first and the last spatial axis exchanged."""

    def make(self, shape: Shape) -> nn.Module | None:
        return Op("x.transpose(2, -1)") if len(shape) > 2 else None


@dataclass(frozen=True)
class MixAxis(Layer):
    """One spatial axis mixed from end to end; the box keeps the others."""

    axis: int = 0
    kind: str = "linear"

    def make(self, shape: Shape) -> nn.Module | None:
        dim, n = _axis(shape, self.axis)
        if len(shape) < 3:
            return None
        if self.kind == "linear":
            return Op(
                f"self.mix(x.transpose({dim}, -1)).transpose({dim}, -1)", mix=nn.Linear(n, max(n - 1, 2))
            )
        return Op({"mean": f"x.mean({dim}, keepdim=True)", "softmax": f"x.softmax({dim})"}[self.kind])


@dataclass(frozen=True)
class Frontier(Layer):
    """What no box can be pushed through."""

    kind: str = "squeeze"

    def make(self, shape: Shape) -> nn.Module | None:
        c, rank = shape[0], len(shape) - 1
        spatial = tuple(range(2, rank + 2))
        if self.kind == "squeeze":
            squeeze = nn.Sequential(
                ADAPTIVE["avg"][rank](1), CONV[rank](c, 2, 1), nn.ReLU(), CONV[rank](2, c, 1), nn.Sigmoid()
            )
            return Op("x * self.squeeze(x)", squeeze=squeeze)
        if self.kind == "instance norm":
            return Op("F.instance_norm(x)") if math.prod(shape[1:]) > 1 else None
        if self.kind == "group norm":
            return nn.GroupNorm(_divisor(c, 1), c) if math.prod(shape) > 4 else None
        return Op({"centre": f"x - x.mean({spatial}, keepdim=True)", "scale": "x / x.flatten(1).norm(dim=1)"
                   f".view(-1, {', '.join(['1'] * (rank + 1))}).clamp_min(0.1)"}[self.kind])  # fmt: skip


# --- heads -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """From the last feature map to the output."""

    kind: str = "average"
    last: str = ""
    classes: int = 3

    def make(self, shape: Shape) -> nn.Module:
        c, rank = shape[0], len(shape) - 1
        cells = math.prod(shape[1:])
        spatial = tuple(range(2, rank + 2))
        last = {"softmax": [nn.Softmax(1)], "log_softmax": [nn.LogSoftmax(1)], "sigmoid": [nn.Sigmoid()]}
        head: list[nn.Module] = {
            "average": lambda: [ADAPTIVE["avg"][rank](1), nn.Flatten(), nn.Linear(c, self.classes)],
            "mean": lambda: [Op(f"x.mean({spatial})"), nn.Linear(c, self.classes)],
            "flatten": lambda: [nn.Flatten(), nn.Linear(c * cells, self.classes)],
            "pyramid": lambda: [
                ADAPTIVE["avg"][rank](2), nn.ReLU(), nn.Flatten(), nn.Linear(c * 2**rank, self.classes)
            ],
            "max": lambda: [ADAPTIVE["max"][rank](1), nn.Flatten(), nn.Linear(c, self.classes)],
            "map": lambda: [],
        }[self.kind]()  # fmt: skip
        return nn.Sequential(*head, *last.get(self.last, []))


# --- networks ----------------------------------------------------------------------------------------

KEEPS_MEMORY = (Channels, Moved, Transpose, Embedding)
"""Layers whose output may be the memory of their input."""


@dataclass(frozen=True)
class Network:
    """Layers, a head, and the input that they are made for."""

    shape: Shape
    layers: tuple[Layer, ...] = ()
    head: Head = Head()


def build(network: Network) -> nn.Sequential:
    """The network in float64 and eval mode, with weights, biases and statistics that are not special."""
    rank, shape = len(network.shape) - 1, network.shape
    modules: list[nn.Module] = []
    owned = False  # an activation in place must not write into the caller's input
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for layer in network.layers:
            in_place = isinstance(layer, Activation) and layer.name.endswith("_")
            if in_place and not owned:
                continue
            made = layer.make(shape)
            if made is None:
                continue
            made = made.double().eval()
            after = tuple(made(torch.rand(1, *shape, dtype=torch.float64)).shape[1:])
            too_large = after[0] > MOST_CHANNELS or math.prod(after[1:]) > MOST_CELLS[rank]
            if (layer.grows and too_large) or 0 in after or len(after) != len(shape):
                continue
            modules.append(made)
            shape = after
            owned = owned or not isinstance(layer, KEEPS_MEMORY)
        modules.append(network.head.make(shape))
        model = nn.Sequential(*modules).double().eval()
        for module in model.modules():
            _randomise(module)
    return model


def _randomise(module: nn.Module) -> None:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(weight, Tensor) and weight.ndim > 1:
        weight.normal_(0, 1.3 / math.sqrt(weight[0].numel()))
    elif isinstance(weight, Tensor):
        weight.uniform_(0.5, 1.5)
    if isinstance(bias, Tensor):
        bias.normal_(0, 0.4)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.running_mean.normal_(0, 0.4)
        module.running_var.uniform_(0.3, 2.0)


# --- strategies --------------------------------------------------------------------------------------


def _three(low: int, high: int) -> st.SearchStrategy[Three]:
    one = st.integers(low, high)
    return st.one_of(one.map(lambda n: (n, n, n)), st.tuples(one, one, one))


_STRIDE = st.one_of(st.just((1, 1, 1)), _three(1, 3))
_axes = st.integers(0, 2)

CONVS = st.builds(
    Conv,
    out=st.integers(1, 6),
    kernel=_three(1, 5),
    stride=_STRIDE,
    padding=st.one_of(_three(0, 3), st.just("same")),
    dilation=st.one_of(st.just((1, 1, 1)), _three(1, 2)),
    groups=st.sampled_from([0, 0, 1, 9]),
    mode=st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]),
    bias=st.booleans(),
)
ACTIVATION_LAYERS = st.builds(Activation, st.sampled_from(list(ACTIVATIONS)))
CHANNEL_KINDS = [
    "slice", "step", "flip", "roll", "split", "chunk", "glu", "unbind", "index", "shuffle", "select", "each",
    "softmax", "norm", "mean", "variance", "max and mean", "largest", "topk", "sorted", "product",
]  # fmt: skip
MOVED_KINDS = [
    "crop",
    "stride",
    "flip",
    "roll",
    "mirror",
    "border",
    "swap",
    "narrow",
    "repeat",
    "tile",
    "windows",
    "apart",
    "merge",
    "unfold",
]
EMBEDDING_KINDS = ["map", "full", "last axis", "first axis", "channel"]
POINTWISE_KINDS = ["where", "maximum", "clamp", "normalise", "masked", "power", "float"]
UPSAMPLE_MODES = [
    "nearest", "nearest", "nearest-exact", "linear", "linear", "area", "bicubic", "bilinear antialias",
    "bicubic antialias",
]  # fmt: skip
FRONTIER_KINDS = ["squeeze", "instance norm", "group norm", "centre", "scale"]

LOCAL_LAYERS = st.one_of(
    CONVS,
    ACTIVATION_LAYERS,
    st.builds(BatchNorm, st.booleans()),
    st.builds(
        Pad,
        _three(-2, 3),
        _three(-2, 3),
        st.sampled_from(["constant", "reflect", "replicate", "circular"]),
        st.sampled_from([0.0, 0.7]),
    ),
    st.builds(MaxPool, _three(1, 4), _three(1, 3), _three(0, 2), _three(1, 2), st.booleans()),
    st.builds(
        AvgPool,
        _three(1, 4),
        _three(1, 3),
        _three(0, 2),
        st.booleans(),
        st.booleans(),
        st.sampled_from([None, None, 3]),
    ),
    st.builds(
        Residual,
        st.integers(1, 5),
        _three(1, 4),
        _STRIDE,
        st.sampled_from(["batch norm", "relu", ""]),
        st.sampled_from(["relu_", "silu_", "gelu", "leaky relu_"]),
    ),
    st.builds(
        Branches,
        st.lists(
            st.sampled_from(
                ["1x1", "1x1 relu", "3x3", "5x5 dilated", "3x1", "max", "avg", "avg 1x1", "nothing"]
            ),
            min_size=1,
            max_size=3,
        ).map(tuple),
        _STRIDE,
    ),
    st.builds(Channels, st.sampled_from(CHANNEL_KINDS), st.integers(1, 3)),
    st.builds(PartialConv),
    st.builds(ConvNeXt, st.integers(1, 5)),
    st.builds(LocalResponse, st.integers(1, 4)),
    st.builds(SpatialAttention),
    st.builds(SpaceToDepth),
    st.builds(Moved, st.sampled_from(MOVED_KINDS), _axes, st.integers(1, 4)),
    st.builds(
        Upsample, st.sampled_from([20, 30, 15, 24, 5, 10]), st.sampled_from(UPSAMPLE_MODES), st.booleans()
    ),
    st.builds(AdaptiveAverage, _three(1, 9)),
    st.builds(
        Transposed, st.integers(1, 5), _three(1, 4), _three(1, 3), _three(0, 2), _three(0, 2),
        st.one_of(st.just((1, 1, 1)), _three(1, 2)), st.sampled_from([0, 0, 1, 9]),
    ),
    st.builds(
        Assign, _axes, st.integers(0, 4), st.integers(1, 4), st.integers(1, 2),
        st.sampled_from(["0.5", "twice", "mirrored"]),
    ),
    st.builds(Embedding, st.sampled_from(EMBEDDING_KINDS)),
    st.builds(Pointwise, st.sampled_from(POINTWISE_KINDS)),
    st.builds(Transpose),
)  # fmt: skip
RARE_LAYERS = st.one_of(
    st.builds(MixAxis, _axes, st.sampled_from(["linear", "mean", "softmax"])),
    st.builds(Frontier, st.sampled_from(FRONTIER_KINDS)),
)
HEADS = st.builds(
    Head,
    st.sampled_from(["average", "flatten", "pyramid", "mean", "max", "map"]),
    st.sampled_from(["", "", "softmax", "log_softmax", "sigmoid"]),
    st.integers(2, 4),
)


@st.composite
def networks(draw: st.DrawFn, rank: int) -> Network:
    """Networks for inputs with ``rank`` spatial axes."""
    size = {1: st.integers(4, 40), 2: st.integers(3, 15), 3: st.integers(2, 8)}[rank]
    shape = (draw(st.integers(1, 4)), *(draw(size) for _ in range(rank)))
    # Frontiers are drawn rarely: what follows one is not incremental.
    layers = draw(st.lists(LOCAL_LAYERS, min_size=1, max_size=6))
    if draw(st.integers(0, 3)):
        layers.insert(0, draw(CONVS))
    if draw(st.integers(0, 5)) == 5:
        layers.insert(draw(st.integers(0, len(layers))), draw(RARE_LAYERS))
    return Network(shape, tuple(layers), draw(HEADS))


# --- windows and baselines ---------------------------------------------------------------------------

MOST_POSITIONS = 60


@dataclass(frozen=True)
class Question:
    """A window and a baseline for inputs of one shape.

    Attributes:
        background: Whether half of the image equals the baseline, so that windows change less or nothing.
        schedule: In which order positions are asked for.
        watched: Whether somebody watches, so that batches start small.
    """

    window: Shape
    strides: Shape
    baseline: str = "zero"
    background: bool = False
    schedule: str = "rows"
    watched: bool = False


def positions(shape: Shape, window: Shape, strides: Shape) -> int:
    return math.prod(math.ceil((n - k) / s) + 1 for n, k, s in zip(shape, window, strides, strict=True))


@st.composite
def questions(draw: st.DrawFn, shape: Shape) -> Question:
    """Windows over one, several or all channels, of any stride up to their size."""
    window = [draw(st.integers(1, n)) for n in shape]
    if draw(st.integers(0, 3)):
        window[0] = shape[0]
    strides = [draw(st.integers(1, k)) for k in window]
    while positions(shape, tuple(window), tuple(strides)) > MOST_POSITIONS:
        counts = [math.ceil((n - k) / s) + 1 for n, k, s in zip(shape, window, strides, strict=True)]
        axis = counts.index(max(counts))
        if strides[axis] < window[axis]:
            strides[axis] += 1
        else:
            window[axis] += 1
    return Question(
        tuple(window),
        tuple(strides),
        draw(st.sampled_from(["zero", "scalar", "channel", "full"])),
        draw(st.booleans()),
        draw(st.sampled_from(["rows", "coarse to fine"])),
        draw(st.booleans()),
    )


def image_and_baseline(shape: Shape, question: Question) -> tuple[Tensor, Any]:
    """An input ``(1, *shape)`` and what ``baselines`` is for it."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
    baseline = {
        "zero": lambda: 0,
        "scalar": lambda: -1.5,
        "channel": lambda: torch.linspace(-2, 2, shape[0], dtype=torch.float64).view(
            1, -1, *[1] * (len(shape) - 1)
        ),
        "full": lambda: torch.randn(1, *shape, generator=generator, dtype=torch.float64) * 2,
    }[question.baseline]()
    if question.background:
        same = torch.rand(1, 1, *shape[1:], generator=generator) < 0.4
        same[..., : shape[-1] // 2] = True
        x = torch.where(same, torch.as_tensor(baseline, dtype=x.dtype).expand_as(x), x)
    return x, baseline


def drawn(data: st.DataObject, rank: int) -> tuple[nn.Sequential, torch.Generator, Tensor, Tensor]:
    """A network, a generator of further draws, an image of float64 and a baseline of its shape."""
    network = data.draw(networks(rank), "network")
    model = build(network)
    note(f"input {network.shape}\n{model}")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99), "seed"))
    x, baseline = (torch.randn(1, *network.shape, dtype=torch.float64, generator=generator) for _ in range(2))
    return model, generator, x, baseline
