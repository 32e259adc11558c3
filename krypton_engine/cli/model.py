"""The model that a command asks: loading, outputs for a picture, classes by name."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from krypton_engine.cli.text import row
from krypton_engine.common.figures import figure
from krypton_engine.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from krypton_engine.perturbation.positions import Positions
    from krypton_engine.planning.planner import Preparer
    from krypton_engine.planning.question import Question
    from krypton_engine.zoo import ZooModel


def load(arguments: argparse.Namespace, weights: str) -> ZooModel:
    """The model that the options name.

    Examples:
        >>> options = {"size": 4, "mean": None, "std": None, "classes": None}
        >>> loaded = load(argparse.Namespace(model="torch.nn:Flatten", **options), weights="pretrained")
        >>> loaded.input_shape
        (3, 4, 4)
    """
    from krypton_engine import zoo

    return zoo.load_model(
        arguments.model,
        weights=weights,
        size=arguments.size,
        mean=arguments.mean,
        std=arguments.std,
        class_names=arguments.classes,
    )


def question_of_picture(
    model: ZooModel, x: Tensor, window: Positions, baseline: Tensor, name: str
) -> tuple[Question, Tensor]:
    """The question about a picture, and the model's outputs for the whole picture, one number a class.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window = SlidingWindow((3, 24, 20), (3, 8, 8), (3, 4, 4))
        >>> question, outputs = question_of_picture(zoo_model, x, window, torch.zeros_like(x), "bird.png")
        >>> outputs.shape
        torch.Size([5])
    """
    import torch

    from krypton_engine.attr.inputs import question_over

    with torch.no_grad(), _faults_of(model, name):
        question = question_over(model.model, x, lambda _: (window,), baseline, None)
    return question, _explainable(question.base, name)


@contextmanager
def _faults_of(model: ZooModel, name: str) -> Iterator[None]:
    """Faults of a model on a picture raised as faults of that picture."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            "IMAGE",
            repr(name),
            problem=f"which makes {model.name} fail: {type(error).__name__}: {' '.join(str(error).split())}",
        ) from error


def _explainable(outputs: Tensor, name: str) -> Tensor:
    """The outputs for the one picture, all of them finite."""
    if not bool(outputs.isfinite().all()):
        raise InputError(
            "IMAGE",
            repr(name),
            "a picture for which the model gives finite numbers, to be explained",
            "which makes it return NaN or infinite ones",
        )
    return outputs[0]


def activation_of(arguments: argparse.Namespace, outputs: Tensor) -> str:
    """The name of the activation: the given one, else the usual one of such outputs.

    Examples:
        >>> import torch
        >>> arguments = argparse.Namespace(activation=None)
        >>> [activation_of(arguments, torch.tensor(row)) for row in ([3.0, -1.0], [0.25, 0.75])]
        ['softmax', 'none']
    """
    from krypton_engine.common.outputs import usual_activation

    activation: str = arguments.activation or usual_activation(outputs[None]) or "none"
    if activation == "softmax" and len(outputs) == 1:
        raise InputError("--activation", "softmax of a single output", "none", "which is always 1")
    return activation


def scores_of(outputs: Tensor, activation: str) -> Tensor:
    """Scores of the classes: the outputs for one picture, by an activation that `activation_of` names.

    Examples:
        >>> import torch
        >>> scores_of(torch.zeros(2), "softmax"), scores_of(torch.zeros(2), "none")
        (tensor([0.5000, 0.5000]), tensor([0., 0.]))
    """
    from krypton_engine.attr.checks import softmax

    return softmax(outputs[None])[0] if activation == "softmax" else outputs


def hint_probabilities(activation: str, outputs: Tensor) -> None:
    """Print a hint if a softmax is to be applied to outputs that look like probabilities.

    Examples:
        >>> hint_probabilities("softmax", torch.tensor([0.25, 0.75]))
        (the outputs look like probabilities already: --activation none?)
    """
    from krypton_engine.common.outputs import are_probabilities

    if activation == "softmax" and are_probabilities(outputs[None]):
        row("", "(the outputs look like probabilities already: --activation none?)")


def preparer_of(arguments: argparse.Namespace) -> Preparer:
    """The `Preparer` of sessions that the options ask for.

    Examples:
        >>> preparer_of(argparse.Namespace(executor="auto", memory_budget=0.5)).memory_budget
        524288
    """
    from krypton_engine.planning.planner import Preparer

    return Preparer(arguments.executor, _budget(arguments))


def class_name(model: ZooModel, index: int) -> str:
    """The name of a class, or its number.

    Examples:
        >>> from dataclasses import replace
        >>> class_name(zoo_model, 1), class_name(replace(zoo_model, class_names=None), 1)
        ('dog', 'class 1')
    """
    return f"class {index}" if model.class_names is None else model.class_names[index]


def best_classes(model: ZooModel, scores: Tensor) -> str:
    """The three best classes and their scores.

    Examples:
        >>> best_classes(zoo_model, torch.tensor([0.1, 0.5, 0.0, 0.15, 0.25]))
        'dog 0.5, owl 0.25, hen 0.15'
    """
    best = scores.topk(min(3, len(scores)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return ", ".join(f"{class_name(model, index)} {figure(value)}" for index, value in pairs)


def target_of(given: str, model: ZooModel, classes: int) -> int:
    """The class that ``--target`` names; a number is an index, from the end if negative.

    Examples:
        >>> target_of("Dog", zoo_model, 5), target_of("-1", zoo_model, 5)
        (1, 4)
    """
    names = model.class_names or []
    folded = [name.casefold() for name in names]
    named = [i for i, name in enumerate(names) if name == given]
    named = named or [i for i, name in enumerate(folded) if name == given.casefold()]
    if len(named) == 1:
        return named[0]
    if named:
        raise InputError(
            "--target",
            repr(given),
            f"an index, {' or '.join(map(str, named))}",
            f"the name of {len(named)} classes of {model.name}",
        )
    try:
        index = int(given)
    except ValueError:
        near = _near(given.casefold(), folded)
        if not names:
            accepted = "an index, since its classes have no names, from"
        elif near and len(names) > FEW_NAMES:
            accepted = f"near it, {', '.join(names[i] for i in near)}; or an index from"
        else:
            more = ", ..." * (len(names) > FEW_NAMES)
            accepted = f"its classes, {', '.join(names[:FEW_NAMES])}{more}; or an index from"
        raise InputError(
            "--target", repr(given), f"{accepted} 0 to {classes - 1}", f"which is no class of {model.name}"
        ) from None
    if not -classes <= index < classes:
        raise InputError("--target", f"{index}", f"classes 0 to {classes - 1} of {model.name}")
    return index % classes


FEW_NAMES = 8  # classes that are listed


def _near(given: str, names: Sequence[str]) -> list[int]:
    """Names that hold the words or, if none does, are spelled nearly so."""
    near = [name for name in names if re.search(rf"\b{re.escape(given)}\b", name)]
    near = near or difflib.get_close_matches(given, names, n=FEW_NAMES, cutoff=0.7)
    return [names.index(name) for name in near[:FEW_NAMES]]


def _budget(arguments: argparse.Namespace) -> int | None:
    """Bytes; None for the engine's own choice."""
    return None if arguments.memory_budget is None else int(arguments.memory_budget * 2**20)
