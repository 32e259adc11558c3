"""The search for tokens on grids: attention in windows, grids that become coarser, a mean at the end.

What moves tokens about between the layers (partitions into windows and back, shifts, paddings, heads) is
followed element by element; see `krypton_engine.graph.tokens.arrangement`. Everything else has to treat each
token by itself, or to be an attention of the tokens of a window to one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from krypton_engine.graph.box_operators import Apply
from krypton_engine.graph.draft import BoundCall, Draft
from krypton_engine.graph.ir import BATCH, Graph, Node, Ref, refs
from krypton_engine.graph.operators import NotLocal, ruled
from krypton_engine.graph.operators.base import positive
from krypton_engine.graph.tokens.arrangement import COPIES, MOVES, Arranged, is_move, moved, reference
from krypton_engine.graph.tokens.grid_steps import (
    Cells,
    Each,
    Grids,
    Merged,
    Pool,
    Scores,
    Step,
    WindowAttention,
)
from krypton_engine.graph.tokens.steps import NoTokens, last_of_cells

_PRODUCTS = {"matmul", "bmm"}
_SOFTMAX = {"softmax", "_softmax"}
_RESHAPES = {"view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "flatten", "unflatten"}
_ONLY_COPIED = {"_to_copy", "to", "clone", "contiguous"}
_POOLS = {f"{kind}adaptive_avg_pool{n}d" for kind in ("", "_") for n in (1, 2, 3)}
_FIRST_AXIS = 10
"""Role of a value's first dimension where it is one of tokens; other dimensions follow."""


def find_grids(graph: Graph) -> Grids:
    """The tokens of a graph on grids.

    Raises:
        NoTokens: The graph has none, or mixes them otherwise than by attention in windows.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> find_grids(capture(Source(model, (x,))))
        Traceback (most recent call last):
            ...
        krypton_engine.graph.tokens.steps.NoTokens: no attention is computed of its cells
    """
    start, attends = last_of_cells(graph), (*_SOFTMAX, "scaled_dot_product_attention")
    if not any(node.depends and node.op in attends for node in graph.nodes):
        raise NoTokens("no attention is computed of its cells")
    return _Search(graph, start).found()


@dataclass(frozen=True, eq=False)
class _Scores:
    """Products of queries and keys on their way to weights.

    Attributes:
        q, k: Nodes of both.
        queries, keys: Their arrangements.
        product: Node of the products.
        chain: Nodes that have changed the products so far.
        weights: Whether the softmax was taken.
    """

    q: int
    k: int
    queries: Arranged
    keys: Arranged
    product: Node
    chain: tuple[Node, ...] = ()
    weights: bool = False

    def after(self, node: Node, graph: Graph) -> _Scores:
        """The products after ``node``.

        Raises:
            NoTokens: Something else than to scale or bias them, or to take the softmax.
        """
        other = node.args[1] if len(node.args) > 1 else None
        whole = node.shape[-1] == self.product.shape[-1]
        if node.op in _ONLY_COPIED:
            return self
        if node.op in _RESHAPES and whole:
            return self if self.weights else replace(self, chain=(*self.chain, node))
        if not self.weights:
            if node.op in _SOFTMAX and other in (-1, len(node.shape) - 1) and whole:
                return replace(self, weights=True)
            plain = node.kwargs.get("alpha", 1) == 1 and node.kwargs.get("rounding_mode") is None
            if node.op in ("mul", "div", "add", "sub") and plain and _constant(other, graph):
                return replace(self, chain=(*self.chain, node))
        raise NoTokens(f"{node.op} does something else to an attention's scores than to scale or bias them")


def _constant(item: object, graph: Graph) -> bool:
    return isinstance(item, (int, float)) or (isinstance(item, Ref) and not graph.nodes[item.node].depends)


