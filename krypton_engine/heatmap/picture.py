"""The picture of a heatmap: the drop at every position, in colour, over the input in grey."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt

from krypton_engine.errors import InputError
from krypton_engine.heatmap import signal, volume
from krypton_engine.heatmap.paint import (
    COLORMAP,
    DROP,
    OPACITY,
    Legend,
    Paint,
    add_bar,
    heading,
    meaning,
    titled,
)
from krypton_engine.heatmap.shown import Scale, Shown, axes_of, drops_of, nearest
from krypton_engine.heatmap.volume import Cuts, Spacing

if TYPE_CHECKING:
    from PIL.Image import Image


class Drawing(TypedDict, total=False):
    """Arguments of `file` beside the map and its caption, each of which may be left out."""

    title: str | None
    image: object
    scale: Scale
    cmap: str
    opacity: float
    spacing: Spacing
    slices: int | None
    width: int | None


def overlay(
    shown: Shown,
    image: object = None,
    scale: Scale = None,
    cmap: str = COLORMAP,
    opacity: float = OPACITY,
    spacing: Spacing = None,
    slices: int | None = None,
) -> Image:
    """The picture that `krypton_engine.Heatmap.overlay` describes, with its arguments.

    Examples:
        >>> shown = Shown(heatmap.drop, heatmap.status, heatmap.base, heatmap.window, heatmap.image)
        >>> drawn = overlay(shown, np.zeros((24, 20), np.uint8), opacity=1.0)
        >>> drawn.size, drawn.getpixel((0, 0)), drawn.getpixel((19, 0))  # red for 0.5, bare for 0
        ((20, 24), (103, 0, 31), (0, 0, 0))
    """
    paint, cuts = Paint.of(shown, scale, cmap, opacity), _cuts(shown, spacing, slices)
    if cuts is not None:
        return volume.overlay(shown, image, paint, cuts)
    if len(axes_of(shown.window)[0]) == 1:
        return signal.overlay(shown, image, paint)
    return _overlay(shown, image, paint)


def file(
    shown: Shown,
    caption: str,
    title: str | None = None,
    image: object = None,
    *,
    scale: Scale = None,
    cmap: str = COLORMAP,
    opacity: float = OPACITY,
    spacing: Spacing = None,
    slices: int | None = None,
    legend: Legend = DROP,
    ending: str = ".png",
    width: int | None = None,
) -> bytes:
    """A picture of the input beside the overlay, with a legend, as a file.

    Args:
        shown: The map.
        caption: The map's own words.
        title: Words above; None for the caption.
        image: Picture to draw over, as for `overlay`.
        scale: Ends of the colour map.
        cmap: Name of the colour map.
        opacity: Share of the colour.
        spacing: Of a volume, as for `overlay`.
        slices: Of a volume, as for `overlay`.
        legend: Heading of the overlay, and what its colours stand for.
        ending: One of `krypton_engine.heatmap.files.PICTURES`.
        width: Pixels of a PNG's width; None for the usual one.

    Examples:
        >>> import io
        >>> from PIL import Image
        >>> shown = Shown(heatmap.drop, heatmap.status, heatmap.base, heatmap.window, heatmap.image)
        >>> content = file(shown, "a map", "A title", np.zeros((24, 20), np.uint8), scale=1.0, width=800)
        >>> Image.open(io.BytesIO(content)).format, Image.open(io.BytesIO(content)).width
        ('PNG', 800)
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    paint, cuts = Paint.of(shown, scale, cmap, opacity), _cuts(shown, spacing, slices)
    if cuts is not None:
        return titled(volume.figure(shown, image, paint, cuts, legend), caption, title, ending, width)
    if len(axes_of(shown.window)[0]) == 1:
        return titled(signal.figure(shown, image, paint, legend), caption, title, ending, width)
    drawn = _overlay(shown, image, paint)
    figure = Figure(figsize=(9.6, 4.75), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    left, right = figure.subplots(1, 2)
    left.imshow(_below(shown, image))
    left.set_title("input", fontsize=10, color="0.3")
    right.imshow(drawn)
    right.set_title(heading(shown, legend), fontsize=10, color="0.3")
    for axes in (left, right):
        axes.set_axis_off()
    add_bar(figure, [right], paint, meaning(shown, legend), aspect=28)
    return titled(figure, caption, title, ending, width)


def _cuts(shown: Shown, spacing: Spacing, slices: int | None) -> Cuts | None:
    """The slices of a volume; None of an image or a signal."""
    if len(axes_of(shown.window)[0]) == 3:
        return Cuts.of(shown, spacing, slices)
    for name, given in (("spacing", spacing), ("slices", slices)):
        if given is not None:
            raise InputError(name, repr(given), "None where the input is no volume")
    return None


def _overlay(shown: Shown, image: object, paint: Paint) -> Image:
    from PIL import Image as PILImage

    places, (drops, known) = np.ix_(*nearest(shown.window)), drops_of(shown)
    grey = np.asarray(PILImage.fromarray(_below(shown, image)).convert("L"))
    return PILImage.fromarray(paint.on(grey, drops[places], known[places]))


def _below(shown: Shown, image: object) -> npt.NDArray[np.uint8]:
    """The picture to draw over: height x width x 3."""
    from PIL import Image as PILImage

    from krypton_engine.zoo.preprocess import stretched

    axes, channels = axes_of(shown.window)
    size = tuple(shown.window.input_shape[axis] for axis in axes)
    if isinstance(image, PILImage.Image):
        image = image.convert("RGB")
    if image is not None:
        try:
            picture = np.asarray(image)
        except Exception:  # a ragged list, a tensor of another device or with a gradient
            picture = np.empty((), dtype=object)
        channels_of = picture.shape[2:] in ((), (1,), (3,), (4,))
        if picture.shape[:2] != size or not channels_of or picture.dtype.kind not in "buif":
            raise InputError(
                "image",
                f"{type(image).__name__}, {picture.shape} of {picture.dtype}",
                f"a picture of the input's height and width, {size}, grey or with 1, 3 or 4 channels",
            )
        picture = picture[..., None] if picture.ndim == 2 else picture
    else:
        if shown.image is None:
            raise InputError("image", "None", "a picture, since this map holds none to draw over")
        return stretched(shown.image.permute(*channels, *axes).reshape(-1, *size))
    picture = picture[..., :3] if picture.shape[-1] >= 3 else picture[..., :1].repeat(3, axis=-1)
    return np.ascontiguousarray(picture.astype(np.uint8))
