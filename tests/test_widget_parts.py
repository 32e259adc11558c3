"""The widget's pure parts: interpolation, the worker, steps."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from krypton_widget.filling import every, filled, finest_complete
from krypton_widget.maps import step_for
from krypton_widget.worker import LatestWins


@pytest.mark.parametrize("shape", [(27, 27), (1, 9), (8, 5), (2, 2), (30, 17)])
@pytest.mark.parametrize("step", [8, 4, 2, 1])
def test_a_linear_map_is_filled_without_error(shape, step):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    values = (rows * 0.3 - columns * 0.1 + 2).astype(np.float32)
    measured = every(shape, step)
    full = filled(np.where(measured, values, np.nan).astype(np.float32), measured)
    assert np.array_equal(full[measured], values[measured])
    last = [(n - 1) // step * step for n in shape]
    inside = (rows <= last[0]) & (columns <= last[1])
    assert np.allclose(full[inside], values[inside], atol=1e-5) and np.isfinite(full).all()


@pytest.mark.parametrize("seed", range(5))
def test_any_measured_cells_are_kept_and_the_rest_lies_between(seed):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(13, 11)).astype(np.float32)
    measured = generator.random(values.shape) < 0.2
    measured[3, 4] = True
    full = filled(np.where(measured, values, np.nan).astype(np.float32), measured)
    assert np.array_equal(full[measured], values[measured])
    assert values[measured].min() <= full.min() and full.max() <= values[measured].max()


def test_the_finest_grid_that_is_complete():
    everywhere = np.ones((20, 20), dtype=bool)
    assert finest_complete(np.zeros((20, 20), dtype=bool), everywhere) is None
    for step in (8, 4, 2, 1):
        assert finest_complete(every((20, 20), step), everywhere) == step
    part = np.zeros((20, 20), dtype=bool)
    part[9:12, 9:12] = True
    assert finest_complete(part & every((20, 20), 2), part) == 2


def test_steps():
    assert [step_for(t, False) for t in (0.5, 0.89, 0.9, 0.99, 1.0)] == [4, 4, 2, 2, 1]
    assert step_for(0.5, True) == 1


def test_the_latest_job_wins():
    worker = LatestWins("test worker")
    started, done = threading.Event(), []

    def first(cancelled):
        started.set()
        while not cancelled():
            pass
        done.append("first stopped")

    worker.submit(first)
    assert started.wait(5)
    for i in range(20):
        worker.submit(lambda _, i=i: done.append(i))
    worker.wait(5)
    assert done[0] == "first stopped" and done[-1] == 19 and len(done) <= 3
    worker.close()


def test_an_error_is_told_once_waited_for_and_the_worker_lives_on():
    worker = LatestWins("test worker")
    worker.submit(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.wait(5)
    worker.submit(lambda _: None)
    worker.wait(5)
    worker.close()
    worker.submit(lambda _: 1 / 0)  # nothing runs any more
    worker.wait(5)
