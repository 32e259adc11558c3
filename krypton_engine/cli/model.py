"""The model that a command asks: loading, outputs for a picture, classes by name."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from krypton_engine.cli.text import row
from krypton_engine.common.figures import figure
from krypton_engine.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from krypton_engine.attr.occlusion import KryptonOcclusion
    from krypton_engine.zoo import ZooModel


def load(arguments: argparse.Namespace, weights: str) -> ZooModel:
    """The model that the options name."""
    from krypton_engine import zoo

    return zoo.load_model(
        arguments.model,
        weights=weights,
        size=arguments.size,
        mean=arguments.mean,
        std=arguments.std,
        class_names=arguments.classes,
    )


def outputs_of(model: ZooModel, x: Tensor, name: str) -> Tensor:
    """What the model says of the whole picture: one number a class."""
    import torch

    try:
        with torch.no_grad():
            outputs: Tensor = model.model(x)[0]
    except (Exception, SystemExit) as error:
        raise InputError(
            f"IMAGE {name!r} makes {model.name} fail: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not bool(torch.isfinite(outputs).all()):
        raise InputError(
            f"IMAGE {name!r} makes the model return NaN or infinite numbers, so there is nothing to explain"
        )
    return outputs


def activation_of(arguments: argparse.Namespace, outputs: Tensor) -> str:
    """The name of the activation: as given, else softmax of several outputs."""
    activation: str = arguments.activation or ("softmax" if len(outputs) > 1 else "none")
    if activation == "softmax" and len(outputs) == 1:
        raise InputError("--activation softmax of a single output is always 1; accepted here is none")
    return activation


def hint_probabilities(activation: str, outputs: Tensor) -> None:
    """Print a hint if a softmax is to be applied to what looks like probabilities."""
    from krypton_engine.approximation.compensation import are_probabilities

    if activation == "softmax" and are_probabilities(outputs[None]):
        row("", "(the outputs look like probabilities already: --activation none?)")


def occlusion_of(arguments: argparse.Namespace, model: ZooModel) -> KryptonOcclusion:
    """The engine for a model, as the options want it."""
    from krypton_engine import KryptonOcclusion

    budget = int(arguments.memory_budget * 2**20)
    return KryptonOcclusion(model.model, executor=arguments.executor, memory_budget=budget)


def class_name(model: ZooModel, index: int) -> str:
    """The name of a class, or its number."""
    return f"class {index}" if model.class_names is None else model.class_names[index]


def best_classes(model: ZooModel, scores: Tensor) -> str:
    """The three best classes and their scores."""
    best = scores.topk(min(3, len(scores)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return ", ".join(f"{class_name(model, index)} {figure(value)}" for index, value in pairs)


def target_of(given: str, model: ZooModel, classes: int) -> int:
    """The class that ``--target`` names; a number is an index, from the end if negative."""
    names = model.class_names or []
    folded = [name.casefold() for name in names]
    named = [i for i, name in enumerate(names) if name == given]
    named = named or [i for i, name in enumerate(folded) if name == given.casefold()]
    if len(named) == 1:
        return named[0]
    if named:
        raise InputError(
            f"--target {given!r} is the name of {len(named)} classes of {model.name}; give an index: "
            f"{' or '.join(map(str, named))}"
        )
    try:
        index = int(given)
    except ValueError:
        near = _near(given.casefold(), folded)
        if not names:
            told = "Its classes have no names: give an index"
        elif near and len(names) > FEW_NAMES:
            told = f"Near it: {', '.join(names[i] for i in near)}; or give an index"
        else:
            more = ", ..." * (len(names) > FEW_NAMES)
            told = f"Its classes: {', '.join(names[:FEW_NAMES])}{more}; or an index"
        raise InputError(
            f"--target {given!r} is no class of {model.name}.\n{told} from 0 to {classes - 1}."
        ) from None
    if not -classes <= index < classes:
        raise InputError(f"--target {index} is out of range: {model.name} has classes 0 to {classes - 1}")
    return index % classes


FEW_NAMES = 8  # classes that are listed


def _near(given: str, names: Sequence[str]) -> list[int]:
    """Which names hold the words or, if none does, are spelled nearly so."""
    near = [name for name in names if re.search(rf"\b{re.escape(given)}\b", name)]
    near = near or difflib.get_close_matches(given, names, n=FEW_NAMES, cutoff=0.7)
    return [names.index(name) for name in near[:FEW_NAMES]]
