"""Graphs with tokens in their parts, and the opening of a session on one example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from krypton_engine.common.figures import mebibytes
from krypton_engine.errors import InputError
from krypton_engine.executors.base import Opening, Program, Unsupported
from krypton_engine.executors.reference.token_session import LARGEST_BATCH, Example, TokenSession
from krypton_engine.executors.tail import Tail, unchanging, weights_of
from krypton_engine.graph.gradients import first_order
from krypton_engine.graph.ir import Graph, Node
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.plan import Plan

MakeProgram = Callable[[Graph, Plan], Program]
"""A function that gives the program of a graph and its plan: that of the executor which suits them."""

MakeExample = Callable[[Callable[[int, int], Any], Mapping[int, Tensor]], Example]
"""A function from constants, for a number of copies, and gradients by node to the tokens of an example."""


class TokenParts:
    """A graph before its tokens begin, with its tokens, and after they end.

    Args:
        graph: The graph.
        start: The value whose cells become tokens.
        inner: The graph that computes the tokens: the same, or one that is written otherwise.
        after: Its nodes after tokens end.
        attentions: Nodes by whose values an example has the scalar's gradients, beside ``start``.

    Attributes:
        before: The graph up to ``start``.

    Examples:
        >>> parts = TokenParts(graph, graph.nodes[11], graph, graph.nodes[12:], attentions=[])
        >>> parts.before.nodes[-1].op
        'relu'
        >>> opening = Opening((x,), torch.zeros(1), memory_budget=2**22)
        >>> parts.open(plan.window, opening, None, 2**20, lambda some: some * 2**20, most=120, example=None)
        Traceback (most recent call last):
        krypton_engine.errors.InputError: memory_budget is 4 MiB, the tokens of this model take 1 MiB ...
    """

    def __init__(
        self, graph: Graph, start: Node, inner: Graph, after: Sequence[Node], attentions: Sequence[Node]
    ) -> None:
        self.before = replace(graph, nodes=graph.nodes[: start.index + 1], output=start.index)
        self._graph, self._inner = graph, inner
        self._attentions = [node.index for node in attentions]
        self._start = start.index
        self._constants = weights_of(inner)
        self._tail = Tail(inner, after)

    def open(
        self,
        window: SlidingWindow,
        opening: Opening,
        program: MakeProgram,
        held: int,
        needed: Callable[[int], int],
        most: int,
        example: MakeExample,
    ) -> TokenSession:
        """A session on the tokens of one example.

        Args:
            window: The sliding window.
            opening: The example, a budget and a scalar.
            program: Function that gives the program of the part before tokens.
            held: Bytes of what is kept of the un-occluded input.
            needed: Bytes of one position, by the number of tokens that are computed.
            most: The number of all tokens.
            example: Function that makes the example.

        Raises:
            InputError: The budget does not hold the gradients, or what is kept and one position.
            Unsupported: The scalar has no gradient.
        """
        plan = Plan.of(self.before, window)
        free = opening.memory_budget - held
        if free < needed(most):
            raise InputError(
                "memory_budget",
                mebibytes(opening.memory_budget),
                problem=(
                    f"the tokens of this model take {mebibytes(held)} for what is kept of them and "
                    f"{mebibytes(needed(most))} for one position"
                ),
            )
        assert opening.head is not None
        wanted = {*self._attentions, self._start}
        effects = first_order(self._graph, opening.inputs, wanted, opening.head, free)
        if not effects:
            raise Unsupported("the target has no gradient here")
        gradients = {node: gradient for node, (_, gradient) in effects.items()}
        by_start = gradients[self._start]

        def towards(start: Tensor) -> Tensor:
            return (start * by_start.to(start)).flatten(1).sum(1)

        front = program(self.before, plan).open(plan, replace(opening, memory_budget=free, head=towards))
        constant = unchanging(self._inner, opening.inputs, self._constants)

        def fitting(tokens: int) -> int:
            return max(1, min(LARGEST_BATCH, (free - plan.bytes_views) // needed(tokens)))

        return TokenSession(self.before, front, self._tail, example(constant, gradients), fitting)
