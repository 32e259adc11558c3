"""A map of any origin, as a page shows it beside its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from krypton_engine.errors import InputError
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_widget import maps
from krypton_widget.export import explained
from krypton_widget.maps import Sent
from krypton_widget.pictures import png
from krypton_widget.planes import axes_of, planes_of


def of(heatmap: Heatmap, axes: int) -> Sent:
    """A map's ``frame`` and ``view``; the picture is the input that it holds, or none.

    Args:
        heatmap: The map.
        axes: Number of axes of the page's own images.

    Raises:
        InputError: The map has several values a position, is of single channels, or of other images.

    Examples:
        >>> found = of(heatmap, axes=2)
        >>> found["frame"]["counts"], found["view"]["sizes"], found["view"]["picture"]
        ([2, 2], [24, 20], b'')
    """
    window = heatmap.window
    sizes = window.input_shape[1:]
    fits = len(sizes) == axes and window.spans(0) and heatmap.values.shape == heatmap.measured.shape
    if not fits:
        given = f"a map of {tuple(heatmap.values.shape)} values over an input of {window.input_shape}"
        accepted = f"maps of one value a position over all channels of images of {axes} axes"
        raise InputError("heatmap", given, accepted)
    return {
        "frame": maps.to_page(heatmap, np.ones(maps.grid_of(window), dtype=bool)),
        "view": {
            "sizes": list(sizes),
            "spacing": [1.0] * len(sizes),
            "axes": axes_of(len(sizes), None),
            "planes": planes_of(len(sizes), None),
            "picture": _picture(heatmap),
            "regions": maps.cells_of(window).tobytes() if isinstance(window, Regions) else b"",
        },
    }


def _picture(heatmap: Heatmap) -> bytes:
    """The input of a map of a picture, stretched to its own extremes; empty of other maps."""
    if len(heatmap.window.input_shape) != 3:
        return b""
    try:
        return png(np.asarray(heatmap.overlay(opacity=0.0)))
    except InputError:
        return b""


def name_of(heatmap: Heatmap, class_names: Sequence[str]) -> str:
    """What a map explains, and what was covered.

    Examples:
        >>> name_of(heatmap, ["cat"])
        'cat, 12 x 10 every 12 x 10'
    """
    window = heatmap.window
    name = explained(heatmap, class_names)
    if not isinstance(window, SlidingWindow):
        return f"{name}, {len(window)} regions"
    size, step = (" x ".join(map(str, each[1:])) for each in (window.shape, window.strides))
    return f"{name}, {size} every {step}"
