"""Maps in Zarr: an array for each grid and field, a map at its row's number, whole shards written at once."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from krypton_engine.collection.layout import BLOCK
from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.packages import imported

_CHUNK, _SHARD = 2**16, 2**26
"""Bytes of a chunk, which one map takes to be read, and of a shard, written at once, at most; a single
map may have more."""

_USUAL = {
    "measured": "bool", "trimmed": "bool", "classes": "int64", "numbers": "int64", "ids": "int64",
    "picture": "uint8",
}  # fmt: skip
"""Dtypes of fields that are not float32."""


def grid_text(grid: Iterable[int]) -> str:
    """The name of a grid.

    Examples:
        >>> grid_text((13, 12)), grid_text(())
        ('13x12', '1')
    """
    return "x".join(map(str, grid)) or "1"


def place_of(field: str, array: AnyArray, grid: tuple[int, ...]) -> str:
    """The name of the array of a grid that a field lies in.

    Its own, with its shape and dtype where they are not the usual ones: so that rows which differ in them lie
    in different arrays, whichever comes first.

    Examples:
        >>> place_of("values", np.zeros((2, 2), np.float32), (2, 2)), place_of("base", np.zeros(()), (2, 2))
        ('values', 'base-float64')
        >>> place_of("base_outputs", np.zeros(1000, np.float32), (2, 2))
        'base_outputs-1000'
    """
    shape = [] if array.shape in ((), grid) else [grid_text(array.shape)]
    kind = [] if array.dtype.name == _USUAL.get(field, "float32") else [array.dtype.name]
    return "-".join([field, *shape, *kind])


def rows_at_once(item: int, most: int) -> int:
    """The rows that take so many bytes together: a power of 2, at least 1 and at most a block.

    Args:
        item: Bytes of a row.
        most: Bytes of all rows, at most.

    Examples:
        >>> rows_at_once(item=256, most=65536), rows_at_once(item=2**20, most=65536)
        (256, 1)
    """
    return int(min(BLOCK, 2 ** math.floor(math.log2(max(1.0, most / max(1, item))))))


class Maps:
    """The arrays of a collection's maps.

    Args:
        folder: The folder that holds them, one folder a grid.

    Examples:
        >>> maps = Maps(Path("maps"))
        >>> maps.write(0, {3: ("2", {"values": np.array([1.0, 2.0])})}, rows=[2, 3])
        >>> maps.read(3, "2", ["values"])["values"].tolist()
        [1.0, 2.0]
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Any] = {}

    def read(self, row: int, grid: str, places: Iterable[str]) -> dict[str, AnyArray]:
        """The fields of a row, by the places where they lie."""
        return {place: np.asarray(self._array(f"{grid}/{place}")[row]) for place in places}

    def write(
        self, block: int, maps: Mapping[int, tuple[str, Mapping[str, AnyArray]]], rows: Iterable[int]
    ) -> None:
        """Write some rows of a block, so that they are on the disk; other rows stay what they were.

        Args:
            block: Number of the block.
            maps: The grid and the fields of each row that has a map, by its number.
            rows: All rows that are written; those without a map become empty.

        Raises:
            OSError: There is no room.
        """
        kinds: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        for grid, fields in maps.values():
            kinds |= {f"{grid}/{place}": (array.shape, array.dtype) for place, array in fields.items()}
        there = {
            path.parent.relative_to(self._folder).as_posix() for path in self._folder.glob("*/*/zarr.json")
        }
        for name in sorted({*kinds, *there}):
            array = self._array(name) if name in there else self._made(name, *kinds[name])
            self._write(array, name, block, maps, sorted(rows))

    def _write(
        self,
        array: Any,
        name: str,
        block: int,
        maps: Mapping[int, tuple[str, Mapping[str, AnyArray]]],
        rows: list[int],
    ) -> None:
        """Write the shards of one array that hold any of some rows of a block."""
        grid, _, place = name.partition("/")
        step = array.shards[0]
        for start in range(block * BLOCK, (block + 1) * BLOCK, step):
            mine = [row for row in rows if start <= row < start + step]
            having = [row for row in mine if row in maps and maps[row][0] == grid and place in maps[row][1]]
            old = array[start : start + step] if start < array.shape[0] else None
            if not mine or (old is None and not having):
                continue
            shard = np.full((step, *array.shape[1:]), array.fill_value, array.dtype)
            if old is not None:
                shard[: len(old)] = old
            shard[np.array(mine) - start] = array.fill_value
            for row in having:
                shard[row - start] = maps[row][1][place]
            if start + step > array.shape[0]:
                array.resize(((block + 1) * BLOCK, *array.shape[1:]))
            array[start : start + step] = shard
            _to_disk(self._folder / name / "c" / "/".join([str(start // step), *"0" * (array.ndim - 1)]))

    def _array(self, name: str) -> Any:
        if name not in self._open:
            zarr = imported("zarr", "collection")
            self._open[name] = zarr.open_array(self._folder / name, mode="r+")
        return self._open[name]

    def _made(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        item = math.prod(shape) * dtype.itemsize
        chunk, shard = rows_at_once(item, _CHUNK), rows_at_once(item, _SHARD)
        self._open[name] = imported("zarr", "collection").create_array(
            self._folder / name,
            shape=(0, *shape),
            chunks=(chunk, *shape),
            shards=(shard, *shape),
            dtype=dtype,
            fill_value=np.nan if dtype.kind == "f" else np.zeros((), dtype).item(),
            dimension_names=None,
        )
        return self._open[name]


def _to_disk(path: Path) -> None:
    """Wait until a file is on the disk, if there is one: a shard of nothing is none."""
    if path.exists():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
