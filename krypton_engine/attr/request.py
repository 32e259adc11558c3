"""Requests: the arguments of every call, checked once, as values that the rest relies on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from krypton_engine.attr.acceptance import accept
from krypton_engine.attr.checks import (
    Activation,
    activation_of,
    check_callable,
    check_choice,
    check_one_example,
    rule_of,
    softmax,
)
from krypton_engine.attr.features import regions_in
from krypton_engine.attr.inputs import (
    Shapes,
    Strides,
    question_of,
    question_over,
    questions_filled,
    windows_of,
)
from krypton_engine.attr.targets import indices, of_example, selected_of
from krypton_engine.common.arguments import whole
from krypton_engine.common.arrays import IntArray
from krypton_engine.common.calling import Activate, Baseline, Baselines, Forward, Target
from krypton_engine.common.figures import mebibytes
from krypton_engine.common.outputs import activated
from krypton_engine.errors import InputError
from krypton_engine.executors.full import as_numbers
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.fillings import Filling, filling_of
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.regions import Regions
from krypton_engine.planning.question import Question
from krypton_engine.run.adaptive import StoppingRule
from krypton_engine.tuning.tuning import Tuning, in_brief

Fillings = Baselines | str | Filling | list[Baseline | str | Filling]
"""Values that replace covered cells: Captum's kinds, a word, a filling, or several, which are averaged."""

Schedule = Literal["rows", "coarse to fine"]


@dataclass(frozen=True)
class AttributionRequest:
    """The checked arguments of `KryptonOcclusion.attribute`.

    Attributes:
        question: The question to the forward function.
        target: Index of the outputs that are explained, for all examples.
        rule: Stopping rule of the maps; None for exact maps.
        per_evaluation: Largest number of positions computed together; None for the planner's choice.
        alone: Whether the example has positions of its own, other than the rest of its batch.
    """

    question: Question
    target: Target
    rule: StoppingRule | None
    per_evaluation: int | None
    alone: bool = False

    def of_row(self, row: int, windows: tuple[Positions, ...]) -> AttributionRequest:
        """The request for one example of a batch, with positions of its own.

        Examples:
            >>> halves, thirds = (Regions.of(torch.arange(20) // n, (3, 24, 20)) for n in (10, 7))
            >>> request = ablation_request(model, torch.cat([x, x]), (halves,), 0.5, [2, 4], None, None)
            >>> alone = request.of_row(1, (thirds,))
            >>> alone.target, alone.question.inputs[0].shape, len(alone.question.windows[0])
            (4, torch.Size([1, 3, 24, 20]), 3)
        """
        question = self.question
        inputs, additional = question.example(row)
        mine = replace(
            question,
            inputs=inputs,
            baselines=tuple(question.baseline(i, row) for i in range(len(inputs))),
            windows=windows,
            additional=additional or None,
            base=question.base[row : row + 1],
        )
        target = of_example(self.target, row, len(question.inputs[0]))
        return replace(self, question=mine, target=target, alone=True)


@dataclass(frozen=True)
class MapRequest:
    """The checked arguments of a heatmap.

    Attributes:
        question: The question to the forward function, about one example.
        activate: The function applied to its outputs.
        target: Index of the outputs that are explained.
        shape: Shape of the explained values; empty for one number.
        wanted: Positions of the map that are asked for: ``(n,)``, int64.
        classes: Number of classes, if the outputs are one row of them.
        keep_outputs: Whether to keep all outputs.
        schedule: The order of positions of an exact map.
        rule: Stopping rule of the map; None for the exact one.
        known: A part of the map that was measured before.
        fills: Whether positions that are not measured are interpolated.
        analyze: Whether every step is timed.
        further: The same question for every further sample of a filling.
        filled: The filling in words; empty for a baseline.
        keep_samples: Whether to keep the target's values of every sample.
    """

    question: Question
    activate: Activate
    target: Target
    shape: tuple[int, ...]
    wanted: IntArray
    classes: int | None
    keep_outputs: bool
    schedule: Schedule = "rows"
    rule: StoppingRule | None = None
    known: Heatmap | None = None
    fills: bool = False
    analyze: bool = False
    further: tuple[Question, ...] = ()
    filled: str = ""
    keep_samples: bool = False

    def wants_one_number(self) -> None:
        """Refuse a target of several values, whose maps have no SSIM.

        Raises:
            InputError: The target has several values.

        Examples:
            >>> def mean(images):
            ...     return images.mean(3)  # (1, 3, 24)
            >>> question = question_of(mean, x, (3, 8, 8), (3, 4, 4), baselines=0.0, additional=None)
            >>> map_request(question, target=(2, 7), activate=None).wants_one_number()
            >>> map_request(question, target=2, activate=None).wants_one_number()
            Traceback (most recent call last):
            krypton_engine.errors.InputError: target is 2, which selects values of shape (24,); accepted: ...
        """
        if self.shape:
            raise InputError(
                "target",
                repr(self.target),
                "with ssim_target or tune, targets that are one number",
                f"which selects values of shape {self.shape}",
            )


