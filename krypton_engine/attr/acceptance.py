"""Comparison of the purpose that a tuning was made for with a call's."""

from __future__ import annotations

from torch import Tensor

from krypton_engine.attr.targets import as_kept, of_example
from krypton_engine.common.calling import Activate, Target
from krypton_engine.common.outputs import activated
from krypton_engine.errors import InputError
from krypton_engine.executors.full import evaluate
from krypton_engine.heatmap.identity import Described, described
from krypton_engine.perturbation.windows import as_sliding
from krypton_engine.planning.question import Question
from krypton_engine.tuning.fingerprint import Fingerprint
from krypton_engine.tuning.tuning import Tuning, in_brief


def fingerprint(question: Question, row: int, target: Target, activate: Activate) -> Fingerprint:
    """The fingerprint of a call on one example, which its tuning has too; the model runs once, on noise.

    Args:
        question: Question that holds the example.
        row: Number of the example.
        target: The target, as a tuning keeps it.
        activate: The activation of the model's outputs.

    Examples:
        >>> from krypton_engine.attr.inputs import question_of
        >>> question = question_of(model, x, (3, 8, 8), (3, 4, 4), baselines=0.5, additional=None)
        >>> found = fingerprint(question, 0, 2, None)
        >>> found.strides, found.baseline, found.target
        ((3, 4, 4), (0.5, 0.5, 0.5), 2)
    """
    inputs, additional = question.example(row)

    def model(x: Tensor) -> Tensor:
        outputs = evaluate(question.forward_func, (x,), additional or None)
        return activated(outputs, activate)

    return Fingerprint.of(
        as_sliding(question.windows[0]), inputs[0], question.baseline(0, row), target, model
    )


def accept(tuning: Tuning, question: Question, target: Target, activate: Activate) -> None:
    """Refuse a tuning that was made for something else: the model, which may have changed, is asked.

    Args:
        tuning: The tuning.
        question: The question that is asked now.
        target: Target of all its examples.
        activate: The activation of the model's outputs.

    Raises:
        InputError: Model, activation, window, baseline or target differ, or there are several inputs.

    Examples:
        >>> from krypton_engine.attr.inputs import question_of
        >>> question = question_of(model, x, (3, 8, 8), (3, 2, 2), baselines=0.5, additional=None)
        >>> accept(tuning, question, None, None)
        Traceback (most recent call last):
        krypton_engine.errors.InputError: tuning is one of 10 images, ...different are ...strides...
    """
    if len(question.inputs) > 1:
        raise InputError(
            "tuning",
            in_brief(tuning),
            f"None for a forward function of {len(question.inputs)} inputs, since a tuning is for one input",
        )
    rows = len(question.inputs[0])
    base = activated(question.base, activate)
    classes = base.shape[1] if base.ndim == 2 else None
    asked = [as_kept(of_example(target, row, rows), classes) for row in range(rows)]
    predicted = [int(out.argmax()) for out in base] if classes else []
    if tuning.fingerprint.target is None and asked == predicted:
        asked = [None] * rows
    checked: list[tuple[Target, Described]] = []
    for row, one in enumerate(asked):
        key = (one, described(question.baseline(0, row)))
        if key not in checked:
            tuning.check(fingerprint(question, row, one, activate))
            checked.append(key)
