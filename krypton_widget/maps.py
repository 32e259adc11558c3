"""Maps as a page draws them. No widget, no threads."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.common.arrays import AnyArray, Flags
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.windows import SlidingWindow

Sent: TypeAlias = dict[str, Any]
"""Values for the page, or from it, by name: what JSON has, and bytes."""

Region = tuple[int, ...] | Flags | None
"""A part of the image: None (all of it), a box (top, left, bottom, right), or a mask (height, width)."""


def on_grid(heatmap: Heatmap, cells: Tensor) -> AnyArray:
    """One number a position as an array (rows, columns), one cell where the window spans an axis."""
    return cells.reshape(heatmap.window.counts[1:]).numpy()


def wanted(window: SlidingWindow, region: Region) -> Flags:
    """Positions (rows, columns) whose window touches ``region``.

    Raises:
        InputError: The region does not fit the image.
    """
    rows, columns = window.counts[1:]
    if region is None:
        return np.ones((rows, columns), dtype=bool)
    flat = np.zeros(len(window), dtype=bool)
    flat[window.touching(as_engine(region))] = True  # type: ignore[arg-type]
    return flat.reshape(rows, columns)


def as_engine(region: Region) -> Tensor | tuple[int, ...] | None:
    """A region as `KryptonOcclusion.heatmap` takes it."""
    return torch.from_numpy(region) if isinstance(region, np.ndarray) else region


def region_to_page(region: Region) -> Sent | None:
    """A region as the page has it."""
    if isinstance(region, np.ndarray):
        return {"mask": region.astype(np.uint8).tobytes()}
    return None if region is None else {"box": list(region)}


def fingerprint(region: Region) -> bytes | None:
    """Bytes that are the same for equal regions only; None for everywhere."""
    if region is None:
        return None
    return region.tobytes() if isinstance(region, np.ndarray) else str(region).encode()


def within(heatmap: Heatmap, wanted: Flags) -> Heatmap:
    """The part of a map at wanted positions (rows, columns), as it is on the page."""
    where = torch.from_numpy(wanted.reshape(heatmap.measured.shape))
    values = torch.where(where, heatmap.values, torch.tensor(math.nan, dtype=heatmap.values.dtype))
    return replace(heatmap, values=values, measured=heatmap.measured & where)


def not_finite(heatmap: Heatmap, wanted: Flags) -> int:
    """The number of measured positions among those wanted (rows, columns) that gave no finite change."""
    return int((on_grid(heatmap, heatmap.measured & ~heatmap.drop.isfinite()) & wanted).sum())


def largest_drop(heatmap: Heatmap, target: int | None) -> float:
    """The largest measured finite change of the target, or of the map's own where only that was kept."""
    values, base = heatmap.values, heatmap.base
    if heatmap.outputs is not None and heatmap.base_outputs is not None and target is not None:
        values, base = heatmap.outputs[..., target], heatmap.base_outputs[target]
    known = (base - values)[heatmap.measured]
    return _largest(known[known.isfinite()].numpy())


def _largest(changes: npt.NDArray[np.floating]) -> float:
    return float(np.abs(changes).max()) if changes.size else 0.0


def to_page(heatmap: Heatmap, wanted: Flags) -> Sent:
    """A map for the page: numbers as little-endian bytes, row by row.

    Args:
        heatmap: What to show.
        wanted: Where (rows, columns); elsewhere nothing is known.
    """
    window = heatmap.window
    status = np.where(wanted, on_grid(heatmap, heatmap.status), Status.UNKNOWN).astype(np.uint8)
    measured = status >= Status.TRIMMED

    def cells(tensor: Tensor | None, where: Flags, missing: float, dtype: type[np.generic]) -> bytes:
        if tensor is None:
            return b""
        return np.where(where, on_grid(heatmap, tensor), missing).astype(dtype).tobytes()

    drops = on_grid(heatmap, heatmap.drop)[status != Status.UNKNOWN]
    return {
        "rows": window.counts[1],
        "columns": window.counts[2],
        "height": window.input_shape[1],
        "width": window.input_shape[2],
        "window": window.shape[1],
        "stride": window.strides[1],
        "target": heatmap.target,
        "base": _base(heatmap),
        "largest": _largest(drops[np.isfinite(drops)]),
        "values": cells(heatmap.values, status != Status.UNKNOWN, np.nan, np.float32),
        "status": status.tobytes(),
        "classes": cells(heatmap.classes, measured, -1, np.int32),
        "classValues": cells(heatmap.class_values, measured, np.nan, np.float32),
        "done": int(measured.sum()),
        "total": int(wanted.sum()),
        "notFinite": not_finite(heatmap, wanted),
        "exact": bool((status[wanted] == Status.EXACT).all()),
        "seconds": heatmap.seconds,
    }


def _base(heatmap: Heatmap) -> float | None:
    """The base in the precision of a page's values, so that an unchanged output is a drop of exactly 0."""
    base = float(np.float32(float(heatmap.base)))
    return base if math.isfinite(base) else None


def estimate(heatmap: Heatmap, wanted: Flags) -> Sent | None:
    """The expected SSIM of an approximate map; None where it is unknown, or the map exact."""
    exact = on_grid(heatmap, heatmap.status == Status.EXACT)
    known = None if heatmap.ssim_estimate is None else asdict(heatmap.ssim_estimate)
    return None if known is None or exact[wanted].all() or finite(known) != known else known


def finite(value: object) -> object:
    """A value with numbers that JSON has: None for those that are not finite, in dicts and lists too."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def comparison(approximate: Heatmap, exact: Heatmap, pass_seconds: float | None) -> Sent:
    """The approximate map beside the exact one, and the cost of each.

    Args:
        approximate: As it was shown, for the class explained.
        exact: The same measured everywhere.
        pass_seconds: What full inference takes for a position; None if not timed yet.
    """
    positions = exact.measured.numel()
    seconds, exact_seconds = approximate.seconds, exact.seconds
    full = None if pass_seconds is None else pass_seconds * positions
    return {
        "rows": exact.window.counts[1],
        "columns": exact.window.counts[2],
        "window": exact.window.shape[1],
        "stride": exact.window.strides[1],
        "target": exact.target,
        "base": _base(exact),
        "approximate": approximate.values.numpy().astype(np.float32).tobytes(),
        "exact": exact.values.numpy().astype(np.float32).tobytes(),
        "ssim": approximate.compare(exact).ssim if bool(exact.values.isfinite().all()) else None,
        "estimate": estimate(approximate, np.ones(exact.window.counts[1:], dtype=bool)),
        "positions": positions,
        "measured": int(approximate.measured.sum()),
        "seconds": seconds,
        "exactSeconds": exact_seconds,
        "speedUp": exact_seconds / max(seconds, 1e-9),
        "fullSeconds": full,
        "fullSpeedUp": None if full is None else full / max(seconds, 1e-9),
        "fullSpeedUpExact": None if full is None else full / max(exact_seconds, 1e-9),
    }
