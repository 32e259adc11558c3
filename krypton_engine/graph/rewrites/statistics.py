"""Sums over all cells of an image, and what is made of them: the global values of linearised graphs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def total(x: Tensor, power: int, dims: Sequence[int]) -> Tensor:
    """Sums of ``x`` to a power over some dimensions, which are kept: float64.

    Examples:
        >>> total(torch.tensor([[1.0, 2.0]]), 2, [1])
        tensor([[5.]], dtype=torch.float64)
    """
    return x.double().pow(power).sum(tuple(dims), keepdim=True)


def mean(sums: Tensor, cells: int, dims: Sequence[int], keepdim: bool, dtype: torch.dtype) -> Tensor:
    """Means from sums over ``cells`` cells, over dimensions whose sizes were not summed too.

    Examples:
        >>> mean(torch.tensor([[6.0], [2.0]]), 4, [0], False, torch.float32)
        tensor([1.])
    """
    return (sums / cells).mean(tuple(dims), keepdim).to(dtype)


def added(sums: Tensor, dims: Sequence[int], keepdim: bool, dtype: torch.dtype) -> Tensor:
    """Sums over further dimensions.

    Examples:
        >>> added(torch.tensor([[6.0, 2.0]]), [1], keepdim=False, dtype=torch.float32)
        tensor([8.])
    """
    return sums.sum(tuple(dims), keepdim).to(dtype)


def root(sums: Tensor, dims: Sequence[int], keepdim: bool, dtype: torch.dtype) -> Tensor:
    """Euclidean norms from sums of squares.

    Examples:
        >>> root(torch.tensor([[9.0, 16.0]]), [1], keepdim=False, dtype=torch.float32)
        tensor([5.])
    """
    return sums.sum(tuple(dims), keepdim).sqrt().to(dtype)


def variance(
    sums: Tensor,
    squares: Tensor,
    cells: int,
    dims: Sequence[int],
    correction: float,
    root: bool,
    keepdim: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Variances, or their roots, from sums over ``cells`` cells, over dimensions whose sizes count too.

    Examples:
        >>> sums, squares = torch.tensor([[4.0]]), torch.tensor([[16.0]])  # of 0 and 4
        >>> variance(sums, squares, 2, [1], correction=1, root=False, keepdim=False, dtype=torch.float32)
        tensor([8.])
    """
    average = (sums / cells).mean(tuple(dims), keepdim)
    about = (squares / cells).mean(tuple(dims), keepdim) - average.square()
    count = cells * math.prod(sums.shape[dim] for dim in dims)
    found = about.clamp_min(0) * corrected(count, correction)
    return (found.sqrt() if root else found).to(dtype)


def corrected(count: int, correction: float) -> float:
    """The factor on a variance of ``count`` numbers; infinite, as PyTorch's, where they are too few.

    Examples:
        >>> corrected(2, 1.0), corrected(1, 1.0)
        (2.0, inf)
    """
    return count / (count - correction) if count > correction else math.inf


def scale(
    sums: Tensor,
    squares: Tensor,
    cells: int,
    groups: int,
    eps: float,
    weight: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """The factor by which a norm multiplies every channel.

    Args:
        sums: Sums of every channel: ``(copies, channels, 1, ...)``.
        squares: Sums of squares, of the same shape.
        cells: Number of cells that were summed.
        groups: Number of groups of channels that share their statistics.
        eps: Number added to the variance.
        weight: Factors by channel; None for 1.
        dtype: Dtype of the result.

    Examples:
        >>> sums, squares = torch.tensor([[4.0]]), torch.tensor([[16.0]])  # of 0 and 4: variance 4
        >>> scale(sums, squares, cells=2, groups=1, eps=0.0, weight=None, dtype=torch.float32)
        tensor([[0.5000]])
    """
    _, variance = _moments(sums, squares, cells, groups)
    factor = (variance + eps).rsqrt()
    scaled: Tensor = factor if weight is None else factor * _by_channel(weight, sums)
    return scaled.to(dtype)


def shift(
    sums: Tensor,
    squares: Tensor,
    cells: int,
    groups: int,
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """The summand that a norm adds to every channel after `scale`; arguments as there.

    Examples:
        >>> sums, squares = torch.tensor([[4.0]]), torch.tensor([[16.0]])  # of 0 and 4: mean 2, variance 4
        >>> shift(sums, squares, 2, groups=1, eps=0.0, weight=None, bias=None, dtype=torch.float32)
        tensor([[-1.]])
    """
    average, _ = _moments(sums, squares, cells, groups)
    moved = -average * scale(sums, squares, cells, groups, eps, weight, torch.float64)
    return (moved if bias is None else moved + _by_channel(bias, sums)).to(dtype)


def _moments(sums: Tensor, squares: Tensor, cells: int, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel's group, by channel."""

    def over_groups(value: Tensor) -> Tensor:
        shape = value.shape
        parts = (value / cells).reshape(shape[0], groups, -1, *shape[2:])
        return parts.mean(2, keepdim=True).expand(parts.shape).reshape(shape)

    average = over_groups(sums)
    return average, (over_groups(squares) - average.square()).clamp_min(0)


def _by_channel(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.double().reshape(1, -1, *[1] * (like.dim() - 2))
