"""Which configuration keeps an SSIM target on images of a kind, with what confidence.

An approximate map carries its expected SSIM (`krypton_engine.quality.expected_ssim`), which is right on the
whole but not for every image. A tuning measures by how much: for images of the kind in question it computes
the exact map, replays on it how an approximate one would have come about, and notes at every refinement
the expected and the true SSIM. For a target it then takes the smallest factor on the expected loss that would
not have stopped too early on all but a share of the images, counted so that the next image of the same kind
(exchangeable with the samples) meets the target with the stated confidence, whatever the distribution:
conformal risk control with the loss "the target is missed" (Angelopoulos et al., ICLR 2024, theorem 1).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from krypton_engine.errors import InputError
from krypton_engine.interpolation import Floats
from krypton_engine.quality import ssim
from krypton_engine.run import Goal
from krypton_engine.schedule import Outlook, Refinement
from krypton_engine.windows import SlidingWindow, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIDENCE = 0.9

_TARGETS = 0.8, 0.9, 0.95
"""What a printed tuning shows."""

_ALIKE = 1e-3
"""Share of the largest output that two runs of one model may differ by, on any machine."""


@dataclass(frozen=True)
class Curve:
    """How one image's approximate map came about, at every refinement.

    Attributes:
        image: Fingerprint of the input.
        positions: Distinct positions that change something.
        computed: How many of them had been computed.
        expected: SSIM expected then.
        ssim: SSIM with the exact map then.
        seconds: Time of the exact map.
        look_seconds: Time of forming one expectation.
    """

    image: str
    positions: int
    computed: tuple[int, ...]
    expected: tuple[float, ...]
    ssim: tuple[float, ...]
    seconds: float
    look_seconds: float

    def factor(self, target: float) -> float:
        """The least factor on the expected loss that never stops below ``target``."""
        early = [e for e, s in zip(self.expected, self.ssim, strict=True) if s < target]
        return max(
            (math.nextafter((1 - target) / (1 - e), math.inf) if e < 1 else math.inf for e in early),
            default=0.0,
        )

    def stop(self, target: float, factor: float) -> tuple[int, float, float]:
        """Where that factor stops: positions computed, SSIM reached, seconds."""
        looks = 0
        for looks, (n, e, s) in enumerate(zip(self.computed, self.expected, self.ssim, strict=True), 1):
            if 1 - factor * (1 - e) >= target:
                return n, s, self._seconds(n, looks)
        return self.positions, 1.0, self._seconds(self.positions, looks)

    def _seconds(self, computed: int, looks: int) -> float:
        return self.seconds * computed / max(1, self.positions) + looks * self.look_seconds


@dataclass(frozen=True)
class Fingerprint:
    """What a tuning holds for, and nothing else.

    Attributes:
        input_shape: Of one example.
        window: Shape of the sliding window.
        strides: Its steps.
        baseline: What covers the cells: a number a channel, or ``"an image"``.
        target: The target of every sample; None for the predicted class.
        answer: What the model, with its activation, says of a fixed image of noise.
    """

    input_shape: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    baseline: tuple[float, ...] | str
    target: Any
    answer: tuple[float, ...]

    @staticmethod
    def of(
        window: SlidingWindow, baseline: Tensor, target: Any, model: Callable[[Tensor], Tensor]
    ) -> Fingerprint:
        """Of a model, a window and a baseline of the input's shape."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(1, *window.input_shape, generator=generator).to(baseline)
        flat = baseline.reshape(window.input_shape[0], -1).double()
        even = bool((flat == flat[:, :1]).all())
        return Fingerprint(
            window.input_shape,
            window.shape,
            window.strides,
            tuple(flat[:, 0].tolist()) if even else "an image",
            target,
            tuple(model(noise).double().flatten()[:_LONGEST].tolist()),
        )

    def differences(self, other: Fingerprint) -> list[str]:
        """In what two of them differ, in words."""
        mine, theirs = np.array(self.answer), np.array(other.answer)
        same = mine.shape == theirs.shape and np.allclose(
            mine, theirs, rtol=0, atol=_ALIKE * float(np.abs(mine).max(initial=0)), equal_nan=True
        )
        words = [] if same else ["the model, its weights or the activation"]
        for name in ("input_shape", "window", "strides", "baseline", "target"):
            if getattr(self, name) != getattr(other, name):
                words.append(f"{name} ({getattr(self, name)} there, {getattr(other, name)} here)")
        return words


_LONGEST = 4096
"""Numbers of a model's answer that a fingerprint keeps."""


