"""Values by cells: how the engine lays a node's value out, and nodes that read no cells but their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.native.images import has_cells, is_global, is_statistic
from krypton_engine.executors.native.sums import AXES, Sizes
from krypton_engine.executors.on_boxes import run_on_boxes
from krypton_engine.graph.box_operators import Reindex
from krypton_engine.graph.ir import Node


def as_cells(node: Node, value: Tensor) -> Tensor:
    """A value of ``node`` as the engine lays it out, ``(copies, depth, rows, columns, channels)``.

    A dimension is 1 for an axis that the node lacks.

    Examples:
        >>> as_cells(graph.nodes[7], torch.zeros(2, 8, 24, 20)).shape
        torch.Size([2, 1, 24, 20, 8])
    """
    _, order = _order(node)
    sizes = [value.shape[node.roles.index(axis)] if axis in node.roles else 1 for axis in AXES]
    return value.permute(order).reshape(len(value), *sizes, -1)


def as_value(node: Node, cells: Tensor) -> Tensor:
    """The inverse of `as_cells`.

    Examples:
        >>> as_value(graph.nodes[7], torch.zeros(2, 1, 24, 20, 8)).shape
        torch.Size([2, 8, 24, 20])
    """
    others, order = _order(node)
    for dim, axis in enumerate(AXES, 1):
        if axis not in node.roles:
            cells = cells.narrow(dim, 0, 1)
    sizes = [cells.shape[dim] for dim, axis in enumerate(AXES, 1) if axis in node.roles]
    value = cells.reshape(len(cells), *sizes, *(node.shape[dim] for dim in others))
    return value.permute([order.index(dim) for dim in range(len(order))])


def _order(node: Node) -> tuple[list[int], list[int]]:
    """Dimensions of ``node`` that are neither batch nor axis; all of them in the engine's order."""
    others = [dim for dim, role in enumerate(node.roles) if dim and role not in AXES]
    return others, [0, *(node.roles.index(axis) for axis in AXES if axis in node.roles), *others]


def stays(node: Node) -> bool:
    """Whether a local node reads its operands at its own cells, and all of their channels at will.

    Of global values, one that others are made of stays, and a sum over cells does not.

    Examples:
        >>> [(node.op, stays(node)) for node in graph.nodes[7:10]]
        [('conv2d', False), ('relu', True), ('max_pool2d', False)]
    """
    if not (has_cells(node) or is_global(node)) or node.whole.intersection(AXES) or is_statistic(node):
        return False
    moves = [step for maps in node.maps for axis, step in maps.items() if axis in AXES]
    return not moves if isinstance(node.on_box, Reindex) else all(step.is_identity() for step in moves)


def computed(
    node: Node,
    values: Mapping[int, Tensor],
    constant: Callable[[int, int], Tensor],
    copies: int,
    sizes: Sizes,
    start: Mapping[int, IntArray] = MappingProxyType({}),
) -> Tensor:
    """A node that `stays`, in PyTorch, or one that resizes or regroups cells.

    Args:
        node: The node.
        values: Operands on boxes of one size, by node.
        constant: Function that gives other values that the node refers to, for a number of copies.
        copies: Number of boxes.
        sizes: Cells of every box along the axes.
        start: First cell of every box, by axis; needed where cells are resized or regrouped.

    Examples:
        >>> values = {7: torch.tensor([[[[-1.0, 2.0]]]])}
        >>> computed(graph.nodes[8], values, lambda i, copies: None, 1, (1, 1, 2))
        tensor([[[[0., 2.]]]])
    """
    if isinstance(node.on_box, Reindex):  # of channels, all of which are here
        moved: Tensor = node.computed(lambda i: values[i] if i in values else constant(i, copies), copies)
        return moved
    node, extents = _of_all_channels(node), dict(zip(AXES, sizes, strict=True))
    return run_on_boxes(node, values, start, extents, copies, constant)


def _of_all_channels(node: Node) -> Node:
    """A node whose channels are no axis, since boxes have them all."""
    if 0 not in node.roles and not any(0 in steps for steps in node.maps):
        return node
    maps = ({axis: step for axis, step in steps.items() if axis != 0} for steps in node.maps)
    roles = (None if role == 0 else role for role in node.roles)
    return replace(node, roles=tuple(roles), maps=tuple(maps))
