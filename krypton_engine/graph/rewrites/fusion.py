"""Additions and activations fused into the convolution before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from krypton_engine.graph.box_operators import NO_EPILOGUE, Convolution
from krypton_engine.graph.boxes import propagate
from krypton_engine.graph.ir import Graph, Node
from krypton_engine.graph.operators import epilogue_of


def fuse_additions(graph: Graph) -> Graph:
    """Every convolution takes in the addition that alone reads it; the other value becomes its operand.

    Of two convolutions that are added, the one of the larger boxes takes the other in: its boxes are those of
    the sum, while those of a shortcut stay as small as they are.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> once, twice = (torch.nn.Conv2d(3, 3, size, padding=size // 2) for size in (1, 3))
        >>> made = fuse_additions(capture(Source(lambda x: twice(y := once(x)) + y, (x,))))
        >>> made.nodes[made.output].op, made.nodes[made.output].on_box.residual
        ('add', True)
    """
    fused: dict[int, Node] = {}
    cells = _cells_changed(graph)
    for addition in graph.nodes:
        if not adds_residual(graph, addition):
            continue
        first, second = addition.operands
        pairs = [(second, first), (first, second)]
        for mine, other in sorted(pairs, key=lambda pair: cells[pair[0]], reverse=True):
            if _takes_in(graph, graph.nodes[mine]):
                fused[addition.index] = _joined(graph.nodes[mine], addition, (other,), residual=True)
                break
    return _with(graph, fused)


def fuse_epilogues(graph: Graph) -> Graph:
    """Every convolution ends with the activation that alone reads it.

    Examples:
        >>> made = fuse_epilogues(graph)
        >>> made.nodes[8].on_box.epilogue.low, made.nodes[8].on_box.steps, made.nodes[7].local
        (0.0, (7, 8), False)
    """
    fused: dict[int, Node] = {}
    for convolution in graph.nodes:
        if _takes_in(graph, convolution):
            ((reader, _),) = graph.readers[convolution.index]
            activation = graph.nodes[reader]
            epilogue = epilogue_of(activation)
            if epilogue is not None and activation.dtype == convolution.dtype:
                fused[reader] = _joined(convolution, activation, (), epilogue=epilogue)
    return _with(graph, fused)


def adds_residual(graph: Graph, node: Node) -> bool:
    """Whether ``node`` adds two changing values cell by cell, so that either's operator may add the other.

    Examples:
        >>> from krypton_engine.graph.ir import Ref
        >>> relu, args = graph.nodes[8], (Ref(8), Ref(7))
        >>> two = replace(relu, index=9, op="add", args=args, operands=(8, 7), maps=({}, {}))
        >>> adds_residual(graph, relu), adds_residual(graph, two)
        (False, True)
    """
    # A sum that is clipped may not be recomputed where its box ends and that of the other value goes on.
    return (
        not graph.clips
        and node.op == "add"
        and len(node.operands) == len(node.args) == 2
        and not node.kwargs
        and node.operands[0] != node.operands[1]
        and all(node.same_cells(i) for i in range(2))
        and all(
            (other.depends, other.shape, other.dtype) == (True, node.shape, node.dtype)
            for other in (graph.nodes[i] for i in node.operands)
        )
    )


def _cells_changed(graph: Graph) -> dict[int, int]:
    """The size of the box of every local value where one cell in the middle of the input changes."""
    cells: dict[int, int] = dict.fromkeys((node.index for node in graph.nodes), 1)
    for axis in graph.input.axes:
        middle = np.array([graph.input.size(axis) // 2])
        for index, (lo, hi) in propagate(graph, axis, middle, middle + 1).items():
            cells[index] *= max(int(hi[0] - lo[0]), 0)
    return cells


def _takes_in(graph: Graph, node: Node) -> bool:
    """Whether ``node`` is a convolution along axes only that one node reads and no activation ends yet."""
    operator, spatial = node.on_box, node.roles[2:]
    return (
        isinstance(operator, Convolution)
        and operator.epilogue == NO_EPILOGUE
        and None not in spatial
        and len(graph.readers[node.index]) == 1
        and node.index not in {frontier.index for frontier in graph.frontiers}
    )


def _joined(convolution: Node, after: Node, operands: tuple[int, ...], **fields: Any) -> Node:
    """The fused node: the convolution with the operator that reads it."""
    assert isinstance(convolution.on_box, Convolution)
    steps = (*(convolution.on_box.steps or (convolution.index,)), after.index)
    return replace(
        after,
        on_box=replace(convolution.on_box, steps=steps, **fields),
        operands=(*convolution.operands, *operands),
        maps=(*convolution.maps, *({} for _ in operands)),
        whole=convolution.whole,
        macs=convolution.macs,
    )


def _with(graph: Graph, fused: Mapping[int, Node]) -> Graph:
    """``graph`` with fused nodes; nodes that they have taken in keep their numbers, and are local no more."""
    nodes = [fused.get(node.index, node) for node in graph.nodes]
    for node in fused.values():
        assert isinstance(node.on_box, Convolution)
        taken = node.on_box.steps[-2]
        nodes[taken] = replace(nodes[taken], on_box=None, operands=(), maps=(), whole=frozenset())
    return replace(graph, nodes=nodes)
