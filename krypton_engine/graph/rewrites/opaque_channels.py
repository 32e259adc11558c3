"""Channels of the input as channels, and no axis that windows slide along."""

from __future__ import annotations

from dataclasses import replace

import torch

from krypton_engine.graph.box_operators import Apply
from krypton_engine.graph.ir import Graph, Node, Ref, redirected, refs
from krypton_engine.graph.rewrites.editing import Edit
from krypton_engine.graph.rewrites.readings import NORMS

aten = torch.ops.aten


def of_channels(graph: Graph) -> Graph:
    """A graph with the image's channels as channels, if an operator sums the cells of every channel.

    Windows slide over channels too, so that these are an axis: what is taken of each channel by itself, such
    as an image's mean colour, runs along the axis, and is no global value. Operators on such channels are
    left without boxes, for `linearised` to find them anew.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> balanced = capture(Source(lambda x: x - x.mean((2, 3), keepdim=True), (x,)))
        >>> [node.roles for node in of_channels(balanced).nodes[:2]]
        [(-1, 0, 1, 2), (-1, None, 1, 2)]
    """
    image = graph.input
    first, *others = image.axes or (None,)
    if first is None or not others or not any(_by_channel(graph, node) for node in graph.nodes):
        return graph
    readers = [node for node in graph.nodes if image.index in refs((node.args, node.kwargs))]
    opaque = tuple(None if role == first else role for role in image.roles)
    made = replace(image, name=f"{image.name}_channels", op="alias", target=aten.alias.default, roles=opaque)
    made = replace(made, operands=(image.index,), maps=({},), whole=frozenset({first}), on_box=Apply())
    edit = Edit(graph)
    instead = edit.add(readers[0].index, replace(made, args=(Ref(image.index),))).node

    def to(index: int) -> int:
        return instead if index == image.index else index

    for node in graph.nodes:
        if node is image or not (node in readers or first in node.roles or first in node.whole):
            continue
        roles = tuple(None if role == first else role for role in node.roles)
        made = replace(node, roles=roles)
        if node.depends:  # to be ruled anew
            args, kwargs = redirected(node.args, to), redirected(node.kwargs, to)
            made = replace(
                made, args=args, kwargs=kwargs, on_box=None, operands=(), maps=(), whole=frozenset()
            )
        edit.put(made)
    return edit.done()


def _by_channel(graph: Graph, node: Node) -> bool:
    """Whether a node takes something of each channel of the image, over all of its cells."""
    first = graph.input.axes[0]
    if node.depends and node.local:
        return node.axes == (first,)
    operands = (graph.nodes[i] for i in refs(node.args)) if node.op in NORMS else ()
    return any(first in operand.axes for operand in operands)
