"""Numbers as people read them: three significant digits, and one notation within a legend or an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

DIGITS = 3
"""Number of significant digits, where these distinguish the numbers of a group."""

DIGITS_APART = 2
"""Significant digits of the difference between two numbers of a group."""

MOST_DIGITS = 17
"""Significant digits that a number has."""

PLAIN_EXPONENTS = (-4, 6)
"""Decimal exponents, of the first and past the last, of numbers that are written without a power of ten."""


def figure(value: float) -> str:
    """A number in three significant digits: ``"0.00074"``, ``"0.837"``, ``"1.23e-07"``, ``"-1240"``.

    Examples:
        >>> figure(0.00074), figure(1.23e-7), figure(-1240.4)
        ('0.00074', '1.23e-07', '-1240')
    """
    return figures([value])[0]


def mebibytes(count: float) -> str:
    """A number of bytes in MiB, in three significant digits.

    Examples:
        >>> mebibytes(3 * 2**20), mebibytes(2000)
        ('3 MiB', '0.00191 MiB')
    """
    return f"{figure(count / 2**20)} MiB"


def figures(values: Sequence[float]) -> list[str]:
    """The numbers of one legend or axis, each in three significant digits and all in one notation.

    Numbers that are close get more digits, so that their difference shows: ``["0.23304", "0.23301"]``.
    A power of ten is written where the largest or smallest of them would need many zeros.

    Examples:
        >>> figures([0.23304, 0.23301, 0.5])
        ['0.23304', '0.23301', '0.5']
    """
    return together(values)[0]


def together(*groups: Sequence[float]) -> list[list[str]]:
    """Groups of numbers in one notation, with digits enough to distinguish those of a group, as in `figures`.

    Examples:
        >>> together([0.5], [1e7, 2.0])
        [['5e-01'], ['1e+07', '2e+00']]
    """
    rounded = [[_rounded(float(value), group) for value in group] for group in groups]
    known = [value for group in rounded for value, _ in group if value and math.isfinite(value)]
    plain = all(PLAIN_EXPONENTS[0] <= _exponent(value) < PLAIN_EXPONENTS[1] for value in known)
    return [[_written(value, digits, plain) for value, digits in group] for group in rounded]


def _rounded(value: float, group: Sequence[float]) -> tuple[float, int]:
    """A number in as many digits as distinguish it from the nearest of its group, and their count."""
    gaps = (abs(value - float(other)) for other in group)
    gap = min((gap for gap in gaps if gap and math.isfinite(gap)), default=0.0)
    digits = DIGITS
    if value and gap:
        digits = min(MOST_DIGITS, max(DIGITS, _exponent(value) - _exponent(gap) + DIGITS_APART))
    return float(f"{value:.{digits - 1}e}") + 0.0, digits  # no "-0"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def _written(value: float, digits: int, plain: bool) -> str:
    if not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    if not value:
        return "0"
    if not plain:
        figures, _, power = f"{value:.{digits - 1}e}".partition("e")
        return f"{figures.rstrip('0').rstrip('.')}e{power}"
    text = f"{value:.{max(0, digits - 1 - _exponent(value))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
