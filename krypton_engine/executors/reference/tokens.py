"""Sessions on the tokens of a vision transformer, opened: what is kept of the un-occluded input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from krypton_engine.executors.base import Opening, Unsupported
from krypton_engine.executors.reference.attention import Kept
from krypton_engine.executors.reference.token_parts import MakeProgram, TokenParts
from krypton_engine.executors.reference.token_rows import Example, by_head
from krypton_engine.executors.reference.token_session import TokenSession
from krypton_engine.executors.tail import values_in_full
from krypton_engine.graph.ir import Graph
from krypton_engine.graph.tokens.search import find_tokens
from krypton_engine.graph.tokens.steps import Attention, NoTokens, Tokens
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.plan import Linearised, Plan


class TokenProgram:
    """A graph made ready for sessions on its tokens: exact ones, linearised once they are trimmed.

    At every position the patches that the window touches, the fixed tokens (a class token, registers) and
    other patches, all of them or the most important ones, go through all layers. Their effect on the
    attention of the rest is `krypton_engine.executors.base.Computed.dropped`.

    Args:
        graph: The model.

    Raises:
        Unsupported: The graph has no tokens that can be taken one by one.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> program = TokenProgram(capture(Source(vit, (x,))))
        >>> program.work(plan.window).operators
        'attention over all tokens (1)'
        >>> head = lambda outputs: outputs[:, 0]
        >>> from krypton_engine.executors.reference.program import ReferenceProgram
        >>> opening = Opening((x,), torch.zeros(1), 2**30, head)
        >>> session = program.open(plan.window, opening, lambda graph, _: ReferenceProgram(graph))
        >>> torch.allclose(session.base, vit(x), atol=1e-5)
        True
    """

    def __init__(self, graph: Graph) -> None:
        try:
            self.tokens = tokens = find_tokens(graph)
        except NoTokens as reason:
            raise Unsupported(str(reason)) from None
        self.graph = graph
        attentions = [each.node for each in tokens.attentions]
        self._parts = TokenParts(graph, tokens.start, tokens.graph, tokens.after, attentions)

    def open(self, window: SlidingWindow, opening: Opening, program: MakeProgram) -> TokenSession:
        """A session on the tokens of one example.

        Args:
            window: The sliding window.
            opening: The example, a budget and a scalar.
            program: Function that gives the program of the part before tokens.

        Raises:
            Unsupported: The output has no gradient.
            InputError: The budget does not hold the gradients, or what is kept and one position.
        """
        tokens = self.tokens
        needed, example = partial(_needed, tokens), partial(_example, self.graph, tokens, opening.inputs)
        return self._parts.open(window, opening, program, _held(tokens), needed, tokens.patches, example)

    def work(self, window: SlidingWindow) -> Linearised:
        """Operators taken to the first order, and the mean cost of the patches that a window touches."""
        tokens, plan = self.tokens, Plan.of(self._parts.before, window)
        touched = math.prod(float(each.mean()) for each in plan.boxes[tokens.start.index].values())
        share = (touched + tokens.fixed) / (tokens.patches + tokens.fixed)
        # An attention is computed for the new queries, and again for all others that look at new keys.
        macs = sum(step.node.macs * (1 + isinstance(step, Attention)) for step in tokens.steps)
        operators = f"attention over all tokens ({len(tokens.attentions)})"
        return Linearised(operators, plan.macs_incremental + share * macs, "at least")


def _held(tokens: Tokens) -> int:
    """Bytes of what is kept of the un-occluded input: an attention's queries, keys, values and gradient."""
    results = [each.node for each in tokens.attentions]
    influence = sum(node.bytes() // node.shape[-1] * node.shape[-2] for node in results[:1])
    return 5 * sum(node.bytes() for node in results) + influence


def _needed(tokens: Tokens, patches: int) -> int:
    """Bytes of one position on its way, of which so many patches are computed.

    There are scores of the tokens at hand with all others, both ways round and several at a time, and the
    widest values of the layers.
    """
    count = patches + tokens.fixed
    scores = max(each.node.bytes() // each.node.shape[-1] for each in tokens.attentions) * count
    widest = max(step.node.bytes() for step in tokens.steps) * count // (tokens.patches + tokens.fixed)
    return 2 * tokens.start.bytes() + 6 * (scores + widest)


def _example(
    graph: Graph,
    tokens: Tokens,
    inputs: tuple[Tensor, ...],
    constant: Callable[[int, int], Any],
    gradients: Mapping[int, Tensor],
) -> Example:
    """The tokens of the un-occluded input."""
    totals = {i for each in tokens.pooled for i in (each.source, each.node.index)}
    read = {i for each in tokens.attentions for i in each.reads}
    values = values_in_full(graph, inputs, totals | read | {graph.output})
    attentions: dict[int, Kept] = {}
    influence: Tensor | float = 0.0
    for each in tokens.attentions:
        q, k, v = values[each.q], values[each.k], values[each.v]
        gradient = gradients.get(each.node.index, torch.zeros_like(v))
        found = Kept.of(
            by_head(q, 1)[:, 0] * each.scale,
            by_head(k, 1, transposed=each.transposed)[:, 0],
            by_head(v, 1)[:, 0],
            _bias(each, constant),
            by_head(gradient, 1)[:, 0],
        )
        attentions[each.node.index] = found
        first = len(tokens.layouts[each.node.index].before)
        patches = slice(first, first + tokens.patches)
        influence = influence + found.influence[patches, patches]
    assert isinstance(influence, Tensor)
    return Example(
        tokens, constant, attentions, {i: values[i] for i in totals}, influence, values[graph.output]
    )


def _bias(attention: Attention, constant: Callable[[int, int], Any]) -> Tensor | None:
    """Summands of the scores: ``(H or 1, T, T)``; None for nothing."""
    total: Tensor | None = None
    for index, factor in attention.biases:
        bias = constant(index, 1)
        if bias.dtype == torch.bool:
            bias = torch.zeros(bias.shape, device=bias.device).masked_fill_(~bias, -math.inf)
        total = bias * factor if total is None else total + bias * factor
    if total is None or not total.any():
        return None
    tokens = attention.node.shape[-2]
    return total.expand(*total.shape[:-2], tokens, tokens).reshape(-1, tokens, tokens)
