"""A killed run goes on: the end is that of an undisturbed one, and nothing is done twice."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support import collecting
from support.collecting import Stub, arrays, collect, files_of

from krypton_engine.collection import Collection, layout, maps, store
from krypton_engine.collection.crew import Crew, Gone, replies
from krypton_engine.collection.sources import Item
from krypton_engine.collection.work import Reply, Task
from krypton_engine.errors import InputError


class Killed(BaseException):
    """As far as this process goes on, the one that it plays is dead."""


class Reaper:
    """Lets so many steps that change the disk happen, and none after that."""

    def __init__(self, monkeypatch, error=Killed):
        self.left, self.error = None, error
        for owner, name in (
            (os, "replace"),
            (Path, "replace"),
            (Path, "unlink"),
            (os, "rename"),
            (os, "fsync"),
        ):
            monkeypatch.setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, act):
        def step(*arguments, **options):
            if self.left is not None:
                if not self.left:
                    raise self.error()
                self.left -= 1
            return act(*arguments, **options)

        return step


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of four rows, so that a few images make several."""
    for module in (layout, store, maps):
        monkeypatch.setattr(module, "BLOCK", 4)


def images():
    return {**arrays(10), "image 6": -np.ones((1, 8, 8), np.float32)}  # one of them fails


def full():
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("fault", "first", "stride"),
    [
        (Killed, 1, 9),
        (full, 5, 9),
        pytest.param(Killed, 0, 1, marks=pytest.mark.slow),
        pytest.param(full, 0, 1, marks=pytest.mark.slow),
    ],
)
def test_at_every_step_to_the_disk(tmp_path, monkeypatch, small_blocks, fault, first, stride):
    collect(images(), tmp_path / "undisturbed")
    expected = files_of(tmp_path / "undisturbed")
    reaper, steps = Reaper(monkeypatch, fault), first
    while True:  # killed before the first step, before the second, ...
        out, log = tmp_path / f"out{steps}", tmp_path / f"log{steps}"
        reaper.left = steps
        try:
            collect(images(), out, Stub(log=str(log)))
            break
        except (Killed, OSError):
            reaper.left = None
        finished = Collection(out) if (out / "collection.json").exists() else {}
        for name in finished:
            assert torch.equal(finished[name].values, torch.from_numpy(images()[name][0, ::2, ::2]))
        collect(images(), out, Stub(log=str(log)))
        assert files_of(out) == expected
        done = Counter(log.read_text().split("\n"))
        assert sum(done.values()) - len(done) <= 1  # what was being done
        steps += stride
    assert steps > 40


def test_twice_killed_while_it_recovers(tmp_path, monkeypatch, small_blocks):
    collect(images(), tmp_path / "undisturbed")
    expected = files_of(tmp_path / "undisturbed")
    reaper, generator = Reaper(monkeypatch), random.Random(0)
    for trial in range(10):
        out, deaths = tmp_path / f"out{trial}", 0
        while True:
            reaper.left = generator.randrange(60)
            try:
                collect(images(), out)
                break
            except Killed:
                deaths += 1
        reaper.left = None
        assert files_of(out) == expected
        assert deaths


def start(folder, count, workers, seconds):
    command = [sys.executable, collecting.__file__, str(folder), str(count), str(workers), str(seconds)]
    path = os.pathsep.join([str(Path(collecting.__file__).parents[1]), *filter(None, sys.path)])
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE)


