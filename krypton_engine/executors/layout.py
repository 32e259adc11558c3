"""The cells of values as the rows of tables, so that one gather puts any box together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import AnyArray
from krypton_engine.graph.ir import Graph, Node
from krypton_engine.perturbation.positions import Positions


@dataclass(frozen=True)
class Layout:
    """The cells of one value as the rows of a table.

    Cells run along ``axes``; all other dimensions are the columns. ``order`` puts the dimensions of the
    value so, ``back`` as they were.

    Examples:
        >>> node = Node(1, "relu", "relu", (1, 8, 6, 5), (-1, None, 1, 2), torch.float32)
        >>> layout = Layout.of(node, columns=frozenset())
        >>> layout.sizes, layout.columns, layout.as_rows(torch.zeros(1, 8, 6, 5)).shape
        ((6, 5), (8,), torch.Size([1, 6, 5, 8]))
    """

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    back: tuple[int, ...]
    columns: tuple[int, ...]

    @classmethod
    def of(cls, node: Node, columns: frozenset[int]) -> Layout:
        """The layout of ``node`` with some of its axes among the columns.

        Examples:
            >>> node = Node(0, "x", "input", (1, 3, 24, 20), (-1, 0, 1, 2), torch.float32)
            >>> layout = Layout.of(node, columns=frozenset({0}))
            >>> layout.axes, layout.sizes, layout.columns
            ((1, 2), (24, 20), (3,))
        """
        axes = tuple(axis for axis in node.axes if axis not in columns)
        rows = [node.roles.index(axis) for axis in axes]
        rest = [dim for dim in range(1, len(node.shape)) if dim not in rows]
        order = (0, *rows, *rest)
        return cls(
            axes,
            tuple(node.shape[dim] for dim in rows),
            order,
            tuple(np.argsort(order).tolist()),
            tuple(node.shape[dim] for dim in rest),
        )

    def stride(self, k: int) -> int:
        """Rows from one cell to the next along the k-th axis.

        Examples:
            >>> node = Node(0, "x", "input", (1, 3, 24, 20), (-1, 0, 1, 2), torch.float32)
            >>> layout = Layout.of(node, columns=frozenset({0}))
            >>> layout.stride(0), layout.stride(1)
            (20, 1)
        """
        return math.prod(self.sizes[k + 1 :])

    def as_value(self, rows: Tensor, box: tuple[int, ...]) -> Tensor:
        """Rows that hold the cells of ``box``, in the dimensions of the value.

        Examples:
            >>> node = Node(0, "x", "input", (1, 3, 24, 20), (-1, 0, 1, 2), torch.float32)
            >>> Layout.of(node, frozenset({0})).as_value(torch.zeros(2 * 4 * 5, 3), box=(2, 4, 5)).shape
            torch.Size([2, 3, 4, 5])
        """
        return rows.view(*box, *self.columns).permute(self.back)

    def as_rows(self, value: Tensor) -> Tensor:
        """``value`` with its dimensions as they lie in rows."""
        return value.permute(self.order)


@dataclass
class View:
    """The un-occluded cells of one value as rows, so that a gather composes any region.

    The rows are the view's cells, then one row per padding constant, of the occluded input the cells of the
    baseline, then room for a group's changed cells.
    """

    layout: Layout
    table: Tensor
    fills: dict[float, int]
    changed_at: int


def column_axes(graph: Graph, window: Positions) -> dict[int, frozenset[int]]:
    """Axes whose boxes always span them, so that their cells can lie side by side in a view's rows.

    Examples:
        >>> from krypton_engine.graph.box_operators import Apply
        >>> image = Node(0, "x", "input", (1, 3, 8, 8), (-1, 0, 1, 2), torch.float32, on_box=Apply())
        >>> graph = Graph([image], (0,), occluded=0, output=0, batched=(True,))
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> column_axes(graph, SlidingWindow((3, 8, 8), (3, 2, 2), (3, 2, 2)))
        {0: frozenset({0})}
    """
    spanned = frozenset(axis for axis in range(len(window.input_shape)) if window.spans(axis))
    found: dict[int, frozenset[int]] = {}
    for node in graph.nodes:
        if not node.local:
            continue
        mine = spanned & frozenset(node.axes)
        for i, operand in enumerate(node.operands):
            source = graph.nodes[operand]
            if source.depends:
                mine &= found[operand] | node.whole
            mine -= {axis for axis, step in node.maps[i].items() if not step.is_identity()}
        found[node.index] = mine
    for node in graph.nodes:
        for reader, i in graph.readers[node.index]:
            moved = {axis for axis, step in graph.nodes[reader].maps[i].items() if not step.is_identity()}
            if node.local:
                found[node.index] -= moved
    return found


def on_device(array: AnyArray, device: torch.device) -> Tensor:
    """Numbers as a tensor on a device; the copy is not waited for.

    Examples:
        >>> on_device(np.array([3, 1]), torch.device("cpu"))
        tensor([3, 1])
    """
    host = torch.from_numpy(array)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host
