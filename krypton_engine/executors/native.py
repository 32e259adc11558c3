"""The native executor: the C++ engine of ``csrc/`` on float32 images, on the CPU.

Its programs hold the part of a graph that is written in the engine's vocabulary, from the occluded input on;
what comes after runs as PyTorch does, in full, on batches of positions.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.errors import InputError
from krypton_engine.executors.tail import Tail
from krypton_engine.graph import BATCH, Apply, Convolution, Graph, Node, Pool, Ref, Reindex, refs
from krypton_engine.plan import Plan
from krypton_engine.regions import AxisMap, IndexMap, WindowMap
from krypton_engine.windows import ChangedCells, IntArray, distinct_work

try:
    from krypton_engine import _native
except ImportError as error:  # a pure Python install
    _native = None  # type: ignore[assignment]
    MISSING = str(error)
else:
    MISSING = ""

LARGEST_BATCH = 256
"""Positions of one call into the engine: enough for one pass over the weights of large linear layers."""

_NATIVE_SPEED = 2.0
"""Speed of the engine over that of PyTorch on the same boxes, about (measured on VGG16 and ResNet18)."""

_ROWS, _COLUMNS = 1, 2
"""Axes of an image that boxes run along; its channels are axis 0."""

Floats = npt.NDArray[np.float32]


def program(graph: Graph, device: torch.device) -> NativeProgram | str:
    """``graph`` made ready, or why the engine cannot run it."""
    if _native is None:
        return f"the C++ engine is not installed ({MISSING})"
    if device.type != "cpu":
        return "it runs on the CPU"
    try:
        return NativeProgram(graph)
    except Unsupported as reason:
        return str(reason)


class Unsupported(Exception):
    """A node that the engine has no words for."""


@dataclass(frozen=True)
class Epilogue:
    """What happens to a sum: clamping, then a function of each element."""

    low: float = -math.inf
    high: float = math.inf
    function: str = "identity"
    parameter: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether nothing happens."""
        return self == Epilogue()

    def numbers(self) -> tuple[float, float, str, float]:
        """As the engine takes it."""
        return self.low, self.high, self.function, self.parameter


@dataclass(frozen=True)
class Sum:
    """A convolution, a concatenation or a layer before it is built, so that what follows can join it."""

    build: Callable[[Sum], int]
    kind: str
    operands: tuple[int, ...]
    weight: Floats | None = None
    bias: Floats | None = None
    scale: Floats | None = None
    shift: Floats | None = None
    residual: int | None = None
    epilogue: Epilogue = field(default_factory=Epilogue)


