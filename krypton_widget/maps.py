"""Maps as a page draws them. No widget, no threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.common.arrays import AnyArray, Flags, IntArray
from krypton_engine.common.values import digest
from krypton_engine.heatmap import volume
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.shown import Shown
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import SlidingWindow, as_sliding
from krypton_engine.run.order import coarse_to_fine

Sent: TypeAlias = dict[str, Any]
"""Values for the page, or from it, by name: JSON's types, and bytes."""

Region = tuple[int, ...] | Flags | None
"""A part of the image: None (all of it), a box, or a mask of its sizes.

A box is the begin of every axis, then the end of every axis: of a picture (top, left, bottom, right).
"""


Partition = str | IntArray | None
"""Regions as users have: ``"slic:COUNT"``, a number for every cell of the image, or None: windows."""

SIZES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
"""What an image's sizes are, by the number of its axes."""


def sizes_in_words(sizes: Sequence[int]) -> str:
    """An image's sizes, and what they are.

    Examples:
        >>> sizes_in_words((24, 20)), sizes_in_words((40,))
        ('24 x 20 (height x width)', '40 (length)')
    """
    return f"{' x '.join(map(str, sizes))} ({' x '.join(SIZES[len(sizes)])})"


def longest_window(sizes: Sequence[int]) -> int:
    """The largest side of a patch: a picture's is a square, and a volume's is cut to the shorter axes.

    Examples:
        >>> longest_window((24, 20)), longest_window((9, 64, 64))
        (20, 64)
    """
    return min(sizes) if len(sizes) == 2 else max(sizes)


def grid_of(positions: Positions) -> tuple[int, ...]:
    """A map's size on the page, by axis of the image; regions stand in one row.

    Examples:
        >>> grid_of(SlidingWindow((3, 24, 20), (3, 12, 10), (3, 12, 10)))
        (2, 2)
        >>> grid_of(Regions.of(torch.tensor([[7, 7, 2], [7, 2, 2]]), (3, 2, 3)))
        (2,)
    """
    return (len(positions),) if isinstance(positions, Regions) else as_sliding(positions).counts[1:]


def cells_of(regions: Regions) -> npt.NDArray[np.int32]:
    """The region of every cell, by its place among them, of the image's sizes.

    Examples:
        >>> cells_of(Regions.of(torch.tensor([[7, 7, 2], [7, 2, 2]]), (3, 2, 3)))
        array([[1, 1, 0],
               [1, 0, 0]], dtype=int32)
    """
    return regions.numbers.reshape(regions.numbers.shape[1:]).astype(np.int32)


def mask_of(regions: Regions) -> IntArray:
    """The user's number of the region of every cell, of the image's sizes.

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
    """One number a position as an array of `grid_of`'s shape, one cell where the window spans an axis.

    Examples:
        >>> on_grid(heatmap, heatmap.values).tolist()
        [[0.5, 1.0], [1.0, 1.25]]
    """
    return as_array(cells).reshape(grid_of(heatmap.window))


def wanted(positions: Positions, region: Region) -> Flags:
    """Positions that touch ``region``, of `grid_of`'s shape.

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
    """The part of a map at wanted positions, as it is on the page.

    Examples:
        >>> within(heatmap, np.array([[True, True], [False, False]])).values
        tensor([[0.5000, 1.0000],
                [   nan,    nan]])
    """
    where = torch.from_numpy(wanted.reshape(heatmap.measured.shape))
    values = torch.where(where, heatmap.values, torch.tensor(math.nan, dtype=heatmap.values.dtype))
    return replace(heatmap, values=values, measured=heatmap.measured & where)


