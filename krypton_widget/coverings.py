"""The coverings of an explorer: patches in a colour of the picture's, and fillings; and regions under one."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.perturbation.fillings import Filling, filled_boxes
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import as_sliding
from krypton_engine.zoo.patches import COLOURS, Colour

FillingWord = Literal["local mean", "noise"]

WORDS: tuple[str, ...] = (*COLOURS, *get_args(FillingWord))
"""Words for what covered cells become: colours, which the picture is covered with before it is preprocessed,
then fillings of the model's input."""

Covering = Colour | FillingWord | Filling
"""A covering as users have it."""

GIVEN = "given: "
"""Beginning of the names of users' fillings, which no colour's name has."""


def name_of(covering: str | Filling) -> str:
    """The name of a covering.

    Examples:
        >>> from krypton_engine.perturbation.fillings import Mean
        >>> name_of("mean"), name_of(Mean())
        ('mean', 'given: mean')
    """
    return covering if isinstance(covering, str) else GIVEN + covering.describe()


_LARGEST_SHEET = 2**22
"""Cells up to which the coverings of all windows are painted side by side; beyond, none are shown."""


def covered(x: Tensor, regions: Regions, which: IntArray, filling: Filling | Tensor) -> list[Tensor]:
    """An input with several regions covered at once, one for every sample of the filling.

    Args:
        x: The input: ``(1, C, ...)``.
        regions: The regions.
        which: Positions of those to cover.
        filling: What their cells become; a tensor is an image of ``x``'s shape.

    Examples:
        >>> x, regions = torch.ones(1, 1, 1, 3), Regions.of(torch.tensor([[4, 7, 9]]), (1, 1, 3))
        >>> covered(x, regions, np.array([0, 2]), torch.zeros_like(x))
        [tensor([[[[0., 1., 0.]]]])]
    """
    found = []
    for sample in range(1 if isinstance(filling, Tensor) else filling.samples):
        filled = filling if isinstance(filling, Tensor) else filling.fill(x, regions, sample)
        boxes, image = regions.boxes(which), x.clone()
        for position, box, content in zip(which.tolist(), boxes, filled_boxes(filled, boxes), strict=True):
            cells = image[(slice(None), *(slice(lo, hi) for lo, hi in box.tolist()))]
            cells.copy_(torch.where(regions.cells(position, box).to(x.device), content.to(x), cells))
        found.append(image)
    return found


def painted(x: Tensor, positions: Positions, filling: Filling | Tensor) -> tuple[Tensor | None, bool]:
    """A filling as one image, from which a page cuts what covers a position.

    Args:
        x: The input: ``(1, C, ...)``.
        positions: The positions.
        filling: The filling; a tensor is an image of ``x``'s shape.

    Returns:
        Its first sample, and whether the filling depends on the window: then it is a sheet with the coverings
        of all windows side by side, as they lie on the grid. None for a sheet that would be too large.

    Examples:
        >>> from krypton_engine.perturbation.fillings import LocalMean
        >>> painted(x, heatmap.window, torch.zeros_like(x))[0].shape, heatmap.window.counts
        (torch.Size([1, 3, 24, 20]), (1, 2, 2))
        >>> image, side_by_side = painted(x, heatmap.window, LocalMean())
        >>> image.shape, side_by_side
        (torch.Size([1, 3, 24, 20]), True)
    """
    if isinstance(filling, Tensor):
        return filling, False
    filled = filling.fill(x, positions, 0)
    if isinstance(filled, Tensor):
        return filled, False
    if isinstance(positions, Regions):
        return covered(x, positions, np.arange(len(positions)), filling)[0], False
    window = as_sliding(positions)
    sides = window.shape[1:]
    sizes = [count * side for count, side in zip(window.counts[1:], sides, strict=True)]
    if math.prod(sizes) > _LARGEST_SHEET:
        return None, True
    sheet = x.new_zeros(1, x.shape[1], *sizes)
    every = np.arange(len(window), dtype=np.int64)
    places = np.stack(window.coordinates(every)[1:], axis=1) * sides
    for begin, content in zip(places.tolist(), filled(window.boxes(every)), strict=True):
        cells = sheet
        for axis, (first, extent) in enumerate(zip(begin, content.shape[2:], strict=True), start=2):
            cells = cells.narrow(axis, first, extent)
        cells.copy_(content)
    return sheet, True
