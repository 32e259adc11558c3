"""A map over its volume in NiiVue, the viewer of scans, where ``ipyniivue`` is installed."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from krypton_engine.errors import InputError
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.placed import placed
from krypton_engine.medical import Geometry, nifti
from krypton_widget.export import Look
from krypton_widget.fields import Field
from krypton_widget.maps import sizes_in_words
from krypton_widget.page import Shown
from krypton_widget.reading import Input

_FAINT = 0.05
"""Share of the scale below which a change stays clear."""


def volumes(heatmap: Heatmap, given: Field, limit: float, opacity: float) -> list[dict[str, Any]]:
    """A volume and the map over it as NiiVue takes them: NIfTI files and how to show them.

    Args:
        heatmap: The map; where nothing is known the volume stays bare.
        given: The volume.
        limit: Change at the end of the colours.
        opacity: Opacity of the colours.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> from dataclasses import replace
        >>> window = SlidingWindow((1, 4, 6, 6), (1, 4, 3, 3), (1, 4, 3, 3))
        >>> given = Field(torch.rand(1, 1, 4, 6, 6))
        >>> below, above = volumes(replace(heatmap, window=window), given, 0.5, 0.8)
        >>> below["name"], above["cal_max"], above["opacity"]
        ('image.nii', 0.5, 0.8)
    """
    shape = tuple(given.x.shape[2:])
    geometry = given.geometry or Geometry.of_spacing(shape)  # type: ignore[arg-type]
    black, white = given.ends()
    drop, _ = placed(heatmap.drop, heatmap.status, heatmap.window, geometry, "source")
    return [
        {
            "name": "image.nii",
            "data": nifti.written(given.x[0].float().mean(0).numpy(), geometry, zipped=False),
            "colormap": "gray",
            "cal_min": black,
            "cal_max": white,
        },
        {
            "name": "drop.nii",
            "data": nifti.written(np.nan_to_num(drop), geometry, zipped=False),
            "colormap": "warm",
            "colormap_negative": "winter",
            "cal_min": _FAINT * limit,
            "cal_max": limit,
            "cal_min_neg": -limit,
            "cal_max_neg": -_FAINT * limit,
            "opacity": opacity,
        },
    ]


def viewer(shown: Shown, given: Input, look: Look) -> Any:
    """An ``ipyniivue.NiiVue`` with a volume and the map over it.

    Raises:
        InputError: The image is no volume, or ``ipyniivue`` is not installed.

    Examples:
        >>> viewer(None, Field(torch.rand(1, 2, 40)), None)
        Traceback (most recent call last):
        krypton_engine.errors.InputError: the image is 40 (length); accepted: a volume: ...
    """
    if not isinstance(given, Field) or given.x.ndim != 5:
        raise InputError("the image", sizes_in_words(given.x.shape[2:]), "a volume: NiiVue shows scans")
    try:
        ipyniivue = importlib.import_module("ipyniivue")
    except ImportError as error:
        problem = f"and cannot be imported ({error}): pip install ipyniivue"
        raise InputError("ipyniivue", "needed for this", problem=problem) from error
    view = ipyniivue.NiiVue()
    heatmap, limit = shown.heatmap, look.end(shown)
    view.load_volumes(volumes(heatmap, given, limit, look.opacity))
    return view