class _Search:
    """A walk over the nodes behind a start, each of which moves tokens or becomes a step."""

    def __init__(self, graph: Graph, start: Node) -> None:
        self.graph = graph
        self.start = start
        self.draft = Draft(None, graph.nodes)
        self.sizes = [math.prod(start.size(axis) for axis in start.axes)]
        self.grid = {start.index: 0}
        self.values = {start.index: _cells(start)}
        self.forms = {start.index: self.values[start.index].form}
        self.places = {start.index: self.values[start.index].one_copy(self.sizes[0])}
        self.last_use = {i: node.index for node in graph.nodes for i in refs((node.args, node.kwargs))}
        self.steps: list[Step] = [Cells(start)]
        self.scores: dict[int, _Scores] = {}
        self.after: list[Node] = []
        self.ended: set[int] = set()

    def found(self) -> Grids:
        """The tokens that the walk finds, up to the graph's output."""
        for node in self.graph.nodes[self.start.index + 1 :]:
            if node.depends:
                self._visit(node)
                for i in set(refs((node.args, node.kwargs))):
                    if self.last_use[i] == node.index:
                        self.values.pop(i, None)
                        self.scores.pop(i, None)
        if not any(isinstance(step, WindowAttention) for step in self.steps):
            raise NoTokens("no attention is computed of its cells")
        if self.graph.output not in self.ended:
            raise NoTokens("the output has a part for every token")
        found = self.forms, self.places, tuple(self.sizes)
        return Grids(self.graph, self.start, tuple(self.steps), *found, tuple(self.after))

    def _visit(self, node: Node) -> None:
        operands = {i for i in refs((node.args, node.kwargs)) if self.graph.nodes[i].depends}
        if operands <= self.ended:
            self.after.append(node)
            self.ended.add(node.index)
        elif operands & self.ended:
            raise NoTokens(f"{node.op} joins tokens with what was made of all of them")
        elif is_move(node, self.values.__contains__):
            self._move(node)
        elif node.op == "scaled_dot_product_attention":
            self._attention(node)
        elif node.op in _PRODUCTS and len(operands) > 1:
            self._product(node)
        elif operands & self.scores.keys():
            first = reference(node.args[0])
            if operands != {first}:
                raise NoTokens(f"{node.op} joins an attention's scores with something of the image")
            self.scores[node.index] = self.scores[first].after(node, self.graph)
        elif not self._pooled(node, *operands):
            self._by_rule(node)

    def _known(self, index: int) -> Arranged:
        """The arrangement of a value of tokens."""
        if index not in self.values:
            raise NoTokens("an attention reads what is no value of tokens")
        return self.values[index]

    def _put(self, step: Step, value: Arranged, grid: int) -> None:
        self.steps.append(step)
        self.grid[step.node.index] = grid
        self.places[step.node.index] = value.one_copy(self.sizes[grid])
        self._name(step.node, value)

    def _name(self, node: Node, value: Arranged) -> None:
        self.values[node.index] = value
        self.forms[node.index] = value.form

    # -- one node --------------------------------------------------------------------------------------

    def _move(self, node: Node) -> None:
        """Elements in other places; where those of several tokens come to lie in one row, the next grid."""
        value = moved(node, self.values.__getitem__)
        if not value.of_tokens:
            raise NoTokens(f"{node.op} regroups tokens")
        if not value.mixed:
            self._name(node, value)
            return
        grid = self.grid[value.root] + 1
        row = math.prod(self.forms[value.root].channels)
        places = _places(value)
        parts, picked = _parts(value, places, self.sizes[grid - 1], row, node.op)
        self.sizes[grid:] = [len(parts)]
        tokens, elements = (
            _numbered([n if (dim in places) == of_tokens else 1 for dim, n in enumerate(value.shape)])
            for of_tokens in (True, False)
        )
        merged = Arranged(node.index, tokens.expand(value.shape), elements.expand(value.shape))
        self._put(Merged(node, value.root, grid, parts, picked), merged, grid)

    def _by_rule(self, node: Node) -> None:
        """An operator that its rule says to treat each token by itself."""
        if node.op in MOVES:
            raise NoTokens(f"{node.op} joins tokens with constants")
        if not isinstance(node.target, torch._ops.OpOverload):
            raise NoTokens(f"{node.op} is not known to keep tokens apart")
        operands = [i for i in dict.fromkeys(refs((node.args, node.kwargs))) if self.graph.nodes[i].depends]
        values = [self.values[i] for i in operands]
        first = values[0]
        grid = self.grid[first.root]
        for i, value in zip(operands, values, strict=True):
            if self.grid[value.root] != grid:
                raise NoTokens(f"{node.op} meets tokens of different grids")
            if value.of_tokens != first.of_tokens or not torch.equal(value.places, first.places):
                raise NoTokens(f"{node.op} meets tokens of different places")
            roles = [_FIRST_AXIS + dim if dim in value.of_tokens else None for dim in range(len(value.shape))]
            self.draft.nodes[i] = replace(
                self.graph.nodes[i], roles=tuple(roles), shape=value.shape, on_box=Apply()
            )
        result = first.computed(node.index, node.shape)
        call = BoundCall(self.draft, node.target, node.args, node.kwargs, result.shape)
        try:
            local = ruled(call)
        except NotLocal as reason:
            raise NoTokens(str(reason)) from None
        moves = any(not step.is_identity() for maps in local.maps for step in maps.values())
        if local.whole or moves or not isinstance(local.on_box, Apply) or local.on_box.sized:
            raise NoTokens(f"{node.op} reads several tokens")
        constants = dict.fromkeys(i for i in refs((node.args, node.kwargs)) if i not in operands)
        differing = tuple(i for i in constants if call.pointwise and _differs(self.graph.nodes[i], result))
        self._put(Each(node, grid, differing), result, grid)

    def _pooled(self, node: Node, source: int, *others: int) -> bool:
        """Whether all tokens are summed up: what follows has none."""
        value = self.values[source]
        rank = len(value.shape)
        if node.op in _POOLS:
            size = node.args[1]
            dims, few = list(range(rank - len(size), rank)), all(n == 1 for n in size)
        elif node.op in ("mean", "sum") and len(node.args) > 1 and node.args[1]:
            dims, few = [positive(dim, rank) for dim in node.args[1]], True
        else:
            return False
        if set(dims).isdisjoint(value.of_tokens):
            return False
        grid = self.grid[value.root]
        size = self.sizes[grid]
        apart = value.shape[0] == COPIES and {0, *dims} == set(value.of_tokens)
        if others or not few or not apart or not _is_all(value.places[0].flatten(), size):
            raise NoTokens(f"{node.op} sums some of the tokens")
        self.ended.add(node.index)
        self.steps.append(Pool(node, source, grid, 1 if node.op == "sum" else size))
        return True

    # -- attention -------------------------------------------------------------------------------------

    def _attention(self, node: Node) -> None:
        call = BoundCall(self.draft, node.target, node.args, node.kwargs)
        if call["is_causal"] or call.bound.get("enable_gqa") or call["dropout_p"]:
            raise NoTokens("an attention is causal, drops at random, or shares keys among heads")
        q, k, v = (reference(call[name]) for name in ("query", "key", "value"))
        mask = reference(call["attn_mask"])
        if mask >= 0 and self.graph.nodes[mask].depends:
            raise NoTokens("an attention is masked by values of the image")
        scale = self.graph.nodes[q].shape[-1] ** -0.5 if call["scale"] is None else float(call["scale"])
        queries, keys, values = self._known(q), self._known(k), self._known(v)
        order, windows, members = self._attends(queries, keys.tokens, values)
        result = queries.computed(node.index, node.shape)
        grid = self.grid[queries.root]
        scores = Scores(False, scale, (), None, mask)
        self._put(WindowAttention(node, grid, q, k, v, members, order, windows, scores), result, grid)

    def _product(self, node: Node) -> None:
        """Scores of queries and keys, or the result of an attention."""
        left, right = (reference(item) for item in node.args[:2])
        if left not in self.scores:
            keys = self._known(right)
            self.scores[node.index] = _Scores(left, right, self._known(left), keys, node)
            return
        made = self.scores[left]
        values = self._known(right)
        if not made.weights or self.graph.nodes[left].shape != made.product.shape:
            raise NoTokens("the scores of an attention are used otherwise than by a softmax")
        order, windows, members = self._attends(made.queries, made.keys.tokens.transpose(-1, -2), values)
        result = made.queries.computed(node.index, node.shape)
        grid = self.grid[made.queries.root]
        scores = Scores(True, 1.0, made.chain, made.product, -1)
        step = WindowAttention(node, grid, made.q, made.k, right, members, order, windows, scores)
        self._put(step, result, grid)

    def _attends(
        self, queries: Arranged, keys: Tensor, values: Arranged
    ) -> tuple[tuple[int, ...], tuple[int, int], Tensor]:
        """Order of dimensions, how many are of windows and heads, and the members of windows.

        Args:
            queries: Arrangement of the queries.
            keys: Tokens of the elements of the keys, in the order of dimensions of the queries.
            values: Arrangement of the values.
        """
        rank = len(queries.shape)
        alike = queries.of_tokens == values.of_tokens and torch.equal(queries.places, values.places)
        if rank < 3 or not alike or rank - 2 not in queries.of_tokens or rank - 1 in queries.of_tokens:
            raise NoTokens("an attention is not of every token of a window to all of them")
        if not torch.equal(keys, queries.tokens):
            raise NoTokens("an attention looks at other tokens than those that ask")
        windows = [dim for dim in queries.of_tokens if dim < rank - 2]
        heads = [dim for dim in queries.of_channels if dim < rank - 2]
        members = _windows(queries, windows, self.sizes[self.grid[queries.root]])
        return (*windows, *heads, rank - 2, rank - 1), (len(windows), len(heads)), members


