"""NIfTI files by nibabel: ``.nii`` and ``.nii.gz``."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.packages import imported
from krypton_engine.common.text import one_line
from krypton_engine.errors import InputError
from krypton_engine.medical.geometry import Geometry, turned
from krypton_engine.medical.headers import DESCRIPTION
from krypton_engine.medical.scan import Scan

_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
"""Millimetres in a unit of length."""


def read(path: Path) -> Scan:
    """The volume in a file; a fourth axis is the channels'.

    Raises:
        InputError: The file cannot be read, or holds no volume of real numbers.

    Examples:
        >>> import nibabel
        >>> nibabel.save(nibabel.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), "scan.nii.gz")
        >>> read(Path("scan.nii.gz")).tensor.shape
        torch.Size([1, 2, 3, 4])
    """
    nibabel, name = imported("nibabel", "medical"), repr(str(path))
    try:
        image = nibabel.load(path)
        cells = np.asanyarray(image.dataobj)
        unit = image.header.get_xyzt_units()[0]
    except Exception as error:
        problem = f"which cannot be read as NIfTI: {one_line(error)}"
        raise InputError("source", name, problem=problem) from None
    shape = cells.shape
    if len(shape) == 5 and shape[3] == 1:  # vectors: the fourth axis is time
        cells = cells[:, :, :, 0]
    cells = cells[..., None] if cells.ndim == 2 else cells
    if cells.ndim not in (3, 4) or not cells.size or cells.dtype.kind not in "buif":
        given = f"{name}, {' x '.join(map(str, shape)) or 'nothing'} of {cells.dtype}"
        raise InputError("source", given, "a volume of real numbers, or one of several channels")
    affine = np.diag([*[_MILLIMETRES[unit]] * 3, 1.0]) @ image.affine
    try:
        geometry = Geometry(affine, cells.shape[:3], "WHD").arranged("DHW")
    except InputError as error:
        raise InputError("source", name, problem=f"whose {error}") from None
    channels = cells[None] if cells.ndim == 3 else np.moveaxis(cells, -1, 0)
    return Scan.of(turned(channels, "WHD", "DHW"), geometry)


def written(cells: AnyArray, geometry: Geometry, zipped: bool) -> bytes:
    """The bytes of a file with a volume, its affine and nothing else.

    Args:
        cells: The numbers, of the geometry's shape.
        geometry: Place of the cells.
        zipped: Whether the file is a ``.nii.gz``.

    Examples:
        >>> import nibabel
        >>> content = written(np.zeros((2, 3, 4)), Geometry.of_spacing((2, 3, 4)), zipped=False)
        >>> nibabel.Nifti1Image.from_bytes(content).shape
        (4, 3, 2)
    """
    nibabel = imported("nibabel", "medical")
    geometry, cells = geometry.arranged("WHD"), turned(cells, geometry.order, "WHD")
    image = nibabel.Nifti1Image(cells.astype(np.float32), geometry.affine)
    image.header.set_xyzt_units("mm")
    # The one affine: the other's quaternion, in float32, may be off by tenths of a millimetre.
    image.set_sform(geometry.affine, code="scanner")
    image.set_qform(None, code="unknown")
    image.header["descrip"] = DESCRIPTION.encode()
    content: bytes = image.to_bytes()
    return gzip.compress(content, compresslevel=6, mtime=0) if zipped else content
