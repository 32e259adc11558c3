"""The changed tokens of a batch of positions, computed from the patches to the last value of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from krypton_engine.executors.reference.attention import Kept, attended, effect
from krypton_engine.graph.box_operators import Apply
from krypton_engine.graph.ir import BATCH, Node, resolve
from krypton_engine.graph.tokens.steps import (
    TOKENS,
    Attention,
    Begin,
    Layout,
    Narrow,
    PerToken,
    Pick,
    Step,
    Tokens,
)


@dataclass(frozen=True)
class Example:
    """The tokens of the un-occluded input.

    Attributes:
        tokens: Tokens of the graph.
        constant: Function that gives the value of a node that no position changes, for a number of copies.
        attentions: Attentions by node of the result.
        values: Values of tokens whose sum is taken, and the sums or means, by node; of one copy.
        influence: Bound of the effect of a patch (second dimension) on the scalar by way of another (first):
            ``(patches, patches)``.
        output: Output of the model, ``(1, *output_shape)``.

    Examples:
        >>> token_example.start.shape, token_example.effects(torch.eye(30)).shape
        ((1, 8, 6, 5), torch.Size([30, 30]))
        >>> start, all_patches = vit.patches(2 * x), torch.arange(30)[None]
        >>> ends, dropped = token_example.ends(start, all_patches, epsilon=0.0)
        >>> (mean,) = token_example.tokens.pooled
        >>> torch.allclose(ends[mean.node.index], vit(2 * x), atol=1e-4), dropped.any()
        (True, tensor(False))
    """

    tokens: Tokens
    constant: Callable[[int, int], Any]
    attentions: Mapping[int, Kept]
    values: Mapping[int, Tensor]
    influence: Tensor
    output: Tensor

    @property
    def start(self) -> Node:
        """The value whose cells become patches."""
        return self.tokens.start

    def effects(self, touched: Tensor) -> Tensor:
        """See `krypton_engine.executors.reference.token_session.Example`."""
        return touched.to(self.influence.dtype) @ self.influence.T

    def ends(self, start: Tensor, chosen: Tensor, epsilon: float) -> tuple[Mapping[int, Tensor], Tensor]:
        """See `krypton_engine.executors.reference.token_session.Example`; patches are chosen once for all."""
        rows = Rows(self, chosen)
        return rows.ends(start), rows.dropped


def by_head(value: Tensor, copies: int, *, transposed: bool = False) -> Tensor:
    """Queries, keys or values as ``(H, copies, tokens, channels)``, in single precision at least.

    Args:
        value: ``(copies and heads ..., tokens, channels)``; channels before tokens if ``transposed``.
        copies: Number of copies.
        transposed: See ``value``.

    Examples:
        >>> by_head(torch.zeros(2 * 3, 4, 8), copies=2).shape
        torch.Size([3, 2, 4, 8])
    """
    value = value.transpose(-1, -2) if transposed else value
    value = value.to(torch.promote_types(value.dtype, torch.float32))
    return value.reshape(copies, -1, *value.shape[-2:]).transpose(0, 1)


def picked(value: Tensor, roles: tuple[int | None, ...], rows: Tensor) -> Tensor:
    """Tokens of a value, other ones for every copy.

    Args:
        value: A value of one copy, or of as many as ``rows``.
        roles: Roles of its dimensions or, for a constant, of the value that it meets.
        rows: Numbers of the tokens, int64: ``(copies, s)``.

    Examples:
        >>> value, rows = torch.tensor([[0.5, 1.5, 2.5]]), torch.tensor([[0, 2], [1, 2]])
        >>> picked(value, (BATCH, TOKENS), rows)
        tensor([[0.5000, 2.5000],
                [1.5000, 2.5000]])
    """
    places = roles.index(BATCH), roles.index(TOKENS)
    cells = value.movedim(places, (0, 1))
    copies = torch.arange(len(rows), device=rows.device) if len(cells) > 1 else torch.zeros_like(rows[:, 0])
    return cells[copies[:, None], rows].movedim((0, 1), places)


class Rows:
    """Tokens of a batch of positions.

    Args:
        example: Tokens of the un-occluded input.
        patches: Numbers of the patches that are computed, rising: ``(copies, count)``.

    Attributes:
        dropped: First-order effect of the tokens by way of all others so far: ``(copies,)``, float64.

    Examples:
        >>> rows = Rows(token_example, patches=torch.tensor([[0], [7]]))  # one patch of each of two copies
        >>> ends = rows.ends(vit.patches(1.1 * x).expand(2, -1, -1, -1))
        >>> (mean,) = token_example.tokens.pooled
        >>> ends[mean.node.index].shape, rows.dropped.all()  # these have an effect on all others
        (torch.Size([2, 8]), tensor(True))
    """

    def __init__(self, example: Example, patches: Tensor) -> None:
        self._tokens, self._example, self._patches = example.tokens, example, patches
        self._copies, self._count = patches.shape
        self._values: dict[int, Tensor] = {}
        self._rows: dict[tuple[Layout, bool], Tensor] = {}
        self.dropped = torch.zeros(self._copies, dtype=torch.float64, device=patches.device)

    def ends(self, start: Tensor) -> Mapping[int, Tensor]:
        """Values that later nodes read of the tokens, by node.

        Args:
            start: The value that tokens begin at: ``(copies, ...)``.
        """
        self._values = {self._tokens.start.index: start}
        for step in self._tokens.steps:
            self._values[step.node.index] = self._computed(step)
            for index in self._tokens.released[step.node.index]:
                self._values.pop(index, None)
        return self._values

    def _computed(self, step: Step) -> Tensor:
        node = step.node
        if isinstance(step, Begin):
            start = self._tokens.start
            whole = self._values[start.index] if node.index == start.index else self._applied(node, None)
            return picked(whole, node.roles, self._patches)
        if isinstance(step, PerToken):
            return self._applied(node, self._tokens.layouts[node.index])
        if isinstance(step, Attention):
            return self._attended(step)
        roles = self._tokens.graph.nodes[step.source].roles
        dim = roles.index(TOKENS)
        if isinstance(step, Narrow):
            value = self._read(step.source, node.index)
            patches = step.patches and node.index not in self._tokens.spared
            first = step.first % max(1, value.shape[dim])
            return value.narrow(dim, first, step.fixed + (self._count if patches else 0))
        value = self._values[step.source]
        if isinstance(step, Pick):
            return value.select(dim, step.column)
        before = picked(self._example.values[step.source], roles, self._at_hand(step.source))
        return self._example.values[node.index] + (value - before).sum(dim) / step.divisor

    def _at_hand(self, index: int) -> Tensor:
        """Numbers of a value's tokens that are computed, int64: ``(copies, s)``."""
        layout, spared = self._tokens.layouts[index], index in self._tokens.spared
        if (layout, spared) not in self._rows:
            numbers = torch.arange(len(layout), device=self._patches.device)
            first, last = len(layout.before), len(layout) - len(layout.after)
            fixed = [part.expand(self._copies, -1) for part in (numbers[:first], numbers[last:])]
            parts = fixed if spared or not layout.patches else [fixed[0], self._patches + first, fixed[1]]
            self._rows[layout, spared] = torch.cat(parts, 1)
        return self._rows[layout, spared]

    def _read(self, index: int, reader: int) -> Tensor:
        """The tokens of a value that a reader needs: one that is spared the patches, the fixed ones."""
        value, spared = self._values[index], self._tokens.spared
        layout = self._tokens.layouts.get(index)
        if layout is None or not layout.patches or reader not in spared or index in spared:
            return value
        dim = self._tokens.graph.nodes[index].roles.index(TOKENS)
        before, after = len(layout.before), len(layout.after)
        parts = [value.narrow(dim, 0, before), value.narrow(dim, value.shape[dim] - after, after)]
        return parts[0] if not after else parts[1] if not before else torch.cat(parts, dim)

    def _applied(self, node: Node, layout: Layout | None) -> Tensor:
        """A node as PyTorch computes it, of the tokens at hand; of all without a layout."""
        graph, copies = self._tokens.graph, self._copies

        def value(index: int) -> Any:
            if index in self._values:
                return self._read(index, node.index)
            if layout is None or node.op == "cat" or TOKENS not in graph.nodes[index].roles:
                return self._example.constant(index, copies)
            return picked(self._example.constant(index, 1), node.roles, self._at_hand(node.index))

        args = resolve(node.args, value, copies)
        if isinstance(node.on_box, Apply) and node.on_box.sized:
            count = self._tokens.patches if layout is None else self._at_hand(node.index).shape[1]
            args = (args[0], self._tokens.sizes(node, copies, count), *args[2:])
        assert node.target is not None
        result: Tensor = node.target(*args, **resolve(node.kwargs, value, copies))
        return result

    def _attended(self, step: Attention) -> Tensor:
        kept, copies = self._example.attentions[step.node.index], self._copies
        asking, rows = self._at_hand(step.node.index), self._at_hand(step.k)
        q = by_head(self._read(step.q, step.node.index), copies) * step.scale
        k = by_head(self._values[step.k], copies, transposed=step.transposed)
        v = by_head(self._values[step.v], copies)
        if step.node.index not in self._tokens.spared:
            self.dropped += effect(kept, k, v, rows)
        result = attended(kept, q, k, v, asking, rows).transpose(0, 1).to(self._values[step.v].dtype)
        return result.reshape(self._tokens.sizes(step.node, copies, asking.shape[1]))
