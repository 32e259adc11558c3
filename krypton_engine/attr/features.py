"""Feature masks of users: checked, and taken apart into regions of every input."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from krypton_engine.attr.checks import shape_or_type
from krypton_engine.common.captum import format_feature_mask
from krypton_engine.errors import InputError
from krypton_engine.perturbation.regions import Regions, whole_numbers


def masks_of(feature_mask: object, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A mask for every input, as Captum makes them of a user's.

    Args:
        feature_mask: A tensor, a tuple of as many as there are inputs, or None: every element is a feature.
        inputs: The inputs.

    Raises:
        InputError: Other things, or masks that do not fit.

    Examples:
        >>> [mask.tolist() for mask in masks_of(None, (torch.zeros(2, 2), torch.zeros(2, 3)))]
        [[[0, 1]], [[2, 3, 4]]]
    """
    given = feature_mask if isinstance(feature_mask, tuple) else (feature_mask,)
    if feature_mask is not None and not all(isinstance(mask, Tensor) for mask in given):
        raise InputError("feature_mask", shape_or_type(feature_mask), "a tensor, a tuple of them, or None")
    masks: tuple[Tensor, ...] = format_feature_mask(feature_mask, inputs)
    if len(masks) != len(inputs):
        raise InputError("feature_mask", f"{len(masks)} masks", f"one for each of {len(inputs)} inputs")
    numbers = []
    for i, (mask, x) in enumerate(zip(masks, inputs, strict=True)):
        name = f"feature_mask[{i}]" if isinstance(feature_mask, tuple) else "feature_mask"
        shape = (1,) * (x.ndim - mask.ndim) + tuple(mask.shape)
        if len(shape) != x.ndim or not all(m in (1, n) for m, n in zip(shape, x.shape, strict=True)):
            accepted = f"a shape that broadcasts to the input's, {tuple(x.shape)}"
            raise InputError(name, f"shape {tuple(mask.shape)}", accepted, verb="has")
        numbers.append(whole_numbers(mask, name))
    return tuple(numbers)


def of_several_inputs(masks: tuple[Tensor, ...]) -> list[int]:
    """Features that lie in several inputs, and are covered together.

    Examples:
        >>> of_several_inputs((torch.tensor([0, 1, 1]), torch.tensor([1, 2])))
        [1]
    """
    counts = Counter(int(number) for mask in masks for number in torch.unique(mask))
    return sorted(number for number, count in counts.items() if count > 1)


def differ_by_example(masks: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> bool:
    """Whether a mask has a row for every example, and they are not all the same.

    Examples:
        >>> x = torch.zeros(2, 3)
        >>> [differ_by_example((torch.tensor(mask),), (x,)) for mask in ([0, 1, 1], [[0, 1, 1], [0, 0, 1]])]
        [False, True]
    """
    return any(
        mask.ndim == x.ndim and len(mask) > 1 and bool((mask != mask[:1]).any())
        for mask, x in zip(masks, inputs, strict=True)
    )


def regions_in(mask: object, x: Tensor, name: str) -> Regions:
    """The regions of one example's mask.

    Args:
        mask: Whole numbers, a tensor or an array that broadcasts to the example.
        x: One example: ``(1, *input_shape)``.
        name: The argument that a user gave the mask as, for messages.

    Raises:
        InputError: Anything else.

    Examples:
        >>> len(regions_in(np.arange(20) // 10, x, "regions"))
        2
        >>> regions_in("slic", x, "regions")
        Traceback (most recent call last):
        krypton_engine.errors.InputError: regions is str; accepted: a mask of whole numbers
    """
    if isinstance(mask, np.ndarray) and mask.dtype.kind in "biuf":
        mask = torch.from_numpy(mask)
    if not isinstance(mask, Tensor):
        raise InputError(name, shape_or_type(mask), "a mask of whole numbers")
    rows = mask.ndim == x.ndim and len(mask) == 1
    return Regions.of(mask[0] if rows else mask, tuple(x.shape[1:]), name)


def regions_of(masks: tuple[Tensor, ...], inputs: tuple[Tensor, ...], row: int = 0) -> tuple[Regions, ...]:
    """The regions of every input, for one example.

    Examples:
        >>> (regions,) = regions_of((torch.tensor([[0, 1, 1], [5, 5, 5]]),), (torch.zeros(2, 3),), row=1)
        >>> regions.ids
        array([5])
    """
    found = []
    for mask, x in zip(masks, inputs, strict=True):
        mine = mask[row if len(mask) > 1 else 0] if mask.ndim == x.ndim and x.ndim else mask
        found.append(Regions.of(mine, tuple(x.shape[1:])))
    return tuple(found)
