"""Operators over all cells of an image, read from their calls: reductions, largest numbers, norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from krypton_engine.graph.draft import BoundCall
from krypton_engine.graph.ir import Node
from krypton_engine.graph.operators import NotLocal
from krypton_engine.graph.operators.pooling import AVERAGE_POOLS
from krypton_engine.graph.rewrites.statistics import added, mean, root, variance

aten = torch.ops.aten


@dataclass(frozen=True)
class Reduction:
    """A reduction that is a function of sums over all cells.

    Attributes:
        powers: Powers of the elements that are summed.
        finish: Function of the sums; see `krypton_engine.graph.rewrites.statistics`.
        dims: Dimensions that are reduced.
        keepdim: Whether these are kept.
        more: Further arguments of ``finish``.
    """

    powers: tuple[int, ...]
    finish: Callable[..., Tensor]
    dims: Sequence[int]
    keepdim: bool
    more: tuple[Any, ...] = ()

    def cells(self, source: Node) -> tuple[int, ...]:
        """The number of cells of an image, as an argument of ``finish``, if that takes one.

        Examples:
            >>> Reduction((1,), mean, [2, 3], True).cells(graph.nodes[7])
            (480,)
        """
        counts = self.finish in (mean, variance)
        return (math.prod(source.size(axis) for axis in source.axes),) if counts else ()


def _mean(call: BoundCall, source: Node) -> Reduction:
    return Reduction((1,), mean, _dims(call, source), call["keepdim"])


def _sum(call: BoundCall, source: Node) -> Reduction:
    return Reduction((1,), added, _dims(call, source), call["keepdim"])


def _norm(call: BoundCall, source: Node) -> Reduction:
    if call["ord"] != 2:
        raise NotLocal("another norm than the Euclidean")
    return Reduction((2,), root, _dims(call, source), call["keepdim"])


def _spread(call: BoundCall, source: Node) -> Reduction:
    """Variances and standard deviations; of those that come with means, each by itself."""
    if getattr(call.target, "number", 0) == 1:
        return _mean(call, source)
    correction = call.bound.get("correction", 1.0 if call.bound.get("unbiased", True) else 0.0)
    more = (1.0 if correction is None else float(correction), call.name.startswith("std"))
    return Reduction((1, 2), variance, _dims(call, source), call["keepdim"], more)


def _pooled(call: BoundCall, source: Node) -> Reduction:
    return Reduction((1,), mean, _pooled_dims(call, source), True)


def _dims(call: BoundCall, source: Node) -> Sequence[int]:
    dims = call["dim"]
    if dims is None:
        raise NotLocal(f"{call.name} over everything")
    return [dims] if isinstance(dims, int) else dims


def _pooled_dims(call: BoundCall, source: Node) -> Sequence[int]:
    """The dimensions of a pool to one cell; none of a pool that leaves several."""
    rank = len(source.axes)
    pads = call.bound.get("padding", 0) not in (0, [0], [0] * rank, (0,) * rank)
    if (
        any(size != 1 for size in call.shape[-rank:])
        or pads
        or call.bound.get("divisor_override") is not None
    ):
        return ()
    return range(len(source.shape) - rank, len(source.shape))


TOTALS: Mapping[str, Callable[[BoundCall, Node], Reduction]] = {
    "mean": _mean,
    "sum": _sum,
    "linalg_vector_norm": _norm,
    **dict.fromkeys(("var", "std", "var_mean", "std_mean"), _spread),
    **{f"{kind}adaptive_avg_pool{n}d": _pooled for kind in ("", "_") for n in (1, 2, 3)},
    **dict.fromkeys(AVERAGE_POOLS, _pooled),
}
"""Reductions by the operators' names."""

_Largest = tuple[Callable[..., Tensor], Sequence[int], bool]
"""``amax`` or ``amin``, the dimensions, and whether these are kept."""


def _amax(call: BoundCall, source: Node) -> _Largest:
    return aten.amax.default, _dims(call, source), call["keepdim"]


def _amin(call: BoundCall, source: Node) -> _Largest:
    return aten.amin.default, _dims(call, source), call["keepdim"]


def _max_pooled(call: BoundCall, source: Node) -> _Largest:
    if getattr(call.target, "number", 0) == 1:
        raise NotLocal("places of the largest numbers")
    return aten.amax.default, _pooled_dims(call, source), True


LARGEST: Mapping[str, Callable[[BoundCall, Node], _Largest]] = {
    "amax": _amax,
    "amin": _amin,
    **{f"{kind}max_pool{n}d": _max_pooled for kind in ("", "adaptive_") for n in (1, 2, 3)},
}
"""Largest and least numbers by the operators' names."""

_Norm = tuple[int, Any, Any, tuple[Any, ...]]
"""Groups of channels, weight and bias by channel, and a factor and a summand by cell that come after them."""


def _group_norm(call: BoundCall, source: Node) -> _Norm:
    return call["num_groups"], call["weight"], call["bias"], ()


def _instance_norm(call: BoundCall, source: Node) -> _Norm:
    if not call["use_input_stats"]:
        raise NotLocal("normalises by running statistics")
    return source.shape[1], call["weight"], call["bias"], ()


def _layer_norm(call: BoundCall, source: Node) -> _Norm | None:
    """Over the cells of all channels, or of each; None for another one."""
    missing = len(source.shape) - 1 - len(call["normalized_shape"])
    if missing not in (0, 1) or any(role not in source.axes for role in source.roles[2:]):
        return None
    return source.shape[1] if missing else 1, None, None, (call["weight"], call["bias"])


NORMS: Mapping[str, Callable[[BoundCall, Node], _Norm | None]] = {
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
}
"""Norms over an image by the operators' names; None where a call's norm is over something else."""
