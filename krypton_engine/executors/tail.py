"""The rest of a model in full, on batches of the values that an executor has computed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.graph.ir import BATCH, Graph, Node, holds_rows, refs
from krypton_engine.graph.operators import facts
from krypton_engine.plan.measured import Costs

aten = torch.ops.aten

LARGEST_TENSOR = 32 * 2**20
"""Bytes of the largest tensor that a batch should make: glibc maps and clears fresh pages for larger ones
each time, which costs more than a larger batch gains."""

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer on rows in the order in which they lie.

    PyTorch takes a value whose dimensions were permuted, such as the tokens of a transformer, for a batch of
    small products, which takes half as long again as one large one.
    """
    last = x.dim() - 1
    order = sorted(range(last), key=x.stride, reverse=True)
    back = [order.index(dim) for dim in range(last)]
    y: Tensor = aten.linear.default(x.permute(*order, last), weight, bias)
    return y.permute(*back, last)


_FASTER: dict[object, Callable[..., Tensor]] = {aten.linear.default: _linear}


def overwriting(graph: Graph) -> frozenset[int]:
    """Nodes that may overwrite their first operand: a fresh result that they alone read.

    A result is fresh if an operator made it for the positions at hand. Values that the occluded input does
    not change are made once, for one copy, and shared by all positions.

    Examples:
        >>> sorted(overwriting(graph))  # both activations, each over the convolution that it alone reads
        [8, 11]
    """
    uses = Counter(i for node in graph.nodes for i in set(refs((node.args, node.kwargs))))
    found = set()
    for node in graph.nodes:
        if facts(node).in_place is None or not node.depends:
            continue
        source = graph.nodes[next(refs(node.args))]
        if (
            facts(source).fresh
            and source.depends
            and source.local == node.local
            and source.dtype == node.dtype
            and source.shape == node.shape
            and uses[source.index] == 1
        ):
            found.add(node.index)
    return frozenset(found)


def last_uses(graph: Graph, nodes: Sequence[Node]) -> dict[int, int]:
    """The last of ``nodes`` that reads each value.

    Examples:
        >>> from krypton_engine.graph.ir import Ref
        >>> signal = Node(0, "x", "input", (1, 8), (-1, 0), None)
        >>> one = Node(1, "y", "relu", (1, 8), (-1, 0), None, torch.ops.aten.relu.default, (Ref(0),))
        >>> graph = Graph([signal, one], (0,), occluded=0, output=1, batched=(True,))
        >>> last_uses(graph, graph.nodes)  # the result is kept to the end
        {0: 1, 1: 2}
    """
    last = {operand: node.index for node in nodes for operand in refs((node.args, node.kwargs))}
    last[graph.output] = len(graph.nodes)
    return last


def values_in_full(graph: Graph, inputs: tuple[Tensor, ...], wanted: Collection[int]) -> dict[int, Tensor]:
    """Values of some nodes, each operator on what the function gives it: nothing is laid out anew.

    Args:
        graph: The graph.
        inputs: A tensor for every input of it, of one example.
        wanted: Numbers of the nodes; other values go as soon as nothing reads them any more.

    Examples:
        >>> output = values_in_full(graph, (x,), {graph.output})[graph.output]
        >>> torch.allclose(output, model(x), atol=1e-5)
        True
    """
    values = dict(zip(graph.inputs, inputs, strict=True))
    last_use = last_uses(graph, graph.nodes)
    for node in graph.nodes:
        if node.index not in values:
            values[node.index] = node.computed(values.__getitem__) if node.value is None else node.value
        for operand in refs((node.args, node.kwargs)):
            if last_use[operand] == node.index and operand not in wanted:
                values.pop(operand, None)
    return values


def channels_last(value: Tensor) -> Tensor:
    """``value`` with its channels side by side, if it is an image or a volume of floating-point numbers.

    Examples:
        >>> channels_last(torch.zeros(1, 3, 4, 4)).stride()
        (48, 1, 12, 3)
    """
    layout = _CHANNELS_LAST.get(value.dim()) if value.is_floating_point() else None
    return value if layout is None else value.contiguous(memory_format=layout)


