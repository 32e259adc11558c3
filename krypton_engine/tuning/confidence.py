"""Confidence that a target is met on the next image: conformal risk control, by ranks. Pure."""

from __future__ import annotations

import math

import numpy as np

from krypton_engine.common.arrays import Floats

_ASSURANCE = 0.8
"""Share of tunings that keep their confidence by themselves, where there are samples enough for it."""


def fewest_samples(confidence: float) -> int:
    """The fewest samples that a confidence takes.

    Examples:
        >>> [fewest_samples(confidence) for confidence in (0.5, 0.9, 0.95)]
        [1, 9, 19]
    """
    return math.ceil(confidence / (1 - confidence) - 1e-9)


def sure_factors(needed: Floats, confidence: float) -> Floats:
    """Factors on the expected loss that keep a target on the next image, one for every way of measuring.

    A sample's rank is the highest that it has for any way, by what it needs among the samples: up to the k-th
    smallest of these ranks k samples are content whatever way is chosen. For one way, with k the ceiling of
    ``(n + 1) * confidence``, tunings keep the confidence in the mean. A new image may raise the ranks of
    others by one, so that for several ways a little of that is lost, a tenth with nine samples whose needs
    have nothing in common, nothing with twenty (simulated). As far as there are samples, k is so much larger
    that most tunings keep the confidence by themselves: the share of images that are content with the k-th of
    n has a beta distribution (Vovk, ACML 2012). No factor is below 1: the first looks at a map are the least
    reliable, and they are where a low target stops.

    Args:
        needed: The factor that each sample needs in each way: ``(ways, samples)``.
        confidence: Probability with which the next image is to meet the target, between 0 and 1.

    Returns:
        By way: ``(ways,)``; infinity where the samples are too few.

    Examples:
        >>> needed = np.array([[0.5, 2.0, 3.0], [4.0, 1.0, 1.0]])
        >>> sure_factors(needed, 0.5), sure_factors(needed, 0.9)
        (array([3., 4.]), array([inf, inf]))
    """
    from scipy.special import betainc

    ranks = np.sort((needed[:, None, :] <= needed[:, :, None]).sum(-1).max(0))
    count = len(ranks)
    if count < fewest_samples(confidence):
        return np.full(len(needed), math.inf)
    enough = math.ceil((count + 1) * confidence - 1e-9)
    while enough < count and 1 - betainc(enough, count + 1 - enough, confidence) < _ASSURANCE:
        enough += 1
    factors: Floats = np.sort(needed)[:, ranks[enough - 1] - 1].clip(1.0)
    return factors
