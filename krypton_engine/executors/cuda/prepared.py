"""A graph as sessions on a GPU read it: fused, its weights laid out, and what was measured of it."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Hashable, Sequence
from types import ModuleType

from krypton_engine.executors.cuda.arena import drop
from krypton_engine.executors.grouping import WindowBins
from krypton_engine.executors.tail import Tail, overwriting, weights_of
from krypton_engine.graph.box_operators import Convolution
from krypton_engine.graph.ir import Graph, Node, refs
from krypton_engine.graph.operators.pooling import averages_cells
from krypton_engine.graph.rewrites import fused

_LARGEST_TAIL_TENSOR = 512 * 2**20


class Prepared:
    """A graph made ready for the GPU, where kernels of ours finish convolutions as the fused graph has it.

    Args:
        graph: The graph as it was captured.
        kernels: The module of ``csrc/cuda``.

    Attributes:
        graph: The fused graph.
        constants: Weights of the fused graph, channels last.
        in_place: Nodes that may write over their first operand.
        tail: The rest of the model.
        shrinkable: Nodes whose boxes may be cut.
        last_read: Last reader of every value, by node.
        averages: Nodes after the frontier that average one of its values over all cells, and which.
        exits: Nodes that are computed on boxes and read by the rest of the model.
        same_box: A number by node, equal for those whose boxes are always the same.
        faster: Number of the faster way, as measured, by a convolution, its size and PyTorch's settings.
        bins: Bins of positions, by window and by the number of positions that a bin should have.
        segments: Parts of the graph after each of which sessions that shrink cut their boxes.
        rest: The part of the graph after all segments.
        executor: The executor that runs the graph, in words.
        source: The graph before the fusion.
    """

    def __init__(self, graph: Graph, kernels: ModuleType) -> None:
        self.source = graph
        graph = fused(graph)
        self.graph = graph
        self.kernels = kernels
        self.constants = weights_of(graph)
        self.in_place = overwriting(graph)
        frontiers = [node.index for node in graph.frontiers]
        full = (node for node in graph.nodes if node.depends and not node.local)
        tail = [node for node in full if node.index not in graph.absorbed]
        self.averages = self._averages(tail)
        rest = [node for node in tail if node.index not in self.averages]
        self.tail = Tail(graph, rest, _LARGEST_TAIL_TENSOR)
        averaged = set(self.averages.values())
        exits = [index for index in frontiers if index not in averaged] + list(self.averages)
        self.exits = [graph.nodes[index] for index in exits]
        self.same_box = _same_boxes(graph)
        self.last_read = {
            operand: node.index for node in graph.nodes if node.local for operand in node.operands
        }
        self.last_read |= dict.fromkeys(frontiers, len(graph.nodes))
        convolutions = {node.index for node in graph.nodes if isinstance(node.on_box, Convolution)}
        cuts = [
            node
            for node in graph.dominators
            if node.operands and convolutions & {reader for reader, i in graph.readers[node.index] if i == 0}
        ]
        self.shrinkable = [node.index for node in cuts]
        ends = [graph.input, *cuts]
        self.segments = [graph.between(first, last) for first, last in itertools.pairwise(ends)]
        self.rest = graph.between(ends[-1])
        self.faster: dict[Hashable, int] = {}
        self.bins: dict[Hashable, WindowBins] = {}
        self.owner = object()
        self.executor = "cuda"
        weakref.finalize(self, drop, self.owner)

    def _averages(self, tail: Sequence[Node]) -> dict[int, int]:
        reads = [i for node in tail for i in refs((node.args, node.kwargs))] + [self.graph.output]
        found = {}
        for node in tail:
            sources = [i for i in refs((node.args, node.kwargs)) if self.graph.nodes[i].depends]
            if len(sources) == 1 and reads.count(sources[0]) == 1:
                source = self.graph.nodes[sources[0]]
                if source.local and source.operands and averages_cells(node, source):
                    found[node.index] = source.index
        return found


def _same_boxes(graph: Graph) -> dict[int, int]:
    found: dict[int, int] = {}
    for node in graph.nodes:
        if not node.local:
            continue
        changing = [i for i, operand in enumerate(node.operands) if graph.nodes[operand].depends]
        theirs = {found[node.operands[i]] for i in changing}
        same = len(theirs) == 1 and all(node.same_cells(i) for i in changing)
        found[node.index] = theirs.pop() if same else node.index
    return found
