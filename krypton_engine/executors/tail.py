"""The rest of a model in full, on batches of the values that an executor has computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from krypton_engine.graph import BATCH, Graph, Node, refs, resolve

aten = torch.ops.aten


class Tail:
    """Nodes of a graph that run as PyTorch runs them.

    Args:
        graph: The graph.
        nodes: Those of its nodes, in order.
    """

    def __init__(self, graph: Graph, nodes: Sequence[Node]) -> None:
        self.graph = graph
        self.nodes = list(nodes)
        self._last_use = {i: node.index for node in nodes for i in refs((node.args, node.kwargs))}
        self._last_use[graph.output] = len(graph.nodes)
        sizes = sorted(
            (node.numel() * (node.dtype.itemsize if node.dtype else 4) for node in nodes), reverse=True
        )
        self.bytes_per_position = 2 * sum(sizes[:3])

    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[Mapping[int, Tensor], int], Tensor]:
        """The tail for one example, as a function of computed values and their number of copies."""
        fixed: dict[int, Any] = {n.index: n.value for n in self.graph.nodes if n.value is not None}
        for index, tensor in zip(self.graph.inputs, inputs, strict=True):
            fixed[index] = tensor
        needed = set(self._last_use)
        for node in self.graph.nodes:
            if not node.depends and node.index not in fixed and needed:
                assert node.target is not None
                fixed[node.index] = node.target(
                    *resolve(node.args, fixed.__getitem__, 1), **resolve(node.kwargs, fixed.__getitem__, 1)
                )

        def run(computed: Mapping[int, Tensor], copies: int) -> Tensor:
            values: dict[int, Any] = dict(computed)

            def value(index: int) -> Any:
                if index in values:
                    return values[index]
                constant = fixed[index]
                if self.graph.nodes[index].roles[:1] == (BATCH,):
                    return constant.expand(copies, *constant.shape[1:])
                return constant

            for node in self.nodes:
                assert node.target is not None
                values[node.index] = node.target(
                    *resolve(node.args, value, copies), **resolve(node.kwargs, value, copies)
                )
                for operand in refs((node.args, node.kwargs)):
                    if self._last_use[operand] == node.index:
                        values.pop(operand, None)
            output: Tensor = values[self.graph.output]
            return output

        return run
