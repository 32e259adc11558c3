"""The maps asked for lately, and how the approximate ones among them came about."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from krypton_engine.attr.curves import Curve
from krypton_engine.common.arrays import Flags
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.regions import Regions
from krypton_widget.maps import on_grid


@dataclass(frozen=True)
class MapKey:
    """All that a map's measured values depend on.

    Attributes:
        image: Number of the image.
        window: Side of the patch, in pixels of the model's input.
        stride: Step of the patch.
        baseline: Name of what covered cells become: a colour of the patch, or a filling.
        target: The class, if only its output is kept; None where all are.
        regions: The regions that are covered in place of windows: themselves, or ``"slic:COUNT"``.
    """

    image: int
    window: int
    stride: int
    baseline: str
    target: int | None = None
    regions: Regions | str | None = None


@dataclass(frozen=True)
class Aim:
    """All that the course of an approximate map depends on, its end aside.

    Attributes:
        target: The class explained.
        region: Fingerprint of the region; None for everywhere.
        tuned_for: SSIM target for which a tuning chose the course; None without a tuning: then the course is
            the same for every target, and only its end differs.
    """

    target: int
    region: bytes | None
    tuned_for: float | None = None


@dataclass(frozen=True)
class Judged:
    """The maps that deletion curves judge.

    Attributes:
        target: The class explained.
        ssim_target: That of the approximate map; None without one.
        exact: Whether the exact map is among them.
    """

    target: int
    ssim_target: float | None
    exact: bool


class Course:
    """The course of an approximate map: a map for every refinement, each with its expected SSIM.

    Examples:
        >>> course = Course()
        >>> course.begin()
        >>> course.note(heatmap)  # on the way, before anything is known of its SSIM
        >>> course.end(heatmap, ssim_target=0.9)
        >>> len(course.stages), course.reached(0.9) == heatmap, course.reached(0.95)
        (1, True, None)
    """

    def __init__(self) -> None:
        self.stages: list[Heatmap] = []
        self._ends: dict[float, Heatmap] = {}
        self._last: Heatmap | None = None

    def begin(self) -> None:
        """Begin a run, which need not continue the last one."""
        self._last = None

    def note(self, so_far: Heatmap) -> None:
        """Take the map of a run on its way: a new estimate of SSIM belongs to the map before.

        A tuning's estimate counts only where its run ends, and an estimate of 1, once everything is measured,
        says nothing of the map before.

        Examples:
            >>> from krypton_engine.approximation.ssim import SsimEstimate
            >>> course = Course()
            >>> course.note(heatmap)
            >>> course.note(replace(heatmap, ssim_estimate=SsimEstimate(0.9, 0.8, 0.95, "online")))
            >>> [stage.ssim_estimate.value for stage in course.stages]  # of the first map
            [0.9]
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
        """The first map that was good enough.

        Examples:
            >>> course = Course()
            >>> course.end(heatmap, ssim_target=0.9)
            >>> course.reached(0.9) == heatmap, course.reached(0.95)
            (True, None)
        """
        if ssim_target in self._ends:
            return self._ends[ssim_target]
        for stage in self.stages:
            if stage.ssim_estimate is not None and stage.ssim_estimate.low >= ssim_target:
                # On its way it was filled by what had been predicted before its last positions.
                measured = (stage.status >= Status.TRIMMED) | (stage.status == Status.UNKNOWN)
                return stage.filled(~measured.numpy())
        return None


