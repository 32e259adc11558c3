"""Some tokens of a batch of positions on their way from grid to grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from krypton_engine.executors.reference.nearby import convolved, is_by_channel, is_product
from krypton_engine.executors.reference.window_attention import Attended, KeptWindows
from krypton_engine.graph.box_operators import Convolution
from krypton_engine.graph.ir import Node
from krypton_engine.graph.tokens.grid_steps import (
    Cells,
    Each,
    Grids,
    Merged,
    Nearby,
    Pool,
    Step,
    Whole,
    WindowAttention,
    parents,
)

_SMALL = 0.25
"""Changes of a token by an attention that trimming by 1 takes for small on the last grid, in multiples of the
mean over all of its tokens; on grids of more tokens, so many times that as the square of their number. Of a
Swin of four grids on brain slices, trimmed by .3, a position takes 1, 3, 35 and 100 % of their tokens:
a third of the work, and a map keeps .993. Three times as much takes a quarter of the work and keeps .98, so
that twice as many positions have to be exact."""

_SMALL_AMONG_CONVOLUTIONS = 3.3
"""The same where convolutions lie between attentions, times the root of the ratio of the grids: changes
that a finer grid leaves out come back in every layer. Of a MaxViT, a CoAtNet and a MobileViT on three
brain slices each, trimmed by .3, a position takes a quarter to four tenths of the work, and eight of the nine
maps keep .91 to 1, one .71. Half as much again takes a seventh of a MaxViT's work, and one map keeps .50."""


