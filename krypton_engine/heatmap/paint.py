"""What the pictures of images, volumes and signals have in common: colours, their bar, titles."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from krypton_engine.common import files
from krypton_engine.common.arguments import real, whole
from krypton_engine.common.arrays import Flags, Floats
from krypton_engine.common.figures import figure as figure_of
from krypton_engine.common.figures import figures
from krypton_engine.errors import InputError
from krypton_engine.heatmap.shown import Pixels, Scale, Shown, limits, not_finite, unknown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORMAP = "RdBu_r"
"""Red where occluding lowers the target."""

OPACITY = 0.85
"""Share of the colour in a picture, at the ends of the scale."""

Legend = tuple[str, str]
"""Heading of an overlay, and what its colours stand for."""

DROP: Legend = "drop when occluded", "f(x) - f(x occluded)"
"""Words of an occlusion map."""

DPI = 130
"""Pixels an inch of figures in files."""

_NARROWEST, _WIDEST = 100, 20_000
"""Pixels of the width that a PNG may have."""

_METADATA = {
    ".png": files.DRAWN,
    ".svg": {"Creator": "Krypton", "Date": None},
    ".pdf": {"Creator": "Krypton", "CreationDate": None},
}
"""Metadata of pictures, by the ending of the file; without the time."""

QUIET = "0.3"
"""The grey of headings."""

_NARROWEST_STRIPE = 2
"""Width in pixels of the stripes that mark a number which is not finite, in a small picture."""

_STRIPES = 112
"""Stripes along the longer side of a large picture, where narrower ones would run into one grey."""


@dataclass(frozen=True)
class Paint:
    """The colours of drops.

    Attributes:
        low: Drop at the lower end of the colour map.
        high: Drop at its upper end.
        cmap: Name of the colour map.
        opacity: Share of the colour at the ends.

    Examples:
        >>> grey, drops = np.zeros((1, 2), np.uint8), np.array([[1.0, 0.0]])
        >>> Paint(-1.0, 1.0, "RdBu_r", 1.0).on(grey, drops, np.full((1, 2), True)).tolist()
        [[[103, 0, 31], [0, 0, 0]]]
    """

    low: float
    high: float
    cmap: str
    opacity: float

    @staticmethod
    def of(shown: Shown, scale: Scale, cmap: str, opacity: float) -> Paint:
        """The colours that a user asks for; see `krypton_engine.Heatmap.overlay`.

        Raises:
            InputError: An argument cannot be used, or the input is no signal, image or volume.

        Examples:
            >>> shown = Shown(heatmap.drop, heatmap.status, heatmap.base, heatmap.window, heatmap.image)
            >>> Paint.of(shown, None, "RdBu_r", 0.5)
            Paint(low=-0.5, high=0.5, cmap='RdBu_r', opacity=0.5)
        """
        from matplotlib import colormaps

        share = real(opacity)
        if share is None or not 0 <= share <= 1:
            raise InputError("opacity", repr(opacity), "numbers from 0 to 1")
        if not isinstance(cmap, str) or cmap not in colormaps:
            raise InputError("cmap", repr(cmap), "Matplotlib's colour maps, such as 'RdBu_r'")
        return Paint(*limits(shown, scale), cmap, share)

    def on(self, grey: Pixels, drops: Floats, known: Flags) -> Pixels:
        """Pixels ``(height, width, 3)`` with the colours of drops over grey ones.

        Args:
            grey: ``(height, width)``, from 0 to 255.
            drops: ``(height, width)``; hatched where not finite.
            known: Truth values ``(height, width)``; grey stays bare elsewhere.

        Examples:
            >>> grey, nothing = np.full((1, 1), 7, np.uint8), np.full((1, 1), False)
            >>> Paint(-1.0, 1.0, "RdBu_r", 1.0).on(grey, np.ones((1, 1)), nothing).tolist()
            [[[7, 7, 7]]]
        """
        from matplotlib import colormaps

        finite = np.isfinite(drops)
        numbers = np.where(finite, drops, 0.0)
        share = (numbers - self.low) / (self.high - self.low)
        weight = np.abs(numbers / max(abs(self.low), abs(self.high))).clip(0, 1) ** 0.75
        colours = colormaps[self.cmap](share)[..., :3] * 255
        colours = np.where(finite[..., None], colours, _hatching(drops.shape)[..., None])
        mix = (np.where(known, np.where(finite, weight, 1.0), 0.0) * self.opacity)[..., None]
        mixed: Pixels = (grey[..., None] * (1 - mix) + colours * mix + 0.5).astype(np.uint8)
        return mixed


def _hatching(shape: tuple[int, ...]) -> Floats:
    """Two greys, from 0 to 255, in stripes from corner to corner: of a picture of that shape."""
    width = max(_NARROWEST_STRIPE, (max(shape) + _STRIPES // 2) // _STRIPES)
    return np.where(np.add.outer(*map(np.arange, shape)) // width % 2, 160.0, 96.0)


def heading(shown: Shown, legend: Legend) -> str:
    """The words above an overlay: what it shows, what is hatched in it, what is bare.

    Examples:
        >>> heading(Shown(heatmap.drop, heatmap.status, heatmap.base, heatmap.window, None), DROP)
        'drop when occluded'
    """
    words = [legend[0], not_finite(shown, "hatched: {} not finite"), unknown(shown)]
    return "\n".join(filter(None, words))


def meaning(shown: Shown, legend: Legend) -> str:
    """The words beside a scale of drops.

    Examples:
        >>> meaning(Shown(heatmap.drop, heatmap.status, heatmap.base, heatmap.window, None), DROP)
        'f(x) - f(x occluded), f(x) = 1'
    """
    return f"{legend[1]}, f(x) = {figure_of(float(shown.base))}"


def add_bar(figure: Figure, beside: Sequence[Axes], paint: Paint, words: str, aspect: float) -> None:
    """Put the scale of colours beside some axes of a figure, ``aspect`` times as tall as wide.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> figure = Figure()
        >>> add_bar(figure, [figure.subplots()], Paint(-1.0, 1.0, "RdBu_r", 0.8), "drop", aspect=28)
        >>> figure.axes[1].get_ylabel()
        'drop'
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    low, high = paint.low, paint.high
    scale = ScalarMappable(Normalize(low, high), paint.cmap)
    bar = figure.colorbar(scale, ax=beside, shrink=0.9, aspect=aspect, pad=0.02)
    ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
    ticks = [tick if abs(tick) > 1e-9 * (high - low) else 0.0 for tick in ticks]
    bar.set_ticks(ticks, labels=figures(ticks))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.set_label(words, fontsize=9)


