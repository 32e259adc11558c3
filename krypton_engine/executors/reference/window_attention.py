"""Attention in windows with some new tokens: exact for these, to the first order for the rest.

A window with a new token is computed whole, any other one stays as it was. Sizes are ``G`` windows of ``M``
tokens, ``H`` heads, ``n`` copies of ``s`` new tokens each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeptWindows:
    """One attention in windows on the un-occluded input.

    Attributes:
        q, k, v: Queries, keys and values: ``(G, H, M, channels)``.
        scale: Factors of the scores: ``(G or 1, H or 1, M or 1, M or 1)``.
        bias: Summands of the scores, likewise.
        gradient: Gradient of a scalar by the attention's result: ``(G, H, M, channels)``.
        result: The result, likewise.
        window, place: Window of every token, and the token's place in that window: ``(tokens,)``, int64.
        members: The token at every place of a window, -1 for zeros: ``(G, M)``, int64.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: Tensor
    bias: Tensor
    gradient: Tensor
    result: Tensor
    window: Tensor
    place: Tensor
    members: Tensor

    @classmethod
    def of(
        cls, q: Tensor, k: Tensor, v: Tensor, scale: Tensor, bias: Tensor, gradient: Tensor, members: Tensor
    ) -> KeptWindows:
        """The attention of un-occluded queries, keys and values; see the attributes for the arguments.

        Examples:
            >>> q, k, v, gradient = torch.rand(4, 2, 1, 2, 3)  # two windows of two tokens
            >>> scale, bias = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
            >>> kept = KeptWindows.of(q, k, v, scale, bias, gradient, members=torch.tensor([[0, 2], [1, 3]]))
            >>> kept.result.shape, kept.window, kept.place
            (torch.Size([2, 1, 2, 3]), tensor([0, 1, 0, 1]), tensor([0, 0, 1, 1]))
        """
        weights = _scores(q, k, scale, bias).softmax(-1)
        tokens = int(members.max()) + 1
        window, place = (torch.zeros(tokens, dtype=torch.int64, device=q.device) for _ in range(2))
        known = members >= 0
        where = known.nonzero()
        window[members[known]], place[members[known]] = where[:, 0], where[:, 1]
        return cls(q, k, v, scale, bias, gradient, weights @ v, window, place, members)


class Attended:
    """An attention in windows of a batch of copies: every window with a new token, whole.

    Args:
        kept: The attention on the un-occluded input.
        q, k, v: New queries, keys and values: ``(n, s, H, channels)``.
        rows: Numbers of these tokens: ``(n, s)``, int64.

    Examples:
        >>> q, k, v, gradient = torch.rand(4, 2, 1, 2, 3)  # two windows of two tokens
        >>> scale, bias = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        >>> kept = KeptWindows.of(q, k, v, scale, bias, gradient, members=torch.tensor([[0, 1], [2, 3]]))
        >>> attended = Attended(kept, *torch.rand(3, 1, 1, 1, 3), rows=torch.tensor([[2]]))
        >>> attended.size.sign()  # the other window stays as it was
        tensor([[0., 0., 1., 1.]])
        >>> attended.results(torch.tensor([[2, 3]])).shape, attended.effect(torch.tensor([[2, 3]]))
        (torch.Size([1, 2, 1, 3]), tensor([0.], dtype=torch.float64))
    """

    def __init__(self, kept: KeptWindows, q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> None:
        self._kept, self._copies = kept, len(rows)
        window, place = kept.window[rows], kept.place[rows]
        self._met, which = self._pairs(window).unique(return_inverse=True)
        windows = self._met % len(kept.members)

        def renewed(old: Tensor, new: Tensor) -> Tensor:
            value = old[windows]
            value[which, :, place] = new
            return value

        keys, values = renewed(kept.k, k), renewed(kept.v, v)
        scale, bias = (each if len(each) == 1 else each[windows] for each in (kept.scale, kept.bias))
        self._result = _scores(renewed(kept.q, q), keys, scale, bias).softmax(-1) @ values

    @cached_property
    def _effects(self) -> tuple[Tensor, Tensor]:
        """First-order effects on the scalar of the change of each token's result, and their bounds.

        Both are ``(n, tokens)``, the effects in float64.
        """
        kept, count = self._kept, len(self._kept.members)
        copies, windows = self._met // count, self._met % count
        change, gradient = self._result - kept.result[windows], kept.gradient[windows]
        effects = (change * gradient).sum((1, 3)).double()
        bounds = change.square().sum((1, 3)).mul_(gradient.square().sum((1, 3))).sqrt_()
        found = []
        for numbers in (effects, bounds):  # zeros of a padding fall behind all tokens
            by_token = numbers.new_zeros(self._copies, len(kept.window) + 1)
            by_token[copies[:, None], kept.members[windows]] = numbers
            found.append(by_token[:, :-1])
        return found[0], found[1]

    @property
    def size(self) -> Tensor:
        """Bounds of the first-order effect of the change of each token's result: ``(n, tokens)``."""
        return self._effects[1]

    def results(self, rows: Tensor) -> Tensor:
        """Results of some tokens, as they were in windows without a new one: ``(n, s, H, channels)``."""
        window, place = self._kept.window[rows], self._kept.place[rows]
        pairs = self._pairs(window)
        at = torch.searchsorted(self._met, pairs).clamp_(max=len(self._met) - 1)
        met = self._met[at] == pairs
        found = self._result[at, :, place]
        return found.where(met[..., None, None], self._kept.result[window, :, place])

    def effect(self, rows: Tensor) -> Tensor:
        """First-order effect on the scalar of what changes of all tokens but some: ``(n,)``, float64."""
        return self._effects[0].scatter(1, rows, 0.0).sum(1)

    def _pairs(self, window: Tensor) -> Tensor:
        """A number for each copy and window."""
        return torch.arange(self._copies, device=window.device)[:, None] * len(self._kept.members) + window


def _scores(q: Tensor, k: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).mul_(scale).add_(bias)


def narrowed(value: Tensor) -> Tensor:
    """``value`` with size 1 along dimensions along which it is the same.

    Examples:
        >>> narrowed(torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
        tensor([[1., 2.]])
    """
    for dim in range(value.dim()):
        first = value.narrow(dim, 0, 1)
        if bool((value == first).all()):
            value = first
    return value.contiguous()


def as_summand(mask: Tensor) -> Tensor:
    """The numbers that a mask adds to scores; of flags, 0 where true and minus infinity elsewhere.

    Examples:
        >>> as_summand(torch.tensor([True, False]))
        tensor([0., -inf])
    """
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -math.inf)
