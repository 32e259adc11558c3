"""Collection: the maps in a folder, read one by one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from krypton_engine.collection import rows, sheet
from krypton_engine.collection.audit import Audit, read_audited
from krypton_engine.collection.layout import FRESH, MAPS
from krypton_engine.collection.maps import Maps
from krypton_engine.collection.rows import DONE, FAILED, Record
from krypton_engine.collection.store import read_asked
from krypton_engine.collection.work import PICTURE, heatmap_of
from krypton_engine.common import files
from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.packages import imported
from krypton_engine.errors import InputError
from krypton_engine.heatmap.files import DAMAGED
from krypton_engine.heatmap.heatmap import Heatmap

if TYPE_CHECKING:
    import pandas

By = Literal["class", "group"]


@dataclass(frozen=True)
class MeanMap:
    """The mean of the maps of a class or a group.

    Attributes:
        label: The class or the group; empty for all.
        grid: Its grid, ``"13x13"``.
        drop: Mean drop by position, float64 on the grid.
        count: Number of maps.
    """

    label: str
    grid: str
    drop: Tensor
    count: int


class Collection(Mapping[str, Heatmap]):
    """The maps of a collection by id, in the order of its rows.

    A map is read when it is asked for; it holds no image. Rows that failed are in ``failures``, and are no
    items. A collection that is being written can be read: it has the rows that were there when it was opened.

    Args:
        path: Its folder.

    Raises:
        InputError: The folder holds no collection, or one of a newer version.

    Examples:
        >>> from krypton_engine.collection import explain
        >>> _ = explain({"a": x[0], "b": x[0] / 2}, model, (3, 8, 8), (3, 4, 4), out="maps")
        >>> collection = Collection("maps")
        >>> list(collection), collection["a"].target == int(model(x).argmax())
        (['a', 'b'], True)
        >>> collection.asked["call"]["sliding_window_shapes"], collection.failures
        ([3, 8, 8], {})
        >>> collection.row("a")["grid"], collection.picture("a").shape
        ('5x4', (24, 20))
        >>> collection.to_pandas()[["id", "status"]].values.tolist()
        [['a', 'done'], ['b', 'done']]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise InputError("path", repr(path), "strings and paths")
        self.path = Path(path)
        self.asked: dict[str, Any] = read_asked(self.path)
        """What was asked for: ``krypton``, ``torch``, ``python`` (versions), ``model``, ``call``,
        ``ssim_target`` and ``promise``, the share of images that are to keep it."""
        self._table = rows.read_all(self.path)
        self._maps = Maps(self.path / MAPS)

    def __repr__(self) -> str:
        return f"Collection({str(self.path)!r}, {len(self)} maps of {len(self._table)} images)"

    @cached_property
    def _done(self) -> rows.Table:
        compute = imported("pyarrow.compute", "collection")
        return self._table.filter(compute.equal(self._table["status"], DONE))

    def __len__(self) -> int:
        return len(self._done)

    def __iter__(self) -> Iterator[str]:
        for batch in self._done.select(["id"]).to_batches():
            yield from batch["id"].to_pylist()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._record(name).get("status") == DONE

    def __getitem__(self, name: str) -> Heatmap:
        record = self._record(name)
        if record.get("status") != DONE:
            raise KeyError(name)
        return self._heatmap(record)

    def _record(self, name: str) -> Record:
        index = imported("pyarrow.compute", "collection").index(self._table["id"], name).as_py()
        record: Record = {} if index < 0 else self._table.slice(index, 1).to_pylist()[0]
        return record

    def _heatmap(self, record: Record) -> Heatmap:
        """The map of a row that is done."""
        try:
            return heatmap_of(record, lambda places: self._arrays(record, places))
        except DAMAGED as error:
            problem = f"whose map of {record['id']!r} is damaged: {error}"
            raise InputError("path", repr(str(self.path)), problem=problem) from error

    def _arrays(self, record: Record, places: list[str]) -> dict[str, AnyArray]:
        """Fields of a row, out of its own file where it is fresh, else out of its shard."""
        fresh = self.path / FRESH / f"{record['row']}.npz"
        try:
            found = rows.FreshMap(fresh)
            return {place: found[place] for place in places}
        except FileNotFoundError:
            return self._maps.read(record["row"], record["grid"], places)

    def row(self, name: str) -> Record:
        """The record of an image, of whatever status, by the names of the manifest's columns.

        Raises:
            KeyError: There is no such image.
        """
        record = self._record(name)
        if not record:
            raise KeyError(name)
        return record

    def picture(self, name: str) -> AnyArray | None:
        """The image of a map, small and grey, as high and wide as the model's input: uint8 ``(H, W)``.

        None where the input is no picture.
        """
        record = self.row(name)
        meta = json.loads(record["meta"] or "{}")
        place = meta.get("places", {}).get(PICTURE)
        if place is None:
            return None
        small = torch.from_numpy(self._arrays(record, [place])[place])[None, None].float()
        sizes = meta["input_shape"][-(small.ndim - 2) :]
        mode = "bilinear" if len(sizes) == 2 else "trilinear"
        large = nn.functional.interpolate(small, sizes, mode=mode, align_corners=False)
        found: AnyArray = large[0, 0].round().byte().numpy()
        return found

    @property
    def failures(self) -> dict[str, str]:
        """The reason of every image that failed, by id."""
        compute = imported("pyarrow.compute", "collection")
        found = self._table.filter(compute.equal(self._table["status"], FAILED))
        return dict(zip(found["id"].to_pylist(), found["error"].to_pylist(), strict=True))

    @property
    def audit(self) -> Audit | None:
        """The audit, of maps that are still there; None where none was made."""
        known = read_audited(self.path)
        table = self._done.select(["id", "hash"]).to_pydict() if known else {"id": [], "hash": []}
        keys = dict(zip(table["id"], table["hash"], strict=True))
        there = [each for name, each in known.items() if keys.get(name) == each.key]
        if not there:
            return None
        ssims = {each.id: each.ssim for each in there if not each.error}
        failures = {each.id: each.error for each in there if each.error}
        return Audit(self.asked["ssim_target"], self.asked["promise"], ssims, failures)

    def to_pandas(self) -> pandas.DataFrame:
        """All rows, also those that failed or are pending, with the columns of the manifest.

        Raises:
            InputError: pandas is missing.
        """
        imported("pandas", "collection")
        frame: pandas.DataFrame = self._table.drop_columns(["meta"]).to_pandas()
        return frame

    def means(self, by: By | None = None) -> list[MeanMap]:
        """Mean drops, registered by grid alone: maps of one grid are laid one upon the other as they are.

        Args:
            by: ``"class"``, the one that is predicted for the whole image; ``"group"``, of the manifest; None
                for one mean of all.

        Returns:
            One for every label and grid, in the order of their names. Positions that are not finite in a map
            do not count for it; NaN where none counts, and maps of targets with several values are left out.

        Raises:
            InputError: Another word.

        Examples:
            >>> from krypton_engine.collection import explain
            >>> found = explain({"a": x[0], "b": x[0] / 2}, model, (3, 8, 8), (3, 4, 4), out="maps")
            >>> (mean,) = found.means()
            >>> mean.count, torch.allclose(mean.drop.float(), (found["a"].drop + found["b"].drop) / 2)
            (2, True)
        """
        if by not in (None, "class", "group"):
            raise InputError("by", repr(by), "'class', 'group' or None")
        sums: dict[tuple[str, str], Tensor] = {}
        counts: dict[tuple[str, str], Tensor] = {}
        maps: dict[tuple[str, str], int] = {}
        for record in self._records():
            heatmap = self._heatmap(record)
            drop = heatmap.drop.double()
            if drop.shape != heatmap.measured.shape:
                continue
            key = (str(record[by] or "") if by else "", record["grid"])
            known = drop.isfinite()
            sums[key] = sums.get(key, 0) + drop.where(known, 0.0)
            counts[key] = counts.get(key, 0) + known.double()
            maps[key] = maps.get(key, 0) + 1
        return [MeanMap(*key, sums[key] / counts[key], maps[key]) for key in sorted(sums)]

    def _records(self) -> Iterator[Record]:
        for batch in self._done.to_batches(max_chunksize=1000):
            yield from batch.to_pylist()

    def contact_sheet(self, path: str | os.PathLike[str], most: int = 1000) -> None:
        """Write a contact sheet: the maps over their images, and the failures.

        All maps have one scale, up to the drop that one in a hundred maps exceeds.

        Args:
            path: ``.png``, a picture; or ``.html``, one page that needs nothing else, sorted by a click.
            most: Maps and failures that are shown at most, the first ones.

        Raises:
            InputError: Another ending, or a folder that does not exist.
            OSError: Writing fails; what was there is still there.

        Examples:
            >>> from krypton_engine.collection import explain
            >>> found = explain({"a": x[0], "b": x[0] / 2}, model, (3, 8, 8), (3, 4, 4), out="maps")
            >>> found.contact_sheet("sheet.html")
            >>> Path("sheet.html").read_text().count("<figure")
            2
        """
        given, ending = files.destination(path, sheet.ENDINGS)
        cells = [
            sheet.Cell.of(record, self._heatmap(record), self.picture(record["id"]))
            for record in self._done.slice(0, most).to_pylist()
        ]
        title = f"{self.asked.get('model', '')}: {len(self)} maps of {len(self._table)} images"
        failures = dict(list(self.failures.items())[:most])
        draw = sheet.png if ending == ".png" else sheet.html
        files.write(given, draw(title, cells, failures, len(self), len(self.failures)))
