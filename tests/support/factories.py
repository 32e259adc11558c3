"""Sources of modules that tests write, for the command line to find models in."""


def network(side: int) -> str:
    """The source of ``network``, which makes a classifier of pictures that are ``2 * side`` pixels square."""
    return _NETWORK.format(features=8 * side * side)


_NETWORK = """
import torch
from torch import nn


def network(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear({features}, classes),
    )
"""