@dataclass
class Known:
    """The measured values under one key, the courses of approximate maps, and the curves of finished ones.

    Attributes:
        heatmap: The map with the most exact positions.
        courses: Courses by their aim.
        curves: Deletion curves by name, by the class explained and the maps that they judge.
    """

    heatmap: Heatmap | None = None
    courses: dict[Aim, Course] = field(default_factory=dict)
    curves: dict[Judged, dict[str, Curve]] = field(default_factory=dict)

    def note(self, heatmap: Heatmap) -> None:
        """Take a heatmap; keep the one in which more is exact, the newer of two equals.

        Examples:
            >>> known, less = Known(), replace(heatmap, measured=torch.zeros(2, 2, dtype=torch.bool))
            >>> known.note(heatmap)
            >>> known.note(less)
            >>> known.heatmap is heatmap
            True
        """
        if self.heatmap is None or _exact(heatmap).sum() >= _exact(self.heatmap).sum():
            self.heatmap = heatmap

    def course(self, aim: Aim) -> Course:
        """The course to ``aim``, perhaps one that has not begun.

        Examples:
            >>> known = Known()
            >>> known.course(Aim(0, None)) is known.course(Aim(0, None)), len(known.courses)
            (True, 1)
        """
        return self.courses.setdefault(aim, Course())

    def of(self, target: int) -> Heatmap | None:
        """The measured map, with the values of a class.

        Examples:
            >>> kept = replace(heatmap, outputs=torch.rand(2, 2, 5), base_outputs=torch.rand(5))
            >>> Known(kept).of(0) is kept, Known(kept).of(3).target
            (True, 3)
        """
        if self.heatmap is None or self.heatmap.target == target:
            return self.heatmap
        return self.heatmap.for_target(target)

    def covers(self, wanted: Flags) -> bool:
        """Whether all positions wanted have been measured exactly.

        Examples:
            >>> wanted = np.ones((2, 2), dtype=bool)
            >>> Known().covers(wanted), Known(heatmap).covers(wanted)
            (False, True)
        """
        if self.heatmap is None:
            return False
        return bool((on_grid(self.heatmap, _exact(self.heatmap)) | ~wanted).all())

    def approximate(self, aim: Aim, ssim_target: float) -> Heatmap | None:
        """The approximate map that was good enough, by the class that is explained.

        Where the map is exact for all classes, the course of another class serves: its positions, with the
        values of this one. The SSIM of such a map is unknown before a comparison.

        Examples:
            >>> known = Known()
            >>> known.course(Aim(0, None)).end(heatmap, ssim_target=0.9)
            >>> known.approximate(Aim(0, None), 0.9) == heatmap, known.approximate(Aim(1, None), 0.9)
            (True, None)
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
    """The exact part of a map; the part has cost no time where no position is exact.

    Examples:
        >>> trimmed = torch.tensor([[True, False], [False, False]])
        >>> untrimmed(replace(heatmap, trimmed=trimmed)).values
        tensor([[   nan, 1.0000],
                [1.0000, 1.2500]])
    """
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
        cheap=None,
        classes=only(heatmap.classes, -1),
        class_values=only(heatmap.class_values, math.nan),
        outputs=only(heatmap.outputs, math.nan),
        seconds=heatmap.seconds if bool(kept.any()) else 0.0,
        ssim_estimate=None,
    )


def part(exact: Heatmap, like: Heatmap) -> Heatmap:
    """The map ``exact`` as if only the positions of ``like`` had been measured.

    Examples:
        >>> less = replace(heatmap, measured=torch.tensor([[True, False], [False, False]]))
        >>> part(heatmap, less).values  # a single value, everywhere
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    values = torch.where(like.measured, exact.values, torch.tensor(math.nan, dtype=exact.values.dtype))
    return replace(
        exact, values=values, measured=like.measured, seconds=like.seconds, ssim_estimate=None
    ).filled()


class Memory:
    """The maps asked for lately, so that a slider moved back shows its map at once.

    Args:
        largest: Bytes that all of them may take; the latest is kept whatever its size.

    Examples:
        >>> memory = Memory(largest=2**20)
        >>> memory.of(MapKey(0, 12, 12, "grey")).note(heatmap)
        >>> memory.heatmaps() == [heatmap]
        True
        >>> memory.forget()
        >>> memory.heatmaps(), memory.size
        ([], 0)
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._known: OrderedDict[MapKey, Known] = OrderedDict()

    def of(self, key: MapKey) -> Known:
        """The values known under ``key``, which is now the latest; the oldest are forgotten.

        Examples:
            >>> memory, key = Memory(largest=2**20), MapKey(0, 12, 12, "grey")
            >>> memory.of(key).note(heatmap)
            >>> memory.of(key).heatmap is heatmap, memory.of(MapKey(0, 8, 4, "grey")).heatmap
            (True, None)
        """
        known = self._known.setdefault(key, Known())
        self._known.move_to_end(key)
        while len(self._known) > 1 and self.size > self._largest:
            self._known.popitem(last=False)
        return known

    @property
    def size(self) -> int:
        """Bytes of all maps together.

        Examples:
            >>> memory = Memory(largest=2**20)
            >>> memory.of(MapKey(0, 12, 12, "grey")).note(heatmap)
            >>> memory.size  # four values of 4 bytes, four truth values of 1
            20
        """
        return sum(map(_bytes, self._known.values()))

    def forget(self) -> None:
        """Forget every map."""
        self._known.clear()

    def heatmaps(self) -> list[Heatmap]:
        """The maps that are remembered, under each key the one with the most exact positions."""
        return [known.heatmap for known in list(self._known.values()) if known.heatmap is not None]


def _bytes(known: Known) -> int:
    maps = [stage for course in known.courses.values() for stage in course.stages]
    maps += [] if known.heatmap is None else [known.heatmap]
    kept = [t for m in maps for t in (m.values, m.measured, m.cheap, m.classes, m.class_values, m.outputs)]
    return sum(t.numel() * t.element_size() for t in kept if t is not None)
