"""A session that computes some tokens exactly, and what those do to all others to the first order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import Flags, Floats, IntArray
from krypton_engine.executors.base import Computed, Session, Unsupported, Walks
from krypton_engine.executors.reference.choice import counts
from krypton_engine.executors.tail import Tail
from krypton_engine.graph.boxes import propagate
from krypton_engine.graph.gradients import Head
from krypton_engine.graph.ir import Graph, Node
from krypton_engine.perturbation.windows import Contents, contents_of
from krypton_engine.plan.measured import Costs

LARGEST_BATCH = 32
"""Positions computed together: products gain little beyond."""

_MOST_ALIKE = 1.3
"""Patches of a position, in multiples of those of another beside it, which takes as many then."""


class Example(Protocol):
    """The tokens of the un-occluded input."""

    @property
    def start(self) -> Node:
        """The value whose cells become tokens, in C order."""

    @property
    def output(self) -> Tensor:
        """Output of the model, ``(1, *output_shape)``."""

    @property
    def constant(self) -> Callable[[int, int], Any]:
        """Function that gives the value of a node that no position changes, for a number of copies."""

    def effects(self, touched: Tensor) -> Tensor:
        """Bounds of the effect that touched tokens have on the scalar by way of each: ``(copies, tokens)``.

        Args:
            touched: Whether tokens are touched: ``(copies, tokens)``.
        """

    def ends(self, start: Tensor, chosen: Tensor, epsilon: float) -> tuple[Mapping[int, Tensor], Tensor]:
        """Values that are left where tokens end, by node, and the first-order effect of what was left out.

        Args:
            start: The value whose cells become tokens: ``(copies, ...)``.
            chosen: Numbers of the tokens that are computed, rising: ``(copies, count)``.
            epsilon: Effects that are small where tokens are chosen again on the way; see `counts`.

        Returns:
            Values ``(copies, ...)``, and effects ``(copies,)``, float64.
        """


class TokenSession:
    """The tokens of one example; see `krypton_engine.executors.base.Session`.

    Args:
        before: The graph up to where tokens begin.
        front: A session on that, whose outputs they begin with.
        tail: The part of the graph after tokens end.
        example: The tokens of the un-occluded input.
        fitting: Positions that the memory holds together, by the number of patches of each.
        epsilon: Threshold of trimming; see `trimmed`.

    Examples:
        >>> from krypton_engine.executors.base import Opening
        >>> from krypton_engine.executors.reference.tokens import TokenProgram
        >>> from krypton_engine.planning.cache import Source, capture
        >>> head, program = lambda outputs: outputs[:, 0], TokenProgram(capture(Source(vit, (x,))))
        >>> from krypton_engine.executors.reference.program import ReferenceProgram
        >>> opening = Opening((x,), torch.zeros(1), 2**30, head)
        >>> session = program.open(plan.window, opening, lambda graph, _: ReferenceProgram(graph))
        >>> exact = next(session.compute(plan.window.boxes(np.array([0, 7]))))
        >>> exact.outputs.shape, bool(exact.dropped.any())
        (torch.Size([2, 8]), False)
        >>> trimmed = next(session.trimmed(0.5, head).compute(plan.window.boxes(np.array([0, 7]))))
        >>> bool(trimmed.dropped.all())  # the effect on patches that were not computed
        True
    """

    at_once = 1
    executor = "reference, on tokens"

    def __init__(
        self,
        before: Graph,
        front: Session,
        tail: Tail,
        example: Example,
        fitting: Callable[[int], int],
        epsilon: float = 0.0,
    ) -> None:
        self.window, self.changed, self.base = front.window, front.changed, example.output
        self.costs: Costs | None = None
        self._before, self._front, self._tail = before, front, tail
        self._example, self._fitting, self._epsilon = example, fitting, epsilon

    most_walks = 0

    def walks(self, starts: Sequence[Tensor | None]) -> Walks:
        """See `krypton_engine.executors.base.Session.walks`.

        Raises:
            Unsupported: In any case.
        """
        raise Unsupported("a session on tokens has no walks")

    def compute(
        self, changes: IntArray, limit: int | None = None, contents: Contents | None = None
    ) -> Iterator[Computed]:
        """Outputs batch by batch; positions that need as many patches run together.

        See `krypton_engine.executors.base.Session.compute`.
        """
        first = self._first(self._touched(changes))
        many = counts(first, self._epsilon).cpu().numpy()
        order = np.argsort(many, kind="stable")
        start = 0
        while start < len(order):
            alike = many[order] <= _MOST_ALIKE * many[order[start]]
            fitting = self._fitting(int(many[order[alike]][-1]))
            size = fitting if limit is None else min(limit, fitting)
            members = order[start : min(start + size, int(alike.sum()))]
            start += len(members)
            most = first[torch.from_numpy(members).to(first.device)].topk(int(many[members[-1]]))[1]
            begun, before = self._start(changes[members], contents_of(contents, members))
            ends, dropped = self._example.ends(begun, most.sort()[0], self._epsilon)
            outputs = self._tail.run(ends, len(members), self._example.constant)
            yield Computed(members, outputs, dropped.cpu().numpy() + before)

    def trimmed(self, epsilon: float, head: Head) -> TokenSession:
        """A session that computes fewer patches: those that a window touches, and the most important others.

        Important are those over which what is touched has an effect on the scalar, of which there is a bound,
        large beside the root mean square of all these effects; see
        `krypton_engine.executors.reference.choice.counts`.
        """
        before, front = self._before, self._front
        return TokenSession(before, front, self._tail, self._example, self._fitting, epsilon)

    def _touched(self, changes: IntArray) -> Flags:
        """Whether changes reach patches: ``(changes, patches)``."""
        start = self._example.start
        found = np.ones((len(changes), 1), dtype=bool)
        for axis in start.axes:
            lo, hi = propagate(self._before, axis, changes[:, axis, 0], changes[:, axis, 1])[start.index]
            cells = np.arange(start.size(axis))
            along = (cells >= lo[:, None]) & (cells < hi[:, None])
            found = (found[:, :, None] & along[:, None, :]).reshape(len(changes), -1)
        return found

    def _first(self, touched: Flags) -> Tensor:
        """Bounds of the effect that touched patches have over every other one: ``(changes, patches)``.

        That of a touched patch itself is infinite.
        """
        mask = torch.from_numpy(touched).to(self._example.output.device)
        return self._example.effects(mask).masked_fill_(mask, math.inf)

    def _start(self, changes: IntArray, contents: Contents | None) -> tuple[Tensor, Floats]:
        """The value that tokens begin with, ``(changes, ...)``, and the effect of what is left out of it."""
        parts, dropped = list(self._front.compute(changes, None, contents)), np.zeros(len(changes))
        for part in parts:
            if part.dropped is not None:
                dropped[part.which] = part.dropped
        outputs = parts[0].outputs if len(parts) == 1 else torch.cat([part.outputs for part in parts])
        which = np.concatenate([part.which for part in parts])
        if (which[1:] > which[:-1]).all():
            return outputs, dropped
        return outputs[torch.from_numpy(np.argsort(which)).to(outputs.device)], dropped
