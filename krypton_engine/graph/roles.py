"""Which operators are local: what each one does to the roles of its operands' dimensions.

A rule looks at one call and answers with a `Local`: how the call runs on a box. It raises `NotLocal` when
the call mixes cells along the last axis it has, or is not known; the call then is part of the full
computation. Nothing here is keyed on models or modules, only on operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from krypton_engine.graph.ir import (
    BATCH,
    Apply,
    BoxOperator,
    Convolution,
    Node,
    Pool,
    Ref,
    Reindex,
    Roles,
    refs,
)
from krypton_engine.graph.regions import AxisMap, IndexMap, WindowMap

PREFIX_IDENTITY = {"clone", "alias", "detach", "contiguous", "lift_fresh_copy", "lift_fresh"}
"""Operators whose result is their first argument."""


class NotLocal(Exception):
    """Why a call cannot be computed on a box."""


@dataclass(frozen=True)
class Local:
    """How a call runs on boxes; see `krypton_engine.graph.ir.Node`."""

    roles: Roles
    box: BoxOperator
    operands: tuple[int, ...]
    maps: tuple[Mapping[int, AxisMap], ...] = ()
    whole: frozenset[int] = frozenset()
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] | None = None


class Call(Protocol):
    """One call of an operator, its arguments bound to the names of its schema."""

    name: str
    shape: tuple[int, ...]
    batch_dims: tuple[bool, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    bound: Mapping[str, Any]
    pointwise: bool

    def __getitem__(self, name: str) -> Any: ...

    def node(self, ref: Ref) -> Node:
        """The node behind a reference."""

    def align(self, ref: Ref, roles: Roles, shape: tuple[int, ...]) -> Ref:
        """A constant whose dimensions follow the roles of the value that it is broadcast against."""


Rule = Callable[[Call], Local]
_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the operators ``names`` (without their overload)."""

    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


def localise(call: Call) -> Local:
    """The rule's answer for ``call``.

    Raises:
        NotLocal: With the reason.
    """
    found = _RULES.get(call.name) or (pointwise if call.pointwise else None)
    if found is None:
        raise NotLocal(f"{call.name} is not known to be local")
    try:
        local = found(call)
    except KeyError as argument:
        raise NotLocal(f"{call.name} without {argument}") from None
    if local.roles[:1] != (BATCH,):
        raise NotLocal(f"{call.name} moves or reads the batch")
    if 0 in call.shape:
        raise NotLocal(f"{call.name} leaves no cell")
    if not any(role is not None and role != BATCH for role in local.roles):
        raise NotLocal(f"{call.name} reads every axis from end to end")
    return local


def positive(dim: int, rank: int) -> int:
    """``dim`` counted from the front."""
    return dim % rank if rank else dim


def _touched(roles: Roles, dims: Sequence[int]) -> frozenset[int]:
    """Axes that run along ``dims``; a call that mixes cells along them reads them whole."""
    found = {roles[dim] for dim in dims}
    if BATCH in found:
        raise NotLocal("reads across the batch")
    return frozenset(axis for axis in found if axis is not None)


def _only_dependent(call: Call) -> Node:
    dependent = [i for i in dict.fromkeys(refs((call.args, dict(call.kwargs)))) if call.node(Ref(i)).depends]
    if len(dependent) != 1:
        raise NotLocal(f"{call.name} of several changed values")
    return _local_operand(call, Ref(dependent[0]))


def _local_operand(call: Call, ref: Any) -> Node:
    if not isinstance(ref, Ref):
        raise NotLocal(f"{call.name} of a constant")
    node = call.node(ref)
    if not node.depends:
        raise NotLocal(f"{call.name} of a constant with changing arguments")
    if not node.local:
        raise NotLocal("follows a full computation")
    return node


# --- every cell alike --------------------------------------------------------------------------------


@rule("hardswish", "log_sigmoid", "fill", "copy", "_to_copy", "masked_fill")  # which PyTorch does not tag
def pointwise(call: Call) -> Local:
    """Element by element, operands broadcast against each other."""
    operands = [ref for ref in _flat_refs((call.args, dict(call.kwargs)))]
    dependent = [_local_operand(call, ref) for ref in operands if call.node(ref).depends]
    return _merge(call, dependent, call.shape, free=())


