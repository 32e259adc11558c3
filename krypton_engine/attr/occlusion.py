"""KryptonOcclusion: the surface of ``captum.attr.Occlusion``."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from captum.attr import Occlusion
from torch import Tensor

from krypton_engine.attr import explain
from krypton_engine.attr.checks import Activation, check_one_example, memory_budget_of
from krypton_engine.attr.inputs import Shapes, Strides, additional_arguments, windows_of
from krypton_engine.attr.learn import OnSample, learn, tuning_request
from krypton_engine.attr.request import Fillings, MapRequest, Schedule, attribution_request, heatmap_request
from krypton_engine.common.calling import Baselines, Forward, Target
from krypton_engine.common.captum import counted
from krypton_engine.errors import InputError
from krypton_engine.executors.full import evaluate
from krypton_engine.graph.draft import CaptureError
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.identity import Origin
from krypton_engine.heatmap.verification import Sample
from krypton_engine.perturbation.windows import as_sliding
from krypton_engine.plan.plan import Plan
from krypton_engine.planning.cache import Source, capture
from krypton_engine.planning.cheap import with_cheap_map
from krypton_engine.planning.planner import Preparer
from krypton_engine.planning.training import evaluation_mode
from krypton_engine.run.loop import OnProgress
from krypton_engine.tuning.tuning import Tuning
from krypton_engine.zoo.preprocess import as_taken


class _Asked:
    """The requests that an occlusion's maps answer, kept as long as the maps live; empty in a copy."""

    def __init__(self) -> None:
        self._requests: weakref.WeakKeyDictionary[Origin, MapRequest] = weakref.WeakKeyDictionary()

    def note(self, request: MapRequest) -> Origin:
        """The origin of a map to be made."""
        origin = Origin()
        self._requests[origin] = replace(request, known=None)
        return origin

    def of(self, heatmap: Heatmap) -> MapRequest | None:
        """The request that a map answers; None if another occlusion answered it."""
        return None if heatmap.origin is None else self._requests.get(heatmap.origin)

    def __reduce__(self) -> tuple[type[_Asked], tuple[()]]:
        return _Asked, ()