def _numbered(sizes: Sequence[int]) -> Tensor:
    return torch.arange(math.prod(sizes), dtype=torch.int32).view(*sizes)


def _cells(start: Node) -> Arranged:
    """The cells of a value as tokens."""
    if start.roles[0] != BATCH:
        raise NoTokens("copies do not come first")
    shape = (COPIES, *start.shape[1:])
    tokens = _numbered([1 if role is None else n for role, n in zip(start.roles, shape, strict=True)])
    elements = _numbered([n if role is None else 1 for role, n in zip(start.roles, shape, strict=True)])
    return Arranged(start.index, tokens.expand(shape), elements.expand(shape))


def _differs(constant: Node, value: Arranged) -> bool:
    """Whether a constant is not the same for all tokens of a value that it is broadcast against."""
    pad = len(value.shape) - len(constant.shape)
    return any(dim >= pad and constant.shape[dim - pad] > 1 for dim in value.of_tokens)


def _is_all(places: Tensor, size: int) -> bool:
    """Whether places hold every token of a copy once."""
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
    if len(members) % COPIES or not _is_all(half[half >= 0], size):
        raise NoTokens("an attention is of some of the tokens, or of several pictures")
    return half


def _places(value: Arranged) -> list[int]:
    """Dimensions of tokens along which elements of a row do not vary."""
    high = torch.where(value.elements < 0, torch.iinfo(value.elements.dtype).max, value.elements)
    return [dim for dim in value.of_tokens if not bool((value.elements.amax(dim) > high.amin(dim)).any())]


def _parts(
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
