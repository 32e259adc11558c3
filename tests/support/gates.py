"""Operators that see the whole image, as people write them, and a small network around each; float64."""

from __future__ import annotations

import torch
from torch import nn

CHANNELS = 8


class SqueezeExcite(nn.Module):
    def __init__(self, gate):
        super().__init__()
        self.down, self.up, self.gate = nn.Conv2d(CHANNELS, 4, 1), nn.Conv2d(4, CHANNELS, 1), gate

    def forward(self, x):
        return x * self.gate(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class WithLinear(nn.Module):
    """The gate of the paper's own code."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(CHANNELS, 4), nn.ReLU(), nn.Linear(4, CHANNELS), nn.Sigmoid())

    def forward(self, x):
        b, c, _, _ = x.size()
        return x * self.fc(self.pool(x).view(b, c)).view(b, c, 1, 1).expand_as(x)


class EfficientChannelAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        y = nn.functional.adaptive_avg_pool2d(x, 1)
        y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * y.sigmoid().expand_as(x)


class ChannelHalf(nn.Module):
    """The channel half of CBAM: a gate from the mean and from the largest cell."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Conv2d(CHANNELS, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, CHANNELS, 1, bias=False)
        )

    def forward(self, x):
        return x * (self.fc(x.mean((2, 3), keepdim=True)) + self.fc(x.amax((2, 3), keepdim=True))).sigmoid()


class GlobalResponseNorm(nn.Module):
    """ConvNeXtV2's, channels last."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(CHANNELS)), nn.Parameter(torch.randn(CHANNELS))

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        g = x.norm(p=2, dim=(1, 2), keepdim=True)
        n = g / (g.mean(dim=-1, keepdim=True) + 1e-6)
        return (x + torch.addcmul(self.bias, self.weight, x * n)).permute(0, 3, 1, 2)


class ChannelsFirstResponseNorm(GlobalResponseNorm):
    """timm's for convolutions of one cell."""

    def forward(self, x):
        g = x.norm(p=2, dim=(2, 3), keepdim=True)
        n = g / (g.mean(dim=1, keepdim=True) + 1e-6)
        weight, bias = (each.view(1, -1, 1, 1) for each in (self.weight, self.bias))
        return x + torch.addcmul(bias, weight, x * n)


class PapersResponseNorm(GlobalResponseNorm):
    """The paper's own code, and Hugging Face's."""

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        g = torch.linalg.vector_norm(x, ord=2, dim=(1, 2), keepdim=True)
        n = g / (g.mean(dim=-1, keepdim=True) + 1e-6)
        return (self.weight * (x * n) + self.bias + x).permute(0, 3, 1, 2)


class Summed(nn.Module):
    """What counts is added, not multiplied, and of all channels."""

    def forward(self, x):
        return x + (0.001 * x.sum((1, 2, 3), keepdim=True)).tanh()


class SummedByChannel(nn.Module):
    """Sums by channel, compared with what all channels hold on average."""

    def forward(self, x):
        return x * (0.01 * x.sum((2, 3), keepdim=True)).tanh() + x.mean((1, 2, 3), keepdim=True).sigmoid()


class GlobalContext(nn.Module):
    """A mean over all cells, weighted by a softmax over them, in the paper's own code."""

    def __init__(self, context):
        super().__init__()
        self.mask, self.context = nn.Conv2d(CHANNELS, 1, 1), context
        self.transform = nn.Sequential(nn.Conv2d(CHANNELS, 4, 1), nn.SiLU(), nn.Conv2d(4, CHANNELS, 1))

    def forward(self, x):
        y = self.transform(self.context(x, self.mask(x)))
        return x * y.sigmoid() + y


def by_matmul(x, mask):
    """As in GCNet."""
    b, c, h, w = x.shape
    weights = mask.view(b, 1, h * w).softmax(2).unsqueeze(-1)
    return torch.matmul(x.view(b, c, h * w).unsqueeze(1), weights).view(b, c, 1, 1)


def by_tokens(x, mask):
    """Tokens, and channels last."""
    weights = mask.flatten(2).softmax(-1)
    return torch.bmm(weights, x.flatten(2).transpose(1, 2)).transpose(1, 2)[..., None]


def by_einsum(x, mask):
    return torch.einsum("bcn,bkn->bck", x.flatten(2), mask.flatten(2).softmax(2))[..., None]


def by_sum(x, mask):
    return (x.flatten(2) * mask.flatten(2).softmax(-1)).sum(-1)[..., None, None]


