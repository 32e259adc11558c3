"""A user's picture as the model's input, and back; colours and small pictures for the page."""

from __future__ import annotations

import io
from dataclasses import InitVar, dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.errors import InputError
from krypton_engine.heatmap.picture import Drawing
from krypton_engine.zoo.patches import covered
from krypton_engine.zoo.pixels import (
    CHANNELS,
    ImageLike,
    Pixels,
    Shares,
    ToInput,
    black_and_white,
    plain_input,
)
from krypton_engine.zoo.preprocess import rgb
from krypton_widget import sharp
from krypton_widget.coded import coded
from krypton_widget.maps import Sent, sizes_in_words

Picture = npt.NDArray[np.uint8]
"""RGB: height x width x 3."""

COLORMAPS = ("coolwarm", "RdBu_r", "PuOr_r", "berlin", "vanimo")
"""Colour maps that the page offers, diverging; any of Matplotlib's may be set."""

_INPUTS = "(channels, height, width), (channels, depth, height, width) or (channels, length)"
"""Shapes of inputs."""

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
        made: What ``preprocess`` made of the image, where that is known already.

    Attributes:
        x: The model's input, ``(1, C, H, W)``.
        picture: The same as an RGB picture, uint8 ``(H, W, 3)``.

    Raises:
        InputError: The image is none, or ``preprocess`` does not make an input of it.
    """

    image: ImageLike
    preprocess: ToInput | None
    name: str = "image"
    made: InitVar[Tensor | None] = None
    x: Tensor = field(init=False)
    picture: Picture = field(init=False)

    def __post_init__(self, made: Tensor | None) -> None:
        self._pixels = Pixels.of(self.image, self.name)
        self.x = self._prepared(self.image) if made is None else self._picture(made)
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
        *sizes, channels = self._pixels.shape
        volume = "" if channels <= max(CHANNELS) else "; of a volume give one slice, or a list of them"
        return (
            f"The image was read as {sizes_in_words(sizes)} of {channels} channels{volume}; "
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

    @cached_property
    def part(self) -> sharp.Part | None:
        """The part of the picture that the model sees; None where it is not only cropped and resized.

        Examples:
            >>> ModelInput(np.zeros((24, 20, 3), np.uint8), None).part
            (0.0, 0.0, 1.0, 1.0)
        """
        if self.preprocess is None:
            return 0.0, 0.0, 1.0, 1.0
        black, span = self._black, self._white - self._black

        def undone(shares: Shares) -> Shares:
            x = self._prepared(self._pixels.like(shares))
            cells = torch.where(span == 0, 0.0, (x - black) / torch.where(span == 0, 1.0, span))
            return cells[0].mean(0).float().numpy()

        return sharp.part_seen(self._pixels, undone) if self._affine else None

    @cached_property
    def detail(self) -> bytes | None:
        """The picture sharper than the model sees it, as a JPEG; None where there is no such thing.

        Examples:
            >>> ModelInput(np.zeros((24, 20, 3), np.uint8), None).detail
        """
        height, width = self.x.shape[2:]
        found = None if self.preprocess is None else self.part
        return None if found is None else sharp.sharper(self._pixels, found, (height, width))

    def to_page(self) -> Sent:
        """The numbers of a grey picture that has more than 256 of them; a page has all else in its view.

        Examples:
            >>> ModelInput(np.zeros((24, 20, 3), np.uint8), None).to_page()
            {}
            >>> sent = ModelInput(np.array([[0, 300], [600, 900]], np.uint16) / 1000, None).to_page()
            >>> sent["sizes"], sent["levels"], round(sent["high"], 3)
            ([2, 2], [0.0, 1.0], 0.9)
        """
        numbers = np.asarray(self.image) if isinstance(self.image, (np.ndarray, Tensor)) else None
        if numbers is None or numbers.dtype == np.uint8 or self._pixels.shape[2] != 1 or self.part is None:
            return {}
        height, width = self._pixels.shape[:2]
        grey = numbers.reshape(height, width)
        seen = torch.from_numpy(
            np.ascontiguousarray(grey[sharp.cells_of(self.part, height, width)], np.float32)
        )
        return {**coded(seen[None]), "levels": list(black_and_white(grey)), "affine": None}

    def drawing(self) -> Drawing:
        """The arguments of `krypton_engine.Heatmap.overlay` that put a map over this picture.

        Examples:
            >>> ModelInput(np.zeros((24, 20, 3), np.uint8), None).drawing()["image"].shape
            (24, 20, 3)
        """
        return {"image": self.picture}

    def _prepared(self, image: ImageLike) -> Tensor:
        if self.preprocess is None:
            return plain_input(image, self.name)
        return self._picture(prepared(image, self.preprocess, self.name))

    @staticmethod
    def _picture(x: Tensor) -> Tensor:
        x = x[None] if x.ndim == 3 else x
        if x.ndim != 4 or x.shape[0] != 1:
            raise InputError("preprocess", f"shape {tuple(x.shape)}", _INPUTS, verb="returns")
        return x


def prepared(image: object, preprocess: ToInput, name: str) -> Tensor:
    """What a user's function makes of an image: a float tensor with cells.

    Raises:
        InputError: The function raises, or returns anything else.

    Examples:
        >>> prepared(np.ones((1, 9)), torch.from_numpy, "image").shape
        torch.Size([1, 9])
    """
    try:
        x = preprocess(image)
    except Exception as error:
        raise InputError(f"{name}: preprocess", f"{type(error).__name__}: {error}", verb="raised") from error
    if not isinstance(x, Tensor) or not x.is_floating_point():
        given = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InputError("preprocess", f"{given}", f"a float tensor {_INPUTS}", verb="returns")
    if 0 in x.shape or not 2 <= x.ndim <= 5:
        raise InputError("preprocess", f"shape {tuple(x.shape)}", _INPUTS, verb="returns")
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
