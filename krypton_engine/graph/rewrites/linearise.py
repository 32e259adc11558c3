"""Operators that see the whole image, on boxes: exact inside, to the first order outside.

A gate, or a norm over the image, takes a *global value* from all cells, numbers without cells, and meets
every cell with it. A small change somewhere changes all of its output, but little. So global values are
computed for every position, their totals updated by what the box changes; where they meet cells, boxes are
computed with the new ones, and the cells outside stay as they are. `krypton_engine.executors.outside` gives
the effect of these cells on a scalar of the output, to the first order. Such a graph is an approximation.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from krypton_engine.graph.box_operators import Apply, Pool, Total
from krypton_engine.graph.draft import BoundCall, aligned
from krypton_engine.graph.ir import BATCH, Graph, Node, Ref, Roles, Rows, refs
from krypton_engine.graph.operators import Local, NotLocal, Result, arguments, base, bounded
from krypton_engine.graph.operators.pointwise import is_pointwise
from krypton_engine.graph.rewrites.editing import Edit, pruned
from krypton_engine.graph.rewrites.gridding import on_grid
from krypton_engine.graph.rewrites.opaque_channels import of_channels
from krypton_engine.graph.rewrites.readings import LARGEST, NORMS, TOTALS
from krypton_engine.graph.rewrites.statistics import scale, shift, total

aten = torch.ops.aten


def linearised(graph: Graph) -> Graph:
    """A graph with every operator on boxes that can be there to the first order.

    Args:
        graph: The exact one.

    Returns:
        ``graph`` itself where nothing is gained.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> made = linearised(capture(Source(gated, (x,))))
        >>> [node.op for node in made.nodes if node.depends]
        ['input', 'conv2d', 'total', 'mean', 'sigmoid', 'mul']
        >>> made.nodes[made.output].axes, [made.nodes[site].op for site in made.sites]
        ((1, 2), ['mul'])
    """
    made = pruned(_Linearisation(on_grid(of_channels(graph))).done())
    return made if made.sites else graph


def _batch_dims(node: Node) -> tuple[bool, ...]:
    """Which dimensions of an operator's result are exactly the batch."""
    bound = arguments(node.target, node.args, node.kwargs)
    sizes = bound.get("size", bound.get("shape"))
    named = tuple(size == Rows(1) for size in sizes) if isinstance(sizes, (tuple, list)) else ()
    return named if any(named) else (True, *(False,) * (len(node.shape) - 1))