def attribution_request(
    forward_func: Forward,
    inputs: Tensor | tuple[Tensor, ...],
    sliding_window_shapes: Shapes,
    strides: Strides,
    baselines: Baselines,
    target: Target,
    additional: object,
    perturbations_per_eval: int | None,
    on_progress: object,
    ssim_target: float | None,
    tuning: Tuning | None,
) -> AttributionRequest:
    """The arguments of `KryptonOcclusion.attribute`, checked; the model is asked about the inputs themselves.

    Raises:
        InputError: An argument that cannot be used.

    Examples:
        >>> arguments = model, x, (3, 8, 8), (3, 4, 4), 0.5, 2, None, 4, None, None, None
        >>> request = attribution_request(*arguments)
        >>> request.question.windows[0].grid_shape, request.target, request.per_evaluation
        ((5, 4), 2, 4)
    """
    per_evaluation = _per_evaluation(perturbations_per_eval)
    target = indices(target)
    check_callable("on_progress", on_progress)
    rule = rule_of(ssim_target, tuning)
    question = question_of(forward_func, inputs, sliding_window_shapes, strides, baselines, additional)
    examples = len(question.inputs[0])
    if rule is not None and target is None and question.base.shape[1:] == (1,):
        target = 0
    selected = selected_of(question.base, target, examples)
    if rule is not None and selected.shape != (examples,):
        raise InputError(
            "target",
            repr(target),
            "with ssim_target, targets with one number for every example",
            f"which selects values of shape {tuple(selected.shape)}",
        )
    if tuning is not None:
        accept(tuning, question, target, None)
    return AttributionRequest(question, target, rule, per_evaluation)


def ablation_request(
    forward_func: Forward,
    inputs: Tensor | tuple[Tensor, ...],
    regions: tuple[Regions, ...],
    baselines: Baselines,
    target: Target,
    additional: object,
    perturbations_per_eval: int | None,
) -> AttributionRequest:
    """The arguments of `KryptonFeatureAblation.attribute`, checked; the model is asked about the inputs.

    Raises:
        InputError: An argument that cannot be used.

    Examples:
        >>> halves = Regions.of((torch.arange(20) // 10), (3, 24, 20))
        >>> request = ablation_request(model, x, (halves,), 0.5, 2, None, None)
        >>> len(request.question.windows[0]), request.target
        (2, 2)
    """
    per_evaluation, target = _per_evaluation(perturbations_per_eval), indices(target)
    question = question_over(forward_func, inputs, lambda _: regions, baselines, additional)
    selected_of(question.base, target, len(question.inputs[0]))
    return AttributionRequest(question, target, None, per_evaluation)


def _per_evaluation(given: int | None) -> int | None:
    """The largest number of positions to compute together; None for the planner's choice."""
    count = None if given is None else whole(given) or 0
    if count is not None and count < 1:
        raise InputError("perturbations_per_eval", repr(given), "None or an integer of at least 1")
    return count


