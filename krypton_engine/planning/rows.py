"""A graph in full: as it was exported, or on rows of its occluded input within a budget of memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from krypton_engine.executors.tail import Tail, constants_of, last_uses, unchanging
from krypton_engine.graph.ir import Graph, refs


class InFull:
    """A graph in full on rows of its occluded input, one by one or together, within a budget of memory.

    Args:
        graph: Graph as captured, whose local operators look at one row at a time.
        inputs: Tensors of one example.
        memory: Bytes that rows may take.

    Examples:
        >>> in_full = InFull(graph, (x,), memory=2**20)
        >>> torch.allclose(in_full.together([x, -x]), model(torch.cat([x, -x])), atol=1e-5)
        True
    """

    def __init__(self, graph: Graph, inputs: tuple[Tensor, ...], memory: int) -> None:
        self._graph = graph
        self.nodes = [node for node in graph.nodes if node.depends and node is not graph.input]
        self._local = [node for node in self.nodes if node.local]
        self._last_use = last_uses(graph, self._local)
        self._frontiers = [node.index for node in graph.frontiers]
        self._all = Tail(graph, self.nodes, largest_tensor=sys.maxsize)
        rest = [node for node in self.nodes if not node.local]
        self._rest = Tail(graph, rest, largest_tensor=sys.maxsize) if rest else None
        constants = constants_of(graph, self.nodes)
        self._constant = unchanging(graph, inputs, constants)
        copies = (value for i, value in constants.items() if value is not graph.nodes[i].value)
        self.memory = memory - sum(value.nbytes for value in copies)

    def alone(self, row: Tensor) -> Tensor:
        """The output of one row.

        Examples:
            >>> torch.allclose(InFull(graph, (x,), memory=2**20).alone(x), model(x), atol=1e-5)
            True
        """
        return self._all.run({self._graph.input.index: row}, 1, self._constant)

    def together(self, rows: Sequence[Tensor]) -> Tensor:
        """Outputs of several rows, computed together but for local operators that do not fit the memory."""
        start = self._graph.input.index
        if len(rows) * self._all.held(self._graph, [start]) <= self.memory:
            return self._all.run({start: torch.cat(list(rows))}, len(rows), self._constant)
        before = [self._before_the_rest(row) for row in rows]
        values = {i: torch.cat([each[i] for each in before]) for i in self._frontiers}
        if self._rest is None:
            return values[self._graph.output]
        return self._rest.run(values, len(rows), self._constant)

    def needed(self, rows: int) -> int:
        """Bytes of a number of rows that are computed together where they have to be.

        Examples:
            >>> in_full = InFull(graph, (x,), memory=2**20)
            >>> in_full.needed(3) == 3 * in_full.needed(1)
            True
        """
        return rows * (0 if self._rest is None else self._rest.held(self._graph, self._frontiers))

    def _before_the_rest(self, row: Tensor) -> dict[int, Tensor]:
        """The frontier values of one row."""
        values = {self._graph.input.index: row}
        for node in self._local:
            values[node.index] = node.computed(lambda i: values[i] if i in values else self._constant(i, 1))
            for operand in refs((node.args, node.kwargs)):
                if self._last_use[operand] == node.index and operand not in self._frontiers:
                    values.pop(operand, None)
        return {i: values[i] for i in self._frontiers}
