"""A graph as sessions of the reference executor read it: its weights laid out, its values given places."""

from __future__ import annotations

from dataclasses import dataclass

from krypton_engine.executors.tail import Tail, last_uses, overwriting, weights_of
from krypton_engine.graph.box_operators import Apply, Convolution, Pool
from krypton_engine.graph.ir import Graph, Node, refs
from krypton_engine.graph.operators import facts
from krypton_engine.graph.regions import WindowMap
from krypton_engine.graph.views import needs_view


class Prepared:
    """A graph made ready: weights in channels-last layout, and which values are written where."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants = weights_of(graph)
        self.frontiers = [node.index for node in graph.frontiers]
        self.tail = Tail(graph, [node for node in graph.nodes if node.depends and not node.local])
        self.last_use = last_uses(graph, graph.nodes)
        self.in_place = overwriting(graph)
        self.into_view = {
            node.index
            for node in graph.nodes
            if facts(node).out is not None
            and isinstance(node.on_box, Apply)
            and node.index not in self.frontiers
            and needs_view(graph, node)
        }
        self.parts = {
            index: part
            for node in graph.nodes
            if facts(node).joins and node.index in self.into_view
            for index, part in _parts(node, graph).items()
            if index in self.into_view
        }
        self.evenly_padded = {node.index for node in graph.nodes if _is_evenly_padded(node)}
        self.shrinkable = [
            node.index
            for node in graph.nodes
            if node.local and node.axes and node.operands and not self._only_passed_on(node)
        ]

    def _only_passed_on(self, node: Node) -> bool:
        """Whether ``node`` is read once, cell by cell, so that cutting its reader's boxes cuts as much."""
        if node.index in self.frontiers or len(self.graph.readers[node.index]) != 1:
            return False
        ((reader, i),) = self.graph.readers[node.index]
        other = self.graph.nodes[reader]
        return isinstance(other.on_box, Apply) and other.same_cells(i)


@dataclass(frozen=True)
class _Part:
    """A value that is part of a concatenation, and nothing else: from ``first`` on along ``dim``."""

    whole: int
    dim: int
    first: int


def _parts(concatenation: Node, graph: Graph) -> dict[int, _Part]:
    """Operands that only this concatenation reads, with their place in it."""
    dim = concatenation.args[1] if len(concatenation.args) > 1 else concatenation.kwargs.get("dim", 0)
    read = list(refs(concatenation.args))
    sizes = [graph.nodes[i].shape[dim] for i in read]
    return {
        i: _Part(concatenation.index, dim, sum(sizes[:k]))
        for k, i in enumerate(read)
        if len(graph.readers[i]) == 1 == read.count(i) and graph.nodes[i].dtype == concatenation.dtype
    }


def _is_evenly_padded(node: Node) -> bool:
    """Whether the operator's own padding, the same on both sides, gives the output's size."""
    if isinstance(node.on_box, Pool):
        return True
    if not isinstance(node.on_box, Convolution):
        return False
    steps = node.maps[0].values()
    return all(
        isinstance(step, WindowMap)
        and step.n_out == (step.n_in + 2 * step.padding - step.extent_read(1)) // step.stride + 1
        for step in steps
    )
