"""Pictures: files, photographs that lie in packages, and slices of a brain template."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from krypton_engine.common.packages import imported
from krypton_engine.common.text import one_line
from krypton_engine.errors import InputError
from krypton_engine.medical import read_scan
from krypton_engine.medical.dicom import is_dicom
from krypton_engine.zoo.messages import near
from krypton_engine.zoo.packages import packaged
from krypton_engine.zoo.preprocess import stretched

if TYPE_CHECKING:
    import PIL.Image
    from numpy.typing import NDArray

SOURCE = "krypton source"
"""Key of a picture's ``info`` under which `load_image` notes what was asked for."""

DEMO_IMAGE = "mri:axial:100"
"""The slice that ``krypton demo`` explains: no tumour (0.998); below 0.01 with deep structures covered."""

# name: package, distribution, file in the package
_PHOTOGRAPHS = {
    "astronaut": ("skimage", "scikit-image", "data/astronaut.png"),
    "camera": ("skimage", "scikit-image", "data/camera.png"),
    "chelsea": ("skimage", "scikit-image", "data/chelsea.png"),
    "china": ("sklearn", "scikit-learn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "scikit-image", "data/coffee.png"),
    "flower": ("sklearn", "scikit-learn", "datasets/images/flower.jpg"),
    "grace_hopper": ("matplotlib", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "motorcycle": ("skimage", "scikit-image", "data/motorcycle_left.png"),
    "retina": ("skimage", "scikit-image", "data/retina.jpg"),
    "rocket": ("skimage", "scikit-image", "data/rocket.jpg"),
}
TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_PLANES = ("sagittal", "coronal", "axial")  # across the template's axes: to the right, forward, up
_LISTED_SLICES = {"axial": range(40, 161, 10), "coronal": range(30, 171, 20), "sagittal": range(40, 161, 20)}
_FIELD_OF_VIEW = 200  # millimetres, and pixels; the brain measures 145 x 181 x 155


def image_names() -> list[str]:
    """Names that ``load_image`` knows: the photographs, and some of the slices (every index works).

    Examples:
        >>> image_names()[:3]
        ['astronaut', 'camera', 'chelsea']
    """
    slices = [f"mri:{plane}:{i}" for plane, some in _LISTED_SLICES.items() for i in some]
    return [*_PHOTOGRAPHS, *slices, *(f"{name}+lesion" for name in slices)]


def load_image(source: str | os.PathLike[str]) -> PIL.Image.Image:
    """Loads a picture.

    Args:
        source: The path of an image file, DICOM too, or one of

            - ``"mri:axial:NN"``, ``"mri:coronal:NN"``, ``"mri:sagittal:NN"``: a slice of the MNI152 T1 brain
              template at 1 mm, brain only, 200 x 200 pixels, as radiologists look at it (the patient's right
              on the left; in sagittal slices the face to the left), around it exactly 0. ``NN`` counts
              millimetres from the feet, the back and the patient's left;
            - the same with ``"+lesion"``: a synthetic lesion drawn into it;
            - a photograph: see ``image_names``.

            A file of that name comes first.

    Returns:
        An 8-bit RGB picture. Files with more bits are brought to 8 by their smallest and largest value, DICOM
        by its window and level; `krypton_engine.medical.read_scan` gives all bits.

    Raises:
        InputError: The name is unknown, the file cannot be read, or a package is missing.

    Examples:
        >>> load_image("camera").size
        (512, 512)
    """
    if not isinstance(source, (str, os.PathLike)):
        raise InputError("source", type(source).__name__, "a path or a name")
    picture = _read(os.fspath(source))
    picture.info[SOURCE] = os.fspath(source)
    return picture


def _read(name: str) -> PIL.Image.Image:
    if os.path.isfile(name):  # unlike Path's, False for a name that cannot be a path
        path = Path(name)
        return _read_dicom(path) if is_dicom(path) else _read_image(path)
    if name in _PHOTOGRAPHS:
        package, distribution, file = _PHOTOGRAPHS[name]
        return _read_image(packaged(package, file, distribution))
    if name.startswith("mri:"):
        return _mri_slice(name)
    raise InputError(
        "source",
        repr(name),
        f'an image file, "mri:axial:NN" (coronal, sagittal), {", ".join(_PHOTOGRAPHS)}',
        f"neither a file nor a known name{near(name, image_names())}",
    )


def _read_image(path: Path) -> PIL.Image.Image:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.load()
            image.getexif()  # kept by now: how the picture lies; it need not be written again
            image.info.pop("exif", None)
            upright = ImageOps.exif_transpose(image)
        if not upright.mode.startswith(("I", "F")):
            return upright.convert("RGB")
        pixels = np.array(upright, dtype=np.float32)  # more than 8 bits; PIL would cut off above 255
    except Exception as error:  # every decoder has its own
        raise InputError(
            "source", repr(os.fspath(path)), problem=f"which cannot be read as an image: {one_line(error)}"
        ) from error
    if not np.isfinite(pixels).all():
        raise InputError("source", repr(os.fspath(path)), problem="which holds NaN or infinite pixels")
    return Image.fromarray(stretched(torch.from_numpy(pixels)[None]))


def _read_dicom(path: Path) -> PIL.Image.Image:
    from PIL import Image

    scan = read_scan(path)
    if not scan.is_picture:
        problem = "a volume, of which read_scan of krypton_engine.medical takes all slices"
        raise InputError("source", repr(os.fspath(path)), "a picture", problem)
    pixels = scan.bytes()
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).convert("RGB")


def _mri_slice(name: str) -> PIL.Image.Image:
    from PIL import Image

    plane, _, rest = name.removeprefix("mri:").partition(":")
    number, plus, extra = rest.partition("+")
    if plane not in _PLANES or not number.isdecimal() or plus + extra not in ("", "+lesion"):
        raise InputError(
            "source",
            repr(name),
            f'"mri:PLANE:NN" or "mri:PLANE:NN+lesion" with PLANE one of {", ".join(_PLANES)}',
            "which is no slice",
        )
    axis, index = _PLANES.index(plane), int(number)
    brain = _template()
    first, last = _extent(brain, axis)
    if not first <= index <= last:
        raise InputError("source", repr(name), f"{plane} slices {first} to {last}", "which misses the brain")
    # Rows go down and columns to the viewer's right; the template's axes go to the patient's right, forward
    # and up. Hence all are reversed: the patient's right is on the left, the face on top or on the left.
    pixels = np.moveaxis(brain, axis, 0)[index, ::-1, ::-1].T
    if extra:
        pixels = _with_lesion(pixels)
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


@functools.lru_cache(maxsize=1)
def _template() -> NDArray[np.uint8]:
    """The brain in the middle of a cube as wide as the field of view."""
    nibabel = imported("nibabel")
    image = nibabel.as_closest_canonical(nibabel.load(packaged("nilearn", TEMPLATE, "nilearn")))
    brain = np.asarray(image.dataobj, dtype=np.uint8)
    cube = np.zeros((_FIELD_OF_VIEW,) * 3, np.uint8)
    source, target = [], []
    for axis in range(3):
        first, last = _extent(brain, axis)
        start = (_FIELD_OF_VIEW - (last + 1 - first)) // 2
        source.append(slice(first, last + 1))
        target.append(slice(start, start + last + 1 - first))
    cube[tuple(target)] = brain[tuple(source)]
    cube.setflags(write=False)
    return cube


def _extent(brain: NDArray[np.uint8], axis: int) -> tuple[int, int]:
    """The first and the last slice across ``axis`` that holds something."""
    indices = np.flatnonzero(np.moveaxis(brain, axis, 0).any(axis=(1, 2)))
    return int(indices[0]), int(indices[-1])


def _with_lesion(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draws a lesion: a bright lobed mass with soft edges, and a dark swelling of the brain around it."""
    rows, columns = np.nonzero(pixels)
    width, height = np.ptp(columns), np.ptp(rows)
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    y, x = y - (rows.min() + 0.35 * height), x - (columns.min() + 0.72 * width)
    angle = np.arctan2(y, x)
    radius = 0.15 * width * (1 + 0.08 * np.sin(3 * angle) + 0.04 * np.cos(5 * angle))
    distance = np.hypot(y, x) / radius

    swelling = 0.4 * np.exp(-4 * np.maximum(distance - 1, 0) ** 2)
    mass = np.clip((1.1 - distance) / 0.25, 0, 1)
    mixed = pixels * (1 - swelling) * (1 - mass) + (215 + 0.15 * pixels) * mass
    return np.where(pixels > 0, np.clip(np.rint(mixed), 1, 255), 0).astype(np.uint8)
