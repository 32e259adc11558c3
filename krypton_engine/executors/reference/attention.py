"""Attention of some tokens to all, and their effect on the attention of all others, to the first order.

Everything is computed head by head: ``H`` heads, ``T`` tokens on the un-occluded input, ``n`` copies of ``s``
tokens each that were computed anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LARGEST_EXPONENT = 60.0
"""Growth of a key's weight, as a logarithm, that leaves nothing to other keys; exp() of it is finite."""

_LEAST_REST = 1e-6
"""Share of a query's old weights below which the rest of them is rounding."""


@dataclass(frozen=True)
class Kept:
    """One attention on the un-occluded input.

    Attributes:
        q: Queries, times the scale of the products: ``(H, T, channels)``.
        k: Keys: ``(H, T, channels)``.
        v: Values: ``(H, T, channels)``.
        bias: Numbers added to the scores: ``(H or 1, T, T)``; None for none.
        gradient: Gradient of a scalar by the attention's result: ``(H, T, channels)``.
        result: Sum over channels of gradient times result: ``(H, T)``.
        weight: Logarithm of the sum of the exponentials of a query's scores: ``(H, T)``.
        influence: Bound of the first-order effect that an unmasked token (second dimension) has on the scalar
            by way of another's result (first): weight, norm of value and norm of gradient, ``(T, T)``.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    gradient: Tensor
    result: Tensor
    weight: Tensor
    influence: Tensor

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, gradient: Tensor) -> Kept:
        """The attention of un-occluded queries, keys and values; scores are in memory for one head at a time.

        Examples:
            >>> k = v = torch.rand(1, 4, 2)
            >>> kept = Kept.of(torch.zeros(1, 4, 2), k, v, None, gradient=torch.ones(1, 4, 2))
            >>> kept.weight.exp()  # all scores are 0
            tensor([[4., 4., 4., 4.]])
        """
        results, logarithms, influence = [], [], q.new_zeros(q.shape[1], k.shape[1])
        for head in range(len(q)):
            scores = q[head] @ k[head].T
            if bias is not None:
                scores += bias[head % len(bias)]
            logarithm = scores.logsumexp(-1, keepdim=True)
            weights = scores.sub_(logarithm).exp_()
            results.append((gradient[head] * (weights @ v[head])).sum(-1))
            logarithms.append(logarithm[:, 0])
            norms = gradient[head].norm(dim=-1, keepdim=True), v[head].norm(dim=-1)
            influence += weights.mul_(norms[0]).mul_(norms[1])
        return cls(
            q,
            k.contiguous(),
            v.contiguous(),
            bias,
            gradient.contiguous(),
            torch.stack(results),
            torch.stack(logarithms),
            influence,
        )


def attended(kept: Kept, q: Tensor, k: Tensor, v: Tensor, asking: Tensor, rows: Tensor) -> Tensor:
    """Results of an attention for queries computed anew, which look at all tokens, some of them new too.

    Args:
        kept: The attention on the un-occluded input.
        q: New queries, times the scale: ``(H, n, queries, channels)``.
        k: New keys: ``(H, n, s, channels)``.
        v: New values, likewise.
        asking: Numbers of the tokens of the queries, int64: ``(n, queries)``.
        rows: Numbers of the tokens of keys and values, int64: ``(n, s)``.

    Returns:
        ``(H, n, queries, channels)``.

    Examples:
        >>> q, k, v = torch.rand(3, 1, 4, 2)
        >>> kept, first = Kept.of(q, k, v, None, torch.ones(1, 4, 2)), torch.tensor([[0]])
        >>> result = attended(kept, torch.zeros(1, 1, 1, 2), k[:, None, :1], v[:, None, :1], first, first)
        >>> torch.allclose(result[0, 0], v.mean(1))  # a query of zeros gives all tokens the same weight
        True
    """
    scores = (q.flatten(1, 2) @ kept.k.transpose(1, 2)).view(*q.shape[:3], -1)
    own = q @ k.transpose(2, 3)
    here = rows[None, :, None, :].expand_as(own)
    if kept.bias is not None:
        bias = kept.bias[:, asking]
        scores += bias
        own += bias.expand_as(scores).gather(3, here)
    weights = scores.scatter_(3, here, own).softmax(-1)
    result = (weights.flatten(1, 2) @ kept.v).view(*q.shape[:3], -1)
    return result.add_(weights.gather(3, here) @ (v - kept.v[:, rows]))


def effect(kept: Kept, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
    """First-order effect on the scalar of new tokens by way of the attention of all others.

    The change of their weights and results is exact; its product with the gradient is the effect.

    Args:
        kept: The attention on the un-occluded input.
        k: New keys: ``(H, n, s, channels)``.
        v: New values, likewise.
        rows: Numbers of these tokens, int64: ``(n, s)``.

    Returns:
        ``(n,)``, float64.

    Examples:
        >>> q, k, v = torch.rand(3, 1, 4, 2)
        >>> kept, second = Kept.of(q, k, v, None, torch.ones(1, 4, 2)), torch.tensor([[1]])
        >>> abs(effect(kept, k[:, None, 1:2], v[:, None, 1:2], second).item()) < 1e-5  # a token as it was
        True
    """
    heads, copies, count, _ = k.shape
    grown = kept.q @ k.flatten(1, 2).transpose(1, 2)
    if kept.bias is not None:
        grown += kept.bias[:, :, rows.flatten()]
    grown = grown.sub_(kept.weight[..., None]).clamp_(max=_LARGEST_EXPONENT).exp_()
    gained = grown.view(heads, -1, copies, count).sum(-1)
    values = (kept.gradient @ v.flatten(1, 2).transpose(1, 2)).mul_(grown)
    gained_values = values.view(heads, -1, copies, count).sum(-1)

    some, places = rows.unique(return_inverse=True)
    has = grown.new_zeros(copies, len(some)).scatter_(1, places, 1.0).T
    old = kept.q @ kept.k[:, some].transpose(1, 2)
    if kept.bias is not None:
        old += kept.bias[:, :, some]
    old = old.sub_(kept.weight[..., None]).exp_()
    lost = old @ has
    lost_values = old.mul_(kept.gradient @ kept.v[:, some].transpose(1, 2)) @ has

    gained -= lost
    change = gained_values.sub_(lost_values).sub_(kept.result[..., None] * gained)
    change = change.div_(gained.add_(1).clamp_(min=_LEAST_REST)).sum(0)
    others = torch.ones_like(change).T.scatter_(1, rows, 0.0)
    return (change.T * others).sum(1).double()
