"""Sources of a collection: a folder, a manifest, or pairs of an id and an array."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krypton_engine.collection.layout import ASKED
from krypton_engine.common.arguments import whole
from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.files import ending_of
from krypton_engine.common.packages import imported
from krypton_engine.common.text import one_line
from krypton_engine.errors import InputError
from krypton_engine.medical.dicom import is_dicom, is_series

MANIFESTS = (".csv", ".parquet")
"""Endings of manifests."""

COLUMNS = ("id", "path", "target", "region", "group")
"""Columns that a manifest may have; ``path`` has to be there, and others are left alone."""

_NOT_PIL = (".dcm", ".nii", ".nii.gz")
"""Endings of images that PIL does not read."""

_NAMED = 5
"""Names that a message lists."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source.

    Attributes:
        id: The name of its row.
        path: Path or fsspec address of its file, or the folder of a DICOM series; empty for an array.
        array: The model's input without a batch dimension; None for a file.
        target: Class to explain, a name or an index in words; empty for the call's own.
        region: Box ``(top, left, bottom, right)`` that positions have to touch; None for all positions.
        group: Name of a group, for mean maps; empty for none.
    """

    id: str
    path: str = ""
    array: AnyArray | None = None
    target: str = ""
    region: tuple[int, ...] | None = None
    group: str = ""


@dataclass(frozen=True)
class Source:
    """The images of a collection.

    Attributes:
        items: The images, in order; read once where they come one by one.
        count: Number of images; None where nobody knows before the end.
        is_listed: Whether all items are known before the work, and can be gone through again.
    """

    items: Iterable[Item]
    count: int | None
    is_listed: bool


def source_of(source: object) -> Source:
    """The images that a user names.

    Args:
        source: See `krypton_engine.collection.explain`.

    Raises:
        InputError: No such folder or manifest, none of its files is an image, a manifest without a column
            that is needed, or ids that are there twice.

    Examples:
        >>> found = source_of({"left": np.zeros((3, 8, 8)), "right": np.ones((3, 8, 8))})
        >>> [item.id for item in found.items], found.count
        (['left', 'right'], 2)
        >>> source_of("no such folder")
        Traceback (most recent call last):
        krypton_engine.errors.InputError: source is 'no such folder'; accepted: a folder, a manifest ...
    """
    if isinstance(source, (str, os.PathLike)):
        return _listed(_of_path(os.fspath(source)))
    pairs = source.items() if isinstance(source, Mapping) else source
    if not isinstance(pairs, Iterable):
        accepted = "a folder, a manifest, or pairs of an id and an array"
        raise InputError("source", type(source).__name__, accepted)
    if isinstance(source, (Mapping, Sequence)):
        return _listed([_of_pair(pair) for pair in pairs])
    count = len(pairs) if isinstance(pairs, Sized) else None
    return Source(map(_of_pair, pairs), count, is_listed=False)


def _listed(items: list[Item]) -> Source:
    """The source of items that are all known.

    Raises:
        InputError: Ids that are there twice.
    """
    times = Counter(item.id for item in items)
    if len(times) < len(items):
        double = [name for name, count in times.items() if count > 1]
        told = ", ".join(double[:_NAMED]) + ", ..." * (len(double) > _NAMED)
        raise InputError("source", told, "ids that are there once", verb="has twice")
    return Source(items, len(items), is_listed=True)


def _of_pair(pair: Any) -> Item:
    """The item of an id and an array."""
    try:
        name, given = pair
        array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
        number = whole(name)
        if not isinstance(name, str) and number is None:
            raise TypeError
        torch.from_numpy(np.empty(0, array.dtype))  # words and objects are no numbers
    except (TypeError, ValueError):
        accepted = "pairs of an id, a text or a whole number, and an array"
        raise InputError("source", type(pair).__name__, accepted, verb="holds") from None
    return Item(name if isinstance(name, str) else str(number), array=array)


def _of_path(path: str) -> list[Item]:
    """The items of a folder or a manifest."""
    if os.path.isdir(path):
        return _of_folder(Path(path))
    if ending_of(Path(path), MANIFESTS) and ("://" in path or os.path.isfile(path)):
        return _of_manifest(path)
    accepted = f"a folder, a manifest ({' or '.join(MANIFESTS)}), or pairs of an id and an array"
    raise InputError("source", repr(path), accepted)


def _of_folder(folder: Path) -> list[Item]:
    """The images below a folder in the order of their names, collections left out."""
    from PIL import Image

    endings = (*Image.registered_extensions(), *_NOT_PIL)
    found: list[Path] = []
    for here, folders, names in os.walk(folder):
        if ASKED in names:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        kinds = {Path(here, name): ending_of(Path(name), endings) for name in names if name[0] != "."}
        slices = [path for path, kind in kinds.items() if kind in ("", ".dcm") and is_dicom(path)]
        if len(slices) > 1 and is_series(sorted(slices)[:2]):
            found.append(Path(here))
            kinds = {path: kind for path, kind in kinds.items() if path not in slices}
        found += [path for path, kind in kinds.items() if kind]
    if not found:
        raise InputError("source", repr(str(folder)), problem="a folder without pictures and scans")
    return [Item(_name(path, folder), str(path)) for path in sorted(found)]


def _name(path: Path, folder: Path) -> str:
    """The id of an image below a folder, or of the folder itself."""
    name = path.name if path == folder else path.relative_to(folder).as_posix()
    return os.fsencode(name).decode(errors="backslashreplace")


def _of_manifest(path: str) -> list[Item]:
    """The items of a table."""
    fsspec = imported("fsspec", "collection")
    reader = {".csv": "pyarrow.csv", ".parquet": "pyarrow.parquet"}[ending_of(Path(path), MANIFESTS)]
    read = imported(reader, "collection")
    try:
        with fsspec.open(path, "rb") as file:
            table = read.read_csv(file) if reader.endswith("csv") else read.read_table(file)
    except Exception as error:  # of every file system, and of every reader
        raise InputError(
            "source", repr(path), problem=f"which cannot be read as a manifest: {one_line(error)}"
        ) from error
    if "path" not in table.column_names:
        held = ", ".join(table.column_names) or "none"
        raise InputError(
            "source", repr(path), "one with a column path (and id, target, region, group)",
            f"whose columns are {held}",
        )  # fmt: skip
    table = table.select([name for name in COLUMNS if name in table.column_names])
    return [_of_row(number, row, path) for number, row in enumerate(_rows(table), 1)]


def _rows(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist()


def _of_row(number: int, row: Mapping[str, Any], manifest: str) -> Item:
    """The item of a manifest's row; paths are seen from the manifest's folder."""
    given = {name: "" if row.get(name) is None else str(row[name]).strip() for name in COLUMNS}
    if not given["path"]:
        raise InputError(
            "source", f"no path in row {number} of {manifest!r}", "a path in every row", verb="has"
        )
    where = given["path"]
    if "://" not in where and not os.path.isabs(where):
        start, _, _ = manifest.rpartition("/") if "://" in manifest else (os.path.dirname(manifest), "", "")
        where = f"{start}/{where}" if start else where
    return Item(
        given["id"] or given["path"],
        where,
        target=given["target"],
        region=_region(given["region"], number),
        group=given["group"],
    )


def _region(given: str, number: int) -> tuple[int, ...] | None:
    """A box out of a manifest: four numbers, or six."""
    if not given:
        return None
    try:
        box = tuple(int(part) for part in given.strip("[]()").replace(",", " ").split())
    except ValueError:
        box = ()
    if len(box) not in (4, 6):
        accepted = "top left bottom right, in pixels"
        raise InputError("source", f"region {given!r} in row {number}", accepted, verb="has")
    return box
