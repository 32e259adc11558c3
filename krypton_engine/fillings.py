"""Fillings: what the cells under a window become, for ``baselines=`` of a heatmap.

Examples:
    >>> from krypton_engine import KryptonOcclusion, fillings
    >>> occlusion = KryptonOcclusion(model)
    >>> heatmap = occlusion.heatmap(x, (3, 8, 8), (3, 4, 4), baselines=fillings.Noise(samples=3))
    >>> heatmap.baseline
    'noise, 3 samples, seed 0'
"""

from __future__ import annotations

from krypton_engine.perturbation.conditional import Conditional
from krypton_engine.perturbation.fillings import Blur, Filling, LocalMean, Mean, Noise, Several, Soft

__all__ = ["Blur", "Conditional", "Filling", "LocalMean", "Mean", "Noise", "Several", "Soft"]
