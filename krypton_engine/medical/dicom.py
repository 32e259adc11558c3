"""DICOM: single images, files of several frames, and series of files, in the scanner's own numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.packages import imported
from krypton_engine.common.text import one_line
from krypton_engine.errors import InputError
from krypton_engine.medical.geometry import Geometry
from krypton_engine.medical.headers import needed, quiet
from krypton_engine.medical.planes import Plane, in_order
from krypton_engine.medical.scan import Scan

if TYPE_CHECKING:
    from pydicom import Dataset

_MAGIC = 128, b"DICM"
"""Place and text by which a DICOM file is known, whatever its name."""


def is_dicom(path: Path) -> bool:
    """Whether a file says of itself that it is DICOM; False for one that cannot be read.

    Examples:
        >>> _ = Path("scan").write_bytes(bytes(128) + b"DICM")
        >>> is_dicom(Path("scan"))
        True
    """
    start, magic = _MAGIC
    try:
        with path.open("rb") as file:
            return file.read(start + len(magic))[start:] == magic
    except OSError:
        return False


def is_series(paths: Sequence[Path]) -> bool:
    """Whether files are slices of one series, as far as their headers say; False for what cannot be read.

    Args:
        paths: The files, at least two.

    Examples:
        >>> is_series([Path("a.dcm"), Path("b.dcm")])
        False
    """
    pydicom = imported("pydicom", "medical")
    tags = ["SeriesInstanceUID", "ImagePositionPatient"]
    try:
        with quiet():
            found = [pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags) for path in paths]
        return all("ImagePositionPatient" in each for each in found) and (
            len({each.SeriesInstanceUID for each in found}) == 1
        )
    except Exception:  # of whatever is damaged, which is told when the file is read as an image
        return False


@contextmanager
def _understood() -> Iterator[None]:
    """Faults of a header, whose texts may quote it, raised as faults of the source; no warnings either."""
    try:
        with quiet():
            yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pydicom reads a value when it is asked for, and finds faults then
        problem = f"with a header that cannot be understood: {type(error).__name__}"
        raise InputError("source", "DICOM", problem=problem) from None


@_understood()
def read_folder(folder: Path) -> Scan:
    """The volume of the one series in a folder, whose other files, and folders, are left alone.

    Raises:
        InputError: The folder holds no DICOM images, several series, or one that makes no volume.

    Examples:
        >>> read_folder(Path("."))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: source is '.', a folder without DICOM images
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and is_dicom(path))
    read = [_read(file) for file in files]
    images = [image for image in read if _has_cells(image)]
    if not images:
        deeper = ", whose own folders are not looked into" * any(path.is_dir() for path in folder.iterdir())
        raise InputError("source", repr(str(folder)), problem=f"a folder without DICOM images{deeper}")
    kinds = {image.file_meta.get("MediaStorageSOPClassUID") for image in images}
    for file, image in zip(files, read, strict=True):  # reports and directories are of other kinds
        if not _has_cells(image) and image.file_meta.get("MediaStorageSOPClassUID") in kinds:
            raise InputError("source", repr(str(file)), problem="which is cut short")
    return _volume(images)


@_understood()
def read_files(paths: Sequence[Path]) -> Scan:
    """The volume of the series in these files.

    Raises:
        InputError: A file is no DICOM image, or together they make no volume.

    Examples:
        >>> read_files([Path("missing.dcm")])
        Traceback (most recent call last):
        krypton_engine.errors.InputError: source is 'missing.dcm', which cannot be read: FileNotFoundError
    """
    return _volume([_image(path) for path in paths])


@_understood()
def read_file(path: Path) -> Scan:
    """The picture in a file, or the volume of its frames.

    Raises:
        InputError: The file is no DICOM image, or its frames make no volume.

    Examples:
        >>> _ = Path("scan.dcm").write_bytes(b"something else")
        >>> read_file(Path("scan.dcm"))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: source is 'scan.dcm', which is no DICOM file
    """
    image = _image(path)
    if int(image.get("NumberOfFrames") or 1) > 1:
        return _volume([image])
    cells, levels = _values(image)
    return Scan.of(cells[:, 0], _geometry_of_picture(image), levels)


