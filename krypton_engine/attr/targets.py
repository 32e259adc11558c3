"""Targets: which of a forward function's outputs a user asks about."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arguments import whole
from krypton_engine.common.calling import Target
from krypton_engine.common.captum import select_targets
from krypton_engine.errors import InputError


def indices(target: object) -> Any:
    """A target with integers of any library as Python's.

    Raises:
        InputError: A truth value, which selects nothing.

    Examples:
        >>> indices((np.int64(1), torch.tensor(2)))
        (1, 2)
    """
    if isinstance(target, (tuple, list)):
        return type(target)(indices(item) for item in target)
    if isinstance(target, (bool, np.bool_)) or (isinstance(target, Tensor) and target.dtype == torch.bool):
        raise InputError("target", repr(target), "indices of outputs, or None")
    if isinstance(target, np.ndarray) and target.ndim:
        return indices(target.tolist())
    index = whole(target)
    return target if index is None else index


def of_example(target: Target, row: int, examples: int) -> Target:
    """The target of one example out of a batch's.

    Examples:
        >>> of_example([4, 2, 0], 1, examples=3), of_example((0, 7), 1, examples=3)
        (2, (0, 7))
    """
    if isinstance(target, Tensor):
        return int(target.reshape(-1)[row if target.numel() > 1 else 0])
    if isinstance(target, list) and len(target) == examples:
        return target[row]
    return target


def as_kept(target: Target, classes: int | None) -> Target:
    """The target of one example as a tuning keeps it: a number from 0 on, or a tuple.

    Examples:
        >>> as_kept(-1, classes=5), as_kept([3], classes=5)
        (4, 3)
    """
    if isinstance(target, Tensor) and target.numel() == 1:
        target = int(target)
    if isinstance(target, list) and len(target) == 1:
        target = target[0]
    return target % classes if isinstance(target, int) and classes else target


def select(outputs: Tensor, target: Target) -> Tensor:
    """The target's part of outputs ``(n, *output_shape)``, as Captum selects it.

    Examples:
        >>> select(torch.tensor([[0.1, 0.9], [0.2, 0.8]]), 1)
        tensor([0.9000, 0.8000])
    """
    selected: Tensor = select_targets(outputs, target)
    return selected


def selected_of(base: Tensor, target: Target, examples: int) -> Tensor:
    """The target's part of ``base``, or a clear error.

    Examples:
        >>> selected_of(torch.tensor([[0.1, 0.9]]), 1, examples=1)
        tensor([0.9000])
        >>> selected_of(torch.tensor([[0.1, 0.9]]), 2, examples=1)
        Traceback (most recent call last):
        krypton_engine.errors.InputError: target is 2, which does not select from outputs of shape (1, 2) ...
    """
    try:
        return select(base, target)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            "target",
            repr(target),
            problem=f"which does not select from outputs of shape {tuple(base.shape)} for "
            f"{examples} examples: {error}",
        ) from None
