"""Places of tokens in a value that holds them in windows, shifted, padded or side by side.

Operators that only move elements are run once, on numbers in place of values: the numbers of tokens, and
those of the elements in a token's row. Whatever way people write the partition into windows, what comes out
says which token lies where. Two copies are moved together, so that a dimension shows whether it holds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from krypton_engine.graph.ir import Node, Ref, refs, resolve
from krypton_engine.graph.tokens.steps import MOVES, NoTokens

COPIES = 2
"""Copies that are arranged together."""


@dataclass(frozen=True)
class Form:
    """The way from the rows of tokens to a value that holds some of their elements, and back.

    Attributes:
        root: Node whose rows these are.
        picked: Elements of a row that the value holds, in C order of its dimensions of channels; -1 for zero.
        of_tokens: Its dimensions along which tokens lie.
        channels: Sizes of its other dimensions, in order.

    Examples:
        >>> form = Form(root=0, picked=(2, 3), of_tokens=(1,), channels=(2,))  # half of each row
        >>> elements = form.read(torch.arange(12.0).view(3, 4))
        >>> elements.tolist()
        [[2.0, 3.0], [6.0, 7.0], [10.0, 11.0]]
        >>> value = form.spread(elements)
        >>> value.shape, form.gathered(value).equal(elements)
        (torch.Size([2, 3]), True)
    """

    root: int
    picked: tuple[int, ...]
    of_tokens: tuple[int, ...]
    channels: tuple[int, ...]

    @cached_property
    def _before(self) -> int:
        """Number of dimensions of channels before the first one of tokens."""
        return self.of_tokens[0]

    def read(self, rows: Tensor) -> Tensor:
        """The elements that the value holds: ``(..., elements)`` of rows ``(..., row)``."""
        count = len(self.picked)
        if min(self.picked) < 0:  # channels of a padding
            rows = pad(rows, [0, 1])
        elif self.picked == tuple(range(self.picked[0], self.picked[0] + count)):
            return rows.narrow(-1, self.picked[0], count)
        return rows[..., torch.tensor(self.picked, device=rows.device)]

    def spread(self, elements: Tensor) -> Tensor:
        """Tokens in the value's dimensions, all of them along its first one of tokens.

        Args:
            elements: ``(tokens, elements)``.

        Examples:
            >>> form = Form(root=0, picked=(0, 1, 2, 3), of_tokens=(1, 2), channels=(2, 2))
            >>> tuple(form.spread(torch.zeros(5, 4)).shape)
            (2, 5, 1, 2)
        """
        value = elements.reshape(len(elements), *self.channels).movedim(0, self._before)
        for dim in self.of_tokens[1:]:
            value = value.unsqueeze(dim)
        return value

    def gathered(self, value: Tensor) -> Tensor:
        """The reverse of `spread`: ``(tokens, elements)``."""
        return value.movedim(self._before, 0).reshape(value.shape[self._before], -1)


@dataclass(frozen=True, eq=False)
class Arranged:
    """The elements of a value, of two copies: whose they are.

    A *row* holds the elements of one token. A dimension along which tokens or copies differ is *of tokens*,
    another one *of channels*.

    Attributes:
        root: Node whose rows hold the elements.
        tokens: For every element the number of its token, those of the second copy after those of the first;
            -1 for zeros of a padding. Of the shape of the value, int32.
        elements: For every element its place in the row of its token; -1 for zeros. Of the same shape.

    Examples:
        >>> tokens = torch.arange(4, dtype=torch.int32).view(2, 2, 1).expand(2, 2, 3)
        >>> elements = torch.arange(3, dtype=torch.int32).expand(2, 2, 3)
        >>> value = Arranged(0, tokens, elements)
        >>> value.form
        Form(root=0, picked=(0, 1, 2), of_tokens=(0, 1), channels=(3,))
    """

    root: int
    tokens: Tensor
    elements: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value, for two copies."""
        return tuple(self.tokens.shape)

    @cached_property
    def of_tokens(self) -> tuple[int, ...]:
        """Dimensions of tokens."""
        return _varying(self.tokens)

    @cached_property
    def of_channels(self) -> tuple[int, ...]:
        """Dimensions of channels."""
        return tuple(dim for dim in range(self.tokens.dim()) if dim not in self.of_tokens)

    @cached_property
    def mixed(self) -> bool:
        """Whether a dimension runs along tokens and along elements of their rows."""
        return not set(_varying(self.elements)).isdisjoint(self.of_tokens)

    @cached_property
    def places(self) -> Tensor:
        """The token at every place, by the dimensions of tokens: -1 for zeros."""
        return self.tokens.amax(self.of_channels) if self.of_channels else self.tokens

    @cached_property
    def form(self) -> Form:
        """The way from rows to the value."""
        picked = self.elements.amax(self.of_tokens).flatten().tolist()
        channels = tuple(self.shape[dim] for dim in self.of_channels)
        return Form(self.root, tuple(picked), self.of_tokens, channels)

    def one_copy(self, size: int) -> Tensor:
        """The token at every place of the first copy, by the dimensions of tokens.

        Args:
            size: Number of tokens of a copy.

        Raises:
            NoTokens: Copies do not come one after the other.
        """
        found = self.places[: len(self.places) // COPIES]
        if bool((found >= size).any()):
            raise NoTokens("copies do not come first")
        return found

    def computed(self, root: int, shape: Sequence[int]) -> Arranged:
        """The arrangement of what an operator makes of every token by itself.

        Args:
            root: Its node.
            shape: Its shape, for any number of copies.

        Raises:
            NoTokens: It has other dimensions of tokens.
        """
        sizes = [self.shape[dim] if dim in self.of_tokens else n for dim, n in enumerate(shape)]
        if len(sizes) != len(self.shape):
            raise NoTokens("an operator adds dimensions to tokens")
        channels = [sizes[dim] for dim in self.of_channels]
        elements = torch.arange(math.prod(channels), dtype=torch.int32).view(channels)
        places = self.places
        for dim in self.of_tokens:
            elements = elements.unsqueeze(dim)
        for dim in self.of_channels:
            places = places.unsqueeze(dim)
        return Arranged(root, places.expand(sizes), torch.where(places < 0, -1, elements).expand(sizes))


def _varying(numbers: Tensor) -> tuple[int, ...]:
    """Dimensions along which numbers differ, but for the negative ones."""
    for dim in range(numbers.dim()):
        if numbers.stride(dim) == 0:  # expanded
            numbers = numbers.narrow(dim, 0, 1)
    high = torch.where(numbers < 0, torch.iinfo(numbers.dtype).max, numbers)
    return tuple(
        dim
        for dim, n in enumerate(numbers.shape)
        if n > 1 and bool((numbers.amax(dim) > high.amin(dim)).any())
    )


def moved(node: Node, values: Callable[[int], Arranged]) -> Arranged:
    """The arrangement of what an operator of ``MOVES`` makes.

    Args:
        node: The operator's node.
        values: Function that gives the arrangements of its operands.

    Raises:
        NoTokens: It joins elements of several values, or with something else than zeros.

    Examples:
        >>> tokens = torch.arange(6, dtype=torch.int32).view(2, 3, 1)  # three of each copy, of one element
        >>> value = Arranged(0, tokens, torch.zeros_like(tokens))
        >>> operator = torch.ops.aten.roll.default
        >>> roll = Node(1, "roll", "roll", (1, 3, 1), (None,) * 3, None, operator, (Ref(0), [1], [1]))
        >>> moved(roll, {0: value}.__getitem__).places
        tensor([[2, 0, 1],
                [5, 3, 4]], dtype=torch.int32)
    """
    read = [values(i) for i in dict.fromkeys(refs((node.args, node.kwargs)))]
    root = read[0].root
    if any(value.root != root for value in read):
        raise NoTokens(f"{node.op} puts tokens of different kinds together")
    if node.op not in ("constant_pad_nd", "pad"):
        tokens, elements = _run(node, lambda i: values(i).tokens), _run(node, lambda i: values(i).elements)
        return Arranged(root, tokens, elements)
    if any(_fill(node)):
        raise NoTokens(f"{node.op} adds tokens that are not zero")
    tokens = _run(node, lambda i: values(i).tokens + 1) - 1  # zeros of the padding become -1
    elements = _run(node, lambda i: values(i).elements + 1) - 1
    return Arranged(root, tokens, elements)


def _run(node: Node, value: Callable[[int], Tensor]) -> Tensor:
    assert node.target is not None
    made: Tensor = node.target(*resolve(node.args, value, COPIES), **resolve(node.kwargs, value, COPIES))
    return made


def _fill(node: Node) -> list[Any]:
    """The numbers of a padding that are not zero, and its mode if it is not constant."""
    given = [*node.args[2:], *node.kwargs.values()]
    return [item for item in given if item not in ("constant", None, 0)]


def is_move(node: Node, known: Callable[[int], bool]) -> bool:
    """Whether a node only moves elements of values that are known.

    Examples:
        >>> roll = Node(1, "roll", "roll", (1, 3, 1), (None,) * 3, None, None, (Ref(0), [1], [1]))
        >>> is_move(roll, {0}.__contains__), is_move(roll, {5}.__contains__)
        (True, False)
    """
    return node.op in MOVES and all(known(i) for i in refs((node.args, node.kwargs)))


def reference(item: object) -> int:
    """The node that an argument refers to; -1 if it refers to none.

    Examples:
        >>> reference(Ref(3)), reference(0.5)
        (3, -1)
    """
    return item.node if isinstance(item, Ref) else -1
