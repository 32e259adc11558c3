"""KryptonOcclusion: the surface of ``captum.attr.Occlusion``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from captum._utils.common import (
    _format_additional_forward_args,
    _format_output,
    _format_tensor_into_tuples,
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

from krypton_engine.capture import CaptureError, capture
from krypton_engine.errors import InputError
from krypton_engine.executors import EXECUTORS, Executor
from krypton_engine.executors.full import evaluate
from krypton_engine.heatmap import Heatmap, Recorder
from krypton_engine.plan import Plan
from krypton_engine.prepare import Answer, Disagreement, Preparer, Question, evaluation_mode
from krypton_engine.run import OnProgress, Watch, run
from krypton_engine.schedule import coarse_to_fine, row_by_row
from krypton_engine.windows import SlidingWindow

Shapes = tuple[int, ...] | tuple[tuple[int, ...], ...]
Strides = int | tuple[int, ...] | tuple[int | tuple[int, ...], ...] | None
Activation = Literal["softmax"] | Callable[[Tensor], Tensor] | None


class KryptonOcclusion(Occlusion):
    """``captum.attr.Occlusion``, many times faster: same call, same numbers.

    The un-occluded activations are computed once and kept; for every window only the cells that can change
    are computed again. Any callable that Captum takes is accepted: what cannot be done incrementally runs
    as batched full inference, with one ``FallbackWarning``.

    Args:
        forward_func: The forward function of the model or any modification of it.
        executor: ``"native"`` is the C++ engine, for float32 images on the CPU; ``"reference"`` is PyTorch on
            changed boxes, wherever the model has a graph; ``"auto"`` takes the fastest there is, batched full
            inference where incremental work would not pay.
        memory_budget: Bytes that a call may add to the process: views, folded weights and batches. Outputs
            that the caller asks to keep come on top.

    Raises:
        InputError: An unknown executor, or a budget that is no positive number.

    Examples::

        >>> occlusion = KryptonOcclusion(model)
        >>> attribution = occlusion.attribute(x, (3, 16, 16), strides=(3, 4, 4), target=1)
        >>> heatmap = occlusion.heatmap(x, (3, 16, 16), (3, 4, 4))
        >>> heatmap.save("heatmap.png")
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        executor: Executor = "auto",
        memory_budget: int = 2 * 2**30,
    ) -> None:
        super().__init__(forward_func)
        if executor not in EXECUTORS:
            raise InputError(f"executor is {executor!r}; accepted are {', '.join(map(repr, EXECUTORS))}")
        if not isinstance(memory_budget, (int, float)) or not 0 < memory_budget < math.inf:
            raise InputError(f"memory_budget is {memory_budget!r}; accepted is a positive number of bytes")
        self._preparer = Preparer(executor, int(memory_budget))

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

        Returns:
            Float32 tensor, or tuple of tensors, of the inputs' shapes (one row for every output if there
            are several).

        Raises:
            InputError: An argument that cannot be used; nothing has been computed then.
            OcclusionCancelled: ``on_progress`` returned False; ``.partial`` is the heatmap so far.
        """
        began = time.perf_counter()
        is_tuple = _is_tuple(inputs)
        if perturbations_per_eval is not None and not (
            isinstance(perturbations_per_eval, int) and perturbations_per_eval >= 1
        ):
            raise InputError(
                f"perturbations_per_eval is {perturbations_per_eval!r}; "
                f"accepted are None or an integer of at least 1"
            )
        with torch.no_grad(), evaluation_mode(self.forward_func, self._preparer.warn):
            question = self._question(
                inputs, sliding_window_shapes, strides, baselines, additional_forward_args
            )
            _selected(question.base, target, len(question.inputs[0]))
            inputs_rows = [len(question.inputs[0]) * len(window) for window in question.windows]
            with Watch(sum(inputs_rows), on_progress, show_progress) as watch:
                parts = []
                for i in range(len(question.inputs)):
                    done = watch.done
                    answer = self._preparer.prepare(question, i, perturbations_per_eval)
                    try:
                        part = self._attribution(
                            question, answer, i, target, watch, perturbations_per_eval, began
                        )
                    except Disagreement as reason:  # a later example of the batch
                        watch.rewind(done)
                        answer = self._preparer.full(question, i, perturbations_per_eval, str(reason))
                        part = self._attribution(
                            question, answer, i, target, watch, perturbations_per_eval, began
                        )
                    parts.append(part)
        return _format_output(is_tuple, tuple(parts))

    def _attribution(
        self,
        question: Question,
        answer: Answer,
        occluded: int,
        target: Any,
        watch: Watch,
        per_eval: int | None,
        began: float,
    ) -> Tensor:
        """Attributions of one input over all examples: ``(outputs, *input_shape)``."""
        rows = []
        for row in answer.rows:
            session = answer.open(row)
            mine = target if row is None else _of_example(target, row, len(question.inputs[0]))

            def select(outputs: Tensor, row: int | None = row, mine: Any = mine) -> Tensor:
                if row is None:
                    return torch.stack([_select_targets(out, mine) for out in outputs])
                return _select_targets(outputs, mine)

            x = question.inputs[occluded]
            recorder = Recorder(
                session.window,
                session.base,
                select,
                target=mine,
                image=None if row is None else x[row],
                plan=answer.plan,
                began=began,
            )
            run(session, row_by_row(session.window), recorder, watch, per_eval)
            attribution = recorder.heatmap().attribution()
            rows.append(attribution.reshape(-1, *x.shape[1:]))
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
            schedule: ``"coarse to fine"`` measures every 8th position along each axis first, then halves
                the step; what is computed in the end is the same.
            resume: A heatmap of the same call that was cut short, such as `OcclusionCancelled.partial`:
                what it measured is not computed again, and its seconds count.
            show_progress: Whether to draw a progress bar with the time left.
            on_progress: As in `attribute`.

        Returns:
            The heatmap; see `krypton_engine.Heatmap`.

        Raises:
            InputError: An argument that cannot be used; nothing has been computed then.
            OcclusionCancelled: ``on_progress`` returned False; ``.partial`` is the heatmap so far.
        """
        began = time.perf_counter()
        _check_choice("classes", classes, ("predicted", "all"))
        _check_choice("schedule", schedule, ("rows", "coarse to fine"))
        if not isinstance(x, Tensor) or x.ndim == 0 or x.shape[0] != 1:
            raise InputError(
                f"x is {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}; heatmap takes one "
                f"example, a tensor whose first dimension is 1 (attribute takes batches and tuples)"
            )
        activate = _activation(activation)
        with torch.no_grad(), evaluation_mode(self.forward_func, self._preparer.warn):
            question = self._question(x, sliding_window_shapes, strides, baselines, additional_forward_args)
            if question.base.shape[:1] != (1,):
                raise InputError(
                    f"the forward function returns shape {tuple(question.base.shape)} for one example; "
                    f"heatmap wants one row (attribute takes any output)"
                )
            window = question.windows[0]
            positions = None if region is None else window.touching(region)
            if resume is not None:
                positions = resume.missing(positions)
            stages = {"rows": row_by_row, "coarse to fine": coarse_to_fine}[schedule](window, positions)
            base = question.base if activate is None else activate(question.base)
            if base.shape[:1] != (1,):
                raise InputError(
                    f"activation makes shape {tuple(base.shape)} of {tuple(question.base.shape)}; "
                    f"it must keep the first dimension"
                )
            has_classes = base.ndim == 2 and base.shape[1] > 1
            if target is None and has_classes:
                target = int(base[0].argmax())
            elif target is None and base.ndim == 2:
                target = 0
            _selected(base, target, 1)
            needed = len(window) * base.numel() * base.element_size()
            if classes == "all" and needed > self._preparer.memory_budget:
                raise InputError(
                    f'classes is "all", but {len(window)} positions of {base.numel()} outputs take '
                    f"{needed / 2**20:.0f} MiB, more than memory_budget"
                )
            answer = self._preparer.prepare(question, 0, None)
            session = answer.open(answer.rows[0])
            recorder = Recorder(
                window,
                session.base,
                lambda outputs: _select_targets(outputs, target),
                activate=activate,
                target=target,
                keep_outputs=classes == "all",
                classify=has_classes,
                image=x[0],
                plan=answer.plan,
                began=began,
            )
            if resume is not None:
                recorder.resume(resume)
            with Watch(sum(map(len, stages)), on_progress, show_progress) as watch:
                run(session, stages, recorder, watch)
        return recorder.heatmap()

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
        inputs = _format_tensor_into_tuples(x)
        (window,) = _windows(inputs, sliding_window_shapes, strides)
        with torch.no_grad(), evaluation_mode(self.forward_func, self._preparer.warn):
            try:
                additional = _format_additional_forward_args(additional_forward_args) or ()
                graph = capture(self.forward_func, inputs, 0, additional)
                return self._preparer.plan(graph, window, inputs[0].device).plan
            except CaptureError as error:
                raise InputError(f"the model would run as batched full inference: {error}") from None

    def _question(
        self, inputs: Any, sliding_window_shapes: Shapes, strides: Strides, baselines: Any, additional: Any
    ) -> Question:
        """Arguments checked and in one form, with the user's own answer for the un-occluded inputs."""
        try:
            tensors, formatted = _format_input_baseline(inputs, baselines)
        except (AssertionError, TypeError) as error:
            raise InputError(f"inputs or baselines: {error}") from None
        if not tensors or len(formatted) != len(tensors):
            raise InputError(
                f"inputs has {len(tensors)} tensors and baselines {len(formatted)}; "
                f"accepted are at least one tensor and as many baselines, or none"
            )
        for i, tensor in enumerate(tensors):
            if not isinstance(tensor, Tensor) or tensor.ndim == 0 or tensor.shape[0] == 0:
                given = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise InputError(f"inputs[{i}] is {given}; accepted is a tensor with at least one example")
        windows = _windows(tensors, sliding_window_shapes, strides)
        extra = _format_additional_forward_args(additional)
        base = evaluate(self.forward_func, tensors, extra)
        baseline = tuple(_baseline(i, b, x) for i, (b, x) in enumerate(zip(formatted, tensors, strict=True)))
        return Question(self.forward_func, tensors, baseline, windows, extra, base)


