"""Scans without files of their own kind: arrays, tensors, MONAI's tensors with an affine, and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.packages import imported
from krypton_engine.common.text import one_line
from krypton_engine.errors import InputError
from krypton_engine.medical.geometry import LPS, Geometry
from krypton_engine.medical.scan import Scan

_SHAPES = {2: "picture", 3: "volume", 4: "volume of several channels"}


def of_array(cells: AnyArray, affine: npt.ArrayLike | None) -> Scan:
    """The scan of an array: ``(rows, columns)``, ``(slices, rows, columns)`` or ``(channels, slices, ...)``.

    Args:
        cells: Real numbers.
        affine: From indices of slice, row and column to millimetres (RAS); None for cells of 1 mm.

    Raises:
        InputError: An array of another shape or type, or an affine that is none.

    Examples:
        >>> of_array(np.zeros((5, 8, 8)), np.diag([3.0, 1.0, 1.0, 1.0]))
        Scan(1 x 5 x 8 x 8, 3 x 1 x 1 mm)
    """
    if cells.ndim not in _SHAPES or not cells.size or cells.dtype.kind not in "buif":
        raise InputError(
            "source",
            f"an array of shape {cells.shape} and type {cells.dtype}",
            "real numbers: (rows, columns), (slices, rows, columns) or (channels, slices, rows, columns)",
        )
    channels = cells if cells.ndim == 4 else cells[None]
    shape = (1, *cells.shape) if cells.ndim == 2 else cells.shape[-3:]
    geometry = Geometry.of_spacing(shape) if affine is None else Geometry(affine, shape)  # type: ignore[arg-type]
    return Scan.of(channels, geometry)


def numpy_of(tensor: Tensor) -> AnyArray:
    """The numbers of a tensor, of any device and type, as NumPy has them.

    Examples:
        >>> numpy_of(torch.ones(2, dtype=torch.bfloat16))
        array([1., 1.], dtype=float32)
    """
    cells = tensor.detach().cpu()
    return np.asarray((cells.float() if cells.is_floating_point() else cells).numpy())


def of_meta_tensor(tensor: Any) -> Scan:
    """The scan of MONAI's ``MetaTensor``, ``(C, W, H, D)`` as its loaders leave it, with its affine.

    Raises:
        InputError: The tensor has another shape.

    Examples:
        >>> from monai.data import MetaTensor
        >>> affine = torch.diag(torch.tensor([1.0, 1.0, 3.0, 1.0]))
        >>> scan = of_meta_tensor(MetaTensor(torch.zeros(1, 8, 6, 4), affine=affine))
        >>> scan, scan.geometry.order
        (Scan(1 x 8 x 6 x 4, 1 x 1 x 3 mm), 'WHD')
    """
    cells = numpy_of(tensor)
    if cells.ndim not in (3, 4):
        accepted = "(channels, columns, rows, slices) or (channels, columns, rows), as of EnsureChannelFirst"
        raise InputError("source", f"a MetaTensor of shape {cells.shape}", f"{accepted}, without a batch")
    shape = cells.shape[1:] if cells.ndim == 4 else (*cells.shape[1:], 1)
    given = np.asarray(tensor.affine.cpu(), dtype=np.float64)
    affine = np.eye(4)
    rank = len(given) - 1
    affine[:rank, :rank], affine[:rank, 3] = given[:rank, :rank], given[:rank, rank]
    if str(tensor.meta.get("space", "RAS")).upper().endswith("LPS"):
        affine = LPS @ affine
    return Scan.of(cells, Geometry(affine, shape, "WHD"))


def read_array(path: Path, affine: npt.ArrayLike | None) -> Scan:
    """The scan of an array in an ``.npy``, as `of_array` takes it.

    Raises:
        InputError: The file holds none.

    Examples:
        >>> np.save("scan.npy", np.zeros((5, 8, 8), np.int16))
        >>> read_array(Path("scan.npy"), affine=None)
        Scan(1 x 5 x 8 x 8, 1 x 1 x 1 mm)
    """
    try:
        cells = np.load(path, allow_pickle=False)
    except Exception as error:
        problem = f"which cannot be read as an array: {one_line(error)}"
        raise InputError("source", repr(str(path)), problem=problem) from None
    return of_array(cells, affine)


def read_picture(path: Path) -> Scan:
    """The picture in a PNG or another file that Pillow reads, in its own numbers: 16 bits stay 16 bits.

    Raises:
        InputError: The file is no picture.

    Examples:
        >>> from PIL import Image
        >>> Image.fromarray(np.array([[0, 40000]], np.uint16)).save("scan.png")
        >>> read_picture(Path("scan.png")).tensor
        tensor([[[    0., 40000.]]])
    """
    image_of, name = imported("PIL.Image", "medical"), repr(str(path))
    try:
        with image_of.open(path) as image:
            image.load()
            if image.mode in ("P", "PA", "RGBA", "CMYK", "YCbCr", "LA", "1"):
                image = image.convert("L" if image.mode in ("LA", "1") else "RGB")
            cells = np.asarray(image)
    except Exception as error:
        problem = f"which cannot be read as a picture: {one_line(error)}"
        raise InputError("source", name, problem=problem) from None
    channels = cells[None] if cells.ndim == 2 else np.moveaxis(cells, -1, 0)
    levels = (0.0, 255.0) if cells.dtype == np.uint8 else None
    return Scan.of(channels, Geometry.of_spacing((1, *cells.shape[:2])), levels)


def is_meta_tensor(source: object) -> bool:
    """Whether this is MONAI's tensor, which is known without importing MONAI.

    Examples:
        >>> is_meta_tensor(torch.zeros(1))
        False
    """
    return isinstance(source, Tensor) and hasattr(source, "affine") and hasattr(source, "meta")
