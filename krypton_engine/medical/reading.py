"""The way in: anything that holds a scan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from krypton_engine.common.files import ending_of
from krypton_engine.errors import InputError
from krypton_engine.medical import dicom, nifti, plain, tiff
from krypton_engine.medical.geometry import Order
from krypton_engine.medical.scan import Scan

_ACCEPTED = (
    "a NIfTI file, a folder of one DICOM series or a list of its files, a DICOM, TIFF or OME-TIFF file, a "
    "PNG, an .npy, an array, or MONAI's MetaTensor"
)

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm")

ENDINGS = (".nii", ".nii.gz", ".npy", ".ome.tif", ".ome.tiff")
"""Endings of files that hold scans and no pictures."""


def is_scan(name: str) -> bool:
    """Whether a path is taken for a scan's: a folder, for its DICOM files, or a file that holds no picture.

    Args:
        name: The path, or an address such as ``s3://...``, of which the ending alone tells.

    Examples:
        >>> is_scan("scan.NII.gz"), is_scan("."), is_scan("photo.png")
        (True, True, False)
    """
    return os.path.isdir(name) or ending_of(Path(name), ENDINGS) != ""


def read_scan(source: Any, *, affine: npt.ArrayLike | None = None, order: Order | None = None) -> Scan:
    """Reads a scan: its numbers as the scanner gave them, and where they lie.

    Of every file, the axes are channels, slices, rows and columns, ``(C, D, H, W)``. In NIfTI, whose axes are
    i, j and k, columns are i, rows j and slices k; slices of DICOM rise along the normal of the first. A file
    of one image is a picture, ``(C, H, W)``. Numbers are float32: Hounsfield units, or whatever the file's
    slope and intercept make of what is stored; the brighter the greater (``MONOCHROME1`` is turned round).
    MONAI's tensors keep their own order, ``(C, W, H, D)``.

    Args:
        source: The path of

            - a NIfTI file, ``.nii`` or ``.nii.gz``; a fourth axis is the channels';
            - a folder with the files of one DICOM series, in any order and under any names;
            - a DICOM file: an image, or frames that make a volume;
            - a TIFF or an OME-TIFF; a PNG of 8 or 16 bits; an ``.npy``;

            or a list of the paths of a DICOM series, an array or a tensor ``(H, W)``, ``(D, H, W)`` or
            ``(C, D, H, W)``, MONAI's ``MetaTensor`` without a batch, or a `Scan`.
        affine: For arrays, which have no place of their own: from the indices of slice, row and column to
            millimetres to the right, forward and up (RAS).
        order: Order of the axes that are returned: ``"WHD"`` for networks that learnt from MONAI's loaders;
            by default ``"DHW"``, and for a ``MetaTensor`` ``"WHD"``.

    Returns:
        The scan.

    Raises:
        InputError: The source cannot be read, is no scan, or its slices have gaps, duplicates or several
            orientations.

    Examples:
        >>> read_scan(np.zeros((40, 64, 64)), affine=np.diag([3.0, 0.5, 0.5, 1.0]))
        Scan(1 x 40 x 64 x 64, 3 x 0.5 x 0.5 mm)
    """
    is_array = isinstance(source, (np.ndarray, Tensor)) and not plain.is_meta_tensor(source)
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
    if affine is not None and not is_array and Path(name).suffix.lower() != ".npy":
        raise InputError("affine", "given", "none for a source that has its own")
    if isinstance(source, Scan):
        scan = source
    elif plain.is_meta_tensor(source):
        scan = plain.of_meta_tensor(source)
    elif is_array:
        scan = plain.of_array(source if isinstance(source, np.ndarray) else plain.numpy_of(source), affine)
    elif name:
        scan = _read(Path(name), affine)
    elif isinstance(source, Sequence) and source and all(isinstance(p, (str, os.PathLike)) for p in source):
        scan = dicom.read_files([Path(path) for path in source])
    else:
        raise InputError("source", f"{type(source).__name__}", _ACCEPTED)
    return scan if order is None else scan.arranged(order)


def _read(path: Path, affine: npt.ArrayLike | None) -> Scan:
    """The scan in a file or a folder."""
    name = path.name.lower()
    try:
        if path.is_dir():
            return dicom.read_folder(path)
        if not path.is_file():
            raise InputError("source", repr(str(path)), _ACCEPTED, "which does not exist")
        if name.endswith((".nii", ".nii.gz")):
            return nifti.read(path)
        if name.endswith((".tif", ".tiff")):
            return tiff.read(path)
        if name.endswith(".npy"):
            return plain.read_array(path, affine)
        if name.endswith(_PICTURES):
            return plain.read_picture(path)
        if dicom.is_dicom(path) or name.endswith((".dcm", ".dicom", ".ima")):
            return dicom.read_file(path)
    except OSError as error:
        problem = f"which cannot be read: {error.strerror or type(error).__name__}"
        raise InputError("source", repr(str(path)), problem=problem) from None
    raise InputError("source", repr(str(path)), _ACCEPTED, "which is of another kind")
