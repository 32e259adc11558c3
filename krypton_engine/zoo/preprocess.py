"""Preprocessing: pictures as inputs of a model, and back."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from krypton_engine.errors import InputError

if TYPE_CHECKING:
    import PIL.Image
    from numpy.typing import NDArray

_LARGEST_RESIZED = 2**24
"""Pixels of the largest picture that is made to be cropped; of a larger one, as a long and thin picture needs
it, only the centre is made, which may round otherwise."""


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of a model: from a picture to an input, and back.

    A picture is made grey or RGB, scaled to ``[0, 1]``, resized, and normalised by ``(x - mean) / std``.

    Attributes:
        size: Height and width of the input.
        mean: One value a channel; its length, 1 or 3, is the number of channels.
        std: As ``mean``.
        shorter_side: The picture's shorter side is resized to this before the centre is cropped to ``size``,
            as torchvision does. ``None``: to the smallest picture that covers ``size``.
        stretch: Resize to ``size`` without regard to the aspect ratio, and crop nothing.
        bicubic: Interpolate with cubics, not linearly. Either way shrinking is antialiased.

    Examples:
        >>> from PIL import Image
        >>> preprocess = Preprocess((24, 20), mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> preprocess(Image.new("RGB", (60, 50), "white"))[:, 0, 0]
        tensor([2., 2., 2.])
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shorter_side: int | None = None
    stretch: bool = False
    bicubic: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the input.

        Examples:
            >>> Preprocess((24, 20), mean=(0.5,), std=(0.25,)).input_shape
            (1, 24, 20)
        """
        return (len(self.mean), *self.size)

    def __call__(self, image: PIL.Image.Image) -> torch.Tensor:
        """The model's input, float32 ``(C, H, W)``."""
        from PIL.Image import Resampling

        height, width = self.size
        image = image.convert("L" if len(self.mean) == 1 else "RGB")
        resample = Resampling.BICUBIC if self.bicubic else Resampling.BILINEAR
        if self.stretch:
            image = image.resize((width, height), resample)
        else:
            image = self._cropped(image, resample)
        pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
        tensor = torch.from_numpy(pixels.reshape(height, width, -1).transpose(2, 0, 1).copy())
        return (tensor - self._column(self.mean)) / self._column(self.std)

    def picture(self, tensor: torch.Tensor) -> NDArray[np.uint8]:
        """A model input ``(C, H, W)`` without its normalisation: an RGB picture, uint8 ``(H, W, 3)``.

        Examples:
            >>> preprocess = Preprocess((1, 1), mean=(0.5,) * 3, std=(0.25,) * 3)
            >>> preprocess.picture(torch.tensor([2.0, 0.4, -2.0]).reshape(3, 1, 1)).tolist()
            [[[255, 153, 0]]]
        """
        pixels = tensor.detach().cpu().float() * self._column(self.std) + self._column(self.mean)
        return rgb(pixels)

    def _cropped(self, image: PIL.Image.Image, resample: PIL.Image.Resampling) -> PIL.Image.Image:
        """The centre of the resized picture."""
        height, width = self.size
        resized = self._before_crop(image.width, image.height)
        left, top = round((resized[0] - width) / 2), round((resized[1] - height) / 2)
        part = (left, top, left + width, top + height)
        if resized[0] * resized[1] <= _LARGEST_RESIZED:  # to the last bit what torchvision makes of it
            return image.resize(resized, resample).crop(part)
        across, down = image.width / resized[0], image.height / resized[1]
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        return image.resize((width, height), resample, box)

    def _before_crop(self, width: int, height: int) -> tuple[int, int]:
        """The size, width first, that the picture is resized to before its centre is cropped."""
        if self.shorter_side is not None:
            short, long = sorted((width, height))
            longer_side = int(self.shorter_side * long / short)
            sides = (self.shorter_side, longer_side) if width <= height else (longer_side, self.shorter_side)
            return max(sides[0], self.size[1]), max(sides[1], self.size[0])
        scale = max(self.size[0] / height, self.size[1] / width)
        return max(self.size[1], round(width * scale)), max(self.size[0], round(height * scale))

    @staticmethod
    def _column(values: tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)


