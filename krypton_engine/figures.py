"""Numbers as people read them: three significant digits, and one notation within a legend or an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

DIGITS = 3
"""Significant digits that are shown."""

PLAIN = (-4, 6)
"""Decimal exponents, of the first and past the last, of numbers that are written without a power of ten."""


def figure(value: float) -> str:
    """A number in three significant digits: ``"0.00074"``, ``"0.837"``, ``"1.23e-07"``, ``"-1240"``."""
    return figures([value])[0]


def figures(values: Sequence[float]) -> list[str]:
    """The numbers of one legend or axis, each in three significant digits and all in one notation.

    A power of ten is written where the largest or smallest of them would need many zeros.
    """
    rounded = [_rounded(float(value)) for value in values]
    exponents = [_exponent(value) for value in rounded if value and math.isfinite(value)]
    plain = all(PLAIN[0] <= exponent < PLAIN[1] for exponent in exponents)
    return [_written(value, plain) for value in rounded]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS - 1}e}") + 0.0  # no "-0"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def _written(value: float, plain: bool) -> str:
    if not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    if not value:
        return "0"
    if not plain:
        digits, _, power = f"{value:.{DIGITS - 1}e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{power}"
    text = f"{value:.{max(0, DIGITS - 1 - _exponent(value))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
