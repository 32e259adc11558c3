"""Dimensions of one row that a function around a network adds: ``vmap``, loops over rows, ``x[None]``.

They are left out of operators that do not mind them, up to where the dimension goes again, so that what
lies between is the image that the network was written for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from krypton_engine.graph.box_operators import Apply
from krypton_engine.graph.ir import Graph, Node, Rows, redirected, refs
from krypton_engine.graph.operators import arguments
from krypton_engine.graph.operators.base import positive
from krypton_engine.graph.operators.pointwise import is_pointwise
from krypton_engine.graph.rewrites.editing import Edit, pruned

aten = torch.ops.aten

_ADDS, _DROPS = ("reshape", "unsqueeze"), ("reshape", "select")
_ALONG = ("cat", "slice", "softmax", "log_softmax")
_REDUCTIONS = ("mean", "sum", "amax", "amin")


def drop_rows_of_one(graph: Graph) -> Graph:
    """``graph`` without second dimensions of one that come and go.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> def by_rows(x):
        ...     return torch.vmap(lambda row: model(row[None])[0])(x)
        >>> graph = capture(Source(by_rows, (x,)))
        >>> [node.op for node in graph.nodes if node.local and node.axes]
        ['input', 'conv2d', 'relu', 'max_pool2d', 'conv2d', 'relu', 'reshape', 'reshape']
    """
    while (made := _Narrowing(graph).done()) is not graph:  # one function may be inside another
        graph = pruned(made)
    return graph


class _Narrowing:
    """A graph, node by node, and for nodes with such a dimension a value without."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._edit = Edit(graph)
        self._instead: dict[int, int] = {}
        self._narrow: dict[int, Node] = {}
        for node in graph.nodes:
            if node.depends and node.shape and isinstance(node.target, torch._ops.OpOverload):
                self._visit(node)

    def done(self) -> Graph:
        """The new graph."""
        return self._edit.done()

    def _visit(self, node: Node) -> None:
        read = [
            self._instead.get(i, i) for i in refs((node.args, node.kwargs)) if self._graph.nodes[i].depends
        ]
        first = self._graph.nodes[read[0]] if read and read[0] < len(self._graph.nodes) else None
        given = arguments(node.target, node.args, node.kwargs)
        narrow = self._narrow.get(read[0]) if read else None
        if node.op == "permute" and list(given["dims"]) == list(range(len(node.shape))):
            self._forward(node, read[0])
        elif narrow is not None and node.op in _DROPS and _restores(node, narrow):
            self._forward(node, narrow.index)
        elif node.op in _ADDS and first is not None and _adds_a_row(node, first, given):
            self._narrow[node.index] = first
        elif narrow is not None and is_pointwise(node.target) and all(i in self._narrow for i in read):
            self._write(node, node.args, node.kwargs)
        elif narrow is not None and node.op in _ALONG and all(i in self._narrow for i in read):
            dim = positive(given["dim"], len(node.shape))
            if dim > 1:
                self._write(node, (node.args[0], dim - 1, *node.args[2:]), node.kwargs)
        elif narrow is not None and node.op in _REDUCTIONS and given.get("dim"):
            dims = [positive(dim, len(narrow.shape) + 1) for dim in given["dim"]]
            if min(dims) > 1:
                self._write(node, (node.args[0], [dim - 1 for dim in dims], *node.args[2:]), node.kwargs)

    def _forward(self, node: Node, to: int) -> None:
        """Let the readers of a node read another one."""
        self._edit.forward(node.index, to)
        self._instead[node.index] = to
        if to in self._narrow:
            self._narrow[node.index] = self._narrow[to]

    def _write(self, node: Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """``node`` on values without the dimension, if its constants can do without as well."""
        constants = [i for i in refs((node.args, node.kwargs)) if not self._graph.nodes[i].depends]
        if any(len(self._graph.nodes[i].shape) >= len(node.shape) - 1 for i in constants):
            return

        def narrow(index: int) -> int:
            return self._narrow[index].index if index in self._narrow else index

        shape, roles = (node.shape[0], *node.shape[2:]), (*node.roles[:1], *node.roles[2:])
        made = replace(
            node,
            name=f"{node.name}_row",
            shape=shape,
            roles=roles,
            args=redirected(tuple(args), narrow),
            kwargs=redirected(kwargs, narrow),
            operands=tuple(map(narrow, node.operands)),
        )
        ref = self._edit.add(node.index, made)
        self._narrow[node.index] = replace(made, index=ref.node)
        widened = replace(
            node,
            op="reshape",
            target=aten.reshape.default,
            args=(ref, [Rows(1), *node.shape[1:]]),
            kwargs={},
            whole=frozenset(),
            macs=0,
        )
        if node.local:
            widened = replace(widened, operands=(ref.node,), maps=({},), on_box=Apply(sized=True))
        self._edit.put(widened)


def _restores(node: Node, narrow: Node) -> bool:
    """Whether a node, which has as many elements, is the value without the dimension."""
    return (node.shape, node.roles, node.dtype) == (narrow.shape, narrow.roles, narrow.dtype)


def _adds_a_row(node: Node, operand: Node, given: Mapping[str, Any]) -> bool:
    """Whether a node is its operand with a second dimension of one."""
    if node.op == "unsqueeze":
        dim = positive(given["dim"], len(node.shape))
        return dim > 0 and all(n == 1 for n in node.shape[1:dim])
    batch = given["shape"][0] == Rows(1)
    return batch and node.shape == (operand.shape[0], 1, *operand.shape[1:]) and node.shape[0] == 1
