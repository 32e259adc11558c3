"""A tuning as people read it: what a map costs at usual targets, and how similar it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from krypton_engine.tuning.curves import Way

if TYPE_CHECKING:
    from krypton_engine.tuning.tuning import Tuning

_TARGETS = 0.8, 0.9, 0.95
"""SSIM targets that a printed tuning lists."""


def table(tuning: Tuning) -> str:
    """The lines of a printed tuning: its window, the exact map's time, and a line for each of usual targets.

    Examples:
        >>> from dataclasses import replace
        >>> print(table(replace(tuning, curves=())))
        Tuning of 0 images, window 3 x 8 x 8, strides 3 x 4 x 4, confidence 90%
        too few: 90% takes 9 images at least; until then every map is measured in full
    """
    lines = [
        f"Tuning of {len(tuning.images)} image{'s' * (len(tuning.images) != 1)}, "
        f"window {_times(tuning.fingerprint.window)}, strides "
        f"{_times(tuning.fingerprint.strides)}, confidence {tuning.confidence:.0%}"
    ]
    if len(tuning.images) < tuning.fewest:
        lines.append(
            f"too few: {tuning.confidence:.0%} takes {tuning.fewest} images at least; until then every map "
            f"is measured in full"
        )
    exact = [curve.exact_seconds for curve in tuning.of(Way())]
    if exact:
        lines.append(f"exact map: {np.median(exact):.2f} s (median)")
        lines.append("SSIM target  trimmed  factor  computed (most)  SSIM (least)   seconds  faster")
    for target in _TARGETS if exact else ():
        choice = tuning.choose(target)
        curves, stops = tuning.of(choice.way), choice.stops
        share = [s.computed / max(1, c.positions) for s, c in zip(stops, curves, strict=True)]
        faster = [c.exact_seconds / max(s.seconds, 1e-9) for s, c in zip(stops, curves, strict=True)]
        reached = [s.ssim for s in stops]
        lines.append(
            f"{target:11.2f}  {_in_words(choice.way):>7}  {choice.factor:6.2f}  {np.median(share):8.0%} "
            f"({max(share):4.0%})  {np.median(reached):5.3f} ({min(reached):.3f})  "
            f"{np.median([s.seconds for s in stops]):7.2f}  {np.median(faster):5.1f}x"
        )
    return "\n".join(lines)


def _in_words(way: Way) -> str:
    """The threshold of trimming, after ``~`` where it is of the trend alone; ``-`` for exact values alone."""
    if way.drift:
        return f"~{way.epsilon:g}" if way.epsilon else "linear"
    return f"{way.epsilon:g}" if way.epsilon else "-"


def _times(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))
