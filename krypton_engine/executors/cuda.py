"""The CUDA executor: the reference executor's boxes on a GPU, with the kernels of ``csrc/cuda``.

Convolutions are PyTorch's (cuDNN), or products of matrices whose rows a kernel of ours gathers, whichever is
faster; boxes are put together, pooled and finished by our own kernels, which read cells where they lie. All
that a group of positions needs to know is one small table of coordinates, so that what runs on the GPU is the
same for every group of the same extents: it is recorded once as a CUDA graph and replayed.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.executors.grouping import Group, Grouping, WindowClasses, WindowGrouping
from krypton_engine.executors.lowering import Unsupported, arguments_of, epilogue_of
from krypton_engine.executors.reference import (
    CONVOLUTION,
    Layout,
    ReferenceProgram,
    ReferenceSession,
    View,
    column_axes,
    fill_of,
    on_device,
)
from krypton_engine.executors.tail import Tail, averages_cells, channels_last
from krypton_engine.graph.ir import Convolution, Graph, Node, Pool, Reindex, in_full, refs, resolve
from krypton_engine.graph.regions import WindowMap, slide_inwards
from krypton_engine.perturbation.changed import distinct_work
from krypton_engine.perturbation.windows import SlidingWindow, occlude
from krypton_engine.plan.plan import Plan

try:
    from krypton_engine import _cuda
except ImportError as error:  # built without nvcc
    _cuda = None  # type: ignore[assignment]
    MISSING = f"the CUDA engine is not installed ({error})"
else:
    MISSING = ""

DEVICE = "cuda"

_AXES = 3
"""Axes that boxes run along at most, as the kernels have it."""

_ELEMENTS = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_FUNCTIONS = {"identity": "clamp", "silu": "silu", "hardswish": "hardswish", "sigmoid": "sigmoid"}
_ACTIVATIONS = {"relu", "hardtanh", "relu6", "clamp", "clamp_min", "silu", "hardswish", "sigmoid"}

_LARGEST_TAIL_TENSOR = 512 * 2**20
_MOST_GRAPHS = 128
"""Recorded groups that an arena keeps: those of about 20 classes of a window's positions. Further ones
are not recorded: to make room for them would cost more than they save."""

_UNFOLDED = 128 * 2**20
"""Bytes of the rows that a convolution multiplies at a time."""

_HALVES = 5
"""How often the largest group is halved, unless somebody wants fewer positions at a time: groups of few sizes
can be recorded once and for all."""

_MANY = 4
"""Of the largest batch: so many positions are told apart by the sizes of their boxes."""

_MOST_ARENAS = 4
"""Arenas that are kept between sessions, of all programs together: their memory serves nothing else."""


def program(graph: Graph, plan: Plan, device: torch.device) -> CudaProgram | str:
    """``graph`` made ready for the window of ``plan``, or why the engine cannot run it."""
    if MISSING:
        return MISSING
    if device.type != DEVICE:
        return f"the CUDA engine runs on a GPU, not on {device.type}"
    columns = column_axes(graph, plan.window)
    for node in graph.nodes:
        if not node.local:
            continue
        if node.dtype not in _ELEMENTS:
            return f"{node.op} ({node.name}): the CUDA engine has no kernels for {node.dtype}"
        if len(Layout.of(node, columns[node.index]).axes) > _AXES:
            return f"{node.op} ({node.name}): the CUDA engine moves boxes along {_AXES} axes at most"
        if isinstance(node.box, Pool) and None in node.roles[2:]:
            return f"{node.op} ({node.name}): the CUDA engine pools along the axes of boxes only"
        if isinstance(node.box, Reindex) and len({graph.nodes[i].axes for i in node.operands}) > 1:
            return f"{node.op} ({node.name}): the CUDA engine merges values of the same axes only"
    if refused := _probe(device):
        return refused
    if "cuda" not in graph.programs:
        graph.programs["cuda"] = CudaProgram(graph, _cuda)
    found: CudaProgram = graph.programs["cuda"]
    return found


@functools.cache
def _probe(device: torch.device) -> str:
    """Why a device cannot run the kernels; empty if it can."""
    x = torch.zeros(1, device=device)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    try:
        with torch.cuda.device_of(x):
            _cuda.finish(
                x.data_ptr(), 1, 0, None, [_cuda.Read()] * _AXES, [1] * _AXES, 1, _cuda.Function.clamp, 0, 1,
                _cuda.Element.float32, stream,
            )  # fmt: skip
    except RuntimeError as error:
        return f"the CUDA engine cannot run on {device} ({error}); it was built for {architectures()}"
    return ""


def architectures() -> str:
    """The compute capabilities that the engine was built for, as CMake names them."""
    return "" if MISSING else _cuda.architectures


@dataclass(frozen=True)
class _Finish:
    """What a convolution's result goes through in place: another value is added, then an activation."""

    convolution: Node
    residual: tuple[Node, int] | None = None  # the addition, and which operand of it
    function: str = "clamp"
    low: float = -math.inf
    high: float = math.inf


