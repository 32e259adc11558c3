"""Graph -> program of the C++ engine: which nodes it has words for, and what is fused into what.

A *sum* (a convolution, a linear layer, a concatenation, ...) waits until somebody reads it, so that the
batch norm, residual or activation that alone follows it becomes part of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.tail import averages_cells
from krypton_engine.graph.ir import BATCH, Convolution, Graph, Node, Pool, Ref, Reindex, refs
from krypton_engine.graph.regions import AxisMap, IndexMap, WindowMap

ROWS, COLUMNS = 1, 2
"""Axes of an image that boxes run along; its channels are axis 0."""

_LAYERS = ("mean", "cells", "dense")
"""Kinds of sums that are one vector for every position."""

Floats = npt.NDArray[np.float32]


class Unsupported(Exception):
    """Something that the engine has no words for."""


@dataclass(frozen=True)
class Epilogue:
    """What happens to a sum: clamping, then a function of each element."""

    low: float = -math.inf
    high: float = math.inf
    function: str = "identity"
    parameter: float = 0.0

    def numbers(self) -> tuple[float, float, str, float]:
        """As the engine takes it."""
        return self.low, self.high, self.function, self.parameter


NOTHING = Epilogue()


@dataclass(frozen=True)
class Sum:
    """A convolution, a concatenation or a layer before it is built, so that what follows can join it."""

    build: Callable[[Sum], int]
    kind: str
    weight: Floats | None = None
    bias: Floats | None = None
    scale: Floats | None = None
    shift: Floats | None = None
    residual: int | None = None
    epilogue: Epilogue = NOTHING


class Lowering:
    """Nodes of ``graph`` written, one after the other, into a program of the engine.

    Args:
        graph: What is lowered.
        program: An empty program for the occluded input.

    Attributes:
        values: The engine's number of every node that is an image, once it is built.
        layers: The same for nodes that are vectors.
        nodes: The node that each of the engine's values was built for.
        lowered: Nodes that are written, or wait to be.
        flat: Nodes that are an image laid out as one vector.
        split: Nodes that are an image whose channels have several dimensions: whose, and in what order.
        reason: Why the first node that is not lowered could not be.
    """

    def __init__(self, graph: Graph, program: Any) -> None:
        self.graph = graph
        self.program = program
        self.values = {graph.input.index: 0}
        self.layers: dict[int, int] = {}
        self.nodes = {0: graph.input}
        self.lowered = {graph.input.index}
        self.reason = ""
        self.flat: set[int] = set()
        self.split: dict[int, tuple[Ref, IntArray]] = {}
        self._sums: dict[int, Sum] = {}
        self._uses = Counter(i for node in graph.nodes for i in set(refs((node.args, node.kwargs))))
        self._uses[graph.output] += 1
        for node in graph.nodes:
            if not node.depends or node is graph.input:
                continue
            read = [i for i in refs((node.args, node.kwargs)) if graph.nodes[i].depends]
            if not all(i in self.lowered for i in read):
                continue
            try:
                self._lower(node)
            except Unsupported as reason:
                self.reason = self.reason or f"{node.op} ({node.name}): {reason}"
                continue
            self.lowered.add(node.index)
        # An image in pieces can only be read here; whoever else reads it takes it to pieces himself.
        read_elsewhere = {graph.output}
        for node in reversed(graph.nodes):
            if node.index in self.split and node.index in read_elsewhere:
                self.lowered.discard(node.index)
            if node.depends and node.index not in self.lowered:
                read_elsewhere |= set(refs((node.args, node.kwargs)))

    def build(self, index: int) -> int:
        """The engine's number of a lowered node, built now if it was waiting."""
        if index in self._sums:
            waiting = self._sums.pop(index)
            number = waiting.build(waiting)
            if waiting.kind in _LAYERS:
                self.layers[index] = number
            else:
                self.remember(self.graph.nodes[index], number)
        return self.layers[index] if index in self.layers else self.values[index]

    # -- what rules ask and tell -----------------------------------------------------------------------

    def remember(self, node: Node, value: int) -> None:
        """``node`` is a value of the engine."""
        self.values[node.index] = value
        self.nodes[value] = node

    def value(self, item: Any) -> int:
        """Value of an operand."""
        if not isinstance(item, Ref):
            raise Unsupported("an operand that is no value")
        node = self.graph.nodes[item.node]
        if not node.depends:
            raise Unsupported("an operand that is a constant")
        if self.is_layer(item.node) or item.node in self.flat or item.node in self.split:
            raise Unsupported("something else where an image was expected")
        return self.build(item.node)

    def wait(self, node: Node, total: Sum) -> None:
        """``node`` is built when it is read."""
        self._sums[node.index] = total

    def join(self, node: Node, item: Ref, total: Sum) -> None:
        """``node`` and what it reads are one sum."""
        del self._sums[item.node]
        self._sums[node.index] = total

    def is_layer(self, index: int) -> bool:
        """Whether a lowered node is one vector for every position."""
        return index in self.layers or (index in self._sums and self._sums[index].kind in _LAYERS)

    def alias(self, node: Node, index: int) -> None:
        """``node`` is what another node is."""
        if index in self._sums:
            if self._uses[index] > 1:
                self.build(index)
            else:
                self._sums[node.index] = self._sums.pop(index)
                return
        if index in self.flat:
            self.flat.add(node.index)
        if index in self.layers:
            self.layers[node.index] = self.layers[index]
        if index in self.values:
            self.values[node.index] = self.values[index]

    def joinable(self, item: Any, *kinds: str) -> Sum | None:
        """The sum that ``item`` still is, if nobody else reads it and nothing happened to it yet."""
        if not isinstance(item, Ref) or self._uses[item.node] > 1:
            return None
        found = self._sums.get(item.node)
        return found if found is not None and found.epilogue == NOTHING and found.kind in kinds else None

    def constant(self, item: Any) -> Tensor:
        """A float32 constant on the CPU."""
        node = self.graph.nodes[item.node] if isinstance(item, Ref) else None
        if node is None or node.value is None:
            raise Unsupported("an operand that is not known beforehand")
        if node.value.dtype != torch.float32 or node.value.device.type != "cpu":
            raise Unsupported(f"a constant of {node.value.dtype} on {node.value.device}")
        return node.value.detach()

    def shape_of(self, node: Node) -> tuple[int, int, int]:
        """Height, width and channels of an image, however its dimensions lie."""
        others = [dim for dim, role in enumerate(node.roles) if role in (None, 0)]
        if (
            not node.local
            or sorted(node.axes)[-2:] != [ROWS, COLUMNS]
            or len(node.shape) != 3 + len(others)
            or len(others) > 1
        ):
            raise Unsupported("a value that is no image")
        return node.size(ROWS), node.size(COLUMNS), math.prod(node.shape[dim] for dim in others)

    def _lower(self, node: Node) -> None:
        if node.dtype != torch.float32:
            raise Unsupported(f"it computes in float32, not {node.dtype}")
        if node.local:
            if isinstance(node.box, Convolution):
                return self._convolution(node, node.box)
            if isinstance(node.box, Pool):
                return self._pool(node, node.box)
            if isinstance(node.box, Reindex):
                return self._reindex(node, node.box)
        rule = _RULES.get(node.op)
        if rule is None:
            raise Unsupported("not in its vocabulary")
        rule(self, node, arguments_of(node))

    def _convolution(self, node: Node, box: Convolution) -> None:
        if node.roles != (BATCH, None, ROWS, COLUMNS):
            raise Unsupported("dimensions in another order")
        weight = self.constant(Ref(box.weight)).contiguous().numpy()
        bias = None if box.bias is None else self.constant(Ref(box.bias)).contiguous().numpy()
        maps = [_window(node.maps[0][axis]) for axis in (ROWS, COLUMNS)]
        value = self.value(Ref(node.operands[0]))
        self.convolve(node, value, weight, bias, maps, box.groups, **_limits(node))

    def convolve(
        self,
        node: Node,
        operand: int,
        weight: Floats,
        bias: Floats | None,
        maps: list[Any],
        groups: int,
        **limits: Any,
    ) -> None:
        """``node`` is a convolution of an image by ``(out, in / groups, height, width)`` weights."""

        def build(done: Sum) -> int:
            operands = [operand] + ([] if done.residual is None else [done.residual])
            return self.program.convolution(
                operands, maps[0], maps[1], groups, done.weight, done.bias, done.epilogue.numbers(), **limits
            )

        self.wait(node, Sum(build, "convolution", weight, bias))

    def _pool(self, node: Node, box: Pool) -> None:
        maps = [_window(node.maps[0][axis]) for axis in (ROWS, COLUMNS)]
        if node.roles[1] not in (None, 0) or node.roles[2:] != (ROWS, COLUMNS):
            raise Unsupported("dimensions in another order")
        divisors = None if box.maximum else tuple([float(n) for n in counts] for counts in box.divisors)
        value = self.program.pool(
            self.value(Ref(node.operands[0])),
            *maps,
            self.shape_of(node)[2],
            divisors,
            NOTHING.numbers(),
            **_limits(node),
        )
        self.remember(node, value)

    def _reindex(self, node: Node, box: Reindex) -> None:
        if len(node.operands) != 1 or node.whole:
            raise Unsupported("cells from several values")
        sources = []
        for axis in (ROWS, COLUMNS):
            step = node.maps[0].get(axis)
            if step is not None and not isinstance(step, IndexMap):
                raise Unsupported("cells that are not moved one by one")
            sources.append(list(range(node.size(axis))) if step is None else list(step.source))
        if set(node.maps[0]) - {ROWS, COLUMNS}:
            raise Unsupported("cells moved along the channels")
        value = self.value(Ref(node.operands[0]))
        self.remember(
            node,
            self.program.reindex(value, *sources, self.shape_of(node)[2], box.fill, NOTHING.numbers()),
        )

    def by_channel(self, node: Node, item: Any) -> Floats:
        """A number, or a constant that varies only by channel, for every channel of ``node``."""
        channels = self.shape_of(node)[2]
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            return np.full(channels, item, dtype=np.float32)
        constant = self.constant(item)
        constant = constant.reshape((1,) * (len(node.shape) - constant.dim()) + tuple(constant.shape))
        dims = [dim for dim, role in enumerate(node.roles) if role in (None, 0)]
        if constant.numel() != math.prod(constant.shape[dim] for dim in dims):
            raise Unsupported("a constant that varies over the image")
        return np.ascontiguousarray(constant.reshape(-1).expand(channels).numpy())

    def affine(self, node: Node, item: Any, scale: Floats, shift: Floats) -> None:
        """``item * scale + shift``, by channel."""
        waiting = self.joinable(item, "convolution", "concat")
        if waiting is not None and waiting.kind == "convolution" and waiting.residual is None:
            assert waiting.weight is not None
            weight = (waiting.weight.astype(np.float64) * scale[:, None, None, None]).astype(np.float32)
            bias = shift if waiting.bias is None else waiting.bias * scale + shift
            self.join(node, item, replace(waiting, weight=weight, bias=bias))
            return
        if waiting is not None and waiting.kind == "concat" and waiting.scale is None:
            self.join(node, item, replace(waiting, scale=scale, shift=shift))
            return
        self.combine(node, "add", (self.value(item),), scale, shift)

    def side_by_side(self, node: Node, operands: list[int], ranges: list[tuple[int, int]]) -> None:
        """Ranges of channels side by side."""
        height, width, _ = self.shape_of(node)

        def build(done: Sum) -> int:
            return self.program.concat(
                operands, ranges, height, width, done.scale, done.shift, done.epilogue.numbers()
            )

        self.wait(node, Sum(build, "concat"))

    def combine(
        self,
        node: Node,
        arithmetic: str,
        operands: tuple[int, ...],
        scale: Floats | None = None,
        shift: Floats | None = None,
        epilogue: Epilogue = NOTHING,
    ) -> None:
        """``(a op b) * scale + shift``, cell by cell; scale and shift by channel."""
        height, width, channels = self.shape_of(node)

        def build(done: Sum) -> int:
            return self.program.combine(
                arithmetic, list(operands), height, width, channels, scale, shift, done.epilogue.numbers()
            )

        self.wait(node, Sum(build, "combine", epilogue=epilogue))


