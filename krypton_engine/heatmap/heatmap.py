"""Heatmap: values on the grid of positions, where each comes from, what the map cost."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Unpack, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from krypton_engine.approximation.drift import predict_by_drift
from krypton_engine.approximation.interpolation import Prediction, predict
from krypton_engine.approximation.ssim import SsimEstimate
from krypton_engine.common import files
from krypton_engine.common.arguments import whole
from krypton_engine.common.arrays import Flags, IntArray
from krypton_engine.common.calling import Forward, Target
from krypton_engine.common.figures import together
from krypton_engine.common.values import Value, same
from krypton_engine.errors import InputError
from krypton_engine.heatmap import files as saved
from krypton_engine.heatmap import picture, placed
from krypton_engine.heatmap.attribution import mean_drop
from krypton_engine.heatmap.comparison import Comparison, compared
from krypton_engine.heatmap.identity import Described, Origin
from krypton_engine.heatmap.paint import COLORMAP, OPACITY
from krypton_engine.heatmap.shown import Scale, Shown, limits, not_finite
from krypton_engine.heatmap.status import Status, status_of
from krypton_engine.heatmap.volume import Spacing
from krypton_engine.perturbation.positions import Positions, image_axes
from krypton_engine.perturbation.windows import SlidingWindow, as_sliding

if TYPE_CHECKING:
    from PIL.Image import Image

    from krypton_engine.plan.plan import Plan


@runtime_checkable
class Verifier(Protocol):
    """A `KryptonOcclusion`, by which positions of a map are measured anew."""

    forward_func: Forward

    def verify(self, heatmap: Heatmap, fraction: float = 0.05, *, seed: int = 0) -> Heatmap:
        """See `Heatmap.verify`."""


@dataclass(frozen=True, eq=False)
class Heatmap(Value):
    """A model's answers with each window, or each region, of an image occluded.

    A value: neither the model nor anything else that computes is in it. Maps can be copied and pickled, and
    are equal where all is but the time and the plan.

    Attributes:
        values: ``M[p]``, the target's output with the window at ``p`` occluded: float CPU tensor with one
            axis for every input axis that the window does not span (an image: rows, columns); NaN where
            nothing is known. A target with several values has their dimensions after the grid's.
        base: The target's output for the un-occluded input.
        measured: Which positions were computed: boolean tensor on the grid. Values of others are NaN, or
            interpolated (``ssim_target=``); see ``status``.
        window: The positions: a sliding window (``shape``, ``strides``, ``input_shape``), whose grid has one
            axis for every input axis that it does not span; or regions (``ids``: their numbers in the mask,
            ``numbers``: the region of every cell), whose "grid" is one axis of as many values.
        target: The target class or index, as given or predicted; None if there was none.
        classes: Predicted class with the window occluded, int64 on the grid (-1 where not measured, or
            where its value is not finite); None if the model does not give one row of classes.
        class_values: The value of that class, on the grid.
        outputs: Every output, ``(*grid, classes)``, if they were kept (``classes="all"``).
        base_outputs: All outputs for the un-occluded input, if the model gives one row of classes.
        image: The occluded input without its batch dimension, to draw over.
        seconds: Time from the call to the last value.
        plan: The plan of the run; None where full inference ran without a captured graph.
        trimmed: Which of the measured positions had small changes dropped on the way; None where none had.
        ssim_estimate: The probable SSIM with the exact map, of a map measured with ``ssim_target=``.
        baseline: Values that covered the cells: a number a channel, or the fingerprint of an image; None
            where unknown.
        origin: A token of the call that made it; None for a map out of a file or of another process.
        cheap: Values by a cheap session, which the map is predicted with where it has not been ``measured``:
            NaN where that session was not asked. None without one, and where all is measured.
        samples: The target's values of every sample of a filling, ``(samples, *grid, ...)``, whose mean
            ``values`` are, if they were kept (``keep_samples=True``).
    """

    values: Tensor
    base: Tensor
    measured: Tensor
    window: Positions
    target: Target = None
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
    cheap: Tensor | None = None
    samples: Tensor | None = None

    @property
    def status(self) -> Tensor:
        """The origin of each value: a uint8 tensor of `Status` on the grid.

        Examples:
            >>> half = replace(heatmap, measured=torch.tensor([[True, True], [False, False]]))
            >>> [Status(status).name for status in half.status.flatten().tolist()]
            ['EXACT', 'EXACT', 'INTERPOLATED', 'INTERPOLATED']
        """
        return status_of(self.values, self.measured, self.trimmed, self.cheap)

    @property
    def drop(self) -> Tensor:
        """``base - values``: how much the target loses when the window at a position is occluded.

        Examples:
            >>> heatmap.drop
            tensor([[ 0.5000,  0.0000],
                    [ 0.0000, -0.2500]])
        """
        return self.base - self.values

    def weight_of_evidence(self, examples: int | None = None, classes: int | None = None) -> Tensor:
        """The weight of evidence: how many bits the odds of the target fall when a position is occluded.

        ``log2(odds(base)) - log2(odds(values))``, as prediction difference analysis has it (Robnik-Sikonja
        and Kononenko, 2008; Zintgraf et al., 2017).

        Args:
            examples: Number of examples that the model learnt from, for Laplace's correction, under which no
                probability is 0 or 1: ``(p * examples + 1) / (examples + classes)``. None for none.
            classes: Number of classes; None for those of ``base_outputs``, or 2.

        Raises:
            InputError: The values are no probabilities.

        Examples:
            >>> sure = replace(heatmap, values=torch.tensor([[0.5, 0.8], [0.2, 0.5]]), base=torch.tensor(0.8))
            >>> sure.weight_of_evidence()
            tensor([[2., 0.],
                    [4., 2.]])
        """
        known = self.values[self.values.isfinite()]
        if bool(((known < 0) | (known > 1)).any()) or not bool(((self.base >= 0) & (self.base <= 1)).all()):
            raise InputError(
                "this map", f"values of {float(known.min()):g} to {float(known.max()):g}",
                "probabilities, as of activation='softmax'", verb="has",
            )  # fmt: skip
        count = classes or (2 if self.base_outputs is None else len(self.base_outputs))

        def bits(probabilities: Tensor) -> Tensor:
            p = probabilities.double()
            if examples is not None:
                p = (p * examples + 1) / (examples + count)
            return p.logit() / math.log(2)

        return (bits(self.base) - bits(self.values)).to(self.values.dtype)

    @property
    def positions(self) -> Tensor:
        """First cell of the window, or of a region's bounding box, by position: int64 ``(*grid, axes)``.

        Examples:
            >>> heatmap.positions.tolist()
            [[[0, 0], [0, 10]], [[12, 0], [12, 10]]]
        """
        starts = self.window.boxes(np.arange(len(self.window), dtype=np.int64))[..., 0]
        kept = [axis for axis in range(len(self.window.input_shape)) if not self.window.spans(axis)]
        return torch.from_numpy(starts[:, kept].reshape(*self.window.grid_shape, len(kept)))

    def attribution(self) -> Tensor:
        """Captum's attribution: for every input cell the mean drop over the known windows that cover it.

        Returns:
            Float32 tensor of the input's shape (of regions, of the values' dtype); a target of several values
            has their dimensions in front. NaN where no known window covers a cell.

        Examples:
            >>> attribution = heatmap.attribution()
            >>> attribution.shape, attribution[0, 0, 0], attribution[0, 23, 19]
            (torch.Size([3, 24, 20]), tensor(0.5000), tensor(-0.2500))
        """
        return mean_drop(self.window, self.drop, self.status != Status.UNKNOWN)

    def missing(self, positions: IntArray) -> IntArray:
        """Positions, of those given, whose values are not exact yet.

        Examples:
            >>> half = replace(heatmap, measured=torch.tensor([[True, True], [False, False]]))
            >>> half.missing(np.array([0, 2, 3])).tolist()
            [2, 3]
        """
        left: IntArray = positions[(self.status.reshape(-1) != Status.EXACT).numpy()[positions]]
        return left

    def for_target(self, target: int) -> Heatmap:
        """The heatmap of another class, out of the outputs that were kept.

        Args:
            target: The class; from the end where negative.

        Raises:
            InputError: The outputs were not kept, or the model has no such class.

        Examples:
            >>> kept = replace(heatmap, outputs=torch.ones(2, 2, 5), base_outputs=torch.arange(5.0))
            >>> kept.for_target(-1).target, kept.for_target(-1).drop[0, 0]
            (4, tensor(3.))
        """
        if self.outputs is None or self.base_outputs is None:
            raise InputError(
                "classes", '"predicted"', 'heatmap(..., classes="all")', "and for_target needs every output"
            )
        count, index = self.outputs.shape[-1], whole(target)
        if index is None or not -count <= index < count:
            raise InputError("target", repr(target), f"classes 0 to {count - 1} of the model")
        other = replace(
            self,
            values=self.outputs[..., index],
            base=self.base_outputs[index],
            target=index % count,
            cheap=None,
            ssim_estimate=None,
            samples=None,
        )
        status = self.status.numpy()
        return other.filled((status == Status.INTERPOLATED) | (status == Status.LINEARISED))

    # -- approximation -----------------------------------------------------------------------------------

    def filled(self, wanted: Flags | None = None) -> Heatmap:
        """The map with predicted values where nothing was measured, or only cheaply.

        Values of regions, which have no neighbours, are not predicted.

        Args:
            wanted: Positions to fill, truth values on the grid; None for all.

        Examples:
            >>> half = replace(heatmap, measured=torch.tensor([[True, False], [False, False]]))
            >>> half.filled().values.tolist()  # a single measured value predicts itself
            [[0.5, 0.5], [0.5, 0.5]]
        """
        if self.values.shape != self.measured.shape or not isinstance(self.window, SlidingWindow):
            return self
        measured = (self.measured & self.values.isfinite()).numpy()
        missing = ~self.measured.numpy() if wanted is None else wanted & ~self.measured.numpy()
        if not measured.any() or not missing.any():
            return self
        prediction = self.predicted(measured)
        values = self.values.clone()
        values[torch.from_numpy(missing)] = torch.from_numpy(prediction.values[missing]).to(values.dtype)
        return replace(self, values=values)

    def predicted(self, measured: Flags) -> Prediction:
        """The whole map, predicted from a part of its measured values and all of its cheap ones.

        Args:
            measured: The part, truth values on the grid.

        Examples:
            >>> heatmap.values.tolist()
            [[0.5, 1.0], [1.0, 1.25]]
            >>> heatmap.predicted(np.array([[True, False], [False, False]])).values  # by the first
            array([[0.5, 0.5],
                   [0.5, 0.5]])
        """
        values = self.values.double().numpy()
        window = as_sliding(self.window)
        if self.cheap is None:
            return predict(window, values, measured)
        cheap, base = self.cheap.double().numpy(), float(self.base)
        # Where nothing changes both are the same, and neither predicts the other.
        both = np.flatnonzero(measured & np.isfinite(cheap) & (cheap != base))
        drifted = predict_by_drift(window, values, measured, cheap, base, both)
        return predict(window, values, measured) if drifted is None else drifted.exact

    def compare(self, exact: Heatmap) -> Comparison:
        """The distance of this map from the exact one, wherever this one is known.

        Args:
            exact: The map of the same call, measured without ``ssim_target``.

        Raises:
            InputError: The maps are of different images, windows, baselines or targets, or ``exact`` is not
                exact everywhere that this one is known.

        Examples:
            >>> guessed = replace(heatmap, values=heatmap.values - torch.eye(2) / 8)
            >>> heatmap.compare(heatmap).ssim, guessed.compare(heatmap).max_error
            (1.0, 0.125)
        """
        if not isinstance(exact, Heatmap):
            raise InputError("exact", repr(exact), "the exact heatmap of the same call")
        if (self.window, self.target) != (exact.window, exact.target):
            raise InputError(
                "exact",
                f"of target {exact.target} and {exact.window}",
                f"this map's target {self.target} and {self.window}",
            )
        if self.image is not None and exact.image is not None and not same(self.image, exact.image):
            raise InputError("exact", "the heatmap of another image")
        if None not in (self.baseline, exact.baseline) and self.baseline != exact.baseline:
            raise InputError("exact", f"of baseline {exact.baseline}", f"this map's, {self.baseline}")
        known = self.status != Status.UNKNOWN
        if bool((exact.status != Status.EXACT)[known].any()):
            raise InputError(
                "exact", "not exact everywhere that this map is known", "a map without ssim_target"
            )
        if not bool(known.any()):
            raise InputError("this map", "known nowhere")
        return compared(self.values, exact.values, known, image_axes(self.window))

    def verify(self, occlusion: Verifier, fraction: float = 0.05, *, seed: int = 0) -> Heatmap:
        """A map with a random part of its inexact positions measured, and its SSIM estimated anew by them.

        The sample is random, so that its errors are those of all such positions but for chance. Errors of
        interpolated positions, each part of the sample predicted without itself, scale the errors expected
        elsewhere, together with errors usual of other maps, which count as 16 positions more; the mean
        squared error of trimmed positions stands for the others. Chance gives the range (90 %, by
        resampling). The measured values stay in the map.

        Args:
            occlusion: The `KryptonOcclusion` that made the map, or another of the same model. For a map out
                of a file or of another process, ``occlusion.verify`` takes the arguments that no map holds:
                an image as baseline, ``activation``, ``additional_forward_args``.
            fraction: Share of the interpolated and of the trimmed positions to measure, above 0 and at most
                1; at least two of each.
            seed: Seed of the choice.

        Returns:
            The map with these positions measured, and its new ``ssim_estimate``.

        Raises:
            InputError: An argument that cannot be used, or the occlusion is of another model.

        Examples:
            >>> from krypton_engine import KryptonOcclusion
            >>> occlusion = KryptonOcclusion(model)
            >>> heatmap = occlusion.heatmap(x, (3, 8, 8), (3, 2, 2), ssim_target=0.8)
            >>> heatmap.verify(occlusion, 0.5).ssim_estimate.basis
            'verified'
        """
        if not isinstance(occlusion, Verifier):
            raise InputError(
                "occlusion",
                repr(occlusion),
                "a KryptonOcclusion of the map's model, as in heatmap.verify(occlusion, 0.05)",
            )
        return occlusion.verify(self, fraction, seed=seed)

    # -- pictures --------------------------------------------------------------------------------------

    @property
    def _shown(self) -> Shown:
        return Shown(self.drop, self.status, self.base, self.window, self.image)

    def overlay(
        self,
        image: object = None,
        *,
        scale: Scale = None,
        cmap: str = COLORMAP,
        opacity: float = OPACITY,
        spacing: Spacing = None,
        slices: int | None = None,
    ) -> Image:
        """The drop at every position, in colour, over the image in grey.

        A pixel has the colour of the position whose window is centred nearest, and so the drop that `drop`
        holds; of several positions at one place, as of windows for single channels, their mean.

        Of a volume, ``(channels, depth, height, width)``, three slices on black: across depth, height and
        width (the last two with the first slice at the bottom), through the voxel whose `attribution` is
        largest, with cross-hairs that stop short of it. Of a signal, ``(channels, length)``, the curves over
        the colours, and below them the curve of the drop.

        Args:
            image: Picture of the input's size to draw over (PIL image or uint8 height x width [x 3]); by
                default the model's input, stretched to its own extremes. Of a volume, numbers of its depth,
                height and width (uint8, or stretched); of a signal, of its shape or length.
            scale: Drops at the two ends of the colour map, or one number for both signs: give it to compare
                pictures. By default the largest drop, with either sign.
            cmap: Name of a Matplotlib colour map; the default is red where occluding lowers the target.
            opacity: 0 (image only) to 1 (full colour at the ends of the scale; the smaller a drop, the
                more of the image shows). Unknown places stay bare, and drops that are not finite are hatched.
            spacing: Of a volume: size of a voxel along depth, height and width in any unit; default cubes.
            slices: Of a volume: a montage of so many slices, evenly through its depth, instead.

        Returns:
            PIL image of the input's height and width; larger ones of volumes and signals.

        Raises:
            InputError: The input is no signal, image or volume, or ``image`` does not fit it.

        Examples:
            >>> heatmap.overlay(np.zeros((24, 20), np.uint8), scale=1.0, opacity=0.5).size
            (20, 24)
            >>> window = SlidingWindow((1, 8, 6, 6), (1, 4, 3, 3), (1, 4, 3, 3))
            >>> one, truth = torch.tensor(1.0), torch.full((2, 2, 2), True)
            >>> cube = Heatmap(torch.rand(2, 2, 2), one, truth, window, image=torch.rand(1, 8, 6, 6))
            >>> cube.overlay(spacing=(2, 1, 1)).size, cube.overlay(slices=8).size
            ((430, 368), (504, 248))
        """
        return picture.overlay(self._shown, image, scale, cmap, opacity, spacing, slices)

    def limits(self, scale: Scale = None) -> tuple[float, float]:
        """Drops at the ends of the colour scale.

        Args:
            scale: As in `overlay`.

        Examples:
            >>> heatmap.limits(), heatmap.limits(2.0), heatmap.limits((-1.0, 2.0))
            ((-0.5, 0.5), (-2.0, 2.0), (-1.0, 2.0))
        """
        return limits(self._shown, scale)

    # -- files -----------------------------------------------------------------------------------------

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        source: object = None,
        grid: placed.Grid = "source",
        **drawing: Unpack[picture.Drawing],
    ) -> None:
        """Write the heatmap as a picture, as numbers, or as a volume for viewers of scans.

        Args:
            path: Path of the file; its ending decides: ``.png``, ``.svg`` or ``.pdf``, a picture with its
                legend; ``.npz``, which `load` reads; or the drop by place in ``.nii.gz``, ``.nii``,
                ``.ome.tiff`` or ``.dcm`` (a Parametric Map); ``.sc.dcm`` is the picture as a Secondary
                Capture.
            source: The scan that the input was made from, cell by cell, or its file, folder or
                ``MetaTensor``: see `krypton_engine.medical.read_scan`. DICOM needs one of DICOM files;
                without one, cells measure 1 mm, and the affine of NIfTI is the identity. Pictures are drawn
                over the scan.
            grid: Cells of a volume: those of the ``"source"``, each with the drop of the window that is
                centred nearest, or the map's ``"own"``, one for every window, at its centre.
            **drawing: For a picture, the arguments of `overlay`, ``title``, and ``width``, the pixels of a
                PNG's width.

        Raises:
            InputError: No path, another ending, a folder that does not exist, or a source that does not fit.
            OSError: Writing fails; what was there is still there.

        Examples:
            >>> heatmap.save("map.npz")
            >>> Heatmap.load("map.npz") == heatmap
            True
        """
        given, ending = files.destination(path, {**saved.ENDINGS, **placed.ENDINGS})
        files.write(given, self.content(ending, source=source, grid=grid, **drawing))

    def content(
        self,
        ending: str,
        *,
        source: object = None,
        grid: placed.Grid = "source",
        **drawing: Unpack[picture.Drawing],
    ) -> bytes:
        """The bytes that `save` writes to a file of this ending, such as ``".png"`` or ``".npz"``.

        Examples:
            >>> count = Path("map.npz").write_bytes(heatmap.content(".npz"))
            >>> Heatmap.load("map.npz") == heatmap
            True
        """
        if ending in saved.PICTURES or ending == placed.CAPTURE:
            beneath = placed.beneath(source, self.window.input_shape)
            given = {name: value for name, value in drawing.items() if value is not None}
            kind = ".png" if ending == placed.CAPTURE else ending
            file = picture.file(self._shown, repr(self), ending=kind, **beneath | given)
            return file if ending == kind else placed.captured(file, source, self.window.input_shape)
        if ending in placed.ENDINGS:
            return placed.written(self._shown, ending, source, grid)
        return saved.packed({name: getattr(self, name) for name in saved.FIELDS})

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Heatmap:
        """Read a heatmap that `save` wrote to an ``.npz``.

        Raises:
            InputError: The file is missing or no heatmap.

        Examples:
            >>> heatmap.save("map.npz")
            >>> Heatmap.load("map.npz").drop.equal(heatmap.drop)
            True
        """
        try:
            return Heatmap(**saved.read(Path(path)))
        except saved.DAMAGED as error:
            raise InputError("path", repr(str(path)), problem=f"which is no saved heatmap: {error}") from None

    def _repr_png_(self) -> tuple[bytes, dict[str, str]] | None:
        """The picture that notebooks show and keep, with its alternative text; None where none can be."""
        try:
            return self.content(".png"), {"alt": repr(self)}
        except (InputError, ImportError):
            return None

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
            + not_finite(self._shown, ", {} not finite")
            + ("" if self.ssim_estimate is None else f", SSIM {self.ssim_estimate}")
            + ")"
        )
