"""The picture of a signal's heatmap: its curves over the colours of the drop, and the curve of the drop."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from krypton_engine.common.arrays import Floats
from krypton_engine.errors import InputError
from krypton_engine.heatmap.paint import DPI, DROP, QUIET, Legend, Paint, heading, meaning
from krypton_engine.heatmap.shown import Shown, axes_of, drops_of, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

_BEHIND = 0.55
"""Share of the opacity behind a curve, which stays black on it."""

_MOST_NAMES = 16
"""Channels that are named beside their curves."""

_STRIP = 64
"""Rows of the strip of colours behind a signal: enough for stripes to slant."""


def overlay(shown: Shown, image: object, paint: Paint) -> Image:
    """The figure as a picture.

    Args:
        shown: The map.
        image: Signal to draw; see `krypton_engine.Heatmap.overlay`.
        paint: The colours.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window, drop = SlidingWindow((2, 9), (2, 3), (2, 3)), torch.tensor([0.0, 1.0, 0.0])
        >>> shown = Shown(drop, torch.full((3,), 4), torch.tensor(1.0), window, torch.rand(2, 9))
        >>> overlay(shown, None, Paint(-1.0, 1.0, "RdBu_r", 0.8)).size
        (1248, 572)
    """
    from PIL import Image as PILImage

    buffer = io.BytesIO()
    figure(shown, image, paint, DROP).savefig(buffer, format="png", dpi=DPI)
    return PILImage.open(buffer).convert("RGB")


def figure(shown: Shown, image: object, paint: Paint, legend: Legend) -> Figure:
    """The signal's curves over the colours of the drop, above the curve of the drop.

    Args:
        shown, image, paint: As for `overlay`.
        legend: Heading of the curve of the drop, and what that stands for.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window, drop = SlidingWindow((2, 9), (2, 3), (2, 3)), torch.tensor([0.0, 1.0, 0.0])
        >>> shown = Shown(drop, torch.full((3,), 4), torch.tensor(1.0), window, torch.rand(2, 9))
        >>> above, below = figure(shown, None, Paint(-1.0, 1.0, "RdBu_r", 0.8), DROP).axes
        >>> len(above.lines), below.get_ylabel().splitlines()
        (2, ['f(x) - f(x occluded)', 'f(x) = 1'])
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    (places,), (drops, known) = nearest(shown.window), drops_of(shown)
    drops, known, curves = drops[places], known[places], _curves(shown, image)
    steps = np.arange(len(places))
    ends = -0.5, len(places) - 0.5
    drawn = Figure(figsize=(9.6, 4.4), layout=ConstrainedLayoutEngine(h_pad=0.06))
    above, below = drawn.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
    low, high = _extremes(curves)
    levels = 1.1 * (high - low) * np.arange(len(curves))[::-1]
    low, high = low + levels[-1], high + levels[0]
    margin = 0.06 * (high - low)
    white, tall = np.full((_STRIP, len(places)), 255, np.uint8), (_STRIP, 1)
    strip = replace(paint, opacity=_BEHIND * paint.opacity).on(
        white, np.tile(drops, tall), np.tile(known, tall)
    )
    extent = (*ends, low - margin, high + margin)
    above.imshow(strip, extent=extent, aspect="auto", interpolation="nearest")
    for curve, level in zip(curves, levels, strict=True):
        above.plot(steps, curve + level, color="0.1", linewidth=0.9)
    if len(curves) > 1:
        named = range(0, len(curves), math.ceil(len(curves) / _MOST_NAMES))
        middles = [level + sum(_extremes(curve)) / 2 for curve, level in zip(curves, levels, strict=True)]
        above.set_yticks([middles[i] for i in named], labels=[f"channel {i}" for i in named])
    above.set_title(heading(shown, legend), fontsize=10, color=QUIET)
    finite = np.where(np.isfinite(drops) & known, drops, np.nan)
    for sign, colour in ((1, colormaps[paint.cmap](0.88)), (-1, colormaps[paint.cmap](0.12))):
        part = np.where(sign * finite > 0, finite, 0.0)
        below.fill_between(steps, 0, part, step="mid", color=colour, alpha=0.6, linewidth=0)
    below.step(steps, finite, where="mid", color="0.25", linewidth=0.9)
    below.axhline(0, color="0.7", linewidth=0.7)
    below.set_ylabel(meaning(shown, legend).replace(", ", "\n"), fontsize=8)  # the axis is short
    below.set_xlim(ends)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, length=2)
    return drawn


def _extremes(curves: Floats) -> tuple[float, float]:
    """The least and the largest finite number, one apart where all are alike."""
    finite = curves[np.isfinite(curves)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _curves(shown: Shown, image: object) -> Floats:
    """The signal to draw: ``(channels, length)``."""
    axes, channels = axes_of(shown.window)
    shape = shown.window.input_shape
    given = shown.image
    if image is None and given is None:
        raise InputError("image", "None", "a signal, since this map holds none to draw")
    try:
        cells = np.asarray(given if image is None else image)
    except Exception:  # a ragged list, a tensor of another device or with a gradient
        cells = np.empty((), dtype=object)
    length = shape[axes[0]]
    if cells.shape not in (shape, (length,)) or cells.dtype.kind not in "buif":
        raise InputError(
            "image",
            f"{type(image).__name__}, {cells.shape} of {cells.dtype}",
            f"numbers of the input's shape, {shape}, or of its length, ({length},)",
        )
    curves = cells[None] if cells.ndim == 1 else cells.transpose(*channels, *axes)
    return curves.astype(np.float64)
