"""The graph: the model as a list of functional operators, each after its operands."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from krypton_engine.errors import InputError
from krypton_engine.graph.box_operators import Apply, Convolution
from krypton_engine.graph.ir.node import Node, refs
from krypton_engine.graph.regions import AxisMap, WindowMap


@dataclass(frozen=True, eq=False)
class Graph:
    """A captured model for one occluded input of one shape; other inputs keep their value.

    A graph is a value. Its programs are kept beside it, in `krypton_engine.executors.programs`, and its
    proofs in `krypton_engine.planning.memory`.

    Attributes:
        nodes: Operators, each after its operands.
        inputs: Node of every tensor input; ``inputs[occluded]`` is the one that windows occlude.
        output: Node of the result; its first dimension is the batch.
        batched: For every input, whether its first dimension is the batch.
        sources: Parameters and buffers that the graph was captured from: weakly, since a parameter may refer
            to the model that the graph is to live as long as.

    Examples:
        >>> graph.input.shape, graph.nodes[graph.output].shape
        ((1, 3, 24, 20), (1, 5))
        >>> graph.constant_bytes == 4 * sum(parameter.numel() for parameter in model.parameters())
        True
        >>> graph.clips, graph.absorbed  # boxes hold all that changes, and no operators are fused yet
        (False, frozenset())
        >>> graph.sites, graph.globals_of(graph.nodes[8])  # no node reads a global value
        ((), ())
    """

    nodes: list[Node]
    inputs: tuple[int, ...]
    occluded: int
    output: int
    batched: tuple[bool, ...]
    sources: tuple[weakref.ref[Tensor], ...] = ()

    @property
    def input(self) -> Node:
        """The occluded input."""
        return self.nodes[self.inputs[self.occluded]]

    @cached_property
    def absorbed(self) -> frozenset[int]:
        """Nodes that are computed on the way to a fused one, and nowhere else on boxes."""
        operators = (node.on_box for node in self.nodes)
        return frozenset(
            i for operator in operators if isinstance(operator, Convolution) for i in operator.steps[:-1]
        )

    @cached_property
    def frontiers(self) -> list[Node]:
        """Local values that the full computation goes on from.

        Examples:
            >>> [node.index for node in graph.frontiers]  # the reshape reads it in full
            [11]
        """
        needed = {self.output} | {
            index
            for node in self.nodes
            if node.depends and not node.local and node.index not in self.absorbed
            for index in refs((node.args, node.kwargs))
        }
        return [node for node in self.nodes if node.index in needed and node.local]

    @cached_property
    def readers(self) -> dict[int, list[tuple[int, int]]]:
        """Local readers of every node, and the number of the node among their operands.

        Examples:
            >>> graph.readers[7], graph.readers[11]  # the reshape behind 11 is not local
            ([(8, 0)], [])
        """
        found: dict[int, list[tuple[int, int]]] = {node.index: [] for node in self.nodes}
        for node in self.nodes:
            if node.local:
                for i, operand in enumerate(node.operands):
                    found[operand].append((node.index, i))
        return found

    @cached_property
    def dominators(self) -> list[Node]:
        """Local values through which all changes pass.

        After one of them, nothing that changes before it is read.

        Examples:
            >>> [node.index for node in graph.dominators]  # of a chain, all
            [6, 7, 8, 9, 10, 11]
        """
        last_use: dict[int, int] = {self.output: len(self.nodes)}
        for node in self.nodes:
            for index in refs((node.args, node.kwargs)):
                if self.nodes[index].depends:
                    last_use[index] = max(last_use.get(index, 0), node.index)
        found, needed_until = [], 0
        for node in self.nodes:
            if not node.depends:
                continue
            if needed_until <= node.index and node.local:
                found.append(node)
            needed_until = max(needed_until, last_use.get(node.index, 0))
        return found

    def between(self, first: Node, last: Node | None = None) -> Graph:
        """The way on boxes from one of the ``dominators``, which is its input, to another or to the end.

        Examples:
            >>> part = graph.between(graph.nodes[8], graph.nodes[10])
            >>> part.input.index, part.output, [node.op for node in part.nodes if node.local]
            (8, 10, ['input', 'max_pool2d', 'conv2d'])
        """
        end = len(self.nodes) if last is None else last.index
        nodes = [
            node if first.index < node.index <= end or not node.local else _in_full(node)
            for node in self.nodes
        ]
        nodes[first.index] = replace(
            first, op="input", on_box=Apply(), operands=(), maps=(), whole=frozenset()
        )
        output = self.output if last is None else last.index
        return replace(self, nodes=nodes, inputs=(first.index,), occluded=0, output=output, batched=(True,))

    @cached_property
    def sites(self) -> tuple[int, ...]:
        """Nodes of a linearised graph that meet a box with a global value; see `rewrites.linearise`.

        A global value changes with the position and has no cells: a gate, the statistics of a norm. On a box
        the node is computed with the new global value; its effect on the cells outside the box is left out,
        and known to the first order.
        """
        return tuple(node.index for node in self.nodes if self.globals_of(node))

    def globals_of(self, node: Node) -> tuple[int, ...]:
        """The global values that a node with cells meets."""
        if not node.local or not node.axes:
            return ()
        operands = (self.nodes[i] for i in node.operands)
        return tuple(each.index for each in operands if each.depends and not each.axes)

    @property
    def clips(self) -> bool:
        """Whether boxes leave out some of the changed cells; see `clipped`."""
        steps = (step for node in self.nodes for steps in node.maps for step in steps.values())
        return any(isinstance(step, WindowMap) and step.limit is not None for step in steps)

    @cached_property
    def constant_bytes(self) -> int:
        """Memory of the constants."""
        values = {node.value.data_ptr(): node.value for node in self.nodes if node.value is not None}
        return sum(value.numel() * value.element_size() for value in values.values())

    def same(self, other: Graph) -> bool:
        """Whether another graph computes the same, operator for operator and weight for weight.

        Examples:
            >>> graph.same(graph), graph.same(clipped(graph, 0.5))
            (True, False)
        """
        if self.occluded != other.occluded or len(self.nodes) != len(other.nodes):
            return False
        for mine, its in zip(self.nodes, other.nodes, strict=True):
            if replace(mine, value=None) != replace(its, value=None):
                return False
            if (mine.value is None) != (its.value is None):
                return False
            if mine.value is not None and its.value is not None and not torch.equal(mine.value, its.value):
                return False
        return (self.inputs, self.output) == (other.inputs, other.output)


def in_full(graph: Graph, after: Node | None = None) -> Graph:
    """A graph with nothing local after one of its ``dominators``, by default its occluded input.

    Every position is a full computation from there on.

    Examples:
        >>> [node.op for node in in_full(graph, after=graph.nodes[8]).nodes if node.local]
        ['input', 'conv2d', 'relu']
    """
    last = (after or graph.input).index
    nodes = [
        node if not node.depends or node.index <= last or node is graph.input else _in_full(node)
        for node in graph.nodes
    ]
    return replace(graph, nodes=nodes)


def _in_full(node: Node) -> Node:
    return replace(
        node, on_box=None, operands=(), maps=(), whole=frozenset(), roles=(None,) * len(node.shape)
    )


def clipped(graph: Graph, tau: float) -> Graph:
    """A graph with the paper's projective field threshold: its boxes are an approximation.

    After every operator whose kernel has several cells, a box is at most ``tau`` of the value's size along
    every axis: the middle of what would change. The cells around it keep their un-occluded value. Where
    branches meet, a box bounds those of both.

    Args:
        graph: The exact one.
        tau: Above 0; with 1 nothing is clipped.

    Raises:
        InputError: Another ``tau``.

    Examples:
        >>> graph.clips, clipped(graph, 0.5).clips
        (False, True)
    """
    if not 0 < tau <= 1:
        raise InputError("tau", f"{tau}", "numbers above 0 and at most 1")

    def step(exact: AxisMap) -> AxisMap:
        return exact.clipped(tau) if isinstance(exact, WindowMap) and exact.kernel > 1 else exact

    nodes = [
        replace(node, maps=tuple({axis: step(m) for axis, m in maps.items()} for maps in node.maps))
        for node in graph.nodes
    ]
    return replace(graph, nodes=nodes)
