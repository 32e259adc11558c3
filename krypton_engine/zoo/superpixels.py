"""Superpixels: regions of a picture that hang together in place and colour."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arguments import at_least
from krypton_engine.errors import InputError

_COMPACTNESS = 10.0
"""Weight of nearness against likeness of colour: scikit-image's own."""


def slic_count(text: str) -> int | None:
    """The count of ``slic:COUNT``, as the command line and the widget take it; None for another text.

    Examples:
        >>> slic_count("slic:80"), slic_count("slic:0"), slic_count("slic")
        (80, None, None)
    """
    word, _, count = text.partition(":")
    return int(count) if word == "slic" and count.isdecimal() and int(count) else None


def superpixels(picture: object, count: int = 100) -> Tensor:
    """Superpixels of a picture by SLIC (Achanta et al., 2012), for ``regions=`` and ``feature_mask=``.

    Args:
        picture: uint8 array or PIL image, height x width [x channels], of the size of the model's input.
        count: About as many superpixels as are wanted.

    Returns:
        The superpixel of every pixel, from 0 on: int64 ``(height, width)``.

    Raises:
        InputError: No picture, or a count below 1.

    Examples:
        >>> picture = np.zeros((24, 20, 3), np.uint8)
        >>> picture[:, 10:] = 255
        >>> mask = superpixels(picture, count=4)
        >>> mask.shape, bool((mask[:, 0] == mask[:, -1]).any())
        (torch.Size([24, 20]), False)
    """
    from skimage.segmentation import slic

    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        given = f"{type(picture).__name__}, {pixels.shape} of {pixels.dtype}"
        raise InputError("picture", given, "a picture of 8 bits, height x width [x channels]")
    at_least(1, "count", count)
    colours = pixels[..., None] if pixels.ndim == 2 else pixels
    colours = colours[..., :3] if colours.shape[-1] >= 3 else colours[..., :1].repeat(3, axis=-1)
    numbers = slic(colours, n_segments=count, compactness=_COMPACTNESS, start_label=0)
    return torch.from_numpy(np.asarray(numbers, dtype=np.int64))
