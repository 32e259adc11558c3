"""Collections on a Ray cluster of two nodes, of which one goes away."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from dataclasses import replace

import pytest
import torch
from support.collecting import Stub, arrays, collect, files_of

from krypton_engine import KryptonOcclusion
from krypton_engine.collection import explain

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster  # noqa: E402


@pytest.fixture
def cluster():
    """Two nodes of one core: the head, which drives as well, and one that can go away."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster, node
    ray.shutdown()
    cluster.shutdown()


def test_a_node_goes_away_and_nothing_is_lost(tmp_path, cluster):
    cluster, node = cluster
    log, count = tmp_path / "log", 14

    def remove():
        while not log.exists() or len(log.read_text().split("\n")) < 6:
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)

    remover = threading.Thread(target=remove)
    remover.start()
    found = collect(arrays(count), tmp_path / "ray", Stub(log=str(log), seconds=0.2), workers=2, ray="auto")
    remover.join()
    assert len(found) == count and not found.failures
    collect(arrays(count), tmp_path / "here")
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "here")
    assert len(log.read_text().split("\n")) - 1 <= count + 2  # but what was in hand


def actors():
    found = subprocess.run(["pgrep", "-f", "^ray::Actor"], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.slow
def test_actors_are_killed_and_nothing_is_lost(tmp_path, cluster):
    log, count, kills, generator = tmp_path / "log", 200, 25, random.Random(0)
    dead = []

    def kill():
        done = 0
        while len(dead) < kills:
            time.sleep(generator.uniform(0, 1))
            fresh = len(list((tmp_path / "ray/fresh").glob("*"))) if log.exists() else 0
            there = [actor for actor in actors() if actor not in dead]
            if fresh > done and there:  # something new to lose
                done = fresh
                dead.append(generator.choice(there))
                os.kill(dead[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = collect(arrays(count), tmp_path / "ray", Stub(log=str(log), seconds=0.2), workers=2, ray="auto")
    killer.join()
    assert len(found) == count and not found.failures
    collect(arrays(count), tmp_path / "here")
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "here")
    assert len(log.read_text().split("\n")) - 1 <= 1.05 * count + kills


@pytest.mark.slow
def test_actors_make_the_maps_of_a_loop(tmp_path, cluster, cnn, images):
    pairs = {str(i): x for i, x in enumerate(images)}
    found = explain(pairs, cnn, (3, 8, 8), (3, 4, 4), out=tmp_path / "real", ray="auto", workers=None)
    for i, x in enumerate(images):
        expected = replace(KryptonOcclusion(cnn).heatmap(x[None], (3, 8, 8), (3, 4, 4)), image=None)
        assert torch.allclose(found[str(i)].values, expected.values, atol=1e-6)
