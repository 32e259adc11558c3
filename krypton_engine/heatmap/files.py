"""The saved form of a heatmap: tensors and plain numbers in one archive, checked when they are read.

This module handles numbers by name; `krypton_engine.heatmap.heatmap` makes a heatmap of them.
"""

from __future__ import annotations

import io
import json
import math
import operator
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from krypton_engine.approximation.ssim import SsimEstimate
from krypton_engine.common.arrays import AnyArray
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import SlidingWindow

PICTURES = {".png": "a picture", ".svg": "a drawing", ".pdf": "a drawing"}
"""Endings of the pictures that a map is drawn into, and what each holds."""

ENDINGS = {**PICTURES, ".npz": "the numbers"}
"""Endings of the files that a map is saved to, and what each holds."""

TENSORS = (
    "values", "base", "measured", "trimmed", "cheap", "classes", "class_values", "outputs", "base_outputs",
    "image", "samples",
)  # fmt: skip

_OF_REGIONS = ("numbers", "ids")
"""The attributes of regions that are saved in place of a window's sizes."""

FIELDS = (*TENSORS, "window", "target", "seconds", "ssim_estimate", "baseline")
"""The attributes of a map that are saved."""

Fields: TypeAlias = Mapping[str, Any]
"""The saved attributes of a map, by name."""

DAMAGED = (
    OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, AttributeError,
    OverflowError, MemoryError, RuntimeError,
)  # fmt: skip
"""Errors that NumPy, zipfile and JSON raise for a damaged file, or for one of another kind."""

_FORMAT = 2
"""Version of the saved form. Version 1 had no list of its tensors, so that a missing one was not noticed."""

_NARROW = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
"""Dtypes that NumPy lacks: their numbers are written as float32."""

_LARGEST_META = 2**24
"""Most bytes of the plain numbers saved beside the tensors."""


_Header = tuple[tuple[int, ...], np.dtype]
"""Shape and dtype of an array in the archive."""


def is_number(given: object) -> bool:
    """Whether a value out of a file is a finite number.

    Examples:
        >>> is_number(0.5), is_number(float("nan")), is_number(True), is_number("1")
        (True, False, False, False)
    """
    return isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)


def is_count(given: object) -> bool:
    """Whether a value out of a file is an integer from 0 on.

    Examples:
        >>> is_count(0), is_count(-1), is_count(1.0)
        (True, False, False)
    """
    return isinstance(given, int) and not isinstance(given, bool) and given >= 0


def saved_window(*sizes: tuple[int, ...]) -> SlidingWindow:
    """A window out of a file.

    Args:
        *sizes: Shape of the input, shape of the window, strides.

    Raises:
        ValueError: No window has these sizes.

    Examples:
        >>> saved_window((8, 8), (2, 2), (1, 1)).counts
        (7, 7)
    """
    if not all(isinstance(each, tuple) and all(map(is_count, each)) for each in sizes):
        raise ValueError(f"{sizes} are no shapes of input and window, and no strides")
    return SlidingWindow(*sizes)


def is_similarity(given: object) -> bool:
    """Whether a value out of a file can be an SSIM, which rounding may lift above 1.

    Examples:
        >>> is_similarity(0.9), is_similarity(1.1)
        (True, False)
    """
    return isinstance(given, (int, float)) and is_number(given) and given <= 1 + 1e-6


def is_target(given: object) -> bool:
    """Whether a value out of a file can be the target of a map.

    Examples:
        >>> is_target(3), is_target((0, 7)), is_target(None), is_target("dog")
        (True, True, True, False)
    """
    if isinstance(given, tuple):
        return all(isinstance(index, int) and not isinstance(index, bool) for index in given)
    return given is None or (isinstance(given, int) and not isinstance(given, bool))


def is_described(given: object) -> bool:
    """Whether a value out of a file can be a baseline; see `krypton_engine.heatmap.identity.described`.

    Examples:
        >>> is_described((0.5, 0.5)), is_described("image 21b9ca0f94efa26b"), is_described(0.5)
        (True, True, False)
    """
    levels = given if isinstance(given, tuple) else ()
    return isinstance(given, (tuple, str)) and all(isinstance(level, (int, float)) for level in levels)


