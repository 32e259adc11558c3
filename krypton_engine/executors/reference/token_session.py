"""A session that computes some tokens exactly, and what those do to all others to the first order."""

from __future__ import annotations

import math
from collections.abc import Iterator

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


class TokenSession:
    """The tokens of one example; see `krypton_engine.executors.base.Session`.

    Args:
        tokens: The tokens of the graph.
        before: The graph up to where they begin.
        front: A session on that, whose outputs they begin with.
        tail: What follows where they end.
        example: The tokens of the un-occluded input.
        batch: Positions computed together.
        important: Patches computed beside those that a window touches.
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
        batch: int,
        important: int,
    ) -> None:
        self.window, self.changed, self.base = front.window, front.changed, example.output
        self.costs: Costs | None = None
        self._tokens, self._before, self._front, self._tail = tokens, before, front, tail
        self._example, self._batch, self._important = example, batch, important

    def compute(self, changes: IntArray, limit: int | None = None) -> Iterator[Computed]:
        """Outputs batch by batch; positions that touch as many patches run together.

        See `krypton_engine.executors.base.Session.compute`.
        """
        batch = self._batch if limit is None else min(limit, self._batch)
        touched = self._touched(changes)
        order = np.argsort(touched.sum(1), kind="stable")
        for start in range(0, len(order), batch):
            members = order[start : start + batch]
            rows = Rows(self._tokens, self._example, self._patches(touched[members]))
            ends = rows.ends(self._start(changes[members]))
            outputs = self._tail.run(ends, len(members), self._example.constant)
            yield Computed(members, outputs, rows.dropped.cpu().numpy())

    def trimmed(self, epsilon: float, head: Head) -> TokenSession:
        """Itself: no token is dropped for how little it changes."""
        return self

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

    def _patches(self, touched: Flags) -> Tensor:
        """Numbers of the patches to compute, rising: ``(changes, count)``.

        They are those that are touched and those by way of which these have most effect. A position that
        touches fewer than another beside it has more of the second kind.
        """
        influence = self._example.influence
        count = min(self._tokens.patches, int(touched.sum(1).max()) + self._important)
        mask = torch.from_numpy(touched).to(influence.device)
        first = (mask.to(influence.dtype) @ influence.T).masked_fill_(mask, math.inf)
        return first.topk(count)[1].sort()[0]

    def _start(self, changes: IntArray) -> Tensor:
        """The value that tokens begin with: ``(changes, ...)``."""
        parts = list(self._front.compute(changes))
        outputs = parts[0].outputs if len(parts) == 1 else torch.cat([part.outputs for part in parts])
        which = np.concatenate([part.which for part in parts])
        if (which[1:] > which[:-1]).all():
            return outputs
        return outputs[torch.from_numpy(np.argsort(which)).to(outputs.device)]
