"""A graph as sessions of the C++ engine read it, and the part of it that is left to PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.common.figures import mebibytes
from krypton_engine.errors import InputError
from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native import engine
from krypton_engine.executors.native.cells import as_cells, as_value
from krypton_engine.executors.native.images import has_cells, shape_of, sizes_of
from krypton_engine.executors.native.lowering import lowered
from krypton_engine.executors.native.sums import AXES, Float32s
from krypton_engine.executors.tail import Tail, constants_of
from krypton_engine.graph.ir import Graph, refs
from krypton_engine.graph.rewrites.upright import lying, renamed
from krypton_engine.plan.measured import Costs
from krypton_engine.plan.plan import Plan

LARGEST_BATCH = 256
"""Positions of one call into the engine: enough for one pass over the weights of large linear layers."""

Times = tuple[list[tuple[float, int]], list[tuple[float, int]]]
"""Times that the engine measured, by image and by vector: seconds of all threads, and cells."""


class Prepared:
    """A graph made ready for the engine.

    Attributes:
        given: The graph.
        graph: The same, its axes named as the engine's.
        axes: The input's axes by these names; see `krypton_engine.graph.rewrites.upright`.
        program: The engine's own program of it.
        exits: Numbers in the engine, by node, of values that PyTorch reads.
        vectors: Exits that are vectors.
        kept: The numbers of the exits that are images.
        values: The node that each of the engine's images was built for; constants among them.
        shrinkable: Numbers of images, by node, that are not fused into their reader; without the input.
        sites: The numbers of the nodes that meet global values.
        tail: The rest of the model.
        constants: Weights of the tail.
        foreign: Names of the operators that PyTorch computes on the engine's boxes.
        reason: Why the engine stops before the output; empty if it does not.

    Raises:
        Unsupported: A site of a linearised graph is left to PyTorch.

    Examples:
        >>> program = Prepared(graph)
        >>> program.exits, program.sizes(13), program.as_node(13, torch.zeros(2, 5)).shape
        ({13: 0}, (5,), torch.Size([2, 5]))
        >>> program.extents(plan).tolist()  # of the input, two convolutions and the pool between them
        [[1, 8, 8], [1, 10, 10], [1, 6, 6], [1, 8, 8]]
        >>> program.largest_batch(plan, 2**30)
        256
        >>> program.as_image(7, torch.zeros(1, 8, 24, 20)).shape
        (1, 24, 20, 8)
    """

    def __init__(self, graph: Graph, isa: str = "") -> None:
        self.given, axes = graph, lying(graph)
        self.axes = dict(zip((0, *AXES[len(AXES) + 1 - len(axes) :]), axes, strict=True))
        self.graph = graph = renamed(graph, {axis: name for name, axis in self.axes.items()})
        self.program = engine._native.Program(isa, *shape_of(graph.input))
        written = lowered(graph, self.program)
        self.reason = written.reason
        if not written.lowered.issuperset(graph.sites):
            raise Unsupported(f"the C++ engine lacks {self.reason}")
        rest = [node for node in graph.nodes if node.depends and node.index not in written.lowered]
        wanted = {i for node in rest for i in refs((node.args, node.kwargs))} | {graph.output}
        self.exits = {i: written.build(i) for i in sorted(wanted & written.lowered)}
        self.vectors = {i for i in self.exits if written.is_vector(i)}
        self.flat = written.flat & set(self.exits)
        self.kept = [number for index, number in self.exits.items() if index not in self.vectors]
        self.values = written.nodes
        self.shrinkable = {
            node.index: number
            for number, node in written.nodes.items()
            if number > 0 and has_cells(node) and written.values.get(node.index) == number
        }
        self.sites = written.sites
        self._begins = written.begins
        self._of_vectors = {number: index for index, number in sorted(written.vectors.items(), reverse=True)}
        self.foreign = tuple(written.foreign)
        self.tail = Tail(graph, rest)
        self.constants = constants_of(graph, rest)

    def extents(self, plan: Plan) -> IntArray:
        """The largest box of every value of the engine: ``(values, 3)``."""
        out = np.zeros((len(self.values), len(AXES)), dtype=np.int64)
        for value, node in self.values.items():
            if node.depends:
                for i, axis in enumerate(AXES):
                    along = plan.boxes[node.index][self.axes[axis]] if axis in node.axes else 1
                    out[value, i] = np.max(along)
        return out

    @property
    def whole(self) -> IntArray:
        """The boxes that hold all of every value of the engine: ``(values, 3)``."""
        out = np.zeros((len(self.values), len(AXES)), dtype=np.int64)
        out[list(self.values)] = [sizes_of(node) for node in self.values.values()]
        return out

    def largest_batch(self, plan: Plan, budget: int) -> int:
        """Positions that fit a budget in bytes, beside weights, views and memory of the threads.

        Raises:
            InputError: Not even one position does.
        """
        extents = self.extents(plan)
        run = [self.program.run_bytes(extents, self.kept, engine.threads(), n) for n in (0, 1)]
        fixed = self.program.weight_bytes + self.program.view_bytes + self.program.outside_bytes + run[0]
        fixed += sum(value.numel() * value.element_size() for value in self.constants.values())
        each = run[1] - run[0] + sum(self.graph.nodes[i].numel() * 4 for i in self.exits)
        each += 2 * sum(sorted((node.numel() * 4 for node in self.tail.nodes), reverse=True)[:3])
        if budget < fixed + each:
            raise InputError(
                "memory_budget",
                mebibytes(budget),
                problem="this model and window take "
                f"{mebibytes(fixed)} for views, weights and boxes, and {mebibytes(each)} a "
                "position",
            )
        return int(min(LARGEST_BATCH, (budget - fixed) // max(each, 1)))

    def describe(self, plan: Plan) -> str:
        """The engine's instruction set, threads and memory, in words."""
        run = self.program.run_bytes(self.extents(plan), self.kept, engine.threads(), LARGEST_BATCH) / 2**20
        weights = self.program.weight_bytes / 2**20
        words = (
            f"native ({self.program.isa}, {engine.threads()} threads; packed weights take {weights:.0f} MiB, "
            f"{LARGEST_BATCH} positions {run:.0f} MiB)"
        )
        words += f"; PyTorch on its boxes for {', '.join(self.foreign)}" if self.foreign else ""
        return words + (f"; PyTorch in full from {self.reason}" if self.reason else "")

    def charge(self, costs: Costs, times: Times) -> None:
        """Add the engine's times of a run to the costs; a fused operator counts for the first of its nodes.

        Args:
            costs: The costs.
            times: Seconds and cells, by image and by vector of the engine.
        """
        values, vectors = times
        for number, (seconds, cells) in enumerate(values):
            node = self.values[number]
            if node.depends:
                costs.add(self._begins.get(node.index, node.index), seconds, cells if number else 0)
        for number, (seconds, _) in enumerate(vectors):
            index = self._of_vectors[number]
            costs.add(self._begins.get(index, index), seconds)

    def sizes(self, index: int) -> tuple[int, ...]:
        """Shape in which the engine gives one position's value of an exit: a vector, or NDHWC."""
        if index in self.vectors:
            return (self.graph.nodes[index].numel(),)
        node = self.values[self.exits[index]]
        cells = sizes_of(node)
        return (*cells, node.numel() // math.prod(cells))

    def as_node(self, index: int, given: Tensor) -> Tensor:
        """The engine's answer for an exit, in the shape of its node."""
        node = self.graph.nodes[index]
        given = given.to(node.dtype)
        if index in self.vectors or not self.values[self.exits[index]].axes:
            return given.reshape(-1, *node.shape[1:])
        if index in self.flat:
            return given.movedim(-1, 1).reshape(len(given), -1)
        return as_value(node, given)

    def begin(
        self,
        plan: Plan,
        kept: Sequence[int],
        x: Tensor,
        baseline: Tensor,
        shrinks: Sequence[tuple[int, float, Float32s | None]] = (),
        gradients: Sequence[tuple[int, Float32s]] = (),
    ) -> engine._native.Session:
        """The engine's own session on an input of float32; arguments as the engine takes them."""
        index = self.graph.input.index
        return engine._native.Session(
            self.program,
            self.extents(plan),
            kept,
            self.as_image(index, x),
            self.as_image(index, baseline),
            engine.threads(),
            shrinks,
            gradients,
        )

    def outputs(
        self,
        count: int,
        compute: Callable[[list[Any], list[Any]], Any],
        constant: Callable[[int, int], Tensor],
        costs: Costs | None = None,
    ) -> Tensor | None:
        """Outputs of the model for ``count`` positions, whose exits ``compute`` fills.

        Args:
            count: Number of positions.
            compute: Function that fills the arrays of images, ``(number, corners, array)``, and of vectors,
                ``(number, array)``.
            constant: Function that gives the value of a node that no position changes, for a number of
                copies.
            costs: Costs that the time of PyTorch's part is added to.

        Returns:
            None where the engine's numbers are not finite.
        """
        corners = np.zeros((count, len(AXES)), dtype=np.int64)
        arrays = {i: np.empty((count, *self.sizes(i)), dtype=np.float32) for i in self.exits}
        compute(
            [(n, corners, arrays[i]) for i, n in self.exits.items() if i not in self.vectors],
            [(n, arrays[i]) for i, n in self.exits.items() if i in self.vectors],
        )
        if not all(np.isfinite(array).all() for array in arrays.values()):
            return None
        computed = {i: self.as_node(i, torch.from_numpy(array)) for i, array in arrays.items()}
        return self.tail.run(computed, count, constant, costs)

    def as_boxes(self, boxes: IntArray) -> IntArray:
        """Boxes of the given input as the engine takes them: ``(boxes, 8)``, channels and axes."""
        out = np.empty((len(boxes), 1 + len(AXES), 2), dtype=np.int64)
        out[:] = (0, 1)
        for place, name in enumerate((0, *AXES)):
            if name in self.axes:
                out[:, place] = boxes[:, self.axes[name]]
        return out.reshape(len(boxes), -1)

    def as_cells(self, contents: Iterable[Tensor]) -> Float32s:
        """Contents of boxes of the given input, one after the other, each NDHWC, in one row."""
        roles = self.graph.input.roles
        order = [roles.index(axis) for axis in (*AXES, 0) if axis in roles]
        cells = [each.detach().to(torch.float32).permute(0, *order).reshape(-1) for each in contents]
        return np.ascontiguousarray(torch.cat(cells).numpy())

    def as_image(self, index: int, value: Tensor) -> Float32s:
        """A node's value for one copy as the engine lays it out: NDHWC without the batch."""
        node = self.graph.nodes[index]
        value = value.detach().to(torch.float32).expand(1, *node.shape[1:])
        return np.ascontiguousarray(as_cells(node, value)[0].numpy())