def changed(
    base: Preprocess,
    size: int | Sequence[int] | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
) -> Preprocess:
    """A preprocessing with the sizes and levels that a user gave in place of its own.

    Args:
        base: The usual one.
        size: Height and width, or one number for both.
        mean: A number, or one a channel.
        std: As ``mean``.

    Raises:
        InputError: A value cannot be used.

    Examples:
        >>> changed(Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3), size=4, mean=0.5, std=None).mean
        (0.5, 0.5, 0.5)
    """
    if size is None and mean is None and std is None:
        return base
    channels = next((len(v) for v in (mean, std) if isinstance(v, Sized)), len(base.mean))
    new_mean = _per_channel("mean", mean, base.mean, channels)
    new_std = _per_channel("std", std, base.std, channels)
    if len(new_mean) != len(new_std):
        raise InputError(
            "mean",
            f"{len(new_mean)} values and std {len(new_std)}",
            "as many of both, one a channel",
            verb="has",
        )
    if any(abs(value) < np.finfo(np.float32).tiny for value in new_std):
        raise InputError("std", repr(std), "numbers that float32 does not take for zero")
    if size is None:
        return Preprocess(base.size, new_mean, new_std, base.shorter_side, base.stretch, base.bicubic)
    try:
        height, width = map(operator.index, size if isinstance(size, Sequence) else (size, size))
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise InputError("size", repr(size), "a positive whole number, or two: height and width")
    return Preprocess((height, width), new_mean, new_std, None, base.stretch, base.bicubic)


def _per_channel(
    name: str, value: float | Sequence[float] | None, usual: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    """One value a channel; a single number serves any number of channels."""
    if value is None:
        return usual[:1] * channels if len(set(usual)) == 1 else usual
    try:
        values = tuple(map(float, value)) if isinstance(value, Iterable) else (float(value),) * channels
    except (TypeError, ValueError):
        values = ()
    if len(values) not in (1, 3) or not all(abs(v) <= np.finfo(np.float32).max for v in values):
        raise InputError(name, repr(value), "a number, or one number a channel (1 or 3)")
    return values


def as_taken(model: object, x: torch.Tensor) -> torch.Tensor:
    """An input on the device and in the type of a model's weights; as it is where there are none.

    Args:
        model: A module, or any callable.
        x: An input of any shape.

    Examples:
        >>> as_taken(torch.nn.Linear(2, 2).double(), torch.zeros(1, 2)).dtype
        torch.float64
    """
    if isinstance(model, nn.Module):
        for parameter in model.parameters():
            if parameter.is_floating_point():
                return x.to(parameter)
    return x


def stretched(cells: torch.Tensor) -> NDArray[np.uint8]:
    """Numbers ``(C, H, W)`` as an RGB picture, uint8 ``(H, W, 3)``, their range stretched to black and white.

    NaN is drawn as the smallest number, and infinities as the ends.

    Examples:
        >>> stretched(torch.tensor([[[-1.0, 0.0, 1.0]]]))[0, :, 0]
        array([  0, 128, 255], dtype=uint8)
    """
    cells = cells.detach().cpu().double()
    finite = cells[cells.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
    shares = cells.nan_to_num(nan=low, posinf=high, neginf=low) - low
    return rgb(shares / (high - low if high > low else 1.0))


def rgb(shares: torch.Tensor) -> NDArray[np.uint8]:
    """Shares ``(C, H, W)`` between black (0) and white (1) as an RGB picture, uint8 ``(H, W, 3)``.

    Of three channels or more, the first three are red, green and blue; of fewer, the first is drawn as grey.

    Examples:
        >>> rgb(torch.tensor([[[0.0, 0.5, 1.0]]]))[0].tolist()
        [[0, 0, 0], [128, 128, 128], [255, 255, 255]]
    """
    colours = shares[:3] if len(shares) >= 3 else shares[:1].expand(3, -1, -1)
    levels = (colours.double().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())
