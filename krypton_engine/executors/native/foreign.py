"""Operators that the engine lacks, at their own cells: PyTorch computes them on the engine's boxes.

An engine's value is a float32 image. Other results of such operators (masks, integers, channels in several
dimensions) are no values of the engine, but part of the step of their reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native.cells import CELLS, as_cells, as_value, computed, stays
from krypton_engine.executors.native.images import is_image, shape_of
from krypton_engine.executors.native.sums import COLUMNS, ROWS, Float32s, Sum
from krypton_engine.executors.native.writer import Writer
from krypton_engine.executors.tail import repeated
from krypton_engine.graph.ir import Node, Ref, refs


class Step:
    """Nodes computed one after the other on the engine's boxes, in PyTorch.

    Args:
        nodes: Nodes in the order of the graph; the last one is the step's value.
        reads: Nodes that the engine gives boxes of.
        constants: The other values that the nodes refer to, with their nodes.

    Examples:
        >>> step = Step([graph.nodes[8]], reads=[graph.nodes[7]], constants={})  # a ReLU
        >>> given = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 1, 1, 8)
        >>> out = np.empty_like(given)
        >>> step([given], out)
        >>> np.array_equal(out, given.clip(min=0)), step.bytes_of_cell()  # 8 float32, twice, and 1
        (True, 65)
    """

    def __init__(
        self, nodes: Iterable[Node], reads: Iterable[Node], constants: Mapping[int, tuple[Node, Tensor]]
    ) -> None:
        self._nodes, self._reads, self._constants = tuple(nodes), tuple(reads), constants

    def bytes_of_cell(self) -> int:
        """Memory that the step takes for a cell: all that is computed, and the last result laid out anew."""
        return sum(node.bytes() for node in (*self._nodes, self._nodes[-1])) // self._nodes[-1].cells + 1

    def __call__(self, given: list[Float32s], out: Float32s) -> None:
        """Compute boxes of one size.

        Args:
            given: Boxes of the values of ``reads``: ``(boxes, height, width, channels)``.
            out: Array that the result is written into, laid out alike.
        """
        copies, height, width, _ = out.shape
        values = {
            node.index: as_value(node, torch.from_numpy(cells)).to(node.dtype)
            for node, cells in zip(self._reads, given, strict=True)
        }

        def constant(index: int, copies: int) -> Tensor:
            return repeated(*self._constants[index], copies)

        with torch.no_grad():
            for node in self._nodes:
                values[node.index] = computed(node, values, constant, (copies, height, width))
            torch.from_numpy(out).copy_(as_cells(node, values[node.index]))


def write(to: Writer, node: Node) -> None:
    """Write ``node``, for which no other rule exists, as a step in PyTorch.

    Raises:
        Unsupported: The node reads other cells than its own, or something that is no image.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> sine = capture(Source(lambda x: x.sin(), (x,)))
        >>> to = Writer(sine, _native.Program("", 24, 20, 3))
        >>> write(to, sine.nodes[sine.output])
        >>> to.build(sine.output), to.foreign
        (1, ['sin'])
    """
    if node.index in to.graph.sites or not stays(node):
        raise Unsupported("other cells than its own")
    along = {node.index}.union(*(_computed_with(to, i) for i in node.operands if to.graph.nodes[i].depends))
    nodes = [to.graph.nodes[i] for i in sorted(along)]
    reads: dict[int, int] = {}
    constants: dict[int, tuple[Node, Tensor]] = {}
    for index in sorted({i for each in nodes for i in refs((each.args, each.kwargs))} - along):
        read = to.graph.nodes[index]
        if read.depends:
            reads[index] = to.value(Ref(index))
        elif CELLS.intersection(read.axes):
            reads[index] = constant_image(to, index, node)
        else:
            constants[index] = read, to.known(index)
    to.along[node.index] = frozenset(along)
    if node.dtype != torch.float32 or not is_image(node):
        return
    step = Step(nodes, (to.graph.nodes[i] for i in reads), constants)
    height, width, channels = shape_of(node)

    def build(_: Sum) -> int:
        to.foreign = list(dict.fromkeys([*to.foreign, *(each.op for each in nodes)]))
        operands, bytes_of_cell = list(reads.values()), step.bytes_of_cell()
        return to.program.foreign(operands, height, width, channels, step, bytes_of_cell)

    to.wait(node, Sum(build, "foreign"))
    if len(nodes) > 1:
        to.begins[node.index] = nodes[0].index


def _computed_with(to: Writer, index: int) -> frozenset[int]:
    """Nodes that are computed along with the reader of a node; none where the engine has that as an image."""
    if index in to.picks and not to.has_value(index):
        read = (_computed_with(to, i) for i in to.graph.nodes[index].operands if to.graph.nodes[i].depends)
        return frozenset({index}).union(*read)
    if index in to.along and (not to.has_value(index) or to.waits_for_one(index)):
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
        >>> to = Writer(shaded, _native.Program("", 24, 20, 3))
        >>> constant, product = (node for node in shaded.nodes if node is not shaded.input)
        >>> constant.shape, constant_image(to, constant.index, product)
        ((1, 1, 1, 20), 1)
    """
    constant, value = to.graph.nodes[index], to.known(index)
    cells = as_cells(constant, value)[0].float()
    if cells.shape[2] not in (1, channels) and channels != -1:
        raise Unsupported("a constant of another number of channels")
    pixels = cells.expand(node.size(ROWS), node.size(COLUMNS), channels)
    if not torch.equal(as_value(constant, cells[None]).double(), value.double()):
        raise Unsupported(f"a constant of {value.dtype} that float32 does not hold")
    number = to.program.constant(np.ascontiguousarray(pixels.numpy()))
    to.nodes[number] = constant
    return number
