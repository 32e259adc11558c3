"""The widget's pure parts: what is known of a map, and the worker."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from krypton_engine import Heatmap
from krypton_engine.approximation.ssim import SsimEstimate
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_widget.cache import Aim, Course, Known, untrimmed
from krypton_widget.export import title
from krypton_widget.worker import LatestWins


def heatmap(measured, trimmed=None, estimate=None):
    """A map of one row of four positions and two classes."""
    outputs = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
    where = torch.tensor(measured)
    nan = torch.tensor(float("nan"))
    return Heatmap(
        values=torch.where(where, outputs[:, 0], nan),
        base=torch.tensor(0.5),
        measured=where,
        window=SlidingWindow((1, 2, 8), (1, 2, 2), (1, 2, 2)),
        target=0,
        classes=torch.where(where, 1, -1),
        outputs=torch.where(where[:, None], outputs, nan),
        base_outputs=torch.tensor([0.5, 0.5]),
        trimmed=None if trimmed is None else torch.tensor(trimmed),
        ssim_estimate=estimate,
    )


def expected(low):
    return SsimEstimate(low, low, low, "online")


def test_an_estimate_is_that_of_the_map_before_it():
    one, two = [True, False, False, False], [True, False, False, True]
    course = Course()
    course.begin()
    for so_far in (heatmap(one), heatmap(two), heatmap([True] * 4, estimate=expected(0.8))):
        course.note(so_far)
    course.end(heatmap([True] * 4, estimate=SsimEstimate(1, 1, 1, "exact")), 0.9)
    assert course.reached(0.8).measured.tolist() == two
    assert course.reached(0.9).measured.all()
    assert len(course.stages) == 2 and course.stages[0].outputs is None


def test_a_run_that_was_cut_short_leaves_no_estimate_to_the_next():
    course = Course()
    course.note(heatmap([True, False, False, False], estimate=expected(0.3)))
    course.begin()
    course.note(heatmap([True, True, False, False], estimate=expected(0.6)))
    assert not course.stages


def test_what_a_tuning_found_good_enough_is_so_whatever_the_estimate():
    course = Course()
    course.end(heatmap([True, False, False, False], estimate=SsimEstimate(0.9, 0.7, 0.95, "tuned")), 0.8)
    assert course.reached(0.8) is not None and course.reached(0.75) is None


def test_a_tuned_map_is_the_one_that_its_tuning_ended_with():
    """Whatever was expected of it on the way."""
    course, part = Course(), [True, False, False, False]
    course.end(heatmap(part, estimate=SsimEstimate(0.9, 0.7, 0.95, "tuned")), 0.8)
    end = course.reached(0.8)
    course.begin()
    for low in (0.9, 1.0):
        course.note(heatmap(part, estimate=SsimEstimate(low, low, low, "tuned")))
    assert course.reached(0.8) is end and len(course.stages) == 1


def test_a_title_calls_no_trimmed_map_exact():
    everywhere, names = np.ones((1, 4), bool), ["cat", "dog"]
    assert title(heatmap([True] * 4), everywhere, names) == "cat: 0.5, 2 x 2 patch, exact"
    trimmed = title(heatmap([True] * 4, trimmed=[True] * 4), everywhere, names)
    assert trimmed.endswith("approximate, 100% of the positions measured")
    there = np.array([[True, True, False, False]])
    assert title(heatmap([True, True, False, False]), there, names).endswith("exact in the region")


def test_what_was_trimmed_is_measured_again():
    kept = untrimmed(heatmap([True, True, True, False], trimmed=[False, True, False, False]))
    assert kept.measured.tolist() == [True, False, True, False] and kept.trimmed is None
    assert kept.values.isnan().tolist() == kept.outputs.isnan()[:, 1].tolist() == [False, True, False, True]
    assert kept.classes.tolist() == [1, -1, 1, -1]
    exact = heatmap([True] * 4)
    assert untrimmed(exact) is exact


def test_more_exact_positions_are_not_given_up():
    known, exact = Known(), heatmap([True, True, False, False])
    known.note(exact)
    known.note(heatmap([True] * 4, trimmed=[True] * 4))
    assert known.heatmap is exact
    assert not known.covers(np.ones((1, 4), bool)) and known.covers(np.array([[True, True, False, False]]))


def test_another_class_has_the_same_positions():
    known, measured = Known(), [True, False, False, True]
    known.note(heatmap([True] * 4))
    known.course(Aim(0, None)).end(heatmap(measured, estimate=expected(0.8)), 0.8)
    found = known.approximate(Aim(1, None), 0.8)
    assert found.measured.tolist() == measured and found.ssim_estimate is None and found.target == 1
    assert found.values[[0, 3]].tolist() == pytest.approx([0.9, 0.6])
    assert found.values.isfinite().all() and not torch.equal(found.values, known.of(1).values)
    assert known.approximate(Aim(1, None), 0.9) is None
    assert known.approximate(Aim(1, b"a region"), 0.8) is None


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
