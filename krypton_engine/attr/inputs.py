"""Inputs, windows and baselines in the forms that Captum gives them.

Captum's private helpers are those of `krypton_engine.common.captum`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from krypton_engine.attr.checks import python_numbers, python_sizes, shape_or_type
from krypton_engine.common.calling import Baseline, Baselines, Forward
from krypton_engine.common.captum import (
    format_additional_forward_args,
    format_and_verify_sliding_window_shapes,
    format_and_verify_strides,
    format_input_baseline,
)
from krypton_engine.errors import InputError
from krypton_engine.executors.full import evaluate
from krypton_engine.perturbation.changed import Filled
from krypton_engine.perturbation.fillings import Filling, filled_boxes
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.planning.question import Question

Shapes = tuple[int, ...] | tuple[tuple[int, ...], ...]
Strides = int | tuple[int, ...] | tuple[int | tuple[int, ...], ...] | None


def additional_arguments(given: object) -> tuple[object, ...] | None:
    """Further arguments of a forward function, in a tuple; None if there are none.

    Examples:
        >>> additional_arguments(0.5), additional_arguments((0.5, "mean")), additional_arguments(None)
        ((0.5,), (0.5, 'mean'), None)
    """
    arguments: tuple[object, ...] | None = format_additional_forward_args(given)
    return arguments


def windows_of(
    inputs: tuple[Tensor, ...], sliding_window_shapes: Shapes, strides: Strides
) -> tuple[SlidingWindow, ...]:
    """The sliding window over each input.

    Raises:
        InputError: Sizes that fit no input.

    Examples:
        >>> (window,) = windows_of((torch.zeros(1, 3, 24, 20),), (3, 8, 8), (3, 4, 4))
        >>> window.counts
        (1, 5, 4)
    """
    if not isinstance(sliding_window_shapes, tuple) or not sliding_window_shapes:
        raise InputError(
            "sliding_window_shapes",
            repr(sliding_window_shapes),
            f"a tuple with a size for every dimension of the input but its batch, "
            f"{tuple(inputs[0].shape[1:])}, or a tuple of such for several inputs",
        )
    try:
        steps = format_and_verify_strides(python_sizes(strides), inputs)
        shapes = format_and_verify_sliding_window_shapes(python_sizes(sliding_window_shapes), inputs)
    except (AssertionError, IndexError, TypeError) as error:
        raise InputError(
            "sliding_window_shapes", f"{sliding_window_shapes} and strides {strides}", problem=str(error)
        ) from None
    return tuple(
        SlidingWindow(tuple(x.shape[1:]), shape, (step,) * (x.ndim - 1) if isinstance(step, int) else step)
        for x, shape, step in zip(inputs, shapes, steps, strict=True)
    )


def question_of(
    forward_func: Forward,
    inputs: Tensor | tuple[Tensor, ...],
    sliding_window_shapes: Shapes,
    strides: Strides,
    baselines: Baselines,
    additional: object,
) -> Question:
    """Tensors, windows and baselines in one form, with the model's own answer for the un-occluded inputs.

    The question keeps no autograd graph of its tensors.

    Raises:
        InputError: An argument that cannot be used.

    Examples:
        >>> question = question_of(model, x, (3, 8, 8), (3, 4, 4), baselines=0.5, additional=None)
        >>> question.base.shape, float(question.baseline(0, row=0).mean())
        (torch.Size([1, 5]), 0.5)
    """
    return question_over(
        forward_func,
        inputs,
        lambda tensors: windows_of(tensors, sliding_window_shapes, strides),
        baselines,
        additional,
    )


def question_over(
    forward_func: Forward,
    inputs: Tensor | tuple[Tensor, ...],
    positions: Callable[[tuple[Tensor, ...]], tuple[Positions, ...]],
    baselines: Baselines,
    additional: object,
) -> Question:
    """As `question_of`, for any positions over the inputs.

    Args:
        forward_func: The forward function.
        inputs: Its inputs.
        positions: Function from the inputs, in a tuple, to the positions over each.
        baselines: Values that replace covered cells, in one of Captum's forms.
        additional: Further arguments of the forward function.

    Raises:
        InputError: An argument that cannot be used.

    Examples:
        >>> from krypton_engine.perturbation.regions import Regions
        >>> halves = Regions.of((torch.arange(20) // 10), (3, 24, 20))
        >>> question = question_over(model, x, lambda inputs: (halves,), baselines=0.0, additional=None)
        >>> len(question.windows[0])
        2
    """
    for i, tensor in enumerate(inputs if isinstance(inputs, tuple) else (inputs,)):
        if not isinstance(tensor, Tensor) or tensor.ndim == 0 or tensor.shape[0] == 0:
            raise InputError(
                f"inputs[{i}]" if isinstance(inputs, tuple) else "inputs",
                shape_or_type(tensor),
                "a tensor with at least one example, or a tuple of such; what else forward_func takes goes "
                "into additional_forward_args",
            )
    try:
        tensors, formatted = format_input_baseline(inputs, python_numbers(baselines))
    except (AssertionError, TypeError) as error:
        said = " ".join(str(error).split())
        raise InputError("baselines", shape_or_type(baselines), f"Captum's kinds ({said})") from None
    if not tensors or len(formatted) != len(tensors):
        raise InputError(
            "inputs",
            f"{len(tensors)} tensors and baselines {len(formatted)}",
            "at least one tensor and a tuple of as many baselines, or None",
            verb="has",
        )
    tensors = tuple(x.detach() for x in tensors)  # maps outlive the call, and their questions with them
    extra = _detached(additional_arguments(additional))
    windows = positions(tensors)
    base = evaluate(forward_func, tensors, extra)
    filled = tuple(_baseline(i, b, x) for i, (b, x) in enumerate(zip(formatted, tensors, strict=True)))
    return Question(forward_func, tensors, filled, windows, extra, base)


def check_rows(base: Tensor, inputs: Tensor) -> None:
    """Refuse outputs that are not one row for every example, where examples are explained one by one.

    Raises:
        InputError: Other outputs.

    Examples:
        >>> check_rows(torch.zeros(2, 5), torch.zeros(2, 3, 8, 8))
        >>> check_rows(torch.zeros(()), torch.zeros(2, 3, 8, 8))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: forward_func returns shape () for 2 examples; accepted: one row ...
    """
    if base.shape[:1] != inputs.shape[:1]:
        given = f"shape {tuple(base.shape)} for {len(inputs)} examples"
        raise InputError("forward_func", given, "one row for every example", verb="returns")


def questions_filled(question: Question, filling: Filling) -> tuple[Question, ...]:
    """A question about one example for every sample of a filling.

    Where there are several, each names the contents of all boxes, so that one session answers them all.

    Examples:
        >>> from krypton_engine.perturbation.fillings import Noise
        >>> question = question_of(model, x, (3, 8, 8), (3, 4, 4), baselines=None, additional=None)
        >>> first, second = questions_filled(question, Noise(samples=2))
        >>> torch.equal(first.at(0, 0, position=3)[0], second.at(0, 0, position=3)[0])
        False
    """
    (window,) = question.windows
    plain = window.plain
    assert isinstance(plain, (SlidingWindow, Regions))

    def one(sample: int) -> Question:
        made = filling.fill(question.inputs[0], plain, sample)
        if isinstance(made, Tensor) and filling.samples == 1:
            return replace(question, baselines=(made,))
        return replace(question, windows=(Filled(plain, partial(filled_boxes, made)),))

    return tuple(map(one, range(filling.samples)))


def _detached(additional: tuple[object, ...] | None) -> tuple[object, ...] | None:
    """Further arguments, the tensors among them without their autograd graph."""
    if additional is None:
        return None
    return tuple(each.detach() if isinstance(each, Tensor) else each for each in additional)


def _baseline(i: int, baseline: Baseline, x: Tensor) -> Tensor:
    """The values that replace the cells of ``x``, in its shape and in the type of Captum's copies."""
    try:
        if isinstance(baseline, Tensor):
            return baseline.detach().to(x.device).expand(x.shape)
        exact = torch.float64 if isinstance(baseline, float) else torch.int64
        tensor = torch.tensor(baseline, dtype=exact, device="cpu")
        return tensor.to(torch.result_type(x, baseline)).to(x.device).expand(x.shape)
    except (RuntimeError, ValueError):
        given = f"of shape {tuple(baseline.shape)}" if isinstance(baseline, Tensor) else f"{baseline}"
        raise InputError(
            f"baselines[{i}]", given, f"what fits the input's {tuple(x.shape)}, {x.dtype}"
        ) from None
