"""The cost of operators: multiply-accumulates, as the paper counts them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from krypton_engine.graph.box_operators import Convolution
from krypton_engine.graph.ir import Node, refs


def macs(node: Node, nodes: Callable[[int], Node]) -> int:
    """Multiply-accumulates of the whole value of ``node`` for one copy (paper eq. 16).

    Everything but convolutions and products of matrices counts as nothing, as in the paper.

    Args:
        node: An operator as captured.
        nodes: Function that gives the nodes that it refers to; their shapes alone matter.

    Examples:
        >>> from krypton_engine.graph.ir import Ref
        >>> x = Node(0, "x", "input", (1, 3), (-1, None), torch.float32)
        >>> weight = Node(1, "weight", "constant", (5, 3), (None, None), torch.float32)
        >>> target, args = torch.ops.aten.linear.default, (Ref(0), Ref(1))
        >>> linear = Node(2, "head", "linear", (1, 5), (-1, None), torch.float32, target, args)
        >>> macs(linear, [x, weight].__getitem__)
        15
    """
    if isinstance(node.on_box, Convolution):
        return math.prod(nodes(node.on_box.weight).shape) * math.prod(node.shape[2:])
    # A product is of two tensors, and no elementwise one.
    elementwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
    if node.target is None or elementwise or len(list(refs((node.args, node.kwargs)))) < 2:
        return 0
    return _products(node, nodes)


def _products(node: Node, nodes: Callable[[int], Node]) -> int:
    """Multiply-accumulates of an operator that multiplies two tensors, as PyTorch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    def shape_of(index: int) -> Tensor:
        return torch.empty(nodes(index).shape, dtype=nodes(index).dtype, device="meta")

    with FlopCounterMode(display=False) as counter, torch.no_grad(), contextlib.suppress(Exception):
        node.computed(shape_of)
    return int(counter.get_total_flops()) // 2
