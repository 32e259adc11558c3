"""Heatmap: values on the position grid, how each was come by, what it cost."""

from __future__ import annotations

import hashlib
import io
import math
import os
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from krypton_engine.approximation.interpolation import predict
from krypton_engine.approximation.ssim import SPREAD, SsimEstimate, expected_ssim, ssim
from krypton_engine.common import files
from krypton_engine.common.arguments import real, whole
from krypton_engine.common.arrays import Flags, Floats, IntArray
from krypton_engine.common.figures import figure as figure_of
from krypton_engine.common.figures import figures, together
from krypton_engine.errors import InputError, OutdatedError
from krypton_engine.heatmap import files as saved
from krypton_engine.perturbation.windows import SlidingWindow

if TYPE_CHECKING:
    from PIL.Image import Image

    from krypton_engine.plan.plan import Plan

Select = Callable[[Tensor], Tensor]
"""From outputs ``(positions, *output_shape)`` to the target's values ``(positions, *value_shape)``."""


class Status(IntEnum):
    """How the value of a position was come by."""

    UNKNOWN = 0
    """Not at all: NaN."""
    INTERPOLATED = 1
    """From measured positions around it."""
    TRIMMED = 2
    """Measured, with small changes dropped on the way."""
    EXACT = 3
    """Measured, as the full computation has it within rounding."""


Described = tuple[float, ...] | str
"""A baseline: a number a channel, or the fingerprint of an image."""

_SUPPOSED = 16
"""Positions supposed to have missed as those of other maps do, beside a verified sample's: errors are few and
large, and a small sample may have met none."""

_FOLDS = 4
"""Parts of a verified sample, each predicted without it."""

_RESAMPLED = 200
"""Draws from which the range of a verified SSIM is taken."""


def same(mine: Any, other: Any) -> bool:
    """Whether two values are the same: tensors number by number and of one type, NaN like NaN."""
    if isinstance(mine, Tensor) and isinstance(other, Tensor):
        return (mine.shape, mine.dtype) == (other.shape, other.dtype) and bool(
            torch.isclose(mine, other, rtol=0, atol=0, equal_nan=True).all()
        )
    if type(mine) is not type(other):
        return False
    if isinstance(mine, tuple):
        return len(mine) == len(other) and all(map(same, mine, other))
    if is_dataclass(mine):
        compared = (each.name for each in fields(mine) if each.compare)
        return all(same(getattr(mine, name), getattr(other, name)) for name in compared)
    return bool(mine == other or (mine != mine and other != other))


