"""Saved heatmaps in napari: a reader of the ``.npz`` that `Heatmap.save` writes, found by its npe2 manifest.

napari itself is not imported; a plugin's reader is a function that gives arrays and how to show them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from krypton_engine.common.arrays import AnyArray
from krypton_engine.errors import InputError
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.shown import Shown, axes_of, drops_of
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import as_sliding
from krypton_engine.zoo.preprocess import stretched

Layer: TypeAlias = tuple[AnyArray, dict[str, Any], str]
"""An array, the arguments of napari's layer, and the layer's kind."""

_COLOURS = "PiYG"
"""A diverging colour map that napari has."""

_OPACITY = 0.6
"""Opacity of the drop over the image."""


def reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[Layer]] | None:
    """The function that reads a path for napari; None where the path is no saved heatmap of an image.

    Examples:
        >>> heatmap.save("map.npz")
        >>> reader("map.npz") is read, reader("photo.png") is None
        (True, True)
    """
    return read if all(map(_is_heatmap, _paths(path))) else None


def read(path: str | Sequence[str]) -> list[Layer]:
    """The layers of one or several saved heatmaps: the image of each, if it holds one, and the drop over it.

    The drop has a cell for every position, as large as the stride, with the window's centre in its middle.

    Args:
        path: The files.

    Raises:
        InputError: A file is no saved heatmap, or one of a signal.

    Examples:
        >>> heatmap.save("map.npz")
        >>> ((drop, shown, kind),) = read("map.npz")
        >>> drop.shape, shown["scale"], shown["translate"], kind
        ((2, 2), (12, 10), (5.5, 4.5), 'image')
    """
    return [layer for each in _paths(path) for layer in _layers(each)]


def _paths(path: str | Sequence[str]) -> list[str]:
    return [path] if isinstance(path, str) else list(path)


def _is_heatmap(path: str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {"meta.npy", "values.npy", "measured.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _layers(path: str) -> list[Layer]:
    heatmap, name = Heatmap.load(path), Path(path).stem
    axes, channels = axes_of(heatmap.window)
    if len(axes) == 1:
        raise InputError("path", repr(path), "heatmaps of pictures and volumes", "that of a signal")
    shown = Shown(heatmap.drop, heatmap.status, heatmap.base, heatmap.window, heatmap.image)
    drops, known = drops_of(shown)
    low, high = heatmap.limits()
    over: dict[str, Any] = {
        "name": f"{name}, drop",
        "colormap": _COLOURS,
        "contrast_limits": (low, high),
        "opacity": _OPACITY,
        "blending": "translucent",
        "metadata": {"base": float(heatmap.base), "target": heatmap.target},
    }
    if not isinstance(heatmap.window, Regions):  # whose drops are by cell
        window = as_sliding(heatmap.window)
        over["scale"] = tuple(window.strides[axis] for axis in axes)
        over["translate"] = tuple((window.shape[axis] - 1) / 2 for axis in axes)
    drop: Layer = (np.where(known, drops, np.nan), over, "image")
    if heatmap.image is None:
        return [drop]
    cells = heatmap.image.permute(*channels, *axes)
    sizes = cells.shape[len(channels) :]
    if len(axes) == 2:
        beneath: Layer = (stretched(cells.reshape(-1, *sizes)), {"name": name, "rgb": True}, "image")
    else:
        beneath = (cells.reshape(-1, *sizes).float().mean(0).numpy(), {"name": name}, "image")
    return [beneath, drop]
