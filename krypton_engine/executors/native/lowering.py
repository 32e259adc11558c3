"""Graph -> program of the C++ engine: the nodes that the engine can compute, and those fused into others.

Convolutions come as `krypton_engine.graph.rewrites.fused` has fused them. A *sum* (a linear layer, a
concatenation, an average, ...) waits until a node reads it, so that the scale, residual or activation that
alone follows the sum becomes part of it. These joins are no rewrites of the graph, since they hold for this
engine alone: a linear layer on boxes is a convolution in the engine, a concatenation or an average ends with
an activation in the kernel that computes it, and a scale goes into the weights of the layer before it, in
place of a step that other executors round by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native import foreign, global_values, resizing, sliding
from krypton_engine.executors.native.images import is_global, is_statistic
from krypton_engine.executors.native.vocabulary import RULES, end
from krypton_engine.executors.native.writer import Writer
from krypton_engine.graph.box_operators import Convolution, Pool, Reindex, Resample, TransposedConvolution
from krypton_engine.graph.ir import Graph, Node, refs
from krypton_engine.graph.operators import arguments, epilogue_of
from krypton_engine.graph.rewrites import fused

if TYPE_CHECKING:
    from krypton_engine import _native


def lowered(graph: Graph, program: _native.Program) -> Writer:
    """A graph written into a program of the engine, as far as the engine has its operators.

    Args:
        graph: The graph.
        program: An empty program for the occluded input.

    Examples:
        >>> from krypton_engine import _native
        >>> to = lowered(graph, _native.Program("", (1, 24, 20), 3))
        >>> to.begins, to.reason  # activations are fused with convolutions, and nothing is left to PyTorch
        ({8: 7, 11: 10}, '')
        >>> to.is_vector(graph.output), to.build(graph.output)  # the first of the engine's vectors
        (True, 0)
    """
    to = Writer(graph, program)
    whole = fused(graph)
    for node in whole.nodes:
        if node.depends and node.index not in whole.absorbed and node.index != graph.input.index:
            steps = node.on_box.steps if isinstance(node.on_box, Convolution) else ()
            if _writes(to, node):
                to.lowered |= set(steps)
                if steps:
                    to.continues(node, steps[0])
            else:  # what it is made of, one by one, as far as that goes
                for step in steps:
                    _writes(to, graph.nodes[step])
    # What is no value of the engine can only be read here; whoever else reads it makes it anew.
    read_elsewhere = {graph.output}
    for node in reversed(graph.nodes):
        here = node.index in to.lowered and not to.has_value(node.index)
        if here and node.index in read_elsewhere:
            to.lowered.discard(node.index)
        if node.depends and node.index not in to.lowered:
            read_elsewhere |= set(refs((node.args, node.kwargs)))
    return to


def _writes(to: Writer, node: Node) -> bool:
    """Whether ``node`` is lowered now; if not, the reason is kept unless that is another node's."""
    is_fused = isinstance(node.on_box, Convolution) and node.on_box.steps
    read = node.operands if is_fused else refs((node.args, node.kwargs))
    if not all(i in to.lowered for i in read if to.graph.nodes[i].depends):
        return False
    try:
        _write(to, node)
    except Unsupported as reason:
        if is_fused or not _writes_foreign(to, node):
            to.reason = to.reason or ("" if is_fused else f"{node.op} ({node.name}): {reason}")
            return False
    to.lowered.add(node.index)
    return True


def _writes_foreign(to: Writer, node: Node) -> bool:
    try:
        foreign.write(to, node)
    except Unsupported:
        return False
    return True


def _write(to: Writer, node: Node) -> None:
    """``node`` as its rule has it.

    Raises:
        Unsupported: No rule has it.
    """
    if is_statistic(node):
        return None
    if node.dtype != torch.float32:
        raise Unsupported(f"it computes in float32, not {node.dtype}")
    if node.local:
        if isinstance(node.on_box, Convolution):
            return sliding.convolution(to, node, node.on_box)
        if isinstance(node.on_box, Pool):
            return sliding.pool(to, node, node.on_box)
        if isinstance(node.on_box, Reindex):
            return sliding.reindex(to, node, node.on_box)
        if isinstance(node.on_box, Resample):
            return resizing.resample(to, node, node.on_box)
        if isinstance(node.on_box, TransposedConvolution):
            return resizing.transposed(to, node, node.on_box)
    if node.index in to.graph.sites:
        return global_values.meet(to, node)
    rule = RULES.get(node.op)
    if is_global(node):
        if is_statistic(to.graph.nodes[node.operands[0]]):
            return global_values.total_of_cells(to, node)
        if to.graph.nodes[node.operands[0]].axes:
            return global_values.largest(to, node)
        rule = rule if node.op in global_values.SPELT_ALIKE else None
    epilogue = epilogue_of(node)
    if epilogue is not None:
        end(to, node, epilogue)
    elif rule is not None:
        rule(to, node, arguments(node.target, node.args, node.kwargs))
    else:
        raise Unsupported("not in its vocabulary")
