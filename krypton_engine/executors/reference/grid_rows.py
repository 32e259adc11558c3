"""Some tokens of a batch of positions on their way from grid to grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from krypton_engine.executors.reference.window_attention import Attended, KeptWindows
from krypton_engine.graph.ir import Node
from krypton_engine.graph.tokens.grid_steps import (
    Cells,
    Each,
    Grids,
    Merged,
    Pool,
    Step,
    WindowAttention,
    parents,
)

_SMALL = 0.25
"""Changes of a token by an attention that trimming by 1 takes for small on the last grid, in multiples of the
mean over all of its tokens; on grids of more tokens, so many times that as the square of their number. Of a
Swin of four grids on brain slices, trimmed by .3, a position takes 1, 3, 35 and 100 % of their tokens:
a third of the work, and a map keeps .993. Three times as much takes a quarter of the work and keeps .98, so
that twice as many positions have to be exact."""


@dataclass(frozen=True)
class GridExample:
    """The tokens on grids of the un-occluded input.

    Attributes:
        grids: The tokens of the graph.
        constant: Function that gives the value of a node that no position changes, for a number of copies.
        tables: By node of an operator and of a constant that differs from token to token: the constant as the
            operator's value holds it, by token and element.
        attentions: By node of the result.
        rows: By node, the rows of all tokens, and one of zeros, that a coarser grid or a sum is made of, or
            that meet an attention's result: ``(tokens + 1, elements)``.
        sums: The sums or means over all tokens, by node; of one copy.
        output: Output of the model, ``(1, *output_shape)``.

    Examples:
        >>> grid_example.start.op, grid_example.effects(torch.ones(1, 120)).any()
        ('relu', tensor(False))
        >>> start, all_tokens = torch.rand(1, 8, 12, 10), torch.arange(120)[None]
        >>> ends, dropped = grid_example.ends(start, all_tokens, epsilon=0.0)
        >>> torch.allclose(ends[14], start.mean((2, 3)), atol=1e-6), dropped
        (True, tensor([0.], dtype=torch.float64))
    """

    grids: Grids
    constant: Callable[[int, int], Any]
    tables: Mapping[tuple[int, int], Tensor]
    attentions: Mapping[int, KeptWindows]
    rows: Mapping[int, Tensor]
    sums: Mapping[int, Tensor]
    output: Tensor

    @property
    def start(self) -> Node:
        """The value whose cells become tokens."""
        return self.grids.start

    def effects(self, touched: Tensor) -> Tensor:
        """See `krypton_engine.executors.reference.token_session.Example`; others are chosen on the way."""
        return torch.zeros(touched.shape, device=touched.device)

    def ends(self, start: Tensor, chosen: Tensor, epsilon: float) -> tuple[Mapping[int, Tensor], Tensor]:
        """See `krypton_engine.executors.reference.token_session.Example`."""
        rows = GridRows(self, chosen, epsilon)
        return rows.ends(start), rows.dropped


class GridRows:
    """Tokens of a batch of positions.

    Args:
        example: The tokens of the un-occluded input.
        chosen: Numbers of the first grid's tokens that are computed, rising: ``(copies, count)``.
        epsilon: Changes that are small; see ``_SMALL``.

    Attributes:
        dropped: First-order effect of what the tokens did to all others so far: ``(copies,)``, float64.

    Examples:
        >>> rows = GridRows(grid_example, torch.tensor([[0, 1]]), epsilon=0.0)  # two of 120 tokens
        >>> rows.ends(torch.zeros(1, 8, 12, 10))[14].unique()  # the others stay 1
        tensor([0.9833])
        >>> rows.dropped
        tensor([0.], dtype=torch.float64)
    """

    def __init__(self, example: GridExample, chosen: Tensor, epsilon: float) -> None:
        self._example, self._epsilon = example, epsilon
        self._forms = example.grids.values
        self._chosen = {0: chosen}
        self._copies = len(chosen)
        self._rows: dict[int, Tensor] = {}
        self._ends: dict[int, Tensor] = {}
        self.dropped = torch.zeros(self._copies, dtype=torch.float64, device=chosen.device)

    def ends(self, start: Tensor) -> Mapping[int, Tensor]:
        """Sums over tokens, by node.

        Args:
            start: The value whose cells are the first tokens: ``(copies, ...)``.
        """
        grids = self._example.grids
        for step, released in zip(grids.steps, grids.released, strict=True):
            if isinstance(step, Pool):
                self._ends[step.node.index] = self._pooled(step)
            else:
                self._rows[step.node.index] = self._computed(step, start)
            for index in released:
                self._rows.pop(index, None)
        return self._ends

    def _computed(self, step: Step, start: Tensor) -> Tensor:
        """The rows of a step's result: ``(copies, chosen, elements)``."""
        if isinstance(step, Cells):
            along = [dim for dim, role in enumerate(step.node.roles) if role in step.node.axes]
            cells = start.movedim(along, tuple(range(1, 1 + len(along)))).flatten(1, len(along))
            copies = torch.arange(self._copies, device=start.device)[:, None]
            return cells[copies, self._chosen[0]].flatten(2)
        if isinstance(step, Each):
            return self._each(step)
        if isinstance(step, Merged):
            return self._merged(step)
        assert isinstance(step, WindowAttention)
        return self._attended(step)

    def _read(self, index: int) -> Tensor:
        """Elements of the computed tokens that a value holds: ``(copies, chosen, elements)``."""
        form = self._forms[index]
        return form.read(self._rows[form.root])

    def _each(self, step: Each) -> Tensor:
        node, example = step.node, self._example
        form = self._forms[node.index]

        def value(index: int) -> Any:
            if index in self._forms:
                return self._forms[index].spread(self._read(index).flatten(0, 1))
            table = example.tables.get((node.index, index))
            if table is None:
                return example.constant(index, 1)
            return form.spread(table[self._chosen[step.grid]].flatten(0, 1))

        rows = form.gathered(node.computed(value))
        return rows.reshape(self._copies, -1, rows.shape[1])

    def _attended(self, step: WindowAttention) -> Tensor:
        """An attention's result, of more tokens than ask where it changes others by much."""
        kept = self._example.attentions[step.node.index]
        heads, dtype = kept.q.shape[1], self._rows[self._forms[step.v].root].dtype
        q, k, v = (
            self._read(i).unflatten(-1, (heads, -1)).to(kept.q.dtype) for i in (step.q, step.k, step.v)
        )
        attended = Attended(kept, q, k, v, self._chosen[step.grid])
        if self._chosen[step.grid].shape[1] < self._example.grids.sizes[step.grid]:
            self._grow(step, attended.size)
            self.dropped += attended.effect(self._chosen[step.grid])
        return attended.results(self._chosen[step.grid]).flatten(2).to(dtype)

    def _grow(self, step: WindowAttention, size: Tensor) -> None:
        """Compute more tokens from here on, those with a large share in all changes.

        Args:
            step: The attention that changes them.
            size: Sizes of the changes, by token: ``(copies, tokens)``.
        """
        before = self._chosen[step.grid]
        others = size.scatter(1, before, -1.0)
        sizes = self._example.grids.sizes
        small = _SMALL * self._epsilon * (sizes[step.grid] / sizes[-1]) ** 2
        large = small * size.mean(1, keepdim=True)
        count = int((others > large).sum(1).max())
        if not count:
            return
        new = others.topk(count)[1]
        now, order = torch.cat([before, new], 1).sort(1)
        self._chosen[step.grid] = now
        for index in self._example.grids.alive(step):
            rows = torch.cat([self._rows[index], self._example.rows[index][new]], 1)
            self._rows[index] = rows.gather(1, order[..., None].expand(-1, -1, rows.shape[-1]))

    def _merged(self, step: Merged) -> Tensor:
        """Rows put together from those at hand and those of the un-occluded input."""
        example, size = self._example, self._example.grids.sizes[step.grid - 1]
        before = self._chosen[step.grid - 1]
        touched = torch.zeros(self._copies, size, dtype=torch.bool, device=before.device)
        made_of = parents(step, touched.scatter_(1, before, True))
        now = made_of.to(torch.uint8).topk(int(made_of.sum(1).max()))[1].sort()[0]
        self._chosen[step.grid] = now
        known = torch.full((self._copies, size + 1), -1, device=before.device)
        known.scatter_(1, before, torch.arange(before.shape[1], device=before.device).expand_as(before))
        parts = step.parts.to(now.device)[now]
        copies = torch.arange(self._copies, device=before.device)[:, None, None]
        place = known[copies, parts]
        old, new = example.rows[step.source], self._rows[step.source]
        found = torch.where(place[..., None] >= 0, new[copies, place], old[parts])
        return found.flatten(2)[..., torch.tensor(step.picked, device=found.device)]

    def _pooled(self, step: Pool) -> Tensor:
        form = self._forms[step.source]
        old = form.read(self._example.rows[form.root][self._chosen[step.grid]])
        change = (self._read(step.source) - old).sum(1) / step.divisor
        whole = self._example.sums[step.node.index]
        return whole + change.reshape(self._copies, *whole.shape[1:])
