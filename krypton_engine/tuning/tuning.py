"""The configuration that keeps an SSIM target on images of a kind, with a confidence.

An approximate map carries its expected SSIM (`krypton_engine.approximation.ssim.expected_ssim`), which is
right on the whole but not for every image. A tuning measures by how much: for images of the kind in question
it computes the exact map, replays on it how an approximate one would have come about, and notes at every
refinement the expected and the true SSIM. For a target it then takes the smallest factor on the expected loss
that would not have stopped too early on all but a share of the images, counted so that the next image of the
same kind (exchangeable with the samples) meets the target with at least the stated confidence, whatever the
distribution: conformal risk control with the loss "the target is missed" (Angelopoulos et al., ICLR 2024,
theorem 1). The way of measuring is chosen by time, on the same samples, where these are enough; ranks over
all ways tried make up for that choice.
"""

from __future__ import annotations

import io
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from krypton_engine.approximation.ssim import SPREAD
from krypton_engine.common import files
from krypton_engine.common.values import Value
from krypton_engine.errors import InputError
from krypton_engine.heatmap.files import is_described, is_number, is_target, saved_window
from krypton_engine.run.adaptive import StoppingRule
from krypton_engine.tuning import files as saved
from krypton_engine.tuning.confidence import fewest_samples, sure_factors
from krypton_engine.tuning.curves import Curve, Stop, Way
from krypton_engine.tuning.figure import trade_off
from krypton_engine.tuning.fingerprint import Fingerprint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = {".json": "the tuning", ".png": "its figure"}
"""Endings of the files that a tuning is saved to, and what each holds."""

CONFIDENCE = 0.9
"""Share of images that meet their target, unless a caller wants another."""

WAYS = Way(), Way(0.0, True), Way(0.1), Way(0.3), Way(0.6), Way(0.6, True)
"""The ways that a tuning tries, as far as a model has them."""

_MISSES_TO_CHOOSE_BY = 2
"""Images among the samples that may miss a target, before a way is chosen by them."""

_MOST_TIME = {False: 0.8, True: 0.5}
"""Share of the exact map's time that trimmed positions may take on the first sample, or others do without; as
a drift (true) they come on top of exact ones."""

_TARGETS = 0.8, 0.9, 0.95
"""SSIM targets that a printed tuning lists."""


@dataclass(frozen=True)
class Choice:
    """The way to reach a target.

    Attributes:
        way: The way in which the map is measured.
        factor: Number that the expected loss ``1 - SSIM`` is multiplied by.
        stops: Point at which each sample stops with it.
    """

    way: Way
    factor: float
    stops: tuple[Stop, ...]


