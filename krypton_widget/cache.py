"""The maps asked for lately, and how the approximate ones among them came about."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from krypton_engine.common.arrays import Flags
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.status import Status
from krypton_widget.maps import on_grid


@dataclass(frozen=True)
class MapKey:
    """All that a map's measured values depend on.

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
    """The course of an approximate map: a map for every refinement, each with its expected SSIM."""

    def __init__(self) -> None:
        self.stages: list[Heatmap] = []
        self._ends: dict[float, Heatmap] = {}
        self._last: Heatmap | None = None

    def begin(self) -> None:
        """Begin a run, perhaps not where the last one stopped."""
        self._last = None

    def note(self, so_far: Heatmap) -> None:
        """Take the map of a run on its way: a new estimate of SSIM belongs to the map before.

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
                measured = (stage.status >= Status.TRIMMED) | (stage.status == Status.UNKNOWN)
                return stage.filled(~measured.numpy())
        return None


@dataclass
class Known:
    """The measured values under one key, and the courses of approximate maps.

    Attributes:
        heatmap: The one with the most exact positions.
        courses: By their aim.
    """

    heatmap: Heatmap | None = None
    courses: dict[Aim, Course] = field(default_factory=dict)

    def note(self, heatmap: Heatmap) -> None:
        """Take a heatmap; keep the one in which more is exact, the newer of two equals."""
        if self.heatmap is None or _exact(heatmap).sum() >= _exact(self.heatmap).sum():
            self.heatmap = heatmap

    def course(self, aim: Aim) -> Course:
        """The course to ``aim``, perhaps one that has not begun."""
        return self.courses.setdefault(aim, Course())

    def of(self, target: int) -> Heatmap | None:
        """The measured map, seen by a class."""
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
    """The exact part of a map; its seconds count if there is one."""
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
    """The map ``exact`` as if only the positions of ``like`` had been measured."""
    values = torch.where(like.measured, exact.values, torch.tensor(math.nan, dtype=exact.values.dtype))
    return replace(
        exact, values=values, measured=like.measured, seconds=like.seconds, ssim_estimate=None
    ).filled()


class Memory:
    """The maps asked for lately, so that a slider moved back shows its map at once.

    Args:
        largest: Bytes that all of them may take; the latest is kept whatever its size.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._known: OrderedDict[MapKey, Known] = OrderedDict()

    def of(self, key: MapKey) -> Known:
        """The values known under ``key``, which is now the latest; the oldest are forgotten."""
        known = self._known.setdefault(key, Known())
        self._known.move_to_end(key)
        while len(self._known) > 1 and self.size > self._largest:
            self._known.popitem(last=False)
        return known

    @property
    def size(self) -> int:
        """Bytes of all maps together."""
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
