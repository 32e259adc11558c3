"""One example without occlusion: the values that boxes are put together from, and the constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from krypton_engine.executors.base import Opening
from krypton_engine.executors.layout import Layout, View, column_axes
from krypton_engine.executors.outside import Outside, sensitivities
from krypton_engine.executors.tail import channels_last, last_uses, repeated
from krypton_engine.graph.ir import Graph, Node, refs
from krypton_engine.graph.views import needs_view
from krypton_engine.perturbation.changed import changed_by
from krypton_engine.perturbation.positions import Positions

Place = Callable[[Hashable, Tensor], Tensor]
"""A function that puts a tensor where recorded work finds it, by a key that every example shares."""


class Basis:
    """A graph run once on one example, in full, and the un-occluded values that are kept of it.

    Args:
        graph: The graph.
        constants: Weights of the graph, by node.
        window: The positions.
        opening: The example.
        gradients: Gradients of a scalar by the values of nodes, kept beside the views; of a site (see
            `krypton_engine.graph.ir.Graph.sites`) the sensitivities that follow from it.
        place: Function that puts values where recorded work finds them; None where nothing is recorded.

    Attributes:
        x: The occluded input, channels last.
        baseline: Baseline in the shape of ``x``.
        changed: The cells that every position really changes.
        output: Output for the un-occluded input, ``(1, *output_shape)``.
        views: The un-occluded values that boxes read, by node.
        gradients: The gradients, laid out as the views.
        outside: Sensitivities by site and by global value that it meets.
    """

    def __init__(
        self,
        graph: Graph,
        constants: Mapping[int, Tensor],
        window: Positions,
        opening: Opening,
        gradients: Mapping[int, Tensor],
        place: Place | None = None,
    ) -> None:
        self.x = channels_last(opening.inputs[graph.occluded])
        self.baseline = opening.baseline.to(self.x).expand(self.x.shape)
        self.changed = changed_by(window, self.x, self.baseline)
        self.views: dict[int, View] = {}
        self.gradients: dict[int, View] = {}
        self.outside: dict[int, dict[int, Outside]] = {}
        self._graph = graph
        self._constants = constants
        self._columns = column_axes(graph, window)
        self._others: dict[int, Tensor] = {}
        self._place = place
        self.output = self._run(opening.inputs, gradients)
        if place is not None:
            self._others = {i: place(("other", i), value.clone()) for i, value in self._others.items()}
            for node in graph.nodes:
                for operand in node.operands if node.local else ():
                    source = graph.nodes[operand]
                    if not source.depends and source.axes:
                        self.view(source)

    def fork(self) -> Basis:
        """The same example with views of its own, which may go on to change.

        Examples:
            >>> from krypton_engine.executors.tail import weights_of
            >>> basis = Basis(graph, weights_of(graph), plan.window, Opening((x,), torch.zeros(1), 2**30), {})
            >>> other = basis.fork()
            >>> other.view(graph.input).table.zero_().any(), basis.view(graph.input).table.any()
            (tensor(False), tensor(True))
        """
        made = copy(self)
        made.views = {i: replace(view, table=view.table.clone()) for i, view in self.views.items()}
        return made

    def constant(self, index: int, copies: int) -> Tensor:
        """The value of a node that no window changes, for a number of copies.

        Examples:
            >>> from krypton_engine.executors.tail import weights_of
            >>> opening = Opening((x,), torch.zeros(1), 2**30)
            >>> Basis(graph, weights_of(graph), plan.window, opening, {}).constant(1, copies=3).shape
            torch.Size([8])
        """
        value = self._constants.get(index)
        value = self._others[index] if value is None else value
        return repeated(self._graph.nodes[index], value, copies)

    def view(self, node: Node) -> View:
        """The cells of a value as rows; a value that no window changes is laid out on the first call.

        Examples:
            >>> from krypton_engine.executors.tail import weights_of
            >>> basis = Basis(graph, weights_of(graph), plan.window, Opening((x,), torch.zeros(1), 2**30), {})
            >>> view = basis.view(graph.nodes[9])
            >>> view.layout.sizes, view.table.shape, view.fills  # a row for every cell, and one of padding
            ((12, 10), torch.Size([121, 8]), {0.0: 120})
        """
        if node.index not in self.views:
            self.views[node.index] = self._view(node, self.constant(node.index, 1), frozenset(), "view")
        return self.views[node.index]

    def _run(self, inputs: tuple[Tensor, ...], gradients: Mapping[int, Tensor]) -> Tensor:
        graph, last_use = self._graph, last_uses(self._graph, self._graph.nodes)
        values: dict[int, Any] = dict(self._constants)
        for index, tensor in zip(graph.inputs, inputs, strict=True):
            values[index] = channels_last(tensor) if index == graph.input.index else tensor
        for node in graph.nodes:
            if node.index not in values:
                values[node.index] = node.computed(values.__getitem__)
            gradient = gradients.get(node.index)
            if gradient is not None or (node.depends and node.local and needs_view(graph, node)):
                columns = self._columns[node.index]
                self.views[node.index] = self._view(node, values[node.index], columns, "view")
                if gradient is not None and node.index in graph.sites:
                    self.outside[node.index] = sensitivities(graph, node, values, gradient)
                if gradient is not None:
                    self.gradients[node.index] = self._view(node, gradient, columns, "gradient")
            elif not node.depends and node.value is None:
                self._others[node.index] = values[node.index]
            for operand in refs((node.args, node.kwargs)):
                if last_use.get(operand) == node.index and graph.nodes[operand].depends:
                    values.pop(operand, None)
        output: Tensor = values[graph.output]
        return output

    def _view(self, node: Node, value: Tensor, columns: frozenset[int], kind: str) -> View:
        layout = Layout.of(node, columns)
        cells = math.prod(layout.sizes)
        fills: dict[float, int] = {}
        for reader, _ in self._graph.readers[node.index]:
            fills.setdefault(self._graph.nodes[reader].fill, cells + len(fills))
        parts = [layout.as_rows(value).reshape(cells, -1)]
        for fill in fills:
            exists = math.isfinite(fill) or value.is_floating_point()
            parts.append(torch.full_like(parts[0][:1], fill if exists else torch.iinfo(value.dtype).min))
        if node.index == self._graph.input.index:
            parts.append(layout.as_rows(self.baseline).reshape(cells, -1))
        table = torch.cat(parts)
        if self._place is not None:
            table = self._place((node.index, kind), table)
        return View(layout, table, fills, len(table))