class CudaProgram(ReferenceProgram):
    """A graph made ready for the GPU.

    Args:
        graph: The graph.
        kernels: The module of ``csrc/cuda``.

    Attributes:
        finishes: By node: the convolution that it is the end of.
        absorbed: Nodes that are computed on the way to such an end.
        reads: What each of the others reads.
        last_read: Who reads a value last.
        averages: Nodes after the frontier that average one of its values over all cells, and which.
        exits: What is computed here and read by the rest of the model.
        same_box: A number by node, equal for those whose boxes are always the same.
        faster: What was measured: by a convolution, its size and PyTorch's settings, which way to compute it.
        classes: Of windows, by how many positions they should have.
        segments: Parts of the graph after each of which sessions that shrink cut their boxes.
        rest: What comes after them.
    """

    def __init__(self, graph: Graph, kernels: Any) -> None:
        super().__init__(graph)
        self.kernels = kernels
        self.finishes: dict[int, _Finish] = {}
        self.absorbed: set[int] = set()
        for node in graph.nodes:
            roles = node.roles[1:]
            if isinstance(node.box, Convolution) and roles[0] is None and None not in roles[1:]:
                self._finish(node)
        tail = [node for node in graph.nodes if node.depends and not node.local]
        self.averages = self._averages(tail)
        rest = [node for node in tail if node.index not in self.averages]
        self.tail = Tail(graph, rest, _LARGEST_TAIL_TENSOR)
        averaged = set(self.averages.values())
        exits = [index for index in self.frontiers if index not in averaged] + list(self.averages)
        self.exits = [graph.nodes[index] for index in exits]
        self.same_box = _same_boxes(graph)
        # An end reads later what the convolution before it would have read.
        self.reads = {
            node.index: self._read_by(node)
            for node in graph.nodes
            if node.local and node.operands and node.index not in self.absorbed
        }
        self.last_read = {operand: index for index, operands in self.reads.items() for operand in operands}
        self.last_read |= dict.fromkeys(self.frontiers, len(graph.nodes))
        convolutions = {node.index for node in graph.nodes if isinstance(node.box, Convolution)}
        cuts = [
            node
            for node in graph.bottlenecks
            if node.operands
            and node.index not in self.absorbed
            and convolutions & {reader for reader, _ in graph.readers[node.index]}
        ]
        self.shrinkable = [node.index for node in cuts]
        ends = [graph.input, *cuts]
        self.segments = [graph.between(first, last) for first, last in itertools.pairwise(ends)]
        self.rest = graph.between(ends[-1])
        self.faster: dict[Any, int] = {}
        self.classes: dict[Any, WindowClasses] = {}
        self._chosen: dict[SlidingWindow, tuple[CudaProgram, Plan]] = {}
        self._mine = object()
        weakref.finalize(self, _drop, self._mine)

    def open(self, plan: Plan, inputs: tuple[Tensor, ...], baseline: Tensor, budget: int) -> CudaSession:
        """A session that computes in full from where that measures faster on this device.

        The first one of a window measures; see `CudaSession.measured_cut`.
        """
        if plan.window not in self._chosen:
            trial = CudaSession(self, plan, inputs, baseline, budget)
            cut = trial.measured_cut()
            if cut is None:
                self._chosen[plan.window] = self, plan
                return trial
            del trial
            _drop(self._mine)
            graph = in_full(self.graph, cut)
            less = CudaProgram(graph, self.kernels)
            less.constants = self.constants
            self._chosen[plan.window] = less, Plan(graph, plan.window)
        program, plan = self._chosen[plan.window]
        return CudaSession(program, plan, inputs, baseline, budget)

    def describe(self, window: SlidingWindow) -> str:
        """Who runs a window, in words."""
        chosen, _ = self._chosen.get(window, (self, None))
        if chosen is self:
            return "cuda"
        full = chosen.graph.frontiers[0]
        return f"cuda; in full after {full.op} ({full.name}), which measures faster"

    def lease(self, key: Any, device: torch.device) -> _Arena:
        """Memory for a session; one that was given back, if it fits."""
        found, others = None, []
        with contextlib.suppress(IndexError):
            while found is None:  # other threads do the same, so that only single steps are safe
                arena = _FREE.popleft()
                if (arena.owner, arena.key, arena.device) == (self._mine, key, device):
                    found = arena
                else:
                    others.append(arena)
        _FREE.extendleft(reversed(others))
        return found or _Arena(self._mine, key, device)

    def keeps_view(self, node: Node) -> bool:
        """Whether a session keeps the un-occluded cells of a local node."""
        if node.index in self.absorbed:
            return False
        # A convolution of one cell that is added to something reads cells beside the box before it.
        adding = (f.convolution.operands[0] for f in self.finishes.values() if f.residual is not None)
        return self.graph.needs_view(node) or node.index in adding

    def give_back(self, arena: _Arena) -> None:
        """``arena`` is free for another session."""
        _FREE.append(arena)

    def _finish(self, convolution: Node) -> None:
        """Fuse into ``convolution`` what alone follows it."""
        graph, end = self.graph, convolution
        found = _Finish(convolution)

        def only_reader() -> tuple[Node, int] | None:
            readers = graph.readers[end.index]
            if len(readers) != 1 or end.index in self.frontiers:
                return None
            return graph.nodes[readers[0][0]], readers[0][1]

        after = only_reader()
        # A sum that is clipped may not be recomputed where its box ends and that of the residual goes on; and
        # one of two convolutions that are added is the other's residual.
        taken = {f.residual[0].index for f in self.finishes.values() if f.residual is not None}
        fuses = after is not None and not graph.clips and after[0].index not in taken
        if after is not None and fuses and _adds_two(after[0], graph):
            self.absorbed.add(end.index)
            end = after[0]
            found = _Finish(convolution, (end, 1 - after[1]))
            after = only_reader()
        if after is not None and after[0].op in _ACTIVATIONS and after[0].dtype == convolution.dtype:
            try:
                epilogue = epilogue_of(after[0].op, arguments_of(after[0]))
            except Unsupported:
                epilogue = None
            if epilogue is not None:
                self.absorbed.add(end.index)
                end = after[0]
                found = _Finish(
                    convolution, found.residual, _FUNCTIONS[epilogue.function], epilogue.low, epilogue.high
                )
        self.finishes[end.index] = found

    def _read_by(self, node: Node) -> tuple[int, ...]:
        finish = self.finishes.get(node.index)
        if finish is None:
            return node.operands
        if finish.residual is None:
            return finish.convolution.operands
        addition, i = finish.residual
        return *finish.convolution.operands, addition.operands[i]

    def _averages(self, tail: Sequence[Node]) -> dict[int, int]:
        reads = [i for node in tail for i in refs((node.args, node.kwargs))] + [self.graph.output]
        found = {}
        for node in tail:
            sources = [i for i in refs((node.args, node.kwargs)) if self.graph.nodes[i].depends]
            if len(sources) == 1 and reads.count(sources[0]) == 1:
                source = self.graph.nodes[sources[0]]
                if source.local and source.operands and averages_cells(node, source):
                    found[node.index] = source.index
        return found


def _adds_two(node: Node, graph: Graph) -> bool:
    """Whether ``node`` is the sum of two changing values, cell by cell."""
    return (
        node.op == "add"
        and len(node.operands) == len(node.args) == 2
        and not node.kwargs
        and node.operands[0] != node.operands[1]
        and all(node.same_cells(i) for i in range(2))
        and all(
            (other.depends, other.shape, other.dtype) == (True, node.shape, node.dtype)
            for other in (graph.nodes[i] for i in node.operands)
        )
    )


def _same_boxes(graph: Graph) -> dict[int, int]:
    found: dict[int, int] = {}
    for node in graph.nodes:
        if not node.local:
            continue
        changing = [i for i, operand in enumerate(node.operands) if graph.nodes[operand].depends]
        theirs = {found[node.operands[i]] for i in changing}
        same = len(theirs) == 1 and all(node.same_cells(i) for i in changing)
        found[node.index] = theirs.pop() if same else node.index
    return found


# -- memory --------------------------------------------------------------------------------------------------


