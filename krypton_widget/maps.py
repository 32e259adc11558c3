"""Maps as a page draws them. No widget, no threads."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.common.arrays import AnyArray, Flags, IntArray
from krypton_engine.common.values import digest
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import SlidingWindow, as_sliding

Sent: TypeAlias = dict[str, Any]
"""Values for the page, or from it, by name: JSON's types, and bytes."""

Region = tuple[int, ...] | Flags | None
"""A part of the image: None (all of it), a box (top, left, bottom, right), or a mask (height, width)."""


Partition = str | IntArray | None
"""Regions as users have: ``"slic:COUNT"``, a number for every pixel (height, width), or None: windows."""


def grid_of(positions: Positions) -> tuple[int, int]:
    """Rows and columns of a map on the page: those of a window; regions stand in one row.

    Examples:
        >>> grid_of(SlidingWindow((3, 24, 20), (3, 12, 10), (3, 12, 10)))
        (2, 2)
        >>> grid_of(Regions.of(torch.tensor([[7, 7, 2], [7, 2, 2]]), (3, 2, 3)))
        (1, 2)
    """
    if isinstance(positions, Regions):
        return 1, len(positions)
    rows, columns = as_sliding(positions).counts[1:]
    return rows, columns


def cells_of(regions: Regions) -> npt.NDArray[np.int32]:
    """The region of every pixel, by its place among them: ``(height, width)``.

    Examples:
        >>> cells_of(Regions.of(torch.tensor([[7, 7, 2], [7, 2, 2]]), (3, 2, 3)))
        array([[1, 1, 0],
               [1, 0, 0]], dtype=int32)
    """
    return regions.numbers.reshape(regions.numbers.shape[-2:]).astype(np.int32)


def mask_of(regions: Regions) -> IntArray:
    """The user's number of the region of every pixel: ``(height, width)``.

    Examples:
        >>> mask_of(Regions.of(torch.tensor([[7, 7, 2], [7, 2, 2]]), (3, 2, 3))).tolist()
        [[7, 7, 2], [7, 2, 2]]
    """
    return regions.ids[cells_of(regions)]


def as_array(cells: Tensor) -> AnyArray:
    """A tensor as an array; NumPy has no numbers of bfloat16.

    Examples:
        >>> as_array(torch.ones(1, dtype=torch.bfloat16)).dtype
        dtype('float32')
    """
    return (cells.float() if cells.dtype == torch.bfloat16 else cells).numpy()


def on_grid(heatmap: Heatmap, cells: Tensor) -> AnyArray:
    """One number a position as an array (rows, columns), one cell where the window spans an axis.

    Examples:
        >>> on_grid(heatmap, heatmap.values).tolist()
        [[0.5, 1.0], [1.0, 1.25]]
    """
    return as_array(cells).reshape(grid_of(heatmap.window))


def wanted(positions: Positions, region: Region) -> Flags:
    """Positions (rows, columns) that touch ``region``.

    Raises:
        InputError: The region does not fit the image.

    Examples:
        >>> wanted(SlidingWindow((3, 24, 20), (3, 12, 10), (3, 12, 10)), (0, 0, 5, 20))
        array([[ True,  True],
               [False, False]])
    """
    if region is None:
        return np.ones(grid_of(positions), dtype=bool)
    flat = np.zeros(len(positions), dtype=bool)
    flat[positions.touching(as_engine(region))] = True  # type: ignore[arg-type]
    return flat.reshape(grid_of(positions))


def as_engine(region: Region) -> Tensor | tuple[int, ...] | None:
    """A region as `KryptonOcclusion.heatmap` takes it.

    Examples:
        >>> as_engine((0, 0, 5, 20)), as_engine(np.array([[True]])), as_engine(None)
        ((0, 0, 5, 20), tensor([[True]]), None)
    """
    return torch.from_numpy(region) if isinstance(region, np.ndarray) else region


def region_to_page(region: Region) -> Sent | None:
    r"""A region as the page has it.

    Examples:
        >>> region_to_page((0, 0, 5, 20)), region_to_page(np.array([[True, False]]))
        ({'box': [0, 0, 5, 20]}, {'mask': b'\x01\x00'})
    """
    if isinstance(region, np.ndarray):
        return {"mask": region.astype(np.uint8).tobytes()}
    return None if region is None else {"box": list(region)}


def regions_to_page(regions: Partition | Regions) -> Sent | str | None:
    """The regions as the page has them: a user's own by their digest.

    Examples:
        >>> regions_to_page("slic:100"), regions_to_page(np.array([[0, 1]]))
        ('slic:100', {'given': '9d34149fbd1fe777'})
    """
    if isinstance(regions, Regions):
        return regions_to_page(mask_of(regions))
    if isinstance(regions, np.ndarray):
        return {"given": digest(torch.from_numpy(regions))}
    return regions


def fingerprint(region: Region) -> bytes | None:
    """Bytes that are the same for equal regions only; None for everywhere.

    Examples:
        >>> mask = np.array([[True, False]])
        >>> fingerprint(mask) == fingerprint(mask.copy()), fingerprint(mask) == fingerprint(~mask)
        (True, False)
    """
    if region is None:
        return None
    return region.tobytes() if isinstance(region, np.ndarray) else str(region).encode()


def within(heatmap: Heatmap, wanted: Flags) -> Heatmap:
    """The part of a map at wanted positions (rows, columns), as it is on the page.

    Examples:
        >>> within(heatmap, np.array([[True, True], [False, False]])).values
        tensor([[0.5000, 1.0000],
                [   nan,    nan]])
    """
    where = torch.from_numpy(wanted.reshape(heatmap.measured.shape))
    values = torch.where(where, heatmap.values, torch.tensor(math.nan, dtype=heatmap.values.dtype))
    return replace(heatmap, values=values, measured=heatmap.measured & where)


