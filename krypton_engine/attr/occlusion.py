"""KryptonOcclusion: the surface of ``captum.attr.Occlusion``."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from captum._utils.common import (
    _format_additional_forward_args,
    _format_output,
    _is_tuple,
    _select_targets,
)
from captum.attr import Occlusion
from captum.attr._utils.common import (
    _format_and_verify_sliding_window_shapes,
    _format_and_verify_strides,
    _format_input_baseline,
)
from captum.log import log_usage
from torch import Tensor
from tqdm.auto import tqdm

from krypton_engine.common.arguments import real, whole
from krypton_engine.common.arrays import IntArray
from krypton_engine.common.figures import mebibytes
from krypton_engine.errors import InputError, OcclusionCancelled
from krypton_engine.executors.base import Session
from krypton_engine.executors.full import as_numbers, evaluate
from krypton_engine.executors.registry import EXECUTORS
from krypton_engine.graph.draft import CaptureError
from krypton_engine.heatmap.builder import Recorder
from krypton_engine.heatmap.heatmap import Heatmap, Origin
from krypton_engine.heatmap.identity import described, fingerprint_of_image
from krypton_engine.heatmap.status import Status
from krypton_engine.heatmap.verification import Sample
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.measured import Costs
from krypton_engine.plan.plan import Plan
from krypton_engine.planning.cache import Source, capture
from krypton_engine.planning.planner import Answer, Preparer
from krypton_engine.planning.question import Question
from krypton_engine.planning.training import evaluation_mode
from krypton_engine.run.adaptive import StoppingRule
from krypton_engine.run.analysis import analyzed
from krypton_engine.run.loop import OnProgress, Watch, declines, refine, run
from krypton_engine.run.order import coarse_to_fine, row_by_row
from krypton_engine.tuning.curves import Curve
from krypton_engine.tuning.fingerprint import Fingerprint
from krypton_engine.tuning.replay import curves_of
from krypton_engine.tuning.tuning import CONFIDENCE, Tuning

Shapes = tuple[int, ...] | tuple[tuple[int, ...], ...]
Strides = int | tuple[int, ...] | tuple[int | tuple[int, ...], ...] | None
Activation = Literal["softmax"] | Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class _Request:
    """What a heatmap is asked for.

    Attributes:
        question: What is asked of the forward function.
        activate: Applied to its outputs.
        target: What is selected of them.
        shape: Of the selected values; empty if it is one number.
        wanted: Positions.
        classes: How many there are, if the outputs are one row of them.
        keep_outputs: Whether to keep all of them.
        fills: Whether positions that are not measured are interpolated.
        analyze: Whether every step is timed.
    """

    question: Question
    activate: Callable[[Tensor], Tensor] | None
    target: Any
    shape: tuple[int, ...]
    wanted: IntArray
    classes: int | None
    keep_outputs: bool
    fills: bool = False
    analyze: bool = False

    def wants_one_number(self) -> None:
        """Refuse a target of several values, whose maps have no SSIM.

        Raises:
            InputError: It is one.
        """
        if self.shape:
            raise InputError(
                "target",
                repr(self.target),
                "with ssim_target or tune, targets that are one number",
                f"which selects values of shape {self.shape}",
            )


class _Asked:
    """What the maps of an occlusion were asked for, as long as they live. A copy begins anew."""

    def __init__(self) -> None:
        self._requests: weakref.WeakKeyDictionary[Origin, _Request] = weakref.WeakKeyDictionary()

    def note(self, request: _Request) -> Origin:
        """The origin of a map to be made."""
        origin = Origin()
        self._requests[origin] = request
        return origin

    def of(self, heatmap: Heatmap) -> _Request | None:
        """What was asked for; None if another occlusion was asked."""
        return None if heatmap.origin is None else self._requests.get(heatmap.origin)

    def __reduce__(self) -> Any:
        return _Asked, ()


class KryptonOcclusion(Occlusion):
    """``captum.attr.Occlusion``, many times faster: same call, same numbers.

    The un-occluded activations are computed once and kept; for every window only the cells that can change
    are computed again. Any callable that Captum takes is accepted: what cannot be done incrementally runs
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

    Examples::

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
        forward_func: Callable[..., Any],
        executor: str = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(forward_func)
        if not callable(forward_func):
            raise InputError("forward_func", repr(forward_func), "a model, or another callable")
        _check_choice("executor", executor, EXECUTORS)
        budget = None if memory_budget is None else real(memory_budget) or 0.0
        if budget is not None and not 0 < budget < math.inf:
            raise InputError("memory_budget", repr(memory_budget), "a positive number of bytes, or None")
        self._preparer = Preparer(executor, None if budget is None else int(budget))
        self._asked = _Asked()

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        sliding_window_shapes: Shapes,
        strides: Strides = None,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
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
        is_tuple = _is_tuple(inputs)
        if perturbations_per_eval is not None:
            count = whole(perturbations_per_eval) or 0
            if count < 1:
                raise InputError(
                    "perturbations_per_eval", repr(perturbations_per_eval), "None or an integer of at least 1"
                )
            perturbations_per_eval = count
        target = _indices(target)
        _check_callable("on_progress", on_progress)
        goal = _goal(ssim_target, tuning)
        with torch.no_grad(), evaluation_mode(self.forward_func, self._preparer.warn):
            question = self._question(
                inputs, sliding_window_shapes, strides, baselines, additional_forward_args
            )
            if goal is not None and target is None and question.base.shape[1:] == (1,):
                target = 0
            selected = _selected(question.base, target, len(question.inputs[0]))
            if goal is not None and selected.shape != (len(question.inputs[0]),):
                raise InputError(
                    "target",
                    repr(target),
                    "with ssim_target, targets with one number for every example",
                    f"which selects values of shape {tuple(selected.shape)}",
                )
            if tuning is not None:
                self._accept(tuning, question, target, None)
            inputs_rows = [len(question.inputs[0]) * len(window) for window in question.windows]
            with Watch(sum(inputs_rows), on_progress, show_progress) as watch:
                parts = []
                for i in range(len(question.inputs)):
                    work = partial(
                        self._attribution, question, i, target, watch, watch.done, goal,
                        perturbations_per_eval, began,
                    )  # fmt: skip
                    answered = self._preparer.answered
                    parts.append(answered(question, i, perturbations_per_eval, work, watch.watched))
                watch.finish()
        return _format_output(is_tuple, tuple(parts))

    def _attribution(
        self,
        question: Question,
        occluded: int,
        target: Any,
        watch: Watch,
        done: int,
        goal: StoppingRule | None,
        per_eval: int | None,
        began: float,
        answer: Answer,
    ) -> Tensor:
        """Attributions of one input over all examples: ``(outputs, *input_shape)``."""
        watch.rewind(done)
        rows = []
        for row in answer.rows:
            session = answer.open(row)
            mine = target if row is None else _of_example(target, row, len(question.inputs[0]))

            def select(outputs: Tensor, row: int | None = row, mine: Any = mine) -> Tensor:
                if row is None:
                    return torch.stack([_select_targets(out, mine) for out in outputs])
                return _select_targets(outputs, mine)

            x = question.inputs[occluded]
            positions = np.arange(len(session.window), dtype=np.int64)
            recorder = Recorder(
                session.window,
                session.base,
                select,
                target=mine,
                image=None if row is None else x[row],
                plan=partial(answer.plan, session),
                began=began,
                fill=None if goal is None or row is None else positions,
            )
            if goal is None or row is None:  # of examples that only go together there is no one map
                run(session, [positions], recorder, watch, per_eval)
            else:
                refine(session, positions, recorder, watch, goal, per_eval)
            answer.confirm(row, session, recorder)
            attribution = recorder.heatmap().attribution()
            rows.append(attribution.reshape(-1, *x.shape[1:]))
            del session  # before the next example's views are made
        return torch.cat(rows).to(question.inputs[occluded].device)

    @log_usage(part_of_slo=True)
    def heatmap(
        self,
        x: Tensor,
        sliding_window_shapes: tuple[int, ...],
        strides: int | tuple[int, ...] | None = None,
        baselines: Any = None,
        target: int | tuple[int, ...] | None = None,
        additional_forward_args: Any = None,
        *,
        activation: Activation = None,
        region: Tensor | Sequence[int] | None = None,
        classes: Literal["predicted", "all"] = "predicted",
        schedule: Literal["rows", "coarse to fine"] = "rows",
        resume: Heatmap | None = None,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        ssim_target: float | None = None,
        tuning: Tuning | None = None,
        analyze: bool = False,
    ) -> Heatmap:
        """The heatmap of one image.

        Args:
            x: One example: ``(1, *input_shape)``.
            sliding_window_shapes: Shape of the window, without the batch dimension.
            strides: Steps of the window; an int or one for every axis. Default 1.
            baselines: Scalar or tensor that replaces the occluded cells. Default 0.
            target: Output index; None for the predicted class (or the only output).
            additional_forward_args: Further arguments of the forward function.
            activation: Applied to the outputs before the target is taken: ``"softmax"`` over the classes, a
                callable ``(n, *output_shape) -> (n, *shape)``, or None.
            region: Compute only positions whose window touches it: a boolean mask of the input's shape, or
                a box ``(top, left, bottom, right)``, half-open.
            classes: ``"all"`` keeps every output, so that ``Heatmap.for_target`` costs nothing.
            schedule: Of an exact map: ``"coarse to fine"`` measures every 8th position along each axis first,
                then halves the step; what is computed in the end is the same.
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
            tuning: What `tune` found for images of this kind; without it the similarity is estimated on
                the way, cautiously.
            analyze: Time every step on the way, which takes a little longer: ``print(heatmap.plan)`` then
                sets the time and the cells of every layer beside what was expected of them.

        Returns:
            The heatmap; see `krypton_engine.Heatmap`.

        Raises:
            InputError: An argument that cannot be used; nothing has been computed then.
            OcclusionCancelled: ``on_progress`` returned False; ``.partial`` is the heatmap so far.
        """
        began = time.perf_counter()
        _check_choice("classes", classes, ("predicted", "all"))
        _check_choice("schedule", schedule, ("rows", "coarse to fine"))
        _check_callable("on_progress", on_progress)
        if resume is not None and not isinstance(resume, Heatmap):
            raise InputError("resume", repr(resume), "a heatmap of the same call, or None")
        # Of the outputs that are kept only the target's could be compensated for what trimming drops.
        goal = _goal(ssim_target, tuning, trims=classes != "all")
        with torch.no_grad(), evaluation_mode(self.forward_func, self._preparer.warn):
            request = self._request(
                x, sliding_window_shapes, strides, baselines, target, additional_forward_args, activation,
                region, classes == "all",
            )  # fmt: skip
            request = replace(request, analyze=bool(analyze))
            if goal is not None:
                request.wants_one_number()
            if tuning is not None:
                if region is not None:
                    raise InputError(
                        "tuning", "for whole maps", problem="with region, give ssim_target without it"
                    )
                if resume is not None and goal is not None:
                    raise InputError(
                        "tuning",
                        "for maps from their first position on",
                        problem="with resume, give ssim_target without it",
                    )
                self._accept(tuning, request.question, request.target, request.activate)
            window, wanted = request.question.windows[0], request.wanted
            if resume is not None:
                if resume.window != window:
                    raise InputError(
                        "resume", repr(resume), problem=f"a map of another window, {resume.window}"
                    )
                wanted = resume.missing(wanted)
            with Watch(len(wanted), on_progress, show_progress) as watch:
                if goal is not None:
                    return self._measure(request, resume, goal, watch, began)
                order = {"rows": row_by_row, "coarse to fine": coarse_to_fine}[schedule]
                return self._measure(request, resume, order(window, wanted), watch, began)

    def _request(
        self,
        x: Tensor,
        sliding_window_shapes: tuple[int, ...],
        strides: int | tuple[int, ...] | None,
        baselines: Any,
        target: int | tuple[int, ...] | None,
        additional_forward_args: Any,
        activation: Activation,
        region: Tensor | Sequence[int] | None = None,
        keep_outputs: bool = False,
    ) -> _Request:
        """The arguments of `heatmap`, checked."""
        _check_one_example(x)
        activate, target = _activation(activation), _indices(target)
        question = self._question(x, sliding_window_shapes, strides, baselines, additional_forward_args)
        if question.base.shape[:1] != (1,):
            raise InputError(
                "forward_func",
                f"shape {tuple(question.base.shape)} for one example",
                "for a heatmap, one row (attribute takes any output)",
                verb="returns",
            )
        window = question.windows[0]
        wanted = np.arange(len(window), dtype=np.int64) if region is None else window.touching(region)
        base = question.base
        if activate is _softmax and (base.ndim < 2 or base.shape[1] < 2):
            raise InputError(
                "activation",
                "'softmax'",
                "torch.sigmoid, say, or None",
                f"which makes 1 of a single output, and the outputs have shape {tuple(base.shape)}",
            )
        if activate is not None:
            base = as_numbers("activation", activate(base))
        if base.shape[:1] != (1,):
            raise InputError(
                "activation",
                f"shape {tuple(base.shape)} of {tuple(question.base.shape)}",
                "what keeps the first dimension",
                verb="makes",
            )
        has_classes = base.ndim == 2 and base.shape[1] > 1
        if target is None and has_classes:
            target = int(base[0].argmax())
        elif target is None and base.ndim == 2:
            target = 0
        selected = _selected(base, target, 1)
        target = _of_example(target, 0, 1)
        needed = len(window) * base.numel() * base.element_size()
        if keep_outputs and needed > self._preparer.budget(x.device):
            raise InputError(
                "classes",
                '"all"',
                problem=f"but {len(window)} positions of {base.numel()} outputs take "
                f"{mebibytes(needed)}, more than memory_budget",
            )
        count = base.shape[1] if has_classes else None
        return _Request(question, activate, target, tuple(selected.shape[1:]), wanted, count, keep_outputs)

    def _measure(
        self,
        request: _Request,
        known: Heatmap | None,
        work: StoppingRule | Iterable[IntArray],
        watch: Watch,
        began: float,
        name: str = "resume",
    ) -> Heatmap:
        """A heatmap, from what is ``known`` of it on, stage by stage or until a goal is reached.

        ``name`` is the argument that gave what is known.
        """
        request = replace(request, fills=request.fills or isinstance(work, StoppingRule))
        stages = work if isinstance(work, StoppingRule) else list(work)

        def measure(answer: Answer) -> Heatmap:
            watch.rewind(0)
            session = answer.open(answer.rows[0])
            session.costs = Costs() if request.analyze else None
            recorder = self._recorder(request, session, answer, began)
            if known is not None:
                recorder.resume(known, name)
                self._preparer.recall(request.question, 0, 0, recorder, answer)
            if isinstance(stages, StoppingRule):
                refine(session, request.wanted, recorder, watch, stages)
            else:
                run(session, stages, recorder, watch)
            heatmap = analyzed(recorder.heatmap(), session, known)
            answer.confirm(answer.rows[0], session, recorder)
            return heatmap

        heatmap = self._preparer.answered(request.question, 0, None, measure, watch.watched)
        watch.finish()
        return heatmap

    def _recorder(self, request: _Request, session: Session, answer: Answer, began: float) -> Recorder:
        return Recorder(
            session.window,
            session.base,
            lambda outputs: _select_targets(outputs, request.target),
            activate=request.activate,
            target=request.target,
            keep_outputs=request.keep_outputs,
            classify=request.classes is not None,
            image=request.question.inputs[0][0],
            baseline=described(request.question.baseline(0, 0)),
            plan=partial(answer.plan, session),
            began=began,
            fill=request.wanted if request.fills else None,
            origin=self._asked.note(request),
        )

    @log_usage(part_of_slo=True)
    def verify(
        self,
        heatmap: Heatmap,
        fraction: float = 0.05,
        *,
        seed: int = 0,
        baselines: Any = None,
        additional_forward_args: Any = None,
        activation: Activation = None,
    ) -> Heatmap:
        """A map with a random part of what is not exact measured, and its SSIM estimated anew by that.

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
        known = (heatmap.status != Status.UNKNOWN).numpy()
        given = baselines, additional_forward_args, activation
        with (
            torch.no_grad(),
            evaluation_mode(self.forward_func, self._preparer.warn),
            Watch(len(sample.positions), None, False) as watch,
        ):
            asked = self._asked.of(heatmap)
            if asked is None or any(each is not None for each in given):
                request = self._request_of(heatmap, *given)
            else:
                # The model or the image may have changed: then this is another map, which is refused.
                question = asked.question
                base = evaluate(question.forward_func, question.inputs, question.additional)
                request = replace(asked, question=replace(question, base=base), target=heatmap.target)
            request = replace(request, wanted=np.flatnonzero(known), fills=True)
            verified = self._measure(request, heatmap, [sample.positions], watch, began, "heatmap")
        return sample.judged(verified.filled(known))

    def _request_of(
        self, heatmap: Heatmap, baselines: Any, additional: Any, activation: Activation
    ) -> _Request:
        """What a map was asked for, as far as the map tells."""
        if heatmap.image is None:
            raise InputError(
                "heatmap", "no image", problem="so that nothing more of the map can be measured", verb="holds"
            )
        x = heatmap.image[None]
        if isinstance(self.forward_func, torch.nn.Module):
            x = x.to(next((p.device for p in self.forward_func.parameters()), x.device))
        if baselines is None and isinstance(heatmap.baseline, tuple):
            levels = torch.tensor(heatmap.baseline, device=x.device)
            baselines = levels.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 2)) if x.ndim > 1 else levels[0]
        return self._request(
            x, heatmap.window.shape, heatmap.window.strides, baselines, heatmap.target, additional,
            activation, keep_outputs=heatmap.outputs is not None,
        )  # fmt: skip

    def tune(
        self,
        samples: Tensor | Sequence[Tensor],
        sliding_window_shapes: tuple[int, ...],
        strides: int | tuple[int, ...] | None = None,
        baselines: Any = None,
        target: int | tuple[int, ...] | None = None,
        additional_forward_args: Any = None,
        *,
        activation: Activation = None,
        confidence: float | None = None,
        max_seconds: float | None = None,
        resume: Tuning | None = None,
        show_progress: bool = False,
        on_progress: Callable[[Tuning, int, int], object] | None = None,
    ) -> Tuning:
        """Learn on images of a kind when an approximate map is similar enough to the exact one.

        For every sample the exact map is computed, and it is replayed how an approximate one comes about. An
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
        """
        began = time.perf_counter()
        _check_callable("on_progress", on_progress)
        if resume is not None and not isinstance(resume, Tuning):
            raise InputError("resume", repr(resume), "a tuning for the same, or None")
        try:
            images = [x[None] for x in samples] if isinstance(samples, Tensor) else list(samples)
        except TypeError:  # nothing that has items
            raise InputError("samples", repr(samples), "a batch, or a list of images") from None
        if not images:
            raise InputError("samples", "empty", "at least one image")
        shapes = {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in images}
        if len(shapes) > 1:
            raise InputError(
                "samples", f"shapes {sorted(map(str, shapes))}", "images of one shape", verb="have"
            )
        if confidence is None:
            confidence = CONFIDENCE if resume is None else resume.confidence
        share = real(confidence) or 0.0
        if not 0 < share < 1:
            raise InputError("confidence", repr(confidence), "numbers above 0 and below 1")
        confidence = share
        seconds = math.inf if max_seconds is None else real(max_seconds) or 0.0
        if not seconds > 0:
            raise InputError("max_seconds", repr(max_seconds), "a positive number, or None")
        with torch.no_grad(), evaluation_mode(self.forward_func, self._preparer.warn):
            requests = [
                self._request(
                    x, sliding_window_shapes, strides, baselines, target, additional_forward_args, activation
                )
                for x in images
            ]
            for request in requests:
                request.wants_one_number()
            first = requests[0]
            asked = None if target is None else _plain(target, first.classes)
            found = _fingerprint(first.question, 0, asked, first.activate)
            tuning = (
                Tuning(found, (), confidence) if resume is None else replace(resume, confidence=confidence)
            )
            tuning.check(found)
            deadline = None if max_seconds is None else began + seconds
            with tqdm(
                total=len(requests), desc="Krypton tuning", unit="image", disable=not show_progress
            ) as bar:
                for done, request in enumerate(requests, 1):
                    image = fingerprint_of_image(request.question.inputs[0])
                    if image not in tuning.images:
                        work = partial(self._curves, request, image, tuning, deadline)
                        try:
                            curves = self._preparer.answered(request.question, 0, None, work)
                        except OcclusionCancelled:
                            break
                        tuning = tuning.with_curves(curves)
                    bar.update()
                    if on_progress is not None and declines(on_progress(tuning, done, len(requests))):
                        raise OcclusionCancelled(tuning)
        return tuning

    def _curves(
        self, request: _Request, image: str, tuning: Tuning, deadline: float | None, answer: Answer
    ) -> list[Curve]:
        """What one sample of a tuning shows."""
        session = answer.open(answer.rows[0])
        recorders: list[Recorder] = []

        def recorder(began: float) -> Recorder:
            recorders.append(self._recorder(request, session, answer, began))
            return recorders[-1]

        at_once = tuning.at_once or session.at_once
        curves = curves_of(image, session, request.wanted, recorder, tuning.epsilons, at_once, deadline)
        answer.confirm(answer.rows[0], session, recorders[0])  # of the exact map
        return curves

    def _accept(
        self,
        tuning: Tuning,
        question: Question,
        target: Any,
        activate: Callable[[Tensor], Tensor] | None,
    ) -> None:
        """Refuse a tuning that was made for something else: the model, which may have changed, is asked.

        Raises:
            InputError: It was.
        """
        if len(question.inputs) > 1:
            raise InputError(
                "tuning", "for one input", problem=f"and the forward function has {len(question.inputs)}"
            )
        rows = len(question.inputs[0])
        base = question.base if activate is None else activate(question.base)
        classes = base.shape[1] if base.ndim == 2 else None
        asked = [_plain(_of_example(target, row, rows), classes) for row in range(rows)]
        predicted = [int(out.argmax()) for out in base] if classes else []
        if tuning.fingerprint.target is None and asked == predicted:
            asked = [None] * rows
        checked: list[Any] = []
        for row, one in enumerate(asked):
            key = (one, described(question.baseline(0, row)))
            if key not in checked:
                tuning.check(_fingerprint(question, row, one, activate))
                checked.append(key)

    def plan(
        self,
        x: Tensor,
        sliding_window_shapes: tuple[int, ...],
        strides: int | tuple[int, ...] | None = None,
        additional_forward_args: Any = None,
    ) -> Plan:
        """What a window would cost, without running it: ``print(occlusion.plan(...))``.

        Args:
            x: One example: ``(1, *input_shape)``.
            sliding_window_shapes: Shape of the window, without the batch dimension.
            strides: Steps of the window; an int or one for every axis. Default 1.
            additional_forward_args: Further arguments of the forward function.

        Raises:
            InputError: An argument that cannot be used, or a forward function without a graph (it would run
                as batched full inference; the message says why).
        """
        _check_one_example(x)
        inputs = (x,)
        (window,) = _windows(inputs, sliding_window_shapes, strides)
        with torch.no_grad(), evaluation_mode(self.forward_func, self._preparer.warn):
            try:
                additional = _format_additional_forward_args(additional_forward_args) or ()
                graph = capture(Source(self.forward_func, inputs, 0, additional))
                return self._preparer.plan(graph, window, inputs[0].device).plan
            except CaptureError as error:
                raise InputError(
                    "forward_func", "run as batched full inference", problem=str(error), verb="would be"
                ) from None

    def _question(
        self, inputs: Any, sliding_window_shapes: Shapes, strides: Strides, baselines: Any, additional: Any
    ) -> Question:
        """Arguments checked and in one form, with the user's own answer for the un-occluded inputs."""
        for i, tensor in enumerate(inputs if isinstance(inputs, tuple) else (inputs,)):
            if not isinstance(tensor, Tensor) or tensor.ndim == 0 or tensor.shape[0] == 0:
                given = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise InputError(
                    f"inputs{f'[{i}]' * isinstance(inputs, tuple)}",
                    f"{given}",
                    "a tensor with at least one example, or a tuple of such; what else forward_func takes "
                    "goes into additional_forward_args",
                )
        try:
            tensors, formatted = _format_input_baseline(inputs, _numbers(baselines))
        except (AssertionError, TypeError) as error:
            raise InputError("baselines", f"not of Captum's kinds: {' '.join(str(error).split())}") from None
        if not tensors or len(formatted) != len(tensors):
            raise InputError(
                "inputs",
                f"{len(tensors)} tensors and baselines {len(formatted)}",
                "at least one tensor and a tuple of as many baselines, or None",
                verb="has",
            )
        windows = _windows(tensors, sliding_window_shapes, strides)
        extra = _format_additional_forward_args(additional)
        base = evaluate(self.forward_func, tensors, extra)
        baseline = tuple(_baseline(i, b, x) for i, (b, x) in enumerate(zip(formatted, tensors, strict=True)))
        return Question(self.forward_func, tensors, baseline, windows, extra, base)


