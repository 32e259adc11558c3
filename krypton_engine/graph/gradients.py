"""Effects of small changes of any value of a graph on one scalar of its output, to the first order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from krypton_engine.common.figures import mebibytes
from krypton_engine.errors import InputError
from krypton_engine.graph.ir import Graph, Node, refs
from krypton_engine.graph.operators.convolution import CONVOLUTIONS

Head = Callable[[Tensor], Tensor]
"""A function from outputs ``(n, *output_shape)`` to one scalar for each, ``(n,)``."""


def first_order(
    graph: Graph, inputs: tuple[Tensor, ...], nodes: Iterable[int], head: Head, memory_budget: int
) -> dict[int, tuple[float, Tensor]]:
    """Root mean square of values on the un-occluded inputs, and the scalar's gradient by them.

    Args:
        graph: The model.
        inputs: The model's tensors, first dimension 1 where they are batched.
        nodes: Numbers of the nodes whose values are asked about.
        head: The scalar.
        memory_budget: Bytes that the two passes may take.

    Returns:
        Root mean square and gradient by node. Empty where a gradient does not exist or is not finite: a
        saturated probability, a model whose weights were made in inference mode.

    Raises:
        InputError: The budget does not hold the passes.

    Examples:
        >>> found = first_order(graph, (x,), [graph.output], lambda outputs: outputs[:, 0], 2**20)
        >>> found[graph.output][1].tolist()  # the gradient of the first output by all outputs
        [[1.0, 0.0, 0.0, 0.0, 0.0]]
    """
    wanted = set(nodes)
    taken = _bytes(graph, wanted)
    if taken > memory_budget:
        raise InputError(
            "memory_budget",
            f"{mebibytes(memory_budget)} beside the session",
            f"{mebibytes(taken)} or more, for gradients",
            verb="leaves",
        )
    values: dict[int, Any] = {}
    try:
        with torch.inference_mode(False), torch.enable_grad():
            for node in graph.nodes:
                if node.value is not None:
                    values[node.index] = node.value
                elif node.index in graph.inputs:
                    x = inputs[graph.inputs.index(node.index)].clone()
                    values[node.index] = _source(x) if node.depends else x
                else:
                    values[node.index] = node.computed(values.__getitem__)
                    if node.depends:
                        values[node.index] = _source(values[node.index])
            known = [i for i in wanted if isinstance(values[i], Tensor) and values[i].requires_grad]
            gradients = torch.autograd.grad(
                head(values[graph.output]).sum(), [values[i] for i in known], allow_unused=True
            )
    except RuntimeError:  # no gradient: an operator without one, tensors of inference mode
        return {}
    found = {}
    for i, gradient in zip(known, gradients, strict=True):
        if gradient is not None:
            rms = float(values[i].detach().double().pow(2).mean().sqrt())
            if not math.isfinite(rms) or not bool(gradient.isfinite().all()):
                return {}
            found[i] = (rms, gradient.detach())
    return found


def _source(value: object) -> object:
    """``value`` with a gradient, if it can have one: numbers made of integers begin anew."""
    if not isinstance(value, Tensor) or value.requires_grad or not value.is_floating_point():
        return value
    return value.detach().requires_grad_()


def _bytes(graph: Graph, wanted: set[int]) -> int:
    """Upper bound of the bytes that both passes hold at a time.

    Every value, as much again that is saved for the way back (a pool's indices, say), the gradients that are
    kept, and those of an operator's result and operands, with what it works in.
    """
    sizes = {node.index: node.bytes() for node in graph.nodes if node.depends}
    others = sum(node.bytes() for node in graph.nodes if not node.depends and node.value is None)
    kept = sum(sizes[i] for i in wanted if i in sizes)
    unfolded = max(_unfolded(graph, node) for node in graph.nodes)
    return 2 * sum(sizes.values()) + others + kept + 3 * max(sizes.values(), default=0) + unfolded


def _unfolded(graph: Graph, node: Node) -> int:
    """Bytes of the windows that PyTorch unfolds for a convolution, unless oneDNN may take it as it is."""
    transposed = node.op.startswith("conv_transpose")
    if not (transposed or node.op in CONVOLUTIONS):
        return 0
    if node.dtype == torch.float32 and len(node.shape) <= 4:
        return 0
    weight = graph.nodes[next(refs(node.args[1]))]
    cells = graph.nodes[next(refs(node.args[0]))] if transposed else node
    return math.prod((*weight.shape[1:], *cells.shape[2:])) * weight.bytes() // weight.numel()