def _image(path: Path) -> Dataset:
    image = _read(path)
    if not _has_cells(image):
        raise InputError("source", repr(str(path)), problem="a DICOM file without an image")
    return image


def _has_cells(image: Dataset) -> bool:
    return bool(image.get("Rows") and image.get("Columns"))


def _read(path: Path) -> Dataset:
    """The header and the pixels of a file, which are decoded later."""
    pydicom = imported("pydicom", "medical")
    name = repr(str(path))
    try:
        return pydicom.dcmread(path)  # type: ignore[no-any-return]
    except pydicom.errors.InvalidDicomError:
        raise InputError("source", name, problem="which is no DICOM file") from None
    except Exception as error:  # whose text may quote the header
        problem = f"which cannot be read: {type(error).__name__}"
        raise InputError("source", name, problem=problem) from None


def _volume(images: Sequence[Dataset]) -> Scan:
    """The volume of the frames of one series, in order."""
    images = list({str(image.get("SOPInstanceUID", id(image))): image for image in images}.values())
    _check_one_series(images)
    planes = [plane for image in images for plane in _planes(image)]
    order, geometry = in_order(planes, (int(images[0].Rows), int(images[0].Columns)))
    if len(images) == len(planes):
        images, order = [images[i] for i in order], np.arange(len(images))
    place, begun = np.argsort(order), 0
    for image in images:
        values, found = _values(image)
        if not begun:
            cells, levels = np.empty((len(values), *geometry.shape), np.float32), found
        cells[:, place[begun : begun + values.shape[1]]] = values
        begun += values.shape[1]
    return Scan.of(cells, replace(geometry, series=tuple(map(needed, images))), levels)


def _check_one_series(images: Sequence[Dataset]) -> None:
    """Refuse images that are of several series, or that differ in size or kind."""
    series = Counter(str(image.get("SeriesInstanceUID")) for image in images)
    if len(series) > 1:
        counts = " and ".join(f"{count} images" for count in sorted(series.values(), reverse=True))
        raise InputError(
            "source",
            f"{len(series)} series: {counts}",
            "one series: a folder of its files, or a list of them",
            verb="has",
        )
    for keyword, words in (("Rows", "rows"), ("Columns", "columns"), ("SamplesPerPixel", "channels")):
        values = sorted({int(image.get(keyword) or 1) for image in images})
        if len(values) > 1:
            given = f"images of {' and '.join(map(str, values))} {words}"
            raise InputError("source", given, "images of one size", verb="has")
    if len({str(image.get("FrameOfReferenceUID")) for image in images}) > 1:
        raise InputError("source", "images of several frames of reference", "one of them", verb="has")


