"""Tokens of a grid that are made of several tokens: put together in one row, or computed from near ones."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from krypton_engine.graph.ir import Node
from krypton_engine.graph.regions import IntervalMap
from krypton_engine.graph.tokens.arrangement import COPIES, Arranged
from krypton_engine.graph.tokens.steps import NoTokens


def places_of_rows(value: Arranged) -> list[int]:
    """Dimensions of tokens along which elements of a row do not vary.

    Examples:
        >>> tokens, elements = torch.arange(8, dtype=torch.int32).view(2, 2, 2), torch.tensor([[[0, 1]]])
        >>> places_of_rows(Arranged(0, tokens, elements.expand(2, 2, 2)))  # along the last lie two in a row
        [0, 1]
    """
    high = torch.where(value.elements < 0, torch.iinfo(value.elements.dtype).max, value.elements)
    return [dim for dim in value.of_tokens if not bool((value.elements.amax(dim) > high.amin(dim)).any())]


def parts_of_rows(
    value: Arranged, places: list[int], size: int, row: int, op: str
) -> tuple[Tensor, tuple[int, ...]]:
    """The tokens that are put together, and the elements of what they make; see `Merged`.

    Args:
        value: Several tokens in one row.
        places: Its dimensions along which rows lie.
        size: Number of tokens of a copy.
        row: Elements of a token.
        op: The operator that made it.

    Raises:
        NoTokens: Not every place holds alike parts.

    Examples:
        >>> tokens, elements = torch.arange(8, dtype=torch.int32).view(2, 2, 2), torch.zeros(2, 2, 2)
        >>> parts, picked = parts_of_rows(Arranged(0, tokens, elements.int()), [0, 1], 4, row=1, op="cat")
        >>> parts.tolist(), picked  # two tokens of one element, side by side
        ([[0, 1], [2, 3]], (0, 1))
    """
    rest = [dim for dim in range(len(value.shape)) if dim not in places]
    count = math.prod(value.shape[dim] for dim in places)
    tokens, elements = (
        each.permute(*places, *rest).reshape(count, -1) for each in (value.tokens, value.elements)
    )
    half = count // COPIES
    tokens, elements = tokens[:half].long(), elements[:half].long()
    whole = (tokens >= 0).all(1)
    if not bool(whole.any()) or bool((tokens >= size).any()) or count % COPIES:
        raise NoTokens(f"{op} regroups tokens")
    sample = int(whole.long().argmax())
    _, part = tokens[sample].unique(return_inverse=True)
    first = torch.stack([(part == i).long().argmax() for i in range(int(part.max()) + 1)])
    parts = tokens[:, first]
    known = torch.where(tokens >= 0, elements, elements[sample])
    if not torch.equal(parts[:, part], tokens) or bool((known != elements[sample]).any()):
        raise NoTokens(f"{op} regroups tokens")
    return parts, tuple((part * row + elements[sample]).tolist())


def parts_nearby(node: Node, source: Node, places: Tensor) -> Tensor:
    """The tokens that every cell of a result is computed from.

    Args:
        node: An operator on boxes.
        source: The operand that it reads, with the same axes.
        places: The token at every cell of the operand, by axis.

    Returns:
        ``(cells of the result, parts)``, both in C order, int64; -1 beyond the operand's cells.

    Raises:
        NoTokens: Cells do not read intervals of cells.

    Examples:
        >>> image, pool = graph.nodes[8], graph.nodes[9]  # of 2 x 2 cells
        >>> parts_nearby(pool, image, torch.arange(480).view(24, 20))[1].tolist()
        [2, 3, 22, 23]
    """
    rank = len(source.axes)
    flat, inside = np.zeros((1,) * 2 * rank, dtype=np.int64), np.ones((1,) * 2 * rank, dtype=bool)
    for k, axis in enumerate(source.axes):
        step, first = node.maps[0].get(axis), np.arange(node.size(axis))
        if step is not None and not isinstance(step, IntervalMap):
            raise NoTokens(f"{node.op} moves tokens")
        extent = 1 if step is None else step.extent_read(1)
        read = (first if step is None else step.first_read(first))[:, None] + np.arange(extent)
        shape = [1] * 2 * rank
        shape[k], shape[rank + k] = read.shape
        size = source.size(axis)
        inside = inside & ((read >= 0) & (read < size)).reshape(shape)
        flat = flat * size + read.clip(0, size - 1).reshape(shape)
    tokens = torch.where(torch.from_numpy(inside), places.flatten().long()[torch.from_numpy(flat)], -1)
    return tokens.reshape(math.prod(node.size(axis) for axis in source.axes), -1)
