"""From the user's picture to the model's input and back; patch colours."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
Pixels = npt.NDArray[np.uint8]
Preprocess = Callable[[Any], Tensor]

BASELINES = ("grey", "black", "mean", "blur")
"""Patch colours: what covers the window, chosen in the picture and then preprocessed as the picture is."""

_BLUR = 1 / 16
"""Width of the blur, of the picture's longer side: nothing the size of a usual patch survives it."""

_LARGEST_BLURRED = 512
"""Pixels along a side from which a picture is made smaller to be blurred."""

_CHANNELS = (1, 3, 4)
"""Numbers of channels by which an axis is known for theirs."""

_SHAPES = {True: "(height, width[, channels])", False: "([1,] channels, height, width)"}
"""Of an array, and of a tensor."""

_NUMBERS = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""PIL's modes of more than bytes, which its own conversion cuts at 255."""

_DARK, _BRIGHT = 1, 99
"""Percentiles that are black and white of numbers without a range of their own, such as Hounsfield units: a
few cells of metal or air do not decide what grey is."""

_AFFINE = 0.02
"""Share of the range by which a preprocessed grey may miss the middle of black and white."""


@dataclass
class ModelInput:
    """A picture as the model sees it.

    Args:
        image: PIL image, NumPy array (height, width[, channels]) or tensor ([1,] channels, height, width);
            an array of 1, 3 or 4 channels may have them first too, and bytes of a tensor last.
        preprocess: From an image of the same kind to a tensor; None for the plain conversion.
        name: How errors call the image.

    Attributes:
        x: The model's input, ``(1, C, H, W)``.
        picture: The same as an RGB picture, uint8 ``(H, W, 3)``.

    Raises:
        InputError: The image is none, or ``preprocess`` does not make an input of it.
    """

    image: Any
    preprocess: Preprocess | None
    name: str = "image"
    x: Tensor = field(init=False)
    picture: Pixels = field(init=False)

    def __post_init__(self) -> None:
        self._pixels = _Pixels.of(self.image, self.name)
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
        """What to do where the model takes no such input."""
        height, width, channels = self._pixels.shape
        volume = "" if channels <= max(_CHANNELS) else "; of a volume give one slice, or a list of them"
        return (
            f"The image was read as {height} x {width} (height x width) of {channels} channels{volume}; "
            f"preprocess= makes of an image what the model takes: its size, channels and range"
        )

    def patch(self, baseline: str) -> Tensor:
        """What covers a window: ``(1, C, H, W)``, the cells of a whole picture of that colour."""
        if baseline not in self._patches:
            self._patches[baseline] = self._prepared(self._pixels.covered(baseline))
        return self._patches[baseline]

    def seen(self, x: Tensor) -> Pixels:
        """A model's input as an RGB picture, uint8 ``(H, W, 3)``."""
        low, high = (self._black, self._white) if self._affine else (self.x.min(), self.x.max())
        span = high - low
        shares = torch.where(span == 0, 0.0, (x - low) / torch.where(span == 0, 1.0, span))[0].double()
        colours = shares[:3] if len(shares) >= 3 else shares[:1].expand(3, -1, -1)
        pixels: Pixels = (colours.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).numpy()
        return np.ascontiguousarray(pixels)

    def _solid(self, level: float) -> Tensor:
        return self._prepared(self._pixels.solid(level))

    def _prepared(self, image: Any) -> Tensor:
        if self.preprocess is None:
            return _plain(image, self.name)
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


@dataclass(frozen=True)
class _Pixels:
    """A picture as shares of its range, ``(height, width, channels)``, and the way back to its kind.

    Attributes:
        shape: Height, width, channels.
        shares: Makes the shares: 0 is the picture's black, 1 its white. Not kept: photographs are large.
        like: From shares to an image of the kind that was given.
    """

    shape: tuple[int, ...]
    shares: Callable[[], Floats]
    like: Callable[[Floats], Any]

    @staticmethod
    def of(image: Any, name: str) -> _Pixels:
        from PIL import Image

        if isinstance(image, Image.Image):
            if image.mode in _NUMBERS:
                raise InputError(
                    name,
                    f"mode {image.mode!r}",
                    "pictures in bytes, or the numbers as an array: numpy.asarray(image)",
                    "numbers without black and white",
                    verb="has",
                )
            array = np.asarray(_rgb_or_grey(image))
            return _Pixels(
                _three_axes(array).shape,
                lambda: _three_axes(array).astype(np.float32) / 255,
                lambda shares: Image.fromarray(_bytes(shares).reshape(array.shape)).convert(image.mode),
            )
        if not isinstance(image, (np.ndarray, Tensor)):
            raise InputError(
                name,
                type(image).__name__,
                "a PIL image, a NumPy array (height, width, channels) or a tensor (channels, height, width)",
            )
        cells, back = _channels_last(image)
        if cells.ndim not in (2, 3) or 0 in cells.shape or cells.dtype.kind not in "uif":
            raise InputError(
                name,
                f"shape {tuple(image.shape)} and type {image.dtype}",
                f"pictures of numbers, {_SHAPES[type(image) is np.ndarray]}; of a volume or a batch give "
                "one, image[0], or a list of them",
                verb="has",
            )
        if not np.isfinite(cells).all():
            raise InputError(name, "values that are not finite", "finite numbers", verb="holds")
        low, high = _range(cells)
        return _Pixels(
            _three_axes(cells).shape,
            lambda: ((_three_axes(cells) - low) / (high - low)).astype(np.float32),
            lambda shares: back(_like(shares * (high - low) + low, cells.dtype)),
        )

    def solid(self, colour: Any) -> Any:
        """An image of one colour: a share, or one for every channel."""
        return self.like(np.broadcast_to(np.asarray(colour, dtype=np.float32), self.shape).copy())

    def covered(self, baseline: str) -> Any:
        """An image in the colour of a patch, all over."""
        if baseline == "grey":
            return self.solid(0.5)
        if baseline == "black":
            return self.solid(0.0)
        if baseline == "mean":
            return self.solid(self.shares().mean((0, 1), dtype=np.float64))
        return self.like(_blurred(self.shares()))