def children(parent):
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def killed_at_random(folder, count, workers, seconds, kills, seed):
    """A collection that was killed so many times: the parent, or one of its workers."""
    generator = random.Random(seed)
    left, deaths = kills, Counter()
    while True:
        process = start(folder, count, workers, seconds)
        done = len(list((folder / "out").glob("fresh/*"))) if folder.exists() else 0
        while process.poll() is None and left:
            time.sleep(generator.uniform(0, 0.4))
            fresh = len(list((folder / "out").glob("fresh/*")))
            if fresh <= done:
                continue  # nothing new to lose yet
            done = fresh
            workers_now = children(process.pid)
            if workers_now and generator.random() < 0.5:
                try:
                    os.kill(generator.choice(workers_now), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                deaths["worker"] += 1
            else:
                process.kill()
                deaths["parent"] += 1
            left -= 1
        if process.wait(timeout=300) == 0:
            return deaths
        assert process.returncode == -signal.SIGKILL, process.stderr.read().decode()


def check_killed(folder, count, workers, kills, seconds=0.05):
    folder.mkdir()
    deaths = killed_at_random(folder, count, workers, seconds, kills, seed=kills)
    collect(arrays(count), folder / "undisturbed")
    assert files_of(folder / "out") == files_of(folder / "undisturbed")
    assert sum(deaths.values()) == kills
    passes = len((folder / "log").read_text().split("\n")) - 1
    in_flight = deaths["parent"] * workers + deaths["worker"]
    assert passes <= 1.05 * count + in_flight
    return deaths


def test_processes_killed_at_random(tmp_path):
    check_killed(tmp_path / "few", count=20, workers=2, kills=1)


@pytest.mark.slow
def test_fifty_kills(tmp_path):
    deaths = check_killed(tmp_path / "many", count=300, workers=2, kills=50)
    assert min(deaths["parent"], deaths["worker"]) > 10


@pytest.mark.slow
def test_an_image_that_workers_die_of(tmp_path):
    found = collect(arrays(6), tmp_path / "out", Stub(fatal="image 2"), workers=2)
    assert len(found) == 5
    assert "5 workers died of it" in found.failures["image 2"] and "SIGKILL" in found.failures["image 2"]


class Plays:
    """A worker that answers at once, or dies whenever it begins."""

    def __init__(self, dies):
        self.dies, self.held = dies, []

    def start(self):
        if self.dies:
            raise Gone("no memory")

    def send(self, task):
        self.held.append(Reply(task, None))

    def receive(self):
        return self.held.pop(0)

    def stop(self):
        pass


def test_a_worker_that_cannot_begin_is_done_without():
    tasks = [Task(row, Item(str(row))) for row in range(9)]
    with pytest.warns(RuntimeWarning, match="died as it began, 5 times: no memory; the work goes on with 1"):
        crew = Crew(Stub(), [Plays(dies=True), Plays(dies=False)])
        assert sorted(reply.task.row for reply in replies(crew, tasks)) == list(range(9))
        while crew._left == 2:
            time.sleep(0.01)
    crew.close()
    with pytest.warns(RuntimeWarning), pytest.raises(RuntimeError, match="died as it began, 5 times"):
        list(replies(Crew(Stub(), [Plays(dies=True), Plays(dies=True)]), tasks))


def test_a_second_process_is_refused(tmp_path):
    process = start(tmp_path, 40, 1, 0.2)
    while not list(tmp_path.glob("out/fresh/*")):
        assert process.poll() is None
        time.sleep(0.05)
    with pytest.raises(InputError, match="to which another process is writing now"):
        collect(arrays(40), tmp_path / "out")
    assert len(Collection(tmp_path / "out")) < 40  # but anybody may read
    process.kill()
    process.wait()
    assert len(collect(arrays(40), tmp_path / "out")) == 40


def test_an_interrupt_leaves_a_manifest(tmp_path, monkeypatch):
    class Interrupted(Stub):
        def explained(self, prepared, item, exact=False):
            if item.id == "image 5":
                raise KeyboardInterrupt
            return super().explained(prepared, item, exact)

    with pytest.raises(KeyboardInterrupt):
        collect(arrays(8), tmp_path / "out", Interrupted())
    table = store.rows.read(tmp_path / "out/manifest.parquet")
    assert table["status"].to_pylist() == ["done"] * 5 + ["pending"] * 3
    collect(arrays(8), tmp_path / "out")
    collect(arrays(8), tmp_path / "undisturbed")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")
