"""Operators that move dimensions about: transposed, regrouped, added, shuffled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from krypton_engine.graph.box_operators import Apply
from krypton_engine.graph.ir import BATCH
from krypton_engine.graph.operators import base
from krypton_engine.graph.regions import AxisMap, IndexMap, SpreadMap, WindowMap


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
    """Repeating the one cell along an axis is allowed: the result no longer runs along that axis."""
    node = base.only_dependent(call)
    if len(call.shape) != len(node.shape) or not call.batch_dims[0]:
        raise base.NotLocal("expand adds a dimension in front, or repeats rows")
    dims = [dim for dim, (n, out) in enumerate(zip(node.shape, call.shape, strict=True)) if n != out]
    local = base.mixing(node, dims)
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
        return base.mixing(node, dims)
    if len(several) < len(dims):
        raise base.NotLocal("repeat of axes and other dimensions at once")
    return base.reindexed(node, several)


@base.rule("view", "reshape", "_unsafe_view")
def _reshape(call: base.Call) -> base.Local:
    """Dimensions regrouped: in each group, an axis with nothing before it stays the first dimension."""
    node = base.only_dependent(call)
    batch = 2_147_483_647  # a prime that is no size, so that the batch only matches itself
    before = [batch if role == BATCH else n for n, role in zip(node.shape, node.roles, strict=True)]
    after = [batch if is_batch else n for n, is_batch in zip(call.shape, call.batch_dims, strict=True)]
    roles: list[int | None] = []
    whole: set[int] = set()
    maps: dict[int, AxisMap] = {}
    for mine, theirs in _groups(call, before, after):
        group: list[int | None] = [None] * len(theirs)
        sizes, outs = before[mine.start : mine.stop], after[theirs.start : theirs.stop]
        axes = {i: role for i in mine if (role := node.roles[i]) is not None}
        large = [i for i in axes if before[i] > 1]
        if not large and len(sizes) == len(outs) == 1:
            group[0] = node.roles[mine.start]
        else:
            whole |= {axes[i] for i in axes if before[i] == 1}
        if large:
            if len(large) > 1:
                raise base.NotLocal(f"{call.name} makes one dimension of several axes")
            if any(before[i] > 1 for i in range(mine.start, large[0])):
                raise base.NotLocal(f"{call.name} rearranges the cells of an axis")
            place = next(k for k, n in enumerate(outs) if n > 1)
            group[place] = role = axes[large[0]]
            if role != BATCH:
                maps[role] = _regrouped(call, before[large[0]], outs[place])
            elif outs[place] != batch:
                raise base.NotLocal(f"{call.name} regroups the batch")
        roles += group
    whole -= {role for role in roles if role is not None}
    maps = {axis: step for axis, step in maps.items() if not step.is_identity()}
    return base.Local(tuple(roles), Apply(sized=True), (node.index,), (maps,), frozenset(whole))


def _groups(call: base.Call, before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[range, range]]:
    """The smallest runs of dimensions before and after that hold the same cells."""
    i = j = 0
    while i < len(before) or j < len(after):
        first, start = i, j
        left = right = 1
        while True:
            if left <= right and i < len(before) and (left < right or i == first):
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
            if left == right and (j > start or j == len(after)):
                break
        if left != right:
            raise base.NotLocal(f"{call.name} regroups the batch")
        yield range(first, i), range(start, j)


def _regrouped(call: base.Call, n: int, out: int) -> AxisMap:
    """The way from an axis of ``n`` cells to one of ``out``, which leaves parts to the dimensions behind."""
    if n % out == 0:
        return WindowMap(n, out, n // out, n // out)
    if out % n == 0:
        return SpreadMap(n, out, out // n, out // n - 1)
    raise base.NotLocal(f"{call.name} rearranges the cells of an axis")


@base.rule("pixel_shuffle", "pixel_unshuffle")
def _pixel_shuffle(call: base.Call) -> base.Local:
    """Channels become cells side by side, or the reverse."""
    node = base.only_dependent(call)
    rank = len(node.shape)
    maps: dict[int, AxisMap] = {}
    for dim in (rank - 2, rank - 1):
        role = node.roles[dim]
        if role == BATCH:
            raise base.NotLocal(f"{call.name} moves the batch")
        if role is not None:
            maps[role] = _regrouped(call, node.shape[dim], call.shape[dim])
    roles = [*node.roles[: rank - 3], None, *node.roles[rank - 2 :]]
    return base.Local(tuple(roles), Apply(), (node.index,), (maps,), base.touched(node.roles, [rank - 3]))


@base.rule("unfold")
def _unfold(call: base.Call) -> base.Local:
    """Windows along a dimension, the cells of each in a dimension of their own at the end."""
    node = base.only_dependent(call)
    dim = base.positive(call["dimension"], len(node.shape))
    if node.roles[dim] is None:
        local = base.mixing(node, [dim])
        return replace(local, roles=(*local.roles, None))
    axis = base.axis_of(call, node, dim)
    window = WindowMap(node.shape[dim], call.shape[dim], call["size"], call["step"])
    return base.Local((*node.roles, None), Apply(), (node.index,), ({axis: window},))


@base.rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(call: base.Call) -> base.Local:
    return base.mixing(base.only_dependent(call), [1])
