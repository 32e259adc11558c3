"""The search for tokens on grids: attention in windows, grids that become coarser, a mean at the end.

What moves tokens about between the layers (partitions into windows and back, shifts, paddings, heads) is
followed element by element; see `krypton_engine.graph.tokens.arrangement`. Everything else has to treat each
token by itself, to compute it from those that lie near, as a convolution does, to meet all of them with
something of their sum, as a gate does, or to be an attention of the tokens of a window to one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from krypton_engine.graph.box_operators import Apply, BoxOperator, Convolution
from krypton_engine.graph.box_operators import Pool as PoolOnBox
from krypton_engine.graph.draft import BoundCall, Draft
from krypton_engine.graph.ir import BATCH, Graph, Node, refs
from krypton_engine.graph.operators import Local, NotLocal, ruled
from krypton_engine.graph.operators.base import RULES, positive
from krypton_engine.graph.operators.pointwise import pointwise
from krypton_engine.graph.tokens.arrangement import COPIES, Arranged, is_move, moved, reference
from krypton_engine.graph.tokens.grid_steps import (
    Cells,
    Each,
    Grids,
    Merged,
    Nearby,
    Pool,
    Scores,
    Step,
    Whole,
    WindowAttention,
)
from krypton_engine.graph.tokens.products import Product, product_of
from krypton_engine.graph.tokens.regrouping import parts_nearby, parts_of_rows, places_of_rows
from krypton_engine.graph.tokens.scores import SOFTMAX
from krypton_engine.graph.tokens.steps import MOVES, NoTokens, last_of_cells
from krypton_engine.graph.tokens.window_scores import WindowScores, attends, is_all

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
    start, attends = last_of_cells(graph), (*SOFTMAX, "scaled_dot_product_attention")
    if not any(node.depends and node.op in attends for node in graph.nodes):
        raise NoTokens("no attention is computed of its cells")
    return _Search(graph, start).found()


class _Search:
    """A walk over the nodes behind a start, each of which moves tokens or becomes a step.

    What is computed of a padding is no longer zero: ``changing`` has its nodes, each with whether positions
    change that.
    """

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
        self.scores: dict[int, WindowScores] = {}
        self.regrouped: dict[int, NoTokens] = {}
        self.resized: dict[tuple[int, tuple[int, ...]], int] = {}
        self.ended: set[int] = set()
        self.changing: dict[int, bool] = {}

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
        steps, after = self._parted()
        found = self.forms, self.places, tuple(self.sizes)
        return Grids(self.graph, self.start, steps, *found, after)

    def _parted(self) -> tuple[tuple[Step, ...], tuple[Node, ...]]:
        """The steps up to the last one of tokens, and nodes that nothing of tokens reads."""
        met = {i for step in self.steps if isinstance(step, Each) for i in step.met}
        steps, after = [], []
        for step in reversed(self.steps):
            if isinstance(step, Whole) and step.node.index not in met:
                after.append(step.node)
                continue
            if isinstance(step, Whole):
                met |= set(refs((step.node.args, step.node.kwargs)))
            steps.append(step)
        return tuple(reversed(steps)), tuple(reversed(after))

    def _visit(self, node: Node) -> None:
        operands = {i for i in refs((node.args, node.kwargs)) if self.graph.nodes[i].depends}
        if operands <= self.ended:
            self.steps.append(Whole(node))
            self.ended.add(node.index)
        elif is_move(node, self.values.__contains__) and len({self.values[i].root for i in operands}) == 1:
            self._move(node)
        elif operands & self.regrouped.keys():
            raise self.regrouped[min(operands & self.regrouped.keys())]
        elif node.op == "scaled_dot_product_attention":
            self._attention(node)
        elif len(operands) > 1 and (product := product_of(node)):
            self._product(node, product)
        elif operands & self.scores.keys():
            first = reference(node.args[0])
            if operands != {first}:
                raise NoTokens(f"{node.op} joins an attention's scores with something of the image")
            self.scores[node.index] = self.scores[first].after(node, self.graph)
        elif len(operands) > 1 or not self._pooled(node, *operands):
            self._by_rule(node)

    def _known(self, index: int) -> Arranged:
        """The arrangement of a value of tokens."""
        if index not in self.forms or index not in self.values:
            raise NoTokens("an attention reads what is no value of tokens")
        return self.values[index]

    def _put(self, step: Step, value: Arranged, grid: int, changing: bool = False) -> None:
        if _is_padded(value):
            self.changing[step.node.index] = changing
        self.steps.append(step)
        self.grid[step.node.index] = grid
        self.places[step.node.index] = value.one_copy(self.sizes[grid])
        self._name(step.node, value)

    def _check_zeros(self, node: Node, value: Arranged) -> None:
        """Raise `NoTokens` where an operator of several tokens reads of a padding what is not zero."""
        if value.root in self.changing and _is_padded(value):
            raise NoTokens(f"{node.op} reads what was computed of a padding")

    def _changes(self, *values: Arranged) -> bool:
        """Whether values hold of a padding what differs from position to position."""
        return any(self.changing.get(value.root) and _is_padded(value) for value in values)

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
        self._check_zeros(node, value)
        below, grid = self.grid[value.root], len(self.sizes)
        row = math.prod(self.forms[value.root].channels)
        places = places_of_rows(value)
        try:
            parts, picked = parts_of_rows(value, places, self.sizes[below], row, node.op)
        except NoTokens as reason:  # they may be moved on to where they are rows again
            self.values[node.index], self.regrouped[node.index] = value, reason
            return
        self.sizes.append(len(parts))
        tokens, elements = (
            _numbered([n if (dim in places) == of_tokens else 1 for dim, n in enumerate(value.shape)])
            for of_tokens in (True, False)
        )
        merged = Arranged(node.index, tokens.expand(value.shape), elements.expand(value.shape))
        self._put(Merged(node, value.root, below, grid, parts, picked), merged, grid)

    def _by_rule(self, node: Node) -> None:
        """An operator that its rule says to compute each token by itself, or from those that lie near."""
        if node.op in MOVES and not is_move(node, self.values.__contains__):
            raise NoTokens(f"{node.op} joins tokens with constants")
        if not isinstance(node.target, torch._ops.OpOverload):
            raise NoTokens(f"{node.op} is not known to keep tokens apart")
        known = [i for i in dict.fromkeys(refs((node.args, node.kwargs))) if self.graph.nodes[i].depends]
        operands, met = ([i for i in known if (i in self.ended) == ended] for ended in (False, True))
        values = [self.values[i] for i in operands]
        first = values[0]
        grid = self.grid[first.root]
        for i, value in zip(operands, values, strict=True):
            if self.grid[value.root] != grid:
                raise NoTokens(f"{node.op} meets tokens of different grids")
            if value.of_tokens != first.of_tokens or not torch.equal(value.places, first.places):
                raise NoTokens(f"{node.op} meets tokens of different places")
            roles = tuple(_role(dim) if dim in value.of_tokens else None for dim in range(len(value.shape)))
            shape = value.shape
            if _by_copy(value):
                roles, shape = (BATCH, *roles[1:]), (1, *shape[1:])
            self.draft.nodes[i] = replace(self.graph.nodes[i], roles=roles, shape=shape, on_box=Apply())
        for i in met:
            self.draft.nodes[i] = replace(self.graph.nodes[i], depends=False)
        call = BoundCall(self.draft, node.target, node.args, node.kwargs, _shape(node, first))
        try:
            local = ruled(call)
        except NotLocal as reason:
            raise NoTokens(str(reason)) from None
        apart = all(step.is_identity() for maps in local.maps for step in maps.values())
        if apart and not local.whole and _is_alike(local.on_box):
            if met and not (call.pointwise and self._is_met(first, met)):
                raise NoTokens(f"{node.op} joins tokens with what was made of all of them")
            constants = dict.fromkeys(i for i in refs((node.args, node.kwargs)) if i not in known)
            by_element = call.pointwise or RULES.get(node.op) is pointwise
            differing = [i for i in constants if by_element and _differs(self.graph.nodes[i], first)]
            aligned = [self.draft.nodes[i] for i in local.operands if i not in known]
            if not by_element and any(constant.axes for constant in aligned):
                raise NoTokens(f"{node.op} meets a constant that is another one for every token")
            result = first.computed(node.index, node.shape)
            written = replace(node, on_box=local.on_box, operands=local.operands)
            changing = bool(met) or self._changes(*values)
            if differing and not _is_each_once(first):
                raise NoTokens(f"{node.op} meets other constants where a token comes again")
            self._put(Each(written, grid, tuple(differing), tuple(met)), result, grid, changing)
        elif len(known) == 1 and not local.whole and isinstance(local.on_box, (Convolution, PoolOnBox)):
            self._nearby(node, local, *operands)
        else:
            raise NoTokens(f"{node.op} reads several tokens")

    def _is_met(self, value: Arranged, met: Sequence[int]) -> bool:
        """Whether values without tokens are broadcast along the tokens of a value, copy by copy."""
        shapes = [self.graph.nodes[i].shape for i in met]
        alike = all(len(shape) == len(value.shape) for shape in shapes)
        others = value.of_tokens[1:]
        once = _is_each_once(value) and not _is_padded(value)
        return (
            alike and once and _by_copy(value) and all(shape[dim] == 1 for shape in shapes for dim in others)
        )

    def _nearby(self, node: Node, local: Local, operand: int) -> None:
        """An operator that computes tokens from those that lie near; where cells change, of another grid."""
        value, source = self.values[operand], self.draft.nodes[operand]
        node = replace(node, roles=local.roles, on_box=local.on_box, operands=local.operands, maps=local.maps)
        if source.roles != (BATCH, None, *source.axes) or node.axes != source.axes:
            raise NoTokens(f"{node.op} reads several tokens")
        self._check_zeros(node, value)
        below, places = self.grid[value.root], value.places[0]
        parts, at = parts_nearby(node, source, places), places.flatten().long()
        sizes = tuple(node.size(axis) for axis in node.axes)
        if sizes == tuple(places.shape) and is_all(places.flatten(), self.sizes[below]):
            grid, order, result = below, at.argsort(), value.computed(node.index, node.shape)
        else:
            grid = self.resized.setdefault((below, sizes), len(self.sizes))
            if grid == len(self.sizes):
                self.sizes.append(len(parts))
            order, result = torch.arange(len(parts)), _cells(node)
        self._put(Nearby(node, operand, below, grid, parts[order], at, order), result, grid)

    def _pooled(self, node: Node, source: int) -> bool:
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
        if not few or not apart or not is_all(value.places[0].flatten(), size):
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
        scores = Scores(False, scale, (), None, mask)
        self._attend(node, (q, k, v), queries, keys, values, scores)

    def _product(self, node: Node, product: Product) -> None:
        """Scores of queries and keys, or the result of an attention."""
        left, right = product.left, product.right
        if left not in self.scores:
            both = self._known(left), self._known(right)
            self.scores[node.index] = WindowScores(left, right, *both, node, not product.transposed)
            return
        made = self.scores[left]
        values = self._known(right)
        if not made.weights or product.transposed or self.graph.nodes[left].shape != made.product.shape:
            raise NoTokens("the scores of an attention are used otherwise than by a softmax")
        scores = Scores(made.transposed, 1.0, made.chain, made.product, -1)
        self._attend(node, (made.q, made.k, right), made.queries, made.keys, values, scores)

    def _attend(
        self,
        node: Node,
        read: tuple[int, int, int],
        queries: Arranged,
        keys: Arranged,
        values: Arranged,
        scores: Scores,
    ) -> None:
        if self._changes(queries, keys, values):
            raise NoTokens("an attention reads what another one made of a padding")
        grid = self.grid[queries.root]
        if any(self.grid[each.root] != grid for each in (keys, values)):
            raise NoTokens("an attention looks at tokens of another grid than those that ask")
        looked_at = keys.tokens.transpose(-1, -2) if scores.transposed else keys.tokens
        order, windows, members = attends(queries, looked_at, values, self.sizes[grid])
        result = queries.computed(node.index, node.shape)
        step = WindowAttention(node, grid, *read, members, order, windows, scores)
        self._put(step, result, grid, changing=True)


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


def _is_padded(value: Arranged) -> bool:
    """Whether a value has places without a token."""
    return bool((value.places < 0).any())


def _is_each_once(value: Arranged) -> bool:
    """Whether a value has no token at several places."""
    known = value.places[value.places >= 0]
    return len(known.unique()) == len(known)


def _role(dim: int) -> int:
    """The role of a value's dimension of tokens."""
    return _FIRST_AXIS + dim


def _by_copy(value: Arranged) -> bool:
    """Whether a value's first dimension is that of the copies, by itself."""
    return value.shape[0] == COPIES and value.of_tokens[:1] == (0,)


def _shape(node: Node, value: Arranged) -> tuple[int, ...]:
    """Shape of what a node computes of a value: of one copy, or of two that share a dimension with tokens."""
    if _by_copy(value):
        return node.shape
    return tuple(value.shape[dim] if dim in value.of_tokens else n for dim, n in enumerate(node.shape))


def _is_alike(operator: BoxOperator) -> bool:
    """Whether an operator treats every cell alike where each reads its own alone."""
    return isinstance(operator, Convolution) or (isinstance(operator, Apply) and not operator.sized)


def _differs(constant: Node, value: Arranged) -> bool:
    """Whether a constant is not the same for all tokens of a value that it is broadcast against."""
    pad = len(value.shape) - len(constant.shape)
    return any(dim >= pad and constant.shape[dim - pad] > 1 for dim in value.of_tokens)