def _counting(graph: Graph, nodes: Sequence[Node]) -> list[Node]:
    """Nodes independent of the input whose value depends on the number of copies: ``arange(len(x))``, say."""
    counting: set[int] = set()
    for node in graph.nodes:
        args = (node.args, node.kwargs)
        if not node.depends and (holds_rows(args) or not counting.isdisjoint(refs(args))):
            counting.add(node.index)
    needed = {i for node in nodes for i in refs((node.args, node.kwargs))} & counting
    for node in reversed(graph.nodes):
        if node.index in needed:
            needed |= set(refs((node.args, node.kwargs))) & counting
    return [graph.nodes[i] for i in sorted(needed)]


class Tail:
    """Nodes of a graph that run as PyTorch runs them, and the nodes that count the copies for them.

    Args:
        graph: The graph.
        nodes: Nodes to run, all of which depend on the occluded input, in order.
        largest_tensor: Bytes of the largest tensor that a batch should make; None for ``LARGEST_TENSOR``.

    Attributes:
        batch: Number of positions that run together at most, so that no tensor is larger than that.
    """

    def __init__(self, graph: Graph, nodes: Sequence[Node], largest_tensor: int | None = None) -> None:
        self.nodes = nodes = [*_counting(graph, nodes), *nodes]
        self._output = graph.output
        self._last_use = last_uses(graph, nodes)
        self._overwriting = overwriting(graph)
        read = {i for node in nodes for i in refs((node.args, node.kwargs))}
        held = {i for i in read if graph.nodes[i].depends} | {node.index for node in nodes}
        largest = LARGEST_TENSOR if largest_tensor is None else largest_tensor
        self.batch = max(1, largest // max((graph.nodes[i].bytes() for i in held), default=1))

    def held(self, graph: Graph, given: Iterable[int]) -> int:
        """The most bytes that the values of one position take at once; views of others count as values.

        Args:
            graph: The graph.
            given: Nodes whose values exist at the beginning.

        Examples:
            >>> tail = Tail(graph, graph.nodes[12:])  # a reshape, and a linear layer
            >>> tail.held(graph, [11]) == 2 * 960 * 4
            True
        """
        now = {index: graph.nodes[index].bytes() for index in given}
        most = sum(now.values())
        for node in self.nodes:
            now[node.index] = node.bytes()
            most = max(most, sum(now.values()))
            for operand in refs((node.args, node.kwargs)):
                if self._last_use[operand] == node.index:
                    now.pop(operand, None)
        return most

    def run(
        self,
        computed: Mapping[int, Tensor],
        copies: int,
        constant: Callable[[int, int], Tensor],
        costs: Costs | None = None,
    ) -> Tensor:
        """Outputs from values that were computed for each of ``copies`` positions.

        Args:
            computed: Values by node.
            copies: Number of positions.
            constant: Function that gives the value of a node that no position changes, for a number of
                copies.
            costs: Costs that the time of every node is added to; None measures nothing.

        Examples:
            >>> constant = unchanging(graph, (x,), constants_of(graph, graph.nodes))
            >>> y = torch.rand(3, 8, 12, 10)
            >>> outputs = Tail(graph, graph.nodes[12:]).run({11: y}, 3, constant)
            >>> torch.allclose(outputs, model[5:](y), atol=1e-6)
            True
        """
        parts = [
            self._run(
                {index: value[start : start + self.batch] for index, value in computed.items()},
                min(self.batch, copies - start),
                constant,
                costs,
            )
            for start in range(0, copies, self.batch)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def outputs(
        self,
        members: IntArray,
        values: Mapping[int, Tensor],
        at_once: int,
        constant: Callable[[int, int], Tensor],
        costs: Costs | None = None,
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """Outputs of positions, part by part, from the frontier values of all of them.

        Args:
            members: Numbers of the positions.
            values: Frontier values by node, ``(positions, ...)``.
            at_once: Largest number of positions to compute together.
            constant: As `run` takes it.
            costs: As `run` takes it.

        Examples:
            >>> constant = unchanging(graph, (x,), constants_of(graph, graph.nodes))
            >>> members, values = np.array([4, 1, 7]), {11: torch.rand(3, 8, 12, 10)}
            >>> parts = Tail(graph, graph.nodes[12:]).outputs(members, values, 2, constant)
            >>> [(some.tolist(), tuple(outputs.shape)) for some, outputs in parts]
            [([4, 1], (2, 5)), ([7], (1, 5))]
        """
        if not self.nodes:  # the output is at the frontier, or no position changes it
            out = self._output
            yield members, values[out] if out in values else constant(out, len(members))
            return
        for start in range(0, len(members), at_once):
            some = {index: value[start : start + at_once] for index, value in values.items()}
            mine = members[start : start + at_once]
            yield mine, self.run(some, len(mine), constant, costs)

    def _run(
        self,
        computed: Mapping[int, Tensor],
        copies: int,
        constant: Callable[[int, int], Tensor],
        costs: Costs | None,
    ) -> Tensor:
        values: dict[int, object] = dict(computed)

        def value(index: int) -> object:
            return values[index] if index in values else constant(index, copies)

        for node in self.nodes:
            target = _FASTER.get(node.target, node.target)
            if node.index in self._overwriting:
                target = facts(node).in_place or target
            began = 0.0 if costs is None else time.perf_counter()
            values[node.index] = node.computed(value, copies, target)
            if costs is not None:
                costs.add(node.index, time.perf_counter() - began)
            for operand in refs((node.args, node.kwargs)):
                if self._last_use[operand] == node.index:
                    values.pop(operand, None)
        output = value(self._output)  # perhaps one that no position changes
        assert isinstance(output, Tensor)
        return output


def joined(
    groups: Sequence[IntArray], compute: Callable[[IntArray], dict[int, Tensor]], at_once: int
) -> Iterator[tuple[IntArray, dict[int, Tensor]]]:
    """Values of one group after the other, several groups put together.

    Args:
        groups: Numbers of positions.
        compute: Function that gives the values of a group by node, ``(positions, ...)``.
        at_once: Positions to put together, unless one group has more.

    Examples:
        >>> groups = [np.array([4, 1]), np.array([3]), np.array([0, 2])]
        >>> for members, values in joined(groups, lambda some: {7: torch.tensor(some)}, at_once=3):
        ...     print(members, values[7])
        [4 1 3] tensor([4, 1, 3])
        [0 2] tensor([0, 2])
    """
    waiting: list[tuple[IntArray, dict[int, Tensor]]] = []
    for i, group in enumerate(groups):
        waiting.append((group, compute(group)))
        following = groups[i + 1 : i + 2]
        if following and sum(len(members) for members, _ in (*waiting, (following[0], {}))) <= at_once:
            continue
        members, first = waiting[0]
        if len(waiting) > 1:
            members = np.concatenate([members for members, _ in waiting])
            first = {index: torch.cat([values[index] for _, values in waiting]) for index in first}
        waiting.clear()
        yield members, first


def weights_of(graph: Graph) -> dict[int, Tensor]:
    """All constants of a graph in channels-last layout, by node.

    Examples:
        >>> {index: tuple(weight.shape) for index, weight in weights_of(graph).items()}[0]
        (8, 3, 3, 3)
    """
    return {node.index: channels_last(node.value) for node in graph.nodes if node.value is not None}


def constants_of(graph: Graph, nodes: Sequence[Node]) -> dict[int, Tensor]:
    """Constants that ``nodes`` read, or that other unchanging values are made of, in channels-last layout.

    Examples:
        >>> sorted(constants_of(graph, graph.nodes[12:]))  # weight and bias of the linear layer
        [4, 5]
    """
    readers = [*nodes, *(node for node in graph.nodes if not node.depends)]
    read = {i for node in readers for i in refs((node.args, node.kwargs))}
    return {
        node.index: channels_last(node.value)
        for node in graph.nodes
        if node.value is not None and node.index in read
    }


def unchanging(
    graph: Graph, inputs: tuple[Tensor, ...], constants: Mapping[int, Tensor]
) -> Callable[[int, int], Tensor]:
    """Values that no window changes, as `Tail.run` takes them: constants, other inputs, and results of both.

    Examples:
        >>> constant = unchanging(graph, (x,), constants_of(graph, graph.nodes))
        >>> constant(5, 3).shape  # a bias is the same for any number of copies
        torch.Size([5])
    """
    values: dict[int, Tensor] = {**constants, **dict(zip(graph.inputs, inputs, strict=True))}
    for node in graph.nodes:
        if not node.depends and node.value is None and node.index not in values:
            values[node.index] = node.computed(values.__getitem__)
    return lambda index, copies: repeated(graph.nodes[index], values[index], copies)


def repeated(node: Node, value: Tensor, copies: int) -> Tensor:
    """``value`` of ``node`` for a number of copies.

    Examples:
        >>> node = Node(0, "gain", "input", (1, 5), (BATCH, None), torch.float32)
        >>> repeated(node, torch.ones(1, 5), copies=3).shape
        torch.Size([3, 5])
    """
    if BATCH not in node.roles:
        return value
    return value.expand([copies if role == BATCH else -1 for role in node.roles])
