"""Rewrites of a graph: the same values from fewer operators.

A rewrite is a pure function from a graph to a graph. `SIMPLIFICATIONS` is run once on every captured graph,
in its order, before anybody plans or runs it. `FUSIONS` is for engines that compute what follows a
convolution where they compute the convolution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from krypton_engine.graph.ir import NO_EPILOGUE, Apply, Convolution, Graph, Node, Ref, refs
from krypton_engine.graph.operators import epilogue_of
from krypton_engine.graph.operators.convolution import CONVOLUTIONS
from krypton_engine.graph.operators.pooling import AVERAGE_POOLS

aten = torch.ops.aten


@dataclass(frozen=True)
class Rewrite:
    """One rule, and why it stands where it does in its list.

    Attributes:
        name: What it does.
        apply: The function.
        place: The reason for its place.
    """

    name: str
    apply: Callable[[Graph], Graph]
    place: str


# -- batch norm --------------------------------------------------------------------------------------------


def fold_batch_norms(graph: Graph) -> Graph:
    """Every convolution takes in the batch norm that alone reads it, computed in float64."""
    edit, reads = _Edit(graph), _reads(graph)
    for norm in graph.nodes:
        if norm.target is not aten.batch_norm.default:
            continue
        convolution, statistics = graph.nodes[norm.args[0].node], _scale_and_shift(graph, norm)
        if convolution.op not in CONVOLUTIONS or reads[convolution.index] != 1 or statistics is None:
            continue
        constants = _constants(graph, convolution)
        if constants is None:
            continue
        (weights, bias), (scale, shift) = constants, statistics
        if bias is not None:
            shift = shift + bias.double() * scale
        column = (-1,) + (1,) * (weights.dim() - 1)
        taken = (weights.double() * scale.reshape(column)).to(weights.dtype)
        refs_of = [
            edit.constant(convolution.index, f"{convolution.name}_{name}", value)
            for name, value in (("weight", taken), ("bias", shift.to(weights.dtype)))
        ]
        box = convolution.box
        if isinstance(box, Convolution):
            box = replace(box, weight=refs_of[0].node, bias=refs_of[1].node)
        edit.put(replace(convolution, args=(convolution.args[0], *refs_of, *convolution.args[3:]), box=box))
        edit.forward(norm.index, convolution.index)
    return edit.done()


def scale_batch_norms(graph: Graph) -> Graph:
    """Batch norms that are left become one multiplication and one addition by channel."""
    edit = _Edit(graph)
    for norm in graph.nodes:
        if norm.target is not aten.batch_norm.default or not norm.depends:
            continue
        statistics = _scale_and_shift(graph, norm)
        if statistics is None:
            continue
        x = norm.args[0]
        numbers = [
            edit.constant(
                norm.index,
                f"{norm.name}_{name}",
                value.to(norm.dtype).reshape(-1, *[1] * (len(norm.shape) - 2)),
                norm if norm.local else None,
            )
            for name, value in zip(("scale", "shift"), statistics, strict=True)
        ]
        args = (numbers[1], x, numbers[0])
        operands = tuple(refs(args)) if norm.local else ()
        edit.put(
            replace(
                norm,
                target=aten.addcmul.default,
                args=args,
                kwargs={},
                operands=operands,
                maps=tuple({} for _ in operands),
            )
        )
    return edit.done()


def _scale_and_shift(graph: Graph, norm: Node) -> tuple[Tensor, Tensor] | None:
    """What a batch norm multiplies by and adds, by channel in float64; None unless all is constant."""
    _, *given, training, _, eps, _ = norm.args
    values = [None if item is None else graph.nodes[item.node].value for item in given]
    if training or any(item is not None and value is None for item, value in zip(given, values, strict=True)):
        return None
    weight, bias, mean, var = (None if value is None else value.double() for value in values)
    if mean is None or var is None:
        return None
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias


def _constants(graph: Graph, convolution: Node) -> tuple[Tensor, Tensor | None] | None:
    """Weights and bias of a convolution; None if these are not constant."""
    weight, bias = (*convolution.args[1:3], None)[:2]
    weights = graph.nodes[weight.node].value
    shift = None if bias is None else graph.nodes[bias.node].value
    if weights is None or (shift is None) != (bias is None) or convolution.kwargs:
        return None
    return weights, shift


# -- an average pooling before a convolution ---------------------------------------------------------------


def pool_fewer_channels(graph: Graph) -> Graph:
    """An average pooling follows the convolution that alone reads it where that leaves fewer channels.

    Such a convolution weighs channels only: the two commute, but for the bias, which comes after both, since
    a pooling that counts its padding would diminish it at the border.
    """
    edit, reads = _Edit(graph), _reads(graph)
    for convolution in graph.nodes:
        if convolution.op not in CONVOLUTIONS:
            continue
        pool = graph.nodes[convolution.args[0].node]
        if pool.op not in AVERAGE_POOLS or reads[pool.index] != 1 or pool.local != convolution.local:
            continue
        constants = _constants(graph, convolution)
        if constants is None:
            continue
        weights, bias = constants
        strides = convolution.args[3] if len(convolution.args) > 3 else [1]
        if not (
            weights.shape[0] < weights.shape[1] == pool.shape[1]
            and {*weights.shape[2:], *strides} == {1}
            and graph.nodes[pool.args[0].node].shape[2:] == pool.shape[2:] == convolution.shape[2:]
        ):
            continue
        box = convolution.box
        weighed = edit.add(
            convolution.index,
            replace(
                convolution,
                args=(pool.args[0], convolution.args[1], None, *convolution.args[3:]),
                box=replace(box, bias=None) if isinstance(box, Convolution) else box,
                operands=pool.operands,
            ),
        )
        last = replace(
            convolution,
            op=pool.op,
            target=pool.target,
            args=(weighed, *pool.args[1:]),
            kwargs=pool.kwargs,
            box=pool.box,
            operands=(weighed.node,) if pool.local else (),
            maps=pool.maps,
            whole=pool.whole,
        )
        if bias is not None:
            column = bias.reshape(-1, *[1] * (len(convolution.shape) - 2))
            added = edit.constant(convolution.index, f"{convolution.name}_shift", column)
            pooled = edit.add(convolution.index, last)
            operands = (pooled.node, added.node) if pool.local else ()
            last = replace(
                convolution,
                op="add",
                target=aten.add.Tensor,
                args=(pooled, added),
                kwargs={},
                box=Apply() if pool.local else None,
                operands=operands,
                maps=tuple({} for _ in operands),
                whole=frozenset(),
            )
        edit.put(last)
    return edit.done()


# -- what follows a convolution ----------------------------------------------------------------------------


def fuse_additions(graph: Graph) -> Graph:
    """Every convolution takes in the addition that alone reads it; the other value becomes its operand.

    Of two convolutions that are added, the second operand takes the first in.
    """
    fused: dict[int, Node] = {}
    for addition in graph.nodes:
        if not adds_residual(graph, addition):
            continue
        for mine, other in (reversed(addition.operands), addition.operands):
            if _takes_in(graph, graph.nodes[mine]):
                fused[addition.index] = _joined(graph.nodes[mine], addition, (other,), residual=True)
                break
    return _with(graph, fused)


def fuse_epilogues(graph: Graph) -> Graph:
    """Every convolution ends with the activation that alone reads it."""
    fused: dict[int, Node] = {}
    for convolution in graph.nodes:
        if _takes_in(graph, convolution):
            ((reader, _),) = graph.readers[convolution.index]
            activation = graph.nodes[reader]
            epilogue = epilogue_of(activation)
            if epilogue is not None and activation.dtype == convolution.dtype:
                fused[reader] = _joined(convolution, activation, (), epilogue=epilogue)
    return _with(graph, fused)


def adds_residual(graph: Graph, node: Node) -> bool:
    """Whether ``node`` adds two changing values cell by cell, so that what computes one may add the other."""
    # A sum that is clipped may not be recomputed where its box ends and that of the other value goes on.
    return (
        not graph.clips
        and node.op == "add"
        and len(node.operands) == len(node.args) == 2
        and not node.kwargs
        and node.operands[0] != node.operands[1]
        and all(node.same_cells(i) for i in range(2))
        and all(
            (other.depends, other.shape, other.dtype) == (True, node.shape, node.dtype)
            for other in (graph.nodes[i] for i in node.operands)
        )
    )


def _takes_in(graph: Graph, node: Node) -> bool:
    """Whether ``node`` is a convolution along axes only that one node reads and no activation ends yet."""
    box, spatial = node.box, node.roles[2:]
    return (
        isinstance(box, Convolution)
        and box.epilogue == NO_EPILOGUE
        and None not in spatial
        and len(graph.readers[node.index]) == 1
        and node.index not in {frontier.index for frontier in graph.frontiers}
    )


def _joined(convolution: Node, after: Node, operands: tuple[int, ...], **fields: Any) -> Node:
    """``after`` as the end of the convolution that it reads."""
    assert isinstance(convolution.box, Convolution)
    steps = (*(convolution.box.steps or (convolution.index,)), after.index)
    return replace(
        after,
        box=replace(convolution.box, steps=steps, **fields),
        operands=(*convolution.operands, *operands),
        maps=(*convolution.maps, *({} for _ in operands)),
        whole=convolution.whole,
    )


def _with(graph: Graph, fused: Mapping[int, Node]) -> Graph:
    """``graph`` with fused nodes; what they have taken in keeps its number, and is no longer local."""
    nodes = [fused.get(node.index, node) for node in graph.nodes]
    for node in fused.values():
        assert isinstance(node.box, Convolution)
        taken = node.box.steps[-2]
        nodes[taken] = replace(nodes[taken], box=None, operands=(), maps=(), whole=frozenset())
    return replace(graph, nodes=nodes)


# -- editing -----------------------------------------------------------------------------------------------


class _Edit:
    """A graph's nodes with others in their places."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._count = len(graph.nodes)
        self._before: dict[int, list[Node]] = {}
        self._put: dict[int, Node] = {}
        self._forwards: dict[int, int] = {}

    def add(self, before: int, node: Node) -> Ref:
        """A reference to ``node`` as a further one, right before another."""
        self._before.setdefault(before, []).append(replace(node, index=self._count))
        self._count += 1
        return Ref(self._count - 1)

    def constant(self, before: int, name: str, value: Tensor, like: Node | None = None) -> Ref:
        """A reference to a further constant; its dimensions run along the axes of those of ``like``."""
        roles: tuple[int | None, ...] = (None,) * value.dim()
        if like is not None:
            last = like.roles[len(like.roles) - value.dim() :]
            roles = tuple(role if n > 1 else None for role, n in zip(last, value.shape, strict=True))
            if any(role is not None for role in roles):  # of the rank of what it meets
                value = value.reshape(*[1] * (len(like.shape) - value.dim()), *value.shape)
                roles = (None,) * (len(like.shape) - len(roles)) + roles
        shape = tuple(value.shape)
        return self.add(before, Node(-1, name, "constant", shape, roles, value.dtype, value=value))

    def put(self, node: Node) -> None:
        """``node`` in the place of that of its number."""
        self._put[node.index] = node

    def forward(self, index: int, to: int) -> None:
        """Readers of one node read another, which comes earlier."""
        self._forwards[index] = to

    def done(self) -> Graph:
        """The graph with all of that; ``graph`` itself where that is nothing."""
        if not self._put and not self._forwards:
            return self._graph
        nodes = []
        for node in self._graph.nodes:
            nodes += self._before.get(node.index, [])
            if node.index not in self._forwards:
                nodes.append(self._put.get(node.index, node))
        number = {node.index: i for i, node in enumerate(nodes)}
        number |= {index: number[to] for index, to in self._forwards.items()}
        return _renumbered(self._graph, nodes, number)


