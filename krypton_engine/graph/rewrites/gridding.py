"""Operators on flattened cells, written on the grid: sums over all cells, weighted by a softmax or not.

Global context blocks and attention pools flatten an image's cells into one dimension, in which no box has a
place. What is done there cell by cell, or summed over all cells, is the same on the grid. A softmax over the
cells is exponentials over their sum, and the sum is held back until a reader needs the quotient: in a sum
that is weighted so it is one division at the end. So a box changes two sums, and nothing outside of itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from krypton_engine.graph.ir import BATCH, Graph, Node, Ref, Rows, refs
from krypton_engine.graph.operators import NotLocal, arguments, base
from krypton_engine.graph.operators.pointwise import is_pointwise
from krypton_engine.graph.rewrites.editing import Edit, pruned

aten = torch.ops.aten

_BATCH_SIZE = 2_147_483_647  # a prime that is no size, so that the batch only matches itself


def on_grid(graph: Graph) -> Graph:
    """A graph whose sums over flattened cells are sums over a grid, but for one rounding the same.

    The nodes that are written anew compute in full; `linearised` has them on boxes.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> def context(x):
        ...     weights = x.mean(1).flatten(1).softmax(1)
        ...     return x + (x.flatten(2) @ weights[..., None])[..., None]
        >>> made = on_grid(capture(Source(context, (x,))))
        >>> [node.op for node in made.nodes if node.depends and node.op not in ("reshape", "unsqueeze")]
        ['input', 'mean', 'exp', 'sum', 'mul', 'sum', 'reciprocal', 'mul', 'add']
    """
    return _Gridding(graph).done()


@dataclass(frozen=True)
class _OnGrid:
    """A node's value on the grid.

    Attributes:
        at: The value there.
        dims: For every dimension of the node, the dimensions of ``at`` that it is made of, none where its
            size is 1.
        over: Sums that the value is still to be divided by, laid out as ``at``; None for none.
        cells: Dimensions of ``at`` that were one, once.
    """

    at: Node
    dims: tuple[tuple[int, ...], ...]
    over: Node | None = None
    cells: frozenset[int] = frozenset()


class _Gridding:
    """A graph, node by node, with what is known of flattened ones."""

    def __init__(self, graph: Graph) -> None:
        self._edit, self._rank = Edit(graph), len(graph.input.shape)
        self._here = 0
        self._known: dict[int, _OnGrid] = {}
        self._nodes = {node.index: node for node in graph.nodes}
        for node in graph.nodes:
            rule = _RULES.get(node.op) or (_Gridding._cell_by_cell if is_pointwise(node.target) else None)
            if not node.depends or node.local or rule is None:
                continue
            self._here = node.index
            try:
                rule(self, node, arguments(node.target, node.args, node.kwargs))
            except NotLocal:
                continue

    def done(self) -> Graph:
        """The new graph."""
        return pruned(self._edit.done())

    def _add(self, op: str, target: Callable[..., Any], shape: Sequence[int], *args: Any) -> Node:
        """A further node before the one that is visited, of its dtype."""
        shape = tuple(shape)
        like = self._nodes[self._here]
        made = Node(-1, f"{like.name}_{op}", op, shape, (None,) * len(shape), like.dtype, target, args)
        ref = self._edit.add(self._here, replace(made, depends=True))
        self._nodes[ref.node] = replace(made, index=ref.node, depends=True)
        return self._nodes[ref.node]

    def _reshaped(self, node: Node, shape: Sequence[int]) -> Node:
        if node.shape == tuple(shape):
            return node
        return self._add("reshape", aten.reshape.default, shape, Ref(node.index), _sizes(shape))

    def _product(self, left: Node, right: Node) -> Node:
        shape = torch.broadcast_shapes(left.shape, right.shape)
        return self._add("mul", aten.mul.Tensor, shape, Ref(left.index), Ref(right.index))

    def _summed(self, node: Node, dims: Sequence[int]) -> Node:
        shape = [1 if dim in dims else n for dim, n in enumerate(node.shape)]
        return self._add("sum", aten.sum.dim_IntList, shape, Ref(node.index), sorted(dims), True)

    def _divided(self, node: Node, over: Node | None) -> Node:
        if over is None:
            return node
        inverse = self._add("reciprocal", aten.reciprocal.default, over.shape, Ref(over.index))
        return self._product(node, inverse)

    def _put(self, node: Node, value: Node) -> None:
        """Let ``node`` be a value with the same cells in the same order."""
        self._edit.put(
            replace(
                node,
                op="reshape",
                target=aten.reshape.default,
                args=(Ref(value.index), _sizes(node.shape)),
                kwargs={},
            )
        )

    def _on_grid(self, index: int) -> _OnGrid:
        """A value on the grid: itself where it has as many dimensions as the image.

        Another context may come before, so that the value is not on boxes yet.
        """
        if index in self._known:
            return self._known[index]
        node = self._nodes[index]
        on_boxes = node.local and node.axes and node.roles[0] == BATCH
        if not node.depends or not (on_boxes or (not node.local and len(node.shape) == self._rank)):
            raise NotLocal("has no cells")
        return _OnGrid(node, tuple((dim,) for dim in range(len(node.shape))))

    def _note(self, node: Node, found: _OnGrid) -> None:
        """Keep ``node`` on the grid; a node with dimensions of its own is written there at once."""
        self._known[node.index] = found
        order = [dim for dims in found.dims for dim in dims]
        if all(len(dims) < 2 for dims in found.dims) and order == sorted(order):
            self._put(node, self._divided(found.at, found.over))

    def _reshape(self, node: Node, given: Mapping[str, Any]) -> None:
        found = self._on_grid(given["self"].node)
        order = [dim for dims in found.dims for dim in dims]
        rest = [dim for dim in range(len(found.at.shape)) if dim not in order]
        if any(found.at.shape[dim] > 1 for dim in rest):
            raise NotLocal("leaves cells out")
        before = [_BATCH_SIZE if dim == 0 else found.at.shape[dim] for dim in order]
        after = [_BATCH_SIZE, *node.shape[1:]]
        dims = _regrouped(order, before, after)
        cells = found.cells.union(*(mine for mine in dims if len(mine) > 1))
        self._note(node, replace(found, dims=dims, cells=cells))

    def _permute(self, node: Node, given: Mapping[str, Any]) -> None:
        found, rank = self._on_grid(given["self"].node), len(node.shape)
        order = list(given.get("dims") or range(rank))
        if "dim0" in given:
            a, b = (base.positive(given[name], rank) for name in ("dim0", "dim1"))
            order[a], order[b] = order[b], order[a]
        self._note(node, replace(found, dims=tuple(found.dims[dim] for dim in order)))

    def _unsqueeze(self, node: Node, given: Mapping[str, Any]) -> None:
        found, dim = self._on_grid(given["self"].node), base.positive(given["dim"], len(node.shape))
        self._note(node, replace(found, dims=(*found.dims[:dim], (), *found.dims[dim:])))

    def _softmax(self, node: Node, given: Mapping[str, Any]) -> None:
        found = self._on_grid(given["self"].node)
        over = _flat(found, given["dim"])
        scores = self._divided(found.at, found.over)
        weights = self._add("exp", aten.exp.default, scores.shape, Ref(scores.index))
        self._note(node, _OnGrid(weights, found.dims, self._summed(weights, over), found.cells))

    def _sum(self, node: Node, given: Mapping[str, Any]) -> None:
        found = self._on_grid(given["self"].node)
        over = _flat(found, given.get("dim"))
        if given.get("dtype") not in (None, node.dtype):
            raise NotLocal("sums in another dtype")
        total = self._divided(self._summed(found.at, over), found.over)
        if node.op == "mean":
            cells = math.prod(found.at.shape[dim] for dim in over)
            total = self._add("mul", aten.mul.Tensor, total.shape, Ref(total.index), 1 / cells)
        self._put(node, total)

    def _matmul(self, node: Node, given: Mapping[str, Any]) -> None:
        """A product over all cells: of each channel of one value with each of the other."""
        left, right = (self._on_grid(ref.node) for ref in node.args[:2])
        ranks = len(left.dims), len(right.dims)
        rank = max(ranks)
        labels = [*range(rank - ranks[0], rank - 2), rank, "cells"], [*range(rank - ranks[1], rank - 2)]
        result = [*range(rank - 2), rank, rank + 1]
        self._contracted(node, (left, right), (labels[0], [*labels[1], "cells", rank + 1]), result)

    def _einsum(self, node: Node, given: Mapping[str, Any]) -> None:
        read, result = given["equation"].replace(" ", "").split("->")
        labels = read.split(",")
        if len(labels) != 2 or "." in read:
            raise NotLocal("is no product of two values")
        left, right = (self._on_grid(ref.node) for ref in given["tensors"])
        self._contracted(node, (left, right), labels, result)

    def _contracted(
        self, node: Node, values: Sequence[_OnGrid], labels: Sequence[Sequence[Any]], result: Sequence[Any]
    ) -> None:
        summed = [label for label in labels[0] if label in labels[1] and label not in result]
        if len(summed) != 1 or any(set(mine) - set(result) - set(summed) for mine in labels):
            raise NotLocal("is no product over all cells")
        cells = [found.dims[list(mine).index(summed[0])] for found, mine in zip(values, labels, strict=True)]
        sides = [tuple(v.at.shape[dim] for dim in dims) for v, dims in zip(values, cells, strict=True)]
        if len(cells[0]) < 2 or sides[0] != sides[1]:
            raise NotLocal("is no product over all cells")
        wide = [label for label, n in zip(result, node.shape, strict=True) if n > 1]
        laid_out = []
        for found, mine, own in zip(values, labels, cells, strict=True):
            of = dict(zip(mine, found.dims, strict=True))
            order = [dim for label in wide for dim in of.get(label, ())] + list(own)
            if order != sorted(order) or own != tuple(range(len(found.at.shape)))[-len(own) :]:
                raise NotLocal("has its cells in another order")
            sizes = {label: math.prod(found.at.shape[dim] for dim in dims) for label, dims in of.items()}
            shape = (1, *(sizes.get(label, 1) for label in wide), *sides[0])
            over = None if found.over is None else self._reshaped(found.over, _reduced(shape, found.over))
            laid_out.append((self._reshaped(found.at, shape), over))
        product = self._product(laid_out[0][0], laid_out[1][0])
        total = self._summed(product, range(len(product.shape) - len(sides[0]), len(product.shape)))
        for _, over in laid_out:
            total = self._divided(total, over)
        self._put(node, total)

    def _cell_by_cell(self, node: Node, given: Mapping[str, Any]) -> None:
        operands = list(refs((node.args, node.kwargs)))
        if len(operands) == 1 or not any(i in self._known for i in operands):
            return self._elementwise(node, operands)
        if node.op != "mul" or len(operands) != 2:
            raise NotLocal("meets flattened cells in another way than a product")
        left, right = (self._on_grid(i) for i in operands)
        pairs = list(zip(left.dims, right.dims, strict=False))
        alike = len(left.dims) == len(right.dims) and all(a == b or not (a and b) for a, b in pairs)
        if not alike or len(left.at.shape) != len(right.at.shape):
            raise NotLocal("meets other cells")
        both = [over for over in (left.over, right.over) if over is not None]
        if len(both) == 2:
            raise NotLocal("two quotients")
        product = self._product(left.at, right.at)
        cells = left.cells | right.cells
        dims = tuple(a or b for a, b in pairs)
        self._note(node, _OnGrid(product, dims, both[0] if both else None, cells))

    def _elementwise(self, node: Node, operands: Sequence[int]) -> None:
        """A function of each element."""
        if len(operands) != 1 or operands[0] not in self._known:
            raise NotLocal("meets no flattened cells")
        found = self._known[operands[0]]
        source = self._divided(found.at, found.over)
        args = tuple(Ref(source.index) if isinstance(arg, Ref) else arg for arg in node.args)
        assert node.target is not None
        made = self._add(node.op, node.target, source.shape, *args)
        self._note(node, _OnGrid(made, found.dims, cells=found.cells))


_RULES: dict[str, Callable[[_Gridding, Node, Mapping[str, Any]], None]] = {
    "reshape": _Gridding._reshape,
    "permute": _Gridding._permute,
    "transpose": _Gridding._permute,
    "unsqueeze": _Gridding._unsqueeze,
    "softmax": _Gridding._softmax,
    "sum": _Gridding._sum,
    "mean": _Gridding._sum,
    "matmul": _Gridding._matmul,
    "bmm": _Gridding._matmul,
    "einsum": _Gridding._einsum,
}


def _sizes(shape: Sequence[int]) -> list[Any]:
    return [Rows(1), *shape[1:]]


def _reduced(shape: Sequence[int], sums: Node) -> tuple[int, ...]:
    """A shape for sums over the cells of a value: 1 for every size, if they are one number."""
    if sums.numel() > 1:
        raise NotLocal("divides every channel by another sum")
    return (1,) * len(shape)


def _flat(found: _OnGrid, dims: Any) -> tuple[int, ...]:
    """The dimensions of the grid that some dimensions of a value are made of: those of all cells."""
    given = [dims] if isinstance(dims, int) else dims or []
    over = tuple(dim for each in given for dim in found.dims[each])
    if 0 in over or not found.cells or not found.cells <= set(over):
        raise NotLocal("leaves some cells")
    return over


def _regrouped(
    order: Sequence[int], before: Sequence[int], after: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Dimensions that are merged, or told apart again."""
    found: list[tuple[int, ...]] = []
    place = 0
    for n in after:
        mine: list[int] = []
        size = 1
        while size < n and place < len(order):
            if before[place] > 1:
                mine.append(order[place])
            size *= before[place]
            place += 1
        if size != n:
            raise NotLocal("rearranges cells")
        found.append(tuple(mine))
    if any(n > 1 for n in before[place:]):
        raise NotLocal("rearranges cells")
    return tuple(found)