def _window(step: AxisMap) -> tuple[int, ...]:
    if not isinstance(step, WindowMap):
        raise Unsupported("a kernel over cells that were moved")
    return (step.n_in, step.n_out, step.kernel, step.stride, step.padding, step.dilation)


def _limits(node: Node) -> dict[str, Any]:
    """What the engine is told of a window that is clipped; see `krypton_engine.graph.ir.clipped`."""
    steps = (node.maps[0][axis] for axis in (ROWS, COLUMNS))
    limits = tuple(step.limit if isinstance(step, WindowMap) else None for step in steps)
    return {} if limits == (None, None) else {"limits": limits}


def arguments_of(node: Node) -> dict[str, Any]:
    """Arguments by the names of the operator's schema, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        raise Unsupported("not an operator of PyTorch")
    out = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(node.args):
            out[argument.name] = node.args[i]
        elif argument.name in node.kwargs:
            out[argument.name] = node.kwargs[argument.name]
        else:
            out[argument.name] = argument.default_value
    return out


# -- the vocabulary ------------------------------------------------------------------------------------

Rule = Callable[[Lowering, Node, dict[str, Any]], None]
_RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def _first(arguments: dict[str, Any]) -> Any:
    return next(iter(arguments.values()))


@_rule(
    "relu", "hardtanh", "relu6", "clamp", "clamp_min", "sigmoid", "silu", "hardsigmoid", "hardswish",
    "leaky_relu", "elu", "tanh", "gelu",
)  # fmt: skip
def _activation(to: Lowering, node: Node, arguments: dict[str, Any]) -> None:
    epilogue = epilogue_of(node.op, arguments)
    item = _first(arguments)
    kinds = ("convolution", "concat", "combine", "mean", "cells", "dense")
    waiting = to.joinable(item, *kinds)
    if waiting is not None and not (waiting.kind == "concat" and waiting.scale is None):
        to.join(node, item, replace(waiting, epilogue=epilogue))
        return
    to.combine(node, "add", (to.value(item),), epilogue=epilogue)


def epilogue_of(op: str, arguments: dict[str, Any]) -> Epilogue:
    """An activation as the end of a sum."""
    if op == "relu":
        return Epilogue(low=0.0)
    if op == "relu6":
        return Epilogue(low=0.0, high=6.0)
    if op in ("hardtanh", "clamp", "clamp_min"):
        low = arguments.get("min_val", arguments.get("min"))
        high = arguments.get("max_val", arguments.get("max"))
        limits = [math.inf * sign if n is None else n for n, sign in ((low, -1), (high, 1))]
        if not all(isinstance(n, (int, float)) for n in limits):
            raise Unsupported("limits that are tensors")
        return Epilogue(low=float(limits[0]), high=float(limits[1]))
    if op == "leaky_relu":
        return Epilogue(function="leaky_relu", parameter=float(arguments["negative_slope"]))
    if op == "elu":
        if arguments["scale"] != 1 or arguments["input_scale"] != 1:
            raise Unsupported("a scaled elu")
        return Epilogue(function="elu", parameter=float(arguments["alpha"]))
    if op == "gelu":
        return Epilogue(function="gelu" if arguments["approximate"] == "none" else "gelu_tanh")
    return Epilogue(function=op)


@_rule(
    "dropout", "clone", "contiguous", "alias", "detach", "identity", "feature_dropout", "alpha_dropout",
    "_to_copy",
)  # fmt: skip
def _nothing(to: Lowering, node: Node, arguments: dict[str, Any]) -> None:
    if arguments.get("train"):
        raise Unsupported("dropout in training")
    item = _first(arguments)
    if item.node in to.split:
        to.split[node.index] = to.split[item.node]
    else:
        to.alias(node, item.node)


@_rule("permute", "transpose", "view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze")
def _rearrangement(to: Lowering, node: Node, arguments: dict[str, Any]) -> None:
    item = _first(arguments)
    source = to.graph.nodes[item.node]
    if node.local and (source.index in to.split or len(node.shape) > 4):
        return _shuffle(to, node, item, source)
    if node.local:
        if to.shape_of(node) != to.shape_of(source):
            raise Unsupported("cells that change their place")
        to.alias(node, source.index)
        return
    if to.is_layer(source.index):
        # Vectors have one dimension that is not 1, whatever its place.
        sizes = [n for n in node.shape[1:] if n != 1]
        if len(sizes) > 1 or math.prod(node.shape) != math.prod(source.shape):
            raise Unsupported("a vector that becomes something else")
        to.alias(node, source.index)
        return
    if source.roles[1:] != (None, ROWS, COLUMNS) or len(node.shape) != 2:
        raise Unsupported("cells that are laid out anew")
    to.value(item)
    to.alias(node, source.index)
    to.flat.add(node.index)


def _shuffle(to: Lowering, node: Node, item: Ref, source: Node) -> None:
    """Channels taken apart, transposed and put together again, as ShuffleNet does."""
    if node.roles[0] != BATCH or node.roles[-2:] != (ROWS, COLUMNS) or set(node.roles[1:-2]) != {None}:
        raise Unsupported("cells that change their place")
    image, order = item, np.arange(source.shape[1])
    if source.index in to.split:
        image, order = to.split[source.index]
    elif len(source.shape) != 4:
        raise Unsupported("cells that change their place")
    sizes = node.shape[1:-2]
    if node.op in ("permute", "transpose"):
        dims = list(range(len(source.shape)))
        if node.op == "permute":
            dims = [dim % len(dims) for dim in node.args[1]]
        else:
            i, j = node.args[1] % len(dims), node.args[2] % len(dims)
            dims[i], dims[j] = dims[j], dims[i]
        if source.index not in to.split:
            raise Unsupported("cells that change their place")
        order = order.transpose([dim - 1 for dim in dims[1:-2]])
    order = order.reshape(sizes)
    if len(node.shape) > 4:
        to.split[node.index] = image, order
        return
    value = to.value(image)
    to.side_by_side(node, [value] * order.size, [(int(c), int(c) + 1) for c in order])


@_rule("add", "sub")
def _addition(to: Lowering, node: Node, arguments: dict[str, Any]) -> None:
    left, right, sign = arguments["self"], arguments["other"], 1.0 if node.op == "add" else -1.0
    if arguments.get("alpha", 1) != 1:
        raise Unsupported("a scaled addition")
    changing = [isinstance(x, Ref) and to.graph.nodes[x.node].depends for x in (left, right)]
    ones = np.ones(to.shape_of(node)[2], dtype=np.float32)
    if changing == [True, False]:
        return to.affine(node, left, ones, sign * to.by_channel(node, right))
    if changing == [False, True]:
        return to.affine(node, right, sign * ones, to.by_channel(node, left))
    shapes = [to.shape_of(to.graph.nodes[x.node]) for x in (left, right)]
    if shapes[0] != shapes[1] or not all(node.same_cells(i) for i in range(len(node.operands))):
        raise Unsupported("values of different shapes")
    # A sum that is clipped may not be recomputed where its box ends and that of the residual goes on.
    if sign > 0 and left.node != right.node and not to.graph.clips:
        for mine, other in ((right, left), (left, right)):
            waiting = to.joinable(mine, "convolution")
            if waiting is not None and waiting.residual is None:
                residual = to.value(other)
                to.join(node, mine, replace(waiting, residual=residual))
                return
    operands = (to.value(left), to.value(right))
    to.combine(node, "add" if sign > 0 else "subtract", operands)


@_rule("mul", "div")
def _multiplication(to: Lowering, node: Node, arguments: dict[str, Any]) -> None:
    left, right = arguments["self"], arguments["other"]
    changing = [isinstance(x, Ref) and to.graph.nodes[x.node].depends for x in (left, right)]
    zeros = np.zeros(to.shape_of(node)[2], dtype=np.float32)
    if arguments.get("rounding_mode") is not None:
        raise Unsupported("a division that rounds")
    if changing == [True, False]:
        scale = to.by_channel(node, right)
        return to.affine(node, left, (1 / scale).astype(np.float32) if node.op == "div" else scale, zeros)
    if node.op == "div":
        raise Unsupported("a division by a value that changes")
    if changing == [False, True]:
        return to.affine(node, right, to.by_channel(node, left), zeros)
    shapes = [to.shape_of(to.graph.nodes[x.node]) for x in (left, right)]
    if shapes[0] != shapes[1] or not all(node.same_cells(i) for i in range(len(node.operands))):
        raise Unsupported("values of different shapes")
    to.combine(node, "multiply", (to.value(left), to.value(right)))


@_rule("batch_norm")
def _batch_norm(to: Lowering, node: Node, arguments: dict[str, Any]) -> None:
    shift, x, scale = node.args[:3]  # captured as addcmul
    to.affine(node, x, to.by_channel(node, scale), to.by_channel(node, shift))


@_rule("cat")
def _concatenation(to: Lowering, node: Node, arguments: dict[str, Any]) -> None:
    if node.roles[arguments["dim"]] not in (None, 0):
        raise Unsupported("values side by side along an axis")
    operands = [to.value(item) for item in arguments["tensors"]]
    ranges = [(0, to.shape_of(to.graph.nodes[item.node])[2]) for item in arguments["tensors"]]
    to.side_by_side(node, operands, ranges)


@_rule("slice", "select")
def _someside_by_side(to: Lowering, node: Node, arguments: dict[str, Any]) -> None:
    item = arguments["self"]
    source = to.graph.nodes[item.node]
    dim = arguments["dim"] % len(source.shape)
    channels = to.shape_of(source)[2]
    if source.roles[dim] not in (None, 0) or len(source.shape) != 4:
        raise Unsupported("cells of an axis")
    if node.op == "select":
        first = arguments["index"] % channels
        chosen = range(first, first + 1)
    else:
        chosen = range(*slice(arguments["start"], arguments["end"], arguments["step"]).indices(channels))
        if chosen.step != 1:
            raise Unsupported("every other channel")
    to.side_by_side(node, [to.value(item)], [(chosen.start, chosen.stop)])


@_rule("layer_norm")
def _layer_norm(to: Lowering, node: Node, arguments: dict[str, Any]) -> None:
    if node.roles[-1] not in (None, 0) or len(arguments["normalized_shape"]) != 1:
        raise Unsupported("normalised along axes")
    weight, bias = (
        None if arguments[name] is None else to.constant(arguments[name]).contiguous().numpy()
        for name in ("weight", "bias")
    )
    value = to.value(arguments["input"])
    shape = to.shape_of(node)
    to.remember(node, to.program.layer_norm(value, *shape, arguments["eps"], weight, bias, NOTHING.numbers()))


@_rule("linear")
def _linear(to: Lowering, node: Node, arguments: dict[str, Any]) -> None:
    item = arguments["input"]
    weight = to.constant(arguments["weight"]).contiguous().numpy()
    bias = None
    if arguments["bias"] is not None:
        bias = to.constant(arguments["bias"]).contiguous().numpy()
    if node.local:
        if node.roles[-1] not in (None, 0):
            raise Unsupported("a linear layer along an axis")
        height, width, _ = to.shape_of(node)
        operand = to.value(item)
        maps = [(n, n, 1, 1, 0, 1) for n in (height, width)]
        to.convolve(node, operand, np.ascontiguousarray(weight[:, :, None, None]), bias, maps, 1)
        return
    if len(node.shape) != 2:
        raise Unsupported("a linear layer on more than vectors")
    if item.node in to.flat:
        value = to.values[item.node]
        to.wait(
            node,
            Sum(
                lambda done: to.program.cells(value, done.weight, done.bias, done.epilogue.numbers()),
                "cells",
                weight,
                bias,
            ),
        )
        return
    if not to.is_layer(item.node):
        raise Unsupported("a linear layer on what is no vector")
    layer = to.build(item.node)
    to.wait(
        node,
        Sum(
            lambda done: to.program.dense(layer, done.weight, done.bias, done.epilogue.numbers()),
            "dense",
            weight,
            bias,
        ),
    )


@_rule("adaptive_avg_pool2d", "_adaptive_avg_pool2d", "mean")
def _global_average(to: Lowering, node: Node, arguments: dict[str, Any]) -> None:
    item = _first(arguments)
    source = to.graph.nodes[item.node]
    if node.local or source.roles[2:] != (ROWS, COLUMNS) or not averages_cells(node, source):
        raise Unsupported("an average of something else than all of an image")
    value = to.value(item)
    to.wait(node, Sum(lambda done: to.program.mean(value, done.epilogue.numbers()), "mean"))