def _reads(graph: Graph) -> Counter[int]:
    """How often each value is read, the result once more."""
    counted = Counter(i for node in graph.nodes for i in refs((node.args, node.kwargs)))
    counted[graph.output] += 1
    return counted


def pruned(graph: Graph) -> Graph:
    """``graph`` without nodes that its output does not need, renumbered."""
    needed = {graph.output, *graph.inputs}
    for node in reversed(graph.nodes):
        if node.index in needed:
            needed |= set(refs((node.args, node.kwargs))) | set(node.operands)
            if isinstance(node.box, Convolution):
                needed |= {i for i in (node.box.weight, node.box.bias) if i is not None}
    kept = [node for node in graph.nodes if node.index in needed]
    return _renumbered(graph, kept, {node.index: i for i, node in enumerate(kept)})


def _renumbered(graph: Graph, nodes: Sequence[Node], number: Mapping[int, int]) -> Graph:
    """A graph of ``nodes``, whose numbers until now are the keys of ``number``."""

    def new(item: Any) -> Any:
        if isinstance(item, Ref):
            return Ref(number[item.node])
        if isinstance(item, (tuple, list)):
            return type(item)(new(part) for part in item)
        if isinstance(item, Mapping):
            return {key: new(part) for key, part in item.items()}
        return item

    def boxed(box: Any) -> Any:
        if not isinstance(box, Convolution):
            return box
        bias = None if box.bias is None else number[box.bias]
        return replace(box, weight=number[box.weight], bias=bias, steps=tuple(number[i] for i in box.steps))

    return replace(
        graph,
        nodes=[
            replace(
                node,
                index=i,
                args=new(node.args),
                kwargs=new(node.kwargs),
                operands=tuple(number[operand] for operand in node.operands),
                box=boxed(node.box),
            )
            for i, node in enumerate(nodes)
        ],
        inputs=tuple(number[i] for i in graph.inputs),
        output=number[graph.output],
    )


