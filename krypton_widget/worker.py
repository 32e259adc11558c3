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

    A job gets a function that says whether it has been cancelled, and should call it often. A new job cancels
    the one that runs and takes the place of the one that waits.

    Args:
        name: Name of the thread.
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
    def _busy(self) -> bool:
        """Whether a job runs or waits."""
        return self._running is not None or self._waiting is not None

    def submit(self, work: Callable[[Cancelled], None]) -> bool:
        """Cancel the running job and do ``work`` once that has stopped; False, and no work, after `close`.

        Examples:
            >>> worker, done = LatestWins("example"), []
            >>> worker.submit(lambda cancelled: done.append(cancelled()))
            True
            >>> worker.wait()
            >>> done
            [False]
            >>> worker.close()
        """
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
        """Ask the running job to stop, and drop the one that waits; returns whether one did.

        Examples:
            >>> worker = LatestWins("example")
            >>> def count(cancelled):
            ...     while not cancelled():
            ...         pass
            >>> _ = worker.submit(count)
            >>> _ = worker.cancel()
            >>> worker.wait(timeout=10)
            >>> worker.close()
        """
        with self._changed:
            dropped, self._waiting = self._waiting is not None, None
            if self._running is not None:
                self._running.cancelled.set()
            self._changed.notify_all()
            return dropped

    def wait(self, timeout: float | None = None) -> None:
        """Return when no job runs or waits.

        Raises:
            TimeoutError: A job still runs or waits after ``timeout`` seconds.
            BaseException: The error of the latest job.

        Examples:
            >>> worker = LatestWins("example")
            >>> _ = worker.submit(lambda cancelled: 1 / 0)
            >>> worker.wait()
            Traceback (most recent call last):
            ZeroDivisionError: division by zero
            >>> worker.close()
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._busy, timeout):
                raise TimeoutError(f"the latest run has not ended within timeout={timeout} seconds")
            if self._latest is not None and self._latest.error is not None:
                raise self._latest.error

    def close(self, timeout: float = 2.0) -> None:
        """Cancel everything and end the thread, waiting for it at most ``timeout`` seconds.

        Examples:
            >>> worker = LatestWins("example")
            >>> worker.close()
            >>> worker.submit(lambda cancelled: None)
            False
        """
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
    """A limit on how often something happens: once in so many ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = -float("inf")

    def ready(self) -> bool:
        """Whether the event may happen now; if so, it counts as happened.

        Examples:
            >>> pace = Pace(60.0)
            >>> pace.ready(), pace.ready()
            (True, False)
        """
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
