"""Pictures of any kind (PIL, NumPy, PyTorch) as shares between black and white, and back to their kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.common.arrays import AnyArray
from krypton_engine.errors import InputError

if TYPE_CHECKING:
    import PIL.Image

ImageLike: TypeAlias = "PIL.Image.Image | AnyArray | Tensor"
"""A picture as users have it."""

ToInput: TypeAlias = Callable[[Any], Tensor]
"""A function from pictures of the kind that the user has to a model's input ``([1,] C, H, W)``."""

Shares = npt.NDArray[np.floating]
"""Height x width x channels; 0 is black, 1 is white."""

CHANNELS = (1, 3, 4)
"""Numbers of channels by which an axis is known for theirs."""

_SHAPES = {True: "(height, width[, channels])", False: "([1,] channels, height, width)"}
"""Accepted shapes, of an array and of a tensor."""

_NUMBERS = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""PIL's modes of more than bytes, which its own conversion cuts at 255."""

_DARK, _BRIGHT = 1, 99
"""Percentiles that are black and white of numbers without a range of their own, such as Hounsfield units: a
few cells of metal or air do not decide what grey is."""


@dataclass(frozen=True)
class Pixels:
    """A picture as shares of its range, and the way back to its kind.

    Attributes:
        shape: Height, width, channels.
        shares: Function that makes the shares, which are not kept: photographs are large.
        like: Function from shares to an image of the kind that was given.

    Examples:
        >>> pixels = Pixels.of(np.array([[0, 51], [102, 255]], np.uint8))
        >>> pixels.shape, pixels.shares()[..., 0].tolist()
        ((2, 2, 1), [[0.0, 0.2], [0.4, 1.0]])
        >>> pixels.solid(1.0).tolist()
        [[255, 255], [255, 255]]
    """

    shape: tuple[int, ...]
    shares: Callable[[], Shares]
    like: Callable[[Shares], ImageLike]

    @staticmethod
    def of(image: ImageLike, name: str = "image") -> Pixels:
        """A picture's pixels.

        Args:
            image: PIL image, NumPy array (height, width[, channels]) or tensor ([1,] channels, height,
                width); an array of 1, 3 or 4 channels may have them first too, and bytes of a tensor last.
            name: Name of the image in errors.

        Raises:
            InputError: The image is none.

        Examples:
            >>> Pixels.of(torch.zeros(3, 4, 5)).shape, Pixels.of(np.zeros((4, 5))).shape
            ((4, 5, 3), (4, 5, 1))
        """
        from PIL import Image

        if isinstance(image, Image.Image):
            return _of_pil(image, name)
        if not isinstance(image, (np.ndarray, Tensor)):
            raise InputError(
                name,
                type(image).__name__,
                "a PIL image, a NumPy array (height, width, channels) or a tensor (channels, height, width)",
            )
        return _of_cells(image, name)

    def solid(self, level: float | Shares) -> ImageLike:
        """An image of one colour: a share, or one for every channel.

        Examples:
            >>> Pixels.of(np.zeros((1, 1, 3), np.uint8)).solid(np.array([1.0, 0.0, 0.2])).tolist()
            [[[255, 0, 51]]]
        """
        return self.like(np.broadcast_to(np.asarray(level, dtype=np.float32), self.shape).copy())


def _of_pil(image: PIL.Image.Image, name: str) -> Pixels:
    from PIL import Image

    if image.mode in _NUMBERS:
        raise InputError(
            name,
            f"mode {image.mode!r}",
            "pictures in bytes, or the numbers as an array: numpy.asarray(image)",
            "numbers whose black and white are unknown",
            verb="has",
        )
    array = np.asarray(_rgb_or_grey(image))
    return Pixels(
        _three_axes(array).shape,
        lambda: _three_axes(array).astype(np.float32) / 255,
        lambda shares: Image.fromarray(_bytes(shares).reshape(array.shape)).convert(image.mode),
    )


def _of_cells(image: AnyArray | Tensor, name: str) -> Pixels:
    cells, back = _channels_last(image)
    if cells.ndim not in (2, 3) or 0 in cells.shape or cells.dtype.kind not in "uif":
        raise InputError(
            name,
            f"shape {tuple(image.shape)} and type {image.dtype}",
            f"pictures of numbers, {_SHAPES[type(image) is np.ndarray]}; of a volume or a batch give one, "
            "image[0], or a list of them",
            verb="has",
        )
    if not np.isfinite(cells).all():
        raise InputError(name, "values that are not finite", "finite numbers", verb="holds")
    low, high = black_and_white(cells)
    return Pixels(
        _three_axes(cells).shape,
        lambda: ((_three_axes(cells) - low) / (high - low)).astype(np.float32),
        lambda shares: back(_like(shares * (high - low) + low, cells.dtype)),
    )


