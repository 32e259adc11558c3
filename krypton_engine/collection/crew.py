"""Several workers at once: processes of this machine, or actors of a cluster."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch

from krypton_engine.collection.call import Call
from krypton_engine.collection.work import Here, Reply, Task, begun, failed
from krypton_engine.common.packages import imported
from krypton_engine.errors import FallbackWarning, InputError, RoundingWarning

MOST_DEATHS = 5
"""Deaths one after the other, of workers by one row or of one worker at its start, after which that is given
up: an image or a worker for which memory is too small must not keep a collection from its end."""


class Engine(Protocol):
    """Something that answers tasks, in any order."""

    slots: int
    """Tasks that it takes at once."""

    def submit(self, task: Task) -> None:
        """Take a task."""

    def reply(self) -> Reply:
        """Wait for the answer to one of the tasks."""

    def close(self) -> None:
        """Give up what has not been answered."""


def replies(engine: Engine, tasks: Iterable[Task]) -> Iterator[Reply]:
    """The answers to tasks, as they come; of the tasks only as many are taken as the engine has slots.

    Args:
        engine: The engine.
        tasks: The tasks.

    Examples:
        >>> class Echo:
        ...     slots, held = 2, []
        ...     def submit(self, task):
        ...         self.held.append(Reply(task, None))
        ...     def reply(self):
        ...         return self.held.pop(0)
        >>> [reply.task for reply in replies(Echo(), "abc")]
        ['a', 'b', 'c']
    """
    held = 0
    for task in tasks:
        engine.submit(task)
        held += 1
        if held == engine.slots:
            yield engine.reply()
            held -= 1
    for _ in range(held):
        yield engine.reply()


class Gone(Exception):
    """A worker that is no more; the message says why, as far as anybody knows."""


class Worker(Protocol):
    """Something of its own that works, and may die at any moment."""

    def start(self) -> None:
        """Begin, or begin anew; raises `Gone`, or what is wrong with the call."""

    def send(self, task: Task) -> None:
        """Give it a task; raises `Gone`."""

    def receive(self) -> Reply:
        """Wait for the answer to one of its tasks; raises `Gone`."""

    def stop(self) -> None:
        """End it at once, whatever it does."""


class Crew:
    """Workers that share the tasks; a task whose worker dies goes to another.

    Args:
        call: The call.
        workers: The workers, which a thread each looks after.

    Examples:
        >>> class Echo:
        ...     def start(self): self.held = []
        ...     def send(self, task): self.held.append(Reply(task, None))
        ...     def receive(self): return self.held.pop(0)
        ...     def stop(self): pass
        >>> from krypton_engine.collection.call import OcclusionCall
        >>> from krypton_engine.collection.sources import Item
        >>> crew = Crew(OcclusionCall.of(model, {}, None, "auto", None), [Echo(), Echo()])
        >>> sorted(reply.task.row for reply in replies(crew, (Task(row, Item("a")) for row in range(5))))
        [0, 1, 2, 3, 4]
        >>> crew.close()
    """

    def __init__(self, call: Call, workers: Sequence[Worker]) -> None:
        self._call = call
        self.slots = 2 * len(workers)  # one is explained while the next is read
        self._workers = workers
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()  # None where there are no more
        self._replies: queue.SimpleQueue[Reply | Exception] = queue.SimpleQueue()
        self._deaths: dict[int, int] = {}
        self._closed = False
        self._left, self._leaving = len(workers), threading.Lock()
        for worker in workers:
            threading.Thread(target=self._look_after, args=(worker,), daemon=True).start()

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._tasks.put(task)

    def reply(self) -> Reply:
        """Wait for the answer to one of the tasks.

        Raises:
            Exception: The workers cannot begin.
        """
        found = self._replies.get()
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """End the workers, whatever they do."""
        self._closed = True
        for worker in self._workers:
            self._tasks.put(None)
            worker.stop()

    def _look_after(self, worker: Worker) -> None:
        held: deque[Task] = deque()
        starts = 0
        while not self._closed:
            try:
                worker.start()
                starts = 0
                while True:
                    self._fill(worker, held)
                    reply = worker.receive()
                    held = deque(task for task in held if task.row != reply.task.row)
                    self._deaths.pop(reply.task.row, None)
                    self._replies.put(reply)
            except Gone as gone:
                starts += not held
                self._give_back(held, gone)
                if starts == MOST_DEATHS:
                    self._give_up(gone)
                    return
            except Exception as error:
                self._replies.put(error)
                return

    def _give_up(self, gone: Gone) -> None:
        """Go on without a worker that cannot begin, as long as there is another."""
        with self._leaving:
            self._left -= 1
            told = f"a worker died as it began, {MOST_DEATHS} times: {gone}"
            if self._left:
                message = f"{told}; the work goes on with {self._left}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)
            else:
                self._replies.put(RuntimeError(told))

    def _fill(self, worker: Worker, held: deque[Task]) -> None:
        """Give a worker a second task, if there is one; waits for the first."""
        with suppress(queue.Empty):
            while len(held) < 2:
                task = self._tasks.get(block=not held)
                if task is None:
                    raise Gone("no longer needed")
                held.append(task)
                worker.send(task)

    def _give_back(self, held: deque[Task], gone: Gone) -> None:
        """Tasks of a worker that died, to others; it was the first that it died of."""
        if held and not self._closed:
            deaths = self._deaths[held[0].row] = self._deaths.get(held[0].row, 0) + 1
            if deaths == MOST_DEATHS:
                task = held.popleft()
                error = RuntimeError(f"{deaths} workers died of it one after the other, the last: {gone}")
                self._replies.put(Reply(task, failed(begun(self._call, task), error)))
            while held:
                self._tasks.put(held.popleft())


def usual_workers(model: object) -> int:
    """Processes that this machine's cores allow, each with the threads of `threads_each`; one with a GPU.

    Args:
        model: The model, which may lie on a GPU.

    Examples:
        >>> 1 <= usual_workers(model) <= cores()
        True
    """
    if isinstance(model, torch.nn.Module) and any(each.is_cuda for each in model.parameters()):
        return 1
    return max(1, cores() // threads_each(cores()))


def threads_each(workers: int) -> int:
    """Threads of each of some processes: those of OMP_NUM_THREADS, or else what the cores allow.

    Examples:
        >>> threads_each(workers=1000)
        1
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else max(1, cores() // workers)


def cores() -> int:
    """Cores that this process may use.

    Examples:
        >>> cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class LocalWorker:
    """A process of this machine.

    Weights are memory-mapped from a file that all of them share. What the process prints goes to stderr.

    Args:
        call: File that holds the call; see `saved_call`.
        threads: Threads that the process may use.

    Examples:
        >>> from krypton_engine.collection.call import OcclusionCall
        >>> from krypton_engine.collection.sources import Item
        >>> call = OcclusionCall.of(model, {"sliding_window_shapes": (3, 8, 8)}, None, "auto", None)
        >>> saved_call(call, Path("call"))
        >>> worker = LocalWorker(Path("call"), threads=1)
        >>> worker.start()
        >>> worker.send(Task(0, Item("a", array=x[0].numpy())))
        >>> worker.receive().record["status"]
        'done'
        >>> worker.stop()
    """

    def __init__(self, call: Path, threads: int) -> None:
        self._call, self._threads = call, threads
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def start(self) -> None:
        """Start the process, and wait until it is ready."""
        count = str(self._threads)
        command = "from krypton_engine.collection.crew import _child; _child()"
        path = os.pathsep.join(filter(None, [*sys.path, os.getcwd()]))  # models come from there
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", command, str(self._call), count],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": count, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is this process's, which ends the others
        )
        if self._stopped:
            self._process.kill()
        ready = self._received()
        if isinstance(ready, Exception):
            raise ready

    def send(self, task: Task) -> None:
        """Give the process a task."""
        assert self._process is not None and self._process.stdin is not None
        try:
            pickle.dump(task, self._process.stdin)
            self._process.stdin.flush()
        except OSError:
            raise self._gone() from None

    def receive(self) -> Reply:
        """Wait for an answer."""
        reply: Reply = self._received()
        return reply

    def _received(self) -> Any:
        assert self._process is not None and self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise self._gone() from None

    def _gone(self) -> Gone:
        assert self._process is not None
        self._process.kill()
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        return Gone(f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}")

    def stop(self) -> None:
        """Kill the process."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def saved_call(call: Call, path: Path) -> None:
    """Write a call to a file that workers read.

    Raises:
        InputError: A part of the call cannot be pickled.

    Examples:
        >>> from krypton_engine.collection.call import OcclusionCall
        >>> saved_call(OcclusionCall.of(model, {}, None, "auto", None), Path("call"))
        >>> read_call(Path("call")).arguments
        {}
    """
    try:
        with path.open("wb") as file:
            torch.save(call, file, pickle_module=imported("cloudpickle", "collection"))
    except OSError:
        raise
    except Exception as error:  # of whatever is pickled
        problem = f"with a call that cannot be pickled: {error}"
        raise InputError("workers", "several", "1, or a model that can be pickled", problem, "are") from error


def read_call(path: Path, device: str | None = None) -> Call:
    """The call in a file, its weights mapped into memory.

    Args:
        path: The file.
        device: Device that all tensors are put on; None for those that they were on.

    Examples:
        >>> from krypton_engine.collection.call import OcclusionCall
        >>> saved_call(OcclusionCall.of(model, {}, None, "auto", None), Path("call"))
        >>> type(read_call(Path("call"), "cpu")).__name__
        'OcclusionCall'
    """
    call: Call = torch.load(path, mmap=True, weights_only=False, map_location=device)
    return call


def _child() -> None:
    """The life of a worker process: tasks come on stdin, whose end ends it; replies go to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tasks, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a model prints is no answer

    def answer(content: object) -> None:
        try:
            pickle.dump(content, answers)
            answers.flush()
        except OSError:  # nobody is left to work for
            os._exit(0)

    try:
        torch.set_num_threads(int(sys.argv[2]))
        here = Here(read_call(Path(sys.argv[1])))
    except Exception as error:
        answer(RuntimeError(f"a worker cannot begin: {type(error).__name__}: {error}"))
        os._exit(1)
    answer("ready")
    threading.Thread(target=_take, args=(tasks, here), daemon=True).start()
    for reply in _noted(here):
        answer(reply)


def _take(tasks: BinaryIO, here: Here) -> None:
    """Submit tasks as they come, and end the process where they end."""
    with suppress(EOFError, OSError):
        while True:
            here.submit(pickle.load(tasks))
    os._exit(0)


def _noted(here: Here) -> Iterator[Reply]:
    """Replies without end, with our warnings on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        for ours in (FallbackWarning, RoundingWarning):
            warnings.simplefilter("always", ours)
        while True:
            reply = here.reply()
            notes = tuple((warning.category, str(warning.message)) for warning in caught)
            caught.clear()
            yield replace(reply, notes=notes)
