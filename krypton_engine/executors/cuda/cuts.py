"""From where on full computation is faster than boxes, and the clock that tells."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

AHEAD = 200_000_000
"""Clock ticks, about a tenth of a second, for which a device is kept busy while PyTorch queues what is timed:
it then runs without gaps, as a recorded graph does."""


class Clock:
    """Times of marks since it was made, on a device that works by itself.

    Args:
        device: The device.
        ahead: Ticks for which it is kept busy first.
    """

    def __init__(self, device: torch.device, ahead: int = AHEAD) -> None:
        self._device = device
        self._marks: list[Any] = []
        if device.type == "cuda":
            torch.cuda._sleep(ahead)
        self.mark()

    def mark(self) -> None:
        """Now, in the order of what the device does."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """From the beginning to every later mark; waits for the device."""
        first, *rest = self._marks
        if self._device.type != "cuda":
            return [mark - first for mark in rest]
        self._marks[-1].synchronize()
        return [first.elapsed_time(mark) / 1000 for mark in rest]


def cheapest_cut(on_boxes: Sequence[float], in_full: Sequence[float]) -> int:
    """After which of several points full computation should go on.

    Args:
        on_boxes: Seconds until each point, and until the end, on boxes.
        in_full: The same for full computation.

    Returns:
        The number of the point; that of the end if boxes pay all the way.
    """
    total = [boxes + in_full[-1] - full for boxes, full in zip(on_boxes, in_full, strict=True)]
    return max(range(len(total)), key=lambda k: (-total[k], k))
