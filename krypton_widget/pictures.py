"""A user's picture as the model's input, and back; colours and small pictures for the page."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.errors import InputError
from krypton_engine.zoo.patches import covered
from krypton_engine.zoo.pixels import CHANNELS, ImageLike, Pixels, ToInput, plain_input
from krypton_engine.zoo.preprocess import rgb

Picture = npt.NDArray[np.uint8]
"""RGB: height x width x 3."""

COLORMAPS = ("coolwarm", "RdBu_r", "PuOr_r", "berlin", "vanimo")
"""Colour maps that the page offers, diverging; any of Matplotlib's may be set."""

_AFFINE = 0.02
"""Share of the range by which a preprocessed grey may miss the middle of black and white."""


@dataclass
class ModelInput:
    """A picture as the model sees it.

    Args:
        image: PIL image, NumPy array (height, width[, channels]) or tensor ([1,] channels, height, width);
            an array of 1, 3 or 4 channels may have them first too, and bytes of a tensor last.
        preprocess: Function from an image of the same kind to a tensor; None for the plain conversion.
        name: Name of the image in errors.

    Attributes:
        x: The model's input, ``(1, C, H, W)``.
        picture: The same as an RGB picture, uint8 ``(H, W, 3)``.

    Raises:
        InputError: The image is none, or ``preprocess`` does not make an input of it.
    """

    image: ImageLike
    preprocess: ToInput | None
    name: str = "image"
    x: Tensor = field(init=False)
    picture: Picture = field(init=False)

    def __post_init__(self) -> None:
        self._pixels = Pixels.of(self.image, self.name)
        self.x = self._prepared(self.image)
        self._black, self._white = (self._solid(level) for level in (0.0, 1.0))
        middle = (self._black + self._white) / 2
        span = (self._white - self._black).abs().amax().clamp_min(1e-12)
        # A pipeline that resizes and normalises maps colours affinely, and is undone exactly; another one
        # is shown between its own extremes.
        self._affine = bool(((self._solid(0.5) - middle).abs() / span).amax() < _AFFINE)
        self.picture = self.seen(self.x)
        self._patches: dict[str, Tensor] = {}

    @property
    def remedy(self) -> str:
        """Advice for a user whose model refuses the input.

        Examples:
            >>> ModelInput(np.zeros((24, 20, 3), np.uint8), None).remedy
            'The image was read as 24 x 20 (height x width) of 3 channels; ...'
        """
        height, width, channels = self._pixels.shape
        volume = "" if channels <= max(CHANNELS) else "; of a volume give one slice, or a list of them"
        return (
            f"The image was read as {height} x {width} (height x width) of {channels} channels{volume}; "
            f"preprocess= makes of an image what the model takes: its size, channels and range"
        )

    def patch(self, baseline: str) -> Tensor:
        """The covering of all windows: ``(1, C, H, W)``, the cells of a whole picture of that colour.

        Examples:
            >>> given = ModelInput(np.zeros((24, 20, 3), np.uint8), None)
            >>> given.patch("black").shape, float(given.patch("black").max())
            (torch.Size([1, 3, 24, 20]), 0.0)
        """
        if baseline not in self._patches:
            self._patches[baseline] = self._prepared(covered(self._pixels, baseline))
        return self._patches[baseline]

    def seen(self, x: Tensor) -> Picture:
        """Cells of a model's input as an RGB picture, uint8 ``(H, W, 3)``.

        Examples:
            >>> given = ModelInput(np.full((1, 1, 3), 51, np.uint8), None)
            >>> given.seen(given.x).tolist(), given.seen(torch.ones(1, 3, 1, 1)).tolist()
            ([[[51, 51, 51]]], [[[255, 255, 255]]])
        """
        low, high = (self._black, self._white) if self._affine else (self.x.min(), self.x.max())
        if x.shape != self.x.shape:  # no picture, but parts of some, side by side
            low, high = (end[..., :1, :1] if end.ndim else end for end in (low, high))
        span = high - low
        return rgb(torch.where(span == 0, 0.0, (x - low) / torch.where(span == 0, 1.0, span))[0])

    def _solid(self, level: float) -> Tensor:
        return self._prepared(self._pixels.solid(level))

    def _prepared(self, image: ImageLike) -> Tensor:
        if self.preprocess is None:
            return plain_input(image, self.name)
        try:
            x = self.preprocess(image)
        except Exception as error:
            raise InputError(
                f"{self.name}: preprocess", f"{type(error).__name__}: {error}", verb="raised"
            ) from error
        if not isinstance(x, Tensor) or not x.is_floating_point():
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                "preprocess", f"{given}", "a float tensor (channels, height, width)", verb="returns"
            )
        x = x[None] if x.ndim == 3 else x
        if x.ndim != 4 or x.shape[0] != 1 or 0 in x.shape:
            raise InputError(
                "preprocess",
                f"shape {tuple(x.shape)}",
                "(channels, height, width): of a volume the explorer shows one slice, and "
                "KryptonOcclusion.heatmap explains all of it",
                verb="returns",
            )
        return x.detach().cpu()


def png(pixels: Picture, largest: int | None = None) -> bytes:
    """A picture as a PNG file, shrunk to ``largest`` pixels on its longer side.

    Examples:
        >>> from PIL import Image
        >>> Image.open(io.BytesIO(png(np.zeros((40, 20, 3), np.uint8), largest=10))).size
        (5, 10)
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    if largest is not None:
        image.thumbnail((largest, largest))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def thumbnail(image: ImageLike, largest: int = 96) -> bytes:
    """A small PNG of an image; empty for anything else, which an error reports once it is picked.

    Examples:
        >>> from PIL import Image
        >>> Image.open(io.BytesIO(thumbnail(np.zeros((192, 96, 3), np.uint8)))).size, thumbnail("no image")
        ((48, 96), b'')
    """
    from PIL import Image

    try:
        if isinstance(image, Image.Image):
            small = image.copy()
            small.thumbnail((largest, largest))
            return png(np.asarray(small.convert("RGB")))
        return png(ModelInput(image, None).picture, largest)
    except InputError:
        return b""


def colour_table(name: str) -> bytes:
    r"""256 colours, three bytes each, of one of Matplotlib's maps.

    Raises:
        InputError: Matplotlib has no such map.

    Examples:
        >>> table = colour_table("gray")
        >>> len(table), table[:3], table[-3:]
        (768, b'\x00\x00\x00', b'\xff\xff\xff')
    """
    from matplotlib import colormaps

    if name not in colormaps:
        raise InputError("colormap", repr(name), f"Matplotlib's, such as {COLORMAPS[0]!r}")
    colours = colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255
    return bytes(colours.round().astype(np.uint8).tobytes())
