"""A graph made ready for the GPU."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from krypton_engine.executors.cuda.arena import drop
from krypton_engine.executors.grouping import WindowClasses
from krypton_engine.executors.reference.program import ReferenceProgram
from krypton_engine.executors.tail import Tail
from krypton_engine.graph.ir import Convolution, Graph, Node, in_full, refs
from krypton_engine.graph.operators import epilogue_of
from krypton_engine.graph.operators.pooling import averages_cells
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.plan import Plan

if TYPE_CHECKING:
    from krypton_engine.executors.cuda.session import CudaSession
_FUNCTIONS = {"identity": "clamp", "silu": "silu", "hardswish": "hardswish", "sigmoid": "sigmoid"}
_LARGEST_TAIL_TENSOR = 512 * 2**20


@dataclass(frozen=True)
class Finish:
    """What a convolution's result goes through in place: another value is added, then an activation."""

    convolution: Node
    residual: tuple[Node, int] | None = None  # the addition, and which operand of it
    function: str = "clamp"
    low: float = -math.inf
    high: float = math.inf


class CudaProgram(ReferenceProgram):
    """A graph made ready for the GPU.

    Args:
        graph: The graph.
        kernels: The module of ``csrc/cuda``.

    Attributes:
        finishes: By node: the convolution that it is the end of.
        absorbed: Nodes that are computed on the way to such an end.
        reads: What each of the others reads.
        last_read: Who reads a value last.
        averages: Nodes after the frontier that average one of its values over all cells, and which.
        exits: What is computed here and read by the rest of the model.
        same_box: A number by node, equal for those whose boxes are always the same.
        faster: What was measured: by a convolution, its size and PyTorch's settings, which way to compute it.
        classes: Of windows, by how many positions they should have.
        segments: Parts of the graph after each of which sessions that shrink cut their boxes.
        rest: What comes after them.
        executor: Who runs the graph, in words.
    """

    def __init__(self, graph: Graph, kernels: Any) -> None:
        super().__init__(graph)
        self.kernels = kernels
        self.finishes: dict[int, Finish] = {}
        self.absorbed: set[int] = set()
        for node in graph.nodes:
            roles = node.roles[1:]
            if isinstance(node.box, Convolution) and roles[0] is None and None not in roles[1:]:
                self._finish(node)
        tail = [node for node in graph.nodes if node.depends and not node.local]
        self.averages = self._averages(tail)
        rest = [node for node in tail if node.index not in self.averages]
        self.tail = Tail(graph, rest, _LARGEST_TAIL_TENSOR)
        averaged = set(self.averages.values())
        exits = [index for index in self.frontiers if index not in averaged] + list(self.averages)
        self.exits = [graph.nodes[index] for index in exits]
        self.same_box = _same_boxes(graph)
        # An end reads later what the convolution before it would have read.
        self.reads = {
            node.index: self._read_by(node)
            for node in graph.nodes
            if node.local and node.operands and node.index not in self.absorbed
        }
        self.last_read = {operand: index for index, operands in self.reads.items() for operand in operands}
        self.last_read |= dict.fromkeys(self.frontiers, len(graph.nodes))
        convolutions = {node.index for node in graph.nodes if isinstance(node.box, Convolution)}
        cuts = [
            node
            for node in graph.bottlenecks
            if node.operands
            and node.index not in self.absorbed
            and convolutions & {reader for reader, _ in graph.readers[node.index]}
        ]
        self.shrinkable = [node.index for node in cuts]
        ends = [graph.input, *cuts]
        self.segments = [graph.between(first, last) for first, last in itertools.pairwise(ends)]
        self.rest = graph.between(ends[-1])
        self.faster: dict[Any, int] = {}
        self.classes: dict[Any, WindowClasses] = {}
        self._chosen: dict[SlidingWindow, tuple[CudaProgram, Plan]] = {}
        self.owner = object()
        self.executor = "cuda"
        weakref.finalize(self, drop, self.owner)

    def open(
        self, plan: Plan, inputs: tuple[Tensor, ...], baseline: Tensor, memory_budget: int
    ) -> CudaSession:
        """A session that computes in full from where that measures faster on this device.

        The first one of a window measures; see `CudaSession.measured_cut`.
        """
        from krypton_engine.executors.cuda.session import CudaSession

        if plan.window not in self._chosen:
            trial = CudaSession(self, plan, inputs, baseline, memory_budget)
            cut = trial.measured_cut()
            if cut is None:
                self._chosen[plan.window] = self, plan
                return trial
            del trial
            drop(self.owner)
            graph = in_full(self.graph, cut)
            less = CudaProgram(graph, self.kernels)
            less.constants = self.constants
            less.executor = f"cuda; in full after {cut.op} ({cut.name}), which measures faster"
            self._chosen[plan.window] = less, Plan.of(graph, plan.window)
        program, plan = self._chosen[plan.window]
        return CudaSession(program, plan, inputs, baseline, memory_budget)

    def describe(self, plan: Plan) -> str:
        """See `krypton_engine.executors.base.Program.describe`."""
        chosen, _ = self._chosen.get(plan.window, (self, plan))
        return chosen.executor

    def keeps_view(self, node: Node) -> bool:
        """Whether a session keeps the un-occluded cells of a local node."""
        if node.index in self.absorbed:
            return False
        # A convolution of one cell that is added to something reads cells beside the box before it.
        adding = (f.convolution.operands[0] for f in self.finishes.values() if f.residual is not None)
        return self.graph.needs_view(node) or node.index in adding

    def _finish(self, convolution: Node) -> None:
        """Fuse into ``convolution`` what alone follows it."""
        graph, end = self.graph, convolution
        found = Finish(convolution)

        def only_reader() -> tuple[Node, int] | None:
            readers = graph.readers[end.index]
            if len(readers) != 1 or end.index in self.frontiers:
                return None
            return graph.nodes[readers[0][0]], readers[0][1]

        after = only_reader()
        # A sum that is clipped may not be recomputed where its box ends and that of the residual goes on; and
        # one of two convolutions that are added is the other's residual.
        taken = {f.residual[0].index for f in self.finishes.values() if f.residual is not None}
        fuses = after is not None and not graph.clips and after[0].index not in taken
        if after is not None and fuses and _adds_two(after[0], graph):
            self.absorbed.add(end.index)
            end = after[0]
            found = Finish(convolution, (end, 1 - after[1]))
            after = only_reader()
        if after is not None and after[0].dtype == convolution.dtype:
            epilogue = epilogue_of(after[0])
            if epilogue is not None and epilogue.function in _FUNCTIONS:
                self.absorbed.add(end.index)
                end = after[0]
                found = Finish(
                    convolution, found.residual, _FUNCTIONS[epilogue.function], epilogue.low, epilogue.high
                )
        self.finishes[end.index] = found

    def _read_by(self, node: Node) -> tuple[int, ...]:
        finish = self.finishes.get(node.index)
        if finish is None:
            return node.operands
        if finish.residual is None:
            return finish.convolution.operands
        addition, i = finish.residual
        return *finish.convolution.operands, addition.operands[i]

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


def _adds_two(node: Node, graph: Graph) -> bool:
    """Whether ``node`` is the sum of two changing values, cell by cell."""
    return (
        node.op == "add"
        and len(node.operands) == len(node.args) == 2
        and not node.kwargs
        and node.operands[0] != node.operands[1]
        and all(node.same_cells(i) for i in range(2))
        and all(
            (other.depends, other.shape, other.dtype) == (True, node.shape, node.dtype)
            for other in (graph.nodes[i] for i in node.operands)
        )
    )


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


def is_pointwise(convolution: Node) -> bool:
    """Whether every cell of a convolution reads one cell, the same."""
    return None not in convolution.roles[2:] and convolution.same_cells(0)
