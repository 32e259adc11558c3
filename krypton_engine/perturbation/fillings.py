"""Fillings: what the cells under a window, or of a region, become.

Captum's baselines are numbers or images. The fillings here are made of the occluded image itself, of what
surrounds a window, or of chance; those with several samples are covered with one after another, and the
model's outputs averaged: prediction difference analysis (Zintgraf et al., 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from krypton_engine.common.arguments import at_least, real
from krypton_engine.common.arrays import IntArray
from krypton_engine.common.values import digest
from krypton_engine.errors import InputError
from krypton_engine.perturbation.positions import Positions

Fill = Callable[[IntArray], list[Tensor]]
"""A function from boxes ``(n, axes, 2)`` to what the cells of each become, ``(1, *extents)``."""

_BLUR = 1 / 16
"""Width of the blur, of the longest side: nothing the size of a usual window survives it."""


@runtime_checkable
class Filling(Protocol):
    """What covered cells become.

    Attributes:
        samples: Number of ways to fill the same cells.
    """

    @property
    def samples(self) -> int:
        """See the attributes."""

    def fill(self, x: Tensor, positions: Positions, sample: int) -> Tensor | Fill:
        """One sample's filling of an image.

        Args:
            x: One example: ``(1, *input_shape)``.
            positions: The positions that are to be filled.
            sample: Number of the sample, from 0 on.

        Returns:
            An image that covers any cells, ``(1, *input_shape)``, or a function of the boxes to be filled.
        """

    def describe(self) -> str:
        """The filling in words, by which others differ."""


def _free(x: Tensor, positions: Positions) -> list[int]:
    """Dimensions of ``x`` along which positions differ: of an image usually rows and columns."""
    return [axis + 1 for axis in range(x.ndim - 1) if not positions.spans(axis)]


def _over(x: Tensor, positions: Positions) -> list[int]:
    """Dimensions of ``x`` that its own mean or blur is taken over; all where positions differ along none."""
    return _free(x, positions) or list(range(1, x.ndim))


def _positive(name: str, given: object) -> float:
    number = real(given)
    if number is None or not 0 < number < math.inf:
        raise InputError(name, repr(given), "a positive number")
    return number


@dataclass(frozen=True)
class Given:
    """One of Captum's baselines: a number, or an image.

    Examples:
        >>> Given(0.5).fill(x, heatmap.window, 0).shape
        torch.Size([1, 3, 24, 20])
    """

    baseline: Tensor | float
    samples = 1

    def fill(self, x: Tensor, positions: Positions, sample: int) -> Tensor:
        """See `Filling.fill`."""
        baseline = torch.as_tensor(self.baseline, device=x.device).detach()
        if not x.is_floating_point() and not torch.equal(baseline.to(x.dtype).double(), baseline.double()):
            raise InputError("baselines", self.describe(), f"numbers that {x.dtype} holds, as the input's")
        try:
            return baseline.to(x.dtype).expand(x.shape)
        except RuntimeError:
            given = f"of shape {tuple(baseline.shape)}"
            raise InputError("baselines", given, f"what fits the input's {tuple(x.shape)}") from None

    def describe(self) -> str:
        """See `Filling.describe`."""
        if isinstance(self.baseline, Tensor) and self.baseline.numel() > 1:
            return f"image {digest(self.baseline)}"
        return f"{float(self.baseline):g}"


@dataclass(frozen=True)
class Blur:
    """The image, blurred along the axes on which positions differ.

    Args:
        sigma: Width of the Gaussian in cells; None for a sixteenth of the longest side.

    Examples:
        >>> blurred = Blur(sigma=8.0).fill(x, heatmap.window, 0)
        >>> blurred.shape, bool(blurred.std() < x.std())
        (torch.Size([1, 3, 24, 20]), True)
    """

    sigma: float | None = None
    samples = 1

    def __post_init__(self) -> None:
        if self.sigma is not None:
            _positive("sigma", self.sigma)

    def fill(self, x: Tensor, positions: Positions, sample: int) -> Tensor:
        """See `Filling.fill`."""
        free = _over(x, positions)
        sigma = self.sigma or _BLUR * max(x.shape[dim] for dim in free)
        blurred = ndimage.gaussian_filter(x.double().cpu().numpy(), sigma, axes=free, mode="nearest")
        return as_cells_of(x, torch.from_numpy(blurred))

    def describe(self) -> str:
        """See `Filling.describe`."""
        return "blur" if self.sigma is None else f"blur, sigma {self.sigma:g}"


@dataclass(frozen=True)
class Mean:
    """The mean of the image, by channel.

    Examples:
        >>> mean = Mean().fill(x, heatmap.window, 0)
        >>> torch.allclose(mean[0, :, 0, 0], x.mean((0, 2, 3)))
        True
    """

    samples = 1

    def fill(self, x: Tensor, positions: Positions, sample: int) -> Tensor:
        """See `Filling.fill`."""
        free = _over(x, positions)
        return as_cells_of(x, x.double().mean(free, keepdim=True)).expand(x.shape)

    def describe(self) -> str:
        """See `Filling.describe`."""
        return "mean"


@dataclass(frozen=True)
class Noise:
    """Normal noise of the image's own mean and standard deviation, by channel.

    Args:
        samples: Number of draws whose answers are averaged.
        seed: Seed of the draws.

    Examples:
        >>> noise = Noise(samples=2)
        >>> first, second = (noise.fill(x, heatmap.window, sample) for sample in range(2))
        >>> torch.equal(first, second), torch.equal(first, noise.fill(x, heatmap.window, 0))
        (False, True)
    """

    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, "samples", self.samples)
        at_least(0, "seed", self.seed)

    def fill(self, x: Tensor, positions: Positions, sample: int) -> Tensor:
        """See `Filling.fill`."""
        free = _over(x, positions)
        wide = x.double().cpu()
        drawn = np.random.default_rng((self.seed, sample)).standard_normal(x.shape)
        spread = wide.var(free, correction=0, keepdim=True).sqrt()
        return as_cells_of(x, wide.mean(free, keepdim=True) + spread * torch.from_numpy(drawn))

    def describe(self) -> str:
        """See `Filling.describe`."""
        return f"noise, {self.samples} samples, seed {self.seed}"


@dataclass(frozen=True)
class LocalMean:
    """The mean, by channel, of the cells that surround a window or the bounding box of a region.

    Args:
        border: Cells around the box that count; None for half its extent, along each axis.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> line, window = torch.tensor([[0.0, 2.0, 9.0, 4.0, 0.0]]), SlidingWindow((5,), (1,), (1,))
        >>> LocalMean(border=1).fill(line, window, 0)(window.boxes(np.array([2])))
        [tensor([[3.]])]
    """

    border: int | None = None
    samples = 1

    def __post_init__(self) -> None:
        if self.border is not None:
            at_least(1, "border", self.border)

    def fill(self, x: Tensor, positions: Positions, sample: int) -> Fill:
        """See `Filling.fill`."""
        free = _free(x, positions)
        whole_mean = x.double().mean(_over(x, positions), keepdim=True)

        def around(box: list[list[int]]) -> Tensor:
            inner = [slice(None), *(slice(lo, hi) for lo, hi in box)]
            outer = list(inner)
            for dim in free:
                lo, hi = box[dim - 1]
                border = self.border or max(1, (hi - lo + 1) // 2)
                outer[dim] = slice(max(0, lo - border), min(x.shape[dim], hi + border))
            cells, inside = x[tuple(outer)].double(), x[tuple(inner)].double()
            shape = inside.shape
            count = (cells.numel() - inside.numel()) // math.prod(
                size for dim, size in enumerate(shape) if dim not in free
            )
            if not free or not count:
                return as_cells_of(x, whole_mean.expand(x.shape)[tuple(inner)])
            mean = (cells.sum(free, keepdim=True) - inside.sum(free, keepdim=True)) / count
            return as_cells_of(x, mean.expand(shape))

        return lambda boxes: [around(box) for box in boxes.tolist()]

    def describe(self) -> str:
        """See `Filling.describe`."""
        return "local mean" if self.border is None else f"local mean, border {self.border}"


class Soft:
    """Another filling through a window whose edges fade by a Gaussian.

    Args:
        filling: The filling; numbers, images and words as for ``baselines``.
        edge: Standard deviation of the fading in cells; None for a quarter of the window.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window = SlidingWindow((5,), (5,), (1,))
        >>> fill = Soft(1.0, edge=1.0).fill(torch.zeros(1, 5), window, 0)
        >>> fill(window.boxes(np.array([0])))[0].round(decimals=2)  # the window spans the axis: no edge
        tensor([[1., 1., 1., 1., 1.]])
        >>> window = SlidingWindow((9,), (5,), (1,))
        >>> Soft(1.0, edge=1.0).fill(torch.zeros(1, 9), window, 0)(window.boxes(np.array([2])))[0]
        tensor([[0.1175, 0.6753, 0.9561, 0.6753, 0.1175]])
    """

    def __init__(self, filling: Filling | Tensor | float | str = 0.0, edge: float | None = None) -> None:
        self.filling = filling_of(filling)
        self.edge = None if edge is None else _positive("edge", edge)

    @property
    def samples(self) -> int:
        """As many as the other filling has."""
        return self.filling.samples

    def fill(self, x: Tensor, positions: Positions, sample: int) -> Fill:
        """See `Filling.fill`."""
        # Whole numbers are rounded once, at the end.
        wide = x if x.is_floating_point() else x.double()
        free, within = _free(x, positions), self.filling.fill(wide, positions, sample)

        def faded(box: list[list[int]], content: Tensor) -> Tensor:
            weight = torch.ones((), dtype=torch.float64)
            for dim in free:
                lo, hi = box[dim - 1]
                edge = self.edge or (hi - lo) / 4
                depth = np.minimum(np.arange(hi - lo) + 0.5, hi - lo - np.arange(hi - lo) - 0.5)
                # An edge of the image is none of the window.
                depth = np.where((np.arange(hi - lo) * 2 < hi - lo) & (lo == 0), np.inf, depth)
                depth = np.where((np.arange(hi - lo) * 2 >= hi - lo) & (hi == x.shape[dim]), np.inf, depth)
                along = torch.from_numpy(1 - np.exp(-(depth**2) / (2 * edge**2)))
                weight = weight * along.reshape([-1 if d == dim else 1 for d in range(x.ndim)])
            own = x[(slice(None), *(slice(lo, hi) for lo, hi in box))].double()
            return as_cells_of(x, own + weight.to(own) * (content.double() - own))

        def fill(boxes: IntArray) -> list[Tensor]:
            pairs = zip(boxes.tolist(), filled_boxes(within, boxes), strict=True)
            return [faded(box, content) for box, content in pairs]

        return fill

    def describe(self) -> str:
        """See `Filling.describe`."""
        return f"soft{'' if self.edge is None else f' (edge {self.edge:g})'} {self.filling.describe()}"


class Several:
    """Several fillings, whose answers are averaged: every sample of each counts alike.

    Args:
        fillings: The fillings; numbers, images and words as for ``baselines``.

    Examples:
        >>> both = Several([0.0, "mean"])
        >>> both.samples, both.describe()
        (2, 'average of 0; mean')
    """

    def __init__(self, fillings: Sequence[Filling | Tensor | float | str]) -> None:
        if not fillings:
            raise InputError("baselines", "an empty list", "at least one filling")
        self.fillings = tuple(map(filling_of, fillings))

    @property
    def samples(self) -> int:
        """All samples of all fillings."""
        return sum(each.samples for each in self.fillings)

    def fill(self, x: Tensor, positions: Positions, sample: int) -> Tensor | Fill:
        """See `Filling.fill`."""
        for each in self.fillings:
            if sample < each.samples:
                return each.fill(x, positions, sample)
            sample -= each.samples
        raise IndexError(sample)

    def describe(self) -> str:
        """See `Filling.describe`."""
        return f"average of {'; '.join(each.describe() for each in self.fillings)}"


_WORDS: dict[str, Callable[[], Filling]] = {
    "blur": Blur,
    "mean": Mean,
    "local mean": LocalMean,
    "noise": Noise,
}


def as_cells_of(x: Tensor, values: Tensor) -> Tensor:
    """Values as cells of an image: whole numbers that its dtype holds, where it holds no others.

    Examples:
        >>> as_cells_of(torch.zeros(2, dtype=torch.uint8), torch.tensor([-3.0, 1.75]))
        tensor([0, 2], dtype=torch.uint8)
    """
    if x.is_floating_point():
        return values.to(x)
    ends = torch.iinfo(x.dtype)
    return values.round().clamp(ends.min, ends.max).to(x)


def filling_of(given: object) -> Filling:
    """The filling that a user gives.

    Args:
        given: A filling, a number, an image, one of a few words, or a list of such, which are averaged.

    Raises:
        InputError: Anything else.

    Examples:
        >>> filling_of("blur"), filling_of(0.5)
        (Blur(sigma=None), Given(baseline=0.5))
        >>> filling_of("fog")
        Traceback (most recent call last):
        krypton_engine.errors.InputError: baselines is 'fog'; accepted: a number, a tensor, 'blur', ...
    """
    if isinstance(given, list):
        return Several(given)
    if isinstance(given, str) and given in _WORDS:
        return _WORDS[given]()
    if isinstance(given, Filling) and not isinstance(given, type):
        return given
    if isinstance(given, (Tensor, int, float)) and not isinstance(given, bool):
        return Given(given)
    words = ", ".join(map(repr, _WORDS))
    raise InputError("baselines", repr(given), f"a number, a tensor, {words}, a Filling, or a list of these")


def filled_boxes(filled: Tensor | Fill, boxes: IntArray) -> list[Tensor]:
    """What the cells of boxes become: ``(1, *extents)`` each.

    Examples:
        >>> filled_boxes(torch.arange(4.0)[None], np.array([[[1, 3]]]))
        [tensor([[1., 2.]])]
    """
    if callable(filled):
        return filled(boxes)
    return [filled[(slice(None), *(slice(lo, hi) for lo, hi in box))] for box in boxes.tolist()]