@dataclass(frozen=True, eq=False)
class Tuning(Value):
    """The cost of approximation on images of a kind, and stopping rules for them.

    Attributes:
        fingerprint: Model, window, baseline and target that the tuning is valid for.
        curves: One for every sample and every way.
        confidence: Probability with which the next image meets its target.

    Examples:
        >>> len(tuning.images), tuning.fingerprint.window, tuning.at_once
        (10, (3, 8, 8), 1)
        >>> print(tuning)
        Tuning of 10 images, window 3 x 8 x 8, strides 3 x 4 x 4, confidence 90%
        exact map: 2.00 s (median)
        SSIM target  trimmed  factor  computed (most)  SSIM (least)   seconds  faster
               0.80        -    1.00       20% ( 20%)  0.820 (0.820)     0.41    4.9x
               0.90        -    1.00       60% ( 60%)  0.970 (0.970)     1.23    1.6x
               0.95        -    1.00       60% ( 60%)  0.970 (0.970)     1.23    1.6x
        >>> tuning.save("birds.json")
        >>> Tuning.load("birds.json") == tuning
        True
    """

    fingerprint: Fingerprint
    curves: tuple[Curve, ...] = ()
    confidence: float = CONFIDENCE

    @property
    def images(self) -> set[str]:
        """Fingerprints of the sample images."""
        return {curve.image for curve in self.curves}

    @property
    def ways(self) -> tuple[Way, ...]:
        """Ways that may be chosen: those that every sample has a curve of, exact values alone first.

        Examples:
            >>> tuning.ways
            (Way(epsilon=0.0, drift=False),)
        """
        times = Counter(curve.way for curve in self.curves)
        return tuple(sorted(way for way in times if times[way] == times[Way()])) or WAYS

    @property
    def costs(self) -> dict[Way, float]:
        """Cost of a cheap position in exact ones, on the samples and every image, for each way with a drift.

        Examples:
            >>> drifting = replace(tuning.curves[0], drift=True, cost=0.25)
            >>> replace(tuning, curves=(*tuning.curves, drifting)).costs
            {Way(epsilon=0.0, drift=True): 0.25}
        """
        return {curve.way: curve.cost for curve in reversed(self.curves) if curve.drift}

    @property
    def fewest(self) -> int:
        """The fewest samples that the confidence takes.

        Examples:
            >>> [replace(tuning, confidence=confidence).fewest for confidence in (0.5, 0.9, 0.95)]
            [1, 9, 19]
        """
        return fewest_samples(self.confidence)

    def of(self, way: Way) -> list[Curve]:
        """The samples' curves of a way, at the pace that is usual among them.

        A position takes about as long in every image; a sample that took longer while the machine was busy
        does not make its way dearer.

        Examples:
            >>> slow = replace(tuning.curves[0], seconds=60.0)
            >>> [curve.seconds for curve in replace(tuning, curves=(slow, *tuning.curves[1:3])).of(Way())]
            [2.0, 2.0, 2.0]
        """
        curves = [curve for curve in self.curves if curve.way == way]
        told = [curve for curve in curves if curve.positions] or curves
        if not told:
            return []
        took = [
            (
                c.seconds / max(1, c.positions),
                c.cheap_seconds / max(1, c.positions),
                c.look_seconds,
                c.open_seconds,
            )
            for c in told
        ]
        pace, cheap_pace, look, opening = np.median(took, axis=0).tolist()
        return [
            replace(
                curve,
                seconds=pace * curve.positions,
                cheap_seconds=cheap_pace * curve.positions,
                look_seconds=look,
                open_seconds=opening,
            )
            for curve in curves
        ]

    def factors(self, ssim_target: float, trims: bool = True) -> dict[Way, float]:
        """Factors on the expected loss, by way.

        Infinity (never stop) where nothing less is sure enough; see
        `krypton_engine.tuning.confidence.sure_factors`. Among few samples there is no choice of a way: the
        linearised map as a drift where there is one, exact values alone where there is none.

        Examples:
            >>> tuning.factors(0.9)
            {Way(epsilon=0.0, drift=False): 1.0}
            >>> replace(tuning, curves=tuning.curves[:8]).factors(0.9)  # too few
            {Way(epsilon=0.0, drift=False): inf}
        """
        if not self.curves:
            return {}
        chooses = len(self.images) * (1 - self.confidence) >= _MISSES_TO_CHOOSE_BY - 1e-9
        usual = Way(0.0, True) if trims and Way(0.0, True) in self.ways else Way()
        ways = self.ways if chooses else (usual,)
        needed = np.array([[curve.factor(ssim_target) for curve in self.of(way)] for way in ways])
        return dict(zip(ways, sure_factors(needed, self.confidence).tolist(), strict=True))

    def choose(self, ssim_target: float, trims: bool = True) -> Choice:
        """The quickest way to a target, by the mean time of the samples.

        Args:
            ssim_target: SSIM with the exact map.
            trims: Whether anything but exact values may be measured on the way.

        Examples:
            >>> choice = tuning.choose(0.9)
            >>> choice.way, choice.stops[0].computed, choice.stops[0].ssim
            (Way(epsilon=0.0, drift=False), 60, 0.97)
        """
        choices = [
            Choice(way, factor, tuple(curve.stop(ssim_target, factor) for curve in self.of(way)))
            for way, factor in self.factors(ssim_target, trims).items()
            if trims or way == Way()
        ]
        return min(
            choices,
            key=lambda choice: (math.isinf(choice.factor), float(np.mean([s.seconds for s in choice.stops]))),
            default=Choice(Way(), math.inf, ()),
        )

    def goal(self, ssim_target: float, trims: bool = True) -> StoppingRule | None:
        """The stopping rule for a target.

        Args:
            ssim_target: SSIM with the exact map, above 0 and below 1.
            trims: Whether anything but exact values may be measured on the way.

        Returns:
            None for the exact map, where nothing less is sure enough.

        Examples:
            >>> rule = tuning.goal(0.9)
            >>> rule.factor, rule.spread  # every sample lost 0.03 where 0.05 was expected
            (1.0, (0.6, 0.6, 0.6))
        """
        choice = self.choose(ssim_target, trims)
        if not math.isfinite(choice.factor):
            return None
        ratios = [(1 - stop.ssim) / (1 - stop.expected) for stop in choice.stops if stop.expected < 1]
        # The next image is as likely to lie between any two of n as beyond them: n + 1 places, which are what
        # Weibull's quantiles count. Below a confidence of a half each end holds with what is left of 1.
        beyond = min(self.confidence, 1 - self.confidence)
        shares = [beyond, 0.5, 1 - beyond]
        least, middle, most = np.quantile(ratios, shares, method="weibull").tolist() if ratios else SPREAD
        spread = least, middle, most
        way = choice.way
        return StoppingRule(
            ssim_target,
            choice.factor,
            spread,
            "tuned",
            way.epsilon,
            self.at_once,
            way.drift,
            self.costs.get(way),
        )

    @property
    def at_once(self) -> int | None:
        """Positions that a step measures at least: on the samples, and so on every image."""
        return self.curves[0].at_once if self.curves else None

    def with_curves(self, curves: Sequence[Curve]) -> Tuning:
        """The tuning with one sample more, which has a curve for each of `ways` that its memory allows.

        The first sample's times decide which trimming is worth trying on others. Its similarities do not, so
        that the ranks of `factors` stay unbiased.

        Examples:
            >>> len(tuning.with_curves([replace(tuning.curves[0], image="another")]).images)
            11
        """
        if not self.curves and curves[0].positions:
            plain = curves[0].seconds
            curves = [
                c for c in curves if not c.epsilon or _session_seconds(c) <= _MOST_TIME[c.drift] * plain
            ]
        return replace(self, curves=(*self.curves, *curves))

    def check(self, found: Fingerprint) -> None:
        """Refuse a call that the tuning is not valid for.

        Args:
            found: The fingerprint of the call.

        Raises:
            InputError: Model, activation, window, baseline or target differ.

        Examples:
            >>> tuning.check(replace(tuning.fingerprint, strides=(3, 2, 2)))
            Traceback (most recent call last):
            krypton_engine.errors.InputError: tuning is one of 10 images, ...different are strides...
        """
        if words := self.fingerprint.differences(found):
            raise InputError(
                "tuning", in_brief(self), problem=f"made for something else: different are {', '.join(words)}"
            )

    def __str__(self) -> str:
        lines = [
            f"Tuning of {len(self.images)} image{'s' * (len(self.images) != 1)}, "
            f"window {_times(self.fingerprint.window)}, strides "
            f"{_times(self.fingerprint.strides)}, confidence {self.confidence:.0%}"
        ]
        if len(self.images) < self.fewest:
            lines.append(
                f"too few: {self.confidence:.0%} takes {self.fewest} images at least; until then every map "
                f"is measured in full"
            )
        exact = [curve.exact_seconds for curve in self.of(Way())]
        if exact:
            lines.append(f"exact map: {np.median(exact):.2f} s (median)")
            lines.append("SSIM target  trimmed  factor  computed (most)  SSIM (least)   seconds  faster")
        for target in _TARGETS if exact else ():
            choice = self.choose(target)
            curves, stops = self.of(choice.way), choice.stops
            share = [s.computed / max(1, c.positions) for s, c in zip(stops, curves, strict=True)]
            faster = [c.exact_seconds / max(s.seconds, 1e-9) for s, c in zip(stops, curves, strict=True)]
            reached = [s.ssim for s in stops]
            lines.append(
                f"{target:11.2f}  {_in_words(choice.way):>7}  {choice.factor:6.2f}  {np.median(share):8.0%} "
                f"({max(share):4.0%})  {np.median(reached):5.3f} ({min(reached):.3f})  "
                f"{np.median([s.seconds for s in stops]):7.2f}  {np.median(faster):5.1f}x"
            )
        return "\n".join(lines)

    def figure(self, ssim_target: float = 0.9) -> Figure:
        """The trade-off as a Matplotlib figure: SSIM against seconds, and where the target stops.

        Args:
            ssim_target: The target to mark.

        Raises:
            InputError: There is no sample.

        Examples:
            >>> tuning.figure(ssim_target=0.95).axes[0].get_ylabel()
            'SSIM with the exact map'
        """
        if not self.curves:
            raise InputError("tuning", "no samples to draw", "a tuning of at least one", verb="has")
        choice = self.choose(ssim_target)
        return trade_off(self.of(choice.way), choice.stops, ssim_target, self.confidence)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tuning as JSON, or its figure (``.png``).

        Raises:
            InputError: No path, another ending, or a folder that does not exist.
            OSError: Writing fails; what was there is still there.
        """
        given, ending = files.destination(path, ENDINGS)
        if ending == ".png":
            buffer = io.BytesIO()
            self.figure().savefig(buffer, format="png", dpi=130, metadata=files.DRAWN)
            files.write(given, buffer.getvalue())
            return
        files.write(given, saved.packed(asdict(self)))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Tuning:
        """Read a tuning that `save` wrote.

        Raises:
            InputError: The file is missing or no tuning.
        """
        try:
            read = saved.read(Path(path))
            tuning = Tuning(
                Fingerprint(**read["fingerprint"]),
                tuple(Curve(**curve) for curve in read["curves"]),
                read["confidence"],
            )
            tuning.validate()
        except saved.DAMAGED as error:
            raise InputError("path", repr(str(path)), problem=f"which is no saved tuning: {error}") from None
        return tuning

    def validate(self) -> None:
        """Refuse numbers that no tuning has.

        Raises:
            ValueError: A number is impossible; the message names the attribute.

        Examples:
            >>> replace(tuning, confidence=1.5).validate()
            Traceback (most recent call last):
            ValueError: confidence is not possible in a tuning
        """
        found = self.fingerprint
        saved_window(found.input_shape, found.window, found.strides)
        checks = {
            "confidence": is_number(self.confidence) and 0 < self.confidence < 1,
            "baseline": is_described(found.baseline),
            "target": is_target(found.target),
            "answer": isinstance(found.answer, tuple)
            and all(isinstance(a, (int, float)) for a in found.answer),
            "curves": all(curve.is_whole() for curve in self.curves),
        }
        for name, holds in checks.items():
            if not holds:
                raise ValueError(f"{name} is not possible in a tuning")
        samples = Counter((curve.image, curve.way) for curve in self.curves)
        if any(n > 1 for n in samples.values()) or {i for i, w in samples if w == Way()} != self.images:
            raise ValueError("a sample has no exact curve, or two of one kind")


def in_brief(tuning: Tuning) -> str:
    """A tuning in a few words, for messages.

    Examples:
        >>> in_brief(tuning)
        'one of 10 images'
    """
    return f"one of {len(tuning.images)} image{'s' * (len(tuning.images) != 1)}"


def _session_seconds(curve: Curve) -> float:
    """Time of all positions by the session that is not the exact one."""
    return curve.cheap_seconds if curve.drift else curve.seconds


def _in_words(way: Way) -> str:
    """The threshold of trimming, after ``~`` where it is of the trend alone; ``-`` for exact values alone."""
    if way.drift:
        return f"~{way.epsilon:g}" if way.epsilon else "linear"
    return f"{way.epsilon:g}" if way.epsilon else "-"


def _times(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))