@dataclass(frozen=True, eq=False)
class Tuning:
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
    def fewest(self) -> int:
        """Samples that this confidence takes at least."""
        return math.ceil(self.confidence / (1 - self.confidence) - 1e-9)

    def factor(self, ssim_target: float) -> float:
        """By what the expected loss is multiplied; infinity (never stop) where there are too few samples.

        The ``ceil((n + 1) * confidence)``-th smallest of what the samples need: conformal risk control.
        """
        rank = math.ceil((len(self.curves) + 1) * self.confidence - 1e-9)
        needed = sorted(curve.factor(ssim_target) for curve in self.curves)
        return needed[rank - 1] if rank <= len(needed) else math.inf

    def goal(self, ssim_target: float) -> Goal | None:
        """When to stop for a target; None for the exact map, where nothing less is sure enough."""
        factor = self.factor(ssim_target)
        if not math.isfinite(factor):
            return None
        ratios = [
            (1 - true) / (1 - expected)
            for curve in self.curves
            for expected, true in zip(curve.expected, curve.ssim, strict=True)
            if expected < 1
        ]
        least = float(np.quantile(ratios, 1 - self.confidence)) if ratios else 0.0
        return Goal(ssim_target, (min(least, factor), factor), "tuned")

    def with_curve(self, curve: Curve) -> Tuning:
        """The same with one sample more."""
        return replace(self, curves=(*self.curves, curve))

    def check(self, found: Fingerprint) -> None:
        """Refuse what this was not tuned for.

        Raises:
            InputError: Model, activation, window, baseline or target differ.
        """
        if words := self.fingerprint.differences(found):
            raise InputError(f"tuning was made for something else; different are {', '.join(words)}")

    def __str__(self) -> str:
        seconds = [curve.seconds for curve in self.curves]
        size = " x ".join(map(str, self.fingerprint.window))
        lines = [
            f"Tuning of {len(self.curves)} images, window {size}, strides "
            f"{' x '.join(map(str, self.fingerprint.strides))}, confidence {self.confidence:.0%}"
        ]
        if len(self.curves) < self.fewest:
            lines.append(
                f"too few: {self.fewest} images are the least for {self.confidence:.0%}; until then every "
                f"map is measured in full"
            )
        if seconds:
            lines.append(f"exact map: {np.median(seconds):.2f} s (median)")
            lines.append(
                "SSIM target  factor  computed, median (most)  SSIM, median (least)  seconds  faster"
            )
        for target in _TARGETS if seconds else ():
            factor = self.factor(target)
            stops = [curve.stop(target, factor) for curve in self.curves]
            share = [n / max(1, c.positions) for (n, _, _), c in zip(stops, self.curves, strict=True)]
            reached, took = [s for _, s, _ in stops], [t for _, _, t in stops]
            faster = np.median([c.seconds / max(t, 1e-9) for c, t in zip(self.curves, took, strict=True)])
            lines.append(
                f"{target:11.2f}  {factor:6.2f}  {np.median(share):11.0%} ({max(share):.0%})"
                f"{np.median(reached):19.3f} ({min(reached):.3f})  {np.median(took):7.2f}  {faster:5.1f}x"
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

        if not self.curves:
            raise InputError("the tuning has no samples to draw")
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        factor = self.factor(ssim_target)
        for curve in self.curves:
            took = [curve._seconds(n, i) for i, n in enumerate(curve.computed, 1)]
            axes.plot([*took, curve.seconds], [*curve.ssim, 1.0], color="#3b6ea5", alpha=0.35, linewidth=1)
            _, reached, seconds = curve.stop(ssim_target, factor)
            axes.plot(seconds, reached, "o", color="#b5322e", markersize=4)
        axes.axhline(ssim_target, color="0.4", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_xlabel("seconds")
        axes.set_ylabel("SSIM with the exact map")
        axes.set_title(
            f"{len(self.curves)} images; dots: where {ssim_target:g} stops ({self.confidence:.0%} sure)",
            fontsize=10,
        )
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        return figure

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tuning as JSON, or its figure (``.png``).

        Raises:
            InputError: Another ending, or a folder that does not exist.
        """
        path = Path(path)
        if path.suffix not in {".json", ".png"}:
            raise InputError(f"path is {str(path)!r}; it must end in .json (the tuning) or .png (its figure)")
        if not path.parent.is_dir():
            raise InputError(f"path is {str(path)!r}, but the folder {str(path.parent)!r} does not exist")
        if path.suffix == ".png":
            self.figure().savefig(path, dpi=130)
        else:
            path.write_text(json.dumps({"format": 1, **asdict(self)}, indent=1) + "\n")

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Tuning:
        """Read what `save` wrote.

        Raises:
            InputError: The file is missing or no tuning.
        """
        try:
            read = json.loads(Path(path).read_text())
            if read.pop("format") != 1:
                raise ValueError("its format is of another version")
            read = _tuples(read)
            return Tuning(
                Fingerprint(**read["fingerprint"]),
                tuple(Curve(**curve) for curve in read["curves"]),
                read["confidence"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"path is {str(path)!r}, which is no saved tuning: {error}") from None


def fingerprint_of_image(x: Tensor) -> str:
    """Tells one input from another."""
    cells = x.detach().cpu().contiguous()
    return hashlib.sha256(cells.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def replay(
    window: SlidingWindow, work: Work, exact: Floats, clock: Callable[[], float]
) -> list[tuple[int, float, float, float]]:
    """How an approximate map would have come about, out of the exact one.

    Args:
        window: The sliding window.
        work: All positions, by what they change.
        exact: The map on the grid.
        clock: Gives the time in seconds.

    Returns:
        For every refinement: positions computed, expected SSIM, true SSIM, seconds of looking.
    """
    measured = np.zeros(exact.shape, dtype=bool)
    truth = torch.from_numpy(exact)
    found: list[tuple[int, float, float, float]] = []
    last = clock()

    def note(outlook: Outlook) -> bool:
        nonlocal last
        took = clock() - last
        similar = ssim(torch.from_numpy(outlook.prediction.values), truth)
        found.append((outlook.computed, outlook.ssim, similar, took))
        last = clock()
        return False

    for stage in Refinement(window, work, lambda: (exact, measured), note):
        measured.flat[stage] = True
    return found


def curve_of(
    image: str, work: Work, steps: Sequence[tuple[int, float, float, float]], seconds: float
) -> Curve:
    """The curve of one image out of its `replay`."""
    computed, expected, similar, looks = zip(*steps, strict=True) if steps else ((), (), (), ())
    return Curve(
        image,
        len(work.readers),
        computed,
        expected,
        similar,
        seconds,
        float(np.median(looks)) if looks else 0.0,
    )


def _tuples(read: Any) -> Any:
    """JSON's lists as tuples, all the way down."""
    if isinstance(read, list):
        return tuple(_tuples(item) for item in read)
    if isinstance(read, dict):
        return {key: _tuples(item) for key, item in read.items()}
    return read
