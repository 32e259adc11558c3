"""Which configuration keeps an SSIM target on images of a kind, with what confidence.

An approximate map carries its expected SSIM (`krypton_engine.approximation.ssim.expected_ssim`), which is
right on the whole but not for every image. A tuning measures by how much: for images of the kind in question
it computes the exact map, replays on it how an approximate one would have come about, and notes at every
refinement the expected and the true SSIM. For a target it then takes the smallest factor on the expected loss
that would not have stopped too early on all but a share of the images, counted so that the next image of the
same kind (exchangeable with the samples) meets the target with at least the stated confidence, whatever the
distribution: conformal risk control with the loss "the target is missed" (Angelopoulos et al., ICLR 2024,
theorem 1). What is trimmed is chosen by time, on the same samples, where there are enough of them; ranks over
all that is tried make up for that.
"""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from krypton_engine.approximation.ssim import SPREAD, ssim
from krypton_engine.common import files
from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.common.values import Value
from krypton_engine.errors import InputError
from krypton_engine.executors.base import Session
from krypton_engine.heatmap.builder import Recorder
from krypton_engine.heatmap.files import (
    is_count,
    is_described,
    is_number,
    is_similarity,
    is_target,
    saved_window,
)
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.identity import Described, described, same_outputs
from krypton_engine.perturbation.changed import Work, distinct_work
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.run.loop import Goal, Watch, run
from krypton_engine.run.order import Outlook, Refinement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = {".json": "the tuning", ".png": "its figure"}
"""Of the files that a tuning is saved to."""

CONFIDENCE = 0.9

_ASSURANCE = 0.8
"""Share of tunings that keep their confidence by themselves, where there are samples enough for it."""

EPSILONS = 0.0, 0.1, 0.3, 0.6
"""How much trimming a tuning tries, least first."""

_TO_CHOOSE = 2
"""Images among the samples that may miss a target, before it is chosen how much to trim."""

_WORTHWHILE = 0.8
"""Share of the exact map's time that trimming must come down to on the first sample, or others do without."""

_TARGETS = 0.8, 0.9, 0.95
"""What a printed tuning shows."""

_MORE = 1 + 1e-9
"""A factor must be more than the one that stops just there."""

_FORMAT = 2
"""Of saved tunings. It rises when positions are chosen or errors expected in another way: where those tunings
stop was found by replaying the old one."""


@dataclass(frozen=True)
class Stop:
    """Where one image's map was good enough: positions computed, SSIM expected and true, seconds."""

    computed: int
    expected: float
    ssim: float
    seconds: float


@dataclass(frozen=True)
class Choice:
    """How to reach a target.

    Attributes:
        epsilon: What to trim.
        factor: By what to multiply the expected loss.
        stops: Where the samples stop.
    """

    epsilon: float
    factor: float
    stops: tuple[Stop, ...]