def not_finite(heatmap: Heatmap, wanted: Flags) -> int:
    """The number of measured positions among those wanted that gave no finite change.

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


def is_coarse(window: Positions, measured: Flags, wanted: Flags) -> bool:
    """Whether as many wanted positions are measured as the first coarse grid has; of regions, an eighth.

    Examples:
        >>> window = SlidingWindow((3, 48, 48), (3, 4, 4), (3, 4, 4))
        >>> measured, everywhere = np.zeros((12, 12), dtype=bool), np.ones((12, 12), dtype=bool)
        >>> measured[::8, 0] = True
        >>> is_coarse(window, measured, everywhere), is_coarse(window, everywhere, everywhere)
        (False, True)
    """
    total = int(wanted.sum())
    positions = np.flatnonzero(wanted)
    first = coarse_to_fine(window, positions)[0] if isinstance(window, SlidingWindow) and total else None
    least = math.ceil(total / 8) if first is None else len(first)
    return int((measured & wanted).sum()) >= least


def are_shares(outputs: Tensor) -> bool:
    """Whether the outputs for an image are probabilities of classes, as far as one can see.

    Examples:
        >>> are_shares(torch.tensor([0.25, 0.75])), are_shares(torch.tensor([2.0, -1.0, 0.5]))
        (True, False)
    """
    return outputs.numel() > 1 and abs(float(outputs.sum()) - 1) < 0.01 and float(outputs.min()) >= 0


def to_page(heatmap: Heatmap, wanted: Flags) -> Sent:
    """A map for the page: numbers as little-endian bytes, the last axis fastest.

    Args:
        heatmap: The map to show.
        wanted: Positions to show; of others the page learns nothing.

    Examples:
        >>> page = to_page(heatmap, np.array([[True, True], [True, False]]))
        >>> np.frombuffer(page["values"], dtype="<f4").tolist(), page["done"], page["largest"]
        ([0.5, 1.0, 1.0, nan], 3, 0.5)
    """
    status = np.where(wanted, on_grid(heatmap, heatmap.status), Status.UNKNOWN).astype(np.uint8)
    measured = status >= Status.TRIMMED

    def cells(tensor: Tensor | None, where: Flags, missing: float, dtype: type[np.generic]) -> bytes:
        if tensor is None:
            return b""
        return np.where(where, on_grid(heatmap, tensor), missing).astype(dtype).tobytes()

    drops = on_grid(heatmap, heatmap.drop)[status != Status.UNKNOWN]
    return {
        **_laid(heatmap.window),
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
        "coarse": is_coarse(heatmap.window, measured, wanted),
        "seconds": heatmap.seconds,
    }


def _laid(positions: Positions) -> Sent:
    """How positions lie on the image, by its axes: along one that is shorter a window is as long as that."""
    window = positions if isinstance(positions, SlidingWindow) else None
    return {
        "sizes": list(positions.input_shape[1:]),
        "counts": list(grid_of(positions)),
        "window": max(window.shape[1:]) if window else 0,
        "stride": max(window.strides[1:]) if window else 0,
    }


def _base(heatmap: Heatmap) -> float | None:
    """The base in the precision of a page's values, so that an unchanged output is a drop of exactly 0."""
    base = float(np.float32(float(heatmap.base)))
    return base if math.isfinite(base) else None


def most_important(heatmap: Heatmap, wanted: Flags) -> list[int] | None:
    """The voxel of a volume that counts most, as in `krypton_engine.Heatmap.overlay`; None of other images.

    Examples:
        >>> most_important(heatmap, np.ones((2, 2), dtype=bool))  # of a picture
        >>> window = SlidingWindow((1, 4, 6, 6), (1, 4, 3, 3), (1, 4, 3, 3))
        >>> most_important(replace(heatmap, window=window), np.ones((1, 2, 2), dtype=bool))
        [1, 1, 1]
    """
    if len(heatmap.window.input_shape) != 4:
        return None
    seen = within(heatmap, wanted)
    return list(volume.most_important(Shown(seen.drop, seen.status, seen.base, seen.window, None)))


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
    positions, seconds, exact_seconds = exact.measured.numel(), approximate.seconds, exact.seconds
    full = None if pass_seconds is None else pass_seconds * positions
    return {
        **_laid(exact.window),
        "target": exact.target,
        "base": _base(exact),
        "approximate": as_array(approximate.values).astype(np.float32).tobytes(),
        "exact": as_array(exact.values).astype(np.float32).tobytes(),
        "ssim": approximate.compare(exact).ssim if bool(exact.values.isfinite().all()) else None,
        "estimate": estimate(approximate, np.ones(grid_of(exact.window), dtype=bool)),
        "positions": positions,
        "measured": int(approximate.measured.sum()),
        "seconds": seconds,
        "exactSeconds": exact_seconds,
        "speedUp": exact_seconds / max(seconds, 1e-9),
        "fullSeconds": full,
        "fullSpeedUp": None if full is None else full / max(seconds, 1e-9),
        "fullSpeedUpExact": None if full is None else full / max(exact_seconds, 1e-9),
    }
