"""The writer of a collection: one process, which holds the lock; see `krypton_engine.collection.layout`."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from krypton_engine.collection import rows
from krypton_engine.collection.layout import (
    ASKED,
    AUDIT,
    BLOCK,
    FORMAT,
    FRESH,
    LOCK,
    MANIFEST,
    MAPS,
    PARTS,
    leftovers,
)
from krypton_engine.collection.maps import Maps
from krypton_engine.collection.rows import DONE, Record
from krypton_engine.common import files
from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.packages import imported
from krypton_engine.errors import InputError


def read_asked(out: Path) -> dict[str, Any]:
    """What a collection was asked for, by name; see `krypton_engine.collection.Collection.asked`.

    Raises:
        InputError: The folder holds no collection, or one of a newer version.

    Examples:
        >>> _ = Path("collection.json").write_text('{"format": 99, "krypton": "9.0"}')
        >>> read_asked(Path("."))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: out is '.', made by krypton 9.0, which is newer than this one; ...
    """
    try:
        asked = json.loads((out / ASKED).read_text(encoding="utf-8"))
        version = int(asked["format"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError("out", repr(str(out)), problem="which holds no collection") from None
    if version > FORMAT:
        problem = f"made by krypton {asked.get('krypton')}, which is newer than this one"
        raise InputError("out", repr(str(out)), f"collections of format {FORMAT}", problem)
    return dict(asked)


class Store:
    """A collection that is being written.

    Args:
        out: Its folder, which is made where there is none.
        asked: What is asked for, by name; of ``asked["call"]`` nothing may differ from what is there.

    Raises:
        InputError: The folder holds something else, or another process writes to it.
        OSError: The folder cannot be made or written to.

    Examples:
        >>> with Store(Path("maps"), {"call": {"window": [3, 8, 8]}}) as store:
        ...     store.keep({"row": 0, "id": "a", "status": "failed"}, {})
        ...     store.finish()
        >>> rows.read_all(Path("maps"))["status"].to_pylist()
        ['failed']
    """

    def __init__(self, out: Path, asked: Mapping[str, Any]) -> None:
        self.out = out
        _check_folder(out)
        known = read_asked(out) if (out / ASKED).exists() else None
        if known is not None:
            _check_same_call(out, known, asked)
        self._lock = _locked(out)
        try:
            for path in leftovers(out):
                path.unlink(missing_ok=True)
            files.write(out / ASKED, _json({"format": FORMAT, **asked}))
            for name in (FRESH, PARTS, MAPS, AUDIT):
                (out / name).mkdir(exist_ok=True)
        except BaseException:
            self._lock.release()
            raise
        self._maps = Maps(out / MAPS)
        self._fresh = self._count()

    def _count(self) -> Counter[int]:
        """Fresh rows by block."""
        return Counter(int(path.stem) // BLOCK for path in rows.fresh_of(self.out))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def begin(self, pending: Iterable[Record]) -> None:
        """Note rows that are to be done; what was known of them is forgotten.

        Args:
            pending: Their records.
        """
        table = rows.table_of(pending)
        self.write_manifest(table)
        for row in table["row"].to_pylist():
            (self.out / FRESH / f"{row}.npz").unlink(missing_ok=True)
        self._fresh = self._count()

    def keep(self, record: Record, arrays: Mapping[str, AnyArray]) -> None:
        """Keep a finished row: after this nothing but a broken disk loses it.

        Args:
            record: Its record.
            arrays: The fields of its map by the places where they are to lie; empty where there is no map.

        Raises:
            OSError: There is no room.
        """
        path = self.out / FRESH / f"{record['row']}.npz"
        block = record["row"] // BLOCK
        self._fresh[block] += not path.exists()
        files.write(path, rows.fresh_file(record, arrays))
        if self._fresh[block] >= BLOCK:
            self._seal(block)

    def finish(self) -> None:
        """Seal every block, and write the manifest.

        Raises:
            OSError: There is no room; everything is still there.
        """
        for block in sorted(block for block, count in self._fresh.items() if count):
            self._seal(block)
        self.write_manifest()

    def write_manifest(self, more: rows.Table = None) -> None:
        """Write the manifest out of all records.

        Args:
            more: Records that come before any others of the same rows; None for none.
        """
        found = rows.read_all(self.out)
        rows.write(self.out / MANIFEST, found if more is None else rows.merged([found, more]))
        for path in rows.parts_of(self.out):
            path.unlink()

    def _seal(self, block: int) -> None:
        """Move the fresh rows of a block into its shards and its part."""
        found = [path for path in rows.fresh_of(self.out) if int(path.stem) // BLOCK == block]
        records = [rows.record_in(path) for path in found]
        maps = {
            record["row"]: (record["grid"], rows.FreshMap(path))
            for path, record in zip(found, records, strict=True)
            if record["status"] == DONE
        }
        self._maps.write(block, maps, [record["row"] for record in records])
        part = self.out / PARTS / f"{block:06}.parquet"
        before = [rows.read(part)] if part.exists() else []
        rows.write(part, rows.merged([*before, rows.table_of(records)]))
        for path in found:
            path.unlink()
        self._fresh[block] = 0


def _json(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, indent=1) + "\n").encode()


def _check_folder(out: Path) -> None:
    """Make the folder of a collection, or refuse what is there."""
    if out.exists() and not out.is_dir():
        raise InputError("out", repr(str(out)), "a folder", "which is a file")
    if not out.exists():
        if not out.resolve().parent.is_dir():
            folder = str(out.resolve().parent)
            raise InputError("out", repr(str(out)), problem=f"but the folder {folder!r} does not exist")
        out.mkdir()
    if not os.access(out, os.W_OK | os.X_OK):
        raise InputError("out", repr(str(out)), problem="which cannot be written")
    if not (out / ASKED).exists() and any(
        path.name != LOCK and not path.name.startswith(".krypton-") for path in out.iterdir()
    ):
        raise InputError(
            "out", repr(str(out)), "an empty or a new folder, or a collection", "which holds something else"
        )


def _check_same_call(out: Path, known: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse a collection of another call."""
    mine, theirs = json.loads(json.dumps(asked["call"])), known.get("call", {})
    names = [name for name in {**theirs, **mine} if theirs.get(name) != mine.get(name)]
    if names:
        told = "; ".join(f"{name} ({theirs.get(name)} there, {mine.get(name)} here)" for name in names)
        raise InputError(
            "out", repr(str(out)), "another folder, or the same call",
            f"which holds maps of another call: different are {told}",
        )  # fmt: skip


def _locked(out: Path) -> Any:
    """The lock of a collection, held; the system lets go of it when this process ends, however it ends."""
    filelock = imported("filelock", "collection")
    lock = filelock.FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError("out", repr(str(out)), problem="to which another process is writing now") from None
    return lock
