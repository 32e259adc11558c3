"""Values that the engine can hold: volumes, images and signals, and global values, which have one cell.

Here and in the engine an image is any of these.
"""

from __future__ import annotations

import math

from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native.sums import AXES, Sizes
from krypton_engine.graph.box_operators import Total
from krypton_engine.graph.ir import Node
from krypton_engine.graph.rewrites import statistics


def is_global(node: Node) -> bool:
    """Whether a node is a global value.

    Examples:
        >>> from krypton_engine.graph.box_operators import Apply
        >>> gate = Node(1, "gate", "sigmoid", (1, 8), (-1, None), None, on_box=Apply(), depends=True)
        >>> is_global(gate), is_global(graph.nodes[7])
        (True, False)
    """
    return node.depends and node.local and not node.axes


def is_statistic(node: Node) -> bool:
    """Whether a global value has no value in the engine by itself.

    Examples:
        >>> total = Node(1, "total", "total", (1, 8, 1, 1), (-1, None, None, None), None, on_box=Total())
        >>> is_statistic(total), is_statistic(graph.nodes[7])
        (True, False)
    """
    return isinstance(node.on_box, Total) or node.target in (statistics.scale, statistics.shift)


def sizes_of(node: Node) -> Sizes:
    """Cells of a node along the engine's axes.

    Examples:
        >>> sizes_of(graph.nodes[13])  # one vector
        (1, 1, 1)
    """
    depth, rows, columns = (node.size(axis) if axis in node.axes else 1 for axis in AXES)
    return depth, rows, columns


def has_cells(node: Node) -> bool:
    """Whether the axes of a node are those of a volume, an image or a signal; channels may be one too.

    Examples:
        >>> has_cells(graph.nodes[13])
        False
    """
    axes = tuple(axis for axis in AXES if axis in node.axes)
    return bool(axes) and axes == AXES[-len(axes) :]


def laid_out(node: Node) -> tuple[Sizes, int]:
    """As `shape_of`; channels may lie in several dimensions, whose sizes are multiplied.

    Raises:
        Unsupported: The value has no such cells.

    Examples:
        >>> from dataclasses import replace
        >>> image = graph.nodes[7]
        >>> laid_out(replace(image, shape=(1, 4, 2, 24, 20), roles=(-1, None, None, 1, 2)))
        ((1, 24, 20), 8)
    """
    if is_global(node):
        return (1, 1, 1), node.numel()
    if not node.local or not has_cells(node) or 0 in node.axes:
        return shape_of(node)
    return sizes_of(node), node.numel() // node.cells


def lies_in_order(node: Node) -> bool:
    """Whether the dimensions of an image are the batch, channels and its axes in the engine's order.

    Examples:
        >>> lies_in_order(graph.nodes[7]), lies_in_order(graph.nodes[13])
        (True, False)
    """
    axes = tuple(axis for axis in AXES if axis in node.axes)
    return has_cells(node) and node.roles[1] is None and node.roles[2:] == axes


def is_image(node: Node) -> bool:
    """Whether the engine can hold the cells of a node.

    Examples:
        >>> is_image(graph.nodes[7]), is_image(graph.nodes[13])
        (True, False)
    """
    try:
        shape_of(node)
    except Unsupported:
        return False
    return True


def shape_of(node: Node) -> tuple[Sizes, int]:
    """Sizes and channels of a volume, an image or a signal, however its dimensions lie.

    Raises:
        Unsupported: The value is nothing of these.

    Examples:
        >>> shape_of(graph.nodes[7])
        ((1, 24, 20), 8)
    """
    if is_global(node):
        return _as_one_cell(node)
    others = [dim for dim, role in enumerate(node.roles) if role in (None, 0)]
    along = sum(role in AXES for role in node.roles)
    if not node.local or not has_cells(node) or len(node.shape) != 1 + along + len(others) or len(others) > 1:
        raise Unsupported("a value that is no image")
    return sizes_of(node), math.prod(node.shape[dim] for dim in others)


def _as_one_cell(node: Node) -> tuple[Sizes, int]:
    sizes = [n for n in node.shape[1:] if n != 1]
    if len(sizes) > 1:
        raise Unsupported("a global value of several dimensions")
    return (1, 1, 1), math.prod(sizes)