def titled(
    figure: Figure, caption: str, title: str | None, ending: str = ".png", width: int | None = None
) -> bytes:
    """A figure as a file with a title, or with the map's own words in its place.

    Args:
        figure: The figure.
        caption: The map's own words.
        title: Words above; None for the caption.
        ending: One of `krypton_engine.heatmap.files.PICTURES`.
        width: Pixels of a PNG's width; None for 130 an inch.

    Raises:
        InputError: The width is no number of pixels that a picture can have.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> titled(Figure(), "a map of 2 x 2", title=None)[1:4]
        b'PNG'
        >>> titled(Figure(), "a map of 2 x 2", title=None, ending=".pdf")[:4]
        b'%PDF'
    """
    pixels = None if width is None else whole(width)
    if width is not None and (pixels is None or not _NARROWEST <= pixels <= _WIDEST):
        raise InputError("width", repr(width), f"None, or pixels: {_NARROWEST} to {_WIDEST}")
    # A title is words, not formulas; names of files may hold what no text can.
    words = str(title or caption).encode("utf-8", "replace").decode()
    figure.suptitle(
        words, fontsize=12 if title else 10, fontweight="bold" if title else None, parse_math=False
    )
    buffer = io.BytesIO()
    dpi = DPI if pixels is None else pixels / figure.get_figwidth()
    figure.savefig(buffer, format=ending.removeprefix("."), dpi=dpi, metadata=_METADATA[ending])
    return buffer.getvalue()
