"""The native executor: the C++ engine of ``csrc/`` on float32 images, on the CPU.

Its programs hold the part of a graph that is written in the engine's vocabulary, from the occluded input on;
what comes after runs as PyTorch does, in full, on batches of positions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.errors import InputError
from krypton_engine.executors.base import Session
from krypton_engine.executors.lowering import COLUMNS, ROWS, Floats, Lowering
from krypton_engine.executors.tail import Tail, constants_of, unchanging
from krypton_engine.graph.gradients import Head, first_order
from krypton_engine.graph.ir import BATCH, Graph, refs
from krypton_engine.perturbation.changed import ChangedCells, distinct_work
from krypton_engine.plan.plan import Plan

try:
    from krypton_engine import _native
except ImportError as error:  # a pure Python install
    _native = None  # type: ignore[assignment]
    MISSING = f"the C++ engine is not installed ({error})"
else:
    MISSING = ""

LARGEST_BATCH = 256
"""Positions of one call into the engine: enough for one pass over the weights of large linear layers."""

SPEED = 2.0
"""Speed of the engine over that of PyTorch on the same boxes, about (measured on VGG16 and ResNet18)."""


def program(graph: Graph, device: torch.device) -> NativeProgram | str:
    """``graph`` made ready, or why the engine cannot run it."""
    if MISSING:
        return MISSING
    if device.type != "cpu":
        return f"the C++ engine runs on the CPU, not on {device.type}"
    if graph.input.roles != (BATCH, 0, ROWS, COLUMNS):
        return f"the C++ engine runs images, and this input has {len(graph.input.shape) - 1} axes, not 3"
    kind = graph.input.dtype
    if kind is None or kind.is_complex or (kind.is_floating_point and kind != torch.float32):
        return f"the C++ engine computes in float32, not {kind}"
    try:
        found = NativeProgram(graph)
    except ValueError as error:  # beyond its limits
        return f"the C++ engine refuses it: {error}"
    if graph.clips and found.reason:  # what follows would not be clipped
        return f"the C++ engine clips all or nothing, and it stops at {found.reason}"
    return found


def packed_bytes(graph: Graph) -> int:
    """About what the packed weights of ``graph`` take at most: Winograd makes 9 numbers 36."""
    return sum(
        node.value.numel() * node.value.element_size() * (4 if node.value.dim() == 4 else 1)
        for node in graph.nodes
        if node.value is not None
    )


def instruction_sets() -> list[str]:
    """What the engine's kernels can run on here, best first."""
    return [] if MISSING else _native.instruction_sets()


def threads() -> int:
    """Threads to use: PyTorch's number, and no more processors than the process may use."""
    allowed: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            allowed = min(allowed, int(quota) / int(period))
    except (OSError, ValueError):
        pass
    return max(1, min(torch.get_num_threads(), math.ceil(allowed)))


