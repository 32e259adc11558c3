"""The picture of a heatmap: the drop at every position, in colour, over the image in grey."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt
from torch import Tensor

from krypton_engine.common import files
from krypton_engine.common.arguments import real
from krypton_engine.common.arrays import AnyArray, Flags, Floats
from krypton_engine.common.figures import figure as figure_of
from krypton_engine.common.figures import figures
from krypton_engine.errors import InputError
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import as_sliding

if TYPE_CHECKING:
    from PIL.Image import Image

Scale = tuple[float, float] | float | None
"""Drops at the two ends of a colour map, or one number for both signs; None for the largest drop."""

COLORMAP = "RdBu_r"
"""Red where occluding lowers the target."""

OPACITY = 0.85
"""Share of the colour in a picture, at the ends of the scale."""

DROP = "drop when occluded", "f(x) - f(x occluded)"
"""Words of an occlusion map."""

_NARROWEST_STRIPE = 2
"""Width in pixels of the stripes that mark a number which is not finite, in a small picture."""

_STRIPES = 112
"""Stripes along the longer side of a large picture, where narrower ones would run into one grey."""


@dataclass(frozen=True, eq=False)
class Shown:
    """The part of a heatmap that pictures show.

    Attributes:
        drop: Loss of the target at every position, on the grid.
        status: The origin of each value: uint8 of `krypton_engine.heatmap.status.Status`, on the grid.
        base: The target's output for the un-occluded input.
        window: The positions.
        image: The un-occluded input without its batch dimension; None where the map holds none.
    """

    drop: Tensor
    status: Tensor
    base: Tensor
    window: Positions
    image: Tensor | None


class Drawing(TypedDict, total=False):
    """Arguments of `png` beside the map and its caption, each of which may be left out."""

    title: str | None
    image: object
    scale: Scale
    cmap: str
    opacity: float


def overlay(shown: Shown, image: object, scale: Scale, cmap: str, opacity: float) -> Image:
    """The picture that `krypton_engine.Heatmap.overlay` describes, with its arguments.

    Examples:
        >>> shown = Shown(heatmap.drop, heatmap.status, heatmap.base, heatmap.window, heatmap.image)
        >>> drawn = overlay(shown, np.zeros((24, 20), np.uint8), None, COLORMAP, opacity=1.0)
        >>> drawn.size, drawn.getpixel((0, 0)), drawn.getpixel((19, 0))  # red for 0.5, bare for 0
        ((20, 24), (103, 0, 31), (0, 0, 0))
    """
    from PIL import Image as PILImage

    share = real(opacity)
    if share is None or not 0 <= share <= 1:
        raise InputError("opacity", repr(opacity), "numbers from 0 to 1")
    colours, weight = _colours(shown, scale, cmap)
    grey = np.asarray(PILImage.fromarray(_below(shown, image)).convert("L"))[..., None]
    mix = (weight * share)[..., None]
    return PILImage.fromarray((grey * (1 - mix) + colours * mix + 0.5).astype(np.uint8))


def limits(shown: Shown, scale: Scale) -> tuple[float, float]:
    """Drops at the two ends of the colour map.

    Args:
        shown: The map.
        scale: Ends that were asked for; see `krypton_engine.Heatmap.overlay`.

    Raises:
        InputError: The scale is none, or the input is no picture.

    Examples:
        >>> shown = Shown(heatmap.drop, heatmap.status, heatmap.base, heatmap.window, heatmap.image)
        >>> shown.drop
        tensor([[ 0.5000,  0.0000],
                [ 0.0000, -0.2500]])
        >>> limits(shown, None), limits(shown, 2.0)
        ((-0.5, 0.5), (-2.0, 2.0))
    """
    drops = _drops(shown)[0]
    if scale is None:
        finite = np.abs(drops[np.isfinite(drops)])
        scale = float(finite.max(initial=0.0)) or 1.0
    pair = isinstance(scale, tuple) and len(scale) == 2
    numbers = [real(each) for each in (scale if pair else (scale,))]  # type: ignore[union-attr]
    high = math.nan if None in numbers else float(numbers[-1])  # type: ignore[arg-type]
    low = -high if len(numbers) == 1 or math.isnan(high) else float(numbers[0])  # type: ignore[arg-type]
    if not -math.inf < low < high < math.inf:
        raise InputError("scale", repr(scale), "a positive number, or (low, high) with low < high")
    return low, high


def png(
    shown: Shown,
    caption: str,
    title: str | None = None,
    image: object = None,
    *,
    scale: Scale = None,
    cmap: str = COLORMAP,
    opacity: float = OPACITY,
    legend: tuple[str, str] = DROP,
) -> bytes:
    """A PNG of the input beside the overlay, with a legend.

    Args:
        shown: The map.
        caption: The map's own words.
        title: Words above; None for the caption.
        image: Picture to draw over, as for `overlay`.
        scale: Ends of the colour map.
        cmap: Name of the colour map.
        opacity: Share of the colour.
        legend: Heading of the overlay, and what its colours stand for.

    Examples:
        >>> from PIL import Image
        >>> shown = Shown(heatmap.drop, heatmap.status, heatmap.base, heatmap.window, heatmap.image)
        >>> content = png(shown, "a map", "A title", np.zeros((24, 20), np.uint8), scale=1.0)
        >>> Image.open(io.BytesIO(content)).format
        'PNG'
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator

    drawn = overlay(shown, image, scale, cmap, opacity)
    low, high = limits(shown, scale)
    figure = Figure(figsize=(9.6, 4.75), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    left, right = figure.subplots(1, 2)
    left.imshow(_below(shown, image))
    left.set_title("input", fontsize=10, color="0.3")
    right.imshow(drawn)
    headings = [legend[0], not_finite(shown, "hatched: {} not finite"), _unknown(shown)]
    right.set_title("\n".join(filter(None, headings)), fontsize=10, color="0.3")
    for axes in (left, right):
        axes.set_axis_off()
    bar = figure.colorbar(
        ScalarMappable(Normalize(low, high), cmap), ax=right, shrink=0.9, aspect=28, pad=0.02
    )
    ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
    ticks = [tick if abs(tick) > 1e-9 * (high - low) else 0.0 for tick in ticks]
    bar.set_ticks(ticks, labels=figures(ticks))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.set_label(f"{legend[1]}, f(x) = {figure_of(float(shown.base))}", fontsize=9)
    # A title is words, not formulas; names of files may hold what no text can.
    words = str(title or caption).encode("utf-8", "replace").decode()
    figure.suptitle(
        words, fontsize=12 if title else 10, fontweight="bold" if title else None, parse_math=False
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata=files.DRAWN)
    return buffer.getvalue()


def not_finite(shown: Shown, words: str) -> str:
    """The number of known positions whose drop is not finite.

    Args:
        shown: The map.
        words: With braces for the positions: ``"{} not finite"``.

    Returns:
        The words, such as ``"2 positions are not finite"``; empty where every drop is finite.

    Examples:
        >>> from dataclasses import replace
        >>> drop = torch.tensor([[torch.inf, 1.0], [1.0, 1.25]])
        >>> shown = Shown(drop, heatmap.status, heatmap.base, heatmap.window, None)
        >>> not_finite(shown, "hatched: {} not finite")
        'hatched: 1 position is not finite'
    """
    odd = ~shown.drop.isfinite().reshape(*shown.status.shape, -1).all(-1)
    count = int((odd & (shown.status != Status.UNKNOWN)).sum())
    return words.format(_positions(count)) if count else ""


def _unknown(shown: Shown) -> str:
    """A note on how many positions are bare in a picture since nothing is known there; empty if none is."""
    count = int((shown.status == Status.UNKNOWN).sum())
    return f"bare: {_positions(count)} unknown" if count else ""


def _positions(count: int) -> str:
    return f"{count} position{'s are' if count > 1 else ' is'}"


def _drops(shown: Shown) -> tuple[Floats, Flags]:
    """The drop at every place of the picture, rows by columns, and where anything is known."""
    window = shown.window
    rows, columns, channels = _axes_of_picture(window)
    if shown.drop.shape != shown.status.shape:
        raise InputError(
            "target",
            f"values of shape {tuple(shown.base.shape)} for every position",
            "for an overlay, one number",
            verb="selects",
        )
    order = (*channels, rows, columns)
    drops, known = (
        _cells(window, each.numpy()).transpose(order)
        for each in (shown.drop.double(), shown.status != Status.UNKNOWN)
    )
    if not channels:
        return drops, known
    count = known.sum(0)
    mean = np.where(known, drops, 0.0).sum(0) / np.maximum(count, 1)
    return mean, count > 0


def _cells(window: Positions, values: AnyArray) -> AnyArray:
    """Values by place along every axis of the input: of a window the positions, of regions the cells."""
    if isinstance(window, Regions):
        return values[np.broadcast_to(window.numbers, window.input_shape)]
    return values.reshape(as_sliding(window).counts)


def _spread(positions: Positions, places: AnyArray) -> AnyArray:
    """Entries by pixel, each of the place whose window is centred nearest; places of regions are pixels."""
    if isinstance(positions, Regions):
        return places
    window = as_sliding(positions)
    for dim, axis in enumerate(_axes_of_picture(window)[:2]):
        size, stride = window.shape[axis], window.strides[axis]
        pixels = np.arange(window.input_shape[axis]) + 0.5
        nearest = np.floor((pixels - (size - stride) / 2) / stride).astype(np.int64)
        places = places.take(nearest.clip(0, window.counts[axis] - 1), axis=dim)
    return places


def _colours(shown: Shown, scale: Scale, cmap: str) -> tuple[Floats, Floats]:
    """Colour of every pixel, ``(height, width, 3)`` from 0 to 255, and its share in the picture."""
    from matplotlib import colormaps

    if not isinstance(cmap, str) or cmap not in colormaps:
        raise InputError("cmap", repr(cmap), "Matplotlib's colour maps, such as 'RdBu_r'")
    low, high = limits(shown, scale)
    drops, known = (_spread(shown.window, each) for each in _drops(shown))
    finite = np.isfinite(drops)
    numbers = np.where(finite, drops, 0.0)
    share = (numbers - low) / (high - low)
    weight = np.abs(numbers / max(abs(low), abs(high))).clip(0, 1) ** 0.75
    colours = colormaps[cmap](share)[..., :3] * 255
    colours = np.where(finite[..., None], colours, _hatching(drops.shape)[..., None])
    return colours, np.where(known, np.where(finite, weight, 1.0), 0.0)


def _hatching(shape: tuple[int, ...]) -> Floats:
    """Two greys, from 0 to 255, in stripes from corner to corner: of a picture of that shape."""
    width = max(_NARROWEST_STRIPE, (max(shape) + _STRIPES // 2) // _STRIPES)
    return np.where(np.add.outer(*map(np.arange, shape)) // width % 2, 160.0, 96.0)


def _below(shown: Shown, image: object) -> npt.NDArray[np.uint8]:
    """The picture to draw over: height x width x 3."""
    from PIL import Image as PILImage

    from krypton_engine.zoo.preprocess import stretched

    rows, columns, channels = _axes_of_picture(shown.window)
    size = shown.window.input_shape[rows], shown.window.input_shape[columns]
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
        return stretched(shown.image.permute(*channels, rows, columns).reshape(-1, *size))
    picture = picture[..., :3] if picture.shape[-1] >= 3 else picture[..., :1].repeat(3, axis=-1)
    return np.ascontiguousarray(picture.astype(np.uint8))


def _axes_of_picture(window: Positions) -> tuple[int, int, tuple[int, ...]]:
    """The axes of the input that are the rows and columns of a picture, and that of its channels, if any.

    Channels come first, or last where there are 1, 3 or 4 of these, and of rows another number; without
    any, the window must slide along both axes, or a picture could not be known from a signal.

    Raises:
        InputError: The input is no picture.
    """
    shape = window.input_shape
    if len(shape) == 3:
        last = shape[2] in (1, 3, 4) and shape[0] not in (1, 3, 4)
        return (0, 1, (2,)) if last else (1, 2, (0,))
    if len(shape) == 2 and not any(map(window.spans, (0, 1))):
        return 0, 1, ()
    kind = {2: "a signal", 4: "a volume or a video"}.get(len(shape), "no picture")
    raise InputError(
        "the input",
        f"shape {shape}, {kind}",
        "drop, the numbers by position, and attribution(), those on the input, for plots of your own, such "
        "as one a slice",
        "and overlay wants a 2-D image, (channels, height, width), (height, width, channels) or (height, "
        "width)",
        verb="has",
    )