def _blurred(shares: Floats) -> Floats:
    """The picture without anything the size of a patch; large ones by way of a small one."""
    from skimage.filters import gaussian
    from skimage.transform import resize

    every = max(1, max(shares.shape[:2]) // _LARGEST_BLURRED)
    small = shares[::every, ::every]
    small = gaussian(small, sigma=max(small.shape[:2]) * _BLUR, channel_axis=-1)
    blurred: Floats = small if every == 1 else resize(small, shares.shape).astype(np.float32)
    return blurred


def _plain(image: Any, name: str) -> Tensor:
    """uint8 height x width x channels -> float NCHW / 255; floats only change their axes."""
    from PIL import Image

    if isinstance(image, Image.Image):
        image = np.asarray(_rgb_or_grey(image))
    cells, _ = _channels_last(image)
    if cells.dtype != np.uint8 and cells.dtype.kind != "f":
        raise InputError(
            name,
            f"type {image.dtype}",
            "without preprocess, uint8, and floats as the model takes them: image / 65535, or / 4095 for "
            "12 bits",
            "of which nobody knows what is white",
            verb="has",
        )
    scale = 255 if cells.dtype == np.uint8 else 1
    return torch.from_numpy(np.ascontiguousarray(_three_axes(cells).transpose(2, 0, 1)))[None].float() / scale


def _channels_last(
    image: npt.NDArray[Any] | Tensor,
) -> tuple[npt.NDArray[Any], Callable[[npt.NDArray[Any]], Any]]:
    """Cells (height, width[, channels]) of an array or a tensor, and the way back.

    A tensor has its channels first and an array last. Where only the other side has 1, 3 or 4, they are there
    in an array; in a tensor of bytes they are last wherever there are so many.
    """
    if isinstance(image, Tensor):  # NumPy has no bfloat16
        inner = (image.float() if image.dtype == torch.bfloat16 else image).detach().cpu().numpy()
        inner = inner[0] if inner.ndim == 4 and len(inner) == 1 else inner
    else:
        inner = image
    first, last = (inner.ndim == 3 and inner.shape[axis] in _CHANNELS for axis in (0, -1))
    bytes_last = inner.dtype == np.uint8 and last
    channels_first = inner.ndim == 3 and (not bytes_last if isinstance(image, Tensor) else first and not last)
    cells = np.moveaxis(inner, 0, -1) if channels_first else inner

    def back(made: npt.NDArray[Any]) -> Any:
        made = made.reshape(cells.shape)
        made = np.ascontiguousarray(np.moveaxis(made, -1, 0) if channels_first else made)
        if isinstance(image, Tensor):
            return torch.from_numpy(made).reshape(image.shape).to(image.dtype)
        return made

    return cells, back


def _like(cells: Floats, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Numbers of a type; whole ones are rounded and stay in its range."""
    if dtype.kind == "f":
        return cells.astype(dtype)
    limits = np.iinfo(dtype)
    return cells.round().clip(limits.min, limits.max).astype(dtype)


def _range(cells: npt.NDArray[Any]) -> tuple[float, float]:
    """The values of black and white: of bytes, of shares, or else nearly the picture's own extremes."""
    if cells.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(cells.min()), float(cells.max())
    if cells.dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    dark, bright = (float(np.percentile(cells, share)) for share in (_DARK, _BRIGHT))
    low, high = (dark, bright) if bright > dark else (low, high)
    return (low, high) if high > low else (low, low + 1)


def _rgb_or_grey(image: Any) -> Any:
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _three_axes(cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return cells[..., None] if cells.ndim == 2 else cells


def _bytes(shares: Floats) -> Pixels:
    return (shares.clip(0, 1) * 255).round().astype(np.uint8)


def png(pixels: Pixels, largest: int | None = None) -> bytes:
    """A picture as a PNG file, shrunk to ``largest`` pixels on its longer side."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if largest is not None:
        image.thumbnail((largest, largest))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def thumbnail(image: Any, largest: int = 96) -> bytes:
    """A small PNG of what was given; empty where it is no image, which is told when it is picked."""
    from PIL import Image

    try:
        if isinstance(image, Image.Image):
            small = image.copy()
            small.thumbnail((largest, largest))
            return png(np.asarray(small.convert("RGB")))
        return png(ModelInput(image, None).picture, largest)
    except InputError:
        return b""