def _windows(
    inputs: tuple[Tensor, ...], sliding_window_shapes: Shapes, strides: Strides
) -> tuple[SlidingWindow, ...]:
    try:
        steps = _format_and_verify_strides(strides, inputs)
        shapes = _format_and_verify_sliding_window_shapes(sliding_window_shapes, inputs)
    except (AssertionError, IndexError, TypeError) as error:
        raise InputError(
            f"sliding_window_shapes {sliding_window_shapes}, strides {strides}: {error}"
        ) from None
    return tuple(
        SlidingWindow(
            tuple(x.shape[1:]),
            shape,
            (step,) * (x.ndim - 1) if isinstance(step, int) else step,
        )
        for x, shape, step in zip(inputs, shapes, steps, strict=True)
    )


def _baseline(i: int, baseline: Any, x: Tensor) -> Tensor:
    tensor = torch.as_tensor(baseline, device=x.device)
    if isinstance(baseline, float) and x.is_floating_point():
        tensor = tensor.to(x.dtype)
    try:
        return tensor.expand(x.shape)
    except RuntimeError:
        raise InputError(
            f"baselines[{i}] has shape {tuple(tensor.shape)}, which does not broadcast to the input's "
            f"{tuple(x.shape)}"
        ) from None


def _selected(base: Tensor, target: Any, examples: int) -> Tensor:
    """The target's part of ``base``, or a clear error."""
    try:
        selected: Tensor = _select_targets(base, target)
    except (AssertionError, IndexError, RuntimeError, TypeError) as error:
        raise InputError(
            f"target is {target!r}, which does not select from outputs of shape {tuple(base.shape)} for "
            f"{examples} examples: {error}"
        ) from None
    return selected


def _of_example(target: Any, row: int, examples: int) -> Any:
    """The target of one example."""
    if isinstance(target, Tensor) and target.numel() > 1:
        return int(target.reshape(-1)[row])
    if isinstance(target, list) and len(target) == examples:
        return target[row]
    return target


def _activation(activation: Activation) -> Callable[[Tensor], Tensor] | None:
    if activation == "softmax":
        return lambda outputs: outputs.softmax(dim=1)
    if activation is not None and not callable(activation):
        raise InputError(f"activation is {activation!r}; accepted are None, 'softmax' or a callable")
    return activation


def _check_choice(name: str, given: Any, accepted: tuple[str, ...]) -> None:
    if given not in accepted:
        raise InputError(f"{name} is {given!r}; accepted are {', '.join(map(repr, accepted))}")