def _merge(call: Call, dependent: list[Node], shape: tuple[int, ...], free: Sequence[int]) -> Local:
    """Operands of one rank met cell by cell; along the dimensions ``free`` their sizes need not agree."""
    roles = list(dependent[0].roles)
    for node in dependent:
        if len(node.shape) != len(shape):
            raise NotLocal(f"{call.name} broadcasts over a leading dimension")
        for dim, role in enumerate(node.roles):
            if role != roles[dim]:
                raise NotLocal(f"{call.name} meets an axis with a dimension that is none")
            if role not in (None, BATCH) and node.shape[dim] != shape[dim]:
                raise NotLocal(f"{call.name} repeats one cell along an axis")
    final = tuple(roles)

    def swap(item: Any) -> Any:
        if isinstance(item, Ref):
            node = call.node(item)
            return item if node.depends else call.align(item, final, shape)
        if isinstance(item, (tuple, list)):
            return type(item)(swap(part) for part in item)
        return item

    args = tuple(swap(item) for item in call.args)
    kwargs = {key: swap(item) for key, item in call.kwargs.items()}
    operands = tuple(dict.fromkeys(refs((args, kwargs))))
    if any(roles[dim] is not None for dim in free):
        raise NotLocal(f"{call.name} along an axis")
    return Local(final, Apply(), operands, tuple({} for _ in operands), args=args, kwargs=kwargs)


def _flat_refs(args: Any) -> list[Ref]:
    return [Ref(index) for index in dict.fromkeys(refs(args))]


@rule("cat")
def _cat(call: Call) -> Local:
    tensors = call["tensors"]
    rank = len(call.shape)
    dim = positive(call["dim"], rank)
    dependent = [_local_operand(call, ref) for ref in tensors if call.node(ref).depends]
    if dependent[0].roles[dim] is None:
        return _merge(call, dependent, call.shape, free=(dim,))
    axis = _axis(call, dependent[0], dim)
    operands, maps, start = [], [], 0
    for ref in tensors:
        node = call.node(ref)
        n = node.shape[dim]
        if not node.depends:
            shape = (*call.shape[:dim], n, *call.shape[dim + 1 :])
            ref = call.align(ref, dependent[0].roles, shape)
        elif node.roles != dependent[0].roles:
            raise NotLocal("cat of values with different roles")
        source = np.full(call.shape[dim], -1, dtype=np.int64)
        source[start : start + n] = np.arange(n)
        operands.append(ref.node)
        maps.append({axis: IndexMap(n, tuple(source.tolist()))})
        start += n
    return Local(dependent[0].roles, Reindex(), tuple(operands), tuple(maps))


@rule("stack")
def _stack(call: Call) -> Local:
    dim = positive(call["dim"], len(call.shape))
    dependent = [_local_operand(call, ref) for ref in call["tensors"] if call.node(ref).depends]
    merged = _merge(call, dependent, dependent[0].shape, free=())
    return replace(merged, roles=(*merged.roles[:dim], None, *merged.roles[dim:]))


@rule("index")
def _index(call: Call) -> Local:
    node = _only_dependent(call)
    dims = [dim for dim, ref in enumerate(call["indices"]) if ref is not None]
    cells = call.node(call["indices"][dims[0]]).value
    if len(dims) != 1 or cells is None or cells.ndim != 1 or not call.node(call.args[0]).depends:
        raise NotLocal("index by several tensors, by a mask or by changing values")
    (dim,) = dims
    if cells.dtype == torch.bool:
        cells = cells.nonzero()[:, 0]
    if node.roles[dim] is None:
        return _mixing(call, node, dims)
    n = node.shape[dim]
    return _reindex(call, node, {_axis(call, node, dim): IndexMap(n, tuple((cells % n).tolist()))})