@dataclass(frozen=True)
class Curve:
    """How one image's approximate map came about, at every refinement.

    Attributes:
        image: Fingerprint of the input.
        epsilon: What was trimmed; see `krypton_engine.executors.base.Session`.
        positions: Distinct positions that change something.
        computed: How many of them had been computed.
        expected: SSIM expected then.
        ssim: SSIM with the exact map then.
        seconds: Time of all positions, from the first on.
        look_seconds: Time of forming one expectation.
        open_seconds: Time before the first position: gradients.
        exact_seconds: Time of the exact map.
        at_once: In what steps it was refined; see `krypton_engine.executors.base.Session`.
    """

    image: str
    epsilon: float
    positions: int
    computed: tuple[int, ...]
    expected: tuple[float, ...]
    ssim: tuple[float, ...]
    seconds: float
    look_seconds: float
    open_seconds: float
    exact_seconds: float
    at_once: int = 1

    def is_whole(self) -> bool:
        """Whether all of it is there, and possible."""
        steps = self.computed, self.expected, self.ssim
        times = self.seconds, self.look_seconds, self.open_seconds, self.exact_seconds
        return (
            isinstance(self.image, str)
            and all(is_number(each) and each >= 0 for each in (self.epsilon, *times))
            and all(isinstance(each, tuple) for each in steps)
            and len({len(each) for each in steps}) == 1
            and all(is_count(n) and n <= self.positions for n in (*self.computed, self.positions))
            and list(self.computed) == sorted(self.computed)
            and all(map(is_similarity, (*self.expected, *self.ssim)))
            and is_count(self.at_once)
            and self.at_once >= 1
        )

    def factor(self, target: float) -> float:
        """The least factor on the expected loss that never stops below ``target``."""
        early = [e for e, s in zip(self.expected, self.ssim, strict=True) if s < target]
        return max(
            ((1 - target) / (1 - e) * _MORE if e < 1 else math.inf for e in early),
            default=0.0,
        )

    def stop(self, target: float, factor: float) -> Stop:
        """Where that factor stops."""
        looks = 0
        for looks, (n, e, s) in enumerate(zip(self.computed, self.expected, self.ssim, strict=True), 1):
            if 1 - factor * (1 - e) >= target:
                return Stop(n, e, s, self.seconds_of(n, looks))
        again = self.exact_seconds if self.epsilon else 0.0
        return Stop(self.positions, 1.0, 1.0, self.seconds_of(self.positions, looks) + again)

    def seconds_of(self, computed: int, looks: int) -> float:
        """Time of so many positions, looked at so many times."""
        return (
            self.open_seconds + self.seconds * computed / max(1, self.positions) + looks * self.look_seconds
        )


@dataclass(frozen=True)
class Fingerprint:
    """What a tuning holds for, and nothing else.

    Attributes:
        input_shape: Of one example.
        window: Shape of the sliding window.
        strides: Its steps.
        baseline: What covers the cells; see `krypton_engine.heatmap.identity.described`.
        target: The target of every sample; None for the predicted class.
        answer: What the model, with its activation, says of a fixed image of noise.
    """

    input_shape: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    baseline: Described
    target: Any
    answer: tuple[float, ...]

    @staticmethod
    def of(
        window: SlidingWindow, x: Tensor, baseline: Tensor, target: Any, model: Callable[[Tensor], Tensor]
    ) -> Fingerprint:
        """Of a model, a window, an input ``(1, *input_shape)`` and a baseline of its shape."""
        generator = torch.Generator("cpu").manual_seed(0)
        noise = torch.rand(x.shape, generator=generator, device="cpu")
        # Of numbers that name something, such as words, there may be two only.
        noise = (noise if x.is_floating_point() else noise * 2).to(x)
        return Fingerprint(
            window.input_shape,
            window.shape,
            window.strides,
            described(baseline),
            target,
            tuple(model(noise).double().flatten()[:_LONGEST].tolist()),
        )

    def differences(self, other: Fingerprint) -> list[str]:
        """In what two of them differ, in words."""
        mine, theirs = (
            torch.tensor(each.answer, dtype=torch.float64, device="cpu") for each in (self, other)
        )
        words = [] if same_outputs(mine, theirs) else ["the model, its weights or the activation"]
        for name in ("input_shape", "window", "strides", "baseline", "target"):
            if getattr(self, name) != getattr(other, name):
                words.append(f"{name} ({getattr(self, name)} there, {getattr(other, name)} here)")
        return words


_LONGEST = 4096
"""Numbers of a model's answer that a fingerprint keeps."""


