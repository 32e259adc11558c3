"""Files that a command reads and writes: ``--out`` and ``--tuning``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from krypton_engine.common.files import destination
from krypton_engine.errors import InputError

if TYPE_CHECKING:
    from krypton_engine.heatmap.heatmap import Heatmap
    from krypton_engine.heatmap.picture import Drawing
    from krypton_engine.medical import Scan
    from krypton_engine.tuning.tuning import Tuning
    from krypton_engine.zoo.pixels import ImageLike


def check_outputs(paths: Sequence[Path], endings: dict[str, str], images: Sequence[str]) -> None:
    """Refuse files that cannot be written, before the work and not after.

    Examples:
        >>> check_outputs([Path("map.gif")], {".png": "a picture"}, images=["bird.png"])
        Traceback (most recent call last):
        krypton_engine.errors.InputError: --out is 'map.gif'; accepted: names that end in .png (a picture)
    """
    for path in paths:
        if any(_same_file(path, image) for image in images):
            raise InputError("--out", repr(str(path)), problem="an IMAGE, which would be lost")
        try:
            destination(path, endings)
        except InputError as error:
            raise error.named("--out") from None
        # A file is written beside what is there, and then put in its place.
        where = [path.resolve().parent, *([path] if path.exists() else [])]
        if path.is_dir() or not all(os.access(each, os.W_OK) for each in where):
            raise InputError("--out", repr(str(path)), problem="which cannot be written")


def ending(path: Path) -> str:
    """The ending of a file's name, in small letters.

    Examples:
        >>> ending(Path("map.PNG"))
        '.png'
    """
    return path.suffix.lower()


def _same_file(path: Path, other: str) -> bool:
    return path.is_file() and os.path.isfile(other) and path.samefile(other)


def save(
    heatmap: Heatmap, paths: Sequence[Path], picture: ImageLike | None, title: str, source: Scan | None = None
) -> None:
    """Write a heatmap to all paths, the numbers first; a path that fails spares the others.

    Args:
        heatmap: The map.
        paths: Where to.
        picture: Picture to draw over; None for the map's input.
        title: Words above the picture.
        source: The scan that the map is of, if it is of one.

    Examples:
        >>> save(heatmap, [Path("map.npz")], np.zeros((24, 20, 3), np.uint8), title="cat")
        >>> Path("map.npz").exists()
        True
    """
    from krypton_engine.heatmap.files import PICTURES
    from krypton_engine.heatmap.placed import CAPTURE

    faults = []
    for path in sorted(paths, key=ending):
        try:
            drawn = path.name.lower().endswith((*PICTURES, CAPTURE))
            drawing: Drawing = {"image": picture, "title": title} if drawn else {}
            heatmap.save(path, source=source, **drawing)
        except Exception as error:
            faults.append(error)
    if faults:
        raise faults[0]


def read_tuning(option: str, path: str | Path) -> Tuning:
    """The tuning in a file, for the option of that name.

    Examples:
        >>> tuning.save("birds.json")
        >>> read_tuning("--tuning", "birds.json") == tuning
        True
    """
    from krypton_engine.tuning.tuning import Tuning

    try:
        return Tuning.load(path)
    except InputError as error:
        raise error.named(option) from None