class Value:
    """A dataclass of numbers: equal where all of them are, whoever made it."""

    def __eq__(self, other: object) -> bool:
        return same(self, other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        plain = (getattr(self, each.name) for each in fields(self) if each.compare)  # type: ignore[arg-type]
        return hash((type(self), *(each for each in plain if isinstance(each, (int, str, SlidingWindow)))))


class Verifier(Protocol):
    """Whoever can measure positions of a map anew: a `KryptonOcclusion`."""

    def verify(self, heatmap: Heatmap, fraction: float = 0.05, *, seed: int = 0) -> Heatmap:
        """See `Heatmap.verify`."""


class Origin:
    """Which `KryptonOcclusion` made a map, as long as it lives. A pickle has none of it.

    Args:
        maker: The occlusion.
    """

    def __init__(self, maker: Verifier) -> None:
        self.maker = weakref.ref(maker)

    def __deepcopy__(self, _: Any) -> Origin:
        return self

    def __reduce__(self) -> Any:
        return type(None), ()


@dataclass(frozen=True, eq=False)
class Comparison(Value):
    """An approximate map against the exact one.

    Attributes:
        ssim: `krypton_engine.approximation.ssim.ssim` of the two.
        max_error: Largest absolute difference.
        difference: Approximate minus exact, on the grid.
    """

    ssim: float
    max_error: float
    difference: Tensor


@dataclass(frozen=True, eq=False)
class Heatmap(Value):
    """What a model says with each window of an image occluded.

    A value: neither the model nor anything else that computes is in it. Maps can be copied and pickled, and
    are equal where all is but the time and the plan.

    Attributes:
        values: ``M[p]``, the target's output with the window at ``p`` occluded: float CPU tensor with one
            axis for every input axis that the window does not span (an image: rows, columns); NaN where
            nothing is known. A target with several values has their dimensions after the grid's.
        base: The target's output for the un-occluded input.
        measured: Which positions were computed: boolean tensor on the grid. Others are NaN, or
            interpolated (``ssim_target=``); ``status`` tells.
        window: The sliding window: ``shape``, ``strides``, ``input_shape``.
        target: The target class or index, as given or predicted; None if there was none.
        classes: Predicted class with the window occluded, int64 on the grid (-1 where not measured, or
            where its value is not finite); None if the model does not give one row of classes.
        class_values: The value of that class, on the grid.
        outputs: Every output, ``(*grid, classes)``, if they were kept (``classes="all"``).
        base_outputs: All outputs for the un-occluded input, if the model gives one row of classes.
        image: The occluded input without its batch dimension, to draw over.
        seconds: Time from the call to the last value.
        plan: What was planned; None where full inference ran without a captured graph.
        trimmed: Which of the measured positions had small changes dropped on the way; None if none had.
        ssim_estimate: What the SSIM with the exact map probably is, of a map measured with ``ssim_target=``.
        baseline: What covered the cells: a number a channel, or the fingerprint of an image; None where that
            is not known.
        origin: What made it; None for a map out of a file.
    """

    values: Tensor
    base: Tensor
    measured: Tensor
    window: SlidingWindow
    target: Any = None
    classes: Tensor | None = None
    class_values: Tensor | None = None
    outputs: Tensor | None = None
    base_outputs: Tensor | None = None
    image: Tensor | None = None
    seconds: float = field(default=0.0, compare=False)
    plan: Plan | None = field(default=None, compare=False)
    trimmed: Tensor | None = None
    ssim_estimate: SsimEstimate | None = None
    baseline: Described | None = None
    origin: Origin | None = field(default=None, compare=False, repr=False)

    @property
    def status(self) -> Tensor:
        """How each value was come by: a uint8 tensor of `Status` on the grid."""
        unknown = self.values.isnan().reshape(*self.measured.shape, -1).all(-1)
        status = torch.full_like(unknown, Status.INTERPOLATED, dtype=torch.uint8)
        status[unknown] = Status.UNKNOWN
        status[self.measured] = Status.EXACT
        if self.trimmed is not None:
            status[self.measured & self.trimmed] = Status.TRIMMED
        return status.to(torch.uint8)

    @property
    def drop(self) -> Tensor:
        """``base - values``: how much the target loses when the window at a position is occluded."""
        return self.base - self.values

    @property
    def positions(self) -> Tensor:
        """First cell of the window at every position of the grid: int64 ``(*grid, axes)``."""
        starts = self.window.boxes(np.arange(len(self.window), dtype=np.int64))[..., 0]
        kept = [axis for axis in range(len(self.window.shape)) if not self.window.spans(axis)]
        return torch.from_numpy(starts[:, kept].reshape(*self.window.grid_shape, len(kept)))

    def attribution(self) -> Tensor:
        """Captum's attribution: for every input cell the mean drop over the known windows that cover it.

        Returns:
            Float32 tensor of the input's shape; a target of several values has their dimensions in front.
            NaN where no known window covers a cell.
        """
        grid = len(self.window.grid_shape)
        drop = self.drop.flatten(0, grid - 1) if grid else self.drop[None]
        known = (self.status != Status.UNKNOWN).reshape(-1)
        if bool(known.all()):
            return self.window.average(drop.movedim(0, -1))
        total = self.window.average(torch.where(known, drop.movedim(0, -1), 0.0))
        return total / self.window.average(known.double())

    def missing(self, positions: IntArray) -> IntArray:
        """Those of ``positions`` that are not exact yet."""
        return positions[(self.status.reshape(-1) != Status.EXACT).numpy()[positions]]

    def for_target(self, target: int) -> Heatmap:
        """The heatmap of another class, out of the outputs that were kept.

        Raises:
            InputError: The outputs were not kept, or there is no such class.
        """
        if self.outputs is None or self.base_outputs is None:
            raise InputError('for_target needs every output: call heatmap(..., classes="all")')
        count, index = self.outputs.shape[-1], whole(target)
        if index is None or not -count <= index < count:
            raise InputError(f"target is {target!r}; the model has classes 0 to {count - 1}")
        other = replace(
            self,
            values=self.outputs[..., index],
            base=self.base_outputs[index],
            target=index % count,
            ssim_estimate=None,
        )
        return other.filled(self.status.numpy() == Status.INTERPOLATED)

    # -- approximation -----------------------------------------------------------------------------------

    def filled(self, wanted: Flags | None = None) -> Heatmap:
        """The same with positions that were not measured interpolated from those that were.

        Args:
            wanted: Which positions to fill, on the grid; None for all.
        """
        if self.values.shape != self.measured.shape:
            return self
        measured = (self.measured & self.values.isfinite()).numpy()
        missing = ~self.measured.numpy() if wanted is None else wanted & ~self.measured.numpy()
        if not measured.any() or not missing.any():
            return self
        prediction = predict(self.window, self.values.double().numpy(), measured)
        values = self.values.clone()
        values[torch.from_numpy(missing)] = torch.from_numpy(prediction.values[missing]).to(values.dtype)
        return replace(self, values=values)

    def compare(self, exact: Heatmap) -> Comparison:
        """How far this map is from the exact one, wherever it is known.

        Raises:
            InputError: The maps are of different images, windows, baselines or targets, or ``exact`` is not
                exact everywhere that this one is known.
        """
        if not isinstance(exact, Heatmap):
            raise InputError(f"exact is {exact!r}; accepted is the exact heatmap of the same call")
        if (self.window, self.target) != (exact.window, exact.target):
            raise InputError(
                f"exact is of target {exact.target} and {exact.window}; this map is of target {self.target} "
                f"and {self.window}"
            )
        if self.image is not None and exact.image is not None and not same(self.image, exact.image):
            raise InputError("exact is the heatmap of another image")
        if None not in (self.baseline, exact.baseline) and self.baseline != exact.baseline:
            raise InputError(f"exact is of baseline {exact.baseline}; this map is of {self.baseline}")
        known = self.status != Status.UNKNOWN
        if bool((exact.status != Status.EXACT)[known].any()):
            raise InputError(
                "exact is not exact everywhere that this map is known: measure it without ssim_target"
            )
        if not bool(known.any()):
            raise InputError("this map is known nowhere")
        difference = torch.where(known, self.values - exact.values, math.nan)
        # Outside a region both are the same, whatever that is.
        part, level = _bounding(known.numpy()), exact.values[known].mean()
        mine, truth = (torch.where(known, m.values, level)[part] for m in (self, exact))
        return Comparison(ssim(mine, truth), float(difference[known].abs().max()), difference)

    def verify(self, fraction: float = 0.05, *, seed: int = 0) -> Heatmap:
        """Measure a random part of what is not exact, and estimate the SSIM anew by what that shows.

        The sample is random, so that its errors are those of all such positions but for chance. Those of
        interpolated ones, each part of them predicted without it, scale what is expected of the rest,
        together with what is usual, which counts as 16 positions more; of trimmed ones their mean square
        stands for the rest. Chance gives the range (90 %, by resampling). What was measured stays in the map.

        Args:
            fraction: Share of the interpolated and of the trimmed positions to measure, above 0 and at most
                1; at least two of each.
            seed: Of the choice.

        Returns:
            The map with these positions measured, and its new ``ssim_estimate``.

        Raises:
            InputError: A fraction or a seed that is none, or the `KryptonOcclusion` that made this map is no
                more: another one's ``verify`` takes it.
        """
        maker = None if self.origin is None else self.origin.maker()
        if maker is None:
            raise InputError(
                "this map was loaded, or the KryptonOcclusion that made it is gone: verify it with one of "
                "the same model, occlusion.verify(heatmap)"
            )
        return maker.verify(self, fraction, seed=seed)

    # -- pictures --------------------------------------------------------------------------------------

    def overlay(
        self,
        image: Any = None,
        *,
        scale: tuple[float, float] | float | None = None,
        cmap: str = "RdBu_r",
        opacity: float = 0.85,
    ) -> Image:
        """The drop at every position, in colour, over the image in grey.

        A pixel has the colour of the position whose window is centred nearest, and so the drop that `drop`
        holds; of several positions at one place, as of windows for single channels, their mean.

        Args:
            image: Picture of the input's size to draw over (PIL image or uint8 height x width [x 3]); by
                default the model's input, stretched to its own extremes.
            scale: Drops at the two ends of the colour map, or one number for both signs: give it to compare
                pictures. By default the largest drop, with either sign.
            cmap: Name of a Matplotlib colour map; the default is red where occluding lowers the target.
            opacity: 0 (image only) to 1 (full colour at the ends of the scale; the smaller a drop, the
                more of the image shows). What is not known stays bare, and what is not finite is hatched.

        Returns:
            PIL image of the input's height and width.

        Raises:
            InputError: The input is no 2-D image, or ``image`` does not fit it.
        """
        from PIL import Image as PILImage

        share = real(opacity)
        if share is None or not 0 <= share <= 1:
            raise InputError(f"opacity is {opacity!r}; accepted are numbers from 0 to 1")
        colours, weight = self._colours(scale, cmap)
        grey = np.asarray(PILImage.fromarray(self._picture(image)).convert("L"))[..., None]
        mix = (weight * share)[..., None]
        return PILImage.fromarray((grey * (1 - mix) + colours * mix + 0.5).astype(np.uint8))

    def limits(self, scale: tuple[float, float] | float | None = None) -> tuple[float, float]:
        """Drops at the ends of the colour scale; see `overlay`."""
        drops = self._drops()[0]
        if scale is None:
            finite = np.abs(drops[np.isfinite(drops)])
            scale = float(finite.max(initial=0.0)) or 1.0
        pair = isinstance(scale, tuple) and len(scale) == 2
        numbers = [real(each) for each in (scale if pair else (scale,))]  # type: ignore[union-attr]
        high = math.nan if None in numbers else float(numbers[-1])  # type: ignore[arg-type]
        low = -high if len(numbers) == 1 or math.isnan(high) else float(numbers[0])  # type: ignore[arg-type]
        if not -math.inf < low < high < math.inf:
            raise InputError(
                f"scale is {scale!r}; accepted are a positive number, or (low, high) with low < high"
            )
        return low, high

    def _drops(self) -> tuple[Floats, Flags]:
        """The drop at every place of the picture, rows by columns, and where anything is known."""
        rows, columns, channels = _axes_of_picture(self.window)
        if self.values.shape != self.measured.shape:
            raise InputError(
                f"overlay wants a target of one number; this one has values of shape "
                f"{tuple(self.base.shape)} for every position"
            )
        order = (*channels, rows, columns)
        drops, known = (
            each.numpy().reshape(self.window.counts).transpose(order)
            for each in (self.drop.double(), self.status != Status.UNKNOWN)
        )
        if not channels:
            return drops, known
        count = known.sum(0)
        mean = np.where(known, drops, 0.0).sum(0) / np.maximum(count, 1)
        return mean, count > 0

    def _spread(self, places: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """For every pixel what is at the place whose window is centred nearest."""
        for dim, axis in enumerate(_axes_of_picture(self.window)[:2]):
            window, stride = self.window.shape[axis], self.window.strides[axis]
            pixels = np.arange(self.window.input_shape[axis]) + 0.5
            nearest = np.floor((pixels - (window - stride) / 2) / stride).astype(np.int64)
            places = places.take(nearest.clip(0, self.window.counts[axis] - 1), axis=dim)
        return places

    def _colours(
        self, scale: tuple[float, float] | float | None, cmap: str
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        from matplotlib import colormaps

        if not isinstance(cmap, str) or cmap not in colormaps:
            raise InputError(f"cmap is {cmap!r}; accepted are Matplotlib's colour maps, such as 'RdBu_r'")
        low, high = self.limits(scale)
        drops, known = map(self._spread, self._drops())
        finite = np.isfinite(drops)
        shown = np.where(finite, drops, 0.0)
        share = (shown - low) / (high - low)
        weight = np.abs(shown / max(abs(low), abs(high))).clip(0, 1) ** 0.75
        colours = colormaps[cmap](share)[..., :3] * 255
        stripes = np.where(np.add.outer(*map(np.arange, drops.shape)) % _STRIPES < _STRIPES / 2, 96.0, 160.0)
        colours = np.where(finite[..., None], colours, stripes[..., None])
        return colours, np.where(known, np.where(finite, weight, 1.0), 0.0)

    def _picture(self, image: Any) -> np.ndarray[Any, Any]:
        """The picture to draw over: uint8, height x width x 3."""
        from PIL import Image as PILImage

        rows, columns, channels = _axes_of_picture(self.window)
        size = self.window.input_shape[rows], self.window.input_shape[columns]
        if isinstance(image, PILImage.Image):
            image = image.convert("RGB")
        if image is not None:
            try:
                picture = np.asarray(image)
            except Exception:  # a ragged list, a tensor of another device or with a gradient
                picture = np.empty((), dtype=object)
            channels_of = picture.shape[2:] in ((), (1,), (3,), (4,))
            if picture.shape[:2] != size or not channels_of or picture.dtype.kind not in "buif":
                raise InputError(
                    f"image is {type(image).__name__}, {picture.shape} of {picture.dtype}; accepted is a "
                    f"picture of the input's height and width, {size}, grey or with 1, 3 or 4 channels"
                )
            picture = picture[..., None] if picture.ndim == 2 else picture
        else:
            if self.image is None:
                raise InputError("overlay has no image to draw over: give one as image=")
            cells = self.image.double().numpy().transpose(rows, columns, *channels).reshape(*size, -1)
            finite = cells[np.isfinite(cells)]
            low, high = finite.min(initial=np.inf), finite.max(initial=-np.inf)
            picture = (np.nan_to_num(cells, nan=low).clip(low, high) - low) / max(high - low, 1e-12) * 255
        picture = picture[..., :3] if picture.shape[-1] >= 3 else picture[..., :1].repeat(3, axis=-1)
        return np.ascontiguousarray(picture.astype(np.uint8))

    # -- files -----------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], **picture: Any) -> None:
        """Write the heatmap as a picture (``.png``) or as numbers (``.npz``).

        Args:
            path: Where to; the ending decides.
            **picture: For a PNG, the arguments of `overlay` and ``title``.

        Raises:
            InputError: No path, another ending, or a folder that does not exist.
            OSError: Writing fails; what was there is still there.
        """
        given, ending = files.destination(path, ENDINGS)
        files.write(given, self.content(ending, **picture))

    def content(self, ending: str, **picture: Any) -> bytes:
        """What `save` writes to a file of this ending, ``".png"`` or ``".npz"``."""
        if ending == ".png":
            return self._figure(**picture)
        return saved.packed({name: getattr(self, name) for name in saved.FIELDS})

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Heatmap:
        """Read what `save` wrote to an ``.npz``.

        Raises:
            InputError: The file is missing or no heatmap.
        """
        try:
            return Heatmap(**saved.read(Path(path)))
        except saved.DAMAGED as error:
            raise InputError(f"path is {str(path)!r}, which is no saved heatmap: {error}") from None

    def _figure(self, title: str | None = None, image: Any = None, **picture: Any) -> bytes:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
        from matplotlib.ticker import MaxNLocator

        overlay = self.overlay(image, **picture)
        low, high = self.limits(picture.get("scale"))
        figure = Figure(figsize=(9.6, 4.75), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
        left, right = figure.subplots(1, 2)
        left.imshow(self._picture(image))
        left.set_title("input", fontsize=10, color="0.3")
        right.imshow(overlay)
        right.set_title(
            "\n".join(
                filter(
                    None, ["drop when occluded", self._not_finite("hatched: {} not finite"), self._unknown()]
                )
            ),
            fontsize=10,
            color="0.3",
        )
        for axes in (left, right):
            axes.set_axis_off()
        colours = ScalarMappable(Normalize(low, high), picture.get("cmap", "RdBu_r"))
        bar = figure.colorbar(colours, ax=right, shrink=0.9, aspect=28, pad=0.02)
        ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
        ticks = [tick if abs(tick) > 1e-9 * (high - low) else 0.0 for tick in ticks]
        bar.set_ticks(ticks, labels=figures(ticks))
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, length=2)
        told = figure_of(float(self.base))
        bar.set_label(f"f(x) - f(x occluded), f(x) = {told}", fontsize=9)
        # A title is words, not formulas; names of files may hold what no text can.
        words = str(title or repr(self)).encode("utf-8", "replace").decode()
        figure.suptitle(
            words, fontsize=12 if title else 10, fontweight="bold" if title else None, parse_math=False
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata=files.DRAWN)
        return buffer.getvalue()

    def _not_finite(self, words: str) -> str:
        """How many known positions have a drop that is not finite, in words; nothing if none has."""
        odd = ~self.drop.isfinite().reshape(*self.measured.shape, -1).all(-1)
        count = int((odd & (self.status != Status.UNKNOWN)).sum())
        return words.format(f"{count} position{'s are' if count > 1 else ' is'}") if count else ""

    def _unknown(self) -> str:
        """How many positions are bare in a picture since nothing is known there, in words."""
        count = int((self.status == Status.UNKNOWN).sum())
        return f"bare: {count} position{'s are' if count > 1 else ' is'} unknown" if count else ""

    def __repr__(self) -> str:
        known = self.values[self.status != Status.UNKNOWN]
        finite = known[known.isfinite()].double()
        grid = "x".join(map(str, self.window.grid_shape)) or "1"
        share = float(self.measured.double().mean())
        ends = [float(finite.min()), float(finite.max())] if finite.numel() else []
        bases, written = together([float(self.base)] if self.base.numel() == 1 else [], ends)
        span = "..".join(written) or ("none is finite" if known.numel() else "nothing measured")
        base = "".join(bases) or f"{tuple(self.base.shape)}"
        return (
            f"Heatmap({grid}, target={self.target}, base={base}, values={span}, "
            f"measured={share:.0%}, {self.seconds:.2f} s"
            + self._not_finite(", {} not finite")
            + ("" if self.ssim_estimate is None else f", SSIM {self.ssim_estimate}")
            + ")"
        )


ENDINGS = {".png": "a picture", ".npz": "the numbers"}
"""Of the files that a map is saved to."""

_STRIPES = 4
"""Pixels from one stripe to the next, where a number is not finite."""


def _axes_of_picture(window: SlidingWindow) -> tuple[int, int, tuple[int, ...]]:
    """Which axes of the input are the rows and the columns of a picture, and which its channels, if any.

    Channels come first, or last where there are 1, 3 or 4 of these, and of rows another number; without
    any, the window must slide along both axes, or nobody could tell a picture from a signal.

    Raises:
        InputError: The input is no picture.
    """
    shape = window.input_shape
    if len(shape) == 3:
        last = shape[2] in (1, 3, 4) and shape[0] not in (1, 3, 4)
        return (0, 1, (2,)) if last else (1, 2, (0,))
    if len(shape) == 2 and not any(map(window.spans, (0, 1))):
        return 0, 1, ()
    kind = {2: "a signal", 4: "a volume or a video"}.get(len(shape), "no picture")
    raise InputError(
        f"overlay wants a 2-D image, (channels, height, width), (height, width, channels) or "
        f"(height, width); the input has shape {shape}, {kind}: drop has the numbers on the grid, and "
        f"attribution() on the input, for plots of your own, such as one a slice"
    )


def described(baseline: Tensor) -> Described:
    """A baseline of an input's shape, ``(1, *input_shape)``, by what tells it from another."""
    channels = baseline.reshape(baseline.shape[1] if baseline.ndim > 1 else 1, -1).double()
    even = bool((channels == channels[:, :1]).all())
    return tuple(channels[:, 0].tolist()) if even else f"image {fingerprint_of_image(baseline)}"


def fingerprint_of_image(x: Tensor) -> str:
    """Tells one input from another."""
    cells = x.detach().cpu().contiguous()
    return hashlib.sha256(cells.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def are_probabilities(outputs: Tensor) -> bool:
    """Whether these are probabilities of classes: rows that sum to one, none negative."""
    return (
        outputs.ndim == 2
        and outputs.shape[1] > 1
        and outputs.is_floating_point()
        and bool((outputs >= 0).all())
        and bool(((outputs.double().sum(1) - 1).abs() < 1e-3).all())
    )


def compensated(values: Tensor, effects: Tensor, odds: bool) -> Tensor:
    """Values with first-order effects added: ``h^-1(h(value) + effect)``.

    Args:
        values: Of the target.
        effects: On ``h``.
        odds: Whether ``h`` is the log-odds of a probability, else the value itself.
    """
    if not odds:
        return values + effects
    grown = values * effects.exp()
    return grown / (1 - values + grown)


class Sample:
    """A random part of what is not exact in a map, whose measuring tells how good the map is.

    Args:
        heatmap: The map.
        fraction: See `Heatmap.verify`.
        seed: Of the choice.

    Attributes:
        positions: The part; empty where all is exact.

    Raises:
        InputError: A fraction or a seed that is none.
    """

    def __init__(self, heatmap: Heatmap, fraction: float, seed: int) -> None:
        share, number = real(fraction), whole(seed)
        if share is None or not 0 < share <= 1:
            raise InputError(f"fraction is {fraction!r}; accepted are numbers above 0 and at most 1")
        if number is None or number < 0:
            raise InputError(f"seed is {seed!r}; accepted are integers from 0")
        self._heatmap = heatmap
        self._generator = np.random.default_rng(number)
        status = heatmap.status.numpy()

        def some(which: Status) -> IntArray:
            cells = np.flatnonzero(status == which)
            count = min(len(cells), max(2, math.ceil(share * len(cells))))
            return np.sort(self._generator.choice(cells, count, replace=False))

        self._guessed, self._trimmed = some(Status.INTERPOLATED), some(Status.TRIMMED)
        self.positions = np.concatenate([self._guessed, self._trimmed])

    def judged(self, verified: Heatmap) -> Heatmap:
        """The map in which the part has been measured since, with what it probably is like by now."""
        known = self._heatmap.status != Status.UNKNOWN
        if bool((verified.status == Status.EXACT)[known].all()):
            return verified
        if not bool(verified.values[verified.measured].isfinite().all()):  # such a map is like no other
            return replace(verified, ssim_estimate=None)
        window, generator = verified.window, self._generator
        guessed, trimmed = self._guessed, self._trimmed
        status, measured = verified.status.numpy(), verified.measured.numpy()
        found = verified.values.double().numpy()
        after = predict(window, found, measured)
        variance, prices = (
            np.where(status == Status.INTERPOLATED, after.variance, 0.0),
            np.zeros(status.shape),
        )
        part = _bounding(status != Status.UNKNOWN)
        prices[part] = expected_ssim(after.values[part], variance[part])[1]
        missed, expected = np.zeros((2, len(guessed)))
        for fold in np.array_split(generator.permutation(len(guessed)), _FOLDS):
            cells, rest = guessed[fold], measured.copy()
            rest.flat[cells] = False
            others = predict(window, found, rest)
            missed[fold] = prices.flat[cells] * (found.flat[cells] - others.values.flat[cells]) ** 2
            expected[fold] = prices.flat[cells] * others.variance.flat[cells]
        changed = (found.flat[trimmed] - self._heatmap.values.double().numpy().flat[trimmed]) ** 2

        def draws(cells: IntArray) -> IntArray:
            return generator.integers(max(1, len(cells)), size=(_RESAMPLED, len(cells)))

        some, few = draws(guessed), draws(trimmed)
        misses, foreseen = missed[some].sum(1), expected[some].sum(1)
        changes = changed[few].sum(1) / max(1, len(trimmed))
        usual = _SUPPOSED * float(expected.mean()) if len(expected) else 0.0

        def at(times: float, level: float) -> float:
            scales = np.full(_RESAMPLED, times)
            np.divide(misses + usual * times, foreseen + usual, out=scales, where=foreseen + usual > 0)
            errors = variance * np.quantile(scales, level)
            errors[status == Status.TRIMMED] = np.quantile(changes, level)
            return expected_ssim(after.values[part], errors[part])[0]

        high, value, low = (at(*each) for each in zip(SPREAD, (0.05, 0.5, 0.95), strict=True))
        return replace(verified, ssim_estimate=SsimEstimate(value, low, high, "verified"))


_ALIKE = 1e-3
"""Share of the largest output that two runs of one model may differ by, on any machine."""

_RECORDED = ("values", "measured", "classes", "class_values", "outputs")


class Recorder:
    """Collects the outputs of a run into a heatmap.

    Args:
        window: The sliding window.
        base: Output for the un-occluded input, ``(1, *output_shape)``.
        select: From (activated) outputs to the target's values.
        activate: Applied to the outputs before anything else.
        target: What ``select`` selects; a class from the end has its own index in the map.
        keep_outputs: Whether to keep every output of a model that gives one row of classes.
        classify: Whether to note the predicted class of every position.
        image: The occluded input without its batch dimension.
        baseline: What covers its cells; see `described`.
        plan: What was planned.
        began: When the call began, of ``time.perf_counter``.
        fill: Positions to interpolate where they have not been measured.
        origin: See `Heatmap`.
    """

    def __init__(
        self,
        window: SlidingWindow,
        base: Tensor,
        select: Select,
        *,
        activate: Callable[[Tensor], Tensor] | None = None,
        target: Any = None,
        keep_outputs: bool = False,
        classify: bool = False,
        image: Tensor | None = None,
        baseline: Described | None = None,
        plan: Plan | None = None,
        began: float | None = None,
        fill: IntArray | None = None,
        origin: Origin | None = None,
    ) -> None:
        self._select = select
        self._activate = activate
        base = base if activate is None else activate(base)
        index = whole(target)
        if index is not None and base.ndim == 2:
            target = index % base.shape[1]
        self._odds = are_probabilities(base)
        self._trimmed: Tensor | None = None
        self._began = time.perf_counter() if began is None else began
        self._last = self._made = time.perf_counter()
        # Neither the model's output nor the input: the caller may go on to change them.
        self._base = _copied(select(base)[0])
        self._rest: dict[str, Any] = {
            "window": window, "target": target, "baseline": baseline, "plan": plan, "origin": origin
        }  # fmt: skip
        self._fill: Flags | None = None
        self._estimate: SsimEstimate | None = None
        self._predicted: Floats | None = None
        if fill is not None:
            self._fill = np.zeros(window.grid_shape, dtype=bool)
            self._fill.flat[fill] = True
        self._rest["image"] = None if image is None else _copied(image)
        count = len(window)
        dtype = self._base.dtype if self._base.is_floating_point() else torch.float64
        self._values = torch.full((count, *self._base.shape), math.nan, dtype=dtype, device="cpu")
        self._measured = torch.zeros(count, dtype=torch.bool, device="cpu")
        self._resumed = self._measured.clone()
        self.resumed_as = ""
        self._classes = self._class_values = self._outputs = None
        if base.ndim == 2 and classify:
            self._rest["base_outputs"] = _copied(base[0])
            self._classes = torch.full((count,), -1, dtype=torch.int64, device="cpu")
            self._class_values = torch.full((count,), math.nan, dtype=base.dtype, device="cpu")
            if keep_outputs:
                shape = (count, base.shape[1])
                self._outputs = torch.full(shape, math.nan, dtype=base.dtype, device="cpu")

    def record(self, positions: IntArray, outputs: Tensor, effects: Floats | None = None) -> None:
        """Note ``outputs`` (``(positions, *output_shape)``).

        Args:
            positions: Which.
            outputs: Of the model.
            effects: On `scalar`, of what trimming dropped; None for exact outputs.
        """
        where = torch.from_numpy(positions)
        outputs = outputs if self._activate is None else self._activate(outputs)
        values = self._select(outputs).cpu().to(self._values.dtype)
        if effects is not None:
            values = compensated(values, torch.from_numpy(effects).to(values), self._odds)
            if self._trimmed is None:
                self._trimmed = torch.zeros_like(self._measured)
        if self._trimmed is not None:
            self._trimmed[where] = effects is not None
        self._values[where] = values
        self._measured[where] = True
        if self._classes is not None and self._class_values is not None:
            best = outputs.max(dim=1)
            # Of numbers that are not all finite, the largest is of no class.
            known = best.values.isfinite()
            self._classes[where] = torch.where(known, best.indices, -1).cpu()
            self._class_values[where] = best.values.cpu()
        if self._outputs is not None:
            self._outputs[where] = outputs.cpu()
        self._last = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time from the making of this to the last output."""
        return self._last - self._made

    def exact(self, *, resumed: bool = False) -> IntArray:
        """Positions that are exact: those that were measured here, or those that were resumed."""
        trimmed = torch.zeros_like(self._measured) if self._trimmed is None else self._trimmed
        return np.flatnonzero((self._measured & ~trimmed & (self._resumed == resumed)).numpy())

    def drops(self) -> Tensor:
        """By position: how much the target's value changes, the most of several; NaN where unknown."""
        return (self._base - self._values).abs().reshape(len(self._values), -1).amax(1)

    def kept(self) -> tuple[Tensor, Tensor]:
        """The numbers that are kept of every position, ``(positions, numbers)``, and those of the base."""
        if self._outputs is None:
            return self._values.reshape(len(self._values), -1), self._base.reshape(-1)
        return self._outputs, self._rest["base_outputs"]

    def kept_of(self, outputs: Tensor) -> Tensor:
        """The numbers that are kept of ``outputs``: ``(positions, numbers)``."""
        outputs = outputs if self._activate is None else self._activate(outputs)
        return (self._select(outputs) if self._outputs is None else outputs).reshape(len(outputs), -1).cpu()

    def scalar(self, outputs: Tensor) -> Tensor:
        """What first-order effects are effects on: the target's value, of a probability its log-odds."""
        outputs = outputs.double() if self._activate is None else self._activate(outputs.double())
        values = self._select(outputs)
        return values.logit() if self._odds else values

    def trimmed(self) -> IntArray:
        """Positions whose values are trimmed."""
        return np.empty(0, dtype=np.int64) if self._trimmed is None else np.flatnonzero(self._trimmed.numpy())

    def so_far(self) -> tuple[Floats, Flags]:
        """The target's values on the grid, and where they have been measured."""
        grid = self._rest["window"].grid_shape
        return self._values.double().numpy().reshape(grid), self._measured.numpy().reshape(grid)

    def expect(self, estimate: SsimEstimate, predicted: Floats) -> None:
        """Note what is expected of the map so far, and what is predicted where it has not been measured."""
        self._estimate, self._predicted = estimate, predicted

    def resume(self, heatmap: Heatmap, name: str = "resume") -> None:
        """Note what ``heatmap``, a part of the same map, measured already.

        Args:
            heatmap: The part.
            name: The argument that it was given as.

        Raises:
            InputError: It is a part of another map.
        """
        self.resumed_as = name
        mine = self.heatmap()
        tensors = [(getattr(mine, name), getattr(heatmap, name)) for name in _RECORDED]
        if (mine.window, mine.target) != (heatmap.window, heatmap.target) or any(
            (a is None) != (b is None) or (a is not None and (a.shape, a.dtype) != (b.shape, b.dtype))
            for a, b in tensors
        ):
            raise InputError(
                f"{name} is {heatmap!r}, which is no part of this call's map: window, target and classes "
                f"must be the same"
            )
        if mine.image is not None and heatmap.image is not None and not same(mine.image, heatmap.image):
            raise InputError(f"{name} is the heatmap of another image")
        if None not in (mine.baseline, heatmap.baseline) and mine.baseline != heatmap.baseline:
            raise InputError(
                f"{name} is a heatmap with another baseline ({heatmap.baseline} there, {mine.baseline} here)"
            )
        if not _alike(mine, heatmap):
            raise OutdatedError(
                f"{name} is {heatmap!r}, whose un-occluded output is not this call's: the model, "
                f"its weights, activation= or additional_forward_args= are others than those it was made with"
            )
        for name in _RECORDED:
            known, noted = getattr(self, f"_{name}"), getattr(heatmap, name)
            if known is not None:
                known.copy_(noted.reshape(known.shape))
        self._values[~self._measured] = math.nan
        self._resumed = self._measured.clone()
        if heatmap.trimmed is not None:
            self._trimmed = heatmap.trimmed.reshape(-1).clone()
        self._began -= heatmap.seconds
        self._last = self._began + heatmap.seconds

    def heatmap(self) -> Heatmap:
        """The heatmap so far; later records do not change it."""
        grid = self._rest["window"].grid_shape

        def on_grid(flat: Tensor | None) -> Tensor | None:
            return None if flat is None else flat.reshape((*grid, *flat.shape[1:])).clone()

        values, measured = on_grid(self._values), on_grid(self._measured)
        assert values is not None and measured is not None
        so_far = Heatmap(
            values=values,
            base=self._base,
            measured=measured,
            classes=on_grid(self._classes),
            class_values=on_grid(self._class_values),
            trimmed=on_grid(self._trimmed),
            outputs=on_grid(self._outputs),
            seconds=self._last - self._began,
            **self._rest,
        )
        if self._fill is None:
            return so_far
        missing = torch.from_numpy(self._fill) & ~measured
        if bool((so_far.status[torch.from_numpy(self._fill)] == Status.EXACT).all()):
            return replace(so_far, ssim_estimate=SsimEstimate(1.0, 1.0, 1.0, "exact"))
        if self._predicted is None and bool(measured.any()):  # watched before there is a prediction
            nearest = distance_transform_edt(~measured.numpy(), return_distances=False, return_indices=True)
            values[missing] = values[tuple(torch.from_numpy(i)[missing] for i in nearest)]
        elif self._predicted is not None:
            values[missing] = torch.from_numpy(self._predicted)[missing].to(values.dtype)
        return replace(so_far, ssim_estimate=self._estimate)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _bounding(cells: Flags) -> tuple[slice, ...]:
    """The smallest part of the grid that holds all of ``cells``."""
    found = np.nonzero(cells) if cells.ndim else ()
    return tuple(slice(int(where.min()), int(where.max()) + 1) for where in found)


def _alike(mine: Heatmap, other: Heatmap) -> bool:
    """Whether two heatmaps have the same un-occluded outputs."""
    pairs = [(mine.base, other.base)]
    if mine.base_outputs is not None and other.base_outputs is not None:
        pairs.append((mine.base_outputs, other.base_outputs))
    return all(same_outputs(a, b) for a, b in pairs)


def same_outputs(mine: Tensor, other: Tensor) -> bool:
    """Whether two answers of a model are the same but for what other kernels may round."""
    if mine.shape != other.shape or not mine.numel():
        return mine.shape == other.shape
    largest = float(mine.abs().max().nan_to_num(0.0))
    return torch.allclose(mine, other.to(mine), rtol=0, atol=_ALIKE * largest, equal_nan=True)
