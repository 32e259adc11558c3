"""Likeness of an approximate map and the exact one, by a random sample measured afterwards."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from krypton_engine.approximation.ssim import SPREAD, SsimEstimate, expected_ssim
from krypton_engine.common.arguments import real, whole
from krypton_engine.common.arrays import IntArray
from krypton_engine.errors import InputError
from krypton_engine.heatmap.comparison import bounding
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.positions import image_axes

_PRIOR_POSITIONS = 16
"""Positions of other maps that count beside those of a sample: errors are few and large, and a small
sample may have met none."""

_FOLDS = 4
"""Parts of a sample; each is predicted from measurements without that part."""

_RESAMPLINGS = 200
"""Random draws whose quantiles are the range of a verified SSIM."""


class Sample:
    """A random part of the positions that are not exact in a map; measuring it shows how good the map is.

    Args:
        heatmap: The map.
        fraction: See `Heatmap.verify`.
        seed: Seed of the choice.

    Attributes:
        positions: Positions to be measured: ``(n,)``, int64; empty where all is exact.

    Raises:
        InputError: The fraction or the seed cannot be used.
    """

    def __init__(self, heatmap: Heatmap, fraction: float, seed: int) -> None:
        share, number = real(fraction), whole(seed)
        if share is None or not 0 < share <= 1:
            raise InputError("fraction", repr(fraction), "numbers above 0 and at most 1")
        if number is None or number < 0:
            raise InputError("seed", repr(seed), "integers from 0")
        self._heatmap = heatmap
        self._generator = np.random.default_rng(number)
        status = heatmap.status.numpy()

        def some(which: Status) -> IntArray:
            cells = np.flatnonzero(status == which)
            count = min(len(cells), max(2, math.ceil(share * len(cells))))
            return np.sort(self._generator.choice(cells, count, replace=False))

        interpolated, self._trimmed = some(Status.INTERPOLATED), some(Status.TRIMMED)
        self._guessed = np.concatenate([interpolated, some(Status.LINEARISED)])
        self.positions = np.concatenate([self._guessed, self._trimmed])

    def judged(self, verified: Heatmap) -> Heatmap:
        """A map with the SSIM that its measured sample suggests.

        Args:
            verified: The map, in which the sample has been measured since.

        Returns:
            The map with a new ``ssim_estimate``: None where a value is not finite, so that no SSIM exists.

        Examples:
            >>> part = replace(heatmap, measured=torch.eye(2, dtype=torch.bool))
            >>> sample = Sample(part, fraction=0.5, seed=0)
            >>> sample.positions.tolist()
            [1, 2]
            >>> sample.judged(heatmap) == heatmap  # all of it is exact now
            True
        """
        known = self._heatmap.status != Status.UNKNOWN
        if bool((verified.status == Status.EXACT)[known].all()):
            return verified
        if not bool(verified.values[verified.measured].isfinite().all()):  # such a map is like no other
            return replace(verified, ssim_estimate=None)
        generator = self._generator
        guessed, trimmed = self._guessed, self._trimmed
        status, measured = verified.status.numpy(), verified.measured.numpy()
        found = verified.values.double().numpy()
        after = verified.predicted(measured)
        predicted = (status == Status.INTERPOLATED) | (status == Status.LINEARISED)
        variance, prices = np.where(predicted, after.variance, 0.0), np.zeros(status.shape)
        part = bounding(status != Status.UNKNOWN)
        axes = image_axes(verified.window)
        prices[part] = expected_ssim(after.values[part], variance[part], image_axes=axes)[1]
        missed, expected = np.zeros((2, len(guessed)))
        for fold in np.array_split(generator.permutation(len(guessed)), _FOLDS):
            cells, rest = guessed[fold], measured.copy()
            rest.flat[cells] = False
            others = verified.predicted(rest)
            missed[fold] = prices.flat[cells] * (found.flat[cells] - others.values.flat[cells]) ** 2
            expected[fold] = prices.flat[cells] * others.variance.flat[cells]
        changed = (found.flat[trimmed] - self._heatmap.values.double().numpy().flat[trimmed]) ** 2

        def draws(cells: IntArray) -> IntArray:
            return generator.integers(max(1, len(cells)), size=(_RESAMPLINGS, len(cells)))

        some, few = draws(guessed), draws(trimmed)
        misses, foreseen = missed[some].sum(1), expected[some].sum(1)
        changes = changed[few].sum(1) / max(1, len(trimmed))
        usual = _PRIOR_POSITIONS * float(expected.mean()) if len(expected) else 0.0

        def at(times: float, level: float) -> float:
            scales = np.full(_RESAMPLINGS, times)
            np.divide(misses + usual * times, foreseen + usual, out=scales, where=foreseen + usual > 0)
            errors = variance * np.quantile(scales, level)
            errors[status == Status.TRIMMED] = np.quantile(changes, level)
            return expected_ssim(after.values[part], errors[part], image_axes=axes)[0]

        high, value, low = (at(*each) for each in zip(SPREAD, (0.05, 0.5, 0.95), strict=True))
        return replace(verified, ssim_estimate=SsimEstimate(value, low, high, "verified"))