class KryptonOcclusion(Occlusion):
    """``captum.attr.Occlusion``, many times faster: same call, same numbers.

    The un-occluded activations are computed once and kept; for every window only the cells that can change
    are computed again. Any callable that Captum takes is accepted: one that cannot run incrementally runs
    as batched full inference, with one ``FallbackWarning``.

    Args:
        forward_func: The forward function of the model or any modification of it.
        executor: ``"native"`` is the C++ engine, for float32 images on the CPU; ``"cuda"`` the engine for
            NVIDIA GPUs, which measures on the first call of a model and window where boxes pay;
            ``"reference"`` is PyTorch on changed boxes, wherever the model has a graph; ``"auto"`` takes the
            engine of the device, the reference executor where that lacks something, and batched full
            inference where incremental work would not pay.
        memory_budget: Bytes that a call may add to the process: views, folded weights and batches. Outputs
            that the caller asks to keep come on top. None: 2 GiB, or an eighth of the GPU's memory where that
            is more.

    Raises:
        InputError: No callable, an unknown executor, or a budget that is no positive number.

    Examples:
        >>> occlusion = KryptonOcclusion(model)
        >>> attribution = occlusion.attribute(x, (3, 6, 5), strides=(3, 2, 2), target=1)
        >>> attribution.shape
        torch.Size([1, 3, 24, 20])
        >>> heatmap = occlusion.heatmap(x, (3, 6, 5), (3, 2, 2))
        >>> heatmap.drop.shape
        torch.Size([10, 9])
        >>> heatmap.save("heatmap.png")
    """

    def __init__(
        self,
        forward_func: Forward,
        executor: str = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(forward_func)
        budget = memory_budget_of(forward_func, executor, memory_budget)
        self._preparer = Preparer(executor, budget)
        self._asked = _Asked()

    @counted
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        sliding_window_shapes: Shapes,
        strides: Strides = None,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: object = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        ssim_target: float | None = None,
        tuning: Tuning | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Attributions of ``inputs``, as ``captum.attr.Occlusion.attribute``.

        Args:
            inputs: Tensor or tuple of tensors; dimension 0 is the examples.
            sliding_window_shapes: Shape of the window without the batch dimension, for every input.
            strides: Steps of the window: an int, a tuple, or one of these for every input. Default 1.
            baselines: Scalar, tensor, or one for every input; replaces the occluded cells. Default 0.
            target: Output index: an int, a tuple, a tensor or list with one for every example, or None for
                forward functions with one output (several give one row of attributions each).
            additional_forward_args: Further arguments of the forward function; tensors whose first
                dimension is the examples go with them.
            perturbations_per_eval: Largest number of positions computed together; None lets the planner
                choose. The result does not depend on it.
            show_progress: Whether to draw a progress bar with the time left.
            on_progress: ``on_progress(heatmap_so_far, done, total)`` after about every tenth of a second;
                returning False cancels.
            ssim_target: Approximate: see `heatmap`. Needs one output for every example.
            tuning: See `heatmap`.

        Returns:
            Float32 tensor, or tuple of tensors, of the inputs' shapes (one row for every output if there
            are several).

        Raises:
            InputError: An argument that cannot be used; nothing has been computed then.
            OcclusionCancelled: ``on_progress`` returned False; ``.partial`` is the heatmap so far.
        """
        began = time.perf_counter()
        with self._evaluating():
            request = attribution_request(
                self.forward_func, inputs, sliding_window_shapes, strides, baselines, target,
                additional_forward_args, perturbations_per_eval, on_progress, ssim_target, tuning,
            )  # fmt: skip
            (parts,) = explain.attributions(self._preparer, [request], began, on_progress, show_progress)
        return parts if isinstance(inputs, tuple) else parts[0]

    @counted
    def heatmap(
        self,
        x: Tensor,
        sliding_window_shapes: tuple[int, ...] | None = None,
        strides: int | tuple[int, ...] | None = None,
        baselines: Fillings = None,
        target: int | tuple[int, ...] | None = None,
        additional_forward_args: object = None,
        *,
        regions: Tensor | None = None,
        activation: Activation = None,
        region: Tensor | Sequence[int] | None = None,
        classes: Literal["predicted", "all"] = "predicted",
        schedule: Schedule = "rows",
        resume: Heatmap | None = None,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        ssim_target: float | None = None,
        tuning: Tuning | None = None,
        analyze: bool = False,
        keep_samples: bool = False,
    ) -> Heatmap:
        """The heatmap of one image: a value for every position of a window, or for every region of a mask.

        Args:
            x: One example: ``(1, *input_shape)``.
            sliding_window_shapes: Shape of the window, without the batch dimension; None with ``regions``.
            strides: Steps of the window; an int or one for every axis. Default 1.
            baselines: Values that replace the occluded cells: a scalar or a tensor, default 0; ``"blur"``,
                ``"mean"``, ``"local mean"`` (of the surroundings) or ``"noise"``; a filling of
                `krypton_engine.fillings`; or a list of these. Outputs of several samples or baselines are
                averaged, after the activation.
            target: Output index; None for the predicted class (or the only output).
            additional_forward_args: Further arguments of the forward function.
            regions: In place of a window, a mask of whole numbers that broadcasts to the input: the cells of
                each number, which need not be connected, are covered together, and the map has one value
                for each, in the order of the numbers. With ``ssim_target`` or a ``schedule`` the regions have
                to be equal boxes side by side, numbered row by row: the map is on their grid then.
            activation: Applied to the outputs before the target is taken: ``"softmax"`` over the classes, a
                callable ``(n, *output_shape) -> (n, *shape)``, or None.
            region: Compute only positions whose window touches it: a boolean mask of the input's shape, or
                a box ``(top, left, bottom, right)``, half-open, of a volume
                ``(front, top, left, back, bottom, right)``.
            classes: ``"all"`` keeps every output, so that ``Heatmap.for_target`` costs nothing.
            schedule: Order of an exact map's positions: ``"coarse to fine"`` measures every 8th position
                along each axis first, then halves the step; the final map is the same.
            resume: A heatmap of the same call that was cut short, such as `OcclusionCancelled.partial`:
                what it measured is not computed again, and its seconds count. Not with a ``tuning``, whose
                promise is for maps from their first position on.
            show_progress: Whether to draw a progress bar with the time left.
            on_progress: As in `attribute`; with ``ssim_target``, ``total`` is what there would be to do to
                the end.
            ssim_target: Stop when the map is this similar to the exact one
                (`krypton_engine.approximation.ssim.ssim`), above 0 and at most 1, and interpolate the rest:
                ``Heatmap.status`` says which values were measured, ``Heatmap.ssim_estimate`` how similar the
                map probably is. Positions are measured
                coarse to fine, then where the map is least certain. None or 1: the exact map.
            tuning: Result of `tune` for images of this kind; without one the similarity is estimated on
                the way, cautiously.
            analyze: Time every step on the way, which takes a little longer: ``print(heatmap.plan)`` then
                sets the time and the cells of every layer beside what was expected of them.
            keep_samples: Keep the target's values of every sample of a filling: ``Heatmap.samples``.

        Returns:
            The heatmap; see `krypton_engine.Heatmap`.

        Raises:
            InputError: An argument that cannot be used; nothing has been computed then.
            OcclusionCancelled: ``on_progress`` returned False; ``.partial`` is the heatmap so far.
        """
        began = time.perf_counter()
        with self._evaluating():
            request = heatmap_request(
                self.forward_func, x, sliding_window_shapes, strides, baselines, target,
                additional_forward_args, activation, self._preparer.budget,
                regions=regions, region=region, classes=classes, schedule=schedule, resume=resume,
                on_progress=on_progress, ssim_target=ssim_target, tuning=tuning, analyze=analyze,
                keep_samples=keep_samples,
            )  # fmt: skip
            origin = self._asked.note(request)
            return explain.heatmap(self._preparer, request, began, on_progress, show_progress, origin)

    @counted
    def verify(
        self,
        heatmap: Heatmap,
        fraction: float = 0.05,
        *,
        seed: int = 0,
        baselines: Baselines = None,
        additional_forward_args: object = None,
        activation: Activation = None,
    ) -> Heatmap:
        """A map with a random part of its inexact positions measured, and its SSIM estimated anew by them.

        See `Heatmap.verify`. For maps out of files, of other processes or of other occlusions, the last three
        arguments are those that the map was made with; the baseline is needed where it is an image.

        Args:
            heatmap: The map.
            fraction: As in `Heatmap.verify`.
            seed: As in `Heatmap.verify`.
            baselines: As in `heatmap`.
            additional_forward_args: As in `heatmap`.
            activation: As in `heatmap`.

        Returns:
            The map with these positions measured, and its new ``ssim_estimate``.

        Raises:
            InputError: An argument that cannot be used, or a map of another model, which may have changed.
        """
        began = time.perf_counter()
        if not isinstance(heatmap, Heatmap):
            raise InputError("heatmap", type(heatmap).__name__, "what heatmap returned")
        sample = Sample(heatmap, fraction, seed)
        if not len(sample.positions):
            return heatmap
        with self._evaluating():
            request = self._request_of(heatmap, baselines, additional_forward_args, activation)
            origin = self._asked.note(request)
            return explain.verified(self._preparer, heatmap, request, sample, began, origin)

    def tune(
        self,
        samples: Tensor | Sequence[Tensor],
        sliding_window_shapes: tuple[int, ...],
        strides: int | tuple[int, ...] | None = None,
        baselines: Baselines = None,
        target: int | tuple[int, ...] | None = None,
        additional_forward_args: object = None,
        *,
        activation: Activation = None,
        confidence: float | None = None,
        max_seconds: float | None = None,
        resume: Tuning | None = None,
        show_progress: bool = False,
        on_progress: OnSample | None = None,
    ) -> Tuning:
        """Learn on images of a kind when an approximate map is similar enough to the exact one.

        For every sample the exact map is computed, and the course of an approximate map is replayed on it. An
        image of the same kind then meets ``ssim_target`` with probability ``confidence``, if it is to the
        samples as they are to each other; see `krypton_engine.tuning.tuning`.

        Args:
            samples: The images: a batch, or one-example batches ``(1, *input_shape)``, all of one shape.
            sliding_window_shapes: As in `heatmap`.
            strides: As in `heatmap`.
            baselines: As in `heatmap`.
            target: As in `heatmap`; None for each sample's predicted class.
            additional_forward_args: As in `heatmap`.
            activation: As in `heatmap`.
            confidence: Share of images that are to meet their target, above 0 and below 1; None: that of
                ``resume``, or 0.9, which takes nine samples at least.
            max_seconds: Begin no more work after this; what has been learnt by then is more cautious.
            resume: A tuning for the same, which gets more samples; those it has are not measured again.
            show_progress: Whether to draw a progress bar.
            on_progress: ``on_progress(tuning_so_far, done, total)`` after each sample; returning False
                cancels.

        Returns:
            The tuning, for ``heatmap(..., ssim_target=0.9, tuning=tuning)``; ``print`` it.

        Raises:
            InputError: An argument that cannot be used; nothing has been computed then.
            OcclusionCancelled: ``on_progress`` returned False; ``.partial`` is the tuning so far.

        Examples:
            >>> tuning = KryptonOcclusion(model).tune([x, x / 2], (3, 8, 8), (3, 8, 8), confidence=0.5)
            >>> len(tuning.images), tuning.fewest
            (2, 1)
        """
        began = time.perf_counter()
        with self._evaluating():

            def asked_of(x: Tensor) -> MapRequest:
                request = heatmap_request(
                    self.forward_func, x, sliding_window_shapes, strides, baselines, target,
                    additional_forward_args, activation, self._preparer.budget,
                )  # fmt: skip
                if request.filled:
                    raise InputError("baselines", repr(baselines), "a number or a tensor, as for attribute")
                return request

            request = tuning_request(samples, target, confidence, max_seconds, resume, on_progress, asked_of)
            return learn(self._preparer, request, began, on_progress, show_progress)

    def plan(
        self,
        x: Tensor,
        sliding_window_shapes: tuple[int, ...],
        strides: int | tuple[int, ...] | None = None,
        additional_forward_args: object = None,
    ) -> Plan:
        """The cost of a window, without running it: ``print(occlusion.plan(...))``.

        Args:
            x: One example: ``(1, *input_shape)``.
            sliding_window_shapes: Shape of the window, without the batch dimension.
            strides: Steps of the window; an int or one for every axis. Default 1.
            additional_forward_args: Further arguments of the forward function.

        Raises:
            InputError: An argument that cannot be used, or a forward function without a graph (it would run
                as batched full inference; the message says why).

        Examples:
            >>> plan = KryptonOcclusion(model).plan(x, (3, 8, 8), (3, 4, 4))
            >>> len(plan.window), plan.incremental
            (20, True)
        """
        check_one_example(x)
        (window,) = windows_of((x,), sliding_window_shapes, strides)
        with self._evaluating():
            try:
                additional = additional_arguments(additional_forward_args) or ()
                graph = capture(Source(self.forward_func, (x,), 0, additional))
                plan = self._preparer.plan(graph, window, x.device).plan
                return with_cheap_map(graph, plan)
            except CaptureError as error:
                raise InputError(
                    "forward_func", "run as batched full inference", problem=str(error), verb="would be"
                ) from None

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """No gradients, and the model in evaluation mode."""
        with torch.no_grad(), evaluation_mode(self.forward_func, self._preparer.warn):
            yield

    def _request_of(
        self, heatmap: Heatmap, baselines: Baselines, additional: object, activation: Activation
    ) -> MapRequest:
        """The request that a map answers: as noted when it was made, else as far as the map itself shows."""
        asked = self._asked.of(heatmap)
        if asked is not None and baselines is None and additional is None and activation is None:
            # The model or the image may have changed: then this is another map, which is refused.
            question = asked.question
            base = evaluate(question.forward_func, question.inputs, question.additional)
            return replace(asked, question=replace(question, base=base), target=heatmap.target)
        if heatmap.image is None:
            raise InputError(
                "heatmap", "no image", problem="so that nothing more of the map can be measured", verb="holds"
            )
        x = heatmap.image[None]
        x = x.to(as_taken(self.forward_func, x).device)
        if baselines is None and isinstance(heatmap.baseline, tuple):
            levels = torch.tensor(heatmap.baseline, device=x.device)
            baselines = levels.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 2)) if x.ndim > 1 else levels[0]
        window = as_sliding(heatmap.window)
        return heatmap_request(
            self.forward_func, x, window.shape, window.strides, baselines, heatmap.target,
            additional, activation, self._preparer.budget,
            classes="predicted" if heatmap.outputs is None else "all",
        )  # fmt: skip
