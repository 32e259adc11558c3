"""Pictures of a volume's heatmap: three slices through the voxel that counts most, or a montage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from krypton_engine.common.arguments import real, whole
from krypton_engine.errors import InputError
from krypton_engine.heatmap.attribution import mean_drop
from krypton_engine.heatmap.paint import QUIET, Legend, Paint, add_bar, heading, meaning
from krypton_engine.heatmap.shown import Pixels, Shown, axes_of, drops_of, nearest
from krypton_engine.heatmap.status import Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

Spacing = Sequence[float] | None
"""Size of a voxel along depth, height and width, in any unit; None for cubes."""

AXES = "depth", "row", "column"
"""Names of a volume's axes, as of ``(channels, depth, height, width)``."""

_CROSS_HAIRS = 255, 211, 77
"""Yellow, which neither a grey picture nor a map in blue and red has."""

_CLEAR = 1 / 14
"""Share of a slice's longer side, to each side of the point, that cross-hairs leave clear."""

_LEAST_PIXELS = {True: 360, False: 160}
"""Pixels of the longest side at least: of slices through a point, and of those of a montage."""

_MOST_PIXELS = 4096
"""Pixels of the longest side at most, or its voxels if these are more, however flat these are."""

_GAP = 8
"""Pixels between slices."""

_WIDTH = 9.6
"""Width of a figure in inches, at most."""

_NARROWEST = 7.2
"""The same, at least: a title needs room."""

_TALLEST = 3.6
"""Height of a slice in inches, at most."""

_BESIDE = 1.2
"""Width of the scale in inches."""


