"""What is known of the maps asked for, and what a page needs to draw one. No widget, no threads."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krypton_engine.heatmap import Heatmap
from krypton_engine.quality import ssim
from krypton_engine.windows import SlidingWindow
from krypton_widget.filling import COARSEST, Flags, every, filled, finest_complete

Region = tuple[int, ...] | Flags | None
"""Where to look: everywhere, a box (top, left, bottom, right), or a mask (height, width)."""

UNKNOWN, INTERPOLATED, MEASURED = 0, 1, 2
"""How the value of a cell was come by."""


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


@dataclass
class Known:
    """What has been measured for a question.

    Attributes:
        heatmap: What has been measured so far.
        seconds: After how many seconds the grid of every n-th position was complete, by n.
    """

    heatmap: Heatmap | None = None
    seconds: dict[int, float] = field(default_factory=dict)

    def note(self, heatmap: Heatmap) -> None:
        """Take a heatmap that has measured more."""
        self.heatmap = heatmap
        measured = on_grid(heatmap, heatmap.measured)
        step = COARSEST
        while step >= 1:
            if step not in self.seconds and measured[::step, ::step].all():
                self.seconds[step] = heatmap.seconds
            step //= 2

    @property
    def complete(self) -> bool:
        """Whether every position has been measured."""
        return self.heatmap is not None and bool(self.heatmap.measured.all())


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
        while len(self._known) > 1 and sum(_bytes(k.heatmap) for k in self._known.values()) > self._largest:
            self._known.popitem(last=False)
        return known

    def heatmaps(self) -> list[Heatmap]:
        """All that is known."""
        return [known.heatmap for known in list(self._known.values()) if known.heatmap is not None]


def _bytes(heatmap: Heatmap | None) -> int:
    if heatmap is None:
        return 0
    kept = (heatmap.values, heatmap.measured, heatmap.classes, heatmap.class_values, heatmap.outputs)
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


def asked(wanted: Flags, step: int) -> tuple[Flags, int]:
    """Positions to measure, and their step: all of them where the coarse grid misses a small region."""
    cells = wanted & every(wanted.shape, step)
    return (cells, step) if cells.any() else (wanted, 1)


def as_engine(region: Region) -> Tensor | tuple[int, ...] | None:
    """A region as `KryptonOcclusion.heatmap` takes it."""
    return torch.from_numpy(region) if isinstance(region, np.ndarray) else region


def step_for(ssim_target: float, exact: bool) -> int:
    """Every how many positions are measured along each axis, the others interpolated."""
    if exact or ssim_target >= 1:
        return 1
    return 2 if ssim_target >= 0.9 else 4


@dataclass(frozen=True)
class Picture:
    """A map as it is shown: measured where it has been, else interpolated.

    Attributes:
        values: (rows, columns), the target's output; NaN where nothing is known or wanted.
        known: How each was come by.
        step: The finest grid that is complete; None before the coarsest is.
    """

    values: Any
    known: Any
    step: int | None

    @staticmethod
    def of(heatmap: Heatmap, wanted: Flags, step: int) -> Picture:
        """Show what was measured on the grid of every ``step``-th position, where ``wanted``."""
        values = on_grid(heatmap, heatmap.values).astype(np.float32)
        measured = on_grid(heatmap, heatmap.measured) & wanted & every(wanted.shape, step)
        known = np.full(wanted.shape, UNKNOWN, dtype=np.uint8)
        if not measured.any():
            return Picture(np.full(wanted.shape, np.nan, dtype=np.float32), known, None)
        known[wanted] = INTERPOLATED
        known[measured] = MEASURED
        shown = np.where(wanted, filled(values, measured), np.nan).astype(np.float32)
        return Picture(shown, known, finest_complete(measured, wanted))


def to_page(heatmap: Heatmap, picture: Picture) -> dict[str, Any]:
    """What the page draws: numbers as little-endian bytes, row by row."""
    window = heatmap.window
    measured = picture.known == MEASURED

    def cells(tensor: Tensor | None, missing: float, dtype: type[np.generic]) -> bytes:
        if tensor is None:
            return b""
        return np.where(measured, on_grid(heatmap, tensor), missing).astype(dtype).tobytes()

    drops = np.abs(float(heatmap.base) - picture.values[picture.known != UNKNOWN])
    return {
        "rows": window.counts[1],
        "columns": window.counts[2],
        "height": window.input_shape[1],
        "width": window.input_shape[2],
        "window": window.shape[1],
        "stride": window.strides[1],
        "target": heatmap.target,
        "base": float(heatmap.base),
        "step": picture.step or 0,
        "largest": float(drops.max()) if drops.size else 0.0,
        "values": picture.values.tobytes(),
        "known": picture.known.tobytes(),
        "classes": cells(heatmap.classes, -1, np.int32),
        "classValues": cells(heatmap.class_values, np.nan, np.float32),
    }


def comparison(known: Known, heatmap: Heatmap, step: int, pass_seconds: float | None) -> dict[str, Any]:
    """The approximate map beside the exact one, and what each cost.

    Args:
        known: A complete map.
        heatmap: The same for the target shown.
        step: The approximate map's.
        pass_seconds: What full inference takes for a position; None if not timed yet.
    """
    everywhere = wanted(heatmap.window, None)
    approximate = Picture.of(heatmap, everywhere, step)
    exact = Picture.of(heatmap, everywhere, 1)
    positions, measured = everywhere.size, int((approximate.known == MEASURED).sum())
    seconds, exact_seconds = known.seconds[step], known.seconds[1]
    full = None if pass_seconds is None else pass_seconds * positions
    return {
        "rows": everywhere.shape[0],
        "columns": everywhere.shape[1],
        "window": heatmap.window.shape[1],
        "stride": heatmap.window.strides[1],
        "target": heatmap.target,
        "base": float(heatmap.base),
        "step": step,
        "approximate": approximate.values.tobytes(),
        "known": approximate.known.tobytes(),
        "exact": exact.values.tobytes(),
        "ssim": ssim(torch.from_numpy(approximate.values), torch.from_numpy(exact.values)),
        "positions": positions,
        "measured": measured,
        "seconds": seconds,
        "exactSeconds": exact_seconds,
        "speedUp": exact_seconds / max(seconds, 1e-9),
        "fullSeconds": full,
        "fullSpeedUp": None if full is None else full / max(seconds, 1e-9),
        "fullSpeedUpExact": None if full is None else full / max(exact_seconds, 1e-9),
    }
