"""Batch norms folded into convolutions, and pools moved to where there are fewer channels."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from krypton_engine.graph.box_operators import Apply, Convolution
from krypton_engine.graph.ir import Graph, Node, refs
from krypton_engine.graph.operators.convolution import CONVOLUTIONS
from krypton_engine.graph.operators.pooling import AVERAGE_POOLS
from krypton_engine.graph.rewrites.editing import Edit, reads_of

aten = torch.ops.aten


def fold_batch_norms(graph: Graph) -> Graph:
    """Every convolution takes in the batch norm that alone reads it, computed in float64.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture, proofs_of
        >>> layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
        >>> exported = proofs_of(capture(Source(torch.nn.Sequential(*layers).eval(), (x,)))).exported
        >>> [node.op for node in fold_batch_norms(exported).nodes if node.depends]
        ['input', 'conv2d']
    """
    edit, reads = Edit(graph), reads_of(graph)
    for norm in graph.nodes:
        if norm.target is not aten.batch_norm.default:
            continue
        convolution, statistics = graph.nodes[norm.args[0].node], _scale_and_shift(graph, norm)
        if convolution.op not in CONVOLUTIONS or reads[convolution.index] != 1 or statistics is None:
            continue
        constants = _constants(graph, convolution)
        if constants is None:
            continue
        (weights, bias), (scale, shift) = constants, statistics
        if bias is not None:
            shift = shift + bias.double() * scale
        column = (-1,) + (1,) * (weights.dim() - 1)
        taken = (weights.double() * scale.reshape(column)).to(weights.dtype)
        refs_of = [
            edit.constant(convolution.index, f"{convolution.name}_{name}", value)
            for name, value in (("weight", taken), ("bias", shift.to(weights.dtype)))
        ]
        operator = convolution.on_box
        if isinstance(operator, Convolution):
            operator = replace(operator, weight=refs_of[0].node, bias=refs_of[1].node)
        edit.put(
            replace(convolution, args=(convolution.args[0], *refs_of, *convolution.args[3:]), on_box=operator)
        )
        edit.forward(norm.index, convolution.index)
    return edit.done()


def scale_batch_norms(graph: Graph) -> Graph:
    """Batch norms that are left become one multiplication and one addition by channel.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture, proofs_of
        >>> norm = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.BatchNorm2d(3)).eval()
        >>> exported = proofs_of(capture(Source(norm, (x,)))).exported
        >>> scale_batch_norms(exported).nodes[-1].target is aten.addcmul.default
        True
    """
    edit = Edit(graph)
    for norm in graph.nodes:
        if norm.target is not aten.batch_norm.default or not norm.depends:
            continue
        statistics = _scale_and_shift(graph, norm)
        if statistics is None:
            continue
        x = norm.args[0]
        numbers = [
            edit.constant(
                norm.index,
                f"{norm.name}_{name}",
                value.to(norm.dtype).reshape(-1, *[1] * (len(norm.shape) - 2)),
                norm if norm.local else None,
            )
            for name, value in zip(("scale", "shift"), statistics, strict=True)
        ]
        args = (numbers[1], x, numbers[0])
        operands = tuple(refs(args)) if norm.local else ()
        edit.put(
            replace(
                norm,
                target=aten.addcmul.default,
                args=args,
                kwargs={},
                operands=operands,
                maps=tuple({} for _ in operands),
            )
        )
    return edit.done()


def _scale_and_shift(graph: Graph, norm: Node) -> tuple[Tensor, Tensor] | None:
    """Factors and summands of a batch norm, by channel, in float64; None unless all of it is constant."""
    _, *given, training, _, eps, _ = norm.args
    values = [None if item is None else graph.nodes[item.node].value for item in given]
    if training or any(item is not None and value is None for item, value in zip(given, values, strict=True)):
        return None
    weight, bias, mean, var = (None if value is None else value.double() for value in values)
    if mean is None or var is None:
        return None
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias


def _constants(graph: Graph, convolution: Node) -> tuple[Tensor, Tensor | None] | None:
    """Weights and bias of a convolution; None if these are not constant."""
    weight, bias = (*convolution.args[1:3], None)[:2]
    weights = graph.nodes[weight.node].value
    shift = None if bias is None else graph.nodes[bias.node].value
    if weights is None or (shift is None) != (bias is None) or convolution.kwargs:
        return None
    return weights, shift


def pool_fewer_channels(graph: Graph) -> Graph:
    """An average pooling follows the convolution that alone reads it where that leaves fewer channels.

    Such a convolution weighs channels only: the two commute, but for the bias, which comes after both, since
    a pooling that counts its padding would diminish it at the border.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture, proofs_of
        >>> layers = torch.nn.Conv2d(3, 8, 3), torch.nn.AvgPool2d(3, 1, 1), torch.nn.Conv2d(8, 2, 1)
        >>> exported = proofs_of(capture(Source(torch.nn.Sequential(*layers).eval(), (x,)))).exported
        >>> changing = [node for node in pool_fewer_channels(exported).nodes if node.depends]
        >>> [(node.op, node.shape[1]) for node in changing[-3:]]  # channels; the bias comes last
        [('conv2d', 2), ('avg_pool2d', 2), ('add', 2)]
    """
    edit, reads = Edit(graph), reads_of(graph)
    for convolution in graph.nodes:
        if convolution.op not in CONVOLUTIONS:
            continue
        pool = graph.nodes[convolution.args[0].node]
        if pool.op not in AVERAGE_POOLS or reads[pool.index] != 1 or pool.local != convolution.local:
            continue
        constants = _constants(graph, convolution)
        if constants is None:
            continue
        weights, bias = constants
        strides = convolution.args[3] if len(convolution.args) > 3 else [1]
        if not (
            weights.shape[0] < weights.shape[1] == pool.shape[1]
            and {*weights.shape[2:], *strides} == {1}
            and graph.nodes[pool.args[0].node].shape[2:] == pool.shape[2:] == convolution.shape[2:]
        ):
            continue
        operator = convolution.on_box
        weighed = edit.add(
            convolution.index,
            replace(
                convolution,
                args=(pool.args[0], convolution.args[1], None, *convolution.args[3:]),
                on_box=replace(operator, bias=None) if isinstance(operator, Convolution) else operator,
                operands=pool.operands,
            ),
        )
        last = replace(
            convolution,
            op=pool.op,
            target=pool.target,
            args=(weighed, *pool.args[1:]),
            kwargs=pool.kwargs,
            on_box=pool.on_box,
            operands=(weighed.node,) if pool.local else (),
            maps=pool.maps,
            whole=pool.whole,
            macs=pool.macs,
        )
        if bias is not None:
            column = bias.reshape(-1, *[1] * (len(convolution.shape) - 2))
            added = edit.constant(convolution.index, f"{convolution.name}_shift", column)
            pooled = edit.add(convolution.index, last)
            operands = (pooled.node, added.node) if pool.local else ()
            last = replace(
                convolution,
                op="add",
                target=aten.add.Tensor,
                args=(pooled, added),
                kwargs={},
                on_box=Apply() if pool.local else None,
                operands=operands,
                maps=tuple({} for _ in operands),
                whole=frozenset(),
                macs=0,
            )
        edit.put(last)
    return edit.done()