@dataclass(frozen=True)
class Cuts:
    """The slices of a volume that a picture shows.

    Attributes:
        through: Axis, 0 to 2, and index of every slice.
        pixels: Pixels of the picture along each axis of the volume.
        point: The voxel that all slices meet in; None of a montage.
    """

    through: tuple[tuple[int, int], ...]
    pixels: tuple[int, int, int]
    point: tuple[int, int, int] | None

    @staticmethod
    def of(shown: Shown, spacing: Spacing, slices: int | None) -> Cuts:
        """The slices that a user asks for; see `krypton_engine.Heatmap.overlay`.

        Raises:
            InputError: A spacing that is none, or more slices than the volume has.

        Examples:
            >>> from krypton_engine.perturbation.windows import SlidingWindow
            >>> window = SlidingWindow((1, 8, 6, 6), (1, 4, 3, 3), (1, 4, 3, 3))
            >>> drop = torch.zeros(2, 2, 2)
            >>> drop[1, 0, 1] = 1.0
            >>> shown = Shown(drop, torch.full((2, 2, 2), 4), torch.tensor(1.0), window, None)
            >>> Cuts.of(shown, None, None)
            Cuts(through=((0, 5), (1, 1), (2, 4)), pixels=(360, 270, 270), point=(5, 1, 4))
            >>> Cuts.of(shown, (2.0, 1.0, 1.0), 2)
            Cuts(through=((0, 2), (0, 6)), pixels=(160, 60, 60), point=None)
        """
        axes, _ = axes_of(shown.window)
        depth, height, width = (shown.window.input_shape[axis] for axis in axes)
        sizes = (depth, height, width)
        pixels = _pixels(sizes, spacing, _LEAST_PIXELS[slices is None])
        if slices is None:
            point = most_important(shown)
            return Cuts(tuple(enumerate(point)), pixels, point)
        count = whole(slices)
        if count is None or not 1 <= count <= depth:
            raise InputError("slices", repr(slices), f"1 to {depth}, the volume's depth")
        return Cuts(tuple((0, (2 * i + 1) * depth // (2 * count)) for i in range(count)), pixels, None)


def _pixels(sizes: tuple[int, int, int], spacing: Spacing, least: int) -> tuple[int, int, int]:
    """Pixels along each axis: in proportion, the longest at least ``least``, and a voxel at least one.

    Voxels that are very flat or thin have less, so that the longest has no more than `_MOST_PIXELS`.
    """
    try:
        given = [1.0] * 3 if spacing is None else [real(step) for step in spacing]
    except TypeError:  # nothing that has items
        given = []
    steps = [step for step in given if step is not None and 0 < step < math.inf]
    if len(given) != 3 or len(steps) != 3:
        raise InputError("spacing", repr(spacing), "three positive numbers, of depth, height and width")
    lengths = [size * step / min(steps) for size, step in zip(sizes, steps, strict=True)]
    longest, most = max(lengths), max(_MOST_PIXELS, *sizes)
    times = math.ceil(least / longest) if longest <= most else most / longest
    depth, height, width = (max(1, round(times * length)) for length in lengths)
    return depth, height, width


def most_important(shown: Shown) -> tuple[int, int, int]:
    """The voxel of the largest attribution that a picture colours, the middle of several as large.

    Where nothing is known, that is the volume's middle.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window = SlidingWindow((1, 4, 3, 3), (1, 2, 3, 3), (1, 1, 3, 3))
        >>> shown = Shown(torch.tensor([0.0, 0.5, 1.0]), torch.full((3,), 4), torch.tensor(1.0), window, None)
        >>> most_important(shown)  # the last window's alone
        (3, 1, 1)
    """
    axes, channels = axes_of(shown.window)
    known = (shown.status != Status.UNKNOWN) & shown.drop.isfinite()
    cells = mean_drop(shown.window, shown.drop.where(known, 0.0), known).permute(*channels, *axes)
    cells = cells.reshape(-1, *cells.shape[len(channels) :]).nan_to_num(nan=-math.inf).amax(0)
    drops, seen = drops_of(shown)
    cells[torch.from_numpy(~(seen & np.isfinite(drops))[np.ix_(*nearest(shown.window))])] = -math.inf
    # Cells of a map are alike where the same windows cover them.
    alike = (cells == cells.max()).nonzero().double()
    middle = alike[int(((alike - alike.mean(0)) ** 2).sum(1).argmin())]
    depth, height, width = (int(each) for each in middle)
    return depth, height, width


def overlay(shown: Shown, image: object, paint: Paint, cuts: Cuts) -> Image:
    """The slices beside each other, on black.

    Args:
        shown: The map.
        image: Volume to draw over; see `krypton_engine.Heatmap.overlay`.
        paint: The colours.
        cuts: The slices.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window, drop = SlidingWindow((1, 8, 6, 6), (1, 4, 3, 3), (1, 4, 3, 3)), torch.rand(2, 2, 2)
        >>> shown = Shown(drop, torch.full((2, 2, 2), 4), torch.tensor(1.0), window, torch.rand(1, 8, 6, 6))
        >>> cuts = Cuts.of(shown, None, None)
        >>> overlay(shown, None, Paint(-1.0, 1.0, "RdBu_r", 0.8), cuts).size  # 270 pixels each, and 8 between
        (826, 360)
    """
    from PIL import Image as PILImage

    _, pictures = _slices(shown, image, paint, cuts)
    columns = _columns(cuts)
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    tall = max(picture.shape[0] for picture in pictures)
    width = max(sum(picture.shape[1] + _GAP for picture in row) for row in rows) - _GAP
    canvas = np.zeros((len(rows) * (tall + _GAP) - _GAP, width, 3), np.uint8)
    for r, row in enumerate(rows):
        left = 0
        for picture in row:
            top = r * (tall + _GAP) + (tall - picture.shape[0]) // 2
            canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            left += picture.shape[1] + _GAP
    return PILImage.fromarray(canvas)


def figure(shown: Shown, image: object, paint: Paint, cuts: Cuts, legend: Legend) -> Figure:
    """The slices of the input above those of the overlay, or the overlay's alone of a montage, with a scale.

    Args:
        shown, image, paint, cuts: As for `overlay`.
        legend: Heading of the overlay, and what its colours stand for.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window, drop = SlidingWindow((1, 8, 6, 6), (1, 4, 3, 3), (1, 4, 3, 3)), torch.rand(2, 2, 2)
        >>> shown = Shown(drop, torch.full((2, 2, 2), 4), torch.tensor(1.0), window, torch.rand(1, 8, 6, 6))
        >>> cuts = Cuts.of(shown, None, None)
        >>> drawn = figure(shown, None, Paint(-1.0, 1.0, "RdBu_r", 0.8), cuts, ("drop", "fall of the answer"))
        >>> [axes.get_title()[:-2] for axes in drawn.axes][:3]
        ['depth', 'row', 'column']
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    bare, pictures = _slices(shown, image, paint, cuts)
    columns = _columns(cuts)
    all_of = pictures if cuts.point is None else bare + pictures
    rows = math.ceil(len(all_of) / columns)
    tall, wide = max(each.shape[0] for each in pictures), [each.shape[1] for each in pictures[:columns]]
    inch = max(sum(wide) / (_WIDTH - _BESIDE), tall / _TALLEST)  # in pixels
    size = (
        max(_NARROWEST, sum(wide) / inch + _BESIDE),
        rows * (tall / inch + (0.28 if cuts.point is None else 0.06)) + 0.95,
    )
    drawn = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.03))
    panels = drawn.subplots(rows, columns, width_ratios=wide, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, picture in zip(panels.flat, all_of, strict=False):
        above = (tall - len(picture)) // 2  # as tall as the tallest, so that all are at one scale
        rim = ((above, tall - len(picture) - above), (0, 0), (0, 0))
        axes.imshow(np.pad(picture, rim, constant_values=255))
    for axes, (axis, index) in zip(panels.flat, cuts.through, strict=False):
        axes.set_title(f"{AXES[axis]} {index}", fontsize=9, color=QUIET)
    drawn.supxlabel(heading(shown, legend), fontsize=10, color=QUIET)
    add_bar(drawn, list(panels.flat), paint, meaning(shown, legend), aspect=32)
    return drawn


def _columns(cuts: Cuts) -> int:
    """Slices side by side: of a montage so many that it is about four to three, with few places empty."""
    count = len(cuts.through)
    if cuts.point is not None:
        return count
    _, height, width = cuts.pixels

    def cost(columns: int) -> float:
        rows = math.ceil(count / columns)
        return abs(math.log(columns * width / (rows * height) * 3 / 4)) + rows * columns / count

    return min(range(1, count + 1), key=cost)


def _slices(shown: Shown, image: object, paint: Paint, cuts: Cuts) -> tuple[list[Pixels], list[Pixels]]:
    """The input and the overlay at every slice, with cross-hairs: ``(height, width, 3)``; depth rises."""
    from PIL import Image as PILImage

    grey, (drops, known), places = _below(shown, image), drops_of(shown), nearest(shown.window)
    bare: list[Pixels] = []
    pictures: list[Pixels] = []
    for axis, index in cuts.through:
        down, right = (other for other in range(3) if other != axis)
        size = cuts.pixels[down], cuts.pixels[right]
        resized = PILImage.fromarray(grey.take(index, axis)).resize(size[::-1], PILImage.Resampling.BICUBIC)
        where = places.copy()
        for other, count in zip((down, right), size, strict=True):
            where[other] = places[other][np.arange(count) * len(places[other]) // count]
        where[axis] = places[axis][index : index + 1]
        plane, cells = np.asarray(resized), np.ix_(*where)
        mixed = paint.on(plane, drops[cells].reshape(size), known[cells].reshape(size))
        for kept, picture in ((bare, plane[..., None].repeat(3, -1)), (pictures, mixed)):
            if cuts.point is not None:
                counts = grey.shape[down], grey.shape[right]
                _cross(picture, (cuts.point[down], cuts.point[right]), counts)
            kept.append(picture if axis == 0 else picture[::-1])  # the first slice of a stack lies below
    return bare, pictures


def _cross(picture: Pixels, point: tuple[int, int], counts: tuple[int, int]) -> None:
    """Draw lines of a pixel through a voxel's middle, which stop short of that."""
    row, column = (
        int((voxel + 0.5) * pixels / count)
        for voxel, pixels, count in zip(point, picture.shape, counts, strict=False)
    )
    clear = round(_CLEAR * max(picture.shape[:2]))
    for line, at in ((picture[row], column), (picture[:, column], row)):
        line[: max(0, at - clear)] = line[at + clear + 1 :] = _CROSS_HAIRS


def _below(shown: Shown, image: object) -> Pixels:
    """The volume to draw over, in grey: ``(depth, height, width)``."""
    from PIL import Image as PILImage

    from krypton_engine.zoo.preprocess import stretched

    axes, channels = axes_of(shown.window)
    sizes = tuple(shown.window.input_shape[axis] for axis in axes)
    given = shown.image
    if image is not None:
        try:
            cells = np.asarray(image)
        except Exception:  # a ragged list, a tensor of another device or with a gradient
            cells = np.empty((), dtype=object)
        if cells.shape != sizes or cells.dtype.kind not in "buif":
            raise InputError(
                "image",
                f"{type(image).__name__}, {cells.shape} of {cells.dtype}",
                f"numbers of the input's depth, height and width, {sizes}",
            )
        if cells.dtype == np.uint8:
            return cells
        given, axes, channels = torch.from_numpy(cells.astype(np.float64))[None], (1, 2, 3), (0,)
    if given is None:
        raise InputError("image", "None", "a volume, since this map holds none to draw over")
    depth, height, width = sizes
    tall = stretched(given.permute(*channels, *axes).reshape(-1, depth * height, width))
    return np.asarray(PILImage.fromarray(tall).convert("L")).reshape(sizes)