def _windows(
    inputs: tuple[Tensor, ...], sliding_window_shapes: Shapes, strides: Strides
) -> tuple[SlidingWindow, ...]:
    if not isinstance(sliding_window_shapes, tuple) or not sliding_window_shapes:
        raise InputError(
            "sliding_window_shapes",
            repr(sliding_window_shapes),
            "a tuple with a size for every dimension of the input but its batch, "
            f"{tuple(inputs[0].shape[1:])}, or a tuple of such for several inputs",
        )
    try:
        steps = _format_and_verify_strides(_sizes(strides), inputs)
        shapes = _format_and_verify_sliding_window_shapes(_sizes(sliding_window_shapes), inputs)
    except (AssertionError, IndexError, TypeError) as error:
        raise InputError(
            "sliding_window_shapes", f"{sliding_window_shapes} and strides {strides}", problem=str(error)
        ) from None
    return tuple(
        SlidingWindow(
            tuple(x.shape[1:]),
            shape,
            (step,) * (x.ndim - 1) if isinstance(step, int) else step,
        )
        for x, shape, step in zip(inputs, shapes, steps, strict=True)
    )


def _sizes(given: Any) -> Any:
    """Integers of any library as Python's, in tuples of tuples; anything else as it is."""
    if isinstance(given, tuple):
        return tuple(_sizes(item) for item in given)
    size = whole(given)
    return given if size is None else size


