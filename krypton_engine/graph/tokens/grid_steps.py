"""The tokens of grids as a value: what is computed of them from grid to grid, and where they end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from krypton_engine.graph.ir import Graph, Node, refs
from krypton_engine.graph.tokens.arrangement import Form


@dataclass(frozen=True)
class Cells:
    """The cells of a value as the first grid's tokens.

    Attributes:
        node: The value.
        grid: The first grid.
    """

    node: Node
    grid: int = 0


@dataclass(frozen=True)
class Each:
    """An operator that computes each token by itself.

    Attributes:
        node: The operator's node.
        grid: The grid of the tokens.
        differing: Constants that are not the same for all tokens, by node.
        met: Values without tokens that every token meets: a gate; by node.
    """

    node: Node
    grid: int
    differing: tuple[int, ...] = ()
    met: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Merged:
    """Several tokens that become one of the next grid, their elements side by side.

    Attributes:
        node: The node whose value they make.
        source: Node of the rows that are put together.
        below: Grid of these rows.
        grid: The next grid.
        parts: The tokens that become one: ``(tokens, parts)``, int64, -1 for zeros.
        picked: The elements of the new rows: part times elements of a source's row, plus the place in it.
    """

    node: Node
    source: int
    below: int
    grid: int
    parts: Tensor
    picked: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Nearby:
    """An operator that computes a token from several that lie near: a convolution, a pool.

    Attributes:
        node: The operator's node, as on a box of one cell.
        source: Node of the value that is read.
        below: Grid of that value.
        grid: Grid of the result: ``below`` where cells stay as they are, or one with fewer or more tokens.
        parts: The tokens that each token is computed from: ``(tokens, parts)``, int64, -1 beyond the cells.
        places: The token at every cell of the operand, int64: ``(cells,)``.
        order: The cell of every token of the result, int64: ``(tokens,)``.
    """

    node: Node
    source: int
    below: int
    grid: int
    parts: Tensor
    places: Tensor
    order: Tensor


@dataclass(frozen=True)
class Whole:
    """An operator on values without tokens, on the way to one that every token meets.

    Attributes:
        node: The operator's node.
    """

    node: Node


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores, made of the products of queries and keys: ``factor * products + summand``.

    Attributes:
        transposed: Whether a key's channels come before its tokens.
        scale: Factor of the products.
        chain: Operators between the products and the softmax.
        product: Node of the products; None for an operator that makes them itself.
        mask: Node of what that operator adds to them, or flags of what it leaves; -1 for nothing.
    """

    transposed: bool
    scale: float
    chain: tuple[Node, ...]
    product: Node | None
    mask: int


@dataclass(frozen=True, eq=False)
class WindowAttention:
    """Attentions of tokens to all tokens of their window.

    Attributes:
        node: The result.
        grid: The grid of the tokens.
        q, k, v: Nodes of queries, keys and values.
        members: The tokens of every window: ``(windows, members)``, int64, -1 for zeros of a padding. Each
            token is in one window.
        order: Order of the dimensions of a query, value or result: those of windows, of heads, of members, of
            channels.
        counts: Number of dimensions of windows, and of heads.
        scores: Numbers that the softmax is taken of.

    Examples:
        >>> node = Node(4, "attention", "matmul", (2, 2, 9, 3, 8), (None,) * 5, None)
        >>> scores = Scores(transposed=False, scale=1.0, chain=(), product=None, mask=-1)
        >>> members = torch.arange(36).view(4, 9)  # of 2 x 2 windows
        >>> order = 0, 1, 3, 2, 4  # heads before members
        >>> step = WindowAttention(node, 0, 1, 2, 3, members, order, counts=(2, 1), scores=scores)
        >>> step.by_window(torch.zeros(node.shape)).shape
        torch.Size([4, 3, 9, 8])
    """

    node: Node
    grid: int
    q: int
    k: int
    v: int
    members: Tensor
    order: tuple[int, ...]
    counts: tuple[int, int]
    scores: Scores

    def by_window(self, value: Tensor) -> Tensor:
        """A value of one copy, whose last two dimensions are the attention's, by window and head.

        Returns:
            ``(windows, heads, *last two)``.
        """
        value = value.permute(self.order)
        windows, heads = self.counts
        sizes = value.shape[:windows].numel(), value.shape[windows : windows + heads].numel()
        return value.reshape(*sizes, *value.shape[-2:])