def plain_input(image: ImageLike, name: str = "image") -> Tensor:
    """A picture as a model's input without any preprocessing: float32 ``(1, C, H, W)``.

    Bytes are divided by 255; floats only change their axes.

    Args:
        image: As of `Pixels.of`.
        name: Name of the image in errors.

    Raises:
        InputError: Numbers whose white is unknown.

    Examples:
        >>> plain_input(np.full((4, 5, 3), 255, np.uint8)).shape
        torch.Size([1, 3, 4, 5])
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        image = np.asarray(_rgb_or_grey(image))
    cells, _ = _channels_last(image)
    if cells.dtype != np.uint8 and cells.dtype.kind != "f":
        raise InputError(
            name,
            f"type {image.dtype}",
            "without preprocess, uint8, and floats as the model takes them: image / 65535, or / 4095 for 12 "
            "bits",
            "whose white is unknown",
            verb="has",
        )
    scale = 255 if cells.dtype == np.uint8 else 1
    return torch.from_numpy(np.ascontiguousarray(_three_axes(cells).transpose(2, 0, 1)))[None].float() / scale


def _channels_last(
    image: AnyArray | Tensor,
) -> tuple[AnyArray, Callable[[AnyArray], AnyArray | Tensor]]:
    """Cells (height, width[, channels]) of an array or a tensor, and the way back.

    A tensor has its channels first and an array last. Where only the other side has 1, 3 or 4, they are there
    in an array; in a tensor of bytes they are last wherever there are so many.
    """
    if isinstance(image, Tensor):  # NumPy has no bfloat16
        inner = (image.float() if image.dtype == torch.bfloat16 else image).detach().cpu().numpy()
        inner = inner[0] if inner.ndim == 4 and len(inner) == 1 else inner
    else:
        inner = image
    first, last = (inner.ndim == 3 and inner.shape[axis] in CHANNELS for axis in (0, -1))
    bytes_last = inner.dtype == np.uint8 and last
    channels_first = inner.ndim == 3 and (not bytes_last if isinstance(image, Tensor) else first and not last)
    cells = np.moveaxis(inner, 0, -1) if channels_first else inner

    def back(made: AnyArray) -> AnyArray | Tensor:
        made = made.reshape(cells.shape)
        made = np.ascontiguousarray(np.moveaxis(made, -1, 0) if channels_first else made)
        if isinstance(image, Tensor):
            return torch.from_numpy(made).reshape(image.shape).to(image.dtype)
        return made

    return cells, back


def _like(cells: Shares, dtype: np.dtype) -> AnyArray:
    """The numbers in another type; for integers they are rounded and cut to its range."""
    if dtype.kind == "f":
        return cells.astype(dtype)
    limits = np.iinfo(dtype)
    return cells.round().clip(limits.min, limits.max).astype(dtype)


def black_and_white(cells: AnyArray) -> tuple[float, float]:
    """The values of black and white: of bytes, of shares, or else nearly the picture's own extremes.

    Examples:
        >>> black_and_white(np.zeros(3, np.uint8)), black_and_white(np.array([0.25, 0.5]))
        ((0.0, 255.0), (0.0, 1.0))
        >>> black_and_white(np.array([-1000.0, 40.0, 40.0]))
        (-979.2, 40.0)
    """
    if cells.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(cells.min()), float(cells.max())
    if cells.dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    dark, bright = (float(np.percentile(cells, share)) for share in (_DARK, _BRIGHT))
    low, high = (dark, bright) if bright > dark else (low, high)
    return (low, high) if high > low else (low, low + 1)


def _rgb_or_grey(image: PIL.Image.Image) -> PIL.Image.Image:
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _three_axes(cells: AnyArray) -> AnyArray:
    return cells[..., None] if cells.ndim == 2 else cells


def _bytes(shares: Shares) -> npt.NDArray[np.uint8]:
    return (shares.clip(0, 1) * 255).round().astype(np.uint8)
