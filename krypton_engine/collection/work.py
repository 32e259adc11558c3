"""The work on one row: read, compare with what is known, explain."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import queue
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from krypton_engine.approximation.ssim import SsimEstimate
from krypton_engine.collection.call import Call, Explained, hashed
from krypton_engine.collection.maps import grid_text, place_of
from krypton_engine.collection.rows import DONE, FAILED, Record
from krypton_engine.collection.sources import Item
from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.packages import imported
from krypton_engine.common.text import one_line
from krypton_engine.errors import InputError
from krypton_engine.graph.export import evaluated
from krypton_engine.heatmap.files import FIELDS, put_together, taken_apart
from krypton_engine.heatmap.heatmap import Heatmap

PICTURE = "picture"
"""The field that holds the image, grey and small."""

_SIDES = {2: 96, 3: 64}
"""Cells along all sides of a picture and of a volume."""


@dataclass(frozen=True)
class Task:
    """A row that is to be explained.

    Attributes:
        row: Its number.
        item: The image.
        known: The key of what is there; empty where nothing is, or where it is to be made anew.
        exact: Whether to explain it exactly, in spite of any SSIM target.
    """

    row: int
    item: Item
    known: str = ""
    exact: bool = False


@dataclass(frozen=True)
class Reply:
    """What became of a task.

    Attributes:
        task: The task.
        record: The row's record; None where what is known is right.
        arrays: The fields of its map by the places where they lie; empty where there is none.
        notes: Warnings on the way, and their categories.
    """

    task: Task
    record: Record | None
    arrays: Mapping[str, AnyArray] = field(default_factory=dict)
    notes: tuple[tuple[type[Warning], str], ...] = ()


def key_of(image: str, call: Call, item: Item) -> str:
    """A row's key: a hash of all that determines its map.

    Args:
        image: Hash of the image's bytes.
        call: The call.
        item: The image's own target and region.

    Examples:
        >>> from krypton_engine.collection.call import OcclusionCall
        >>> call = OcclusionCall.of(model, {}, None, "auto", None)
        >>> key_of("0123", call, Item("a")) == key_of("0123", call, Item("a", target="2"))
        False
    """
    return hashed(image, call.fingerprint, dict(call.asked), item.target, item.region)


def stat_of(item: Item) -> tuple[int | None, int | None]:
    """Bytes of an image's files, and nanoseconds of their last change; None where nobody knows.

    Examples:
        >>> _ = Path("a.png").write_bytes(b"123")
        >>> stat_of(Item("a", "a.png"))[0], stat_of(Item("b", "s3://bucket/b.png"))
        (3, (None, None))
    """
    try:
        found = [path.stat() for path in _files(item.path)]
    except (OSError, ValueError):
        return None, None
    return sum(each.st_size for each in found), max(each.st_mtime_ns for each in found)


def _files(path: str) -> list[Path]:
    """The file of an image, or those of a series."""
    if not os.path.isdir(path):
        return [Path(path)]
    return sorted(each for each in Path(path).iterdir() if each.is_file()) or [Path(path)]


def _digest(path: str) -> str:
    """A hash of the bytes of an image, or of a series and the names of its files."""
    hashes = {}
    for each in _files(path):
        with each.open("rb") as file:
            hashes[each.name] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return hashed(*hashes.items()) if os.path.isdir(path) else next(iter(hashes.values()))


@contextmanager
def read(item: Item) -> Iterator[tuple[str, str]]:
    """The hash of an image's bytes, and its path on this machine; empty for an array.

    Examples:
        >>> _ = Path("a.png").write_bytes(b"123")
        >>> with read(Item("a", "a.png")) as found:
        ...     print(found)
        ('a665a45920422f9d', 'a.png')
    """
    if item.array is not None:
        shape = repr((item.array.dtype.str, item.array.shape)).encode()
        yield hashlib.sha256(shape + np.ascontiguousarray(item.array).tobytes()).hexdigest()[:16], ""
    elif "://" not in item.path:
        yield _digest(item.path), item.path
    else:
        with imported("fsspec", "collection").open(item.path, "rb") as file:
            content = file.read()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(item.path).name)  # its endings say what the file is
            path.write_bytes(content)
            yield _digest(str(path)), str(path)


@dataclass(frozen=True)
class _Prepared:
    """An image that is ready to be explained, or the reason why it is not."""

    record: Record
    image: Any = None
    is_known: bool = False


def begun(call: Call, task: Task) -> Record:
    """The record of a row whose image has not been read.

    Args:
        call: The call.
        task: The row.

    Examples:
        >>> from krypton_engine.collection.call import OcclusionCall
        >>> call = OcclusionCall.of(model, {}, None, "auto", None)
        >>> record = begun(call, Task(7, Item("a", "a.png")))
        >>> record["row"], record["id"], record["image"]
        (7, 'a', '')
    """
    item = task.item
    size, modified = stat_of(item)
    return {
        "row": task.row, "id": item.id, "group": item.group or None, "path": item.path or None,
        "size": size, "modified": modified, "image": "", "hash": key_of("", call, item),
    }  # fmt: skip


def failed(record: Record, error: Exception) -> Record:
    """The record of a row that failed.

    Args:
        record: What is known of it.
        error: The reason.

    Examples:
        >>> failed({"row": 7}, ValueError("no such layer"))
        {'row': 7, 'status': 'failed', 'error': 'ValueError: no such layer'}
        >>> failed({}, FileNotFoundError("s3://bucket/a.png"))["error"]  # no words of its own
        'FileNotFoundError: s3://bucket/a.png'
    """
    speaks = isinstance(error, InputError) or (isinstance(error, OSError) and error.strerror)
    told = str(error) if speaks else f"{type(error).__name__}: {error}"
    return {**record, "status": FAILED, "error": one_line(ValueError(told))}


def _prepared(call: Call, task: Task) -> _Prepared:
    record = begun(call, task)
    try:
        with read(task.item) as (image, path):
            record |= {"image": image, "hash": key_of(image, call, task.item)}
            if record["hash"] == task.known:
                return _Prepared(record, is_known=True)
            # While another thread exports, PyTorch may answer this one with tensors that hold nothing.
            return _Prepared(record, evaluated(lambda: call.prepared(task.item, path)))
    except Exception as error:  # of every decoder, and of the user's preprocessing
        return _Prepared(failed(record, error))


class Here:
    """This process at work: the next image is read and decoded while one is explained.

    Args:
        call: The call.

    Examples:
        >>> from krypton_engine.collection.call import OcclusionCall
        >>> here = Here(OcclusionCall.of(model, {"sliding_window_shapes": (3, 8, 8)}, None, "auto", None))
        >>> here.submit(Task(0, Item("a", array=x[0].numpy())))
        >>> here.reply().record["grid"]
        '17x13'
        >>> here.close()
    """

    slots = 2

    def __init__(self, call: Call) -> None:
        self._call = call
        self._ahead = ThreadPoolExecutor(1)
        self._waiting: queue.SimpleQueue[tuple[Task, Future[_Prepared]]] = queue.SimpleQueue()

    def submit(self, task: Task) -> None:
        """Begin to read a row's image."""
        self._waiting.put((task, self._ahead.submit(_prepared, self._call, task)))

    def reply(self) -> Reply:
        """Explain the first of the images that were submitted; waits for one."""
        task, future = self._waiting.get()
        ready = future.result()
        if ready.is_known:
            return Reply(task, None)
        if ready.record.get("status") == FAILED:
            return Reply(task, ready.record)
        began = time.perf_counter()
        try:
            explained = self._call.explained(ready.image, task.item, task.exact)
            arrays, found = _described(explained)
        except Exception as error:  # of the user's model
            return Reply(task, failed(ready.record, error))
        seconds = time.perf_counter() - began
        return Reply(task, {**ready.record, "status": DONE, **found, "seconds": seconds}, arrays)

    def close(self) -> None:
        """Read nothing more."""
        self._ahead.shutdown(wait=False, cancel_futures=True)