@rule("repeat_interleave")
def _repeat_interleave(call: Call) -> Local:
    node = _only_dependent(call)
    if not isinstance(call["repeats"], int) or call["dim"] is None:
        raise NotLocal("repeat_interleave by a tensor or of the flattened value")
    dim = positive(call["dim"], len(node.shape))
    if node.roles[dim] is None:
        return _mixing(call, node, [dim])
    n, repeats = node.shape[dim], call["repeats"]
    return _reindex(
        call, node, {_axis(call, node, dim): IndexMap(n, tuple(o // repeats for o in range(n * repeats)))}
    )


def _axis(call: Call, node: Node, dim: int) -> int:
    role = node.roles[dim]
    if role == BATCH:
        raise NotLocal(f"{call.name} along the batch")
    assert role is not None
    return role


# --- dimensions moved about --------------------------------------------------------------------------


def _moved(call: Call, node: Node, roles: Sequence[int | None], sized: bool = False) -> Local:
    return Local(tuple(roles), Apply(sized), (node.index,), ({},))


@rule("permute")
def _permute(call: Call) -> Local:
    node = _only_dependent(call)
    rank = len(node.shape)
    return _moved(call, node, [node.roles[positive(dim, rank)] for dim in call["dims"]])


@rule("transpose")
def _transpose(call: Call) -> Local:
    node = _only_dependent(call)
    rank = len(node.shape)
    roles = list(node.roles)
    a, b = positive(call["dim0"], rank), positive(call["dim1"], rank)
    roles[a], roles[b] = roles[b], roles[a]
    return _moved(call, node, roles)


@rule("unsqueeze")
def _unsqueeze(call: Call) -> Local:
    node = _only_dependent(call)
    dim = positive(call["dim"], len(call.shape))
    return _moved(call, node, [*node.roles[:dim], None, *node.roles[dim:]])


@rule("view", "reshape", "_unsafe_view", "expand")
def _reshape(call: Call) -> Local:
    """Opaque dimensions may be regrouped among themselves; an axis must stay a dimension of its own."""
    node = _only_dependent(call)
    if call.name == "expand":
        pad = len(call.shape) - len(node.shape)
        if pad or any(
            role is not None and size != out
            for role, size, out in zip(node.roles, node.shape, call.shape, strict=True)
        ):
            raise NotLocal("expand repeats an axis or adds a dimension")
        return _moved(call, node, node.roles, sized=True)
    batch = 2_147_483_647  # a prime that is no size, so that the batch only matches itself
    before = [batch if role == BATCH else n for n, role in zip(node.shape, node.roles, strict=True)]
    after = [batch if is_batch else n for n, is_batch in zip(call.shape, call.batch_dims, strict=True)]
    roles: list[int | None] = []
    whole: set[int] = set()
    i = j = 0
    while i < len(before) or j < len(after):
        start_i, start_j = i, j
        left = right = 1
        while True:
            if left <= right and i < len(before) and (left < right or i == start_i):
                left *= before[i]
                i += 1
            elif j < len(after):
                right *= after[j]
                j += 1
            elif i < len(before):
                left *= before[i]
                i += 1
            else:
                break
            if left == right and (j > start_j or j == len(after)):
                break
        if left != right:
            raise NotLocal(f"{call.name} regroups the batch")
        kept = [
            role for role, n in zip(node.roles[start_i:i], before[start_i:i], strict=True) if role is not None
        ]
        single = {
            role
            for role, n in zip(node.roles[start_i:i], before[start_i:i], strict=True)
            if role is not None and n == 1
        }
        group: list[int | None] = [None] * (j - start_j)
        if kept:
            large = [role for role in kept if role not in single]
            sizes = [n for n in before[start_i:i] if n > 1]
            outs = [k for k in range(start_j, j) if after[k] > 1]
            if len(large) > 1 or (large and (len(sizes) > 1 or len(outs) != 1)):
                raise NotLocal(f"{call.name} regroups an axis")
            if large:
                group[outs[0] - start_j] = large[0]
                whole |= single
            elif i - start_i == 1 and j - start_j == 1:
                group[0] = kept[0]
            else:
                whole |= single
        roles += group
    whole -= {role for role in roles if role is not None}
    return Local(tuple(roles), Apply(sized=True), (node.index,), ({},), frozenset(whole))


# --- calls that mix cells along opaque dimensions -----------------------------------------------------


def _mixing(call: Call, node: Node, dims: Sequence[int], keep: bool = True) -> Local:
    """``call`` mixes cells along ``dims`` and leaves the others alone."""
    rank = len(node.shape)
    dims = [positive(dim, rank) for dim in dims]
    whole = _touched(node.roles, dims)
    roles = [None if dim in dims else role for dim, role in enumerate(node.roles)]
    if not keep:
        roles = [role for dim, role in enumerate(roles) if dim not in dims]
    return Local(tuple(roles), Apply(), (node.index,), ({},), whole)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "glu", "softmin")
def _along_dim(call: Call) -> Local:
    return _mixing(call, _only_dependent(call), [call["dim"]])


@rule("mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "norm", "logsumexp", "prod")
def _reduction(call: Call) -> Local:
    node = _only_dependent(call)
    dims = call["dim"]
    if dims is None or dims == [] or dims == ():
        raise NotLocal(f"{call.name} over everything")
    return _mixing(call, node, dims if isinstance(dims, (tuple, list)) else [dims], keep=call["keepdim"])


@rule("layer_norm", "rms_norm")
def _layer_norm(call: Call) -> Local:
    node = _only_dependent(call)
    count = len(call["normalized_shape"])
    return _mixing(call, node, range(len(node.shape) - count, len(node.shape)))


@rule("linear")
def _linear(call: Call) -> Local:
    node = _local_operand(call, call["input"])
    if call.node(call["weight"]).depends:
        raise NotLocal("linear with changing weights")
    return _mixing(call, node, [-1])


@rule("matmul", "mm")
def _matmul(call: Call) -> Local:
    left, right = call.args[:2]
    node = _local_operand(call, left)
    if call.node(right).depends or len(call.node(right).shape) != 2:
        raise NotLocal("matmul of changing values")
    return _mixing(call, node, [-1])


@rule("prelu", "_prelu_kernel")
def _prelu(call: Call) -> Local:
    node = _local_operand(call, call.args[0])
    if node.roles[1] is not None and call.node(call.args[1]).numel() > 1:
        raise NotLocal("prelu with a weight that varies along an axis")
    return _mixing(call, node, [])


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(call: Call) -> Local:
    return _mixing(call, _only_dependent(call), [1])


@rule("index_select")
def _index_select(call: Call) -> Local:
    node = _local_operand(call, call.args[0])
    return _mixing(call, node, [call["dim"]])


# --- cells moved along an axis -----------------------------------------------------------------------


def _reindex(call: Call, node: Node, sources: Mapping[int, IndexMap], fill: float = 0.0) -> Local:
    return Local(node.roles, Reindex(fill), (node.index,), (dict(sources),))


@rule("slice")
def _slice(call: Call) -> Local:
    node = _only_dependent(call)
    dim = positive(call["dim"], len(node.shape))
    if node.roles[dim] is None:
        return _mixing(call, node, [dim])
    axis = _axis(call, node, dim)
    n = node.shape[dim]
    source = range(*slice(call["start"], call["end"], call["step"]).indices(n))
    return _reindex(call, node, {axis: IndexMap(n, tuple(source))})


@rule("select")
def _select(call: Call) -> Local:
    node = _only_dependent(call)
    dim = positive(call["dim"], len(node.shape))
    return _mixing(call, node, [dim], keep=False)


@rule("flip")
def _flip(call: Call) -> Local:
    node = _only_dependent(call)
    dims = [positive(dim, len(node.shape)) for dim in call["dims"]]
    opaque = [node.roles[dim] is None for dim in dims]
    if all(opaque):
        return _mixing(call, node, dims)
    if any(opaque):
        raise NotLocal("flip of axes and opaque dimensions at once")
    return _reindex(
        call,
        node,
        {
            _axis(call, node, dim): IndexMap(node.shape[dim], tuple(reversed(range(node.shape[dim]))))
            for dim in dims
        },
    )


@rule("roll")
def _roll(call: Call) -> Local:
    node = _only_dependent(call)
    dims = [positive(dim, len(node.shape)) for dim in call["dims"]]
    if all(node.roles[dim] is None for dim in dims) and dims:
        return _mixing(call, node, dims)
    sources = {}
    for dim, shift in zip(dims, call["shifts"], strict=True):
        if node.roles[dim] is None:
            raise NotLocal("roll of axes and opaque dimensions at once")
        n = node.shape[dim]
        sources[_axis(call, node, dim)] = IndexMap(n, tuple((o - shift) % n for o in range(n)))
    if not sources:
        raise NotLocal("roll over the flattened value")
    return _reindex(call, node, sources)


@rule("slice_scatter")
def _slice_scatter(call: Call) -> Local:
    inner, outer = call["src"], call["self"]
    dependent = [_local_operand(call, ref) for ref in (outer, inner) if call.node(ref).depends]
    roles = dependent[0].roles
    dim = positive(call["dim"], len(roles))
    n = call.shape[dim]
    inside = range(*slice(call["start"], call["end"], call["step"]).indices(n))
    if any(node.roles != roles for node in dependent):
        raise NotLocal("slice_scatter of values with different roles")
    if roles[dim] is None:
        return _merge(call, dependent, call.shape, free=(dim,))
    axis = _axis(call, dependent[0], dim)
    source = np.full(n, -1, dtype=np.int64)
    source[list(inside)] = np.arange(len(inside))
    kept = np.arange(n)
    kept[list(inside)] = -1
    sizes = (n, len(inside))
    aligned = [
        ref
        if call.node(ref).depends
        else call.align(ref, roles, (*call.shape[:dim], size, *call.shape[dim + 1 :]))
        for ref, size in zip((outer, inner), sizes, strict=True)
    ]
    maps = tuple(
        {axis: IndexMap(size, tuple(cells.tolist()))}
        for size, cells in zip(sizes, (kept, source), strict=True)
    )
    return Local(roles, Reindex(), tuple(ref.node for ref in aligned), maps)


def _padding_map(n: int, before: int, after: int, mode: str) -> IndexMap:
    cells = np.arange(-before, n + after)
    if mode == "constant":
        cells = np.where((cells < 0) | (cells >= n), -1, cells)
    elif mode == "replicate":
        cells = cells.clip(0, n - 1)
    elif mode == "circular":
        cells = cells % n
    else:
        cells = np.where(cells < 0, -cells, cells)
        cells = np.where(cells >= n, 2 * (n - 1) - cells, cells)
    return IndexMap(n, tuple(cells.tolist()))


def _pad_by(call: Call, pads: Sequence[int], mode: str, fill: float) -> Local:
    node = _only_dependent(call)
    rank = len(node.shape)
    maps: dict[int, IndexMap] = {}
    opaque = []
    for i in range(len(pads) // 2):
        dim = rank - 1 - i
        before, after = pads[2 * i], pads[2 * i + 1]
        if before or after:
            if node.roles[dim] is None:
                opaque.append(dim)
            else:
                maps[_axis(call, node, dim)] = _padding_map(node.shape[dim], before, after, mode)
    if opaque and maps:
        raise NotLocal("padding of axes and opaque dimensions at once")
    return _mixing(call, node, opaque) if opaque else _reindex(call, node, maps, fill)


@rule("constant_pad_nd")
def _constant_pad(call: Call) -> Local:
    return _pad_by(call, call["pad"], "constant", float(call["value"]))


@rule("pad")
def _pad(call: Call) -> Local:
    return _pad_by(call, call["pad"], call["mode"], float(call["value"] or 0.0))


@rule("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def _reflection_pad(call: Call) -> Local:
    return _pad_by(call, call["padding"], "reflect", 0.0)


@rule("replication_pad1d", "replication_pad2d", "replication_pad3d")
def _replication_pad(call: Call) -> Local:
    return _pad_by(call, call["padding"], "replicate", 0.0)


@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def _upsample_nearest(call: Call) -> Local:
    node = _only_dependent(call)
    maps = {}
    for dim in range(2, len(node.shape)):
        n, out = node.shape[dim], call.shape[dim]
        if node.roles[dim] is None:
            raise NotLocal("upsampling of an opaque dimension")
        if out % n:
            raise NotLocal("upsampling by a fraction")
        maps[_axis(call, node, dim)] = IndexMap(n, tuple(o // (out // n) for o in range(out)))
    return _reindex(call, node, maps)


# --- sliding windows ---------------------------------------------------------------------------------


def _per_dim(value: Any, count: int) -> tuple[int, ...]:
    items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return items * count if len(items) == 1 else items


@rule("conv1d", "conv2d", "conv3d")
def _convolution(call: Call) -> Local:
    node = _local_operand(call, call["input"])
    weight, bias = call["weight"], call["bias"]
    if any(call.node(ref).depends for ref in (weight, bias) if ref is not None):
        raise NotLocal("convolution with changing weights")
    count = len(call.shape) - 2
    stride, dilation = _per_dim(call["stride"], count), _per_dim(call["dilation"], count)
    kernel = call.node(weight).shape[2:]
    if isinstance(call["padding"], str):
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = tuple(0 if call["padding"] == "valid" else r // 2 for r in reach)
        right = tuple(0 if call["padding"] == "valid" else r - r // 2 for r in reach)
    else:
        padding = right = _per_dim(call["padding"], count)
    for dim, (before, after) in enumerate(zip(padding, right, strict=True)):
        if before != after and node.roles[2 + dim] is None:
            raise NotLocal("uneven 'same' padding of an opaque dimension")
    maps = _window_maps(call, node, kernel, stride, padding, dilation)
    box = Convolution(
        weight.node, bias.node if bias is not None else None, stride, padding, dilation, call["groups"]
    )
    return Local((BATCH, None, *node.roles[2:]), box, (node.index,), (maps,), _touched(node.roles, [1]))


def _window_maps(
    call: Call,
    node: Node,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> dict[int, AxisMap]:
    if len(node.shape) != len(call.shape) or node.roles[0] != BATCH:
        raise NotLocal(f"{call.name} of a value without its batch in front")
    if any(role == BATCH for role in node.roles[1:]):
        raise NotLocal(f"{call.name} moves over the batch")
    return {
        role: WindowMap(
            node.shape[2 + dim], call.shape[2 + dim], kernel[dim], stride[dim], padding[dim], dilation[dim]
        )
        for dim, role in enumerate(node.roles[2:])
        if role is not None
    }


def _pool(
    call: Call, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, average: bool
) -> Local:
    node = _only_dependent(call)
    count = len(call.shape) - 2
    kernel = _per_dim(kernel, count)
    stride = _per_dim(stride, count) if stride not in ([], (), None) else kernel
    padding, dilation = _per_dim(padding, count), _per_dim(dilation, count)
    maps = _window_maps(call, node, kernel, stride, padding, dilation)
    divisors: tuple[tuple[int, ...], ...] = ()
    if average:
        divisors = _divisors(call, node, kernel, stride, padding)
    roles = (BATCH, node.roles[1], *node.roles[2:])
    box = Pool(not average, kernel, stride, padding, dilation, ceil_mode, divisors)
    return Local(roles, box, (node.index,), (maps,))


def _divisors(
    call: Call, node: Node, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """Cells that count for each output, dimension by dimension, as ``torch.nn.AvgPool2d`` counts them."""
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


@rule("max_pool1d", "max_pool2d", "max_pool3d")
def _max_pool(call: Call) -> Local:
    return _pool(
        call, call["kernel_size"], call["stride"], call["padding"], call["dilation"], call["ceil_mode"], False
    )


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(call: Call) -> Local:
    return _pool(call, call["kernel_size"], call["stride"], call["padding"], 1, call["ceil_mode"], True)


@rule(
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
)
def _adaptive_avg_pool(call: Call) -> Local:
    node = _only_dependent(call)
    before, after = node.shape[2:], call.shape[2:]
    if any(n % out for n, out in zip(before, after, strict=True)):
        raise NotLocal(f"{call.name} with windows of several sizes")
    kernel = tuple(n // out for n, out in zip(before, after, strict=True))
    if (
        all(out == 1 for out, role in zip(after, node.roles[2:], strict=True) if role is not None)
        and math.prod(before) > 1
    ):
        raise NotLocal(f"{call.name} averages over every axis")
    if all(k == 1 for k in kernel):
        return _mixing(call, node, [])
    return _pool(call, kernel, kernel, 0, 1, False, True)


def is_pointwise(target: Any) -> bool:
    """Whether PyTorch itself tags the operator as elementwise and deterministic."""
    tags = getattr(target, "tags", ())
    return torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags
