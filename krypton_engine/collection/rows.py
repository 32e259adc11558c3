"""Records of a collection's rows, as tables of Arrow."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from krypton_engine.collection.layout import FRESH, MANIFEST, PARTS
from krypton_engine.common import files
from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.packages import imported
from krypton_engine.common.text import one_line
from krypton_engine.errors import InputError

Record: TypeAlias = dict[str, Any]
"""A row's record, by the names of `columns`; what is missing is unknown."""

Table: TypeAlias = Any
"""A ``pyarrow.Table``, which has no types."""

DONE, FAILED, PENDING = "done", "failed", "pending"

_COLUMNS = {
    "row": "int64", "id": "string", "status": "string", "group": "string", "grid": "string",
    "base": "float64", "target": "int64", "class": "string", "ssim": "float64", "ssim_low": "float64",
    "ssim_high": "float64", "ssim_basis": "string", "measured": "float64", "seconds": "float64",
    "error": "string", "hash": "string", "path": "string", "image": "string", "size": "int64",
    "modified": "int64", "meta": "string",
}  # fmt: skip
"""Columns of a record and their types:

``row``: its number; ``id``, ``group``, ``path``: the source's; ``status``: ``"done"``, ``"failed"`` or
``"pending"``; ``grid``: of the map, ``"13x13"``; ``base``: the target's value of the whole image; ``target``:
the class that is explained; ``class``: the class that is predicted for the whole image, a name where it has
one; ``ssim`` to ``ssim_basis``: the estimate of an approximate map; ``measured``: share of positions;
``seconds``: time of the map; ``error``: why it failed; ``hash``: the key, of all that determines the map;
``image``: hash of the image's bytes; ``size``, ``modified``: of its file, in bytes and nanoseconds; ``meta``:
the rest that the map's own file would hold, in JSON."""


@functools.cache
def schema() -> Any:
    """The schema of a table of records.

    Examples:
        >>> schema().names[:3]
        ['row', 'id', 'status']
    """
    arrow = imported("pyarrow", "collection")
    kinds = {name: getattr(arrow, kind)() for name, kind in _COLUMNS.items()}
    kinds["meta"] = arrow.dictionary(arrow.int32(), kinds["meta"])  # long, and nearly always the same
    return arrow.schema(kinds.items())


def table_of(records: Iterable[Record]) -> Table:
    """The table of some records.

    Examples:
        >>> table_of([{"row": 0, "id": "a"}])["hash"].to_pylist()
        [None]
    """
    return imported("pyarrow", "collection").Table.from_pylist(list(records), schema=schema())


def merged(tables: Sequence[Table]) -> Table:
    """One table by the numbers of the rows; of a row's records the one in the last table counts.

    Examples:
        >>> before = table_of([{"row": 0, "id": "a"}, {"row": 1, "id": "b"}])
        >>> merged([before, table_of([{"row": 0, "id": "c"}])])["id"].to_pylist()
        ['c', 'b']
    """
    arrow = imported("pyarrow", "collection")
    whole = arrow.concat_tables([schema().empty_table(), *tables])
    numbers = whole["row"].to_numpy()
    if (np.diff(numbers) > 0).all():
        return whole
    _, last = np.unique(numbers[::-1], return_index=True)
    return whole.unify_dictionaries().take(len(numbers) - 1 - last)


def write(path: Path, table: Table) -> None:
    """Write a table to a Parquet file, in one step.

    Examples:
        >>> write(Path("rows.parquet"), table_of([{"row": 0, "id": "a"}]))
        >>> read(Path("rows.parquet"))["id"].to_pylist()
        ['a']
    """
    buffer = io.BytesIO()
    imported("pyarrow.parquet", "collection").write_table(table, buffer, compression="zstd")
    files.write(path, buffer.getvalue())


def read(path: Path) -> Table:
    """The table in a Parquet file that `write` wrote.

    Raises:
        InputError: The file is no such table.

    Examples:
        >>> _ = Path("rows.parquet").write_bytes(b"nothing")
        >>> read(Path("rows.parquet"))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: out is 'rows.parquet', which is no table of a collection: ...
    """
    try:
        found = imported("pyarrow.parquet", "collection").read_table(path)
        return found.select(schema().names).cast(schema())
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            "out", repr(str(path)), problem=f"which is no table of a collection: {one_line(error)}"
        ) from error


def read_all(out: Path) -> Table:
    """All records of a collection by the numbers of their rows, finished ones as they are now.

    Examples:
        >>> write(Path("manifest.parquet"), table_of([{"row": 0, "id": "a"}]))
        >>> read_all(Path("."))["id"].to_pylist()
        ['a']
    """
    # Against the writer's order, so that a row which moves meanwhile is seen twice, not never.
    fresh = table_of(record_in(path) for path in fresh_of(out))
    parts = [read(path) for path in parts_of(out)]
    manifest = [read(out / MANIFEST)] if (out / MANIFEST).exists() else []
    return merged([*manifest, *parts, fresh])


def parts_of(out: Path) -> list[Path]:
    """The parts of a collection.

    Examples:
        >>> parts_of(Path("."))
        []
    """
    return sorted((out / PARTS).glob("*.parquet"))


def fresh_of(out: Path) -> list[Path]:
    """The files of rows that are finished and not yet in a shard.

    Examples:
        >>> fresh_of(Path("."))
        []
    """
    return sorted((out / FRESH).glob("*.npz"))


def fresh_file(record: Record, arrays: Mapping[str, Any]) -> bytes:
    """The bytes of a finished row's file: its record, and the arrays of its map, if it has one.

    Examples:
        >>> _ = Path("0.npz").write_bytes(fresh_file({"row": 0}, {"values": np.zeros(2)}))
        >>> record_in(Path("0.npz")), FreshMap(Path("0.npz"))["values"].tolist()
        ({'row': 0}, [0.0, 0.0])
    """
    buffer = io.BytesIO()
    np.savez(buffer, **{_RECORD: np.array(json.dumps(record)), **arrays})
    return buffer.getvalue()


def record_in(path: Path) -> Record:
    """The record in a finished row's file.

    Examples:
        >>> _ = Path("0.npz").write_bytes(fresh_file({"row": 0}, {}))
        >>> record_in(Path("0.npz"))
        {'row': 0}
    """
    with np.load(path, allow_pickle=False) as archive:
        record: Record = json.loads(str(archive[_RECORD]))
    return record


class FreshMap(Mapping[str, AnyArray]):
    """The arrays in a finished row's file, each read when it is asked for.

    Args:
        path: The file.

    Examples:
        >>> _ = Path("0.npz").write_bytes(fresh_file({"row": 0}, {"values": np.zeros(2)}))
        >>> list(FreshMap(Path("0.npz")))
        ['values']
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, name: str) -> AnyArray:
        with np.load(self._path, allow_pickle=False) as archive:
            array: AnyArray = archive[name]
        return array

    def __iter__(self) -> Iterator[str]:
        with np.load(self._path, allow_pickle=False) as archive:
            return iter([name for name in archive.files if name != _RECORD])

    def __len__(self) -> int:
        return len(list(iter(self)))


_RECORD = "record"