def _numbers(baselines: Any) -> Any:
    """NumPy's numbers as Python's; anything else as it is."""
    if isinstance(baselines, tuple):
        return tuple(_numbers(item) for item in baselines)
    is_number = isinstance(baselines, (np.generic, np.ndarray)) and baselines.ndim == 0
    return baselines.item() if is_number else baselines


def _baseline(i: int, baseline: Any, x: Tensor) -> Tensor:
    """What replaces the cells of ``x``, of its shape, and of the type that Captum's occluded copies have."""
    try:
        if isinstance(baseline, Tensor):
            return baseline.to(x.device).expand(x.shape)
        exact = torch.float64 if isinstance(baseline, float) else torch.int64
        tensor = torch.tensor(baseline, dtype=exact, device="cpu")
        return tensor.to(torch.result_type(x, baseline)).to(x.device).expand(x.shape)
    except (RuntimeError, ValueError):
        given = f"of shape {tuple(baseline.shape)}" if isinstance(baseline, Tensor) else f"{baseline}"
        raise InputError(
            f"baselines[{i}]", given, f"what fits the input's {tuple(x.shape)}, {x.dtype}"
        ) from None


def _indices(target: Any) -> Any:
    """A target with integers of any library as Python's.

    Raises:
        InputError: It holds a truth value, which selects nothing.
    """
    if isinstance(target, (tuple, list)):
        return type(target)(_indices(item) for item in target)
    if isinstance(target, (bool, np.bool_)) or (isinstance(target, Tensor) and target.dtype == torch.bool):
        raise InputError("target", repr(target), "indices of outputs, or None")
    if isinstance(target, np.ndarray) and target.ndim:
        return _indices(target.tolist())
    index = whole(target)
    return target if index is None else index