def heatmap_request(
    forward_func: Forward,
    x: Tensor,
    sliding_window_shapes: tuple[int, ...] | None,
    strides: int | tuple[int, ...] | None,
    baselines: Fillings,
    target: Target,
    additional: object,
    activation: Activation,
    budget: Callable[[torch.device], int],
    *,
    regions: Tensor | None = None,
    region: Tensor | Sequence[int] | None = None,
    classes: str = "predicted",
    schedule: Schedule = "rows",
    resume: Heatmap | None = None,
    on_progress: object = None,
    ssim_target: float | None = None,
    tuning: Tuning | None = None,
    analyze: bool = False,
    keep_samples: bool = False,
) -> MapRequest:
    """The arguments of `KryptonOcclusion.heatmap`, checked; the model is asked about the image itself.

    ``budget`` says how many bytes a call may take on a device.

    Raises:
        InputError: An argument that cannot be used.

    Examples:
        >>> arguments = model, x, (3, 8, 8), (3, 4, 4), 0.5, 2, None, "softmax", lambda device: 2**30
        >>> request = heatmap_request(*arguments, region=(0, 0, 8, 4), ssim_target=0.9)
        >>> request.wanted.tolist(), request.classes, request.rule.ssim_target
        ([0, 4], 5, 0.9)
    """
    check_choice("classes", classes, ("predicted", "all"))
    check_choice("schedule", schedule, ("rows", "coarse to fine"))
    check_callable("on_progress", on_progress)
    if resume is not None and not isinstance(resume, Heatmap):
        raise InputError("resume", repr(resume), "a heatmap of the same call, or None")
    # Of the outputs that are kept only the target's could be compensated for what trimming drops.
    rule = rule_of(ssim_target, tuning, trims=classes != "all")
    check_one_example(x)
    activate, target = activation_of(activation), indices(target)
    filling = filling_of(baselines) if isinstance(baselines, (str, list, Filling)) else None
    question = question_over(
        forward_func,
        x,
        lambda inputs: (_positions(inputs[0], sliding_window_shapes, strides, regions, schedule, rule),),
        baselines if filling is None else None,  # type: ignore[arg-type]
        additional,
    )
    if filling is not None and tuning is not None:
        raise InputError("tuning", in_brief(tuning), "None with a filling: a tuning is for one baseline")

    def ask(one: Question) -> MapRequest:
        return map_request(one, target, activate, region, classes == "all", schedule, rule, tuning, resume)

    request = ask(question) if filling is None else request_filled(question, filling, ask)
    if keep_samples and not request.further:
        raise InputError("keep_samples", "True", "fillings of several samples", "but baselines has one")
    if analyze and request.further:
        raise InputError("analyze", "True", "False with a filling of several samples, each a run of its own")
    request = replace(request, analyze=bool(analyze), keep_samples=bool(keep_samples))
    if request.keep_outputs or (request.further and request.classes is not None):
        _check_kept(request, budget(x.device))
    return request


def request_filled(question: Question, filling: Filling, ask: Callable[[Question], MapRequest]) -> MapRequest:
    """The request for a map of which a filling covers the positions.

    Args:
        question: The question, with any baseline.
        filling: The filling.
        ask: Function that makes the request of one sample's question.

    Raises:
        InputError: The filling does not fit, or has several samples where one is wanted.

    Examples:
        >>> from krypton_engine.perturbation.fillings import Noise
        >>> question = question_of(model, x, (3, 8, 8), (3, 4, 4), baselines=None, additional=None)
        >>> request = request_filled(question, Noise(samples=3), lambda one: map_request(one, 2, None))
        >>> len(request.further), request.filled
        (2, 'noise, 3 samples, seed 0')
    """
    first, *further = questions_filled(question, filling)
    request = ask(first)
    for name, given in (("ssim_target", request.rule), ("resume", request.known)):
        if further and given is not None:
            raise InputError(
                name, "given", "None with a filling of several samples", f"and this one has {filling.samples}"
            )
    return replace(request, further=tuple(further), filled=filling.describe())


def _positions(
    x: Tensor,
    sliding_window_shapes: tuple[int, ...] | None,
    strides: int | tuple[int, ...] | None,
    regions: Tensor | None,
    schedule: Schedule,
    rule: StoppingRule | None,
) -> Positions:
    """The positions that a call asks for: those of a window, or the regions of a mask."""
    if regions is None:
        return windows_of((x,), sliding_window_shapes, strides)[0]  # type: ignore[arg-type]
    for name, sizes in (("sliding_window_shapes", sliding_window_shapes), ("strides", strides)):
        if sizes is not None:
            raise InputError(name, repr(sizes), "None with regions, which are covered one by one")
    found = regions_in(regions, x, "regions")
    if rule is None and schedule == "rows":
        return found
    if found.grid is None:
        name, given = ("schedule", repr(schedule)) if rule is None else ("ssim_target", f"{rule.ssim_target}")
        raise InputError(
            name, given, "regions that are equal boxes side by side, numbered row by row",
            "but these regions have no neighbourhood in which a value could be told from others",
        )  # fmt: skip
    return found.grid