# -- the rules ---------------------------------------------------------------------------------------------

SIMPLIFICATIONS = (
    Rewrite("drop what is not needed", pruned, "first: who is not needed does not count as a reader"),
    Rewrite(
        "fold batch norms",
        fold_batch_norms,
        "next, while a batch norm still has its statistics, which in float64 lose nothing",
    ),
    Rewrite(
        "scale by batch norms that are left",
        scale_batch_norms,
        "after those that fold are gone: rounded numbers could not be folded as exactly",
    ),
    Rewrite(
        "pool fewer channels",
        pool_fewer_channels,
        "then, since the bias that comes after the pooling is that of the folded convolution",
    ),
    Rewrite("drop what is not needed any more", pruned, "last: weights, and a batch norm's numbers"),
)
"""Rules that every captured graph is rewritten by, in order."""


def simplified(graph: Graph) -> Graph:
    """``graph`` after all of `SIMPLIFICATIONS`."""
    for rewrite in SIMPLIFICATIONS:
        graph = rewrite.apply(graph)
    return graph


FUSIONS = (
    Rewrite("fuse additions", fuse_additions, "first: an activation follows the sum, not what is summed"),
    Rewrite("fuse epilogues", fuse_epilogues, "last: nothing is taken in behind an activation"),
)
"""Rules for engines that add and apply activations to a convolution's result where they compute it."""


def fused(graph: Graph) -> Graph:
    """``graph`` after all of `FUSIONS`.

    Numbers of nodes stay, so that a plan of ``graph`` is one of the fused graph too. What a fused node has
    taken in stays where it was as well, but is no longer local: in full, the nodes run one by one as before.
    """
    for rewrite in FUSIONS:
        graph = rewrite.apply(graph)
    return graph
