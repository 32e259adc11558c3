"""An attention that is written out: products of queries and keys on their way to the weights of values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from krypton_engine.graph.ir import Graph, Node, Ref
from krypton_engine.graph.tokens.steps import NoTokens

SOFTMAX = {"softmax", "_softmax"}
"""Operators that make weights of scores."""

ONLY_COPIED = {"_to_copy", "to", "clone", "contiguous"}
"""Operators that leave numbers what they are."""


@dataclass(frozen=True)
class Scores:
    """Scores of all tokens for all: ``scale * q k^T + biases``, or the weights that a softmax made of them.

    Attributes:
        q: Node of the queries.
        k: Node of the keys, channels before tokens.
        scale: Factor of the products.
        biases: Constants, by node, each with a factor.
        weights: Whether a softmax has made weights of them.
    """

    q: int
    k: int
    scale: float = 1.0
    biases: tuple[tuple[int, float], ...] = ()
    weights: bool = False

    def after(self, node: Node, graph: Graph) -> Scores:
        """The scores after ``node``, whose first operand they are.

        Raises:
            NoTokens: The node does something else than to scale or bias scores, or to take the softmax.

        Examples:
            >>> halved = Node(2, "halved", "mul", (1, 4, 4), (-1, None, None), None, args=(Ref(1), 0.5))
            >>> Scores(q=6, k=7, scale=0.5).after(halved, graph).scale
            0.25
        """
        other = node.args[1] if len(node.args) > 1 else None
        number = _number(other, graph)
        if node.op in ONLY_COPIED:
            return self
        if not self.weights:
            if node.op in SOFTMAX and other in (-1, len(node.shape) - 1):
                return replace(self, weights=True)
            if node.op in ("mul", "div") and number is not None:
                factor = number if node.op == "mul" else 1 / number
                biases = tuple((bias, each * factor) for bias, each in self.biases)
                return replace(self, scale=self.scale * factor, biases=biases)
            constant = isinstance(other, Ref) and not graph.nodes[other.node].depends
            if node.op == "add" and isinstance(other, Ref) and constant and node.kwargs.get("alpha", 1) == 1:
                return replace(self, biases=(*self.biases, (other.node, 1.0)))
        raise NoTokens(f"{node.op} does something else to an attention's scores than to scale or bias them")


def _number(item: object, graph: Graph) -> float | None:
    """A number, or a constant of one element."""
    if isinstance(item, (int, float)):
        return float(item)
    value = graph.nodes[item.node].value if isinstance(item, Ref) else None
    return float(value) if value is not None and value.numel() == 1 else None