class NativeProgram:
    """A graph made ready for the engine.

    Attributes:
        graph: Of which it is a program.
        program: The engine's own.
        values: Value of the engine for every node that is one, and `layers` for those that are vectors.
        kept: Nodes whose whole value the rest of the model goes on from.
        tail: The rest of the model.
        reason: Why the engine stops there; empty if it goes to the end.

    Raises:
        Unsupported: Nothing of the graph can run here.
    """

    def __init__(self, graph: Graph, isa: str = "") -> None:
        self.graph = graph
        self.values: dict[int, int] = {}
        self.layers: dict[int, int] = {}
        self.reason = ""
        self._sums: dict[int, Sum] = {}
        self._flat: set[int] = set()
        self._nodes_of_values: dict[int, int] = {}
        self._uses = Counter(i for node in graph.nodes for i in set(refs((node.args, node.kwargs))))
        self._uses[graph.output] += 1
        image = graph.input
        if image.roles != (BATCH, 0, _ROWS, _COLUMNS):
            raise Unsupported(f"it runs images, and this input has {len(image.shape) - 1} axes")
        self._check(image)
        channels, height, width = image.shape[1:]
        self.program = _native.Program(isa, height, width, channels)
        self._remember(image, 0)
        lowered = {image.index}
        for node in graph.nodes:
            if not node.depends or node is image:
                continue
            read = [i for i in refs((node.args, node.kwargs)) if graph.nodes[i].depends]
            if not all(i in lowered for i in read):
                continue
            try:
                self._check(node)
                self._lower(node)
            except Unsupported as reason:
                self.reason = self.reason or f"{node.op} ({node.name}): {reason}"
                continue
            lowered.add(node.index)
        # What the rest reads is the boundary; what led only to nodes that nobody reads was never built.
        rest = [node for node in graph.nodes if node.depends and node.index not in lowered]
        wanted = {i for node in rest for i in refs((node.args, node.kwargs)) if i in lowered}
        self.kept = sorted(wanted | ({graph.output} & lowered))
        for index in self.kept:
            self._build(index)
        self.tail = Tail(graph, rest)
        self._sums.clear()

    def extents(self, plan: Plan) -> IntArray:
        """The largest box of every value of the engine: ``(values, 2)``."""
        out = np.zeros((max(self._nodes_of_values, default=0) + 1, 2), dtype=np.int64)
        for value, index in self._nodes_of_values.items():
            node = self.graph.nodes[index]
            if node.depends:
                largest = plan.extents(node)
                out[value] = [int(largest[axis].max()) for axis in (_ROWS, _COLUMNS)]
        return out

    def pays(self, plan: Plan) -> bool:
        """Whether this is faster than the reference executor, which also runs the rest in boxes."""
        rest = {node.index for node in self.tail.nodes}
        here = sum(step.macs_incremental for step in plan.steps if step.node.index not in rest)
        there = [step for step in plan.steps if step.node.index in rest]
        return here / _NATIVE_SPEED + sum(s.macs for s in there) < here + sum(s.macs_incremental for s in there)

    # -- lowering --------------------------------------------------------------------------------------

    def _check(self, node: Node) -> None:
        if node.dtype != torch.float32:
            raise Unsupported(f"it computes in float32, not {node.dtype}")

    def _remember(self, node: Node, value: int) -> int:
        self.values[node.index] = value
        self._nodes_of_values[value] = node.index
        return value

    def _build(self, index: int) -> int:
        """Value or layer of a node, built now if it was waiting."""
        if index in self._sums:
            waiting = self._sums.pop(index)
            number = waiting.build(waiting)
            if waiting.kind in ("mean", "cells", "dense"):
                self.layers[index] = number
            else:
                self._remember(self.graph.nodes[index], number)
        return self.layers[index] if index in self.layers else self.values[index]

    def _value(self, item: Any) -> int:
        """Value of an operand."""
        if not isinstance(item, Ref):
            raise Unsupported("an operand that is no value")
        node = self.graph.nodes[item.node]
        if not node.depends:
            raise Unsupported("an operand that is a constant")
        if self._is_layer(item.node) or item.node in self._flat:
            raise Unsupported("a vector where an image was expected")
        return self._build(item.node)

    def _is_layer(self, index: int) -> bool:
        return index in self.layers or (
            index in self._sums and self._sums[index].kind in ("mean", "cells", "dense")
        )

    def _alias(self, node: Node, index: int) -> None:
        """``node`` is what another node is."""
        if index in self._sums:
            if self._uses[index] > 1:
                self._build(index)
            else:
                self._sums[node.index] = self._sums.pop(index)
                return
        if index in self._flat:
            self._flat.add(node.index)
        if index in self.layers:
            self.layers[node.index] = self.layers[index]
        if index in self.values:
            self.values[node.index] = self.values[index]

    def _joinable(self, item: Any, *kinds: str) -> Sum | None:
        """The sum that ``item`` still is, if nobody else reads it and nothing happened to it yet."""
        if not isinstance(item, Ref) or self._uses[item.node] > 1:
            return None
        found = self._sums.get(item.node)
        return found if found is not None and found.epilogue.plain and found.kind in kinds else None

    def _constant(self, item: Any) -> Tensor:
        node = self.graph.nodes[item.node] if isinstance(item, Ref) else None
        if node is None or node.value is None:
            raise Unsupported("an operand that is not known beforehand")
        if node.value.dtype != torch.float32 or node.value.device.type != "cpu":
            raise Unsupported(f"a constant of {node.value.dtype} on {node.value.device}")
        return node.value.detach()

    def _shape(self, node: Node) -> tuple[int, int, int]:
        """Height, width and channels of an image, however its dimensions lie."""
        others = [dim for dim, role in enumerate(node.roles) if role in (None, 0)]
        if (
            not node.local
            or sorted(node.axes)[-2:] != [_ROWS, _COLUMNS]
            or len(node.shape) != 3 + len(others)
            or len(others) > 1
        ):
            raise Unsupported("a value that is no image")
        return node.size(_ROWS), node.size(_COLUMNS), math.prod(node.shape[dim] for dim in others)

    def _lower(self, node: Node) -> None:
        if node.local:
            self._shape(node)
            if isinstance(node.box, Convolution):
                return self._convolution(node, node.box)
            if isinstance(node.box, Pool):
                return self._pool(node, node.box)
            if isinstance(node.box, Reindex):
                return self._reindex(node, node.box)
        rule = _RULES.get(node.op)
        if rule is None:
            raise Unsupported("not in its vocabulary")
        rule(self, node, _arguments(node))

    def _convolution(self, node: Node, box: Convolution) -> None:
        if node.roles != (BATCH, None, _ROWS, _COLUMNS):
            raise Unsupported("dimensions in another order")
        weight = self._constant(Ref(box.weight)).contiguous().numpy()
        bias = None if box.bias is None else self._constant(Ref(box.bias)).contiguous().numpy()
        maps = [_window(node.maps[0][axis]) for axis in (_ROWS, _COLUMNS)]
        self._sum(node, self._value(Ref(node.operands[0])), weight, bias, maps, box.groups)

    def _sum(
        self, node: Node, operand: int, weight: Floats, bias: Floats | None, maps: list[Any], groups: int
    ) -> None:
        def build(done: Sum) -> int:
            operands = [operand] + ([] if done.residual is None else [done.residual])
            return self.program.convolution(
                operands, maps[0], maps[1], groups, done.weight, done.bias, done.epilogue.numbers()
            )

        self._sums[node.index] = Sum(build, "convolution", (operand,), weight, bias)

    def _pool(self, node: Node, box: Pool) -> None:
        maps = [_window(node.maps[0][axis]) for axis in (_ROWS, _COLUMNS)]
        if node.roles[1] not in (None, 0):
            raise Unsupported("dimensions in another order")
        divisors = None if box.maximum else tuple([float(n) for n in counts] for counts in box.divisors)
        value = self.program.pool(
            self._value(Ref(node.operands[0])), *maps, self._shape(node)[2], divisors, Epilogue().numbers()
        )
        self._remember(node, value)

    def _reindex(self, node: Node, box: Reindex) -> None:
        if len(node.operands) != 1 or node.whole:
            raise Unsupported("cells from several values")
        sources = []
        for axis in (_ROWS, _COLUMNS):
            step = node.maps[0].get(axis)
            if step is not None and not isinstance(step, IndexMap):
                raise Unsupported("cells that are not moved one by one")
            sources.append(list(range(node.size(axis))) if step is None else list(step.source))
        if set(node.maps[0]) - {_ROWS, _COLUMNS}:
            raise Unsupported("cells moved along the channels")
        value = self._value(Ref(node.operands[0]))
        self._remember(
            node,
            self.program.reindex(value, *sources, self._shape(node)[2], box.fill, Epilogue().numbers()),
        )

    def _by_channel(self, node: Node, item: Any) -> Floats:
        """One number for every channel of ``node``: of a scalar, or of a constant that varies no other way."""
        channels = self._shape(node)[2]
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            return np.full(channels, item, dtype=np.float32)
        constant = self._constant(item)
        constant = constant.reshape((1,) * (len(node.shape) - constant.dim()) + tuple(constant.shape))
        dims = [dim for dim, role in enumerate(node.roles) if role in (None, 0)]
        if constant.numel() != math.prod(constant.shape[dim] for dim in dims):
            raise Unsupported("a constant that varies over the image")
        return np.ascontiguousarray(constant.reshape(-1).expand(channels).numpy())

    def _affine(self, node: Node, item: Any, scale: Floats, shift: Floats) -> None:
        """``item * scale + shift``, by channel."""
        waiting = self._joinable(item, "convolution", "concat")
        if waiting is not None and waiting.kind == "convolution" and waiting.residual is None:
            assert waiting.weight is not None
            weight = (waiting.weight.astype(np.float64) * scale[:, None, None, None]).astype(np.float32)
            bias = shift if waiting.bias is None else waiting.bias * scale + shift
            self._sums.pop(item.node)
            self._sums[node.index] = replace(waiting, weight=weight, bias=bias)
            return
        if waiting is not None and waiting.kind == "concat" and waiting.scale is None:
            self._sums.pop(item.node)
            self._sums[node.index] = replace(waiting, scale=scale, shift=shift)
            return
        self._combine(node, "add", (self._value(item),), scale, shift)

    def _channels(self, node: Node, operands: list[int], ranges: list[tuple[int, int]]) -> None:
        """Ranges of channels side by side."""
        height, width, _ = self._shape(node)

        def build(done: Sum) -> int:
            return self.program.concat(
                operands, ranges, height, width, done.scale, done.shift, done.epilogue.numbers()
            )

        self._sums[node.index] = Sum(build, "concat", tuple(operands))

    def _combine(
        self,
        node: Node,
        arithmetic: str,
        operands: tuple[int, ...],
        scale: Floats | None = None,
        shift: Floats | None = None,
    ) -> None:
        height, width, channels = self._shape(node)

        def build(done: Sum) -> int:
            return self.program.combine(
                arithmetic, list(operands), height, width, channels, scale, shift, done.epilogue.numbers()
            )

        self._sums[node.index] = Sum(build, "combine", operands)


def _window(step: AxisMap) -> tuple[int, ...]:
    if not isinstance(step, WindowMap):
        raise Unsupported("a kernel over cells that were moved")
    return (step.n_in, step.n_out, step.kernel, step.stride, step.padding, step.dilation)


def _arguments(node: Node) -> dict[str, Any]:
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

Rule = Callable[[NativeProgram, Node, dict[str, Any]], None]
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
def _activation(program: NativeProgram, node: Node, arguments: dict[str, Any]) -> None:
    epilogue = _epilogue(node.op, arguments)
    item = _first(arguments)
    kinds = ("convolution", "concat", "combine", "mean", "cells", "dense")
    waiting = program._joinable(item, *kinds)
    if waiting is not None and not (waiting.kind == "concat" and waiting.scale is None):
        program._sums.pop(item.node)
        program._sums[node.index] = replace(waiting, epilogue=epilogue)
        return
    program._combine(node, "add", (program._value(item),))
    program._sums[node.index] = replace(program._sums[node.index], epilogue=epilogue)


def _epilogue(op: str, arguments: dict[str, Any]) -> Epilogue:
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


@_rule("dropout", "clone", "contiguous", "alias", "detach", "identity", "feature_dropout", "alpha_dropout")
def _nothing(program: NativeProgram, node: Node, arguments: dict[str, Any]) -> None:
    if arguments.get("train"):
        raise Unsupported("dropout in training")
    program._alias(node, _first(arguments).node)


@_rule("permute", "transpose", "view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze")
def _rearrangement(program: NativeProgram, node: Node, arguments: dict[str, Any]) -> None:
    item = _first(arguments)
    source = program.graph.nodes[item.node]
    if node.local:
        height, width, channels = program._shape(node)
        if (height, width, channels) != program._shape(source):
            raise Unsupported("cells that change their place")
        program._alias(node, source.index)
        return
    if program._is_layer(source.index):
        # Vectors have one dimension that is not 1, whatever its place.
        sizes = [n for n in node.shape[1:] if n != 1]
        if len(sizes) > 1 or math.prod(node.shape) != math.prod(source.shape):
            raise Unsupported("a vector that becomes something else")
        program._alias(node, source.index)
        return
    if source.roles[1:] != (None, _ROWS, _COLUMNS) or len(node.shape) != 2:
        raise Unsupported("cells that are laid out anew")
    program._value(item)
    program._alias(node, source.index)
    program._flat.add(node.index)


@_rule("add", "sub")
def _addition(program: NativeProgram, node: Node, arguments: dict[str, Any]) -> None:
    left, right, sign = arguments["self"], arguments["other"], 1.0 if node.op == "add" else -1.0
    if arguments.get("alpha", 1) != 1:
        raise Unsupported("a scaled addition")
    changing = [isinstance(x, Ref) and program.graph.nodes[x.node].depends for x in (left, right)]
    ones = np.ones(program._shape(node)[2], dtype=np.float32)
    if changing == [True, False]:
        return program._affine(node, left, ones, sign * program._by_channel(node, right))
    if changing == [False, True]:
        return program._affine(node, right, sign * ones, program._by_channel(node, left))
    shapes = [program._shape(program.graph.nodes[x.node]) for x in (left, right)]
    if shapes[0] != shapes[1] or not all(node.same_cells(i) for i in range(len(node.operands))):
        raise Unsupported("values of different shapes")
    if sign > 0 and left.node != right.node:
        for mine, other in ((right, left), (left, right)):
            waiting = program._joinable(mine, "convolution")
            if waiting is not None and waiting.residual is None:
                residual = program._value(other)
                program._sums.pop(mine.node)
                program._sums[node.index] = replace(waiting, residual=residual)
                return
    operands = (program._value(left), program._value(right))
    program._combine(node, "add" if sign > 0 else "subtract", operands)


@_rule("mul", "div")
def _multiplication(program: NativeProgram, node: Node, arguments: dict[str, Any]) -> None:
    left, right = arguments["self"], arguments["other"]
    changing = [isinstance(x, Ref) and program.graph.nodes[x.node].depends for x in (left, right)]
    zeros = np.zeros(program._shape(node)[2], dtype=np.float32)
    if arguments.get("rounding_mode") is not None:
        raise Unsupported("a division that rounds")
    if changing == [True, False]:
        scale = program._by_channel(node, right)
        return program._affine(node, left, 1 / scale if node.op == "div" else scale, zeros)
    if node.op == "div":
        raise Unsupported("a division by a value that changes")
    if changing == [False, True]:
        return program._affine(node, right, program._by_channel(node, left), zeros)
    shapes = [program._shape(program.graph.nodes[x.node]) for x in (left, right)]
    if shapes[0] != shapes[1] or not all(node.same_cells(i) for i in range(len(node.operands))):
        raise Unsupported("values of different shapes")
    program._combine(node, "multiply", (program._value(left), program._value(right)))


@_rule("batch_norm")
def _batch_norm(program: NativeProgram, node: Node, arguments: dict[str, Any]) -> None:
    shift, x, scale = node.args[:3]  # captured as addcmul
    program._affine(node, x, program._by_channel(node, scale), program._by_channel(node, shift))


@_rule("cat")
def _concatenation(program: NativeProgram, node: Node, arguments: dict[str, Any]) -> None:
    if node.roles[arguments["dim"]] not in (None, 0):
        raise Unsupported("values side by side along an axis")
    operands = [program._value(item) for item in arguments["tensors"]]
    ranges = [(0, program._shape(program.graph.nodes[item.node])[2]) for item in arguments["tensors"]]
    program._channels(node, operands, ranges)