def map_request(
    question: Question,
    target: Target,
    activate: Activate,
    region: Tensor | Sequence[int] | None = None,
    keep_outputs: bool = False,
    schedule: Schedule = "rows",
    rule: StoppingRule | None = None,
    tuning: Tuning | None = None,
    known: Heatmap | None = None,
) -> MapRequest:
    """The request for a heatmap, given a question that the model has answered for the whole image.

    Args:
        question: About one example.
        target: Index of the outputs; None for the predicted class.
        activate: The function applied to the outputs.
        region: Cells that positions have to touch.
        keep_outputs: Whether to keep all outputs.
        schedule: The order of positions of an exact map.
        rule: Stopping rule of the map.
        tuning: Tuning that the rule comes from.
        known: A part of the map that was measured before.

    Raises:
        InputError: Activation, target, region, tuning or known part do not fit the model's answer.

    Examples:
        >>> question = question_of(model, x, (3, 8, 8), (3, 4, 4), baselines=0.5, additional=None)
        >>> map_request(question, None, None).target == int(question.base.argmax())
        True
    """
    base = activated_row(question.base, activate)
    has_classes = base.ndim == 2 and base.shape[1] > 1
    if target is None and base.ndim == 2:
        target = int(base[0].argmax())
    selected = selected_of(base, target, 1)
    window = question.windows[0]
    wanted = np.arange(len(window), dtype=np.int64) if region is None else window.touching(region)
    request = MapRequest(
        question,
        activate,
        of_example(target, 0, 1),
        tuple(selected.shape[1:]),
        wanted,
        base.shape[1] if has_classes else None,
        keep_outputs,
        schedule,
        rule,
        known,
        fills=rule is not None,
    )
    if rule is not None:
        request.wants_one_number()
    if tuning is not None:
        _accept_for_map(tuning, request, region is not None)
    if known is not None and known.window != window.plain:
        raise InputError(
            "resume", repr(known), problem=f"a map of other positions, {known.window.describe()}"
        )
    return request


def _check_kept(request: MapRequest, budget: int) -> None:
    """Refuse outputs that take more memory than a call may."""
    base = activated(request.question.base, request.activate)
    count = len(request.question.windows[0])
    needed = count * base.numel() * base.element_size()
    if needed > budget:
        raise InputError(
            *(("classes", '"all"') if request.keep_outputs else ("baselines", request.filled)),
            problem=f"but {count} positions of {base.numel()} outputs take "
            f"{mebibytes(needed)}, more than memory_budget",
        )


def _accept_for_map(tuning: Tuning, request: MapRequest, has_region: bool) -> None:
    if has_region:
        raise InputError(
            "tuning",
            in_brief(tuning),
            "None with region, since a tuning is for whole maps",
        )
    if request.known is not None and request.rule is not None:
        raise InputError(
            "tuning",
            in_brief(tuning),
            "None with resume, since a tuning is for maps from their first position on",
        )
    accept(tuning, request.question, request.target, request.activate)


def activated_row(base: Tensor, activate: Activate) -> Tensor:
    """The activated outputs for one example: one row.

    Raises:
        InputError: Other outputs, or an activation that does not fit them.

    Examples:
        >>> activated_row(torch.tensor([[0.0, 0.0]]), softmax)
        tensor([[0.5000, 0.5000]])
        >>> activated_row(torch.tensor([[3.0]]), softmax)
        Traceback (most recent call last):
        krypton_engine.errors.InputError: activation is 'softmax', which makes 1 of a single output...
    """
    if base.shape[:1] != (1,):
        raise InputError(
            "forward_func",
            f"shape {tuple(base.shape)} for one example",
            "for a heatmap, one row (attribute takes any output)",
            verb="returns",
        )
    if activate is softmax and (base.ndim < 2 or base.shape[1] < 2):
        raise InputError(
            "activation",
            "'softmax'",
            "torch.sigmoid, say, or None",
            f"which makes 1 of a single output, and the outputs have shape {tuple(base.shape)}",
        )
    row = as_numbers("activation", activated(base, activate))
    if row.shape[:1] != (1,):
        raise InputError(
            "activation",
            f"shape {tuple(row.shape)} of {tuple(base.shape)}",
            "what keeps the first dimension",
            verb="makes",
        )
    return row
