"""Products of two values of tokens: the scores of queries and keys, and the mean of values by weights."""

from __future__ import annotations

from dataclasses import dataclass

from krypton_engine.graph.ir import Node, refs

_PRODUCTS = {"matmul", "bmm"}


@dataclass(frozen=True)
class Product:
    """A product of matrices, by the last two dimensions of two values.

    Attributes:
        left: Node of the left value.
        right: Node of the right value.
        transposed: Whether the right value's rows are the product's columns, so that it is transposed.
    """

    left: int
    right: int
    transposed: bool


def product_of(node: Node) -> Product | None:
    """The product that an operator of two values is, if it is one.

    Examples:
        >>> from krypton_engine.graph.ir import Ref
        >>> shape, args = (1, 3, 4, 4), ("bhid,bhjd->bhij", [Ref(6), Ref(7)])
        >>> product_of(Node(8, "scores", "einsum", shape, (-1, None, None, None), None, None, args))
        Product(left=6, right=7, transposed=True)
    """
    if len(list(refs(node.args))) != 2:
        return None
    left, right = refs(node.args)
    if node.op in _PRODUCTS:
        return Product(left, right, transposed=False)
    if node.op != "einsum":
        return None
    mine, theirs, made = node.args[0].replace(" ", "").replace("->", ",").split(",")
    batch, (row, inner) = mine[:-2], mine[-2:]
    column = made[-1]
    if len({*batch, row, inner, column}) < len(mine) + 1 or made != batch + row + column:
        return None
    if theirs not in (batch + inner + column, batch + column + inner):
        return None
    return Product(left, right, transposed=theirs[-1] == inner)
