"""Operators that move channels about (shuffles, slices, flips, values side by side), repeat or add them up.

The channels that an operator moves are found by running the operator on their numbers in their place. Several
such operators in a row make one copy.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native.cells import as_cells, as_value, computed, stays
from krypton_engine.executors.native.images import is_global, is_image, laid_out, shape_of, sizes_of
from krypton_engine.executors.native.sums import Sum, numbers, of_one_cell
from krypton_engine.executors.native.writer import Picks, Writer
from krypton_engine.graph.box_operators import NO_EPILOGUE
from krypton_engine.graph.ir import Node, Ref

MOVES = (
    "cat", "channel_shuffle", "expand", "flip", "index", "index_select", "native_channel_shuffle",
    "repeat", "repeat_interleave", "roll", "select", "slice", "stack",
)  # fmt: skip
"""Operators that may move channels."""


def move(to: Writer, node: Node) -> None:
    """Note ``node`` as channels of its operands.

    Raises:
        Unsupported: The node moves cells, or reads something that is no image.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> flipped = capture(Source(lambda x: x.flip(1), (x,)))
        >>> to = Writer(flipped, _native.Program("", (1, 24, 20), 3))
        >>> move(to, flipped.nodes[flipped.output])
        >>> to.picks[flipped.output].numbers.flatten()  # the input's channels, by number
        tensor([2, 1, 0])
    """
    if not stays(node) or any(sizes_of(to.graph.nodes[i]) != sizes_of(node) for i in node.operands):
        raise Unsupported("cells that change their place")
    images: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    values = {}
    for index in node.operands:
        picks = _picks(to, index)
        values[index] = picks.numbers + len(images)
        images, channels = images + picks.images, channels + picks.channels
    moved = computed(node, values, lambda i, _: to.known(i), 1, (1, 1, 1))
    to.picks[node.index] = Picks(images, channels, moved)
    if is_image(node):
        _wait(to, node, [(images[n], channels[n]) for n in as_cells(node, moved).flatten().tolist()])


def repeated(to: Writer, item: Ref, count: int) -> int:
    """The engine's value of an image of ``count`` channels, made of one channel where it has no more.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> grey = capture(Source(torch.relu, (x[:, :1],)))
        >>> to, image = Writer(grey, _native.Program("", (1, 24, 20), 1)), Ref(grey.input.index)
        >>> repeated(to, image, count=1), repeated(to, image, count=3)  # the image itself, and a new value
        (0, 1)
    """
    node, value = to.graph.nodes[item.node], _image(to, item)
    sizes, channels = laid_out(node)
    if channels == count:
        return value
    weight = np.ones((count, 1, 1, 1, 1), dtype=np.float32)
    number = to.program.convolution([value], of_one_cell(sizes), 1, weight, None, numbers(NO_EPILOGUE))
    to.nodes[number] = node
    return number


def _image(to: Writer, item: Ref) -> int:
    """The engine's value of an image, of channels in several dimensions too."""
    if item.node in to.picks and not to.has_value(item.node):
        node, picks = to.graph.nodes[item.node], to.picks[item.node]
        order = as_cells(node, picks.numbers).flatten().tolist()
        _wait(to, node, [(picks.images[n], picks.channels[n]) for n in order])
    return to.value(item)


def add_up(to: Writer, node: Node, item: Ref) -> None:
    """Write ``node`` as the sum or the mean over all channels of an image or a global value.

    Raises:
        Unsupported: Over something else.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.planning.cache import Source, capture
        >>> grey = capture(Source(lambda x: x.mean(1, keepdim=True), (x,)))
        >>> to = Writer(grey, _native.Program("", (1, 24, 20), 3))
        >>> add_up(to, grey.nodes[grey.output], Ref(grey.input.index))
        >>> to.joinable(Ref(grey.output), "convolution").weight.flatten()  # a kernel of one cell
        array([0.3333, 0.3333, 0.3333], dtype=float32)
    """
    source = to.graph.nodes[item.node]
    sizes, count = shape_of(source)
    if not (stays(node) or is_global(node)) or shape_of(node) != (sizes, 1) or node.dtype != source.dtype:
        raise Unsupported("a sum of something else than all channels")
    weight = np.full((1, count, 1, 1, 1), 1 if node.op == "sum" else 1 / count, dtype=np.float32)
    to.convolve(node, to.value(item), weight, None, of_one_cell(sizes), 1)


def _picks(to: Writer, index: int) -> Picks:
    """The channels of an operand; those of the images that it is made of, if the engine has not built it."""
    if index in to.picks and not to.is_built(index):
        return to.picks[index]
    node = to.graph.nodes[index]
    image, (_, count) = to.value(Ref(index)), shape_of(node)
    every = torch.arange(count).reshape(1, 1, 1, 1, count)
    return Picks((image,) * count, tuple(range(count)), as_value(node, every))


def _wait(to: Writer, node: Node, picked: list[tuple[int, int]]) -> None:
    """Leave ``node`` to be built of channels of images side by side."""
    sizes, _ = laid_out(node)
    starts = [0, *(i + 1 for i, ((a, c), (b, d)) in enumerate(pairwise(picked)) if (a, c + 1) != (b, d))]
    runs = [(picked[i], j - i) for i, j in pairwise([*starts, len(picked)])]
    images, ranges = [run[0] for run, _ in runs], [(run[1], run[1] + size) for run, size in runs]

    def build(done: Sum) -> int:
        return to.program.concat(images, ranges, sizes, done.scale, done.shift, numbers(done.epilogue))

    to.wait(node, Sum(build, "concat"))
