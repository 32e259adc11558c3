"""TIFF and OME-TIFF by tifffile: pictures, and stacks of them."""

from __future__ import annotations

import io
from itertools import compress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.packages import imported
from krypton_engine.common.text import one_line
from krypton_engine.errors import InputError
from krypton_engine.medical.geometry import Geometry, turned
from krypton_engine.medical.headers import DESCRIPTION
from krypton_engine.medical.scan import Scan

_MILLIMETRES = {
    "m": 1000.0, "cm": 10.0, "mm": 1.0, "µm": 1e-3, "um": 1e-3, "micron": 1e-3, "nm": 1e-6, "Å": 1e-7,
}  # fmt: skip
"""Millimetres in a unit of length; OME's own is the micrometre."""

_SLICES = "ZQI"
"""Names by which tifffile calls an axis of slices, or one that it knows nothing of."""

_CHANNELS = "CS"
"""Names of axes of channels, and of colours."""


def read(path: Path) -> Scan:
    """The picture in a file, or the volume of its pages.

    Spacing is that of OME's or ImageJ's description; without one, 1 mm: other tags are for printers.

    Raises:
        InputError: The file cannot be read, or holds more than a picture or a volume.

    Examples:
        >>> import tifffile
        >>> tifffile.imwrite("stack.tif", np.zeros((5, 8, 8), np.uint16), photometric="minisblack")
        >>> read(Path("stack.tif")).tensor.shape
        torch.Size([1, 5, 8, 8])
    """
    tifffile, name = imported("tifffile", "medical"), repr(str(path))
    try:
        with tifffile.TiffFile(path) as file:
            series, count = file.series[0], len(file.series)
            cells, axes = series.asarray(squeeze=False), series.get_axes(squeeze=False)
            kept = [n > 1 or axis in "YX" for axis, n in zip(axes, cells.shape, strict=True)]
            spacing = _spacing(file)
    except Exception as error:
        problem = f"which cannot be read as TIFF: {one_line(error)}"
        raise InputError("source", name, problem=problem) from None
    cells, axes = cells.squeeze(tuple(np.flatnonzero(np.logical_not(kept)))), "".join(compress(axes, kept))
    roles = "".join("D" if a in _SLICES else "C" if a in _CHANNELS else a for a in axes)
    if count > 1 or len(set(roles)) < len(roles) or not {"Y", "X"} <= set(roles) <= {*"CDYX"}:
        given = f"{name}, {count} series" if count > 1 else f"{name}, with axes {axes} of {cells.shape}"
        raise InputError("source", given, "a picture, or one stack of them, of one or several channels")
    if cells.dtype.kind not in "buif" or not cells.size:
        raise InputError("source", f"{name}, {cells.shape} of {cells.dtype}", "real numbers")
    order = [roles.index(role) for role in "CDYX" if role in roles]
    cells = cells.transpose(order)[(slice(None) if "C" in roles else None)]
    shape = cells.shape[1:] if "D" in roles else (1, *cells.shape[1:])
    return Scan.of(cells, Geometry.of_spacing(shape, spacing))


def _spacing(file: Any) -> tuple[float, float, float]:
    """Millimetres between slices, rows and columns, as the file's description says."""
    if file.is_ome:
        pixels = ElementTree.fromstring(file.ome_metadata).find(".//{*}Pixels")
        found = {} if pixels is None else pixels.attrib
        z, y, x = (
            float(found.get(f"PhysicalSize{axis}", 0))
            * _MILLIMETRES.get(found.get(f"PhysicalSize{axis}Unit", "µm"), 0)
            for axis in "ZYX"
        )
        return z or 1.0, y or 1.0, x or 1.0
    if file.is_imagej:
        told = file.imagej_metadata
        unit = _MILLIMETRES.get(str(told.get("unit", "")).replace("\\\\u00B5", "µ"), 0)
        tags = file.pages[0].tags
        y, x = (_inverse(tags.get(f"{axis}Resolution")) * unit for axis in "YX")
        return float(told.get("spacing", 0)) * unit or 1.0, y or 1.0, x or 1.0
    return 1.0, 1.0, 1.0


def _inverse(tag: Any) -> float:
    """Units a pixel, by a tag that counts pixels a unit as a fraction; 0 without one."""
    count, units = (0, 0) if tag is None else tag.value
    return units / count if count else 0.0


def written(cells: AnyArray, geometry: Geometry) -> bytes:
    """The bytes of an OME-TIFF with a volume and its spacing; orientation has no place in such a file.

    Args:
        cells: The numbers, of the geometry's shape.
        geometry: Place of the cells.

    Examples:
        >>> content = written(np.zeros((2, 3, 4)), Geometry.of_spacing((2, 3, 4), (5.0, 0.5, 0.5)))
        >>> _ = Path("map.ome.tiff").write_bytes(content)
        >>> read(Path("map.ome.tiff")).geometry.spacing
        (5.0, 0.5, 0.5)
    """
    tifffile = imported("tifffile", "medical")
    geometry, cells = geometry.arranged("DHW"), turned(cells, geometry.order, "DHW")
    sizes = dict(zip("ZYX", geometry.spacing, strict=True))
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        cells.astype(np.float32),
        ome=True,
        photometric="minisblack",
        compression="zlib",
        metadata={
            "axes": "ZYX",
            "Name": DESCRIPTION,
            **{f"PhysicalSize{axis}": size for axis, size in sizes.items()},
            **{f"PhysicalSize{axis}Unit": "mm" for axis in sizes},
        },
    )
    return buffer.getvalue()
