"""What is known of the maps asked for, and what a page needs to draw one. No widget, no threads."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.identity import described
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.tuning.tuning import Tuning

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]

Region = tuple[int, ...] | Flags | None
"""Where to look: everywhere, a box (top, left, bottom, right), or a mask (height, width)."""


@dataclass(frozen=True)
class Question:
    """All that a measured value depends on.

    Attributes:
        image: Which of the images.
        window: Side of the patch, in pixels of the model's input.
        stride: Its step.
        baseline: The patch's colour.
        target: The class, if only its output is kept; None where all are.
    """

    image: int
    window: int
    stride: int
    baseline: str
    target: int | None = None


@dataclass(frozen=True)
class Aim:
    """All that the course of an approximate map depends on, its end aside.

    Attributes:
        target: The class explained.
        region: Where to look, by its fingerprint; None for everywhere.
        tuned_for: The SSIM target that a tuning chose it for; None without one: then the course is the same
            for all of them, and only its end differs.
    """

    target: int
    region: bytes | None
    tuned_for: float | None = None


class Course:
    """How an approximate map came about: a map for every refinement, each with what is expected of it."""

    def __init__(self) -> None:
        self.stages: list[Heatmap] = []
        self._ends: dict[float, Heatmap] = {}
        self._last: Heatmap | None = None

    def begin(self) -> None:
        """A run begins, perhaps not where the last one stopped."""
        self._last = None

    def note(self, so_far: Heatmap) -> None:
        """Take the map of a run on its way: a new estimate is that of the map before it.

        A tuning's word counts only where its run ends, and that everything has been measured says nothing of
        the map before.
        """
        before, self._last = self._last, so_far
        estimate = so_far.ssim_estimate
        if before is None or estimate is None or estimate.basis != "online":
            return
        if estimate != before.ssim_estimate:
            self.stages.append(replace(before, ssim_estimate=estimate, outputs=None))

    def end(self, heatmap: Heatmap, ssim_target: float) -> None:
        """Take the map that a run for ``ssim_target`` ended with."""
        self._ends[ssim_target] = replace(heatmap, outputs=None)
        self.stages.append(self._ends[ssim_target])

    def reached(self, ssim_target: float) -> Heatmap | None:
        """The first map that was good enough."""
        if ssim_target in self._ends:
            return self._ends[ssim_target]
        for stage in self.stages:
            if stage.ssim_estimate is not None and stage.ssim_estimate.low >= ssim_target:
                # On its way it was filled by what had been predicted before its last positions.
                return stage.filled((stage.status == Status.INTERPOLATED).numpy())
        return None


@dataclass
class Known:
    """What has been measured for a question.

    Attributes:
        heatmap: That in which most has been measured exactly.
        courses: How its approximate maps came about.
    """

    heatmap: Heatmap | None = None
    courses: dict[Aim, Course] = field(default_factory=dict)

    def note(self, heatmap: Heatmap) -> None:
        """Take a heatmap; it is kept if it knows as much as the last."""
        if self.heatmap is None or _exact(heatmap).sum() >= _exact(self.heatmap).sum():
            self.heatmap = heatmap

    def course(self, aim: Aim) -> Course:
        """The course to ``aim``, perhaps one that has not begun."""
        return self.courses.setdefault(aim, Course())

    def of(self, target: int) -> Heatmap | None:
        """All that has been measured, seen by a class."""
        if self.heatmap is None or self.heatmap.target == target:
            return self.heatmap
        return self.heatmap.for_target(target)

    def covers(self, wanted: Flags) -> bool:
        """Whether all positions wanted have been measured exactly."""
        if self.heatmap is None:
            return False
        return bool((on_grid(self.heatmap, _exact(self.heatmap)) | ~wanted).all())

    def approximate(self, aim: Aim, ssim_target: float) -> Heatmap | None:
        """The approximate map that was good enough, by the class that is explained.

        Where the map is exact for all classes, that of another class will do: the same positions, seen by
        this one. Nobody knows before comparing how good it is.
        """
        found = self.course(aim).reached(ssim_target)
        exact = self.of(aim.target)
        if found is not None or exact is None or not bool(_exact(exact).all()):
            return found
        for other, course in self.courses.items():
            stage = course.reached(ssim_target)
            if stage is not None and other == replace(aim, target=other.target):
                return part(exact, stage)
        return None


def _exact(heatmap: Heatmap) -> Tensor:
    return heatmap.measured if heatmap.trimmed is None else heatmap.measured & ~heatmap.trimmed


def untrimmed(heatmap: Heatmap) -> Heatmap:
    """Only what was measured exactly; its seconds count if that is anything."""
    if heatmap.trimmed is None or not bool(heatmap.trimmed.any()):
        return heatmap
    kept = _exact(heatmap)

    def only(cells: Tensor | None, otherwise: float) -> Tensor | None:
        if cells is None:
            return None
        where = kept.reshape(*kept.shape, *[1] * (cells.ndim - kept.ndim))
        return torch.where(where, cells, torch.tensor(otherwise, dtype=cells.dtype))

    values = only(heatmap.values, math.nan)
    assert values is not None
    return replace(
        heatmap,
        values=values,
        measured=kept,
        trimmed=None,
        classes=only(heatmap.classes, -1),
        class_values=only(heatmap.class_values, math.nan),
        outputs=only(heatmap.outputs, math.nan),
        seconds=heatmap.seconds if bool(kept.any()) else 0.0,
        ssim_estimate=None,
    )


def part(exact: Heatmap, like: Heatmap) -> Heatmap:
    """What ``exact`` would be if only the positions of ``like`` had been measured."""
    values = torch.where(like.measured, exact.values, torch.tensor(math.nan, dtype=exact.values.dtype))
    return replace(
        exact, values=values, measured=like.measured, seconds=like.seconds, ssim_estimate=None
    ).filled()


def unfit(tuning: Tuning, window: SlidingWindow, patch: Tensor, target: int, predicted: int) -> str:
    """In what a tuning is for something else, in words; empty where it fits, the model aside.

    Args:
        tuning: The tuning.
        window: The sliding window asked for.
        patch: What covers the cells, ``(1, channels, height, width)``.
        target: The class explained.
        predicted: The class predicted.
    """
    own = None if tuning.fingerprint.target is None and target == predicted else target
    there = tuning.fingerprint
    same = {
        "image size": there.input_shape == window.input_shape,
        "patch size": there.window == window.shape,
        "stride": there.strides == window.strides,
        "patch colour": there.baseline == described(patch),
        "class": there.target == own,
    }
    words = [word for word, is_same in same.items() if not is_same]
    return f"the tuning is for another {' and '.join(words)}" if words else ""


class Memory:
    """The maps asked for lately, so that a slider moved back shows its map at once.

    Args:
        largest: Bytes that all of them may take; the latest is kept whatever its size.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._known: OrderedDict[Question, Known] = OrderedDict()

    def of(self, question: Question) -> Known:
        """What is known of ``question``, which is now the latest; the oldest are forgotten."""
        known = self._known.setdefault(question, Known())
        self._known.move_to_end(question)
        while len(self._known) > 1 and self.size > self._largest:
            self._known.popitem(last=False)
        return known

    @property
    def size(self) -> int:
        """Bytes that all of them take."""
        return sum(map(_bytes, self._known.values()))

    def forget(self) -> None:
        """Nothing is known any more."""
        self._known.clear()

    def heatmaps(self) -> list[Heatmap]:
        """All that is known."""
        return [known.heatmap for known in list(self._known.values()) if known.heatmap is not None]


