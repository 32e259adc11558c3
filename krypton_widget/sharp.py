"""The original picture where it is sharper than the model's input: the part of it that the model sees."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from krypton_engine.zoo.pixels import Pixels, Shares

LONGEST = 2048
"""Pixels of the longer side of a picture that a page is sent, at most."""

_SHARPER = 1.25
"""Pixels of the original for each of the input from which the original is sent."""

_STRAIGHT = 0.02
"""Share of a side by which a preprocessed ramp may miss a straight line."""

Part = tuple[float, float, float, float]
"""Top, left, bottom and right, as shares of a picture's height and width."""


def part_seen(pixels: Pixels, undone: Callable[[Shares], Shares]) -> Part | None:
    """The part of a picture that becomes the model's input, where resizing and cropping is all that happens.

    A ramp from black to white along an axis is preprocessed: what comes out says where each row, or column,
    comes from.

    Args:
        pixels: The picture.
        undone: Function from shares of the picture's shape to the preprocessed input as shares between black
            and white, height x width.

    Returns:
        The part; None where the input is turned, bent or padded.

    Examples:
        >>> pixels = Pixels.of(np.zeros((100, 200, 3), np.uint8))
        >>> part_seen(pixels, lambda shares: shares[:, 50:150, 0])  # cropped
        (0.0, 0.25, 1.0, 0.75)
        >>> part_seen(pixels, lambda shares: shares[:, ::-1, 0])  # turned round
    """
    ends = []
    for axis in (0, 1):
        size = pixels.shape[axis]
        ramp = ((np.arange(size, dtype=np.float32) + 0.5) / size).reshape(
            (-1, 1, 1) if axis == 0 else (1, -1, 1)
        )
        found = undone(np.broadcast_to(ramp, pixels.shape))
        line = found.mean(1 - axis)
        count = len(line)
        if count < 2 or not np.isfinite(found).all():
            return None
        inner = slice(count // 10, count - count // 10)
        places = np.arange(count) + 0.5
        slope, first = np.polyfit(places[inner], line[inner], 1)
        straight = np.abs(found - np.expand_dims(first + slope * places, 1 - axis)).max() < _STRAIGHT
        begin, end = first, first + slope * count
        if not straight or slope <= 0 or begin < -_STRAIGHT or end > 1 + _STRAIGHT:
            return None
        ends.append((round(max(0.0, float(begin)), 6), round(min(1.0, float(end)), 6)))
    (top, bottom), (left, right) = ends
    return top, left, bottom, right


def cells_of(part: Part, height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of a part of a picture.

    Examples:
        >>> cells_of((0.0, 0.25, 1.0, 0.75), 100, 200)
        (slice(0, 100, None), slice(50, 150, None))
    """
    top, left, bottom, right = part
    return slice(round(top * height), round(bottom * height)), slice(
        round(left * width), round(right * width)
    )


def sharper(pixels: Pixels, part: Part, seen: tuple[int, int]) -> bytes | None:
    """The part of a picture as a JPEG of bounded size; None where that is hardly sharper than what is seen.

    Args:
        pixels: The picture.
        part: The part of it.
        seen: Height and width of the model's input.

    Examples:
        >>> from PIL import Image
        >>> pixels = Pixels.of(np.zeros((100, 200, 3), np.uint8))
        >>> Image.open(io.BytesIO(sharper(pixels, (0.0, 0.25, 1.0, 0.75), (50, 50)))).size
        (100, 100)
        >>> sharper(pixels, (0.0, 0.25, 1.0, 0.75), (100, 100))
    """
    from PIL import Image

    rows, columns = cells_of(part, *pixels.shape[:2])
    if max((rows.stop - rows.start) / seen[0], (columns.stop - columns.start) / seen[1]) < _SHARPER:
        return None
    shares = pixels.shares()[rows, columns, :3]
    coloured = shares if shares.shape[2] == 3 else shares[..., :1].repeat(3, axis=2)
    cells: npt.NDArray[np.uint8] = (coloured.clip(0, 1) * 255).round().astype(np.uint8)
    image = Image.fromarray(cells)
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
