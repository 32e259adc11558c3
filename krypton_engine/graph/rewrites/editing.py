"""Edits of a graph: nodes replaced, added or dropped, and all of them numbered anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from krypton_engine.graph.box_operators import BoxOperator, Convolution, TransposedConvolution
from krypton_engine.graph.ir import Graph, Node, Ref, redirected, refs


class Edit:
    """A graph with some of its nodes replaced, and further ones before them; see `done`."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._count = len(graph.nodes)
        self._before: dict[int, list[Node]] = {}
        self._put: dict[int, Node] = {}
        self._forwards: dict[int, int] = {}

    def add(self, before: int, node: Node) -> Ref:
        """A reference to ``node`` as a further one, right before another.

        Examples:
            >>> edit = Edit(graph)
            >>> twice = edit.add(9, replace(graph.nodes[8], name="again", args=(Ref(8),)))
            >>> edit.put(replace(graph.nodes[9], args=(twice, *graph.nodes[9].args[1:])))
            >>> [node.name for node in edit.done().nodes[7:11]]
            ['0', '1', 'again', '2']
        """
        self._before.setdefault(before, []).append(replace(node, index=self._count))
        self._count += 1
        return Ref(self._count - 1)

    def constant(self, before: int, name: str, value: Tensor, like: Node | None = None) -> Ref:
        """A reference to a further constant; its dimensions run along the axes of those of ``like``.

        Examples:
            >>> edit = Edit(graph)
            >>> gain = edit.constant(8, "gain", torch.ones(8, 1, 1))
            >>> edit.put(replace(graph.nodes[8], op="mul", args=(Ref(7), gain)))
            >>> made = edit.done()
            >>> made.nodes[8].name, made.nodes[9].args
            ('gain', (Ref(node=7), Ref(node=8)))
        """
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
        """Replace the node of the same number.

        Examples:
            >>> edit = Edit(graph)
            >>> edit.put(replace(graph.nodes[8], op="tanh"))
            >>> edit.done().nodes[8].op, graph.nodes[8].op
            ('tanh', 'relu')
        """
        self._put[node.index] = node

    def forward(self, index: int, to: int) -> None:
        """Let the readers of a node read another one, which comes earlier.

        Examples:
            >>> edit = Edit(graph)
            >>> edit.forward(8, to=7)  # a convolution in place of the activation that reads it
            >>> [node.op for node in edit.done().nodes[6:10]]
            ['input', 'conv2d', 'max_pool2d', 'conv2d']
        """
        self._forwards[index] = to

    def done(self) -> Graph:
        """The edited graph; the original one where nothing was edited.

        Examples:
            >>> Edit(graph).done() is graph
            True
        """
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


def reads_of(graph: Graph) -> Counter[int]:
    """The number of readings of each value, by node; the output of the graph counts as one more.

    Examples:
        >>> reads = reads_of(graph)
        >>> reads[graph.input.index], reads[graph.output]
        (1, 1)
    """
    counted = Counter(i for node in graph.nodes for i in refs((node.args, node.kwargs)))
    counted[graph.output] += 1
    return counted


def pruned(graph: Graph) -> Graph:
    """``graph`` without nodes that its output does not need, renumbered.

    Examples:
        >>> [node.op for node in pruned(replace(graph, output=8)).nodes]
        ['constant', 'constant', 'input', 'conv2d', 'relu']
    """
    needed = {graph.output, *graph.inputs}
    for node in reversed(graph.nodes):
        if node.index in needed:
            needed |= set(refs((node.args, node.kwargs))) | set(node.operands)
            if isinstance(node.on_box, (Convolution, TransposedConvolution)):
                needed |= {i for i in (node.on_box.weight, node.on_box.bias) if i is not None}
    kept = [node for node in graph.nodes if node.index in needed]
    return _renumbered(graph, kept, {node.index: i for i, node in enumerate(kept)})


def _renumbered(graph: Graph, nodes: Sequence[Node], number: Mapping[int, int]) -> Graph:
    """A graph of ``nodes``, whose numbers until now are the keys of ``number``."""

    def renumbered(operator: BoxOperator | None) -> BoxOperator | None:
        if not isinstance(operator, (Convolution, TransposedConvolution)):
            return operator
        bias = None if operator.bias is None else number[operator.bias]
        moved = replace(operator, weight=number[operator.weight], bias=bias)
        if isinstance(moved, TransposedConvolution):
            return moved
        return replace(moved, steps=tuple(number[i] for i in moved.steps))

    return replace(
        graph,
        nodes=[
            replace(
                node,
                index=i,
                args=redirected(node.args, number.__getitem__),
                kwargs=redirected(node.kwargs, number.__getitem__),
                operands=tuple(number[operand] for operand in node.operands),
                on_box=renumbered(node.on_box),
            )
            for i, node in enumerate(nodes)
        ],
        inputs=tuple(number[i] for i in graph.inputs),
        output=number[graph.output],
    )