def _bytes(known: Known) -> int:
    maps = [stage for course in known.courses.values() for stage in course.stages]
    maps += [] if known.heatmap is None else [known.heatmap]
    kept = [t for m in maps for t in (m.values, m.measured, m.classes, m.class_values, m.outputs)]
    return sum(t.numel() * t.element_size() for t in kept if t is not None)


def on_grid(heatmap: Heatmap, cells: Tensor) -> Any:
    """One number a position as an array (rows, columns), one cell where the window spans an axis."""
    return cells.reshape(heatmap.window.counts[1:]).numpy()


def wanted(window: SlidingWindow, region: Region) -> Flags:
    """Positions (rows, columns) whose window touches ``region``.

    Raises:
        InputError: The region does not fit the image.
    """
    rows, columns = window.counts[1:]
    if region is None:
        return np.ones((rows, columns), dtype=bool)
    flat = np.zeros(len(window), dtype=bool)
    flat[window.touching(as_engine(region))] = True  # type: ignore[arg-type]
    return flat.reshape(rows, columns)


def as_engine(region: Region) -> Tensor | tuple[int, ...] | None:
    """A region as `KryptonOcclusion.heatmap` takes it."""
    return torch.from_numpy(region) if isinstance(region, np.ndarray) else region


def fingerprint(region: Region) -> bytes | None:
    """Tells one region from another."""
    if region is None:
        return None
    return region.tobytes() if isinstance(region, np.ndarray) else str(region).encode()


def within(heatmap: Heatmap, wanted: Flags) -> Heatmap:
    """Only what is known where it is wanted (rows, columns): what else was measured is on no page."""
    where = torch.from_numpy(wanted.reshape(heatmap.measured.shape))
    values = torch.where(where, heatmap.values, torch.tensor(math.nan, dtype=heatmap.values.dtype))
    return replace(heatmap, values=values, measured=heatmap.measured & where)


