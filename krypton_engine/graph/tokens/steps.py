"""The tokens of a graph as a value: their order, the steps on them, and the nodes after the last one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from krypton_engine.graph.ir import BATCH, Graph, Node, refs
from krypton_engine.graph.tokens.dimensions import Dimensions

TOKENS = 0
"""Role of a dimension along which tokens lie."""

KEYS = 1
"""Role of the dimension along which an attention's scores lie, one for every token that is looked at."""

MOVES = {
    "_reshape_alias", "_unsafe_view", "alias", "cat", "chunk", "clone", "constant_pad_nd", "contiguous",
    "detach", "expand", "flatten", "flip", "movedim", "narrow", "pad", "permute", "reshape", "roll", "select",
    "slice", "split", "split_with_sizes", "squeeze", "stack", "transpose", "unbind", "unflatten",
    "unsafe_split", "unsafe_split_with_sizes", "unsqueeze", "view",
}  # fmt: skip
"""Operators that move elements, repeat them, or add zeros."""


class NoTokens(Exception):
    """The reason why tokens cannot be taken one by one, in words that end a sentence."""


def last_of_cells(graph: Graph) -> Node:
    """The value whose cells may become tokens: the last dominator before a full computation.

    Where cells were only put together after it, as windows of a map, another one comes before these.

    Raises:
        NoTokens: Nothing is computed in full.

    Examples:
        >>> last_of_cells(graph).op
        'relu'
    """
    full = next((node.index for node in graph.nodes if node.depends and not node.local), None)
    if full is None:
        raise NoTokens("nothing is computed in full")
    *before, last = (node for node in graph.dominators if node.index < full)
    found = last
    while last.op in MOVES and before:
        last = before.pop()
        found = max(found, last, key=lambda node: node.cells)
    return found


@dataclass(frozen=True)
class Layout:
    """The order of a value's tokens: fixed ones, all patches, fixed ones.

    Attributes:
        before: Numbers of the fixed tokens that come first.
        patches: Number of patches; 0 where the value holds none.
        after: Numbers of the fixed tokens that come last.

    Examples:
        >>> layout = Layout(before=(0,), patches=4, after=(1, 2))
        >>> len(layout), layout.column(0), layout.column(1)
        (7, 0, -2)
    """

    before: tuple[int, ...]
    patches: int
    after: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.before) + self.patches + len(self.after)

    def column(self, number: int) -> int:
        """Place of a fixed token among ``before``, or after all patches counted backwards: negative.

        Examples:
            >>> layout = Layout(before=(0,), patches=4, after=(1, 2))
            >>> [layout.column(number) for number in (0, 1, 2)]
            [0, -2, -1]
        """
        if number in self.before:
            return self.before.index(number)
        return self.after.index(number) - len(self.after)

    def labels(self) -> list[tuple[bool, int]]:
        """For every token, whether it is a patch, and its number among its kind.

        Examples:
            >>> Layout(before=(0,), patches=2, after=()).labels()
            [(False, 0), (True, 0), (True, 1)]
        """
        fixed = [[(False, number) for number in part] for part in (self.before, self.after)]
        return [*fixed[0], *((True, i) for i in range(self.patches)), *fixed[1]]

    @classmethod
    def of(cls, labels: Sequence[tuple[bool, int]], patches: int) -> Layout:
        """The layout of labelled tokens.

        Raises:
            NoTokens: Some of the patches are missing, or out of their order.

        Examples:
            >>> Layout.of([(False, 0), (True, 0), (True, 1)], patches=2)
            Layout(before=(0,), patches=2, after=())
        """
        where = [i for i, (patch, _) in enumerate(labels) if patch]
        first, last = (where[0], where[-1] + 1) if where else (len(labels), len(labels))
        if where and [*labels[first:last]] != [(True, i) for i in range(patches)]:
            raise NoTokens("some of the patches are picked out, or put in another order")
        before, after = ([number for _, number in part] for part in (labels[:first], labels[last:]))
        return cls(tuple(before), len(where), tuple(after))


@dataclass(frozen=True)
class _Step:
    """A step on tokens, whose result is ``node``."""

    node: Node

    @property
    def reads(self) -> tuple[int, ...]:
        """The values that are read, by node; constants too."""
        return tuple(refs((self.node.args, self.node.kwargs)))


@dataclass(frozen=True)
class Begin(_Step):
    """The first value with a dimension of tokens, of which the tokens at hand are picked."""


@dataclass(frozen=True)
class PerToken(_Step):
    """An operator that computes each token by itself."""


@dataclass(frozen=True)
class Narrow(_Step):
    """Neighbouring tokens of a value, the patches all or none.

    Attributes:
        source: Node of the value.
        first: Number of the first of them; negative numbers count from the end.
        fixed: Number of fixed tokens among them.
        patches: Whether the patches are among them.
    """

    source: int
    first: int
    fixed: int
    patches: bool