def not_finite(heatmap: Heatmap, wanted: Flags) -> int:
    """The number of measured positions among those wanted (rows, columns) that gave no finite change.

    Examples:
        >>> strange = replace(heatmap, values=torch.tensor([[torch.inf, torch.nan], [1.0, 1.0]]))
        >>> not_finite(strange, np.array([[True, False], [True, False]]))
        1
    """
    return int((on_grid(heatmap, heatmap.measured & ~heatmap.drop.isfinite()) & wanted).sum())


def largest_drop(heatmap: Heatmap, target: int | None) -> float:
    """The largest measured finite change of a target, or of the map's own target where no other was kept.

    Examples:
        >>> heatmap.base - heatmap.values
        tensor([[ 0.5000,  0.0000],
                [ 0.0000, -0.2500]])
        >>> largest_drop(heatmap, target=0)
        0.5
    """
    values, base = heatmap.values, heatmap.base
    if heatmap.outputs is not None and heatmap.base_outputs is not None and target is not None:
        values, base = heatmap.outputs[..., target], heatmap.base_outputs[target]
    known = (base - values)[heatmap.measured]
    return _largest(as_array(known[known.isfinite()]))


def _largest(changes: npt.NDArray[np.floating]) -> float:
    return float(np.abs(changes).max()) if changes.size else 0.0


def to_page(heatmap: Heatmap, wanted: Flags) -> Sent:
    """A map for the page: numbers as little-endian bytes, row by row.

    Args:
        heatmap: The map to show.
        wanted: Positions to show (rows, columns); of others the page learns nothing.

    Examples:
        >>> page = to_page(heatmap, np.array([[True, True], [True, False]]))
        >>> np.frombuffer(page["values"], dtype="<f4").tolist(), page["done"], page["largest"]
        ([0.5, 1.0, 1.0, nan], 3, 0.5)
    """
    rows, columns = grid_of(heatmap.window)
    height, width = heatmap.window.input_shape[1:]
    window = heatmap.window if isinstance(heatmap.window, SlidingWindow) else None
    status = np.where(wanted, on_grid(heatmap, heatmap.status), Status.UNKNOWN).astype(np.uint8)
    measured = status >= Status.TRIMMED

    def cells(tensor: Tensor | None, where: Flags, missing: float, dtype: type[np.generic]) -> bytes:
        if tensor is None:
            return b""
        return np.where(where, on_grid(heatmap, tensor), missing).astype(dtype).tobytes()

    drops = on_grid(heatmap, heatmap.drop)[status != Status.UNKNOWN]
    return {
        "rows": rows,
        "columns": columns,
        "height": height,
        "width": width,
        "window": window.shape[1] if window else 0,
        "stride": window.strides[1] if window else 0,
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
    """The expected SSIM of an approximate map; None where it is unknown, or the map exact.

    Examples:
        >>> from krypton_engine.approximation.ssim import SsimEstimate
        >>> everywhere, measured = np.ones((2, 2), dtype=bool), torch.tensor([[True, True], [True, False]])
        >>> probable = SsimEstimate(0.9, 0.8, 0.95, "online")
        >>> estimate(replace(heatmap, measured=measured, ssim_estimate=probable), everywhere)
        {'value': 0.9, 'low': 0.8, 'high': 0.95, 'basis': 'online'}
        >>> estimate(heatmap, everywhere)
    """
    exact = on_grid(heatmap, heatmap.status == Status.EXACT)
    known = None if heatmap.ssim_estimate is None else asdict(heatmap.ssim_estimate)
    return None if known is None or exact[wanted].all() or finite(known) != known else known


def finite(value: object) -> object:
    """A value with numbers that JSON has: None for those that are not finite, in dicts and lists too.

    Examples:
        >>> finite({"values": [1.0, math.nan], "count": 2})
        {'values': [1.0, None], 'count': 2}
    """
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def comparison(approximate: Heatmap, exact: Heatmap, pass_seconds: float | None) -> Sent:
    """The approximate map beside the exact one, and the cost of each.

    Args:
        approximate: The map as it was shown, for the class explained.
        exact: The same map measured everywhere.
        pass_seconds: Seconds of full inference for a position; None if not timed yet.

    Examples:
        >>> found = comparison(replace(heatmap, seconds=0.5), replace(heatmap, seconds=2.0), pass_seconds=1.5)
        >>> found["ssim"], found["speedUp"], found["fullSeconds"], found["fullSpeedUp"]
        (1.0, 4.0, 6.0, 12.0)
    """
    positions, window = exact.measured.numel(), as_sliding(exact.window)
    seconds, exact_seconds = approximate.seconds, exact.seconds
    full = None if pass_seconds is None else pass_seconds * positions
    return {
        "rows": window.counts[1],
        "columns": window.counts[2],
        "window": window.shape[1],
        "stride": window.strides[1],
        "target": exact.target,
        "base": _base(exact),
        "approximate": as_array(approximate.values).astype(np.float32).tobytes(),
        "exact": as_array(exact.values).astype(np.float32).tobytes(),
        "ssim": approximate.compare(exact).ssim if bool(exact.values.isfinite().all()) else None,
        "estimate": estimate(approximate, np.ones(window.counts[1:], dtype=bool)),
        "positions": positions,
        "measured": int(approximate.measured.sum()),
        "seconds": seconds,
        "exactSeconds": exact_seconds,
        "speedUp": exact_seconds / max(seconds, 1e-9),
        "fullSeconds": full,
        "fullSpeedUp": None if full is None else full / max(seconds, 1e-9),
        "fullSpeedUpExact": None if full is None else full / max(exact_seconds, 1e-9),
    }
