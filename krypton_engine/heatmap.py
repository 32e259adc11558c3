"""Heatmap: values on the position grid, how each was come by, what it cost."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from krypton_engine.errors import InputError
from krypton_engine.interpolation import Flags, Floats, predict
from krypton_engine.quality import SPREAD, SsimEstimate, expected_ssim, ssim
from krypton_engine.windows import IntArray, SlidingWindow

if TYPE_CHECKING:
    from PIL.Image import Image

    from krypton_engine.plan import Plan

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


@dataclass(frozen=True)
class Comparison:
    """An approximate map against the exact one.

    Attributes:
        ssim: `krypton_engine.quality.ssim` of the two.
        max_error: Largest absolute difference.
        difference: Approximate minus exact, on the grid.
    """

    ssim: float
    max_error: float
    difference: Tensor


@dataclass(frozen=True)
class Heatmap:
    """What a model says with each window of an image occluded.

    Attributes:
        values: ``M[p]``, the target's output with the window at ``p`` occluded: float CPU tensor with one
            axis for every input axis that the window does not span (an image: rows, columns); NaN where
            nothing is known. A target with several values has their dimensions after the grid's.
        base: The target's output for the un-occluded input.
        measured: Which positions were computed: boolean tensor on the grid. Others are NaN, or
            interpolated (``ssim_target=``); ``status`` tells.
        window: The sliding window: ``shape``, ``strides``, ``input_shape``.
        target: The target class or index, as given or predicted; None if there was none.
        classes: Predicted class with the window occluded, int64 on the grid (-1 where not measured); None
            if the model does not give one row of classes.
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
    seconds: float = 0.0
    plan: Plan | None = field(default=None, compare=False)
    trimmed: Tensor | None = None
    ssim_estimate: SsimEstimate | None = None
    baseline: Described | None = None
    measure: Callable[[Heatmap, IntArray], Heatmap] | None = field(default=None, compare=False, repr=False)
    """Measures more positions of the same map; None for a map out of a file."""

    @property
    def status(self) -> Tensor:
        """How each value was come by: a uint8 tensor of `Status` on the grid."""
        unknown = self.values.isnan().reshape(*self.measured.shape, -1).all(-1)
        status = torch.where(unknown, Status.UNKNOWN, Status.INTERPOLATED)
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
        count = self.outputs.shape[-1]
        if not -count <= target < count:
            raise InputError(f"target is {target}; the model has classes 0 to {count - 1}")
        other = replace(
            self,
            values=self.outputs[..., target],
            base=self.base_outputs[target],
            target=target % count,
            ssim_estimate=None,
            measure=None,
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
        if (self.window, self.target) != (exact.window, exact.target):
            raise InputError(
                f"exact is of target {exact.target} and {exact.window}; this map is of target {self.target} "
                f"and {self.window}"
            )
        if self.image is not None and exact.image is not None and not self.image.equal(exact.image):
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
            InputError: A fraction or a seed that is none, or a map out of a file.
        """
        if not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
            raise InputError(f"fraction is {fraction!r}; accepted are numbers above 0 and at most 1")
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise InputError(f"seed is {seed!r}; accepted are integers from 0")
        if self.measure is None:
            raise InputError("this map was loaded, or is of another target: verify needs the model")
        status = self.status.numpy()
        generator = np.random.default_rng(seed)

        def some(which: Status) -> IntArray:
            cells = np.flatnonzero(status == which)
            count = min(len(cells), max(2, math.ceil(fraction * len(cells))))
            return np.sort(generator.choice(cells, count, replace=False))

        guessed, trimmed = some(Status.INTERPOLATED), some(Status.TRIMMED)
        if not len(guessed) + len(trimmed):
            return self
        verified = self.measure(self, np.concatenate([guessed, trimmed]))
        if bool((verified.status == Status.EXACT)[torch.from_numpy(status != Status.UNKNOWN)].all()):
            return verified
        return replace(verified, ssim_estimate=self._judged(verified, guessed, trimmed, generator))

    def _judged(
        self, verified: Heatmap, guessed: IntArray, trimmed: IntArray, generator: np.random.Generator
    ) -> SsimEstimate:
        """What a map probably is like by now, by a random part of it that has been measured since."""
        status, measured = verified.status.numpy(), verified.measured.numpy()
        found = verified.values.double().numpy()
        after = predict(self.window, found, measured)
        variance, prices = (
            np.where(status == Status.INTERPOLATED, after.variance, 0.0),
            np.zeros(status.shape),
        )
        part = _bounding(status != Status.UNKNOWN)
        prices[part] = expected_ssim(after.values[part], variance[part])[1]
        missed, expected = np.zeros((2, len(guessed)))
        for fold in np.array_split(generator.permutation(len(guessed)), _FOLDS):
            cells, known = guessed[fold], measured.copy()
            known.flat[cells] = False
            others = predict(self.window, found, known)
            missed[fold] = prices.flat[cells] * (found.flat[cells] - others.values.flat[cells]) ** 2
            expected[fold] = prices.flat[cells] * others.variance.flat[cells]
        changed = (found.flat[trimmed] - self.values.double().numpy().flat[trimmed]) ** 2

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
        return SsimEstimate(value, low, high, "verified")

    # -- pictures --------------------------------------------------------------------------------------

    def overlay(
        self,
        image: Any = None,
        *,
        scale: tuple[float, float] | float | None = None,
        cmap: str = "RdBu_r",
        opacity: float = 0.85,
    ) -> Image:
        """The attribution, in colour, over the image.

        Args:
            image: Picture of the input's size to draw over (PIL image or uint8 height x width [x 3]); by
                default the model's input, stretched to its own extremes.
            scale: Drops at the two ends of the colour map, or one number for both signs: give it to compare
                pictures. By default the largest drop, with either sign.
            cmap: Name of a Matplotlib colour map; the default is red where occluding lowers the target.
            opacity: 0 (image only) to 1 (full colour at the ends of the scale; the smaller a drop, the
                more of the image shows). Cells that no measured window covers stay bare.

        Returns:
            PIL image of the input's height and width.

        Raises:
            InputError: The input is no 2-D image, or ``image`` does not fit it.
        """
        from PIL import Image as PILImage

        if not 0 <= opacity <= 1:
            raise InputError(f"opacity is {opacity!r}; accepted are numbers from 0 to 1")
        colours, weight = self._colours(scale, cmap)
        picture = self._picture(image)
        mix = (weight * opacity)[..., None]
        return PILImage.fromarray((picture * (1 - mix) + colours * mix + 0.5).astype(np.uint8))

    def limits(self, scale: tuple[float, float] | float | None = None) -> tuple[float, float]:
        """Drops at the ends of the colour scale; see `overlay`."""
        if scale is None:
            finite = self._flat_attribution().abs().nan_to_num(0.0)
            scale = float(finite.max()) or 1.0
        low, high = scale if isinstance(scale, tuple) else (-scale, scale)
        if not -math.inf < low < high < math.inf:
            raise InputError(
                f"scale is {scale!r}; accepted are a positive number, or (low, high) with low < high"
            )
        return low, high

    def _flat_attribution(self) -> Tensor:
        attribution = self.attribution()
        if len(self.window.input_shape) != 3 or attribution.ndim != 3:
            raise InputError(
                f"overlay wants a 2-D image, (channels, height, width), and a single target; the input has "
                f"shape {self.window.input_shape} and the values {tuple(self.values.shape)}; attribution() "
                f"gives the numbers for a plot of your own"
            )
        return attribution.mean(0)

    def _colours(
        self, scale: tuple[float, float] | float | None, cmap: str
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        from matplotlib import colormaps

        if cmap not in colormaps:
            raise InputError(f"cmap is {cmap!r}; accepted are Matplotlib's colour maps, such as 'RdBu_r'")
        low, high = self.limits(scale)
        attribution = self._flat_attribution().numpy()
        share = (attribution - low) / (high - low)
        weight = np.abs(attribution / max(abs(low), abs(high))).clip(0, 1) ** 0.75
        return colormaps[cmap](np.nan_to_num(share, nan=0.5))[..., :3] * 255, np.nan_to_num(weight, nan=0.0)

    def _picture(self, image: Any) -> np.ndarray[Any, Any]:
        height, width = self.window.input_shape[-2:]
        if image is None:
            if self.image is None:
                raise InputError("overlay has no image to draw over: give one as image=")
            cells = self.image.float()
            cells = cells[:3] if len(cells) >= 3 else cells[:1].expand(3, -1, -1)
            low, high = cells.min(), cells.max()
            picture = ((cells - low) / (high - low).clamp_min(1e-12) * 255).movedim(0, -1).numpy()
        else:
            picture = np.asarray(image, dtype=np.float64)
            picture = np.repeat(picture[..., None], 3, axis=-1) if picture.ndim == 2 else picture[..., :3]
        if picture.shape[:2] != (height, width):
            raise InputError(f"image is {picture.shape[:2]} (height, width); the input is {(height, width)}")
        return picture

    # -- files -----------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], **picture: Any) -> None:
        """Write the heatmap as a picture (``.png``) or as numbers (``.npz``).

        Args:
            path: Where to; the ending decides.
            **picture: For a PNG, the arguments of `overlay` and ``title``.

        Raises:
            InputError: Another ending, or a folder that does not exist.
        """
        path = Path(path)
        if path.suffix not in {".png", ".npz"}:
            raise InputError(f"path is {str(path)!r}; it must end in .png (a picture) or .npz (the numbers)")
        if not path.parent.is_dir():
            raise InputError(f"path is {str(path)!r}, but the folder {str(path.parent)!r} does not exist")
        if path.suffix == ".png":
            path.write_bytes(self._figure(**picture))
            return
        tensors = {
            name: getattr(self, name).numpy() for name in _SAVED_TENSORS if getattr(self, name) is not None
        }
        meta = {
            "format": 1,
            "input_shape": self.window.input_shape,
            "shape": self.window.shape,
            "strides": self.window.strides,
            "target": self.target,
            "seconds": self.seconds,
            "ssim_estimate": None if self.ssim_estimate is None else asdict(self.ssim_estimate),
            "baseline": self.baseline,
        }
        np.savez_compressed(path, meta=np.array(json.dumps(meta, default=str)), **tensors)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Heatmap:
        """Read what `save` wrote to an ``.npz``.

        Raises:
            InputError: The file is missing or no heatmap.
        """
        try:
            if Path(path).is_file() and not zipfile.is_zipfile(path):
                raise ValueError("it is no .npz archive")
            with np.load(path, allow_pickle=False) as file:
                meta = json.loads(str(file["meta"]))
                tensors: dict[str, Any] = {n: torch.from_numpy(file[n]) for n in _SAVED_TENSORS if n in file}
            window = SlidingWindow(*(tuple(meta[name]) for name in ("input_shape", "shape", "strides")))
            target = tuple(meta["target"]) if isinstance(meta["target"], list) else meta["target"]
            estimate, baseline = meta.get("ssim_estimate"), meta.get("baseline")
            return Heatmap(
                window=window,
                target=target,
                seconds=meta["seconds"],
                ssim_estimate=None if estimate is None else SsimEstimate(**estimate),
                baseline=tuple(baseline) if isinstance(baseline, list) else baseline,
                **tensors,
            )
        except (OSError, EOFError, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
            raise InputError(f"path is {str(path)!r}, which is no saved heatmap: {error}") from None

    def _figure(self, title: str | None = None, image: Any = None, **picture: Any) -> bytes:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        overlay = self.overlay(image, **picture)
        low, high = self.limits(picture.get("scale"))
        figure = Figure(figsize=(9.6, 4.75), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
        left, right = figure.subplots(1, 2)
        left.imshow(self._picture(image).astype(np.uint8))
        left.set_title("input", fontsize=10, color="0.3")
        right.imshow(overlay)
        right.set_title("drop when occluded", fontsize=10, color="0.3")
        for axes in (left, right):
            axes.set_axis_off()
        colours = ScalarMappable(Normalize(low, high), picture.get("cmap", "RdBu_r"))
        bar = figure.colorbar(colours, ax=right, shrink=0.9, aspect=28, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, length=2)
        bar.set_label(f"f(x) - f(x occluded), f(x) = {float(self.base):.3g}", fontsize=9)
        figure.suptitle(
            title or repr(self), fontsize=10 if title is None else 12, fontweight="bold" if title else None
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        return buffer.getvalue()

    def __repr__(self) -> str:
        known = self.values[self.status != Status.UNKNOWN]
        grid = "x".join(map(str, self.window.grid_shape)) or "1"
        share = float(self.measured.double().mean())
        span = f"{known.min():.4g}..{known.max():.4g}" if known.numel() else "nothing measured"
        base = f"{float(self.base):.4g}" if self.base.numel() == 1 else f"{tuple(self.base.shape)}"
        return (
            f"Heatmap({grid}, target={self.target}, base={base}, values={span}, "
            f"measured={share:.0%}, {self.seconds:.2f} s"
            + ("" if self.ssim_estimate is None else f", SSIM {self.ssim_estimate}")
            + ")"
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


_SAVED_TENSORS = (
    "values", "base", "measured", "trimmed", "classes", "class_values", "outputs", "base_outputs", "image"
)  # fmt: skip

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
        target: What ``select`` selects.
        keep_outputs: Whether to keep every output of a model that gives one row of classes.
        classify: Whether to note the predicted class of every position.
        image: The occluded input without its batch dimension.
        baseline: What covers its cells; see `described`.
        plan: What was planned.
        began: When the call began, of ``time.perf_counter``.
        fill: Positions to interpolate where they have not been measured.
        measure: See `Heatmap`.
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
        measure: Callable[[Heatmap, IntArray], Heatmap] | None = None,
    ) -> None:
        self._select = select
        self._activate = activate
        base = base if activate is None else activate(base)
        self._odds = are_probabilities(base)
        self._trimmed: Tensor | None = None
        self._began = time.perf_counter() if began is None else began
        self._last = self._began
        self._base = select(base)[0].cpu()
        self._rest: dict[str, Any] = {
            "window": window, "target": target, "baseline": baseline, "plan": plan, "measure": measure
        }  # fmt: skip
        self._fill: Flags | None = None
        self._estimate: SsimEstimate | None = None
        self._predicted: Floats | None = None
        if fill is not None:
            self._fill = np.zeros(window.grid_shape, dtype=bool)
            self._fill.flat[fill] = True
        # The caller may go on to change it.
        self._rest["image"] = None if image is None else image.detach().to("cpu", copy=True)
        count = len(window)
        dtype = self._base.dtype if self._base.is_floating_point() else torch.float64
        self._values = torch.full((count, *self._base.shape), math.nan, dtype=dtype)
        self._measured = torch.zeros(count, dtype=torch.bool)
        self._classes = self._class_values = self._outputs = None
        if base.ndim == 2 and classify:
            self._rest["base_outputs"] = base[0].cpu()
            self._classes = torch.full((count,), -1, dtype=torch.int64)
            self._class_values = torch.full((count,), math.nan, dtype=base.dtype)
            if keep_outputs:
                self._outputs = torch.full((count, base.shape[1]), math.nan, dtype=base.dtype)

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
            self._classes[where], self._class_values[where] = best.indices.cpu(), best.values.cpu()
        if self._outputs is not None:
            self._outputs[where] = outputs.cpu()
        self._last = time.perf_counter()

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

    def resume(self, heatmap: Heatmap) -> None:
        """Note what ``heatmap``, a part of the same map, measured already.

        Raises:
            InputError: It is a part of another map.
        """
        mine = self.heatmap()
        tensors = [(getattr(mine, name), getattr(heatmap, name)) for name in _RECORDED]
        if (mine.window, mine.target) != (heatmap.window, heatmap.target) or any(
            (a is None) != (b is None) or (a is not None and (a.shape, a.dtype) != (b.shape, b.dtype))
            for a, b in tensors
        ):
            raise InputError(
                f"resume is {heatmap!r}, which is no part of this call's map: window, target and classes "
                f"must be the same"
            )
        if mine.image is not None and heatmap.image is not None and not mine.image.equal(heatmap.image):
            raise InputError("resume is the heatmap of another image")
        if None not in (mine.baseline, heatmap.baseline) and mine.baseline != heatmap.baseline:
            raise InputError(
                f"resume is a heatmap with another baseline ({heatmap.baseline} there, {mine.baseline} here)"
            )
        if not _alike(mine, heatmap):
            raise InputError(
                f"resume is {heatmap!r}, whose un-occluded output is not this call's: the model, "
                f"its weights, the activation or additional_forward_args are others"
            )
        for name in _RECORDED:
            known, noted = getattr(self, f"_{name}"), getattr(heatmap, name)
            if known is not None:
                known.copy_(noted.reshape(known.shape))
        self._values[~self._measured] = math.nan
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
