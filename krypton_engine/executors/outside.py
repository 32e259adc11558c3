"""Effects of a changed global value on the cells outside a box, on a scalar, to the first order.

Where a graph is linearised, an operator meets every cell with a global value. On a box it is computed with
the new one; its effect on the other cells is a product of the change and of *sensitivities*, the
scalar's derivatives by the global value, one for every cell that meets it. Their sums from the first cell on
(an integral image) give the sum over a box, and so outside it, from its corners.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.executors.base import Opening, Unsupported
from krypton_engine.executors.layout import on_device
from krypton_engine.graph.gradients import first_order
from krypton_engine.graph.ir import Graph, Node


@dataclass(frozen=True)
class Outside:
    """Sensitivities of a scalar to one global value, by the cell that meets it.

    Attributes:
        axes: The axes that cells run along.
        sizes: Number of cells along each axis, plus one.
        sums: Sums of all sensitivities before a cell, ``(product of sizes, elements)``, float64.
    """

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    sums: Tensor

    @classmethod
    def of(cls, axes: tuple[int, ...], sensitivities: Tensor) -> Outside:
        """The sums of sensitivities that are given by cell and element, ``(*cells, elements)``.

        Examples:
            >>> Outside.of((0,), torch.tensor([[1.0], [2.0], [3.0]])).sums.flatten().tolist()
            [0.0, 1.0, 3.0, 6.0]
        """
        sums = torch.nn.functional.pad(sensitivities.double(), [0, 0, *[1, 0] * len(axes)])
        for dim in range(len(axes)):
            sums = sums.cumsum(dim)
        return cls(axes, tuple(sums.shape[:-1]), sums.flatten(0, -2))

    def effect(self, change: Tensor, lo: Mapping[int, IntArray], hi: Mapping[int, IntArray]) -> Floats:
        """The effect of a changed global value on the cells outside boxes.

        Args:
            change: Change of the global value: ``(copies, elements)``.
            lo, hi: The boxes: by axis, the first cell of each and one past its last.

        Returns:
            Effects by copy: ``(copies,)``, float64.

        Examples:
            >>> lo, hi = {0: np.array([1])}, {0: np.array([3])}
            >>> Outside.of((0,), torch.ones(5, 1)).effect(torch.tensor([[2.0]]), lo, hi).tolist()
            [6.0]
        """
        inside = torch.zeros_like(change, dtype=torch.float64)
        for corner in itertools.product((0, 1), repeat=len(self.axes)):
            index = np.zeros(len(change), dtype=np.int64)
            for axis, size, end in zip(self.axes, self.sizes, corner, strict=True):
                index = index * size + (np.maximum(hi[axis], lo[axis]) if end else lo[axis])
            sign = (-1) ** (len(self.axes) - sum(corner))
            inside += sign * self.sums[on_device(index, self.sums.device)]
        found: Floats = ((self.sums[-1] - inside) * change.double()).sum(1).cpu().numpy()
        return found


def site_gradients(graph: Graph, opening: Opening) -> dict[int, Tensor]:
    """The scalar's gradient by the value of every site, by node; empty for a graph without sites.

    Args:
        graph: The graph.
        opening: The example, the scalar, and bytes that the passes may take.

    Raises:
        InputError: The budget does not hold the passes.
        Unsupported: The scalar has no gradient on this example.

    Examples:
        >>> site_gradients(graph, Opening((x,), torch.zeros(1), 2**30))
        {}
    """
    if not graph.sites:
        return {}
    assert opening.head is not None
    effects = first_order(graph, opening.inputs, graph.sites, opening.head, opening.memory_budget)
    if not effects:
        raise Unsupported("the target has no gradient here")
    return {node: gradient for node, (_, gradient) in effects.items()}


def sensitivities(
    graph: Graph, node: Node, values: Mapping[int, Any], gradient: Tensor
) -> dict[int, Outside]:
    """The scalar's sensitivities to the global values that ``node`` meets, by node.

    Args:
        graph: A linearised graph.
        node: One of its sites.
        values: Un-occluded values, by node.
        gradient: Gradient of the scalar by the value of ``node``.

    Examples:
        >>> from krypton_engine.graph.rewrites.linearise import linearised
        >>> from krypton_engine.planning.cache import Source, capture
        >>> made = linearised(capture(Source(gated, (x,))))
        >>> image, _, _, gate, product = made.nodes[2:]
        >>> y = x.sum(1, keepdim=True).expand(1, 4, 24, 20)
        >>> values = {image.index: y, gate.index: y.mean((2, 3), keepdim=True).sigmoid()}
        >>> found = sensitivities(made, product, values, gradient=torch.ones_like(y))
        >>> sums = found[gate.index].sums  # the scalar is the sum of all products
        >>> sums.shape, torch.allclose(sums[-1], y[0].sum((1, 2)).double())
        (torch.Size([525, 4]), True)
    """
    met = graph.globals_of(node)
    of_cells = [dim for dim, role in enumerate(node.roles) if role in node.axes]
    with torch.inference_mode(False), torch.enable_grad():
        spread = {}
        for index in met:
            value: Tensor = values[index].clone()
            sizes = [node.shape[dim] if dim in of_cells else n for dim, n in enumerate(value.shape)]
            spread[index] = value.expand(sizes).clone().requires_grad_()

        def operand(index: int) -> Any:
            value = values[index]
            return spread[index] if index in spread else value.clone() if isinstance(value, Tensor) else value

        met_value = node.computed(operand)
        found = torch.autograd.grad(
            met_value, list(spread.values()), gradient.to(met_value), allow_unused=True
        )
    outside = {}
    for index, each in zip(spread, found, strict=True):
        if each is not None:
            rest = [dim for dim in range(each.dim()) if dim not in of_cells]
            by_cell = each.permute(*of_cells, *rest).flatten(len(of_cells))
            outside[index] = Outside.of(node.axes, by_cell)
    return outside
