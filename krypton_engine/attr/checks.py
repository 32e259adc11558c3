"""Arguments that need no model to be checked: choices, numbers, callables, stopping rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from torch import Tensor

from krypton_engine.common.arguments import real, whole
from krypton_engine.common.calling import Activate
from krypton_engine.errors import InputError
from krypton_engine.executors.registry import EXECUTORS
from krypton_engine.run.adaptive import StoppingRule
from krypton_engine.tuning.tuning import Tuning, in_brief

Activation = Literal["softmax"] | Callable[[Tensor], Tensor] | None


def memory_budget_of(forward_func: object, executor: object, memory_budget: object) -> int | None:
    """Bytes that a call may take, None for the planner's choice; the other arguments are checked with it.

    Raises:
        InputError: The function is no callable, the executor unknown, or the budget no positive number.

    Examples:
        >>> memory_budget_of(model, "auto", 2**30), memory_budget_of(model, "auto", None)
        (1073741824, None)
    """
    if not callable(forward_func):
        raise InputError("forward_func", repr(forward_func), "a model, or another callable")
    check_choice("executor", executor, EXECUTORS)
    if memory_budget is None:
        return None
    budget = real(memory_budget) or 0.0
    if not 0 < budget < math.inf:
        raise InputError("memory_budget", repr(memory_budget), "a positive number of bytes, or None")
    return int(budget)


def check_callable(name: str, given: object) -> None:
    """Refuse an argument that cannot be called.

    Raises:
        InputError: The argument is neither a callable nor None.

    Examples:
        >>> check_callable("on_progress", print)
        >>> check_callable("on_progress", 3)
        Traceback (most recent call last):
        krypton_engine.errors.InputError: on_progress is 3; accepted: a callable, or None
    """
    if given is not None and not callable(given):
        raise InputError(name, repr(given), "a callable, or None")


def check_one_example(x: object) -> None:
    """Refuse an argument that is no tensor of one example.

    Raises:
        InputError: The argument is no tensor, or its first dimension is not 1.

    Examples:
        >>> check_one_example(torch.zeros(1, 3, 8, 8))
        >>> check_one_example(torch.zeros(2, 3, 8, 8))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: x is (2, 3, 8, 8); accepted: one example, ...
    """
    if not isinstance(x, Tensor) or x.ndim == 0 or x.shape[0] != 1:
        raise InputError(
            "x",
            shape_or_type(x),
            "one example, a tensor whose first dimension is 1 (attribute takes batches and tuples)",
        )


def check_choice(name: str, given: object, accepted: tuple[str, ...]) -> None:
    """Refuse an argument that is none of a few words.

    Raises:
        InputError: The argument is another word, or none.

    Examples:
        >>> check_choice("schedule", "random", ("rows", "coarse to fine"))
        Traceback (most recent call last):
            ...
        krypton_engine.errors.InputError: schedule is 'random'; accepted: 'rows', 'coarse to fine'
    """
    if not isinstance(given, str) or given not in accepted:
        raise InputError(name, repr(given), ", ".join(map(repr, accepted)))


def activation_of(activation: Activation) -> Activate:
    """The function that an activation names.

    Raises:
        InputError: The activation is neither a known name nor a callable.

    Examples:
        >>> activation_of("softmax") is softmax, activation_of(torch.sigmoid) is torch.sigmoid
        (True, True)
    """
    if isinstance(activation, str) and activation == "softmax":
        return softmax
    if activation is not None and not callable(activation):
        raise InputError("activation", repr(activation), "None, 'softmax' or a callable")
    return activation


def softmax(outputs: Tensor) -> Tensor:
    """Probabilities of outputs ``(n, classes, ...)``.

    Examples:
        >>> softmax(torch.zeros(1, 4))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return outputs.softmax(dim=1)


def rule_of(ssim_target: float | None, tuning: Tuning | None, trims: bool = True) -> StoppingRule | None:
    """The stopping rule for an SSIM target and a tuning; None for the exact map.

    Raises:
        InputError: The target is no similarity, or a tuning is given without one.

    Examples:
        >>> rule_of(0.9, None).ssim_target, rule_of(1.0, None)
        (0.9, None)
    """
    if tuning is not None and not isinstance(tuning, Tuning):
        raise InputError("tuning", repr(tuning), "what tune returned or Tuning.load read, or None")
    if ssim_target is None:
        if tuning is not None:
            raise InputError(
                "tuning",
                in_brief(tuning),
                "None without ssim_target, the similarity that a tuning is to reach",
            )
        return None
    similarity = real(ssim_target) or 0.0
    if not 0 < similarity <= 1:
        raise InputError("ssim_target", repr(ssim_target), "numbers above 0 and at most 1, or None")
    if similarity == 1:
        return None
    return StoppingRule(similarity, drift=trims) if tuning is None else tuning.goal(similarity, trims)


def python_sizes(given: object) -> object:
    """Integers of any library as Python's, in tuples of tuples; anything else as it is.

    Examples:
        >>> python_sizes((np.int64(3), (torch.tensor(8), 8)))
        (3, (8, 8))
    """
    if isinstance(given, tuple):
        return tuple(python_sizes(item) for item in given)
    size = whole(given)
    return given if size is None else size


def python_numbers(baselines: object) -> object:
    """NumPy's numbers as Python's; anything else as it is.

    Examples:
        >>> python_numbers((np.float32(0.5), 0))
        (0.5, 0)
    """
    if isinstance(baselines, tuple):
        return tuple(python_numbers(item) for item in baselines)
    if isinstance(baselines, (np.generic, np.ndarray)) and baselines.ndim == 0:
        return baselines.item()
    return baselines


def shape_or_type(given: object) -> str:
    """A tensor's shape, or the type of anything else, for messages.

    Examples:
        >>> shape_or_type(torch.zeros(2, 3)), shape_or_type("grey")
        ('(2, 3)', 'str')
    """
    return str(tuple(given.shape)) if isinstance(given, Tensor) else type(given).__name__
