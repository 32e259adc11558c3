"""One thread that does the newest job only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Cancelled = Callable[[], bool]
"""Whether the job that asks should stop."""


@dataclass
class _Job:
    work: Callable[[Cancelled], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None


class LatestWins:
    """A worker thread for jobs of which only the newest matters.

    A job gets a function that tells whether it has been cancelled, and should look often. A new job cancels
    the one that runs and takes the place of the one that waits.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._running: _Job | None = None
        self._waiting: _Job | None = None
        self._latest: _Job | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return self._running is not None or self._waiting is not None

    def submit(self, work: Callable[[Cancelled], None]) -> bool:
        """Cancel what runs and do ``work`` as soon as that has stopped; False once closed: it will not."""
        with self._changed:
            if self._closed:
                return False
            if self._running is not None:
                self._running.cancelled.set()
            self._waiting = self._latest = _Job(work)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return True

    def cancel(self) -> bool:
        """Ask the running job to stop, and drop the one that waits; returns whether one did."""
        with self._changed:
            dropped, self._waiting = self._waiting is not None, None
            if self._running is not None:
                self._running.cancelled.set()
            self._changed.notify_all()
            return dropped

    def wait(self, timeout: float | None = None) -> None:
        """Return when there is nothing left to do.

        Raises:
            TimeoutError: There still is after ``timeout`` seconds.
            BaseException: What the latest job raised.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self.busy, timeout):
                raise TimeoutError(f"the latest run has not ended within timeout={timeout} seconds")
            if self._latest is not None and self._latest.error is not None:
                raise self._latest.error

    def close(self, timeout: float = 2.0) -> None:
        """Cancel everything and end the thread, waiting for it at most ``timeout`` seconds."""
        with self._changed:
            self._closed = True
        self.cancel()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                if self._waiting is None:
                    return
                job, self._waiting = self._waiting, None
                self._running = job
            try:
                job.work(job.cancelled.is_set)
            except BaseException as error:  # told by `wait`; the thread lives on
                job.error = error
            finally:
                with self._changed:
                    self._running = None
                    self._changed.notify_all()


class Pace:
    """Lets something happen at most every ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = -float("inf")

    def ready(self) -> bool:
        """Whether the event may happen now; if so, it counts as happened."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
