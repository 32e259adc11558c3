"""Means of what was drawn at random, and their standard errors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Tally:
    """Draws of a tensor: their number, mean and standard error.

    Examples:
        >>> tally = Tally()
        >>> tally.add(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
        >>> tally.count, tally.mean, tally.error
        (2, tensor([2., 2.], dtype=torch.float64), tensor([1., 0.], dtype=torch.float64))
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self._deviations = torch.zeros(())

    def add(self, draws: Tensor) -> None:
        """Count some draws in: ``(draws, ...)``."""
        for draw in draws.double():  # Welford's way, which loses no digits
            self.count += 1
            if self.count == 1:
                self.mean, self._deviations = draw.clone(), torch.zeros_like(draw)
                continue
            before = draw - self.mean
            self.mean += before / self.count
            self._deviations += before * (draw - self.mean)

    @property
    def error(self) -> Tensor:
        """Standard errors of the mean; infinite after a single draw."""
        if self.count < 2:
            return torch.full_like(self.mean, math.inf)
        return (self._deviations / (self.count - 1) / self.count).sqrt()