def _selected(base: Tensor, target: Any, examples: int) -> Tensor:
    """The target's part of ``base``, or a clear error."""
    try:
        selected: Tensor = _select_targets(base, target)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            "target",
            repr(target),
            problem=f"which does not select from outputs of shape {tuple(base.shape)} for {examples} "
            f"examples: {error}",
        ) from None
    return selected


def _of_example(target: Any, row: int, examples: int) -> Any:
    """The target of one example."""
    if isinstance(target, Tensor):
        return int(target.reshape(-1)[row if target.numel() > 1 else 0])
    if isinstance(target, list) and len(target) == examples:
        return target[row]
    return target


def _softmax(outputs: Tensor) -> Tensor:
    return outputs.softmax(dim=1)


def _activation(activation: Activation) -> Callable[[Tensor], Tensor] | None:
    if isinstance(activation, str) and activation == "softmax":
        return _softmax
    if activation is not None and not callable(activation):
        raise InputError("activation", repr(activation), "None, 'softmax' or a callable")
    return activation


def _plain(target: Any, classes: int | None) -> Any:
    """A target of one example as a tuning keeps it: a number from 0 on, or a tuple."""
    if isinstance(target, Tensor) and target.numel() == 1:
        target = int(target)
    if isinstance(target, list) and len(target) == 1:
        target = target[0]
    return target % classes if isinstance(target, int) and classes else target