@dataclass(frozen=True)
class Pool:
    """Sum over all tokens of a grid, by a divisor: their mean, or their sum.

    Attributes:
        node: The result.
        source: Node of what is summed.
        grid: The grid.
        divisor: Number of tokens for a mean, 1 for a sum.
    """

    node: Node
    source: int
    grid: int
    divisor: int


Step = Cells | Each | Merged | Nearby | WindowAttention | Pool | Whole


@dataclass(frozen=True)
class Grids:
    """The tokens of a graph, grid by grid.

    Attributes:
        graph: The graph.
        start: The value whose cells are the first grid's tokens, in C order.
        steps: Computations of tokens, in order.
        values: The way from rows to every value of tokens, by node.
        places: By node of rows: the token at every place of its value of one copy, -1 for zeros, by the
            dimensions of tokens.
        sizes: Number of tokens of every grid.
        after: Nodes after the steps, computed as ever.

    Examples:
        >>> nodes = [Node(i, f"value {i}", "", (1, 4, 2), (None,) * 3, None) for i in range(4)]
        >>> merged = Merged(nodes[2], 1, 0, 1, torch.tensor([[0, 1], [2, 3]]), picked=(0, 1, 2, 3))
        >>> steps = Cells(nodes[0]), Each(nodes[1], 0), merged, Pool(nodes[3], 2, 1, divisor=2)
        >>> forms = {i: Form(i, (0, 1), (0, 1), (2,)) for i in range(3)}
        >>> grids = Grids(graph, nodes[0], steps, forms, {}, sizes=(4, 2), after=())
        >>> grids.attentions, grids.read(merged), grids.released[2]
        ([], {1}, (1,))
    """

    graph: Graph
    start: Node
    steps: tuple[Step, ...]
    values: Mapping[int, Form]
    places: Mapping[int, Tensor]
    sizes: tuple[int, ...]
    after: tuple[Node, ...]

    @property
    def attentions(self) -> list[WindowAttention]:
        """The attentions, in order."""
        return [step for step in self.steps if isinstance(step, WindowAttention)]

    @cached_property
    def mixed(self) -> bool:
        """Whether convolutions or pools lie between attentions."""
        return any(isinstance(step, Nearby) for step in self.steps)

    @property
    def first_order(self) -> list[Node]:
        """Values of which a part is taken to the first order, in order: gradients by them are asked for."""
        return [
            step.node
            for step in self.steps
            if isinstance(step, (Nearby, WindowAttention)) or (isinstance(step, Each) and step.met)
        ]

    @cached_property
    def released(self) -> tuple[tuple[int, ...], ...]:
        """By step: the rows that no later step reads, by node."""
        last = {self.values[i].root: at for at, step in enumerate(self.steps) for i in self.read(step)}
        return tuple(tuple(i for i in last if last[i] == at) for at in range(len(self.steps)))

    @cached_property
    def _alive(self) -> Mapping[int, tuple[int, ...]]:
        made = {
            step.node.index: (at, step.grid)
            for at, step in enumerate(self.steps)
            if not isinstance(step, (Pool, Whole))
        }
        last = {root: at for at, released in enumerate(self.released) for root in released}
        return {
            step.node.index: tuple(
                i for i, (since, grid) in made.items() if since < at < last.get(i, at) and grid == step.grid
            )
            for at, step in enumerate(self.steps)
            if isinstance(step, (Nearby, WindowAttention))
        }

    def alive(self, step: Nearby | WindowAttention) -> tuple[int, ...]:
        """The rows of its grid that are there before a step and read after it, by node."""
        return self._alive[step.node.index]

    def read(self, step: Step) -> set[int]:
        """The values of tokens that a step reads, by node."""
        if isinstance(step, (Cells, Whole)):
            return set()
        if isinstance(step, WindowAttention):
            return {step.q, step.k, step.v}
        if isinstance(step, (Merged, Nearby, Pool)):
            return {step.source}
        return {i for i in refs((step.node.args, step.node.kwargs)) if i in self.values}


def parents(step: Merged | Nearby, touched: Tensor) -> Tensor:
    """Whether tokens of a step's result are made of some of ``touched``, flags ``(copies, tokens)``.

    Examples:
        >>> parts = torch.tensor([[0, 1], [2, -1]])
        >>> merged = Merged(Node(0, "cat", "cat", (1, 2, 2), (None,) * 3, None), 0, 0, 1, parts, (0, 1))
        >>> parents(merged, torch.tensor([[False, False, True]]))
        tensor([[False,  True]])
    """
    padded = torch.nn.functional.pad(touched, [0, 1])
    return padded[:, step.parts].any(-1)
