"""A program of the C++ engine while it is being written: values that are there, and sums that wait."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native.images import is_statistic, shape_of
from krypton_engine.executors.native.sums import Float32s, Sum, Window, numbers
from krypton_engine.graph.box_operators import NO_EPILOGUE, Epilogue
from krypton_engine.graph.ir import Graph, Node, Ref, refs

if TYPE_CHECKING:
    from krypton_engine import _native

_VECTORS = ("mean", "cells", "dense")
"""Kinds of sums that are one vector for every position."""


@dataclass(frozen=True)
class Picks:
    """Channels of images in another order.

    Attributes:
        images: Number of the engine's value that each channel belongs to.
        channels: Number of each channel within that value.
        numbers: Numbers of the channels that a node holds; shaped like the node, of one cell and one copy.
    """

    images: tuple[int, ...]
    channels: tuple[int, ...]
    numbers: Tensor


class Writer:
    """Nodes of ``graph`` written, one after the other, into a program of the engine.

    Args:
        graph: The graph.
        program: An empty program for the occluded input.

    Attributes:
        values: The engine's number of every node that is an image, once it is built.
        vectors: The same for nodes that are vectors.
        nodes: The node that each of the engine's values was built for.
        begins: First of the fused nodes, by the last of them.
        lowered: Nodes that are written, or wait to be.
        flat: Nodes that are an image laid out as one vector.
        picks: Nodes that are channels of others in another order.
        along: For nodes that PyTorch computes on boxes, all nodes of the same step.
        foreign: Names of the operators that PyTorch computes on boxes.
        sites: Values of the nodes that meet global values, once they are built.
        reason: Reason why the first node that is not lowered could not be.

    Examples:
        >>> from krypton_engine import _native
        >>> to, (conv, relu) = Writer(graph, _native.Program("", (1, 24, 20), 3)), graph.nodes[7:9]
        >>> weight, bias = to.constant(Ref(0)).numpy(), to.by_channel(conv, 0.5)
        >>> windows = [(1, 1, 1, 1, 0, 1), (24, 24, 3, 1, 1, 1), (20, 20, 3, 1, 1, 1)]
        >>> to.convolve(conv, to.value(Ref(6)), weight[:, :, None], bias, windows, groups=1)
        >>> waiting = to.joinable(Ref(7), "convolution")
        >>> to.join(relu, Ref(7), replace(waiting, epilogue=Epilogue(low=0.0)))
        >>> to.is_built(8), to.build(8), to.is_built(8), to.begins
        (False, 1, True, {8: 7})
    """

    def __init__(self, graph: Graph, program: _native.Program) -> None:
        self.graph = graph
        self.program = program
        self.values = {graph.input.index: 0}
        self.vectors: dict[int, int] = {}
        self.nodes = {0: graph.input}
        self.begins: dict[int, int] = {}
        self.lowered = {graph.input.index}
        self.reason = ""
        self.flat: set[int] = set()
        self.picks: dict[int, Picks] = {}
        self.along: dict[int, frozenset[int]] = {}
        self.foreign: list[str] = []
        self.sites: dict[int, int] = {}
        self._sums: dict[int, Sum] = {}
        self._uses = Counter(i for node in graph.nodes for i in set(refs((node.args, node.kwargs))))
        self._uses[graph.output] += 1

    def build(self, index: int) -> int:
        """The engine's number of a lowered node, built now if it was waiting."""
        if index in self._sums:
            waiting = self._sums.pop(index)
            number = waiting.build(waiting)
            if waiting.kind in _VECTORS:
                self.vectors[index] = number
            else:
                self.remember(self.graph.nodes[index], number)
        return self.vectors[index] if index in self.vectors else self.values[index]

    def remember(self, node: Node, value: int) -> None:
        """Note the number of the value of ``node`` in the engine."""
        self.values[node.index] = value
        self.nodes[value] = node

    def value(self, item: Any) -> int:
        """The engine's number of an operand that is an image."""
        if not isinstance(item, Ref):
            raise Unsupported("an operand that is no value")
        node = self.graph.nodes[item.node]
        if not node.depends:
            raise Unsupported("an operand that is a constant")
        if is_statistic(node):
            raise Unsupported("a statistic by itself")
        if self.is_vector(item.node) or item.node in self.flat or not self.has_value(item.node):
            raise Unsupported("something else where an image was expected")
        return self.build(item.node)

    def wait(self, node: Node, total: Sum) -> None:
        """Leave ``node`` to be built when it is read."""
        self._sums[node.index] = total

    def join(self, node: Node, item: Ref, total: Sum) -> None:
        """Note that ``node`` has become part of the sum that it reads."""
        del self._sums[item.node]
        self._sums[node.index] = total
        self.continues(node, item.node)

    def continues(self, node: Node, index: int) -> None:
        """Note that ``node`` is fused with another node, and with all nodes fused into that."""
        self.begins[node.index] = self.begins.get(index, index)

    def is_vector(self, index: int) -> bool:
        """Whether a lowered node is one vector for every position."""
        return index in self.vectors or (index in self._sums and self._sums[index].kind in _VECTORS)

    def has_value(self, index: int) -> bool:
        """Whether a lowered node is, or will be, a value of the engine."""
        return index in self._sums or index in self.values or index in self.vectors

    def is_built(self, index: int) -> bool:
        """Whether the engine has computed a lowered node by itself."""
        return index in self.values or index in self.vectors

    def waits_for_one(self, index: int) -> bool:
        """Whether a lowered node is not built yet, and read once."""
        return index in self._sums and self._uses[index] == 1

    def alias(self, node: Node, index: int) -> None:
        """Note that ``node`` has the same value as another node."""
        if not self.has_value(index):
            raise Unsupported("no value of the engine")
        if index in self._sums:
            if self._uses[index] > 1:
                self.build(index)
            else:
                self._sums[node.index] = self._sums.pop(index)
                self.continues(node, index)
                return
        if index in self.flat:
            self.flat.add(node.index)
        if index in self.vectors:
            self.vectors[node.index] = self.vectors[index]
        if index in self.values:
            self.values[node.index] = self.values[index]

    def joinable(self, item: Any, *kinds: str) -> Sum | None:
        """The sum of ``item``, of one of ``kinds``, that its only reader may still join; None without one."""
        if not isinstance(item, Ref) or self._uses[item.node] > 1:
            return None
        found = self._sums.get(item.node)
        return found if found is not None and found.epilogue == NO_EPILOGUE and found.kind in kinds else None

    def constant(self, item: Any) -> Tensor:
        """A float32 constant on the CPU."""
        node = self.graph.nodes[item.node] if isinstance(item, Ref) else None
        if node is None or node.value is None:
            raise Unsupported("an operand that is not known beforehand")
        if node.value.dtype != torch.float32 or node.value.device.type != "cpu":
            raise Unsupported(f"a constant of {node.value.dtype} on {node.value.device}")
        return node.value.detach()

    def known(self, index: int) -> Tensor:
        """A value that no input changes."""
        node = self.graph.nodes[index]
        if node.value is not None:
            return node.value.detach()
        if index in self.graph.inputs:
            raise Unsupported("another input")
        value: Tensor = node.computed(self.known)
        return value

    def convolve(
        self,
        node: Node,
        operand: int,
        weight: Float32s,
        bias: Float32s | None,
        windows: Sequence[Window],
        groups: int,
        residual: int | None = None,
        epilogue: Epilogue = NO_EPILOGUE,
        **limits: Any,
    ) -> None:
        """Write ``node`` as a convolution by weights, ``(out, in / groups, depth, height, width)``."""

        def build(done: Sum) -> int:
            operands = [operand] + ([] if done.residual is None else [done.residual])
            return self.program.convolution(
                operands,
                windows,
                groups,
                done.required_weight,
                done.bias,
                numbers(done.epilogue),
                **limits,
            )

        self.wait(node, Sum(build, "convolution", weight, bias, residual=residual, epilogue=epilogue))

    def by_channel(self, node: Node, item: Any) -> Float32s:
        """A number, or a constant that varies only by channel, for every channel of ``node``."""
        _, channels = shape_of(node)
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            return np.full(channels, item, dtype=np.float32)
        constant = self.constant(item)
        constant = constant.reshape((1,) * (len(node.shape) - constant.dim()) + tuple(constant.shape))
        dims = [dim for dim, role in enumerate(node.roles) if role in (None, 0)]
        if constant.numel() != math.prod(constant.shape[dim] for dim in dims):
            raise Unsupported("a constant that varies over the image")
        return np.ascontiguousarray(constant.reshape(-1).expand(channels).numpy())

    def affine(self, node: Node, item: Any, scale: Float32s, shift: Float32s) -> None:
        """``item * scale + shift``, by channel.

        Raises:
            Unsupported: The constants make several channels of one that is no convolution's.
        """
        waiting = self.joinable(item, "convolution", "concat", "meeting")
        if waiting is not None and waiting.kind == "convolution" and waiting.residual is None:
            assert waiting.weight is not None
            weight = (waiting.weight.astype(np.float64) * scale[:, None, None, None, None]).astype(np.float32)
            bias = shift if waiting.bias is None else waiting.bias * scale + shift
            self.join(node, item, replace(waiting, weight=weight, bias=bias))
            return
        if isinstance(item, Ref) and shape_of(self.graph.nodes[item.node]) != shape_of(node):
            raise Unsupported("one channel by the constants of several")
        if waiting is not None and waiting.kind == "concat" and waiting.scale is None:
            self.join(node, item, replace(waiting, scale=scale, shift=shift))
            return
        if waiting is not None and waiting.kind == "meeting" and waiting.residual is None:
            if waiting.scale is not None and waiting.shift is not None:
                scale, shift = waiting.scale * scale, waiting.shift * scale + shift
            self.join(node, item, replace(waiting, scale=scale, shift=shift))
            return
        self.combine(node, "add", (self.value(item),), scale, shift)

    def combine(
        self,
        node: Node,
        arithmetic: str,
        operands: tuple[int, ...],
        scale: Float32s | None = None,
        shift: Float32s | None = None,
        epilogue: Epilogue = NO_EPILOGUE,
    ) -> None:
        """``(a op b) * scale + shift``, cell by cell; scale and shift by channel."""
        sizes, channels = shape_of(node)

        def build(done: Sum) -> int:
            return self.program.combine(
                arithmetic, list(operands), sizes, channels, scale, shift, numbers(done.epilogue)
            )

        self.wait(node, Sum(build, "combine", epilogue=epilogue))