def _fingerprint(
    question: Question, row: int, target: Any, activate: Callable[[Tensor], Tensor] | None
) -> Fingerprint:
    """What a tuning for an example holds for."""
    inputs, additional = question.example(row)

    def model(x: Tensor) -> Tensor:
        outputs = evaluate(question.forward_func, (x,), additional or None)
        return outputs if activate is None else activate(outputs)

    return Fingerprint.of(question.windows[0], inputs[0], question.baseline(0, row), target, model)


def _goal(ssim_target: float | None, tuning: Tuning | None, trims: bool = True) -> StoppingRule | None:
    """What to reach; None for the exact map."""
    if ssim_target is None:
        if tuning is not None:
            raise InputError(
                "tuning", "given without ssim_target", problem="the similarity that it is to reach"
            )
        return None
    if tuning is not None and not isinstance(tuning, Tuning):
        raise InputError("tuning", repr(tuning), "what tune returned or Tuning.load read, or None")
    similarity = real(ssim_target) or 0.0
    if not 0 < similarity <= 1:
        raise InputError("ssim_target", repr(ssim_target), "numbers above 0 and at most 1, or None")
    if similarity == 1:
        return None
    return StoppingRule(similarity) if tuning is None else tuning.goal(similarity, trims)


def _check_one_example(x: Any) -> None:
    if not isinstance(x, Tensor) or x.ndim == 0 or x.shape[0] != 1:
        raise InputError(
            "x",
            str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__,
            "one example, a tensor whose first dimension is 1 (attribute takes batches and tuples)",
        )


def _check_callable(name: str, given: Any) -> None:
    if given is not None and not callable(given):
        raise InputError(name, repr(given), "a callable, or None")


def _check_choice(name: str, given: Any, accepted: tuple[str, ...]) -> None:
    if not isinstance(given, str) or given not in accepted:
        raise InputError(name, repr(given), ", ".join(map(repr, accepted)))
