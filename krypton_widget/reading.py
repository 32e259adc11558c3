"""What a user gives as an image: a picture, a volume or a signal, as the model's answer tells them apart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import AnyArray
from krypton_engine.errors import InputError
from krypton_engine.medical import Scan, read_scan
from krypton_engine.medical.plain import is_meta_tensor
from krypton_engine.zoo.pixels import CHANNELS, ImageLike, ToInput
from krypton_widget.fields import Field
from krypton_widget.pictures import ModelInput, png, prepared

UserImage: TypeAlias = "ImageLike | Scan"
"""An image as users have it."""

Input: TypeAlias = ModelInput | Field
"""An image as the model sees it."""


def readings(image: UserImage, preprocess: ToInput | None, name: str = "image") -> list[Callable[[], Input]]:
    """The ways to read what a user gives, the likeliest first.

    A number of axes may mean several things: ``(1, 40, 64, 64)`` a batch of one picture of 40 channels, or a
    volume of one channel. The first reading to which the model gives an answer is the right one.

    Args:
        image: PIL image, array or tensor, or a `Scan`.
        preprocess: Function from such an image to a tensor; None for the plain conversion.
        name: Name of the image in errors.

    Raises:
        InputError: ``preprocess`` does not make an input.

    Examples:
        >>> [type(read()).__name__ for read in readings(torch.rand(1, 9, 24, 20), None)]
        ['ModelInput', 'Field']
        >>> readings(torch.rand(2, 40), None)[1]().x.shape, len(readings(torch.rand(3, 24, 20), None))
        (torch.Size([1, 2, 40]), 1)
    """
    if isinstance(image, Scan) and image.is_picture:
        return readings(image.tensor, preprocess, name)
    if isinstance(image, Scan) and preprocess is None:
        scan = image
        return [lambda: Field(scan.tensor[None], name, scan.geometry, scan.levels)]
    made = None if preprocess is None else prepared(image, preprocess, name)
    cells = image if made is None else made

    def picture() -> Input:
        return ModelInput(image, preprocess, name, made)  # type: ignore[arg-type]

    if not isinstance(cells, (np.ndarray, Tensor)):
        return [picture]
    geometry = image.geometry if isinstance(image, Scan) else None
    if is_meta_tensor(cells) and cells.ndim == 4:
        placed = read_scan(cells)
        return [lambda: Field(placed.tensor[None], name, placed.geometry)]

    def field(shape: tuple[int, ...]) -> Input:
        fits = geometry is not None and geometry.shape == shape[2:]
        return Field(_numbers(cells, name).reshape(shape), name, geometry if fits else None)

    shape = tuple(cells.shape)
    fields = [partial(field, each) for each in _shapes(shape, made is not None)]
    batch = shape[:1] == (1,) and isinstance(cells, Tensor)
    axes = (3, 4) if batch else (3,)
    may_be_picture = cells.ndim in (axes if made is not None else (2, *axes))
    return [picture, *fields] if may_be_picture or not fields else list(fields)


def _shapes(shape: tuple[int, ...], made: bool) -> list[tuple[int, ...]]:
    """The shapes ``(1, C, ...)`` of volumes and signals that cells of a shape may be."""
    if 0 in shape:
        return []
    alone = len(shape) > 2 and shape[0] == 1  # a batch of one
    if len(shape) == 2:
        return [(1, *shape)]
    if len(shape) == 3:
        known = made or shape[0] in CHANNELS or shape[-1] in CHANNELS  # as channels of a picture
        return ([shape] if alone else []) + ([] if known else [(1, 1, *shape)])
    if len(shape) == 4:
        return [(1, *shape)]
    return [shape] if len(shape) == 5 and alone else []


def _numbers(cells: AnyArray | Tensor, name: str) -> Tensor:
    """Numbers as the model takes them: bytes as shares of 255, floats as they are."""
    found = (
        torch.as_tensor(np.ascontiguousarray(cells) if isinstance(cells, np.ndarray) else cells)
        .detach()
        .cpu()
    )
    if found.dtype != torch.uint8 and not found.is_floating_point():
        raise InputError(
            name,
            f"type {cells.dtype}",
            "without preprocess, uint8, floats as the model takes them, and scans",
            "whose white is unknown",
            verb="has",
        )
    return found.float() / 255 if found.dtype == torch.uint8 else found.float()


def thumbnail(image: UserImage, axes: int, largest: int = 96) -> bytes:
    """A small PNG of an image; empty for anything else, which an error reports once it is picked.

    Args:
        image: The image.
        axes: Number of axes of other images that the model takes: what may be two things is such a one.
        largest: Pixels of the longer side at most.

    Examples:
        >>> import io
        >>> from PIL import Image
        >>> small = thumbnail(np.zeros((192, 96, 3), np.uint8), axes=2)
        >>> Image.open(io.BytesIO(small)).size, thumbnail("no image", axes=2)
        ((48, 96), b'')
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        small = image.copy()
        small.thumbnail((largest, largest))
        return png(np.asarray(small.convert("RGB")))
    found: list[Input] = []
    for read in readings(image, None):
        with contextlib.suppress(InputError):
            found.append(read())
    found.sort(key=lambda given: given.x.ndim - 2 != axes)
    return png(found[0].picture, largest) if found else b""
