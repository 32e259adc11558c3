"""Workers on a Ray cluster: an actor each, which keeps the model, its programs and the tuning.

The crew that local processes have hands out the tasks, two an actor, so that a slow machine is given fewer;
the driver alone writes. Ray Data's pool of actors does the same but for one thing: its blocks are settled as
wholes, so that a node which goes away takes finished rows along.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from krypton_engine.collection.call import Call
from krypton_engine.collection.crew import Crew, Gone, read_call
from krypton_engine.collection.work import Here, Reply, Task
from krypton_engine.common.packages import imported


class Actor:
    """A process of the cluster at work; two calls at once, so that the next image is read meanwhile.

    Args:
        content: The bytes of a call; see `krypton_engine.collection.crew.saved_call`.
        device: Device that everything is put on; empty for the CPU.
        places: Folders that modules may be imported from, if they are there.

    Examples:
        >>> from krypton_engine.collection.call import OcclusionCall
        >>> from krypton_engine.collection.crew import saved_call
        >>> from krypton_engine.collection.sources import Item
        >>> call = OcclusionCall.of(model, {"sliding_window_shapes": (3, 8, 8)}, None, "auto", None)
        >>> saved_call(call, Path("call"))
        >>> actor = Actor(Path("call").read_bytes(), "cpu", [])
        >>> actor.explain(Task(0, Item("a", array=x[0].numpy()))).record["status"]
        'done'
    """

    def __init__(self, content: bytes, device: str, places: Sequence[str]) -> None:
        sys.path += [place for place in places if place not in sys.path]
        with tempfile.TemporaryDirectory(prefix="krypton-") as folder:
            path = Path(folder, "call")
            path.write_bytes(content)
            self._here = Here(read_call(path, device))
        self._one = threading.Lock()

    def ready(self) -> bool:
        """True, as soon as the model is there."""
        return True

    def explain(self, task: Task) -> Reply:
        """The answer to one of the tasks that were given and not answered yet."""
        self._here.submit(task)
        with self._one:
            return self._here.reply()


class RayWorker:
    """An actor, started anew where there is room for it whenever it dies.

    Args:
        content: Reference to the bytes of the call in Ray's object store.
        resources: Options of the actor: ``num_cpus``, ``num_gpus``.

    Examples:
        >>> RayWorker(content=None, resources={"num_cpus": 1}).stop()  # none has been started
    """

    def __init__(self, content: Any, resources: dict[str, float]) -> None:
        self._content, self._resources = content, resources
        self._actor: Any = None
        self._waiting: list[Any] = []
        self._stopped = False

    def start(self) -> None:
        """Start the actor, and wait until it is ready."""
        ray = imported("ray", "ray")
        self._waiting = []
        remote = ray.remote(Actor).options(
            max_concurrency=2, max_restarts=0, scheduling_strategy="SPREAD", **self._resources
        )
        device = "cuda" if self._resources.get("num_gpus") else "cpu"
        self._actor = remote.remote(self._content, device, [*filter(None, sys.path), os.getcwd()])
        if self._stopped:
            self.stop()
        self._get(self._actor.ready.remote())

    def send(self, task: Task) -> None:
        """Give the actor a task."""
        self._waiting.append(self._actor.explain.remote(task))

    def receive(self) -> Reply:
        """Wait for an answer."""
        ray = imported("ray", "ray")
        (found,), self._waiting = ray.wait(self._waiting, num_returns=1)
        reply: Reply = self._get(found)
        return reply

    def _get(self, found: Any) -> Any:
        ray = imported("ray", "ray")
        try:
            return ray.get(found)
        except ray.exceptions.RayActorError as error:
            raise Gone(" ".join(str(error).split())[:200]) from None

    def stop(self) -> None:
        """Kill the actor."""
        self._stopped = True
        if self._actor is not None:
            with suppress(Exception):  # of a cluster that is gone already
                imported("ray", "ray").kill(self._actor)

    @staticmethod
    def crew(call: Call, path: Path, address: str, workers: int | None) -> Crew:
        """A crew of actors on a cluster.

        Args:
            call: The call.
            path: File that `krypton_engine.collection.crew.saved_call` wrote it to.
            address: Address of the cluster; empty for that of ``RAY_ADDRESS``, or one of this machine's own.
            workers: Actors of one core each; None for one a core of the cluster, and one a GPU besides.

        Raises:
            InputError: Ray is missing.
            ConnectionError: There is no such cluster.
        """
        ray = imported("ray", "ray")
        if not ray.is_initialized():
            ray.init(address=address or None, log_to_driver=False, logging_level="warning")
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        cpus = workers or max(1, int(there.get("CPU", 1)) - gpus)
        content = ray.put(path.read_bytes())
        each: list[dict[str, float]] = [{"num_cpus": 1}] * cpus
        each += [{"num_cpus": 1, "num_gpus": 1}] * (0 if workers else gpus)
        return Crew(call, [RayWorker(content, resources) for resources in each])