class _Linearisation:
    """A graph, node by node, with those on boxes that can be."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._edit = Edit(graph)
        self._at = 0
        self._nodes: dict[int, Node] = {}
        for node in graph.nodes:
            self._at = node.index
            self._nodes[node.index] = node
            if not node.depends or node.index in graph.inputs or (node.local and not self._reads_anew(node)):
                continue
            try:
                self._nodes[node.index] = made = self._on_boxes(self._alone(node))
            except (NotLocal, KeyError):
                continue
            if made.index == node.index:
                self._edit.put(made)

    def done(self) -> Graph:
        """The new graph."""
        return self._edit.done()

    def node(self, ref: Ref) -> Node:
        """The node behind a reference, as it is by now."""
        return self._nodes[ref.node]

    def align(self, ref: Ref, roles: Roles, shape: tuple[int, ...]) -> Ref:
        """See `krypton_engine.graph.operators.Call`."""
        fields = aligned(self.node(ref), roles)
        return ref if fields is None else self._add(Node(-1, **fields))

    def _add(self, node: Node) -> Ref:
        """A reference to a further node, right before the one that is visited."""
        ref = self._edit.add(self._at, node)
        self._nodes[ref.node] = replace(node, index=ref.node)
        return ref

    def _reads_anew(self, node: Node) -> bool:
        """Whether a node on boxes is to be there in another way: as a global value, or of one."""
        if isinstance(node.on_box, Pool) and node.cells == 1:
            (source,) = (self._graph.nodes[i] for i in node.operands)
            return all(node.on_box.kernel[dim] >= n > 0 for dim, n in enumerate(source.shape[2:]))
        return any(self._nodes[i].roles != self._graph.nodes[i].roles for i in node.operands)

    def _alone(self, node: Node) -> Node:
        """``node`` with an operator that has one result.

        Raises:
            NotLocal: The node has several.
        """
        if node.target is operator.getitem:
            several, number = self._graph.nodes[node.args[0].node], node.args[1]
            alone = Result(several.target, number)
            return replace(node, op=several.op, target=alone, args=several.args, kwargs=several.kwargs)
        if not isinstance(node.target, (torch._ops.OpOverload, Result)) or node.dtype is None:
            raise NotLocal("has several results")
        return node

    def _on_boxes(self, node: Node) -> Node:
        call = BoundCall(self, node.target, node.args, node.kwargs, node.shape, _batch_dims(node))
        operands = _dependent(call)
        if not all(operand.local for operand in operands):
            raise NotLocal("follows a full computation")
        image = any(operand.axes for operand in operands)
        if not image and call.name == "expand" and self._read_cell_by_cell(node):
            self._edit.forward(node.index, call["self"].node)
            return self.node(call["self"])
        if image and call.name in TOTALS:
            return self._from_total(node, call)
        if image and call.name in LARGEST:
            return self._largest(node, call)
        if image and call.name in NORMS:
            return self._normalised(node, call)
        if image and call.pointwise:
            node, call = self._as_sum_or_product(node, call)
            return _local(node, _meeting(call))
        return _local(node, bounded(call))

    def _as_sum_or_product(self, node: Node, call: BoundCall) -> tuple[Node, BoundCall]:
        """A difference or a quotient of cells and a global value as the sum or product that equals it."""
        if call.name not in _INVERSES or all(each.axes for each in _dependent(call)):
            return node, call
        left, right = call["self"], call["other"]
        if not isinstance(right, Ref) or call.bound.get("rounding_mode") or call.bound.get("alpha", 1) != 1:
            return node, call
        second = self.node(right)
        if not second.depends:
            return node, call
        target, inverse = _INVERSES[call.name]
        name, op = (each.overloadpacket.__name__ for each in (inverse, target))
        made = replace(second, name=f"{node.name}_{name}", op=name, dtype=node.dtype, target=inverse)
        made = replace(made, args=(right,), kwargs={}, macs=0)
        args = (left, self._add(_local(made, Local(second.roles, Apply(), (second.index,), ({},)))))
        written = replace(node, op=op, target=target, args=args, kwargs={})
        return written, BoundCall(self, target, args, {}, node.shape, _batch_dims(node))

    def _read_cell_by_cell(self, node: Node) -> bool:
        """Whether all readers of a value broadcast their operands against each other."""
        readers = [n for n in self._graph.nodes if node.index in refs((n.args, n.kwargs))]
        return node.index != self._graph.output and all(is_pointwise(reader.target) for reader in readers)

    def _total(self, source: Node, power: int) -> Ref:
        """The sums of an image over all of its cells, as a further node."""
        dims = [dim for dim, role in enumerate(source.roles) if role in source.axes]
        shape = tuple(1 if dim in dims else n for dim, n in enumerate(source.shape))
        made = Node(-1, f"{source.name}_total", "total", shape, (), torch.float64)
        made = _global(made, total, (Ref(source.index), power, dims))
        return self._add(replace(made, on_box=Total(power), whole=frozenset(source.axes)))

    def _from_total(self, node: Node, call: BoundCall) -> Node:
        """A reduction over all cells, from their sums."""
        source = base.only_dependent(call)
        reduction = TOTALS[call.name](call, source)
        over = _over(source, reduction.dims)
        if over is None:
            return _local(node, bounded(call))  # some axes stay, and boxes along them
        sums = [self._total(source, power) for power in reduction.powers]
        args = (*sums, *reduction.cells(source), over, *reduction.more, reduction.keepdim, node.dtype)
        return _global(node, reduction.finish, args)

    def _largest(self, node: Node, call: BoundCall) -> Node:
        """The largest or the least of all cells: first of every channel's, then of these."""
        source = base.only_dependent(call)
        target, dims, keepdim = LARGEST[call.name](call, source)
        over = _over(source, dims)
        if over is None:
            return _local(node, bounded(call))
        cells = [source.roles.index(axis) for axis in source.axes]
        shape = tuple(1 if dim in cells else n for dim, n in enumerate(source.shape))
        made = replace(node, name=f"{node.name}_by_channel", op="amax", shape=shape, roles=())
        made = _global(made, target, (Ref(source.index), cells, True))
        made = replace(made, whole=frozenset(source.axes))
        if over == cells and keepdim:
            return replace(made, name=node.name)
        by_channel = self._add(made)
        return _global(node, target, (by_channel, over, keepdim))

    def _normalised(self, node: Node, call: BoundCall) -> Node:
        """A norm over the image as ``x * scale + shift``, two numbers for every channel."""
        source = base.local_operand(call, call["input"])
        norm = NORMS[call.name](call, source)
        if norm is None:
            return _local(node, bounded(call))
        groups, weight, bias, by_cell = norm
        if source.roles[1] is not None or any(role is None for role in source.roles[2:]):
            raise NotLocal("normalises windows that slide over channels")
        if any(isinstance(each, Ref) and call.node(each).depends for each in (weight, bias)):
            raise NotLocal("normalises with changing weights")
        sums, squares = (self._total(source, power) for power in (1, 2))
        cells = math.prod(source.size(axis) for axis in source.axes)
        common = (sums, squares, cells, groups, call["eps"], weight)
        shape = (*source.shape[:2], *[1] * (len(source.shape) - 2))
        assert node.dtype is not None
        like = replace(node, shape=shape)
        factor = self._add(_global(like, scale, (*common, node.dtype)))
        summand = self._add(_global(like, shift, (*common, bias, node.dtype)))
        operands = (summand.node, source.index, factor.node)
        local = Local(source.roles, Apply(), operands, ({},) * 3)
        args: tuple[Ref, ...] = (summand, Ref(source.index), factor)
        written = _local(replace(node, target=aten.addcmul.default, args=args, kwargs={}), local)
        for target, constant in zip((aten.mul.Tensor, aten.add.Tensor), by_cell, strict=False):
            if constant is not None:
                args = (self._add(written), constant)
                after = BoundCall(self, target, args, {}, node.shape, _batch_dims(node))
                named = replace(node, op=after.name, target=target, args=args, kwargs={})
                written = _local(named, base.merged(after, _dependent(after), node.shape, free=()))
        return written


