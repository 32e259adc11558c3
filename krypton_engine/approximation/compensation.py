"""What trimming dropped, added back to the first order. Pure."""

from __future__ import annotations

from torch import Tensor


def compensated(values: Tensor, effects: Tensor, odds: bool) -> Tensor:
    """Values with first-order effects added: ``h^-1(h(value) + effect)``.

    Args:
        values: Of the target.
        effects: On ``h``.
        odds: Whether ``h`` is the log-odds of a probability, else the value itself.
    """
    if not odds:
        return values + effects
    grown = values * effects.exp()
    return grown / (1 - values + grown)
