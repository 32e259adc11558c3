"""Operators that the engine lacks: PyTorch computes them on the engine's boxes.

They read their own cells, or an interval of neighbouring ones as resizes, transposed convolutions and space
to depth do.

An engine's value is a float32 image. Other results of such operators (masks, integers, channels in several
dimensions) are no values of the engine, but part of the step of their reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native import intervals
from krypton_engine.executors.native.cells import as_cells, as_value, computed, stays
from krypton_engine.executors.native.images import is_global, is_image, laid_out, sizes_of
from krypton_engine.executors.native.sums import AXES, Float32s, Sum
from krypton_engine.executors.native.writer import Writer
from krypton_engine.executors.tail import repeated
from krypton_engine.graph.box_operators import Resample
from krypton_engine.graph.ir import Node, Ref, refs


class Step:
    """Nodes computed one after the other on the engine's boxes, in PyTorch.

    Args:
        nodes: Nodes in the order of the graph; the last one is the step's value.
        reads: Nodes that the engine gives boxes of.
        constants: The other values that the nodes refer to, with their nodes.

    Examples:
        >>> step = Step([graph.nodes[8]], reads=[graph.nodes[7]], constants={})  # a ReLU
        >>> given = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 1, 1, 1, 8)
        >>> out = np.empty_like(given)
        >>> step([given], out, np.array([[0, 0, 0]]))
        >>> np.array_equal(out, given.clip(min=0)), step.bytes_of_cell()  # 8 float32, twice, and 1
        (True, 65)
    """

    def __init__(
        self, nodes: Iterable[Node], reads: Iterable[Node], constants: Mapping[int, tuple[Node, Tensor]]
    ) -> None:
        self._nodes, self._reads, self._constants = tuple(nodes), tuple(reads), constants
        self._moves = any(intervals.moves(node) for node in self._nodes)

    def bytes_of_cell(self) -> int:
        """Memory that the step takes for a cell: all that is computed, and the last result laid out anew."""
        taken = (*self._nodes, self._nodes[-1], *(self._reads if self._moves else ()))
        return sum(node.bytes() for node in taken) // self._nodes[-1].cells + 1

    def __call__(self, given: list[Float32s], out: Float32s, corners: IntArray) -> None:
        """Compute boxes of one size.

        Args:
            given: Boxes of the values of ``reads``: ``(boxes, depth, height, width, channels)``.
            out: Array that the result is written into, laid out alike.
            corners: First cell of every box: ``(boxes, 3)``.
        """
        copies = len(out)
        last = intervals.Boxes(dict(zip(AXES, corners.T, strict=True)), out.shape[1:4])
        boxes = intervals.read_by(self._nodes, last) if self._moves else {}
        values = {
            node.index: as_value(node, torch.from_numpy(cells)).to(node.dtype)
            for node, cells in zip(self._reads, given, strict=True)
        }

        def constant(index: int, copies: int) -> Tensor:
            return repeated(*self._constants[index], copies)

        with torch.no_grad():
            for node in self._nodes:
                start, sizes = boxes.get(node.index, last)
                values[node.index] = computed(node, values, constant, copies, sizes, start)
            torch.from_numpy(out).copy_(as_cells(node, values[node.index]))


def write(to: Writer, node: Node) -> None:
    """Write ``node``, for which no other rule exists, as a step in PyTorch.

    Raises:
        Unsupported: The node reads other cells than its own, or something that is no image.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> sine = capture(Source(lambda x: x.sin(), (x,)))
        >>> to = Writer(sine, _native.Program("", (1, 24, 20), 3))
        >>> write(to, sine.nodes[sine.output])
        >>> to.build(sine.output), to.foreign
        (1, ['sin'])
    """
    moves = intervals.moves(node)
    if node.index in to.graph.sites or not (moves or stays(node)):
        raise Unsupported("other cells than its own")
    if isinstance(node.on_box, Resample) and not set(AXES).issuperset(node.on_box.weights):
        raise Unsupported("channels that are resized")
    along = {node.index}.union(
        *(_computed_with(to, i, moves) for i in node.operands if to.graph.nodes[i].depends)
    )
    nodes = [to.graph.nodes[i] for i in sorted(along)]
    moved = any(intervals.moves(each) for each in nodes)
    reads: dict[int, int] = {}
    constants: dict[int, tuple[Node, Tensor]] = {}
    for index in sorted({i for each in nodes for i in refs((each.args, each.kwargs))} - along):
        read = to.graph.nodes[index]
        if read.depends:
            reads[index] = to.value(Ref(index))
        elif not set(AXES).intersection(read.axes):
            constants[index] = read, to.known(index)
        elif moved:
            raise Unsupported("cells that meet a constant's on their way")
        else:
            reads[index] = constant_image(to, index, node)
    if moved and (len(reads) > 1 or not all(intervals.regroups(each) for each in nodes if len(nodes) > 1)):
        raise Unsupported("cells of several values on their way")
    to.along[node.index] = frozenset(along)
    if node.dtype != torch.float32 or not (is_image(node) or is_global(node)):
        return
    step = Step(nodes, (to.graph.nodes[i] for i in reads), constants)
    sizes, channels = laid_out(node)
    if not moved and any(sizes_of(to.graph.nodes[i]) != sizes for i in reads if to.graph.nodes[i].depends):
        raise Unsupported("values of other sizes")
    tables = intervals.tables(nodes, next(iter(reads))) if moved else [None] * len(AXES)

    def build(_: Sum) -> int:
        to.foreign = list(dict.fromkeys([*to.foreign, *(each.op for each in nodes)]))
        return to.program.foreign(list(reads.values()), sizes, channels, step, step.bytes_of_cell(), tables)

    to.wait(node, Sum(build, "foreign"))
    if len(nodes) > 1:
        to.begins[node.index] = nodes[0].index


def _computed_with(to: Writer, index: int, moves: bool) -> frozenset[int]:
    """Nodes that are computed along with the reader of a node; none where the engine has that as an image.

    What reads other cells than its own, as it ``moves`` them, reads images where there are any: beyond the
    last cell is padding, which no operator of a step may have changed.
    """
    if index in to.picks and not to.has_value(index):
        operands = (i for i in to.graph.nodes[index].operands if to.graph.nodes[i].depends)
        return frozenset({index}).union(*(_computed_with(to, i, moves) for i in operands))
    if index not in to.along:
        return frozenset()
    stay = not moves and not any(intervals.moves(to.graph.nodes[i]) for i in to.along[index])
    if not to.has_value(index) or (stay and to.waits_for_one(index)):
        return to.along[index]
    return frozenset()


def constant_image(to: Writer, index: int, node: Node, channels: int = -1) -> int:
    """The engine's value of a constant that ``node`` reads at its own cells.

    Raises:
        Unsupported: The constant is not known beforehand, float32 does not hold it, or it cannot have
            ``channels``.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> shaded = capture(Source(lambda x: x * torch.arange(20), (x,)))
        >>> to = Writer(shaded, _native.Program("", (1, 24, 20), 3))
        >>> constant, product = (node for node in shaded.nodes if node is not shaded.input)
        >>> constant.shape, constant_image(to, constant.index, product)
        ((1, 1, 1, 20), 1)
    """
    constant, value = to.graph.nodes[index], to.known(index)
    cells = as_cells(constant, value)[0].float()
    if cells.shape[3] not in (1, channels) and channels != -1:
        raise Unsupported("a constant of another number of channels")
    pixels = cells.expand(*sizes_of(node), channels)
    if not torch.equal(as_value(constant, cells[None]).double(), value.double()):
        raise Unsupported(f"a constant of {value.dtype} that float32 does not hold")
    number = to.program.constant(np.ascontiguousarray(pixels.numpy()))
    to.nodes[number] = constant
    return number
