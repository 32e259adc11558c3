"""Global values of linearised graphs: values of one cell for the engine, and the sites where cells meet them.

See `krypton_engine.graph.rewrites.linearise`. Totals and the two numbers of a norm are *statistics*: no value
of the engine, but part of one that is made of them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native import channels
from krypton_engine.executors.native.images import is_global, laid_out, shape_of
from krypton_engine.executors.native.sums import Float32s, Sum, numbers, of_one_cell
from krypton_engine.executors.native.writer import Writer
from krypton_engine.graph.box_operators import Convolution
from krypton_engine.graph.ir import Node, Ref
from krypton_engine.graph.operators import arguments
from krypton_engine.graph.rewrites import statistics

SPELT_ALIKE = frozenset(
    {
        "_to_copy", "add", "div", "layer_norm", "linear", "mean", "mul", "neg", "permute", "reshape", "sub",
        "sum", "transpose", "unsqueeze", *channels.MOVES,
    }
)  # fmt: skip
"""Operators on global values whose rule is that of images."""

_MEETINGS = {"mul": "factor", "add": "summand"}
"""Role of a global value that meets cells, by operator."""


def total_of_cells(to: Writer, node: Node) -> None:
    """Write ``node`` as a mean, a sum or a Euclidean norm of an image over its cells.

    Raises:
        Unsupported: A mean or a sum is over some channels of several, or a Euclidean norm is over several.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.executors.native.sliding import convolution
        >>> from krypton_engine.graph.rewrites.linearise import linearised
        >>> from krypton_engine.planning.cache import Source, capture
        >>> made = linearised(capture(Source(gated, (x,))))
        >>> to, (image, _, average, *_) = Writer(made, _native.Program("", (1, 24, 20), 3)), made.nodes[2:]
        >>> convolution(to, image, image.on_box)
        >>> total_of_cells(to, average)
        >>> to.values[image.index], to.values[average.index]  # the input is 0
        (1, 2)
    """
    sums = to.graph.nodes[node.operands[0]]
    image = to.graph.nodes[sums.operands[0]]
    sizes, count = shape_of(image)
    each, of_all = node.numel() == count, node.numel() == 1
    if node.target is statistics.variance:
        return _variance(to, node, image)
    if not each and (not of_all or node.target is statistics.root):
        raise Unsupported("a total over channels")
    value = to.value(Ref(image.index))
    if node.target is statistics.root:
        return to.remember(node, to.program.euclidean_norm(value))
    value = to.program.moments(value, False)
    if each and node.target is statistics.mean:
        return to.remember(node, value)
    to.nodes[value] = node
    factor = math.prod(sizes) if node.target is statistics.added else 1 / count
    if each:
        scale = np.full(count, factor, dtype=np.float32)
        to.combine(node, "add", (value,), scale, np.zeros_like(scale))
    else:
        weight = np.full((1, count, 1, 1, 1), factor, dtype=np.float32)
        to.convolve(node, value, weight, None, of_one_cell((1, 1, 1)), 1)


def _variance(to: Writer, node: Node, image: Node) -> None:
    """The variances of an image's channels, or that of all together, by PyTorch from the engine's moments."""
    sizes, count = shape_of(image)
    if node.numel() not in (1, count):
        raise Unsupported("variances of groups of channels")
    correction, root = node.args[4:6]
    moments = to.program.moments(to.value(Ref(image.index)), True)
    to.remember(to.graph.nodes[node.operands[0]], moments)
    cells = math.prod(sizes) * (count // node.numel())

    def compute(given: list[Float32s], out: Float32s, corners: IntArray) -> None:
        numbers = given[0].astype(np.float64)
        average, spread = numbers[..., :count], numbers[..., numbers.shape[-1] // 2 :][..., :count]
        if out.shape[-1] < count:
            apart = average - average.mean(-1, keepdims=True)
            spread = (spread + apart * apart).mean(-1, keepdims=True)
        found = spread * statistics.corrected(cells, correction)
        out[...] = np.sqrt(found) if root else found

    to.remember(node, to.program.foreign([moments], (1, 1, 1), node.numel(), compute, 24 * count))


def largest(to: Writer, node: Node) -> None:
    """Write ``node`` as the largest number of every channel of an image.

    Raises:
        Unsupported: The node is another reduction over cells.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.executors.native.sliding import convolution
        >>> from krypton_engine.graph.rewrites.linearise import linearised
        >>> from krypton_engine.planning.cache import Source, capture
        >>> once = torch.nn.Conv2d(3, 4, 1)
        >>> made = linearised(capture(Source(lambda x: (y := once(x)) * y.amax((2, 3), True), (x,))))
        >>> to, (image, most, *_) = Writer(made, _native.Program("", (1, 24, 20), 3)), made.nodes[3:]
        >>> convolution(to, image, image.on_box)
        >>> largest(to, most)
        >>> to.values[image.index], to.values[most.index]
        (1, 2)
    """
    image = to.graph.nodes[node.operands[0]]
    _, count = shape_of(image)
    if node.target is not torch.ops.aten.amax.default or node.numel() not in (1, count):
        raise Unsupported("a reduction over cells that is neither a sum nor the largest number")
    by_channel = to.program.largest(to.value(Ref(image.index)))
    if node.numel() == count:
        return to.remember(node, by_channel)

    def compute(given: list[Float32s], out: Float32s, corners: IntArray) -> None:
        out[...] = given[0].max(-1, keepdims=True)

    to.nodes[by_channel] = node
    to.remember(node, to.program.foreign([by_channel], (1, 1, 1), 1, compute, 4 * count))


def between_channels(to: Writer, node: Node, convolution: Convolution) -> tuple[Tensor, int]:
    """A convolution of a global value between channels: weights, ``(out, in / groups, 1, 1, 1)``, and groups.

    Raises:
        Unsupported: The convolution slides over something else than channels.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.graph.rewrites.linearise import linearised
        >>> from krypton_engine.planning.cache import Source, capture
        >>> once, along = torch.nn.Conv2d(3, 4, 1), torch.ones(1, 1, 3)
        >>> def gated_by_neighbours(x):
        ...     gate = torch.conv1d((y := once(x)).mean((2, 3))[:, None], along, padding=1)
        ...     return y * gate.transpose(1, 2)[..., None]
        >>> made = linearised(capture(Source(gated_by_neighbours, (x,))))
        >>> to = Writer(made, _native.Program("", (1, 24, 20), 3))
        >>> (node,) = (node for node in made.nodes if node.op == "conv1d")
        >>> between_channels(to, node, node.on_box)[0].flatten(1)  # each channel reads those beside it too
        tensor([[1., 1., 0., 0.],
                [1., 1., 1., 0.],
                [0., 1., 1., 1.],
                [0., 0., 1., 1.]])
    """
    weight = to.constant(Ref(convolution.weight))
    (_, count), source = shape_of(node), to.graph.nodes[node.operands[0]]
    if math.prod(weight.shape[2:]) == 1 and node.shape[1] == count:
        return weight.reshape(*weight.shape[:2], 1, 1, 1), convolution.groups
    if weight.dim() != 3 or weight.shape[:2] != (1, 1) or source.shape[:2] != (1, 1):
        raise Unsupported("a kernel over something else than channels")
    (stride,), (padding,), (dilation,) = convolution.stride, convolution.padding, convolution.dilation
    banded = torch.zeros(count, source.shape[2])
    for tap, number in enumerate(weight.flatten()):
        for out in range(count):
            read = out * stride - padding + tap * dilation
            if 0 <= read < banded.shape[1]:
                banded[out, read] = number
    return banded[:, :, None, None, None], 1


def meet(to: Writer, node: Node) -> None:
    """``node`` is a site: an image whose cells meet global values.

    Raises:
        Unsupported: Another operator than a product, a sum or a norm.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.executors.native.sliding import convolution
        >>> from krypton_engine.graph.rewrites.linearise import linearised
        >>> from krypton_engine.planning.cache import Source, capture
        >>> normed = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.GroupNorm(1, 4))
        >>> made = linearised(capture(Source(normed, (x,))))
        >>> to, (image, *_, site) = Writer(made, _native.Program("", (1, 24, 20), 3)), made.nodes[5:]
        >>> convolution(to, image, image.on_box)
        >>> meet(to, site)
        >>> to.build(site.index), to.sites[site.index]
        (4, 4)
    """
    if node.target is torch.ops.aten.addcmul.default:
        return _norm(to, node)
    images = [i for i in node.operands if not is_global(to.graph.nodes[i])]
    meeting = _MEETINGS.get(node.op)
    if meeting is None or len(node.operands) != 2 or len(images) != 1:
        raise Unsupported("meets global values in another way than a product or a sum")
    if arguments(node.target, node.args, node.kwargs).get("alpha", 1) != 1:
        raise Unsupported("a scaled addition")
    (met,) = (i for i in node.operands if i not in images)
    _, count = laid_out(node)
    if any(laid_out(to.graph.nodes[i])[1] not in (1, count) for i in node.operands):
        raise Unsupported("a global value of another number of channels")
    image, value = (channels.repeated(to, Ref(i), count) for i in (images[0], met))
    _wait(to, node, image, value, meeting)


def _norm(to: Writer, node: Node) -> None:
    summand, item, factor = node.args
    shift = to.graph.nodes[summand.node]
    if shift.target is not statistics.shift or to.graph.nodes[factor.node].target is not statistics.scale:
        raise Unsupported("meets a factor and a summand that are no norm's")
    sums, squares, _, groups, epsilon, weight, bias, _ = shift.args
    if any(to.graph.nodes[total.node].operands != (item.node,) for total in (sums, squares)):
        raise Unsupported("a norm by another image's statistics")
    by_channel = [None if each is None else to.constant(each).contiguous().numpy() for each in (weight, bias)]
    image = to.value(item)
    moments = to.program.moments(image, True)
    to.remember(to.graph.nodes[sums.node], moments)
    norm = to.program.norm(moments, shape_of(node)[1], groups, epsilon, *by_channel)
    to.remember(shift, norm)
    _wait(to, node, image, norm, "both")


def _wait(to: Writer, node: Node, image: int, met: int, meeting: str) -> None:
    def build(done: Sum) -> int:
        adds_image = done.residual is not None
        to.sites[node.index] = to.program.meet(
            image, met, meeting, done.scale, done.shift, adds_image, numbers(done.epilogue)
        )
        return to.sites[node.index]

    to.wait(node, Sum(build, "meeting", image=image))
