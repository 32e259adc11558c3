"""Operators that move dimensions about: transposed, regrouped, added, shuffled."""

from __future__ import annotations

from dataclasses import replace

from krypton_engine.graph.ir import BATCH, Apply
from krypton_engine.graph.operators import base
from krypton_engine.graph.regions import IndexMap


@base.rule("permute")
def _permute(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    rank = len(node.shape)
    return base.rearranged(node, [node.roles[base.positive(dim, rank)] for dim in call["dims"]])


@base.rule("transpose")
def _transpose(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    rank = len(node.shape)
    roles = list(node.roles)
    a, b = base.positive(call["dim0"], rank), base.positive(call["dim1"], rank)
    roles[a], roles[b] = roles[b], roles[a]
    return base.rearranged(node, roles)


@base.rule("unsqueeze")
def _unsqueeze(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    dim = base.positive(call["dim"], len(call.shape))
    return base.rearranged(node, [*node.roles[:dim], None, *node.roles[dim:]])


base.ROW_BY_ROW.add("reshape")


@base.rule("expand")
def _expand(call: base.Call) -> base.Local:
    """One cell along an axis may be repeated: nothing of that axis is left then."""
    node = base.only_dependent(call)
    if len(call.shape) != len(node.shape) or not call.batch_dims[0]:
        raise base.NotLocal("expand adds a dimension in front, or repeats rows")
    dims = [dim for dim, (n, out) in enumerate(zip(node.shape, call.shape, strict=True)) if n != out]
    local = base.mixing(call, node, dims)
    return replace(local, on_box=Apply(sized=True))


@base.rule("repeat")
def _repeat(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    repeats = call["repeats"]
    if len(repeats) != len(node.shape) or repeats[0] != 1:
        raise base.NotLocal("repeat adds a dimension in front, or repeats rows")
    several = {
        base.axis_of(call, node, dim): IndexMap(n, tuple(range(n)) * times)
        for dim, (n, times) in enumerate(zip(node.shape, repeats, strict=True))
        if times > 1 and n > 1 and node.roles[dim] is not None
    }
    dims = [dim for dim, times in enumerate(repeats) if times > 1]
    if not several:
        return base.mixing(call, node, dims)
    if len(several) < len(dims):
        raise base.NotLocal("repeat of axes and other dimensions at once")
    return base.reindexed(node, several)


@base.rule("view", "reshape", "_unsafe_view")
def _reshape(call: base.Call) -> base.Local:
    """Opaque dimensions may be regrouped among themselves; an axis must stay a dimension of its own."""
    node = base.only_dependent(call)
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
            raise base.NotLocal(f"{call.name} regroups the batch")
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
                raise base.NotLocal(f"{call.name} regroups an axis")
            if large:
                group[outs[0] - start_j] = large[0]
                whole |= single
            elif i - start_i == 1 and j - start_j == 1:
                group[0] = kept[0]
            else:
                whole |= single
        roles += group
    whole -= {role for role in roles if role is not None}
    return base.Local(tuple(roles), Apply(sized=True), (node.index,), ({},), frozenset(whole))


@base.rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(call: base.Call) -> base.Local:
    return base.mixing(call, base.only_dependent(call), [1])
