"""The engine's words, operator by operator: how each node is written into its program."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native import channels, resizing, sliding
from krypton_engine.executors.native.images import is_image, lies_in_order, shape_of
from krypton_engine.executors.native.sums import AXES, Sum, numbers, of_one_cell
from krypton_engine.executors.native.writer import Writer
from krypton_engine.graph.box_operators import NO_EPILOGUE, Epilogue
from krypton_engine.graph.ir import Node, Ref
from krypton_engine.graph.rewrites.fusion import adds_residual

Rule = Callable[[Writer, Node, dict[str, Any]], None]
RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def _first(arguments: dict[str, Any]) -> Any:
    return next(iter(arguments.values()))


def end(to: Writer, node: Node, epilogue: Epilogue) -> None:
    """``node`` is an activation: the end of the sum that it reads, or a sum of its own.

    Examples:
        >>> from krypton_engine import _native
        >>> from krypton_engine.executors.native.sliding import convolution
        >>> to = Writer(graph, _native.Program("", (1, 24, 20), 3))
        >>> convolution(to, graph.nodes[7], graph.nodes[7].on_box)
        >>> end(to, graph.nodes[8], Epilogue(low=0.0))
        >>> to.build(8), to.has_value(7), to.begins  # one value of the engine for both
        (1, False, {8: 7})
    """
    item = node.args[0]
    kinds = ("convolution", "concat", "combine", "meeting", "mean", "cells", "dense")
    waiting = to.joinable(item, *kinds)
    if waiting is not None and not (waiting.kind == "concat" and waiting.scale is None):
        to.join(node, item, replace(waiting, epilogue=epilogue))
        return
    to.combine(node, "add", (to.value(item),), epilogue=epilogue)


@_rule("_to_copy", "alias")
def _in_float32(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    to.alias(node, _first(arguments).node)


@_rule("permute", "transpose", "reshape", "unsqueeze")
def _rearrangement(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    item = _first(arguments)
    source = to.graph.nodes[item.node]
    if node.local:
        alike = is_image(node) and is_image(source) and shape_of(node) == shape_of(source)
        if alike and to.has_value(source.index):
            return to.alias(node, source.index)
        return channels.move(to, node)
    if to.is_vector(source.index):
        # Vectors have one dimension that is not 1, whatever its place.
        sizes = [n for n in node.shape[1:] if n != 1]
        if len(sizes) > 1 or math.prod(node.shape) != math.prod(source.shape):
            raise Unsupported("a vector that becomes something else")
        to.alias(node, source.index)
        return
    if not lies_in_order(source) or len(node.shape) != 2:
        raise Unsupported("cells that are rearranged")
    to.value(item)
    to.alias(node, source.index)
    to.flat.add(node.index)


@_rule("add", "sub")
def _addition(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    left, right, sign = arguments["self"], arguments["other"], 1.0 if node.op == "add" else -1.0
    if arguments.get("alpha", 1) != 1:
        raise Unsupported("a scaled addition")
    changing = [isinstance(x, Ref) and to.graph.nodes[x.node].depends for x in (left, right)]
    ones = np.ones(shape_of(node)[1], dtype=np.float32)
    if changing == [True, False]:
        return to.affine(node, left, ones, sign * to.by_channel(node, right))
    if changing == [False, True]:
        return to.affine(node, right, sign * ones, to.by_channel(node, left))
    if adds_residual(to.graph, node):  # a linear layer's, or one that was scaled
        for mine, other in ((right, left), (left, right)):
            waiting = to.joinable(mine, "convolution", "meeting")
            if waiting is not None and waiting.residual is None:
                residual = to.value(other)
                if waiting.kind == "meeting" and residual != waiting.image:
                    continue
                to.join(node, mine, replace(waiting, residual=residual))
                return
    _cell_by_cell(to, node, "add" if sign > 0 else "subtract", left, right)


@_rule("mul", "div")
def _multiplication(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    left, right = arguments["self"], arguments["other"]
    changing = [isinstance(x, Ref) and to.graph.nodes[x.node].depends for x in (left, right)]
    zeros = np.zeros(shape_of(node)[1], dtype=np.float32)
    if arguments.get("rounding_mode") is not None:
        raise Unsupported("a division that rounds")
    if changing == [True, False]:
        scale = to.by_channel(node, right)
        return to.affine(node, left, (1 / scale).astype(np.float32) if node.op == "div" else scale, zeros)
    if changing == [False, True]:
        if node.op == "div":
            raise Unsupported("a division of a constant")
        return to.affine(node, right, to.by_channel(node, left), zeros)
    _cell_by_cell(to, node, "multiply" if node.op == "mul" else "divide", left, right)


def _cell_by_cell(to: Writer, node: Node, arithmetic: str, left: Ref, right: Ref) -> None:
    sizes, count = shape_of(node)
    shapes = [shape_of(to.graph.nodes[x.node]) for x in (left, right)]
    alike = all(its_sizes == sizes and its_count in (1, count) for its_sizes, its_count in shapes)
    if not alike or not all(node.same_cells(i) for i in range(len(node.operands))):
        raise Unsupported("values of different shapes")
    operands = [channels.repeated(to, x, count) for x in (left, right)]
    to.combine(node, arithmetic, (operands[0], operands[1]))


@_rule("maximum", "minimum")
def _extremum(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    left, right = arguments["self"], arguments["other"]
    if not (to.graph.nodes[left.node].depends and to.graph.nodes[right.node].depends):
        raise Unsupported("an operand that is a constant")
    _cell_by_cell(to, node, node.op, left, right)


@_rule("square", "pow")
def _square(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    item = arguments["self"]
    if arguments.get("exponent", 2) != 2:
        raise Unsupported("a power")
    _cell_by_cell(to, node, "multiply", item, item)


@_rule("neg")
def _negation(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    zeros = np.zeros(shape_of(node)[1], dtype=np.float32)
    to.affine(node, arguments["self"], zeros - 1, zeros)


@_rule("prelu", "_prelu_kernel")
def _prelu(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    item, weight = arguments["self"], to.constant(arguments["weight"])
    if weight.numel() == 1:
        return end(to, node, Epilogue(function="leaky_relu", parameter=float(weight)))
    if node.roles[1] not in (None, 0) or weight.numel() != shape_of(node)[1]:
        raise Unsupported("slopes by something else than channels")
    value, slope = to.value(item), weight.flatten().contiguous().numpy()
    to.wait(node, Sum(lambda done: to.program.prelu(value, slope, numbers(done.epilogue)), "combine"))


@_rule("batch_norm")
def _batch_norm(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    shift, x, scale = node.args[:3]  # captured as addcmul
    to.affine(node, x, to.by_channel(node, scale), to.by_channel(node, shift))


@_rule("addcmul")
def _by_channel_times_image(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    shift, factors = arguments["self"], [arguments["tensor1"], arguments["tensor2"]]
    items = [x for x in factors if to.graph.nodes[x.node].depends]
    if arguments.get("value", 1) != 1 or len(items) != 1:
        raise Unsupported("another sum than of an image by channel")
    (scale,) = (x for x in factors if x is not items[0])
    to.affine(node, items[0], to.by_channel(node, scale), to.by_channel(node, shift))


@_rule(*channels.MOVES)
def _moved_channels(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    channels.move(to, node)


@_rule("pixel_shuffle")
def _pixel_shuffle(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    resizing.shuffle(to, node, arguments)


@_rule("layer_norm")
def _layer_norm(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    if node.roles[-1] not in (None, 0) or len(arguments["normalized_shape"]) != 1:
        raise Unsupported("normalised along axes")
    weight, bias = (
        None if arguments[name] is None else to.constant(arguments[name]).contiguous().numpy()
        for name in ("weight", "bias")
    )
    value = to.value(arguments["input"])
    shape = shape_of(node)
    to.remember(
        node, to.program.layer_norm(value, *shape, arguments["eps"], weight, bias, numbers(NO_EPILOGUE))
    )


@_rule("linear")
def _linear(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    item = arguments["input"]
    weight = to.constant(arguments["weight"]).contiguous().numpy()
    bias = None
    if arguments["bias"] is not None:
        bias = to.constant(arguments["bias"]).contiguous().numpy()
    if node.local:
        if node.roles[-1] not in (None, 0):
            raise Unsupported("a linear layer along an axis")
        kernel = np.ascontiguousarray(weight[:, :, None, None, None])
        to.convolve(node, to.value(item), kernel, bias, of_one_cell(shape_of(node)[0]), 1)
        return
    if len(node.shape) != 2:
        raise Unsupported("a linear layer on more than vectors")
    if item.node in to.flat:
        value = to.values[item.node]
        to.wait(
            node,
            Sum(
                lambda done: to.program.cells(value, done.required_weight, done.bias, numbers(done.epilogue)),
                "cells",
                weight,
                bias,
            ),
        )
        return
    if not to.is_vector(item.node):
        raise Unsupported("a linear layer on what is no vector")
    vector = to.build(item.node)
    to.wait(
        node,
        Sum(
            lambda done: to.program.dense(vector, done.required_weight, done.bias, numbers(done.epilogue)),
            "dense",
            weight,
            bias,
        ),
    )


@_rule("sum", "mean")
def _sum(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    if not node.local:
        return _of_all_cells(to, node, arguments)
    if node.whole and node.whole < set(AXES):
        return sliding.sum_along(to, node)
    channels.add_up(to, node, arguments["self"])


@_rule(*(f"{lead}adaptive_avg_pool{rank}d" for lead in ("", "_") for rank in (1, 2, 3)))
def _of_all_cells(to: Writer, node: Node, arguments: dict[str, Any]) -> None:
    """One number for every channel: the mean of all cells, or their sum."""
    item = _first(arguments)
    source = to.graph.nodes[item.node]
    cells = {dim for dim, role in enumerate(source.roles) if role in AXES}
    dims = (arguments.get("dim") or range(len(source.shape))) if node.op in ("sum", "mean") else cells
    gone = {dim % len(source.shape) for dim in dims}
    alike = node.dtype == source.dtype and all(source.shape[dim] == 1 for dim in gone - cells)
    if node.local or not is_image(source) or not alike or not gone >= cells or 0 in gone:
        raise Unsupported("a reduction of something else than all of an image")
    if node.op not in ("sum", "mean") and set(node.shape[2:]) != {1}:
        raise Unsupported("an average of parts of an image")
    value = to.value(item)
    add = to.program.sum if node.op == "sum" else to.program.mean
    to.wait(node, Sum(lambda done: add(value, numbers(done.epilogue)), "mean"))