class NativeProgram:
    """A graph made ready for the engine.

    Attributes:
        graph: Of which it is a program.
        program: The engine's own.
        exits: Nodes that are computed there and read here, with their numbers.
        kept: The numbers of those that are images.
        values: The node that each of the engine's images was built for.
        shrinkable: The numbers of these but the input, by node: what is not fused into what follows.
        tail: The rest of the model.
        constants: Weights of the tail.
        reason: Why the engine stops before the output; empty if it does not.
    """

    def __init__(self, graph: Graph, isa: str = "") -> None:
        channels, height, width = graph.input.shape[1:]
        self.graph = graph
        self.program = _native.Program(isa, height, width, channels)
        lowering = Lowering(graph, self.program)
        self.reason = lowering.reason
        rest = [node for node in graph.nodes if node.depends and node.index not in lowering.lowered]
        wanted = {i for node in rest for i in refs((node.args, node.kwargs))} | {graph.output}
        self.exits = {i: lowering.build(i) for i in sorted(wanted & lowering.lowered)}
        self.layers = {i for i in self.exits if lowering.is_layer(i)}
        self.flat = lowering.flat & set(self.exits)
        self.kept = [number for index, number in self.exits.items() if index not in self.layers]
        self.values = lowering.nodes
        self.shrinkable = {node.index: number for number, node in lowering.nodes.items() if number > 0}
        self.tail = Tail(graph, rest)
        self.constants = constants_of(graph, rest)

    def extents(self, plan: Plan) -> IntArray:
        """The largest box of every value of the engine: ``(values, 2)``."""
        out = np.zeros((len(self.values), 2), dtype=np.int64)
        for value, node in self.values.items():
            largest = plan.extents(node)
            out[value] = [int(largest[axis].max()) for axis in (ROWS, COLUMNS)]
        return out

    def largest_batch(self, plan: Plan, budget: int) -> int:
        """Positions that fit a budget in bytes, beside weights, views and what the threads need.

        Raises:
            InputError: Not even one does.
        """
        extents = self.extents(plan)
        run = [self.program.run_bytes(extents, self.kept, threads(), n) for n in (0, 1)]
        fixed = self.program.weight_bytes + self.program.view_bytes + run[0]
        fixed += sum(value.numel() * value.element_size() for value in self.constants.values())
        each = run[1] - run[0] + sum(self.graph.nodes[i].numel() * 4 for i in self.exits)
        each += 2 * sum(sorted((node.numel() * 4 for node in self.tail.nodes), reverse=True)[:3])
        if budget < fixed + each:
            raise InputError(
                f"memory_budget is {budget / 2**20:.0f} MiB; this model and window take "
                f"{fixed / 2**20:.0f} MiB for views, weights and boxes, and {each / 2**20:.1f} MiB a position"
            )
        return int(min(LARGEST_BATCH, (budget - fixed) // max(each, 1)))

    def describe(self, plan: Plan) -> str:
        """What it runs on, and what memory it takes, in words."""
        run = self.program.run_bytes(self.extents(plan), self.kept, threads(), LARGEST_BATCH) / 2**20
        weights = self.program.weight_bytes / 2**20
        words = (
            f"native ({self.program.isa}, {threads()} threads; packed weights take {weights:.0f} MiB, "
            f"{LARGEST_BATCH} positions {run:.0f} MiB)"
        )
        return words + (f"; PyTorch in full from {self.reason}" if self.reason else "")

    def sizes(self, index: int) -> tuple[int, ...]:
        """Shape in which the engine gives one position's value of an exit: a vector, or NHWC."""
        if index in self.layers:
            return (self.graph.nodes[index].numel(),)
        node = self.values[self.exits[index]]
        cells = node.size(ROWS), node.size(COLUMNS)
        return (*cells, node.numel() // math.prod(cells))

    def as_node(self, index: int, given: Tensor) -> Tensor:
        """What the engine gave for an exit, in the shape of its node."""
        node = self.graph.nodes[index]
        given = given.to(node.dtype)
        if index in self.layers:
            return given.reshape(-1, *node.shape[1:])
        if index in self.flat:
            return given.permute(0, 3, 1, 2).reshape(len(given), -1)
        place = {BATCH: 0, ROWS: 1, COLUMNS: 2}
        order = [3 if role is None else place.get(role, 3) for role in node.roles]
        return (given if len(order) == 4 else given.squeeze(3)).permute(order)

    def as_image(self, index: int, value: Tensor) -> Floats:
        """A node's value for one copy as the engine lays it out: NHWC without the batch."""
        node = self.graph.nodes[index]
        axes = [node.roles.index(axis) for axis in (ROWS, COLUMNS)]
        rest = [dim for dim in range(1, len(node.shape)) if dim not in axes]
        height, width = (node.shape[dim] for dim in axes)
        moved = value.detach().to(torch.float32).expand(1, *node.shape[1:]).permute(0, *axes, *rest)
        return np.ascontiguousarray(moved.reshape(height, width, -1).numpy())

    def pays(self, plan: Plan) -> bool:
        """Whether this is faster than the reference executor, which computes the rest in boxes too."""
        rest = {node.index for node in self.tail.nodes}
        here = sum(step.macs_incremental for step in plan.steps if step.index not in rest)
        there = [step for step in plan.steps if step.index in rest]
        return here / SPEED + sum(s.macs for s in there) < here + sum(s.macs_incremental for s in there)


class NativeSession:
    """A native program on one example: its views, and outputs for any list of positions.

    Args:
        program: The graph made ready.
        plan: Graph x window.
        inputs: The tensors of one example, first dimension 1 where they are batched.
        baseline: What replaces the occluded cells; broadcasts against the occluded input.
        memory_budget: Bytes that the session may add to the process.
        reference: Opens the reference executor's session on the same example. It takes over for good where
            the engine computes a number that is not finite: sums of changes and Winograd's tiles carry NaN
            and infinity further than PyTorch does.
        shrinks: By node: rows and columns at the rim of its boxes are dropped where no element changes by the
            threshold; 0 drops nothing. The gradient of a scalar by the node's value, shaped like it, tells
            what that does to the scalar; None to ignore it.

    Attributes:
        window: The sliding window whose positions it answers.
        changed: Which cells every window really changes.
        base: Output for the un-occluded input, ``(1, *output_shape)``.
        dropped: For every window position that was answered, the sum of gradient x change over all that
            shrinking dropped: ``(positions,)``, float64; None without ``shrinks``.

    Raises:
        InputError: The budget does not hold the views and one position.
        KeyError: ``shrinks`` names a node that is not ``program.shrinkable``.
    """

    at_once = 1

    def __init__(
        self,
        program: NativeProgram,
        plan: Plan,
        inputs: tuple[Tensor, ...],
        baseline: Tensor,
        memory_budget: int,
        reference: Callable[[], Session],
        shrinks: Mapping[int, tuple[float, Tensor | None]] = MappingProxyType({}),
    ) -> None:
        x = inputs[program.graph.occluded]
        baseline = baseline.to(x).expand(x.shape)
        self.program = program
        self.window = plan.window
        self.changed = ChangedCells(self.window, (x != baseline)[0].numpy())
        # Integers are the engine's from where the model makes numbers of float32 of them.
        x, baseline = x.float(), baseline.float()
        self._constant = unchanging(program.graph, inputs, program.constants)
        self.dropped = np.zeros(len(self.window)) if shrinks else None
        self._inputs = inputs
        # Its views come on top of these.
        beside = memory_budget - program.program.view_bytes
        self._again = partial(NativeSession, program, plan, inputs, baseline, beside, reference)
        self._free = beside - program.program.weight_bytes
        armed = [
            (program.shrinkable[node], threshold, None if g is None else program.as_image(node, g))
            for node, (threshold, g) in shrinks.items()
        ]
        gradients = sum(0 if g is None else g.nbytes for _, _, g in armed)
        self.batch = program.largest_batch(plan, memory_budget - gradients)
        self._open_reference = reference
        self._reference: Session | None = None
        self._session: _native.Session | None = _native.Session(
            program.program, program.extents(plan), program.kept, _nhwc(x), _nhwc(baseline), threads(), armed
        )
        base = self._outputs(1, self._session.base)
        self.base = self._take_over().base if base is None else base

    def _take_over(self) -> Session:
        """The reference executor's session, which answers from now on; the engine's views are freed."""
        if self._reference is None:
            self._session = None
            self._reference = self._open_reference()
        return self._reference

    def _outputs(self, count: int, compute: Callable[[list[Any], list[Any]], Any]) -> Tensor | None:
        """Outputs of the model for ``count`` positions, whose exits ``compute`` fills.

        None where the engine's numbers are not finite.
        """
        program, corners = self.program, np.zeros((count, 2), dtype=np.int64)
        arrays = {i: np.empty((count, *program.sizes(i)), dtype=np.float32) for i in program.exits}
        compute(
            [(n, corners, arrays[i]) for i, n in program.exits.items() if i not in program.layers],
            [(n, arrays[i]) for i, n in program.exits.items() if i in program.layers],
        )
        if not all(np.isfinite(array).all() for array in arrays.values()):
            return None
        computed = {i: program.as_node(i, torch.from_numpy(array)) for i, array in arrays.items()}
        return program.tail.run(computed, count, self._constant)

    def trimmed(self, epsilon: float, head: Head) -> NativeSession:
        """A session that drops small changes; see `krypton_engine.executors.base.Session`."""
        if self._session is None:
            return self
        effects = first_order(self.program.graph, self._inputs, self.program.shrinkable, head, self._free)
        if not effects:
            return self
        return self._again({node: (epsilon * rms, gradient) for node, (rms, gradient) in effects.items()})

    def stream(self, positions: IntArray, limit: int | None = None) -> Iterator[tuple[IntArray, Tensor]]:
        """Outputs ``(positions, *output_shape)`` as they become known; see `ReferenceSession.stream`."""
        work = distinct_work(self.changed, positions)
        if len(work.unchanged):
            yield work.unchanged, self.base.expand(len(work.unchanged), *self.base.shape[1:])
        count = self.batch if limit is None else min(limit, self.batch)
        for start in range(0, len(work.boxes), count):
            boxes = np.ascontiguousarray(work.boxes[start : start + count].reshape(-1, 6))
            session, values, dropped = self._session, None, np.empty(len(boxes))
            if session is not None:
                values = self._outputs(len(boxes), partial(session.run, boxes, dropped))
            if values is None:
                yield from self._take_over().stream(np.concatenate(work.readers[start:]), limit)
                return
            readers = work.readers[start : start + count]
            repeats = [len(r) for r in readers]
            answered = np.concatenate(readers)
            if self.dropped is not None:
                self.dropped[answered] = dropped.repeat(repeats)
            yield answered, values.repeat_interleave(torch.tensor(repeats, device="cpu"), 0)


def _nhwc(image: Tensor) -> Floats:
    return np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())
