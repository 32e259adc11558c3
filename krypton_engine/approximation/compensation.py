"""What trimming dropped, added back to the first order. Pure."""

from __future__ import annotations

from torch import Tensor


def are_probabilities(outputs: Tensor) -> bool:
    """Whether these are probabilities of classes: rows that sum to one, none negative."""
    return (
        outputs.ndim == 2
        and outputs.shape[1] > 1
        and outputs.is_floating_point()
        and bool((outputs >= 0).all())
        and bool(((outputs.double().sum(1) - 1).abs() < 1e-3).all())
    )


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
