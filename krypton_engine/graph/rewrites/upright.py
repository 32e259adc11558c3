"""Inputs that lie otherwise than channels first: their axes under other names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from krypton_engine.graph.box_operators import Convolution, Pool, Resample, TransposedConvolution
from krypton_engine.graph.ir import BATCH, Graph, Node


def lying(graph: Graph) -> tuple[int, ...]:
    """The input's axes that the model takes for channels, depth, rows and columns, in this order.

    A signal has neither depth nor rows, an image no depth.

    The first convolution or pool tells; of the axes that it slides along, the input's order is kept.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> lying(graph), lying(capture(Source(lambda x: torch.max_pool2d(x.movedim(3, 1), 2), (x,))))
        ((0, 1, 2), (2, 0, 1))
    """
    given = graph.input.axes
    for node in graph.nodes:
        if node.local and isinstance(node.on_box, (Convolution, Pool, TransposedConvolution)):
            slides = sorted(role for role in graph.nodes[node.operands[0]].roles[2:] if role is not None)
            if len(given) != len(slides) + 1:
                break
            return (*set(given).difference(slides), *slides)
    return given


def renamed(graph: Graph, names: Mapping[int, int]) -> Graph:
    """A graph whose axes have other numbers, given by their own. Values stay as they are.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> last = capture(Source(lambda x: torch.max_pool2d(x.movedim(3, 1), 2), (x,)))
        >>> made = renamed(last, {axis: name for name, axis in enumerate(lying(last))})
        >>> [(node.op, node.shape, node.roles) for node in made.nodes[:2]]
        [('input', (1, 3, 24, 20), (-1, 1, 2, 0)), ('permute', (1, 20, 3, 24), (-1, 0, 1, 2))]
    """
    if all(axis == name for axis, name in names.items()):
        return graph
    new = {BATCH: BATCH, **names}

    def with_names(node: Node) -> Node:
        operator = node.on_box
        if isinstance(operator, Resample):
            operator = replace(operator, weights={new[axis]: w for axis, w in operator.weights.items()})
        return replace(
            node,
            roles=tuple(None if role is None else new[role] for role in node.roles),
            maps=tuple({new[axis]: step for axis, step in steps.items()} for steps in node.maps),
            whole=frozenset(new[axis] for axis in node.whole),
            on_box=operator,
        )

    return replace(graph, nodes=[with_names(node) for node in graph.nodes])