def by_cells(x, mask):
    """Weights that go back to where they came from."""
    weights = mask.flatten(1).softmax(1).view_as(mask)
    return (x * weights).sum((2, 3), keepdim=True) + (x * mask).flatten(2).mean(2)[..., None, None]


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class ResponseNorm(nn.Module):
    """A response norm whose Euclidean norm is spelt out."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.weight = norm, nn.Parameter(torch.randn(1, CHANNELS, 1, 1))

    def forward(self, x):
        g = self.norm(x)
        return x * (self.weight * (g / (g.mean(1, keepdim=True) + 1e-6))) + x


def by_hand(x):
    variance, mean = torch.var_mean(x, (1, 2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-2).sqrt()


def inverse_ways(x):
    """A global value that cells are taken from, and one that is divided by cells."""
    mean = x.mean((2, 3), keepdim=True)
    return (mean - x) + mean.exp() / (3 + x.tanh())


def of_normed_cells(x):
    """Channels last, as in ConvNeXt: the norm has no global value, and the gate has one."""
    x = nn.functional.layer_norm(nn.functional.max_pool2d(x, 3, 1, 1).permute(0, 2, 3, 1), (CHANNELS,))
    return (x * x.mean((1, 2), keepdim=True).sigmoid()).permute(0, 3, 1, 2)


class Paths(nn.Module):
    """Paths that a softmax over them weighs, as in selective kernels and split attention."""

    def __init__(self):
        super().__init__()
        self.attention = nn.Conv2d(CHANNELS // 2, CHANNELS, 1)

    def forward(self, x):
        paths = torch.stack(x.chunk(2, 1), 1)
        weights = self.attention(paths.sum(1).mean((2, 3), keepdim=True)).reshape(x.shape[0], 2, -1, 1, 1)
        mixed = (paths * weights.softmax(1)).sum(1)
        return torch.cat([mixed, x[:, : CHANNELS // 2]], 1)


def film(x):
    scale, shift = x.mean((2, 3), keepdim=True).repeat(1, 2, 1, 1).chunk(2, 1)
    return x * (1 + scale.tanh()) + shift


SMOOTH_GATES = {
    "sigmoid": lambda: SqueezeExcite(nn.Sigmoid()),
    "hard sigmoid": lambda: SqueezeExcite(nn.Hardsigmoid()),
    "linear": WithLinear,
    "efficient channel attention": EfficientChannelAttention,
    "response norm": GlobalResponseNorm,
    "response norm, channels first": ChannelsFirstResponseNorm,
    "response norm of the paper": PapersResponseNorm,
    "sum": Summed,
    "sum by channel": SummedByChannel,
    "group norm": lambda: nn.GroupNorm(2, CHANNELS),
    "group norm without weights": lambda: nn.GroupNorm(4, CHANNELS, affine=False),
    "instance norm": lambda: nn.InstanceNorm2d(CHANNELS, affine=True),
    "one group": lambda: nn.GroupNorm(1, CHANNELS),
    **{
        f"global context {way.__name__}": lambda way=way: GlobalContext(way)
        for way in (by_matmul, by_tokens, by_einsum, by_sum, by_cells)
    },
    "sum of squares": lambda: ResponseNorm(lambda x: x.pow(2).sum((2, 3), keepdim=True).sqrt()),
    "mean of squares": lambda: ResponseNorm(lambda x: (x * x).mean((2, 3), keepdim=True) ** 0.5),
    "deviation": lambda: ResponseNorm(lambda x: x.std((2, 3), keepdim=True)),
    "variance": lambda: ResponseNorm(lambda x: x.var((2, 3), keepdim=True, unbiased=False)),
    "norm by hand": lambda: Function(by_hand),
    "layer norm": lambda: Function(lambda x: nn.functional.layer_norm(x, x.shape[1:])),
    "layer norm of channels": lambda: Function(lambda x: nn.functional.layer_norm(x, x.shape[2:])),
    "inverse ways": lambda: Function(inverse_ways),
    "gate after a layer norm of cells": lambda: Function(of_normed_cells),
    "paths": Paths,
    "feature-wise modulation": lambda: Function(film),
    "pool as large as the image": lambda: Function(
        lambda x: x * nn.functional.avg_pool2d(x, x.shape[2:]).softmax(1)
    ),
}

GATES = {
    **SMOOTH_GATES,
    "channel half": ChannelHalf,
    "largest by pooling": lambda: Function(lambda x: x * nn.functional.adaptive_max_pool2d(x, 1).sigmoid()),
    "largest of all": lambda: Function(lambda x: x / (1 + x.abs().amax((1, 2, 3), keepdim=True))),
}
"""Those with the largest of all cells have edges."""


class Gated(nn.Module):
    """Convolutions around two operators of a kind, and a head; curved, since a kink has no second order."""

    def __init__(self, gate):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.Conv2d(CHANNELS, CHANNELS, 3)
        self.third = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.gates = nn.ModuleList([gate(), gate()])
        self.head = nn.Linear(CHANNELS, 5)
        self.double().eval()

    def forward(self, x):
        x = nn.functional.silu(self.gates[0](self.first(x)))
        x = self.gates[1](self.second(x))
        return self.head(nn.functional.silu(self.third(x.tanh())).mean((2, 3)))