def taken_apart(fields: Fields) -> tuple[dict[str, Any], dict[str, AnyArray]]:
    """The plain numbers of a map, which JSON takes, and its arrays by name.

    Args:
        fields: The attributes of the map by name, all of `FIELDS`.

    Examples:
        >>> meta, arrays = taken_apart(vars(heatmap))
        >>> meta["shape"], sorted(arrays)
        ((3, 12, 10), ['base', 'measured', 'values'])
    """
    tensors = {name: fields[name] for name in TENSORS if fields[name] is not None}
    window, estimate = fields["window"], fields["ssim_estimate"]
    sizes = {}
    if isinstance(window, Regions):
        tensors |= {name: torch.from_numpy(getattr(window, name)) for name in _OF_REGIONS}
    else:
        sizes = {"shape": window.shape, "strides": window.strides}
    meta = {
        "format": _FORMAT,
        "tensors": {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()},
        "input_shape": window.input_shape,
        **sizes,
        "target": fields["target"],
        "seconds": fields["seconds"],
        "ssim_estimate": None if estimate is None else asdict(estimate),
        "baseline": fields["baseline"],
    }
    arrays = {
        name: (tensor.float() if meta["tensors"][name] in _NARROW else tensor).numpy()
        for name, tensor in tensors.items()
    }
    return meta, arrays


def put_together(meta: Mapping[str, Any], arrays: Mapping[str, AnyArray]) -> Fields:
    """The attributes of a map that `taken_apart` took apart, by name.

    Args:
        meta: Its plain numbers, as they are or through JSON.
        arrays: Its arrays by name.

    Raises:
        ValueError: They are of no map; the message says why.
        Exception: Any other of `DAMAGED`.

    Examples:
        >>> from krypton_engine.heatmap.heatmap import Heatmap
        >>> Heatmap(**put_together(*taken_apart(vars(heatmap)))) == heatmap
        True
    """
    headers = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    return _assembled(meta, headers, arrays.__getitem__)


def packed(fields: Fields) -> bytes:
    """The bytes of a saved map.

    Args:
        fields: The attributes of the map by name, all of `FIELDS`.

    Examples:
        >>> _ = Path("map.npz").write_bytes(packed(vars(heatmap)))
        >>> read(Path("map.npz"))["window"] == heatmap.window
        True
    """
    meta, arrays = taken_apart(fields)
    entries: dict[str, Any] = {"meta": np.array(json.dumps(meta, default=operator.index)), **arrays}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **entries)
    return buffer.getvalue()


def read(path: Path) -> Fields:
    """The attributes of a saved map, by name.

    No tensor is expanded before its size is known to be the one that the window or the regions imply.

    Args:
        path: The file.

    Raises:
        ValueError: The file is no saved map; the message says why.
        Exception: Any other of `DAMAGED`.

    Examples:
        >>> from krypton_engine.heatmap.heatmap import Heatmap
        >>> heatmap.save("map.npz")
        >>> Heatmap(**read(Path("map.npz"))) == heatmap
        True
    """
    if path.is_file() and not zipfile.is_zipfile(path):
        raise ValueError("the file is no .npz archive")
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise ValueError("the archive has an entry twice")
        if entries["meta"].file_size > _LARGEST_META:
            raise ValueError("the header is too long")
        meta = json.loads(
            str(np.lib.format.read_array(io.BytesIO(archive.read("meta.npy")), allow_pickle=False))
        )
        headers = {name: _header(archive, entry) for name, entry in entries.items() if name != "meta"}

        def load(name: str) -> AnyArray:
            with archive.open(entries[name]) as file:
                array: AnyArray = np.lib.format.read_array(file, allow_pickle=False)
            return array

        return _assembled(meta, headers, load)


def _assembled(
    meta: Mapping[str, Any], headers: Mapping[str, _Header], load: Callable[[str], AnyArray]
) -> Fields:
    """The attributes of a map by name; no array is loaded before its header is known to be possible.

    Raises:
        ValueError: They are of no map.
    """
    if meta["format"] not in (1, _FORMAT):
        raise ValueError("the format is of another version")
    held = set(headers)
    types = meta["tensors"] if meta["format"] > 1 else dict.fromkeys(held | {"image"})
    if held != set(types) or not held <= {*TENSORS, *_OF_REGIONS}:
        raise ValueError(f"the header does not match the entries: {', '.join(sorted(held)) or 'none'}")
    window: Positions
    if "shape" in meta:
        window = saved_window(*(tuple(meta[name]) for name in ("input_shape", "shape", "strides")))
    else:
        window = _saved_regions(load, tuple(meta["input_shape"]), headers)
        held -= set(_OF_REGIONS)
    _check_headers({name: headers[name] for name in held}, window)
    tensors: dict[str, Tensor] = {}
    for name in held:
        tensors[name] = torch.from_numpy(load(name))
        if types[name] in _NARROW:
            tensors[name] = tensors[name].to(getattr(torch, str(types[name])))
    if "classes" in held and "class_values" in held:  # where there was no number, a class was made up once
        tensors["classes"][~tensors["class_values"].isfinite()] = -1
    target, baseline, estimate = meta["target"], meta.get("baseline"), meta.get("ssim_estimate")
    found = {
        "window": window,
        "target": tuple(target) if isinstance(target, list) else target,
        "seconds": meta["seconds"],
        "ssim_estimate": None if estimate is None else SsimEstimate(**estimate),
        "baseline": tuple(baseline) if isinstance(baseline, list) else baseline,
        **tensors,
    }
    _check_meaning(found)
    if isinstance(target, int) and "base_outputs" in held:  # it could be one from the end once
        found["target"] = target % len(found["base_outputs"])
    return found


