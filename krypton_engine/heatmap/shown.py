"""The part of a heatmap that pictures show, arranged by the axes of an image, a volume or a signal. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from krypton_engine.common.arguments import real
from krypton_engine.common.arrays import AnyArray, Flags, Floats, IntArray
from krypton_engine.errors import InputError
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import as_sliding

Scale = tuple[float, float] | float | None
"""Drops at the two ends of a colour map, or one number for both signs; None for the largest drop."""

Pixels = npt.NDArray[np.uint8]
"""Pixels, grey or with a last axis of three colours."""


@dataclass(frozen=True, eq=False)
class Shown:
    """The part of a heatmap that pictures show.

    Attributes:
        drop: Loss of the target at every position, on the grid.
        status: The origin of each value: uint8 of `krypton_engine.heatmap.status.Status`, on the grid.
        base: The target's output for the un-occluded input.
        window: The positions.
        image: The un-occluded input without its batch dimension; None where the map holds none.
    """

    drop: Tensor
    status: Tensor
    base: Tensor
    window: Positions
    image: Tensor | None


def axes_of(positions: Positions) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of the input that are those of a signal (one), an image (two) or a volume (three).

    Channels come first, or last where there are 1, 3 or 4 of these, and of what comes first another number.
    An input of two axes is a signal where every position covers the whole of one, which is its channels, and
    an image without channels otherwise.

    Args:
        positions: The positions over the input.

    Returns:
        These axes, and that of the channels, if any.

    Raises:
        InputError: The input is none of these.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> axes_of(SlidingWindow((1, 24, 24, 20), (1, 8, 8, 8), (1, 4, 4, 4)))
        ((1, 2, 3), (0,))
        >>> axes_of(SlidingWindow((2, 40), (2, 8), (2, 4))), axes_of(SlidingWindow((9, 9), (3, 3), (1, 1)))
        (((1,), (0,)), ((0, 1), ()))
    """
    shape = positions.input_shape
    rank = len(shape)
    if rank == 1:
        return (0,), ()
    if rank == 2 and any(map(positions.spans, (0, 1))):
        return ((1,), (0,)) if positions.spans(0) else ((0,), (1,))
    if rank == 2:
        return (0, 1), ()
    if rank not in (3, 4):
        raise InputError(
            "the input",
            f"shape {shape}, no signal, image or volume",
            "drop, the numbers by position, and attribution(), those on the input, for plots of your own",
            "and pictures are of (channels, length), (channels, height, width) or (channels, depth, height, "
            "width), or with the channels last",
            verb="has",
        )
    last = shape[-1] in (1, 3, 4) and shape[0] not in (1, 3, 4)
    return (tuple(range(rank - 1)), (rank - 1,)) if last else (tuple(range(1, rank)), (0,))


def drops_of(shown: Shown) -> tuple[Floats, Flags]:
    """The drop at every place along the picture's axes, and where anything is known.

    Returns:
        Places of windows are positions, those of regions cells; of several positions at one place, as of
        windows for single channels, the mean.

    Raises:
        InputError: The map has several numbers a position.

    Examples:
        >>> shown = Shown(heatmap.drop, heatmap.status, heatmap.base, heatmap.window, None)
        >>> drops_of(shown)[0].tolist()
        [[0.5, 0.0], [0.0, -0.25]]
    """
    axes, channels = axes_of(shown.window)
    if shown.drop.shape != shown.status.shape:
        raise InputError(
            "target",
            f"values of shape {tuple(shown.base.shape)} for every position",
            "for an overlay, one number",
            verb="selects",
        )
    drops, known = (
        _cells(shown.window, each.numpy()).transpose((*channels, *axes))
        for each in (shown.drop.double(), shown.status != Status.UNKNOWN)
    )
    if not channels:
        return drops, known
    count = known.sum(0)
    mean = np.where(known, drops, 0.0).sum(0) / np.maximum(count, 1)
    return mean, count > 0


def _cells(positions: Positions, values: AnyArray) -> AnyArray:
    """Values by place along every axis of the input: of a window the positions, of regions the cells."""
    if isinstance(positions, Regions):
        return values[np.broadcast_to(positions.numbers, positions.input_shape)]
    return values.reshape(as_sliding(positions).counts)


def nearest(positions: Positions) -> list[IntArray]:
    """For every pixel along each of the picture's axes the place whose window is centred nearest.

    Examples:
        >>> [each.tolist() for each in nearest(heatmap.window)] == [[0] * 12 + [1] * 12, [0] * 10 + [1] * 10]
        True
    """
    axes, _ = axes_of(positions)
    if isinstance(positions, Regions):  # whose places are pixels
        return [np.arange(positions.input_shape[axis], dtype=np.int64) for axis in axes]
    return [as_sliding(positions).nearest(axis) for axis in axes]


def limits(shown: Shown, scale: Scale) -> tuple[float, float]:
    """Drops at the two ends of the colour map.

    Args:
        shown: The map.
        scale: Ends that were asked for; see `krypton_engine.Heatmap.overlay`.

    Raises:
        InputError: The scale is none, or the input is no signal, image or volume.

    Examples:
        >>> shown = Shown(heatmap.drop, heatmap.status, heatmap.base, heatmap.window, heatmap.image)
        >>> shown.drop
        tensor([[ 0.5000,  0.0000],
                [ 0.0000, -0.2500]])
        >>> limits(shown, None), limits(shown, 2.0)
        ((-0.5, 0.5), (-2.0, 2.0))
    """
    drops = drops_of(shown)[0]
    if scale is None:
        finite = np.abs(drops[np.isfinite(drops)])
        scale = float(finite.max(initial=0.0)) or 1.0
    pair = isinstance(scale, tuple) and len(scale) == 2
    numbers = [real(each) for each in (scale if pair else (scale,))]  # type: ignore[union-attr]
    high = math.nan if None in numbers else float(numbers[-1])  # type: ignore[arg-type]
    low = -high if len(numbers) == 1 or math.isnan(high) else float(numbers[0])  # type: ignore[arg-type]
    if not -math.inf < low < high < math.inf:
        raise InputError("scale", repr(scale), "a positive number, or (low, high) with low < high")
    return low, high


def not_finite(shown: Shown, words: str) -> str:
    """The number of known positions whose drop is not finite.

    Args:
        shown: The map.
        words: With braces for the positions: ``"{} not finite"``.

    Returns:
        The words, such as ``"2 positions are not finite"``; empty where every drop is finite.

    Examples:
        >>> from dataclasses import replace
        >>> drop = torch.tensor([[torch.inf, 1.0], [1.0, 1.25]])
        >>> shown = Shown(drop, heatmap.status, heatmap.base, heatmap.window, None)
        >>> not_finite(shown, "hatched: {} not finite")
        'hatched: 1 position is not finite'
    """
    odd = ~shown.drop.isfinite().reshape(*shown.status.shape, -1).all(-1)
    count = int((odd & (shown.status != Status.UNKNOWN)).sum())
    return words.format(_positions(count)) if count else ""


def unknown(shown: Shown) -> str:
    """A note on how many positions are bare in a picture since nothing is known there; empty if none is.

    Examples:
        >>> unknown(Shown(heatmap.drop, torch.zeros(2, 2), heatmap.base, heatmap.window, None))
        'bare: 4 positions are unknown'
    """
    count = int((shown.status == Status.UNKNOWN).sum())
    return f"bare: {_positions(count)} unknown" if count else ""


def _positions(count: int) -> str:
    return f"{count} position{'s are' if count > 1 else ' is'}"