def _described(explained: Explained) -> tuple[dict[str, AnyArray], Record]:
    """The fields of a map by the places where they are to lie, and its part of a record."""
    heatmap = replace(explained.heatmap, image=None)
    meta, arrays = taken_apart({name: getattr(heatmap, name) for name in FIELDS})
    if explained.picture is not None:
        arrays[PICTURE] = _small(explained.picture)
    grid, estimate = heatmap.window.grid_shape, heatmap.ssim_estimate
    places = {name: place_of(name, array, grid) for name, array in arrays.items()}
    rest = {name: value for name, value in meta.items() if name not in ("seconds", "ssim_estimate")}
    return {places[name]: array for name, array in arrays.items()}, {
        "grid": grid_text(grid),
        "base": float(heatmap.base) if heatmap.base.numel() == 1 else None,
        "target": heatmap.target if isinstance(heatmap.target, int) else None,
        "class": explained.predicted or None,
        "ssim": None if estimate is None else estimate.value,
        "ssim_low": None if estimate is None else estimate.low,
        "ssim_high": None if estimate is None else estimate.high,
        "ssim_basis": None if estimate is None else estimate.basis,
        "measured": float(heatmap.measured.double().mean()),
        "meta": json.dumps({**rest, "places": places}, default=operator.index),
    }


def heatmap_of(record: Record, load: Callable[[list[str]], Mapping[str, AnyArray]]) -> Heatmap:
    """The map of a row that is done.

    Args:
        record: Its record.
        load: Function from the places of fields to these, by place.

    Raises:
        Exception: One of `krypton_engine.heatmap.files.DAMAGED`: a field or the record is damaged.

    Examples:
        >>> arrays, record = _described(Explained(heatmap))
        >>> heatmap_of({**record, "seconds": 0.0}, lambda places: arrays) == heatmap
        True
    """
    meta = json.loads(record["meta"])
    estimate = None
    if record["ssim"] is not None:
        names = ("ssim", "ssim_low", "ssim_high", "ssim_basis")
        estimate = SsimEstimate(*(record[name] for name in names))
    places = {name: place for name, place in meta.pop("places").items() if name != PICTURE}
    arrays = load(list(places.values()))
    meta |= {"seconds": record["seconds"], "ssim_estimate": None}
    found = put_together(meta, {name: arrays[place] for name, place in places.items()})
    return Heatmap(**{**found, "ssim_estimate": estimate})


def _small(grey: AnyArray) -> AnyArray:
    """A picture or a volume with `_SIDES` cells along each side, each the mean of what is there."""
    cells = torch.from_numpy(grey.astype(np.float32))[None, None]
    sizes = (_SIDES[grey.ndim],) * grey.ndim
    small = nn.functional.interpolate(cells, sizes, mode="area")[0, 0]
    return small.round().byte().numpy()