def _said(image: Dataset, frame: int, group: str, keyword: str) -> Any:
    """The value of a keyword for a frame: of the frame's own group, of all frames', or of the image."""
    for sequence, which in (
        ("PerFrameFunctionalGroupsSequence", frame),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        items = image.get(sequence)
        groups = items[which] if items and which < len(items) else {}
        for item in groups.get(group) or ():
            if item.get(keyword) is not None:
                return item.get(keyword)
    return image.get(keyword)


def _planes(image: Dataset) -> list[Plane]:
    """Where every frame of an image lies."""
    planes = []
    for frame in range(int(image.get("NumberOfFrames") or 1)):
        position, orientation, spacing = (
            _numbers(_said(image, frame, group, keyword), count)
            for group, keyword, count in (
                ("PlanePositionSequence", "ImagePositionPatient", 3),
                ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
                ("PixelMeasuresSequence", "PixelSpacing", 2),
            )
        )
        if position is None or orientation is None or spacing is None:
            given = "images without ImagePositionPatient, ImageOrientationPatient or PixelSpacing"
            raise InputError("source", given, "images that say where they lie", verb="has")
        thickness = next(
            (
                mm[0]
                for keyword in ("SliceThickness", "SpacingBetweenSlices")
                if (mm := _numbers(_said(image, frame, "PixelMeasuresSequence", keyword), 1)) and mm[0] > 0
            ),
            1.0,
        )
        along_row, along_column = (
            tuple(np.divide(each, np.linalg.norm(each) or 1.0)) for each in (orientation[:3], orientation[3:])
        )
        if abs(np.linalg.norm(np.cross(along_row, along_column)) - 1) > 1e-3 or min(spacing) <= 0:
            given = "images whose rows and columns are not perpendicular, or whose pixels have no size"
            raise InputError("source", given, "directions and sizes that DICOM allows", verb="has")
        planes.append(Plane(tuple(position), along_row, along_column, tuple(spacing), thickness))  # type: ignore[arg-type]
    return planes


def _numbers(given: Any, count: int) -> list[float] | None:
    """Finite numbers out of a header; None for anything else."""
    try:
        values = [float(each) for each in (given if isinstance(given, Iterable) else (given,))]
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _geometry_of_picture(image: Dataset) -> Geometry:
    """The place of a single image; of a radiograph, which has none, the size of its pixels."""
    size, header = (int(image.Rows), int(image.Columns)), needed(image)
    try:
        _, geometry = in_order(_planes(image), size)
    except InputError:
        known = (_numbers(image.get(keyword), 2) for keyword in ("PixelSpacing", "ImagerPixelSpacing"))
        rows, columns = next((mm for mm in known if mm and min(mm) > 0), (1.0, 1.0))
        geometry = Geometry.of_spacing((1, *size), (1.0, rows, columns))
        header.pop("FrameOfReferenceUID", None)  # of no use without a place in it
    return replace(geometry, series=(header,))


def _values(image: Dataset) -> tuple[AnyArray, tuple[float, float] | None]:
    """Float32 values ``(channels, frames, rows, columns)``, the brighter the greater, and their levels."""
    stored = _stored(image)
    pixels = imported("pydicom.pixels", "medical")
    if "ModalityLUTSequence" in image:
        values = pixels.apply_modality_lut(stored, image).astype(np.float64)
        low, high = float(values.min()), float(values.max())
    else:
        slopes, intercepts = (
            np.array([
                (_numbers(_said(image, frame, "PixelValueTransformationSequence", keyword), 1) or [usual])[0]
                for frame in range(len(stored))
            ])
            for keyword, usual in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
        )  # fmt: skip
        values = stored * slopes[:, None, None, None] + intercepts[:, None, None, None]
        low, high = (float(end * slopes[0] + intercepts[0]) for end in _range(image))
    levels = _levels(image)
    if stored.shape[-1] > 1:
        levels = 0.0, float(np.iinfo(stored.dtype).max)
    if image.get("PhotometricInterpretation") == "MONOCHROME1":  # the smallest number is white
        values = low + high - values
        levels = None if levels is None else (low + high - levels[1], low + high - levels[0])
    return np.moveaxis(values.astype(np.float32), -1, 0), levels


def _stored(image: Dataset) -> AnyArray:
    """The numbers in a file: ``(frames, rows, columns, channels)``."""
    pixels = imported("pydicom.pixels", "medical")
    try:
        stored: AnyArray = pixels.pixel_array(image)
        if image.get("PhotometricInterpretation") == "PALETTE COLOR":
            stored = pixels.apply_color_lut(stored, image)
    except Exception as error:
        problem = f"which cannot be decoded: {one_line(error)}"
        raise InputError("source", repr(str(image.filename)), problem=problem) from None
    frames = int(image.get("NumberOfFrames") or 1)
    return stored.reshape(frames, int(image.Rows), int(image.Columns), -1)


def _range(image: Dataset) -> tuple[float, float]:
    """The smallest and the largest number that the bits of a cell can hold."""
    bits = int(image.get("BitsStored") or 16)
    low = -(2 ** (bits - 1)) if image.get("PixelRepresentation") == 1 else 0
    return float(low), float(low + 2**bits - 1)


def _levels(image: Dataset) -> tuple[float, float] | None:
    """The numbers that are black and white by the first window of the first frame; None without one."""
    centre, width = (
        _said(image, 0, "FrameVOILUTSequence", keyword) for keyword in ("WindowCenter", "WindowWidth")
    )
    found = _numbers([np.atleast_1d(each)[0] for each in (centre, width)], 2)
    if found is None or found[1] <= 0:
        return None
    if _said(image, 0, "FrameVOILUTSequence", "VOILUTFunction") in (None, "LINEAR"):
        found = [found[0] - 0.5, max(found[1] - 1, 1e-6)]  # as DICOM defines it: PS3.3, C.11.2.1.2
    return found[0] - found[1] / 2, found[0] + found[1] / 2