def _header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Header:
    """Shape and dtype of an array, whose numbers are not read.

    Raises:
        ValueError: The entry is no array of numbers, or its size is not the one that its header implies.
    """
    with archive.open(entry) as file:
        if np.lib.format.read_magic(file) != (1, 0):  # others may have headers of any length
            raise ValueError(f"{entry.filename} is of another version")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.kind not in "biufc" or not dtype.isnative:
            raise ValueError(f"{entry.filename} holds {dtype}")
        if entry.file_size != file.tell() + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{entry.filename} is cut short, or longer than it says")
    return shape, dtype


def _saved_regions(
    load: Callable[[str], AnyArray], input_shape: tuple[int, ...], headers: Mapping[str, _Header]
) -> Regions:
    """Regions out of a file.

    Raises:
        ValueError: The numbers are no regions of such an input.
    """
    (shape, kind), (ids, kind_of_ids) = headers["numbers"], headers["ids"]
    fits = len(shape) == len(input_shape) and all(
        is_count(n) and mine in (1, n) for mine, n in zip(shape, input_shape, strict=True)
    )
    if not fits or len(ids) != 1 or {kind, kind_of_ids} != {np.dtype(np.int64)}:
        raise ValueError(f"regions of {kind} {shape} and {kind_of_ids} {ids} over an input of {input_shape}")
    numbers, names = load("numbers"), load("ids")
    if not np.array_equal(np.unique(numbers), np.arange(*ids)) or (np.diff(names) <= 0).any():
        raise ValueError("the regions are not numbered from 0 on, or their ids do not rise")
    return Regions(input_shape, numbers, names)


def _check_headers(headers: dict[str, _Header], window: Positions) -> None:
    """Refuse arrays whose shapes or dtypes no map has.

    Raises:
        ValueError: An array has another shape or dtype than the window implies.
    """
    grid, answer = window.grid_shape, headers["base"][0]
    classes = headers.get("base_outputs", ((0,), None))[0]
    expected = {
        "values": ((*grid, *answer), "f"),
        "base": (answer, "biuf"),
        "measured": (grid, "b"),
        "trimmed": (grid, "b"),
        "cheap": ((*grid, *answer), "f"),
        "classes": (grid, "i"),
        "class_values": (grid, "biuf"),
        "outputs": ((*grid, *classes), "biuf"),
        "base_outputs": (classes[:1], "biuf"),
        "image": (window.input_shape, "biufc"),
        "samples": ((*headers["samples"][0][:1], *grid, *answer) if "samples" in headers else (), "f"),
    }
    for name, (shape, dtype) in headers.items():
        if shape != expected[name][0] or dtype.kind not in expected[name][1]:
            raise ValueError(f"{name} is {shape} of {dtype}; the window says {expected[name][0]}")


def _check_meaning(found: Fields) -> None:
    """Refuse numbers that no map has.

    Raises:
        ValueError: A number is impossible; the message names the attribute.
    """
    target, estimate, baseline = found["target"], found["ssim_estimate"], found["baseline"]
    classes = len(found["base_outputs"]) if "base_outputs" in found else None
    spread = () if estimate is None else (estimate.value, estimate.low, estimate.high)
    checks = {
        "target": is_target(target)
        and (classes is None or not isinstance(target, int) or target in range(-classes, classes)),
        "seconds": is_number(found["seconds"]) and found["seconds"] >= 0,
        "ssim_estimate": all(map(is_similarity, spread))
        and (estimate is None or isinstance(estimate.basis, str)),
        "baseline": baseline is None or is_described(baseline),
        "classes": "classes" not in found
        or (classes is not None and all(-1 <= int(c) < classes for c in found["classes"].unique())),
        "trimmed": "trimmed" not in found or not bool((found["trimmed"] & ~found["measured"]).any()),
    }
    for name, holds in checks.items():
        if not holds:
            raise ValueError(f"{name} is not possible in a map")