@dataclass(frozen=True)
class Attention(_Step):
    """An attention of every token to all of them: ``softmax(scale * q k^T + biases) v``.

    Attributes:
        q: Node of the queries, ``(..., tokens, channels)`` with the copies and then the heads in front.
        k: Node of the keys, likewise; ``(..., channels, tokens)`` if ``transposed``.
        v: Node of the values, as the queries.
        scale: Factor of the products.
        biases: Constants that are added to the scores, by node, each with a factor.
        transposed: See ``k``.

    Examples:
        >>> node = Node(4, "attention", "matmul", (1, 2, 5, 8), (BATCH, None, TOKENS, None), None)
        >>> Attention(node, q=1, k=2, v=3, scale=8**-0.5).reads
        (1, 2, 3)
    """

    q: int
    k: int
    v: int
    scale: float
    biases: tuple[tuple[int, float], ...] = ()
    transposed: bool = False

    @property
    def reads(self) -> tuple[int, ...]:
        """The values that are read, by node."""
        return self.q, self.k, self.v


@dataclass(frozen=True)
class Pick(_Step):
    """One fixed token of the value ``source``, at ``column``; see `Layout.column`."""

    source: int
    column: int


@dataclass(frozen=True)
class Pooled(_Step):
    """Sum over the tokens of the value ``source``, by a divisor: their mean, or their sum."""

    source: int
    divisor: int


Step = Begin | PerToken | Narrow | Attention | Pick | Pooled


@dataclass(frozen=True)
class Tokens:
    """The tokens of a graph.

    Attributes:
        graph: The graph, in which values of tokens have the role ``TOKENS``; behind all other nodes some
            constants are repeated with the roles of the values that they meet.
        start: The value whose cells become patches, in C order.
        steps: All steps on tokens, in order.
        layouts: Layouts of the values of tokens, by node.
        after: Nodes after the steps, which run on whole values.
        dimensions: Factors of the dimensions.

    Examples:
        >>> shapes, token = [(1, 8, 2, 2), (1, 4, 8), (1, 4, 8), (1, 8)], (BATCH, TOKENS, None)
        >>> roles = (BATCH, None, 10, 11), token, token, (BATCH, None)
        >>> image, rows, mixed, mean = (Node(i, "", "", shapes[i], roles[i], None) for i in range(4))
        >>> steps = Begin(rows), Attention(mixed, q=1, k=1, v=1, scale=1.0), Pooled(mean, source=2, divisor=4)
        >>> dimensions, patches = Dimensions([(10, 2), (11, 2)], merged=TOKENS), Layout((), 4, ())
        >>> tokens = Tokens(graph, image, steps, {1: patches, 2: patches}, (), dimensions)
        >>> tokens.patches, tokens.fixed, len(tokens.attentions), tokens.released[2], tokens.spared
        (4, 0, 1, (1,), frozenset())
        >>> tokens.sizes(mixed, copies=16, tokens=3)
        [16, 3, 8]
    """

    graph: Graph
    start: Node
    steps: tuple[Step, ...]
    layouts: Mapping[int, Layout]
    after: tuple[Node, ...]
    dimensions: Dimensions

    @property
    def attentions(self) -> list[Attention]:
        """The attentions, in order."""
        return [step for step in self.steps if isinstance(step, Attention)]

    @property
    def pooled(self) -> list[Pooled]:
        """The sums and means over tokens, in order."""
        return [step for step in self.steps if isinstance(step, Pooled)]

    @property
    def patches(self) -> int:
        """Number of patches."""
        return math.prod(self.start.size(axis) for axis in self.start.axes)

    @property
    def fixed(self) -> int:
        """Number of fixed tokens, at most: those of the value that has most."""
        return max(len(layout) - layout.patches for layout in self.layouts.values())

    @cached_property
    def released(self) -> Mapping[int, tuple[int, ...]]:
        """By node of a step: the values of tokens that no later step reads."""
        last = {index: step.node.index for step in self.steps for index in step.reads}
        known = {self.start.index, *self.layouts}
        return {
            step.node.index: tuple(i for i in set(step.reads) & known if last[i] == step.node.index)
            for step in self.steps
        }

    @cached_property
    def spared(self) -> frozenset[int]:
        """Values of which only fixed tokens are read, by node: a class token's after the last attention."""
        read: set[int] = set()
        for step in reversed(self.steps):
            if isinstance(step, Pooled):
                read.add(step.source)
            elif isinstance(step, Attention):
                read |= {step.k, step.v}
            if step.node.index in read and (not isinstance(step, Narrow) or step.patches):
                read |= set(step.reads)
        return frozenset(index for index in self.layouts if index not in read)

    def sizes(self, node: Node, copies: int, tokens: int) -> list[int]:
        """The shape of a value for some copies, with another number of tokens."""
        counts = {BATCH: copies, TOKENS: tokens}
        dimensions = zip(node.roles, node.shape, strict=True)
        return [
            math.prod(n if role is None else counts[role] for role, n in self.dimensions.factors(*each))
            for each in dimensions
        ]
