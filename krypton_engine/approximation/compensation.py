"""First-order effects of what trimming dropped, added back to the values. Pure."""

from __future__ import annotations

from torch import Tensor


def compensated(values: Tensor, effects: Tensor, odds: bool) -> Tensor:
    """Values with first-order effects added: ``h^-1(h(value) + effect)``.

    Args:
        values: Values of the target: ``(n,)``.
        effects: On ``h``, of the same shape.
        odds: Whether ``h`` is the log-odds of a probability, else the value itself.

    Examples:
        >>> import torch
        >>> compensated(torch.tensor([0.5]), torch.tensor([0.25]), odds=False)
        tensor([0.7500])
    """
    if not odds:
        return values + effects
    grown = values * effects.exp()
    return grown / (1 - values + grown)
