"""The search for tokens: a walk over the operators of a graph, each by the rule of its family."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import torch

from krypton_engine.graph.box_operators import Apply, Reindex
from krypton_engine.graph.draft import BoundCall, Draft
from krypton_engine.graph.ir import BATCH, Graph, Node, Ref, Roles, refs
from krypton_engine.graph.operators import Local, NotLocal, ruled
from krypton_engine.graph.regions import IndexMap
from krypton_engine.graph.tokens.dimensions import Dimensions, Regrouped
from krypton_engine.graph.tokens.scores import Scores
from krypton_engine.graph.tokens.steps import (
    KEYS,
    TOKENS,
    Attention,
    Begin,
    Layout,
    Narrow,
    NoTokens,
    PerToken,
    Pick,
    Pooled,
    Step,
    Tokens,
    last_of_cells,
)

_FIRST_CELLS = 10
"""Role of the first axis of the cells that become tokens; the other axes follow."""

_RESHAPES = {"view", "reshape", "_unsafe_view"}
_PRODUCTS = {"matmul", "bmm"}


def find_tokens(graph: Graph) -> Tokens:
    """The tokens of a graph.

    Raises:
        NoTokens: The graph has none, or mixes them otherwise than by attention to all of them.

    Examples:
        >>> find_tokens(graph)
        Traceback (most recent call last):
            ...
        krypton_engine.graph.tokens.steps.NoTokens: no row of tokens is made of its cells, which reshape reads
    """
    return _Search(graph, last_of_cells(graph)).found()


class _Search:
    """A walk over the nodes behind a start, each of which becomes a step."""

    def __init__(self, graph: Graph, start: Node) -> None:
        self.graph = graph
        self.start = start
        self.draft = Draft(None, graph.nodes)
        cells = [(_FIRST_CELLS + axis, start.size(axis)) for axis in start.axes]
        self.dimensions = Dimensions(cells, TOKENS)
        self.patches = math.prod(n for _, n in cells)
        self.steps: list[Step] = []
        self.after: list[Node] = []
        self.layouts: dict[int, Layout] = {}
        self.scores: dict[int, Scores] = {}
        self.ended: set[int] = set()
        self.fixed = itertools.count()

    def found(self) -> Tokens:
        """The tokens that the walk finds, up to the graph's output."""
        start = self.start
        roles: Roles = tuple(r if r in (BATCH, None) else _FIRST_CELLS + r for r in start.roles)
        if len(start.axes) == 1:
            roles = tuple(TOKENS if r not in (BATCH, None) else r for r in roles)
            self._add(Begin, start, roles, Layout((), self.patches, ()))
        else:
            self.draft.nodes[start.index] = replace(start, roles=roles)
        for node in self.graph.nodes[start.index + 1 :]:
            if node.depends:
                self._visit(node)
        if not self.attentions:
            raise NoTokens("no attention is computed of them")
        if self.graph.output not in self.ended:
            raise NoTokens("the output has a part for every token")
        graph = replace(self.graph, nodes=self.draft.nodes)
        return Tokens(graph, start, tuple(self.steps), self.layouts, tuple(self.after), self.dimensions)

    @property
    def attentions(self) -> bool:
        """Whether there is one so far."""
        return any(isinstance(step, Attention) for step in self.steps)

    def _visit(self, node: Node) -> None:
        operands = {i for i in refs((node.args, node.kwargs)) if self.graph.nodes[i].depends}
        if operands <= self.ended:
            self.after.append(node)
            self.ended.add(node.index)
            return
        if operands & self.ended:
            raise NoTokens(f"{node.op} joins tokens with what was made of all of them")
        if not isinstance(node.target, torch._ops.OpOverload):
            raise NoTokens(f"{node.op} is not known to keep tokens apart")
        if node.op in _RESHAPES and not operands & self.scores.keys():
            self._reshape(node, *operands)
        elif self.start.index in operands and self.start.index not in self.layouts:
            raise NoTokens(f"no row of tokens is made of its cells, which {node.op} reads")
        elif node.op == "scaled_dot_product_attention":
            self._attention(node)
        elif node.op in _PRODUCTS and len(operands) > 1:
            self._product(node)
        elif operands & self.scores.keys():
            first = node.args[0].node if isinstance(node.args[0], Ref) else -1
            if first not in self.scores:
                raise NoTokens(f"{node.op} joins an attention's scores with something of the image")
            self._score(node, self.draft.nodes[first].roles, self.scores[first].after(node, self.graph))
        else:
            self._by_rule(node)

    def _add(self, kind: Callable[[Node], Step], node: Node, roles: Roles, layout: Layout) -> None:
        """A step whose result is a value of tokens."""
        node = replace(node, roles=roles, on_box=node.on_box or Apply())
        self.draft.nodes[node.index] = node
        self.layouts[node.index] = layout
        self.steps.append(kind(node))

    def _node(self, item: object) -> Node:
        """The value of tokens that an argument refers to."""
        if isinstance(item, Ref) and item.node in self.layouts:
            return self.draft.nodes[item.node]
        raise NoTokens("an attention reads what is no value of tokens")

    # -- one node --------------------------------------------------------------------------------------

    def _reshape(self, node: Node, *operands: int) -> None:
        source = self.draft.nodes[operands[0]]
        try:
            roles, begins = self.dimensions.reshaped(source.roles, source.shape, node.args[1])
        except Regrouped:
            raise NoTokens(f"{node.op} regroups tokens") from None
        if not begins and source.index not in self.layouts:
            raise NoTokens(f"no row of tokens is made of its cells, which {node.op} reads")
        layout = Layout((), self.patches, ()) if begins else self.layouts[source.index]
        self._add(Begin if begins else PerToken, replace(node, on_box=Apply(sized=True)), roles, layout)

    def _by_rule(self, node: Node) -> None:
        call = BoundCall(self.draft, node.target, node.args, node.kwargs, node.shape)
        try:
            local = ruled(call)
        except NotLocal as reason:
            raise NoTokens(str(reason)) from None
        args = node.args if local.args is None else local.args
        kwargs = node.kwargs if local.kwargs is None else local.kwargs
        node = replace(node, args=args, kwargs=kwargs, on_box=local.on_box, operands=local.operands)
        if local.whole:
            self._end(node, call, local)
        elif isinstance(local.on_box, Reindex):
            self._moved(node, local)
        else:
            layouts = {self.layouts[i] for i in local.operands if i in self.layouts}
            if len(layouts) > 1:
                raise NoTokens(f"{node.op} meets tokens of different kinds")
            for i in local.operands:
                constant = self.draft.nodes[i]
                if not constant.depends and any(self.dimensions.is_several(r) for r in constant.roles):
                    raise NoTokens(f"{node.op} meets a constant with tokens and heads in one dimension")
            self._add(PerToken, node, local.roles, *layouts)

    def _end(self, node: Node, call: BoundCall, local: Local) -> None:
        """One token is picked, or all are summed up: what follows has no tokens."""
        (source,) = local.operands
        layout = self.layouts[source]
        if local.whole != {TOKENS} or node.op not in ("select", "mean", "sum"):
            raise NoTokens(f"{node.op} reads all tokens")
        self.ended.add(node.index)
        if node.op != "select":
            if len(call["dim"]) != 1:
                raise NoTokens(f"{node.op} runs over tokens and channels at once")
            self.steps.append(Pooled(node, source, len(layout) if node.op == "mean" else 1))
            return
        patch, number = layout.labels()[call["index"]]
        if patch:
            raise NoTokens("a patch is picked out")
        self.steps.append(Pick(node, source, layout.column(number)))

    def _moved(self, node: Node, local: Local) -> None:
        """Tokens side by side, or some of them."""
        labels: list[tuple[bool, int]] = [(False, -1)] * node.shape[local.roles.index(TOKENS)]
        for operand, maps in zip(local.operands, local.maps, strict=True):
            step = maps[TOKENS]
            assert isinstance(step, IndexMap)
            known = operand in self.layouts
            new = [(False, next(self.fixed)) for _ in range(0 if known else step.n_in)]
            each = self.layouts[operand].labels() if known else new
            for i, cell in enumerate(step.source):
                if cell >= 0:
                    labels[i] = each[cell]
        layout = Layout.of(labels, self.patches)
        if node.op == "cat":
            self._add(PerToken, replace(node, on_box=Apply()), local.roles, layout)
            return
        (source,) = local.operands
        before = self.layouts[source].labels()
        first = before.index(labels[0])
        if before[first : first + len(labels)] != labels:
            raise NoTokens(f"{node.op} puts tokens in another order")
        if first > len(self.layouts[source].before):
            first -= len(before)

        def narrow(node: Node) -> Narrow:
            return Narrow(node, source, first, len(layout) - layout.patches, bool(layout.patches))

        self._add(narrow, replace(node, on_box=Apply()), local.roles, layout)

    # -- attention -------------------------------------------------------------------------------------

    def _attention(self, node: Node) -> None:
        call = BoundCall(self.draft, node.target, node.args, node.kwargs)
        if call["is_causal"] or call.bound.get("enable_gqa") or call["dropout_p"]:
            raise NoTokens("an attention is causal, drops at random, or shares keys among heads")
        q, k, v = (self._node(call[name]) for name in ("query", "key", "value"))
        mask = call["attn_mask"]
        if mask is not None and (not isinstance(mask, Ref) or self.graph.nodes[mask.node].depends):
            raise NoTokens("an attention is masked by values of the image")
        scale = q.shape[-1] ** -0.5 if call["scale"] is None else float(call["scale"])
        biases = () if mask is None else ((mask.node, 1.0),)
        self._attend(node, q, k, v, scale, biases, transposed=False)

    def _attend(
        self,
        node: Node,
        q: Node,
        k: Node,
        v: Node,
        scale: float,
        biases: tuple[tuple[int, float], ...],
        transposed: bool,
    ) -> None:
        expected = (TOKENS, None)
        found = {q.roles[-2:], v.roles[-2:], k.roles[-2:][::-1] if transposed else k.roles[-2:]}
        alike = q.roles[:-2] == k.roles[:-2] == v.roles[:-2] and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
        if found != {expected} or not alike or not self.dimensions.heads_follow_copies(q.roles[:-2]):
            raise NoTokens("an attention is not of every token to all, head by head")
        layouts = {self.layouts[each.index] for each in (q, k, v)}
        if len(layouts) > 1:
            raise NoTokens("an attention looks at other tokens than those that ask")

        def attention(node: Node) -> Attention:
            return Attention(node, q.index, k.index, v.index, scale, biases, transposed)

        self._add(attention, node, (*q.roles[:-1], None), *layouts)

    def _product(self, node: Node) -> None:
        """Scores of queries and keys, or the result of an attention."""
        left, right = (self.draft.nodes[i] for i in refs(node.args[:2]))
        if left.index in self.scores:
            scores = self.scores[left.index]
            if not scores.weights or right.index not in self.layouts:
                raise NoTokens("the scores of an attention are used otherwise than by a softmax")
            q, k = self.draft.nodes[scores.q], self.draft.nodes[scores.k]
            self._attend(node, q, k, right, scores.scale, scores.biases, transposed=True)
            return
        if left.index not in self.layouts or right.index not in self.layouts:
            raise NoTokens(f"{node.op} of two values that are no queries and keys")
        if left.roles[-2:] != (TOKENS, None) or right.roles[-2:] != (None, TOKENS):
            raise NoTokens(f"{node.op} mixes tokens otherwise than by scores of queries and keys")
        self._score(node, left.roles[:-1], Scores(left.index, right.index))

    def _score(self, node: Node, roles: Roles, scores: Scores) -> None:
        self.draft.nodes[node.index] = replace(node, roles=(*roles[: len(node.shape) - 1], KEYS))
        self.scores[node.index] = scores
