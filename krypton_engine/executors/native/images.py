"""Values that the engine can hold: images, and global values, which are images of one cell."""

from __future__ import annotations

import math

from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native.sums import COLUMNS, ROWS
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


def laid_out(node: Node) -> tuple[int, int, int]:
    """As `shape_of`; channels may lie in several dimensions, whose sizes are multiplied.

    Raises:
        Unsupported: The value has no such cells.

    Examples:
        >>> from dataclasses import replace
        >>> image = graph.nodes[7]
        >>> laid_out(replace(image, shape=(1, 4, 2, 24, 20), roles=(-1, None, None, 1, 2)))
        (24, 20, 8)
    """
    if is_global(node):
        return 1, 1, node.numel()
    if not node.local or sorted(node.axes) != [ROWS, COLUMNS]:
        return shape_of(node)
    return node.size(ROWS), node.size(COLUMNS), node.numel() // node.cells


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


def shape_of(node: Node) -> tuple[int, int, int]:
    """Height, width and channels of an image, however its dimensions lie.

    Raises:
        Unsupported: The value is no image.

    Examples:
        >>> shape_of(graph.nodes[7])
        (24, 20, 8)
    """
    if is_global(node):
        return _as_one_cell(node)
    others = [dim for dim, role in enumerate(node.roles) if role in (None, 0)]
    if (
        not node.local
        or sorted(node.axes)[-2:] != [ROWS, COLUMNS]
        or len(node.shape) != 3 + len(others)
        or len(others) > 1
    ):
        raise Unsupported("a value that is no image")
    return node.size(ROWS), node.size(COLUMNS), math.prod(node.shape[dim] for dim in others)


def _as_one_cell(node: Node) -> tuple[int, int, int]:
    sizes = [n for n in node.shape[1:] if n != 1]
    if len(sizes) > 1:
        raise Unsupported("a global value of several dimensions")
    return 1, 1, math.prod(sizes)