@dataclass(frozen=True)
class GridExample:
    """The tokens on grids of the un-occluded input.

    Attributes:
        grids: The tokens of the graph.
        constant: Function that gives the value of a node that no position changes, for a number of copies.
        tables: By node of an operator and of a constant that differs from token to token: the constant as the
            operator's value holds it, by token and element.
        attentions: By node of the result.
        rows: By node, the rows of all tokens, and one of zeros, that other tokens or a sum is made of, or
            that meet what is computed of more tokens: ``(tokens + 1, elements)``.
        gradients: Gradients of the scalar by what is computed of near tokens, by node, as ``rows``.
        responses: By node of an operator and of a value without tokens that it meets: derivatives of the
            scalar by that value, by token that meets it, ``(tokens + 1, elements)``.
        wholes: The sums or means over all tokens, and what is made of them, by node; of one copy.
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
    gradients: Mapping[int, Tensor]
    responses: Mapping[tuple[int, int], Tensor]
    wholes: Mapping[int, Tensor]
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
        """Sums over tokens and what is made of them, by node.

        Args:
            start: The value whose cells are the first tokens: ``(copies, ...)``.
        """
        grids = self._example.grids
        for step, released in zip(grids.steps, grids.released, strict=True):
            if isinstance(step, Pool):
                self._ends[step.node.index] = self._pooled(step)
            elif isinstance(step, Whole):
                self._ends[step.node.index] = step.node.computed(self._whole, self._copies)
            else:
                self._rows[step.node.index] = self._computed(step, start)
            for index in released:
                self._rows.pop(index, None)
        return self._ends

    def _whole(self, index: int) -> Any:
        """A value without tokens, for every copy."""
        return self._ends[index] if index in self._ends else self._example.constant(index, self._copies)

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
        if isinstance(step, Nearby):
            return self._nearby(step)
        assert isinstance(step, WindowAttention)
        return self._attended(step)

    def _read(self, index: int) -> Tensor:
        """Elements of the computed tokens that a value holds: ``(copies, chosen, elements)``."""
        form = self._forms[index]
        return form.read(self._rows[form.root])

    def _each(self, step: Each) -> Tensor:
        node, example, chosen = step.node, self._example, self._chosen[step.grid]
        form = self._forms[node.index]
        operator = node.on_box
        if isinstance(operator, Convolution) and is_product(operator):
            near = self._read(node.operands[0]).flatten(0, 1)[:, None]
            return convolved(operator, near, example.constant).reshape(*chosen.shape, -1)

        def value(index: int) -> Any:
            if index in self._forms:
                return self._forms[index].spread(self._read(index).flatten(0, 1))
            if index in self._ends:
                return self._ends[index].repeat_interleave(chosen.shape[1], 0)
            table = example.tables.get((node.index, index))
            if table is None:
                return example.constant(index, 1)
            return form.spread(table[chosen].flatten(0, 1))

        if chosen.shape[1] < example.grids.sizes[step.grid]:
            for index in step.met:
                responses = example.responses[node.index, index]
                others = responses.sum(0, dtype=torch.float64) - responses[chosen].sum(1, dtype=torch.float64)
                change = self._ends[index].double() - example.wholes[index].double()
                self.dropped += (change.flatten(1) * others).sum(1)
        rows = form.gathered(node.computed(value))
        return rows.reshape(*chosen.shape, -1)

    def _attended(self, step: WindowAttention) -> Tensor:
        """An attention's result, of more tokens than ask where it changes others by much."""
        kept = self._example.attentions[step.node.index]
        heads, dtype = kept.q.shape[1], self._rows[self._forms[step.v].root].dtype
        q, k, v = (
            self._read(i).unflatten(-1, (heads, -1)).to(kept.q.dtype) for i in (step.q, step.k, step.v)
        )
        before = self._chosen[step.grid]
        attended = Attended(kept, q, k, v, before)
        if before.shape[1] < self._example.grids.sizes[step.grid]:
            size = attended.size
            others = size.scatter(1, before, -1.0)
            count = int((others > self._small(step.grid) * size.mean(1, keepdim=True)).sum(1).max())
            if count:
                self._choose(step, torch.cat([before, others.topk(count)[1]], 1).sort()[0])
            self.dropped += attended.effect(self._chosen[step.grid])
        return attended.results(self._chosen[step.grid]).flatten(2).to(dtype)

    def _nearby(self, step: Nearby) -> Tensor:
        """What is computed of near tokens: of all that change, or of those that change by much."""
        example, now = self._example, self._made_of(step)
        rows, copies = self._operated(step, now), torch.arange(self._copies, device=now.device)[:, None]
        size = example.grids.sizes[step.grid]
        if self._epsilon and now.shape[1] < size:
            change = rows - example.rows[step.node.index][now]
            gradient = example.gradients[step.node.index][now]
            effects = (change * gradient).sum(2).double()
            bounds = change.norm(dim=2) * gradient.norm(dim=2)
            large = bounds > self._small(step.grid) * bounds.sum(1, keepdim=True) / size
            certain = self._flags(step.grid).gather(1, now)
            most = max(1, int((large | certain).sum(1).max()))
            kept = bounds.masked_fill_(certain, torch.inf).topk(most)[1].sort()[0]
            self.dropped += effects.sum(1) - effects.gather(1, kept).sum(1)
            now, rows = now.gather(1, kept), rows[copies, kept]
        self._choose(step, now)
        return rows

    def _operated(self, step: Nearby, now: Tensor) -> Tensor:
        """Rows computed of near ones: by themselves where these are few, with all others elsewhere."""
        example, form, operator = self._example, self._forms[step.source], step.node.on_box
        few = now.shape[1] * step.parts.shape[1] < len(step.places)
        by_channel = is_by_channel(operator, len(form.picked)) and step.node.shape[1] == len(form.picked)
        if isinstance(operator, Convolution) and (is_product(operator) or (few and by_channel)):
            near = form.read(self._parts(step, now)).flatten(0, 1)
            return convolved(operator, near, example.constant).reshape(*now.shape, -1)
        known = example.rows[form.root].expand(self._copies, -1, -1)  # with the zeros of a padding
        chosen = self._chosen[step.below][..., None].expand(-1, -1, known.shape[2])
        cells = form.read(known.scatter(1, chosen, self._rows[form.root]))[:, step.places.to(now.device)]
        whole = cells.unflatten(1, example.grids.graph.nodes[step.source].shape[2:]).movedim(-1, 1)
        made = step.node.computed(
            lambda i: whole if i == step.source else example.constant(i, 1), self._copies
        )
        copies = torch.arange(self._copies, device=now.device)[:, None]
        found: Tensor = made.movedim(1, -1).flatten(1, -2)[copies, step.order.to(now.device)[now]]
        return found

    def _small(self, grid: int) -> float:
        """Changes that are small, in multiples of the mean over all tokens of a grid."""
        grids = self._example.grids
        ratio = grids.sizes[grid] / grids.sizes[-1]
        small = _SMALL_AMONG_CONVOLUTIONS * ratio**0.5 if grids.mixed else _SMALL * ratio**2
        return self._epsilon * small

    def _flags(self, grid: int) -> Tensor:
        """Whether tokens of a grid are computed: ``(copies, tokens)``."""
        device = self._chosen[0].device
        found = torch.zeros(self._copies, self._example.grids.sizes[grid], dtype=torch.bool, device=device)
        return found.scatter_(1, self._chosen[grid], True) if grid in self._chosen else found

    def _places(self, grid: int) -> Tensor:
        """The place of every token among those that are computed, -1 for others: ``(copies, tokens + 1)``."""
        chosen = self._chosen[grid]
        size = self._example.grids.sizes[grid]
        found = torch.full((self._copies, size + 1), -1, device=chosen.device)
        return found.scatter_(
            1, chosen, torch.arange(chosen.shape[1], device=chosen.device).expand_as(chosen)
        )

    def _choose(self, step: Nearby | WindowAttention, now: Tensor) -> None:
        """Compute these tokens of a grid from a step on, where some are computed: those and more."""
        before = self._chosen.get(step.grid)
        if before is not None and now.shape[1] > before.shape[1]:
            place = self._places(step.grid).gather(1, now)
            for index in self._example.grids.alive(step):
                self._rows[index] = self._found(index, place, now)
        self._chosen[step.grid] = now

    def _found(self, index: int, place: Tensor, tokens: Tensor) -> Tensor:
        """Rows of tokens: those computed at their places, for -1 those of the un-occluded input."""
        old, new = self._example.rows[index], self._rows[index]
        first = len(old) + torch.arange(self._copies, device=place.device) * new.shape[1]
        at = torch.where(place >= 0, place + first.view(-1, *[1] * (place.dim() - 1)), tokens % len(old))
        return torch.cat([old, new.flatten(0, 1)])[at]

    def _made_of(self, step: Merged | Nearby) -> Tensor:
        """Numbers of the tokens that change as those change which they are made of: ``(copies, count)``."""
        made_of = parents(step, self._flags(step.below)) | self._flags(step.grid)
        count = max(1, int(made_of.sum(1).max()))
        return made_of.to(torch.uint8).topk(count)[1].sort()[0]

    def _parts(self, step: Merged | Nearby, now: Tensor) -> Tensor:
        """The rows that tokens are made of: ``(copies, count, parts, elements)``."""
        parts = step.parts.to(now.device)[now]
        copies = torch.arange(self._copies, device=now.device)[:, None, None]
        place = self._places(step.below)[copies, parts]
        return self._found(self._forms[step.source].root, place, parts)

    def _merged(self, step: Merged) -> Tensor:
        """Rows put together from those at hand and those of the un-occluded input."""
        self._chosen[step.grid] = now = self._made_of(step)
        found = self._parts(step, now)
        return found.flatten(2)[..., torch.tensor(step.picked, device=found.device)]

    def _pooled(self, step: Pool) -> Tensor:
        form = self._forms[step.source]
        old = form.read(self._example.rows[form.root][self._chosen[step.grid]])
        change = (self._read(step.source) - old).sum(1) / step.divisor
        whole = self._example.wholes[step.node.index]
        return whole + change.reshape(self._copies, *whole.shape[1:])
