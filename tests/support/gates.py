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


GATES = {
    "sigmoid": lambda: SqueezeExcite(nn.Sigmoid()),
    "hard sigmoid": lambda: SqueezeExcite(nn.Hardsigmoid()),
    "linear": WithLinear,
    "efficient channel attention": EfficientChannelAttention,
    "channel half": ChannelHalf,
    "response norm": GlobalResponseNorm,
    "response norm, channels first": ChannelsFirstResponseNorm,
    "response norm of the paper": PapersResponseNorm,
    "sum": Summed,
    "sum by channel": SummedByChannel,
    "group norm": lambda: nn.GroupNorm(2, CHANNELS),
    "group norm without weights": lambda: nn.GroupNorm(4, CHANNELS, affine=False),
    "instance norm": lambda: nn.InstanceNorm2d(CHANNELS, affine=True),
    "one group": lambda: nn.GroupNorm(1, CHANNELS),
}


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