def _local(node: Node, local: Local) -> Node:
    """``node`` on boxes."""
    return replace(
        node,
        roles=local.roles,
        on_box=local.on_box,
        operands=local.operands,
        maps=local.maps or ({},) * len(local.operands),
        whole=local.whole,
        args=node.args if local.args is None else local.args,
        kwargs=node.kwargs if local.kwargs is None else local.kwargs,
        reason="",
    )


def _global(node: Node, target: Callable[..., Tensor], args: tuple[Any, ...]) -> Node:
    """``node`` as an operator on global values."""
    operands = tuple(dict.fromkeys(refs(args)))
    roles = (BATCH, *(None,) * (len(node.shape) - 1))
    written = replace(node, target=target, args=args, kwargs={}, depends=True)
    return _local(written, Local(roles, Apply(), operands))


def _dependent(call: BoundCall) -> list[Node]:
    """Operands that change with the position."""
    found = dict.fromkeys(refs((call.args, call.kwargs)))
    return [node for node in (call.node(Ref(i)) for i in found) if node.depends]


def _meeting(call: BoundCall) -> Local:
    """An elementwise operator of values on boxes and global values."""
    operands = _dependent(call)
    local = base.merged(call, [node for node in operands if node.axes], call.shape, free=())
    for node in operands:
        if node.axes:
            continue
        if len(node.shape) != len(call.shape):
            raise NotLocal(f"{call.name} broadcasts over a leading dimension")
        if any(role not in (None, BATCH) and n > 1 for role, n in zip(local.roles, node.shape, strict=True)):
            raise NotLocal(f"{call.name} combines an axis with another dimension")
    return local


def _over(source: Node, dims: Sequence[int]) -> list[int] | None:
    """Dimensions that hold all cells; None where some axes or the batch would stay or go in part."""
    over = {base.positive(dim, len(source.shape)) for dim in dims}
    whole = {source.roles.index(axis) for axis in source.axes} <= over and 0 not in over
    return sorted(over) if whole else None


_INVERSES = {"sub": (aten.add.Tensor, aten.neg.default), "div": (aten.mul.Tensor, aten.reciprocal.default)}
"""Operators by those that equal them on the inverse of their second operand."""