class _Arena:
    """Views at addresses that stay, and what was recorded to read them.

    It belongs to one thread and one stream, so that what comes later on the stream finds it done with.

    Args:
        owner: Whose sessions it serves.
        key: Which of them.
        device: Where it lies.
    """

    def __init__(self, owner: object, key: Any, device: torch.device) -> None:
        self.owner = owner
        self.key = key
        self.device = device
        self._tables: dict[Any, Tensor] = {}
        self._constants: dict[Any, Tensor] = {}
        self._forget()

    def _forget(self) -> None:
        """Nothing is recorded; a pool of memory ends with the last graph in it."""
        self._records: dict[Any, bool] = {}  # by what has been met: whether to record it
        self._recorded: dict[Any, tuple[Any, Tensor, dict[int, Tensor]]] = {}
        self._exits: dict[int, Tensor] = {}
        self._settings: Any = None
        self._pool: Any = None
        self._aside: Any = None

    def table(self, key: Any, rows: Tensor) -> Tensor:
        """``rows``, where those of ``key`` lie."""
        mine = self._tables.get(key)
        if mine is None or (mine.shape, mine.dtype) != (rows.shape, rows.dtype):
            self._tables[key] = mine = rows
            self._forget()
        else:
            mine.copy_(rows)
        return mine

    def constant(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` makes, the same for all sessions, kept."""
        if key not in self._constants:
            self._constants[key] = make()
        return self._constants[key]

    def run(
        self, key: Any, coordinates: npt.NDArray[np.int32], compute: Callable[[Tensor], dict[int, Tensor]]
    ) -> dict[int, Tensor]:
        """What ``compute`` makes of coordinates; recorded when a ``key`` comes for the second time.

        Args:
            key: Equal for calls that do the same.
            coordinates: Numbers that change from call to call, ``(rows, copies)``.
            compute: Works on the current stream, without waiting for it.
        """
        table = on_device(coordinates, self.device)
        if self.device.type != "cuda":
            return compute(table)
        if self._settings != (now := _settings()):
            self._forget()
            self._settings = now
        if key not in self._records:
            found = compute(table)
            for index, value in found.items():
                self._exit(index, value)
            self._records[key] = True  # all memory and constants that it needs are there
            return found
        if key not in self._recorded and self._records[key]:
            full = len(self._recorded) == _MOST_GRAPHS
            self._records[key] = not full and self._record(key, table, compute)
        if key not in self._recorded:
            return compute(table)
        graph, mine, out = self._recorded[key]
        mine.copy_(table)
        graph.replay()
        return {index: value.clone() for index, value in out.items()}

    def _exit(self, index: int, value: Tensor) -> Tensor:
        """Where all recorded groups leave a value."""
        mine = self._exits.get(index)
        if mine is None or len(mine) < len(value) or mine.dtype != value.dtype:
            self._exits[index] = mine = torch.empty_like(value)
        return mine[: len(value)]

    def _record(self, key: Any, table: Tensor, compute: Callable[[Tensor], dict[int, Tensor]]) -> bool:
        """Whether what ``compute`` does could be recorded."""
        if self._pool is None:
            # Memory is shared between graphs that were recorded on one stream.
            self._pool, self._aside = torch.cuda.graph_pool_handle(), torch.cuda.Stream(self.device)
        mine, graph, here = table.clone(), torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        self._aside.wait_stream(here)
        try:
            with _RECORDING, torch.cuda.stream(self._aside):
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    found = compute(mine)
                    out = {index: self._exit(index, value).copy_(value) for index, value in found.items()}
                except RuntimeError:
                    with contextlib.suppress(RuntimeError):
                        graph.capture_end()
                    raise
                graph.capture_end()
        except RuntimeError:  # somebody waited for the device meanwhile, or memory is short
            self._pool = None
            return False
        here.wait_stream(self._aside)
        self._recorded[key] = graph, mine, out
        return True


_FREE: deque[_Arena] = deque(maxlen=_MOST_ARENAS)
"""Arenas that wait for a session; the one that has waited longest gives way."""


def _drop(owner: object) -> None:
    """Nothing waits for sessions of ``owner`` any more."""
    for _ in range(len(_FREE)):
        with contextlib.suppress(IndexError):
            arena = _FREE.popleft()
            if arena.owner is not owner:
                _FREE.append(arena)


_RECORDING = threading.Lock()
"""PyTorch records one graph at a time."""


def _settings() -> tuple[Any, ...]:
    """What PyTorch was told of how to compute: a recorded graph goes on as it was told then."""
    return (
        precisions(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cuda"),
    )


def precisions() -> tuple[str, str]:
    """How convolutions and matrix products of float32 round on a GPU: ``"tf32"``, or something exact."""
    convolutions: Any = torch.backends.cudnn
    return convolutions.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@dataclass
class _Patch:
    """The changed cells of one value: a box of shared ``extents`` for every copy.

    Attributes:
        value: In the value's own dimensions, if a reader of the same cells may take it as it is.
        extents: By axis.
        place: By copy: which of the boxes is its own; None for the copy's number.
        rows: The same as rows, once somebody asked for them.
    """

    value: Tensor | None
    extents: Mapping[int, int]
    place: Tensor | None = None
    rows: Tensor | None = None


class _Boxes:
    """The boxes of one group on their way through the graph.

    Args:
        table: Where they lie, on the device: int32 ``(3 * slots, copies)``, start, lo and hi for each slot.
        slots: Number of a node's axis.
        extents: Their size, by node and axis.
        patches: The changed cells that were computed and are still to be read.
    """

    def __init__(
        self,
        table: Tensor,
        slots: Mapping[tuple[int, int], int],
        extents: Mapping[int, Mapping[int, int]],
        patches: dict[int, _Patch],
    ) -> None:
        self.table = table
        self.extents = extents
        self.patches = patches
        self.copies = table.shape[1]
        self._slots = slots

    def of(self, node: int, axis: int) -> tuple[int, int, int]:
        """Addresses of start, lo and hi; zeros for an axis without boxes."""
        slot = self._slots.get((node, axis))
        if slot is None:
            return 0, 0, 0
        width = self.copies * 4
        first = self.table.data_ptr() + 3 * slot * width
        return first, first + width, first + 2 * width


# -- sessions ------------------------------------------------------------------------------------------------


class CudaSession(ReferenceSession):
    """A program on one example; see `ReferenceSession`.

    Nothing waits for the GPU but the reader of the outputs, `_regrouped` in a session that shrinks, and
    `_faster` where it has not measured yet. A session is used by the thread and on the stream that it was
    opened on.
    """

    largest_batch = 256
    largest_tensor = 2**30
    at_once = 128
    program: CudaProgram

    def __init__(
        self,
        program: CudaProgram,
        plan: Plan,
        inputs: tuple[Tensor, ...],
        baseline: Tensor,
        memory_budget: int,
        shrinks: Mapping[int, tuple[float, Tensor]] = MappingProxyType({}),
    ) -> None:
        device = inputs[program.graph.occluded].device
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        # What was made in inference mode cannot be written outside of it.
        key = plan.window, bool(shrinks), threading.get_ident(), stream, torch.is_inference_mode_enabled()
        self._arena = program.lease(key, device)
        self._kernels = program.kernels
        weakref.finalize(self, program.give_back, self._arena)
        graph = program.graph
        keys = [(node.index, axis) for node in graph.nodes if node.local for axis in node.axes]
        self._slots = {key: slot for slot, key in enumerate(keys)}
        self._tables: Counter[int] = Counter()
        with torch.cuda.device_of(inputs[graph.occluded]):
            super().__init__(program, plan, inputs, baseline, memory_budget, shrinks)
            exits = sum(node.bytes() for node in program.exits)
            self._unfolds = min(_UNFOLDED, self.free // 8)
            # Twice the exits: where recorded groups leave them, and a group's own.
            free = (self.free - self._unfolds) // 2
            self.batch = max(1, min(self.batch, free // (plan.bytes_per_position + 2 * exits)))
            # What a recorded group reads lies where it lay, whatever session reads it.
            others = self._others.items()
            self._others = {i: self._arena.table(("other", i), value.clone()) for i, value in others}
            for node in graph.nodes:
                for operand in node.operands if node.local else ():
                    source = graph.nodes[operand]
                    if not source.depends and source.axes and operand not in self._views:
                        self._views[operand] = self._view(source, self._constant(operand, 1), frozenset())
            self._sizes = [self.batch >> k for k in range(self.batch.bit_length())]
            self._joined = {node.index for node in graph.nodes if self._joins_channels(node)}

    def _joins_channels(self, node: Node) -> bool:
        """Whether ``node`` puts values side by side that are laid out as it is but for their channels."""
        if not node.local or node.op != "cat" or not all(i in self._views for i in node.operands):
            return False
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        values = [self._views[i] for i in (node.index, *node.operands)]
        return dim % len(node.shape) == 1 and all(
            view.layout.axes == node.axes
            and len(view.layout.columns) == 1
            and view.table.dtype == values[0].table.dtype
            for view in values
        )

    def _view(self, node: Node, value: Tensor, columns: frozenset[int]) -> View:
        view = super()._view(node, value, columns)
        # A node's view comes first, then its gradient.
        view.table = self._arena.table((node.index, self._tables[node.index]), view.table)
        self._tables[node.index] += 1
        return view

    def stream(self, positions: IntArray, limit: int | None = None) -> Iterator[tuple[IntArray, Tensor]]:
        """See `ReferenceSession.stream`; the GPU has the next group before somebody waits for this one."""
        waiting: tuple[IntArray, Tensor] | None = None
        for answer in super().stream(positions, limit):
            if waiting is not None:
                yield waiting
            waiting = answer
        if waiting is not None:
            yield waiting

    # -- one group -------------------------------------------------------------------------------------

    def _grouping(self, boxes: IntArray, batch: int) -> Grouping:
        if self.graph.clips:  # a box that is cut in the middle need not lie in that of the whole window
            return super()._grouping(boxes, batch)
        # To tell apart the phases of a window among few positions would make small groups.
        many = len(boxes) >= _MANY * self.largest_batch
        positions = self.largest_batch if many else len(self.window)
        key = self.window, positions
        if key not in self.program.classes:
            self.program.classes[key] = WindowClasses(self.graph, self.window, positions)
        few = min(batch, self.batch >> _HALVES)
        fit = [size for size in self._sizes if size <= batch]
        sizes = [size for size in fit if size >= few] or fit[:1]
        return WindowGrouping(self.graph, boxes, sizes, self.program.classes[key])

    def _frontiers(self, group: Group, dropped: Floats) -> dict[int, Tensor]:
        """Frontier values, or their averages, for the positions of one group."""
        with torch.cuda.device_of(self.x):
            extents, count = group.extents, len(group.members)
            # Copies of the last one fill it up.
            size = min(size for size in self._sizes if size >= count)
            key = (size, *(tuple(each.values()) for each in extents.values()))
            coordinates = np.pad(self._coordinates(group, {}), ((0, 0), (0, size - count)), "edge")

            def compute(table: Tensor) -> dict[int, Tensor]:
                patches = {self.graph.input.index: self._occluded()}
                at = _Boxes(table, self._slots, extents, patches)
                self._compute(self.graph.nodes, at)
                return self._exits(at)

            found = self._arena.run(key, coordinates, compute)
            return {index: value[:count] for index, value in found.items()}

    def _coordinates(
        self, group: Group, starts: Mapping[int, Mapping[int, IntArray]]
    ) -> npt.NDArray[np.int32]:
        """The table of `_Boxes`; ``starts`` of boxes that do not lie where the group has them."""
        table = np.zeros((len(self._slots), 3, len(group.members)), dtype=np.int32)
        for index, lo in group.lo.items():
            node = self.graph.nodes[index]
            for axis, first in lo.items():
                mine = table[self._slots[index, axis]]
                if index in starts:
                    mine[0] = starts[index][axis]
                elif node is not self.graph.input:
                    mine[0] = slide_inwards(first, group.extents[index][axis], node.size(axis))
                mine[1], mine[2] = first, group.hi[index][axis]
        return table.reshape(-1, table.shape[2])

    def _occluded(self) -> _Patch:
        """The input's changed cells are those of one baseline, for all copies."""
        node = self.graph.input
        view = self._views[node.index]
        rows = view.table[view.changed_at :]
        zeros = self._arena.constant(
            "zeros", lambda: torch.zeros(self.largest_batch, dtype=torch.int32, device=self.device)
        )
        sizes = {axis: node.size(axis) for axis in node.axes}
        return _Patch(None, sizes, zeros, rows)

    def _compute(
        self,
        nodes: Sequence[Node],
        at: _Boxes,
    ) -> None:
        """Boxes of ``nodes`` from those of what they read; patches stay until they have been read."""
        program = self.program
        for node in nodes:
            if not node.local or not node.operands or node.index in program.absorbed:
                continue
            if all(at.extents[node.index].values()):
                at.patches[node.index] = _Patch(self._boxes(node, at), at.extents[node.index])
            for operand in program.reads[node.index]:
                if program.last_read[operand] == node.index:
                    at.patches.pop(operand, None)

    def _boxes(self, node: Node, at: _Boxes) -> Tensor:
        """The boxes of ``node``, in its own dimensions."""
        finish = self.program.finishes.get(node.index)
        if finish is not None:
            return self._convolved(node, finish, at)
        if isinstance(node.box, Pool):
            return self._pooled(node, node.box, at)
        if isinstance(node.box, Reindex):
            return self._moved(node, at)
        if node.index in self._joined:
            return self._side_by_side(node, at)
        fetched = {operand: self._fetched(node, node, i, at) for i, operand in enumerate(node.operands)}
        return self._run(node, fetched, {}, dict(at.extents[node.index]), at.copies)

    def _convolved(
        self,
        node: Node,
        finish: _Finish,
        at: _Boxes,
    ) -> Tensor:
        """A convolution on the boxes of ``node``, which is the end of it, and what comes on the way there."""
        convolution = finish.convolution
        box = convolution.box
        assert isinstance(box, Convolution)
        ways = [self._by_pytorch]
        if self._is_product(node, convolution, box, at):
            ways.append(self._as_product)
        y = ways[self._faster(ways, node, convolution, box, at)](node, convolution, box, at)
        cells, reads = None, [self._kernels.Read()] * _AXES
        if finish.residual is not None:
            addition, i = finish.residual
            source = self.graph.nodes[addition.operands[i]]
            view = self._views[source.index]
            if view.table.dtype == y.dtype and view.layout.axes == node.axes:
                cells = self._cells(source, at)
                reads = [self._read(node, addition, i, axis, at) for axis in node.axes]
            else:  # autocast computes one in half precision, or a window spans an axis
                y = channels_last(y + self._fetched(node, addition, i, at))
        layout = Layout.of(node, frozenset())
        rows = layout.as_rows(y).contiguous()
        bias = None if box.bias is None else self._constant(box.bias, 1).float().contiguous()
        self._kernels.finish(
            rows.data_ptr(), rows.shape[-1], 0 if bias is None else bias.data_ptr(), cells,
            _padded(reads, self._kernels.Read),
            _padded([at.extents[node.index][axis] for axis in node.axes], lambda: 1), at.copies,
            getattr(self._kernels.Function, finish.function), finish.low, finish.high,
            self._element(rows), self._stream(),
        )  # fmt: skip
        return layout.as_value(rows, tuple(rows.shape[:-1]))

    def _by_pytorch(self, node: Node, convolution: Node, box: Convolution, at: _Boxes) -> Tensor:
        """A convolution without its bias, channels last."""
        x = self._fetched(node, convolution, 0, at)
        convolve = CONVOLUTION[len(box.stride)]
        no_padding = [0] * len(box.stride)  # the boxes bring it
        return channels_last(
            convolve(x, self._constant(box.weight, 1), None, box.stride, no_padding, box.dilation, box.groups)
        )

    def _as_product(self, node: Node, convolution: Node, box: Convolution, at: _Boxes) -> Tensor:
        """The same: a row for every cell, of all that its window reads, times the weights."""
        key, weights = ("product", convolution.index), self._constant(box.weight, 1)

        def as_rows() -> Tensor:
            return weights.movedim(1, -1).flatten(1).contiguous()

        # Weights that are an input, or made of one, are others for the next session.
        fixed = self.graph.nodes[box.weight].value is not None
        weight = (self._arena.constant(key, as_rows) if fixed else as_rows()).T
        sizes = [at.extents[node.index][axis] for axis in node.axes]
        if _is_pointwise(convolution):
            x = self._fetched(node, convolution, 0, at)
            rows = x.movedim(1, -1).reshape(-1, len(weight)) @ weight
        else:
            at_once = self._unfolds // self._unfolded_bytes(node, convolution, box, at)
            parts = [
                self._unfolded(node, convolution, sizes, first, min(at_once, at.copies - first), at) @ weight
                for first in range(0, at.copies, at_once)
            ]
            rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        return Layout.of(node, frozenset()).as_value(rows, (at.copies, *sizes))

    def _unfolded(
        self, node: Node, convolution: Node, sizes: list[int], first: int, copies: int, at: _Boxes
    ) -> Tensor:
        """What the windows of some copies' boxes read, ``(cells, taps * channels)``."""
        source = self.graph.nodes[convolution.operands[0]]
        view = self._views[source.index]
        reads, kernel, steps = [], [], []
        for axis in node.axes:
            step = convolution.maps[0].get(axis)
            start, _, _ = at.of(node.index, axis)
            window = step if isinstance(step, WindowMap) else None
            reads.append(
                self._kernels.Read(start, window.stride, window.padding, window.stride)
                if window
                else self._kernels.Read(start)
            )
            kernel.append(window.kernel if window else 1)
            steps.append(window.dilation if window else 1)
        columns = view.table.shape[1]
        rows = view.table.new_empty(copies * math.prod(sizes), math.prod(kernel) * columns)
        self._kernels.unfold(
            self._cells(source, at), _padded(reads, self._kernels.Read), _padded(kernel, lambda: 1),
            _padded(steps, lambda: 1), _padded(sizes, lambda: 1), first, copies, rows.data_ptr(), columns,
            self._element(rows), self._stream(),
        )  # fmt: skip
        return rows

    def _unfolded_bytes(self, node: Node, convolution: Node, box: Convolution, at: _Boxes) -> int:
        """Bytes of what the windows of one copy's box read."""
        table = self._views[convolution.operands[0]].table
        taps = math.prod(self._constant(box.weight, 1).shape[2:])
        return math.prod(at.extents[node.index].values()) * taps * table.shape[1] * table.element_size()

    def _is_product(self, node: Node, convolution: Node, box: Convolution, at: _Boxes) -> bool:
        """Whether `_as_product` can compute a convolution, and rounds as it may.

        Which way is faster may differ from run to run, so that it is none for who wants the same bits.
        """
        convolutions, products = precisions()
        source = self.graph.nodes[convolution.operands[0]]
        if (
            box.groups > 1
            or convolution.dtype != torch.float32
            or (products == "tf32" and convolutions != "tf32")
            or torch.are_deterministic_algorithms_enabled()
            or torch.is_autocast_enabled(self.device.type)
        ):
            return False
        if _is_pointwise(convolution):
            return True
        layout = self._views[source.index].layout if source.index in self._views else None
        return (
            layout is not None
            and not convolution.whole & set(layout.axes)
            and layout.axes == node.axes == tuple(convolution.roles[2:])
            and layout.columns == source.shape[1:2]
            and self._unfolded_bytes(node, convolution, box, at) <= self._unfolds
        )

    def _faster(
        self,
        ways: Sequence[Callable[..., Tensor]],
        node: Node,
        convolution: Node,
        box: Convolution,
        at: _Boxes,
    ) -> int:
        """Which of several ways to compute a convolution is: measured once for boxes of about this size."""
        if len(ways) == 1:
            return 0
        cells = at.copies * math.prod(at.extents[node.index].values())
        key = (convolution.index, cells.bit_length(), _settings())
        if key not in self.program.faster:
            seconds = []
            for way in ways:
                way(node, convolution, box, at)  # the first time something is still being loaded
                clock = _Clock(self.device, _AHEAD // 100)
                way(node, convolution, box, at)
                clock.mark()
                seconds.append(clock.seconds()[0])
            self.program.faster.setdefault(key, seconds.index(min(seconds)))
        return self.program.faster[key]

    def _pooled(
        self,
        node: Node,
        box: Pool,
        at: _Boxes,
    ) -> Tensor:
        if node.same_cells(0):  # one cell each
            return self._fetched(node, node, 0, at)
        source = self.graph.nodes[node.operands[0]]
        axes = self._views[source.index].layout.axes
        kernel, divisors = [], []
        for axis in axes:
            step = node.maps[0].get(axis)
            kernel.append(step.kernel if isinstance(step, WindowMap) else 1)
            dim = node.roles.index(axis) - 2  # channels are not pooled
            counts = () if box.maximum or dim < 0 else box.divisors[dim]
            divisors.append(self._numbers(("divisors", node.index, axis), counts, torch.float32))
        reads = [self._read(node, node, 0, axis, at) for axis in axes]
        sizes = [at.extents[node.index][axis] for axis in axes]
        rows = self._over_windows(source, reads, kernel, divisors, box.maximum, sizes, at)
        layout = Layout.of(node, frozenset(node.axes) - frozenset(axes))
        return layout.as_value(rows, (at.copies, *sizes))

    def _over_windows(
        self,
        source: Node,
        reads: list[Any],
        kernel: list[int],
        divisors: list[int],
        maximum: bool,
        sizes: list[int],
        at: _Boxes,
    ) -> Tensor:
        table = self._views[source.index].table
        rows = table.new_empty(at.copies * math.prod(sizes), table.shape[1])
        self._kernels.pool(
            self._cells(source, at), _padded(reads, self._kernels.Read), _padded(kernel, lambda: 1),
            _padded(divisors, lambda: 0), maximum, _padded(sizes, lambda: 1), at.copies, rows.data_ptr(),
            rows.shape[1], self._element(rows), self._stream(),
        )  # fmt: skip
        return rows

    def _moved(self, node: Node, at: _Boxes) -> Tensor:
        """Cells moved to other places; later operands win."""
        out = self._composed(node, node, 0, at)
        view = self._views[node.operands[0]]
        rows = view.layout.as_rows(out).view(-1, view.table.shape[1])
        for i in range(1, len(node.operands)):
            self._composed(node, node, i, at, into=rows, overlay=True)
        return out

    def _side_by_side(self, node: Node, at: _Boxes) -> Tensor:
        """Values one after the other along the channels."""
        view = self._views[node.index]
        box = (at.copies, *(at.extents[node.index][axis] for axis in view.layout.axes))
        rows = view.table.new_empty(math.prod(box), view.table.shape[1])
        first = 0
        for operand in refs(node.args[0]):
            last = first + self._views[operand].table.shape[1]
            i = node.operands.index(operand)
            self._composed(node, node, i, at, into=rows[:, first:last])
            first = last
        return view.layout.as_value(rows, box)

    def _exits(self, at: _Boxes) -> dict[int, Tensor]:
        """What the rest of the model goes on from, for every copy."""
        found = {}
        for node in self.program.exits:
            index, operand = node.index, self.program.averages.get(node.index)
            if operand is None:
                found[index] = self._whole(node, at)
                continue
            source = self.graph.nodes[operand]
            layout = self._views[operand].layout
            axes = layout.axes
            if layout.columns != source.shape[1:2]:  # the window slides over channels, or spans an axis
                whole = self._whole(source, at)
                assert node.target is not None
                args, kwargs = resolve((node.args, node.kwargs), {operand: whole}.__getitem__, at.copies)
                found[index] = node.target(*args, **kwargs)
                continue
            sizes = [source.size(axis) for axis in axes]
            divisors = [self._numbers(("cells", n), (n,), torch.float32) for n in sizes]
            reads = [self._kernels.Read() for _ in axes]
            ones = [1 for _ in axes]
            rows = self._over_windows(source, reads, sizes, divisors, False, ones, at)
            found[index] = rows.reshape(at.copies, *node.shape[1:])
        return found

    def _whole(self, node: Node, at: _Boxes) -> Tensor:
        """All cells of a value, changed or not."""
        patch = at.patches.get(node.index)
        sizes = {axis: node.size(axis) for axis in node.axes}
        if patch is not None and patch.value is not None and patch.extents == sizes and not self.graph.clips:
            return patch.value
        view = self._views[node.index]
        reads = [self._kernels.Read() for _ in view.layout.axes]
        box = [sizes[axis] for axis in view.layout.axes]
        return self._put_together(view, self._cells(node, at), reads, box, at.copies)

    # -- reading ---------------------------------------------------------------------------------------

    def _fetched(
        self,
        node: Node,
        reader: Node,
        i: int,
        at: _Boxes,
    ) -> Tensor:
        """What a box of ``node`` needs of the i-th operand of ``reader``, which is on the way to it."""
        source = self.graph.nodes[reader.operands[i]]
        if not source.axes:
            return self._constant(source.index, at.copies)
        patch, same_box = at.patches.get(source.index), self.program.same_box
        aligned = reader.same_cells(i) and same_box.get(source.index) == same_box[node.index]
        if aligned and patch is not None and patch.value is not None:
            return patch.value
        return self._composed(node, reader, i, at)

    def _composed(
        self,
        node: Node,
        reader: Node,
        i: int,
        at: _Boxes,
        into: Tensor | None = None,
        overlay: bool = False,
    ) -> Tensor:
        """The same, put together from changed cells, view and padding.

        Perhaps ``into`` given rows; an ``overlay`` leaves these as they are where a cell has no source.
        """
        source = self.graph.nodes[reader.operands[i]]
        view = self._views[source.index]
        extents = at.extents[node.index]
        box = []
        for axis in view.layout.axes:
            step = reader.maps[i].get(axis)
            if axis in reader.whole or axis not in extents:
                box.append(source.size(axis))
            elif isinstance(step, WindowMap):
                box.append(step.extent_read(extents[axis]))
            else:
                box.append(extents[axis])
        reads = [self._read(node, reader, i, axis, at, dense=True) for axis in view.layout.axes]
        cells = self._cells(source, at)
        return self._put_together(view, cells, reads, box, at.copies, fill_of(reader), into, overlay)

    def _put_together(
        self,
        view: View,
        cells: Any,
        reads: list[Any],
        box: list[int],
        copies: int,
        fill: float = 0.0,
        into: Tensor | None = None,
        overlay: bool = False,
    ) -> Tensor:
        columns = view.table.shape[1]
        rows = view.table.new_empty(copies * math.prod(box), columns) if into is None else into
        self._kernels.compose(
            cells, _padded(reads, self._kernels.Read), _padded(box, lambda: 1), copies, rows.data_ptr(),
            rows.stride(0), columns, fill, overlay, self._element(rows), self._stream(),
        )  # fmt: skip
        return view.layout.as_value(rows, (copies, *box)) if into is None else into

    def _read(self, node: Node, reader: Node, i: int, axis: int, at: _Boxes, dense: bool = False) -> Any:
        """How boxes of ``node`` read an operand along an axis; ``dense``: the gaps of a dilation too."""
        step = reader.maps[i].get(axis)
        if axis in reader.whole or axis not in node.axes:
            return self._kernels.Read()
        start, _, _ = at.of(node.index, axis)
        if step is None:
            return self._kernels.Read(start=start)
        if isinstance(step, WindowMap):
            dilation = 1 if dense else step.dilation
            return self._kernels.Read(start, step.stride, step.padding, dilation)
        moved = step.sources(np.arange(step.n_out))
        sources = self._numbers(("sources", reader.index, i, axis), moved, torch.int32)
        return self._kernels.Read(start=start, sources=sources)

    def _cells(self, source: Node, at: _Boxes) -> Any:
        """Where the cells of a value lie."""
        view, patch = self._views[source.index], at.patches.get(source.index)
        axes = []
        for axis, size in zip(view.layout.axes, view.layout.sizes, strict=True):
            extent = 1 if patch is None else patch.extents[axis]
            axes.append(self._kernels.Axis(size, extent, *at.of(source.index, axis)))
        axes = _padded(axes, self._kernels.Axis)
        if patch is None:
            return self._kernels.Cells(view.table.data_ptr(), 0, 0, axes)
        if patch.rows is None:
            assert patch.value is not None
            patch.rows = view.layout.as_rows(patch.value).contiguous()
        place = 0 if patch.place is None else patch.place.data_ptr()
        return self._kernels.Cells(view.table.data_ptr(), patch.rows.data_ptr(), place, axes)

    def _numbers(self, key: Any, numbers: Any, dtype: torch.dtype) -> int:
        """Address of numbers on the device; 0 if there are none."""
        if not len(numbers):
            return 0
        made = self._arena.constant(key, lambda: torch.as_tensor(numbers, dtype=dtype, device=self.device))
        return made.data_ptr()

    def _element(self, rows: Tensor) -> Any:
        return getattr(self._kernels.Element, _ELEMENTS[rows.dtype])

    def _stream(self) -> int:
        if self.device.type != "cuda":
            return 0
        stream: int = torch.cuda.current_stream(self.device).cuda_stream
        return stream

    # -- boxes that are cut ----------------------------------------------------------------------------

    def _grouped(
        self, boxes: IntArray, batch: int, tail_batch: int, dropped: Floats
    ) -> Iterator[tuple[IntArray, Tensor]]:
        if not self._thresholds:
            yield from super()._grouped(boxes, batch, tail_batch, dropped)
            return
        # A quarter for what waits at two bottlenecks, a quarter for the boxes on the way between them.
        at_once = max(1, self.free // 4 // max(2 * self._largest_cut(), 1))
        for members in np.array_split(np.arange(len(boxes)), math.ceil(len(boxes) / at_once)):
            yield from self._shrinking(members, boxes[members], max(1, batch // 2), tail_batch, dropped)

    def _largest_cut(self) -> int:
        """Bytes of the boxes of one position at the bottleneck where they are largest."""
        sizes = []
        for segment in self.program.segments:
            end = segment.nodes[segment.output]
            extents = [int(extent.max()) for extent in self.plan.extents(end).values()]
            cells = math.prod(end.size(axis) for axis in end.axes)
            sizes.append(end.bytes() // cells * math.prod(extents))
        return max(sizes, default=0)

    def _shrinking(
        self, members: IntArray, boxes: IntArray, batch: int, tail_batch: int, dropped: Floats
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """Outputs of positions whose boxes are cut at every bottleneck, and grouped anew by what is left.

        All of them go to a bottleneck before one goes on.
        """
        waiting: _Waiting | None = None
        for segment in self.program.segments:
            following = self._to_bottleneck(segment, boxes, waiting, batch)
            left, effect = self._regrouped(following)
            dropped[members] += effect
            stay = np.asarray((left[..., 1] > left[..., 0]).all(1))
            gone = members[~stay]
            if len(gone):
                yield gone, self.base.expand(len(gone), *self.base.shape[1:])
            if not stay.any():
                return
            members, boxes, waiting = members[stay], left[stay], following.kept(np.flatnonzero(stay))
        grouping = Grouping(self.program.rest, boxes, batch)
        for part in grouping.members:
            values = self._finished(grouping.group(part), waiting, part)
            yield from self._through_tail(members[part], values, tail_batch)

    def _to_bottleneck(
        self, segment: Graph, boxes: IntArray, waiting: _Waiting | None, batch: int
    ) -> _Waiting:
        """The changed cells of all positions at the end of a segment."""
        end = segment.nodes[segment.output]
        view, count = self._views[end.index], len(boxes)
        grouping = Grouping(segment, boxes, batch)
        extents = grouping.largest(end)
        sizes = [extents[axis] for axis in view.layout.axes]
        found = _Waiting(
            end,
            extents,
            {axis: np.zeros(count, dtype=np.int64) for axis in view.layout.axes},
            np.arange(count),
            view.table.new_empty(count, *sizes, view.table.shape[1]),
            torch.zeros(count, _AXES, 2, dtype=torch.int32, device=self.device),
            torch.zeros(count, dtype=torch.float64, device=self.device),
        )
        with torch.cuda.device_of(self.x):
            for part in grouping.members:
                group = grouping.group(part)
                at = self._started(group, waiting, part)
                self._compute(segment.nodes, at)
                patch = at.patches.get(end.index)
                if patch is None:
                    continue  # nothing arrives: the boxes stay empty
                where = on_device(part, self.device)
                found.left[where], found.effect[where] = self._cut_boxes(end, at)
                assert patch.rows is not None
                cells = [patch.extents[axis] for axis in view.layout.axes]
                inside: list[Any] = [slice(n) for n in cells]
                found.rows[(where, *inside)] = patch.rows.reshape(len(part), *cells, -1)
                for axis, first in found.start.items():
                    lo = group.lo[end.index][axis]
                    first[part] = slide_inwards(lo, patch.extents[axis], end.size(axis))
        return found

    def _cut_boxes(self, node: Node, at: _Boxes) -> tuple[Tensor, Tensor]:
        """What is left of the boxes of a node, ``(copies, axes, 2)``, and the effect of the rest."""
        view, copies, patch = self._views[node.index], at.copies, at.patches[node.index]
        cells = self._cells(node, at)
        sizes = [patch.extents[axis] for axis in view.layout.axes]
        sizes = _padded(sizes, lambda: 1)
        marks = torch.empty(copies * sum(sizes), dtype=torch.int32, device=self.device)
        left = torch.empty(copies, _AXES, 2, dtype=torch.int32, device=self.device)
        effect = torch.empty(copies, dtype=torch.float64, device=self.device)
        self._kernels.shrink(
            cells, sizes, copies, view.table.shape[1], self._thresholds[node.index],
            self._gradients[node.index].table.data_ptr(), marks.data_ptr(), left.data_ptr(),
            effect.data_ptr(), self._element(view.table), self._stream(),
        )  # fmt: skip
        return left, effect

    def _regrouped(self, following: _Waiting) -> tuple[IntArray, Floats]:
        """What is left of the boxes, ``(positions, axes of the input, 2)``, and the effect of the rest.

        The one place where a session that has measured what is faster waits for the GPU.
        """
        node, layout = following.node, self._views[following.node.index].layout
        left, effect = following.left.cpu().numpy(), following.effect.cpu().numpy()
        boxes = np.tile(np.array([0, 1]), (len(left), len(self.window.shape), 1))
        for axis in node.axes:
            boxes[:, axis] = (0, node.size(axis))
        for k, axis in enumerate(layout.axes):
            boxes[:, axis] = left[:, k]
        return boxes, effect

    def _started(self, group: Group, waiting: _Waiting | None, part: IntArray) -> _Boxes:
        """The boxes of a group, with the patch that its segment begins with."""
        starts = {}
        if waiting is None:
            patches = {self.graph.input.index: self._occluded()}
        else:
            starts[waiting.node.index] = {axis: first[part] for axis, first in waiting.start.items()}
            place = on_device(waiting.place[part].astype(np.int32), self.device)
            patches = {waiting.node.index: _Patch(None, waiting.extents, place, waiting.rows)}
        table = on_device(self._coordinates(group, starts), self.device)
        return _Boxes(table, self._slots, group.extents, patches)

    def _finished(self, group: Group, waiting: _Waiting | None, part: IntArray) -> dict[int, Tensor]:
        """Frontier values of a group that has passed the last bottleneck."""
        with torch.cuda.device_of(self.x):
            at = self._started(group, waiting, part)
            self._compute(self.program.rest.nodes, at)
            found = self._exits(at)
            return found

    # -- what pays -------------------------------------------------------------------------------------

    def measured_cut(self) -> Node | None:
        """The bottleneck from which on full computation is faster than boxes; None if there is none.

        The group of the middle position, by the size of groups, runs on boxes, and the copies of as many in
        full; each pass is timed at every bottleneck.
        """
        work = distinct_work(self.changed, np.arange(len(self.window)))
        if not len(work.boxes):
            return None
        grouping = self._grouping(work.boxes, self.batch)
        members = sorted(grouping.members, key=len)
        positions = np.cumsum([len(each) for each in members])
        group = grouping.group(members[int(np.searchsorted(positions, positions[-1] / 2))])
        cuts = [node for node in self.graph.bottlenecks if node.index not in self.program.absorbed]
        with torch.cuda.device_of(self.x):
            for _ in range(2):  # the first time something is still being loaded
                on_boxes = self._timed_boxes(group, cuts)
                without = self._timed_full(group, cuts)
        k = cheapest_cut(on_boxes, without)
        return None if k == len(cuts) else cuts[k]

    def _timed_boxes(self, group: Group, cuts: Sequence[Node]) -> list[float]:
        """Seconds a position until each bottleneck is there, and until the output is."""
        clock = _Clock(self.device)
        at = self._started(group, None, group.members)
        done = 0
        for cut in cuts:
            self._compute(self.graph.nodes[done : cut.index + 1], at)
            done = cut.index + 1
            clock.mark()
        self._compute(self.graph.nodes[done:], at)
        values = self._exits(at)
        for _ in self._through_tail(group.members, values, self.tail_batch):
            pass
        clock.mark()
        return [seconds / at.copies for seconds in clock.seconds()]

    def _timed_full(self, group: Group, cuts: Sequence[Node]) -> list[float]:
        """The same for full computation."""
        largest = max(node.bytes() for node in self.graph.nodes if node.depends)
        copies = min(len(group.members), max(1, self.free // 4 // largest))
        values: dict[int, Any] = {
            self.graph.input.index: occlude(self.x, self.baseline, group.boxes[:copies])
        }

        def value(index: int) -> Any:
            return values[index] if index in values else self._constant(index, copies)

        clock, marks = _Clock(self.device), {cut.index for cut in cuts}
        for node in self.graph.nodes:
            if node.depends and node is not self.graph.input:
                assert node.target is not None
                values[node.index] = node.target(
                    *resolve(node.args, value, copies), **resolve(node.kwargs, value, copies)
                )
                for operand in refs((node.args, node.kwargs)):
                    if self.program.last_use[operand] == node.index:
                        values.pop(operand, None)
            if node.index in marks:
                clock.mark()
        clock.mark()
        return [seconds / copies for seconds in clock.seconds()]


@dataclass
class _Waiting:
    """Positions at a bottleneck.

    Attributes:
        node: The bottleneck.
        extents: Of all their boxes, by axis.
        start: By axis, where each box begins.
        place: Which box is each position's.
        rows: The boxes, ``(boxes, *extents, columns)``.
        left: What is left of each, ``(boxes, axes, 2)``.
        effect: What the rest would have done, ``(boxes,)``.
    """

    node: Node
    extents: Mapping[int, int]
    start: Mapping[int, IntArray]
    place: IntArray
    rows: Tensor
    left: Tensor
    effect: Tensor

    def kept(self, positions: IntArray) -> _Waiting:
        """Some of them."""
        start = {axis: first[positions] for axis, first in self.start.items()}
        return replace(self, start=start, place=self.place[positions])


_AHEAD = 200_000_000
"""Clock ticks, about a tenth of a second, for which a device is kept busy while PyTorch queues what is timed:
it then runs without gaps, as a recorded graph does."""


class _Clock:
    """Times of marks since it was made, on a device that works by itself.

    Args:
        device: The device.
        ahead: Ticks for which it is kept busy first.
    """

    def __init__(self, device: torch.device, ahead: int = _AHEAD) -> None:
        self._device = device
        self._marks: list[Any] = []
        if device.type == "cuda":
            torch.cuda._sleep(ahead)
        self.mark()

    def mark(self) -> None:
        """Now, in the order of what the device does."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """From the beginning to every later mark; waits for the device."""
        first, *rest = self._marks
        if self._device.type != "cuda":
            return [mark - first for mark in rest]
        self._marks[-1].synchronize()
        return [first.elapsed_time(mark) / 1000 for mark in rest]


def _is_pointwise(convolution: Node) -> bool:
    """Whether every cell of a convolution reads one cell, the same."""
    return None not in convolution.roles[2:] and convolution.same_cells(0)


def cheapest_cut(on_boxes: Sequence[float], in_full: Sequence[float]) -> int:
    """After which of several points full computation should go on.

    Args:
        on_boxes: Seconds until each point, and until the end, on boxes.
        in_full: The same for full computation.

    Returns:
        The number of the point; that of the end if boxes pay all the way.
    """
    total = [boxes + in_full[-1] - full for boxes, full in zip(on_boxes, in_full, strict=True)]
    return max(range(len(total)), key=lambda k: (-total[k], k))


def _padded(items: list[Any], more: Callable[[], Any]) -> list[Any]:
    """One item for every axis that the kernels know."""
    return [*items, *(more() for _ in range(_AXES - len(items)))]
