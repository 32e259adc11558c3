"""Attention in windows: scores that are written out, and the tokens of every window."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from krypton_engine.graph.ir import Graph, Node, Ref
from krypton_engine.graph.tokens.arrangement import COPIES, Arranged
from krypton_engine.graph.tokens.scores import ONLY_COPIED, SOFTMAX
from krypton_engine.graph.tokens.steps import NoTokens

_RESHAPES = {"view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "flatten", "unflatten"}


@dataclass(frozen=True, eq=False)
class WindowScores:
    """Products of queries and keys on their way to weights.

    Attributes:
        q, k: Nodes of both.
        queries, keys: Their arrangements.
        product: Node of the products.
        transposed: Whether a key's channels come before its tokens.
        chain: Nodes that have changed the products so far.
        weights: Whether the softmax was taken.
    """

    q: int
    k: int
    queries: Arranged
    keys: Arranged
    product: Node
    transposed: bool
    chain: tuple[Node, ...] = ()
    weights: bool = False

    def after(self, node: Node, graph: Graph) -> WindowScores:
        """The products after ``node``.

        Raises:
            NoTokens: Something else than to scale or bias them, or to take the softmax.

        Examples:
            >>> form = Arranged(6, torch.zeros(2, 4, 3).int(), torch.zeros(2, 4, 3).int())
            >>> made = Node(1, "scores", "matmul", (1, 4, 4), (-1, None, None), None)
            >>> scores = WindowScores(6, 7, form, form, made, transposed=True)
            >>> halved = Node(2, "halved", "mul", (1, 4, 4), (-1, None, None), None, args=(Ref(1), 0.5))
            >>> [node.name for node in scores.after(halved, graph).chain]
            ['halved']
        """
        other = node.args[1] if len(node.args) > 1 else None
        whole = node.shape[-1] == self.product.shape[-1]
        if node.op in ONLY_COPIED:
            return self
        if node.op in _RESHAPES and whole:
            return self if self.weights else replace(self, chain=(*self.chain, node))
        if not self.weights:
            if node.op in SOFTMAX and other in (-1, len(node.shape) - 1) and whole:
                return replace(self, weights=True)
            plain = node.kwargs.get("alpha", 1) == 1 and node.kwargs.get("rounding_mode") is None
            if node.op in ("mul", "div", "add", "sub") and plain and _constant(other, graph):
                return replace(self, chain=(*self.chain, node))
        raise NoTokens(f"{node.op} does something else to an attention's scores than to scale or bias them")


def _constant(item: object, graph: Graph) -> bool:
    return isinstance(item, (int, float)) or (isinstance(item, Ref) and not graph.nodes[item.node].depends)


def attends(
    queries: Arranged, keys: Tensor, values: Arranged, size: int
) -> tuple[tuple[int, ...], tuple[int, int], Tensor]:
    """Order of dimensions, how many are of windows and heads, and the members of windows.

    Args:
        queries: Arrangement of the queries.
        keys: Tokens of the elements of the keys, in the order of dimensions of the queries.
        values: Arrangement of the values.
        size: Number of tokens of a copy.

    Raises:
        NoTokens: Queries, keys and values are not of the same tokens, or not by window.

    Examples:
        >>> tokens = torch.arange(8).int().view(2, 2, 2, 1).expand(2, 2, 2, 3)  # windows of 2
        >>> form = Arranged(0, tokens, torch.arange(3).int().expand(2, 2, 2, 3))
        >>> order, counts, members = attends(form, tokens, form, size=4)
        >>> order, counts, members.tolist()
        ((0, 1, 2, 3), (2, 0), [[0, 1], [2, 3]])
    """
    rank = len(queries.shape)
    alike = queries.of_tokens == values.of_tokens and torch.equal(queries.places, values.places)
    if rank < 3 or not alike or rank - 2 not in queries.of_tokens or rank - 1 in queries.of_tokens:
        raise NoTokens("an attention is not of every token of a window to all of them")
    if not torch.equal(keys, queries.tokens):
        raise NoTokens("an attention looks at other tokens than those that ask")
    windows = [dim for dim in queries.of_tokens if dim < rank - 2]
    heads = [dim for dim in queries.of_channels if dim < rank - 2]
    members = _windows(queries, windows, size)
    return (*windows, *heads, rank - 2, rank - 1), (len(windows), len(heads)), members


def is_all(places: Tensor, size: int) -> bool:
    """Whether places hold every token of a copy once.

    Examples:
        >>> is_all(torch.tensor([2, 0, 1]), 3), is_all(torch.tensor([0, 0, 1]), 3)
        (True, False)
    """
    return len(places) == size and torch.equal(places.sort()[0], torch.arange(size, dtype=places.dtype))


def _windows(value: Arranged, dims: list[int], size: int) -> Tensor:
    """The tokens of every window of one copy: ``(windows, members)``, int64.

    Raises:
        NoTokens: A token is in no window or in several, or copies are not one after the other.
    """
    tokens = value.tokens.permute(*dims, *(d for d in range(len(value.shape)) if d not in dims))
    tokens = tokens.flatten(0, len(dims) - 1) if dims else tokens[None]
    for _ in range(tokens.dim() - 3):  # heads
        tokens = tokens[:, 0]
    members = tokens[..., 0].long()
    half = members[: len(members) // COPIES]
    if len(members) % COPIES or not is_all(half[half >= 0], size):
        raise NoTokens("an attention is of some of the tokens, or of several pictures")
    return half
