"""The drop of a map by place in the patient: what is written to files with a geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import AnyArray
from krypton_engine.errors import InputError
from krypton_engine.heatmap.status import Status
from krypton_engine.medical import Geometry, nifti, objects, read_scan, tiff
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import as_sliding
from krypton_engine.zoo.pixels import CHANNELS

if TYPE_CHECKING:
    from krypton_engine.heatmap.shown import Shown

Grid: TypeAlias = Literal["source", "own"]
"""Cells of a written volume: those of the source, or one for every position."""

CAPTURE = ".sc.dcm"
"""Ending of the one that holds a picture, and not numbers by place."""

ENDINGS = {
    ".nii.gz": "NIfTI",
    ".nii": "NIfTI",
    ".dcm": "a DICOM Parametric Map",
    ".ome.tiff": "OME-TIFF",
    ".ome.tif": "OME-TIFF",
    CAPTURE: "a DICOM Secondary Capture",
}
"""Endings of the files that viewers of scans open, and what each is."""


def geometry_of(source: object, shape: tuple[int, ...]) -> Geometry:
    """The geometry of a map's input.

    Args:
        source: The scan that the input was made from, or what `krypton_engine.medical.read_scan` makes one
            of; None for cells of 1 mm.
        shape: Shape of the input, ``(C, D, H, W)`` or ``(C, H, W)``.

    Raises:
        InputError: The input is neither a volume nor a picture, or not of the scan's size.

    Examples:
        >>> geometry_of(None, (1, 4, 8, 8)).shape
        (4, 8, 8)
        >>> geometry_of(np.zeros((4, 8, 8)), (1, 4, 4, 4))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: source has 4 x 8 x 8 cells; accepted: as many as the map's ...
    """
    channels_last = len(shape) == 3 and shape[2] in CHANNELS and shape[0] not in CHANNELS
    if len(shape) not in (3, 4) or channels_last:
        accepted = "inputs (channels, slices, rows, columns) or (channels, rows, columns)"
        raise InputError("the input", f"shape {shape}", accepted, verb="has")
    if source is None:
        return Geometry.of_spacing((1, *shape[1:]) if len(shape) == 3 else shape[1:])  # type: ignore[arg-type]
    scan = read_scan(source)
    sizes = tuple(scan.tensor.shape[1:])
    if sizes != shape[1:]:
        needed = " x ".join(map(str, shape[1:]))
        raise InputError(
            "source",
            f"{' x '.join(map(str, sizes))} cells",
            f"as many as the map's input, {needed}: the scan as the model was given it",
            verb="has",
        )
    return scan.geometry


def check_source(ending: str, geometry: Geometry) -> None:
    """Refuse a file that a geometry cannot be written to: before the map is made, and not after.

    Args:
        ending: Ending of the file's name.
        geometry: Geometry of the map's input.

    Raises:
        InputError: The file is DICOM, and the geometry is not of DICOM files.

    Examples:
        >>> check_source(".nii.gz", Geometry.of_spacing((2, 3, 4)))
        >>> check_source(".dcm", Geometry.of_spacing((2, 3, 4)))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: source is no DICOM series; accepted: ...
    """
    if ending in (".dcm", CAPTURE):
        objects.referable(geometry, by_place=ending != CAPTURE)


def written(shown: Shown, ending: str, source: object = None, grid: Grid = "source") -> bytes:
    """The bytes of a file of numbers by place.

    Args:
        shown: The map.
        ending: One of `ENDINGS` but `CAPTURE`.
        source: As of `geometry_of`.
        grid: Cells of the file.

    Raises:
        InputError: The map has no place, or the format no words for it.

    Examples:
        >>> from krypton_engine.heatmap.shown import Shown
        >>> shown = Shown(heatmap.drop, heatmap.status, heatmap.base, heatmap.window, heatmap.image)
        >>> len(written(shown, ".nii")) == 352 + 4 * 24 * 20  # header and float32 cells
        True
    """
    geometry = geometry_of(source, shown.window.input_shape)
    cells, geometry = placed(shown.drop, shown.status, shown.window, geometry, grid)
    if ending == ".dcm":
        return objects.parametric_map(cells, geometry)
    if ending.startswith(".nii"):
        return nifti.written(cells, geometry, zipped=ending == ".nii.gz")
    return tiff.written(cells, geometry)


def beneath(source: object, shape: tuple[int, ...]) -> dict[str, Any]:
    """What a picture of a map shows of a scan: its first channel as on a screen, and the size of its cells.

    Args:
        source: As of `geometry_of`; None for nothing.
        shape: Shape of the map's input.

    Returns:
        Arguments of `krypton_engine.Heatmap.overlay`.

    Raises:
        InputError: As of `geometry_of`.

    Examples:
        >>> found = beneath(np.zeros((4, 8, 8)), (1, 4, 8, 8))
        >>> found["image"].shape, found["spacing"]
        ((4, 8, 8), (1.0, 1.0, 1.0))
        >>> beneath(None, (1, 4, 8, 8))
        {}
    """
    if source is None:
        return {}
    scan = read_scan(source)
    geometry = geometry_of(scan, shape)
    return {"image": scan.bytes()[0]} | ({} if scan.is_picture else {"spacing": geometry.spacing})


def captured(png: bytes, source: object, shape: tuple[int, ...]) -> bytes:
    """The bytes of a Secondary Capture with a picture.

    Args:
        png: The picture.
        source: As of `geometry_of`.
        shape: Shape of the map's input.

    Raises:
        InputError: The source is not of DICOM files.

    Examples:
        >>> captured(b"", None, (3, 24, 20))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: source is no DICOM series; accepted: ...
    """
    geometry = geometry_of(source, shape)
    return objects.secondary_capture(png, geometry)


def placed(
    drop: Tensor, status: Tensor, positions: Positions, geometry: Geometry, grid: Grid
) -> tuple[AnyArray, Geometry]:
    """The drop by cell of a grid: NaN where nothing is known.

    A cell of the source has the drop of the position whose window is centred nearest, as in pictures; of
    several positions at one place, as of windows for single channels, the mean.

    Args:
        drop: Loss of the target by position.
        status: The origin of each value.
        positions: The positions.
        geometry: Place of the input's cells.
        grid: Cells that are wanted.

    Returns:
        Float32 numbers and their geometry, whose shape theirs is.

    Raises:
        InputError: Another grid, that of regions, or several values for every position.

    Examples:
        >>> geometry = Geometry.of_spacing((1, 24, 20))
        >>> cells, _ = placed(heatmap.drop, heatmap.status, heatmap.window, geometry, "source")
        >>> cells.shape, float(cells[0, 0, 0]), float(cells[0, 23, 19])
        ((1, 24, 20), 0.5, -0.25)
        >>> cells, own = placed(heatmap.drop, heatmap.status, heatmap.window, geometry, "own")
        >>> cells.tolist(), own.spacing
        ([[[0.5, 0.0], [0.0, -0.25]]], (1.0, 12.0, 10.0))
    """
    if grid not in get_args(Grid):
        raise InputError("grid", repr(grid), " or ".join(map(repr, get_args(Grid))))
    if drop.shape != status.shape:
        given = f"values of shape {tuple(drop.shape[status.ndim :])} for every position"
        raise InputError("target", given, "for a file, one number", verb="selects")
    values = torch.where(status != Status.UNKNOWN, drop.float(), torch.nan).numpy()
    depth = geometry.order.index("D")
    is_picture = len(positions.input_shape) == 3
    if isinstance(positions, Regions):
        if grid == "own":
            raise InputError("grid", "'own'", "'source' for a map of regions, which have no grid")
        cells = _mean(values[np.broadcast_to(positions.numbers, positions.input_shape)])
    else:
        window = as_sliding(positions)
        cells = _mean(values.reshape(window.counts))
        if grid == "own":
            sizes = (window.shape, window.strides, window.counts)
            geometry = geometry.of_grid(*(_of_axes(each[1:], depth) for each in sizes))
        else:
            for axis in range(cells.ndim):
                cells = cells.take(window.nearest(axis + 1), axis=axis)
    return np.expand_dims(cells, depth) if is_picture else cells, geometry


def _mean(values: AnyArray) -> AnyArray:
    """The mean of known values over the channels; NaN where none is known."""
    count = (~np.isnan(values)).sum(0)
    return np.where(count > 0, np.nansum(values, 0) / np.maximum(count, 1), np.nan).astype(np.float32)


def _of_axes(sizes: tuple[int, ...], depth: int) -> tuple[int, int, int]:
    """Sizes along the three axes of a geometry, of which a picture lacks that of the slices."""
    first, second, third = sizes if len(sizes) == 3 else (*sizes[:depth], 1, *sizes[depth:])
    return first, second, third
