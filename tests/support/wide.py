"""A network that a cheap map is worth while for, and pictures for it."""

from __future__ import annotations

import torch
from torch import nn

from krypton_engine import zoo

WINDOW, STRIDES = (3, 8, 8), (3, 2, 2)


class Wide(nn.Module):
    """Deep enough that boxes outgrow what changes, on images of 64 x 64."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for out in (12, 16, 24):
            layers += [
                nn.Conv2d(channels, out, 3, padding=1),
                nn.BatchNorm2d(out),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels = out
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(24 * 64, 5)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


def calibrated() -> Wide:
    """One with weights, whose layers have seen some noise."""
    torch.manual_seed(5)
    model = Wide().eval()
    zoo.calibrate_batch_norm(model, (3, 64, 64))
    return model


def blobs(seed: int) -> torch.Tensor:
    """An image of smooth random structure: ``(1, 3, 64, 64)``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 9, 9, generator=generator)
    return nn.functional.interpolate(coarse, (64, 64), mode="bicubic")