def not_finite(heatmap: Heatmap, wanted: Flags) -> int:
    """How many of the measured positions that are wanted (rows, columns) gave no finite change."""
    return int((on_grid(heatmap, heatmap.measured & ~heatmap.drop.isfinite()) & wanted).sum())


def largest_drop(heatmap: Heatmap, target: int | None) -> float:
    """The largest measured finite change of the target, or of the map's own where only that was kept."""
    values, base = heatmap.values, heatmap.base
    if heatmap.outputs is not None and heatmap.base_outputs is not None and target is not None:
        values, base = heatmap.outputs[..., target], heatmap.base_outputs[target]
    known = (base - values)[heatmap.measured]
    return _largest(known[known.isfinite()].numpy())


def _largest(changes: Floats) -> float:
    return float(np.abs(changes).max()) if changes.size else 0.0


def to_page(heatmap: Heatmap, wanted: Flags) -> dict[str, Any]:
    """What the page draws: numbers as little-endian bytes, row by row.

    Args:
        heatmap: What to show.
        wanted: Where (rows, columns); elsewhere nothing is known.
    """
    window = heatmap.window
    status = np.where(wanted, on_grid(heatmap, heatmap.status), Status.UNKNOWN).astype(np.uint8)
    measured = status >= Status.TRIMMED

    def cells(tensor: Tensor | None, where: Flags, missing: float, dtype: type[np.generic]) -> bytes:
        if tensor is None:
            return b""
        return np.where(where, on_grid(heatmap, tensor), missing).astype(dtype).tobytes()

    drops = on_grid(heatmap, heatmap.drop)[status != Status.UNKNOWN]
    return {
        "rows": window.counts[1],
        "columns": window.counts[2],
        "height": window.input_shape[1],
        "width": window.input_shape[2],
        "window": window.shape[1],
        "stride": window.strides[1],
        "target": heatmap.target,
        "base": _base(heatmap),
        "largest": _largest(drops[np.isfinite(drops)]),
        "values": cells(heatmap.values, status != Status.UNKNOWN, np.nan, np.float32),
        "status": status.tobytes(),
        "classes": cells(heatmap.classes, measured, -1, np.int32),
        "classValues": cells(heatmap.class_values, measured, np.nan, np.float32),
        "done": int(measured.sum()),
        "total": int(wanted.sum()),
        "notFinite": not_finite(heatmap, wanted),
        "exact": bool((status[wanted] == Status.EXACT).all()),
        "seconds": heatmap.seconds,
    }


def _base(heatmap: Heatmap) -> float | None:
    """The base in the precision of a page's values: what does not change is no drop."""
    return finite(float(np.float32(float(heatmap.base))))


def estimate(heatmap: Heatmap, wanted: Flags) -> dict[str, Any] | None:
    """What the SSIM of an approximate map probably is; None where that is not known, or certain."""
    exact = on_grid(heatmap, heatmap.status == Status.EXACT)
    known = None if heatmap.ssim_estimate is None else asdict(heatmap.ssim_estimate)
    return None if known is None or exact[wanted].all() or finite(known) != known else known


def finite(value: Any) -> Any:
    """Numbers that JSON has: what is not finite becomes None, in dicts and lists too."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def comparison(approximate: Heatmap, exact: Heatmap, pass_seconds: float | None) -> dict[str, Any]:
    """The approximate map beside the exact one, and what each cost.

    Args:
        approximate: As it was shown, for the class explained.
        exact: The same measured everywhere.
        pass_seconds: What full inference takes for a position; None if not timed yet.
    """
    positions = exact.measured.numel()
    seconds, exact_seconds = approximate.seconds, exact.seconds
    full = None if pass_seconds is None else pass_seconds * positions
    return {
        "rows": exact.window.counts[1],
        "columns": exact.window.counts[2],
        "window": exact.window.shape[1],
        "stride": exact.window.strides[1],
        "target": exact.target,
        "base": _base(exact),
        "approximate": approximate.values.numpy().astype(np.float32).tobytes(),
        "exact": exact.values.numpy().astype(np.float32).tobytes(),
        "ssim": approximate.compare(exact).ssim if bool(exact.values.isfinite().all()) else None,
        "estimate": estimate(approximate, np.ones(exact.window.counts[1:], dtype=bool)),
        "positions": positions,
        "measured": int(approximate.measured.sum()),
        "seconds": seconds,
        "exactSeconds": exact_seconds,
        "speedUp": exact_seconds / max(seconds, 1e-9),
        "fullSeconds": full,
        "fullSpeedUp": None if full is None else full / max(seconds, 1e-9),
        "fullSpeedUpExact": None if full is None else full / max(exact_seconds, 1e-9),
    }
