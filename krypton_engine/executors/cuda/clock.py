"""A clock for a device that works by itself."""

from __future__ import annotations

import time

import torch

AHEAD = 200_000_000
"""Clock ticks, about a tenth of a second, for which a device is kept busy while PyTorch queues the work that
is timed: the device then runs without gaps, as it runs a recorded graph."""


class Clock:
    """Times of marks since the clock was made, on a device that works by itself.

    Args:
        device: The device.
        ahead: Clock ticks for which the device is kept busy first.

    Examples:
        >>> clock = Clock(torch.device("cpu"))
        >>> clock.mark()
        >>> clock.mark()
        >>> first, second = clock.seconds()
        >>> 0 <= first <= second
        True
    """

    def __init__(self, device: torch.device, ahead: int = AHEAD) -> None:
        self._device = device
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []
        if device.type == "cuda":
            torch.cuda._sleep(ahead)
        self.mark()

    def mark(self) -> None:
        """Note the time at which the device has done all that it was given so far."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._times.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Seconds from the beginning to every later mark; waits for the device."""
        if self._device.type != "cuda":
            return [mark - self._times[0] for mark in self._times[1:]]
        first, *later = self._events
        self._events[-1].synchronize()
        return [first.elapsed_time(mark) / 1000 for mark in later]