@dataclass(frozen=True, eq=False)
class Tuning(Value):
    """What approximation costs on images of a kind, and when to stop.

    Attributes:
        fingerprint: What it holds for.
        curves: One for every sample.
        confidence: With which the next image meets the target.
    """

    fingerprint: Fingerprint
    curves: tuple[Curve, ...] = ()
    confidence: float = CONFIDENCE

    @property
    def images(self) -> set[str]:
        """Fingerprints of the samples."""
        return {curve.image for curve in self.curves}

    @property
    def epsilons(self) -> tuple[float, ...]:
        """What is trimmed of all its samples, least first: what may be chosen."""
        times = Counter(curve.epsilon for curve in self.curves)
        return tuple(sorted(e for e in times if times[e] == times[0.0])) or EPSILONS

    @property
    def fewest(self) -> int:
        """Samples that this confidence takes at least."""
        return math.ceil(self.confidence / (1 - self.confidence) - 1e-9)

    def of(self, epsilon: float) -> list[Curve]:
        """The samples' curves with that much trimmed, at the pace that is usual among them.

        A position takes about as long in every image; what once took longer, the machine being busy, is not
        the price of trimming.
        """
        curves = [curve for curve in self.curves if curve.epsilon == epsilon]
        told = [curve for curve in curves if curve.positions] or curves
        if not told:
            return []
        took = [(c.seconds / max(1, c.positions), c.look_seconds, c.open_seconds) for c in told]
        pace, look, opening = np.median(took, axis=0).tolist()
        return [
            replace(curve, seconds=pace * curve.positions, look_seconds=look, open_seconds=opening)
            for curve in curves
        ]

    def factors(self, ssim_target: float) -> dict[float, float]:
        """By what the expected loss is multiplied, for everything that may be trimmed.

        Infinity (never stop) where nothing less is sure enough. A sample's rank is the highest that it has
        for any ``epsilon``, by what it needs among the samples: up to the k-th smallest of these ranks k of
        them are content whatever is chosen. For one ``epsilon``, with k the ceiling of
        ``(n + 1) * confidence``, tunings keep the confidence in the mean. A new image may raise the ranks of
        others by one, so that for several a little of that is lost, a tenth with nine samples whose needs
        have nothing in common, nothing with twenty (simulated): so there is no choice among fewer. As far as
        there are samples, k is so much larger that most tunings keep the confidence by themselves: the share
        of images that are content with the k-th of n has a beta distribution (Vovk, ACML 2012). No factor is
        below 1: the first looks at a map are the least reliable, and they are where a low target stops.
        """
        from scipy.special import betainc

        if not self.curves:
            return {}
        chooses = len(self.images) * (1 - self.confidence) >= _TO_CHOOSE - 1e-9
        epsilons = self.epsilons if chooses else self.epsilons[:1]
        needed = np.array([[curve.factor(ssim_target) for curve in self.of(e)] for e in epsilons])
        ranks = np.sort((needed[:, None, :] <= needed[:, :, None]).sum(-1).max(0))
        count = len(ranks)
        if count < self.fewest:
            return dict.fromkeys(epsilons, math.inf)
        enough = math.ceil((count + 1) * self.confidence - 1e-9)
        while enough < count and 1 - betainc(enough, count + 1 - enough, self.confidence) < _ASSURANCE:
            enough += 1
        factors = np.sort(needed)[:, ranks[enough - 1] - 1].clip(1.0)
        return dict(zip(epsilons, factors.tolist(), strict=True))

    def choose(self, ssim_target: float, trims: bool = True) -> Choice:
        """The quickest way to a target, by the mean over the samples; without trimming if asked."""
        choices = [
            Choice(epsilon, factor, tuple(curve.stop(ssim_target, factor) for curve in self.of(epsilon)))
            for epsilon, factor in self.factors(ssim_target).items()
            if trims or not epsilon
        ]
        return min(
            choices,
            key=lambda choice: (math.isinf(choice.factor), float(np.mean([s.seconds for s in choice.stops]))),
            default=Choice(0.0, math.inf, ()),
        )

    def goal(self, ssim_target: float, trims: bool = True) -> Goal | None:
        """When to stop for a target; None for the exact map, where nothing less is sure enough."""
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
        return Goal(ssim_target, choice.factor, spread, "tuned", choice.epsilon, self.at_once)

    @property
    def at_once(self) -> int | None:
        """In what steps the samples were refined, and images are to be: other steps look at other maps."""
        return self.curves[0].at_once if self.curves else None

    def with_curves(self, curves: Sequence[Curve]) -> Tuning:
        """The same with one sample more, which has a curve for each of `epsilons` that its memory allows.

        The first sample's times decide what trimming is worth trying on others. Its similarities do not, so
        that the ranks of `factors` stay what they are.
        """
        if not self.curves and curves[0].positions:
            plain = curves[0].seconds
            curves = [c for c in curves if not c.epsilon or c.seconds <= _WORTHWHILE * plain]
        return replace(self, curves=(*self.curves, *curves))

    def check(self, found: Fingerprint) -> None:
        """Refuse what this was not tuned for.

        Raises:
            InputError: Model, activation, window, baseline or target differ.
        """
        if words := self.fingerprint.differences(found):
            raise InputError(f"tuning was made for something else; different are {', '.join(words)}")

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
        exact = [curve.exact_seconds for curve in self.of(0.0)]
        if exact:
            lines.append(f"exact map: {np.median(exact):.2f} s (median)")
            lines.append("SSIM target  trimmed  factor  computed (most)  SSIM (least)   seconds  faster")
        for target in _TARGETS if exact else ():
            choice = self.choose(target)
            curves, stops = self.of(choice.epsilon), choice.stops
            share = [s.computed / max(1, c.positions) for s, c in zip(stops, curves, strict=True)]
            faster = [c.exact_seconds / max(s.seconds, 1e-9) for s, c in zip(stops, curves, strict=True)]
            reached = [s.ssim for s in stops]
            lines.append(
                f"{target:11.2f}  {choice.epsilon or '-':>7}  {choice.factor:6.2f}  {np.median(share):8.0%} "
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
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        if not self.curves:
            raise InputError("the tuning has no samples to draw")
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.subplots()
        choice = self.choose(ssim_target)
        lowest = ssim_target
        for curve, stop in zip(self.of(choice.epsilon), choice.stops, strict=True):
            took = [curve.seconds_of(n, i) for i, n in enumerate(curve.computed, 1)]
            axes.plot(
                [*took, curve.exact_seconds], [*curve.ssim, 1.0], color="#3b6ea5", alpha=0.45, linewidth=1
            )
            axes.plot(curve.exact_seconds, 1.0, "o", color="#3b6ea5", markerfacecolor="white", markersize=4.5)
            axes.plot(stop.seconds, stop.ssim, "o", color="#b5322e", markersize=5, zorder=3)
            lowest = min([lowest, *curve.ssim])
        axes.axhline(ssim_target, color="#b5322e", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(
            f"target {ssim_target:g}", (1, ssim_target), (0, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", fontsize=8.5, color="#b5322e",
        )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        # What is far below the target is of no use to anybody.
        axes.set_ylim(max(lowest, ssim_target - 0.35) - 0.01, 1.012)
        axes.set_xlabel("seconds", color="0.3")
        axes.set_ylabel("SSIM with the exact map", color="0.3")
        axes.set_title(
            f"Where a target of {ssim_target:g} stops ({self.confidence:.0%} confidence)",
            fontsize=11.5, fontweight="bold", loc="left", pad=22,
        )  # fmt: skip
        axes.annotate(
            f"a line an image, {len(self.images)} in all; red: good enough; ring: its exact map",
            (0, 1), (0, 9), xycoords="axes fraction", textcoords="offset points", fontsize=9, color="0.3",
        )  # fmt: skip
        axes.tick_params(colors="0.3", labelsize=9)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        return figure

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
        files.write(given, (json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n").encode())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Tuning:
        """Read what `save` wrote.

        Raises:
            InputError: The file is missing or no tuning.
        """
        try:
            read = json.loads(Path(path).read_text(encoding="utf-8"))
            if read.pop("format") != _FORMAT:
                raise ValueError("its format is of another version")
            read = _tuples(read)
            tuning = Tuning(
                Fingerprint(**read["fingerprint"]),
                tuple(Curve(**curve) for curve in read["curves"]),
                read["confidence"],
            )
            tuning.validate()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"path is {str(path)!r}, which is no saved tuning: {error}") from None
        return tuning

    def validate(self) -> None:
        """Refuse what `tune` never makes.

        Raises:
            ValueError: With the reason.
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
                raise ValueError(f"{name} is none that a tuning has")
        samples = Counter((curve.image, curve.epsilon) for curve in self.curves)
        if any(n > 1 for n in samples.values()) or {i for i, e in samples if not e} != self.images:
            raise ValueError("curves are not of every sample once")


Step = tuple[int, float, float, float]
"""Of a replay: positions computed, expected SSIM, true SSIM, seconds of looking."""


_HOPELESS: Step = (0, math.nextafter(1.0, 0.0), 0.0, 0.0)
"""A map with values that are not finite: nothing but all of it is like it."""


def replay(
    window: SlidingWindow, work: Work, measurable: Floats, exact: Floats, at_once: int = 1
) -> list[Step]:
    """How an approximate map would have come about.

    Args:
        window: The sliding window.
        work: All positions, by what they change.
        measurable: What measuring gives, on the grid.
        exact: The exact map.
        at_once: As a session has it.
    """
    if not (np.isfinite(exact).all() and np.isfinite(measurable).all()):
        return [_HOPELESS]
    measured = np.zeros(exact.shape, dtype=bool)
    truth = torch.from_numpy(exact)
    steps: list[Step] = []
    last = time.perf_counter()

    def note(outlook: Outlook) -> bool:
        nonlocal last
        took = time.perf_counter() - last
        similar = ssim(torch.from_numpy(outlook.prediction.values), truth)
        steps.append((outlook.computed, outlook.ssim, similar, took))
        last = time.perf_counter()
        return False

    for stage in Refinement(window, work, lambda: (measurable, measured), note, at_once):
        measured.flat[stage] = True
    return steps


def curves_of(
    image: str,
    session: Session,
    positions: IntArray,
    recorder: Callable[[float], Recorder],
    epsilons: Sequence[float],
    at_once: int,
    deadline: float | None = None,
) -> list[Curve]:
    """What one sample shows, for everything that might be trimmed.

    Args:
        image: Its fingerprint.
        session: Answers for positions of it.
        positions: The positions wanted.
        recorder: Makes what takes the outputs, given when its run began.
        epsilons: How much to trim, nothing first.
        at_once: In what steps to refine.
        deadline: When to give up, of ``time.perf_counter``.

    Raises:
        OcclusionCancelled: The deadline has passed.
    """

    def in_time(*_: object) -> bool:
        return deadline is None or time.perf_counter() < deadline

    work = distinct_work(session.changed, positions)
    curves: list[Curve] = []
    exact: Heatmap | None = None
    for epsilon in epsilons:
        opening = time.perf_counter()
        recording = recorder(opening)
        try:
            trimmed = session.trimmed(epsilon, recording.scalar) if epsilon else session
        except InputError:  # the memory budget does not hold that; another day's may
            continue
        if epsilon and trimmed is session:  # nothing can be trimmed here: it costs what it costs without
            curves.append(replace(curves[0], epsilon=epsilon))
            continue
        opened = time.perf_counter()
        with Watch(len(positions), None if deadline is None else in_time, False) as watch:
            run(trimmed, [positions], recording, watch)
        found = recording.heatmap()
        took = time.perf_counter() - opened
        exact = exact or found
        values, truth = (h.values.double().numpy() for h in (found, exact))
        steps = replay(session.window, work, values, truth, at_once)
        computed = tuple(step[0] for step in steps)
        expected, similar, looks = (tuple(step[i] for step in steps) for i in (1, 2, 3))
        curves.append(
            Curve(
                image, epsilon, len(work.readers), computed, expected, similar, took,
                float(np.median(looks)) if looks else 0.0, opened - opening,
                curves[0].exact_seconds if curves else took, at_once,
            )
        )  # fmt: skip
    return curves


def _times(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


def _tuples(read: Any) -> Any:
    """JSON's lists as tuples, all the way down."""
    if isinstance(read, list):
        return tuple(_tuples(item) for item in read)
    if isinstance(read, dict):
        return {key: _tuples(item) for key, item in read.items()}
    return read
