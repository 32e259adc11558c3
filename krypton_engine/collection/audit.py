"""The audit of a collection: exact maps of a random part, and what they say of all."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from krypton_engine.collection.call import hashed
from krypton_engine.collection.layout import AUDIT

_CONFIDENCE = 0.95
"""Confidence of an interval."""


@dataclass(frozen=True)
class Audit:
    """On how many images of a random part the SSIM target was kept.

    Attributes:
        target: The SSIM target.
        promise: Share of the images that are to keep it.
        ssims: The true SSIM of every image that was audited, by id.
        failures: The reason of every exact map that failed, by id.

    Examples:
        >>> audit = Audit(0.9, 0.9, {"a": 0.95, "b": 0.85, "c": 0.99, "d": 0.92})
        >>> audit.kept, [round(end, 3) for end in audit.interval]
        (3, [0.194, 0.994])
        >>> print(audit)
        target 0.9 kept on 3 of 4 images audited: 75% (95% confidence: 19.4% to 99.4%), promised on 90%
        >>> audit.is_broken
        False
    """

    target: float
    promise: float
    ssims: dict[str, float]
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """Number of images that keep the target."""
        return sum(ssim >= self.target for ssim in self.ssims.values())

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson's interval of the share that keeps the target, for all images."""
        return clopper_pearson(self.kept, len(self.ssims))

    @property
    def is_broken(self) -> bool:
        """Whether the promise is not kept, beyond what chance explains."""
        return self.interval[1] < self.promise

    def __str__(self) -> str:
        count = len(self.ssims)
        lost = len(self.failures)
        failed = f"; {lost} exact map{'s' * (lost > 1)} failed" * bool(lost)
        if not count:
            return f"no image was audited{failed}"
        low, high = self.interval
        return (
            f"target {self.target:g} kept on {self.kept} of {count} images audited: {self.kept / count:.0%} "
            f"({_CONFIDENCE:.0%} confidence: {low:.1%} to {high:.1%}), promised on {self.promise:.0%}{failed}"
        )


def clopper_pearson(kept: int, count: int) -> tuple[float, float]:
    """The exact binomial interval of a share.

    Args:
        kept: Number of those that are counted.
        count: Number of all.

    Examples:
        >>> [round(end, 4) for end in clopper_pearson(18, 20)]
        [0.683, 0.9877]
        >>> clopper_pearson(0, 0)
        (0.0, 1.0)
    """
    from scipy.stats import beta

    tail = (1 - _CONFIDENCE) / 2
    low = float(beta.ppf(tail, kept, count - kept + 1)) if kept else 0.0
    high = float(beta.ppf(1 - tail, kept + 1, count - kept)) if kept < count else 1.0
    return low, high


def chosen(names: Sequence[str], count: int, purpose: str) -> list[str]:
    """A random part of some names: the same each time, and nearly the same of a few names more.

    Args:
        names: The names.
        count: Number of those that are chosen, at most.
        purpose: Word by which choices for different purposes differ.

    Examples:
        >>> chosen(["a", "b", "c", "d"], 2, "audit"), chosen(["a", "b"], 5, "audit")
        (['c', 'b'], ['b', 'a'])
    """
    return sorted(names, key=lambda name: hashed(purpose, name))[:count]


@dataclass(frozen=True)
class Audited:
    r"""An image that has been audited.

    Attributes:
        id: Its id.
        key: The key of its map.
        ssim: The true SSIM of that map; NaN where the exact map failed.
        error: The reason of that; empty where it did not.

    Examples:
        >>> Audited("a", "0123", 0.95).packed()
        b'{"id": "a", "key": "0123", "ssim": 0.95, "error": ""}\n'
    """

    id: str
    key: str
    ssim: float = math.nan
    error: str = ""

    def packed(self) -> bytes:
        """The bytes of its file."""
        return (json.dumps(asdict(self)) + "\n").encode()


def read_audited(out: Path) -> dict[str, Audited]:
    """The images that have been audited, by id.

    Examples:
        >>> Path("audit").mkdir()
        >>> _ = Path("audit/0.json").write_bytes(Audited("a", "0123", 0.95).packed())
        >>> read_audited(Path("."))["a"].ssim
        0.95
    """
    found = [Audited(**json.loads(path.read_text())) for path in sorted((out / AUDIT).glob("*.json"))]
    return {each.id: each for each in found}
