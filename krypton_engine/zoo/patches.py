"""Colours of patches, chosen in the picture and then preprocessed as the picture is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from torch import Tensor

from krypton_engine.errors import InputError
from krypton_engine.zoo.pixels import ImageLike, Pixels, Shares, ToInput, plain_input

_BLUR = 1 / 16
"""Width of the blur, of the picture's longer side: nothing the size of a usual patch survives it."""

_LARGEST_BLURRED = 512
"""Pixels along a side from which a picture is made smaller to be blurred."""


def patch(image: ImageLike, colour: str, preprocess: ToInput | None = None) -> Tensor:
    """A baseline for `KryptonOcclusion`: a patch's colour all over a picture, as a model's input.

    The command line and the widget cover windows with the same numbers, so that a tuning made with this
    baseline serves them too.

    Args:
        image: PIL image, NumPy array (height, width[, channels]) or tensor ([1,] channels, height, width).
        colour: ``"grey"`` (the middle between black and white), ``"black"``, ``"mean"`` (of the whole
            picture, by channel) or ``"blur"`` (the picture, blurred). Only grey and black are the same for
            all pictures.
        preprocess: From an image of the same kind to the model's input ``([1,] C, H, W)``; None for
            bytes / 255.

    Returns:
        Float tensor ``(1, C, H, W)``, in the units of the model's input.

    Raises:
        InputError: No such colour, or no picture.

    Examples:
        >>> patch(np.zeros((4, 5, 3), np.uint8), "grey")[0, :, 0, 0]
        tensor([0.5020, 0.5020, 0.5020])
    """
    covering = covered(Pixels.of(image), colour)
    x = plain_input(covering) if preprocess is None else preprocess(covering)
    return x[None] if x.ndim == 3 else x


def covered(pixels: Pixels, colour: str) -> ImageLike:
    """An image of the same kind in the colour of a patch, all over.

    Raises:
        InputError: No such colour.

    Examples:
        >>> covered(Pixels.of(np.zeros((2, 2, 3), np.uint8)), "grey")[0, 0].tolist()
        [128, 128, 128]
    """
    if colour not in COLOURS:
        raise InputError("colour", repr(colour), ", ".join(map(repr, COLOURS)))
    return COLOURS[colour](pixels)


def _mean(pixels: Pixels) -> ImageLike:
    return pixels.solid(pixels.shares().mean((0, 1), dtype=np.float64))


def _blurred(pixels: Pixels) -> ImageLike:
    """The picture without anything the size of a patch; large ones by way of a small one."""
    from skimage import filters, transform

    gaussian: Callable[..., Shares] = filters.gaussian
    resize: Callable[..., Shares] = transform.resize
    shares = pixels.shares()
    every = max(1, max(shares.shape[:2]) // _LARGEST_BLURRED)
    small = shares[::every, ::every]
    small = gaussian(small, sigma=max(small.shape[:2]) * _BLUR, channel_axis=-1)
    blurred: Shares = small if every == 1 else resize(small, shares.shape).astype(np.float32)
    return pixels.like(blurred)


Colour = Literal["grey", "black", "mean", "blur"]

COLOURS: dict[Colour, Callable[[Pixels], ImageLike]] = {
    "grey": lambda pixels: pixels.solid(0.5),
    "black": lambda pixels: pixels.solid(0.0),
    "mean": _mean,
    "blur": _blurred,
}
"""Functions from a picture's pixels to an image of the same kind in the patch's colour, by its name."""
