"""A session that computes some tokens exactly, and what those do to all others to the first order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import Flags, IntArray
from krypton_engine.executors.base import Computed, Session
from krypton_engine.executors.reference.token_rows import Example, Rows
from krypton_engine.executors.tail import Tail
from krypton_engine.graph.boxes import propagate
from krypton_engine.graph.gradients import Head
from krypton_engine.graph.ir import Graph
from krypton_engine.graph.tokens.steps import Tokens
from krypton_engine.plan.measured import Costs

_EFFECT = 7.0
"""Effects over a patch that trimming by 1 takes for small, in multiples of what is usual. A DINOv2 trimmed by
.3 computes 16 of 256 patches beside those that a window touches, in a tenth of the time, and keeps .93 to
.99."""

_MOST_ALIKE = 1.3
"""Patches of a position, in multiples of those of another beside it, which takes as many then."""


class TokenSession:
    """The tokens of one example; see `krypton_engine.executors.base.Session`.

    Args:
        tokens: The tokens of the graph.
        before: The graph up to where they begin.
        front: A session on that, whose outputs they begin with.
        tail: What follows where they end.
        example: The tokens of the un-occluded input.
        fitting: Positions that the memory holds together, by the number of patches of each.
        epsilon: What is trimmed; see `trimmed`.
    """

    at_once = 1
    executor = "reference, on tokens"

    def __init__(
        self,
        tokens: Tokens,
        before: Graph,
        front: Session,
        tail: Tail,
        example: Example,
        fitting: Callable[[int], int],
        epsilon: float = 0.0,
    ) -> None:
        self.window, self.changed, self.base = front.window, front.changed, example.output
        self.costs: Costs | None = None
        self._tokens, self._before, self._front, self._tail = tokens, before, front, tail
        self._example, self._fitting, self._epsilon = example, fitting, epsilon

    def compute(self, changes: IntArray, limit: int | None = None) -> Iterator[Computed]:
        """Outputs batch by batch; positions that need as many patches run together.

        See `krypton_engine.executors.base.Session.compute`.
        """
        first = self._first(self._touched(changes))
        counts = _counts(first, self._epsilon).cpu().numpy()
        order = np.argsort(counts, kind="stable")
        start = 0
        while start < len(order):
            alike = counts[order] <= _MOST_ALIKE * counts[order[start]]
            fitting = self._fitting(int(counts[order[alike]][-1]))
            size = fitting if limit is None else min(limit, fitting)
            members = order[start : min(start + size, int(alike.sum()))]
            start += len(members)
            most = first[torch.from_numpy(members).to(first.device)].topk(int(counts[members[-1]]))[1]
            rows = Rows(self._tokens, self._example, most.sort()[0])
            ends = rows.ends(self._start(changes[members]))
            outputs = self._tail.run(ends, len(members), self._example.constant)
            yield Computed(members, outputs, rows.dropped.cpu().numpy())

    def trimmed(self, epsilon: float, head: Head) -> TokenSession:
        """A session that computes fewer patches: those that a window touches, and the most important others.

        Important are those over which what is touched has an effect on the scalar, of which there is a bound,
        above `_EFFECT` times ``epsilon``, in multiples of the root mean square of all these effects.
        """
        tokens, before, front = self._tokens, self._before, self._front
        return TokenSession(tokens, before, front, self._tail, self._example, self._fitting, epsilon)

    def _touched(self, changes: IntArray) -> Flags:
        """Whether changes reach patches: ``(changes, patches)``."""
        start = self._tokens.start
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
        influence = self._example.influence
        mask = torch.from_numpy(touched).to(influence.device)
        return (mask.to(influence.dtype) @ influence.T).masked_fill_(mask, math.inf)

    def _start(self, changes: IntArray) -> Tensor:
        """The value that tokens begin with: ``(changes, ...)``."""
        parts = list(self._front.compute(changes))
        outputs = parts[0].outputs if len(parts) == 1 else torch.cat([part.outputs for part in parts])
        which = np.concatenate([part.which for part in parts])
        if (which[1:] > which[:-1]).all():
            return outputs
        return outputs[torch.from_numpy(np.argsort(which)).to(outputs.device)]


def _counts(effects: Tensor, epsilon: float) -> Tensor:
    """How many patches to compute: those with an effect that is large beside what is usual.

    Args:
        effects: By change and patch, infinite where the patch is computed in any case.
        epsilon: Effects up to `_EFFECT` times this, in multiples of the root mean square of the finite ones,
            are small; 0 if none is.

    Returns:
        ``(changes,)``, int64.

    Examples:
        >>> effects = torch.tensor([[1.0, torch.inf, 3.0, 0.5], [torch.inf, 1.0, 1.0, 1.0]])
        >>> [_counts(effects, epsilon).tolist() for epsilon in (0.0, 0.05, 0.2)]
        [[4, 4], [3, 4], [2, 1]]
    """
    if not epsilon:
        return torch.full_like(effects[:, 0], effects.shape[1]).long()
    certain = effects.isinf()
    finite = effects.double().masked_fill(certain, 0.0)
    usual = finite.norm(dim=1, keepdim=True) / (~certain).sum(1, keepdim=True).clamp_min(1).sqrt()
    counts: Tensor = certain.sum(1) + (finite > _EFFECT * epsilon * usual).sum(1)
    return counts