@_rule("slice", "select")
def _some_channels(program: NativeProgram, node: Node, arguments: dict[str, Any]) -> None:
    item = arguments["self"]
    source = program.graph.nodes[item.node]
    dim = arguments["dim"] % len(source.shape)
    channels = program._shape(source)[2]
    if source.roles[dim] not in (None, 0) or len(source.shape) != 4:
        raise Unsupported("cells of an axis")
    if node.op == "select":
        first = arguments["index"] % channels
        chosen = range(first, first + 1)
    else:
        chosen = range(*slice(arguments["start"], arguments["end"], arguments["step"]).indices(channels))
        if chosen.step != 1:
            raise Unsupported("every other channel")
    program._channels(node, [program._value(item)], [(chosen.start, chosen.stop)])


@_rule("layer_norm")
def _layer_norm(program: NativeProgram, node: Node, arguments: dict[str, Any]) -> None:
    if node.roles[-1] not in (None, 0) or len(arguments["normalized_shape"]) != 1:
        raise Unsupported("normalised along axes")
    weight, bias = (
        None if arguments[name] is None else program._constant(arguments[name]).contiguous().numpy()
        for name in ("weight", "bias")
    )
    value = program._value(arguments["input"])
    shape = program._shape(node)
    program._remember(
        node, program.program.layer_norm(value, *shape, arguments["eps"], weight, bias, Epilogue().numbers())
    )


@_rule("linear")
def _linear(program: NativeProgram, node: Node, arguments: dict[str, Any]) -> None:
    item = arguments["input"]
    weight = program._constant(arguments["weight"]).contiguous().numpy()
    bias = None
    if arguments["bias"] is not None:
        bias = program._constant(arguments["bias"]).contiguous().numpy()
    if node.local:
        if node.roles[-1] not in (None, 0):
            raise Unsupported("a linear layer along an axis")
        height, width, _ = program._shape(node)
        operand = program._value(item)
        maps = [(n, n, 1, 1, 0, 1) for n in (height, width)]
        program._sum(node, operand, np.ascontiguousarray(weight[:, :, None, None]), bias, maps, 1)
        return
    if len(node.shape) != 2:
        raise Unsupported("a linear layer on more than vectors")
    if item.node in program._flat:
        value = program.values[item.node]
        program._sums[node.index] = Sum(
            lambda done: program.program.cells(value, done.weight, done.bias, done.epilogue.numbers()),
            "cells",
            (value,),
            weight,
            bias,
        )
        return
    if not program._is_layer(item.node):
        raise Unsupported("a linear layer on what is no vector")
    layer = program._build(item.node)
    program._sums[node.index] = Sum(
        lambda done: program.program.dense(layer, done.weight, done.bias, done.epilogue.numbers()),
        "dense",
        (layer,),
        weight,
        bias,
    )


@_rule("adaptive_avg_pool2d", "_adaptive_avg_pool2d", "mean")
def _global_average(program: NativeProgram, node: Node, arguments: dict[str, Any]) -> None:
    item = _first(arguments)
    source = program.graph.nodes[item.node]
    if node.local or source.roles[2:] != (_ROWS, _COLUMNS) or source.roles[1] not in (None, 0):
        raise Unsupported("an average of something else than an image")
    if node.op == "mean":
        if arguments.get("dtype") is not None or sorted(d % 4 for d in arguments["dim"] or ()) != [2, 3]:
            raise Unsupported("an average over other dimensions")
    elif node.shape[2:] != (1, 1):
        raise Unsupported("averages of several parts")
    value = program._value(item)
    program._sums[node.index] = Sum(
        lambda done: program.program.mean(value, done.epilogue.numbers()), "mean", (value,)
    )


# -- running -------------------------------------------------------------------------------------------


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


