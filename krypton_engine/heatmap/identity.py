"""Identity of images, baselines, models' answers and calls: how one is known from another."""

from __future__ import annotations

import torch
from torch import Tensor

from krypton_engine.common.values import digest

Described = tuple[float, ...] | str
"""A baseline: a number a channel, or the fingerprint of an image."""

_LARGEST_DIFFERENCE = 1e-3
"""Share of the largest output by which two runs of one model may differ, on any two machines."""


class Origin:
    """The call that made a map: an empty token, which an occlusion knows its own maps by.

    Copies within the process have the same; a pickle has none.
    """

    def __deepcopy__(self, _: object) -> Origin:
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()


def described(baseline: Tensor) -> Described:
    """A description of a baseline by which others differ.

    Args:
        baseline: Baseline of an input's shape, ``(1, *input_shape)``.

    Examples:
        >>> described(torch.full((1, 3, 8, 8), 0.5))
        (0.5, 0.5, 0.5)
        >>> described(torch.arange(64.0).reshape(1, 1, 8, 8))
        'image 21b9ca0f94efa26b'
    """
    channels = baseline.reshape(baseline.shape[1] if baseline.ndim > 1 else 1, -1).double()
    even = bool((channels == channels[:, :1]).all())
    return tuple(channels[:, 0].tolist()) if even else f"image {digest(baseline)}"


def same_outputs(mine: Tensor, other: Tensor) -> bool:
    """Whether two outputs of a model are equal but for what kernels of two machines round differently.

    Examples:
        >>> same_outputs(torch.tensor([10.0, 1.0]), torch.tensor([10.001, 1.001]))
        True
    """
    if mine.shape != other.shape or not mine.numel():
        return mine.shape == other.shape
    largest = float(mine.abs().max().nan_to_num(0.0))
    return torch.allclose(mine, other.to(mine), rtol=0, atol=_LARGEST_DIFFERENCE * largest, equal_nan=True)
