"""Arguments and maps of operators whose window slides over the cells: convolutions and pools."""

from __future__ import annotations

from krypton_engine.graph.ir import BATCH, Node
from krypton_engine.graph.operators import base
from krypton_engine.graph.regions import AxisMap, WindowMap


def per_dim(value: object, count: int) -> tuple[int, ...]:
    """A number for each of ``count`` dimensions, of which one may stand for all.

    Examples:
        >>> per_dim(3, 2), per_dim([1, 2], 2)
        ((3, 3), (1, 2))
    """
    items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return items * count if len(items) == 1 else items


def window_maps(
    call: base.Call,
    node: Node,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> dict[int, AxisMap]:
    """The slide of a window along each axis of ``node``, the dimensions from the third on.

    Examples:
        >>> pooling = call(torch.ops.aten.max_pool2d.default, graph.nodes[7], [2, 2], shape=(1, 8, 12, 10))
        >>> maps = window_maps(pooling, graph.nodes[7], (2, 2), (2, 2), (0, 0), (1, 1))
        >>> maps[1].n_in, maps[1].n_out, maps[2].kernel, maps[2].stride
        (24, 12, 2, 2)
    """
    if len(node.shape) != len(call.shape) or node.roles[0] != BATCH:
        raise base.NotLocal(f"{call.name} of a value without its batch in front")
    if any(role == BATCH for role in node.roles[1:]):
        raise base.NotLocal(f"{call.name} moves over the batch")
    return {
        role: WindowMap(
            node.shape[2 + dim], call.shape[2 + dim], kernel[dim], stride[dim], padding[dim], dilation[dim]
        )
        for dim, role in enumerate(node.roles[2:])
        if role is not None
    }
