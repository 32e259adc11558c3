"""Pooling: the maximum or the average of a sliding window."""

from __future__ import annotations

import math

import numpy as np

from krypton_engine.graph.box_operators import Pool
from krypton_engine.graph.ir import BATCH, Node
from krypton_engine.graph.operators import base
from krypton_engine.graph.operators.resampling import averaged
from krypton_engine.graph.operators.sliding import per_dim, window_maps

AVERAGE_POOLS = ("avg_pool1d", "avg_pool2d", "avg_pool3d")


@base.rule("max_pool1d", "max_pool2d", "max_pool3d")
def _max_pool(call: base.Call) -> base.Local:
    return _pool(
        call, call["kernel_size"], call["stride"], call["padding"], call["dilation"], call["ceil_mode"], False
    )


@base.rule(*AVERAGE_POOLS)
def _avg_pool(call: base.Call) -> base.Local:
    return _pool(call, call["kernel_size"], call["stride"], call["padding"], 1, call["ceil_mode"], True)


_ADAPTIVE_AVERAGES = (
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
)
base.ROW_BY_ROW.update(_ADAPTIVE_AVERAGES)
base.ROW_BY_ROW.update(f"adaptive_max_pool{n}d" for n in (1, 2, 3))


@base.rule(*_ADAPTIVE_AVERAGES)
def _adaptive_avg_pool(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    before, after = node.shape[2:], call.shape[2:]
    kernel = tuple(n // out for n, out in zip(before, after, strict=True))
    if (
        all(out == 1 for out, role in zip(after, node.roles[2:], strict=True) if role is not None)
        and math.prod(before) > 1
    ):
        raise base.NotLocal(f"{call.name} averages over every axis")
    if any(n % out for n, out in zip(before, after, strict=True)):
        return averaged(call, node)
    return _pool(call, kernel, kernel, 0, 1, False, True)


def _pool(
    call: base.Call,
    kernel: object,
    stride: object,
    padding: object,
    dilation: object,
    ceil_mode: bool,
    average: bool,
) -> base.Local:
    node = base.only_dependent(call)
    count = len(call.shape) - 2
    kernel = per_dim(kernel, count)
    stride = per_dim(stride, count) if stride not in ([], (), None) else kernel
    padding, dilation = per_dim(padding, count), per_dim(dilation, count)
    maps = window_maps(call, node, kernel, stride, padding, dilation)
    divisors: tuple[tuple[int, ...], ...] = ()
    if average:
        divisors = _divisors(call, node, kernel, stride, padding)
    roles = (BATCH, node.roles[1], *node.roles[2:])
    pool = Pool(not average, kernel, stride, padding, dilation, ceil_mode, divisors)
    return base.Local(roles, pool, (node.index,), (maps,))


def _divisors(
    call: base.Call, node: Node, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """Number of cells that each output divides by, by dimension, as ``torch.nn.AvgPool2d`` counts them."""
    bound = call.bound
    override = bound.get("divisor_override")
    out = []
    for dim, (k, s, p) in enumerate(zip(kernel, stride, padding, strict=True)):
        n, n_out = node.shape[2 + dim], call.shape[2 + dim]
        first = np.arange(n_out) * s - p
        last = np.minimum(first + k, n + p)
        if not bound.get("count_include_pad", True):
            first, last = np.maximum(first, 0), np.minimum(last, n)
        sizes = last - first
        if override is not None:
            sizes = np.full(n_out, override if dim == 0 else 1)
        out.append(tuple(int(size) for size in sizes))
    return tuple(out)


def averages_cells(node: Node, source: Node) -> bool:
    """Whether ``node`` is the average of ``source`` over all cells of its axes, channel by channel.

    Examples:
        >>> from krypton_engine.graph.ir import Ref
        >>> args, source = (Ref(11), [2, 3]), graph.nodes[11]
        >>> averages_cells(Node(12, "mean", "mean", (1, 8), (BATCH, None), None, args=args), source)
        True
    """
    axes = list(range(2, len(source.shape)))
    if source.roles[0] != BATCH or not all(source.roles[dim] in source.axes for dim in axes):
        return False
    if node.op == "mean":
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        kept = node.kwargs.get("dtype") in (None, source.dtype)
        return kept and sorted(dim % len(source.shape) for dim in dims or ()) == axes
    averages = {f"{lead}adaptive_avg_pool{len(axes)}d" for lead in ("", "_")}
    return node.op in averages and set(node.shape[2:]) == {1}