class NativeSession:
    """A native program on one example: its views, and outputs for any list of positions.

    Args:
        program: The graph made ready.
        plan: Graph x window.
        inputs: The tensors of one example, first dimension 1 where they are batched.
        baseline: What replaces the occluded cells; broadcasts against the occluded input.
        memory_budget: Bytes that the session may add to the process.

    Raises:
        InputError: The budget does not hold the views and one position.
    """

    def __init__(
        self,
        program: NativeProgram,
        plan: Plan,
        inputs: tuple[Tensor, ...],
        baseline: Tensor,
        memory_budget: int,
    ) -> None:
        graph = program.graph
        self.program = program
        self.window = plan.window
        x = inputs[graph.occluded]
        baseline = baseline.to(x).expand(x.shape)
        self.changed = ChangedCells(self.window, (x != baseline)[0].numpy())
        self._tail = program.tail.bind(inputs)
        values = [program.values[i] for i in program.kept if i in program.values]
        self._session = _native.Session(
            program.program,
            program.extents(plan),
            values,
            _nhwc(x),
            _nhwc(baseline),
            threads(),
        )
        self.batch = self._largest_batch(plan, memory_budget)
        shapes = [graph.nodes[i].shape for i in program.kept]
        self._shapes = dict(zip(program.kept, shapes, strict=True))
        self.base = self._outputs(1, lambda values, layers: self._session.base(values, layers))

    def _largest_batch(self, plan: Plan, budget: int) -> int:
        fixed = self._session.view_bytes + self.program.program.weight_bytes + self._session.run_bytes(0)
        each = self._session.run_bytes(1) - self._session.run_bytes(0)
        each += sum(self.program.graph.nodes[i].numel() * 4 for i in self.program.kept)
        each += self.program.tail.bytes_per_position
        if budget < fixed + each:
            raise InputError(
                f"memory_budget is {budget / 2**20:.0f} MiB; this model and window take "
                f"{fixed / 2**20:.0f} MiB for views, weights and boxes and {each / 2**20:.1f} MiB for one position"
            )
        return int(min(LARGEST_BATCH, (budget - fixed) // max(each, 1)))

    def _outputs(self, count: int, compute: Callable[[list[Any], list[Any]], object]) -> Tensor:
        """Outputs of the model from what the engine writes."""
        values, layers, found = [], [], {}
        for index, shape in self._shapes.items():
            node = self.program.graph.nodes[index]
            if index in self.program.layers and index not in self.program._flat:
                out = np.empty((count, math.prod(shape[1:])), dtype=np.float32)
                layers.append((self.program.layers[index], out))
                found[index] = torch.from_numpy(out).reshape(count, *shape[1:])
                continue
            source = node
            value = self.program.values[index]
            source = self.program.graph.nodes[self.program._nodes_of_values[value]]
            height, width, channels = self.program._shape(source)
            out = np.empty((count, height, width, channels), dtype=np.float32)
            values.append((value, np.zeros((count, 2), dtype=np.int64), out))
            image = torch.from_numpy(out)
            if node.roles == (BATCH, *(role for role in node.roles[1:-1]), None) and node.local:
                found[index] = image
            else:
                image = image.permute(0, 3, 1, 2)
                found[index] = image if node.local else image.reshape(count, *shape[1:])
        if compute(values, layers) is False:
            raise KeyboardInterrupt
        return self._tail(found, count)

    def stream(self, positions: IntArray, limit: int | None = None) -> Iterator[tuple[IntArray, Tensor]]:
        """Outputs ``(positions, *output_shape)`` as they become known; see `ReferenceSession.stream`."""
        work = distinct_work(self.changed, positions)
        if len(work.unchanged):
            yield work.unchanged, self.base.expand(len(work.unchanged), *self.base.shape[1:])
        largest = self.batch if limit is None else min(limit, self.batch)
        start, count = 0, 1
        while start < len(work.boxes):
            boxes = np.ascontiguousarray(work.boxes[start : start + count].reshape(-1, 6))
            values = self._outputs(
                len(boxes), lambda values, layers, boxes=boxes: self._session.run(boxes, values, layers)
            )
            readers = work.readers[start : start + count]
            repeats = torch.tensor([len(r) for r in readers])
            yield np.concatenate(readers), values.repeat_interleave(repeats, 0)
            start += count
            # From one, so that the first values come at once.
            count = min(4 * count, largest)

    def cancel(self) -> None:
        """End a running call of another thread at its next layer."""
        self._session.cancel()


def _nhwc(image: Tensor) -> Floats:
    return np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())
