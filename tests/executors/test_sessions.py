"""What every session owes the loop: each change once, in any order, and what it cost in exactness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.sessions import answers
from support.tiny_models import SmallCNN
from support.truth import brute_force
from torch import nn

from krypton_engine.executors.base import Opening
from krypton_engine.executors.full import FullSession
from krypton_engine.executors.native.program import NativeProgram
from krypton_engine.executors.native.session import NativeSession
from krypton_engine.executors.reference.program import ReferenceProgram
from krypton_engine.executors.reference.session import ReferenceSession
from krypton_engine.executors.standby import Standby
from krypton_engine.perturbation.changed import distinct_work
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.measured import Costs
from krypton_engine.plan.plan import Plan
from krypton_engine.planning.cache import Source, capture

WINDOW = SlidingWindow((3, 24, 20), (3, 6, 5), (3, 3, 3))


def reference(model, x):
    graph = capture(Source(model, (x,)))
    return ReferenceSession(
        ReferenceProgram(graph), Plan.of(graph, WINDOW), Opening((x,), torch.zeros(1), 2**30)
    )


def native(model, x):
    graph = capture(Source(model, (x,)))
    example = Plan.of(graph, WINDOW), Opening((x,), torch.zeros(1), 2**30)
    return NativeSession(NativeProgram(graph), *example, Standby(lambda: reference(model, x)))


def full(model, x):
    return FullSession(model, (x,), 0, WINDOW, torch.zeros(1), None, model(x), 5)


@pytest.fixture(params=[reference, native, full])
def session(request):
    """On a picture that is the baseline's but for some columns: windows change the same there, or nothing."""
    torch.manual_seed(0)
    model, x = SmallCNN().eval(), torch.randn(1, 3, 24, 20)
    x[..., :4] = x[..., 5:12] = 0
    with torch.no_grad():
        opened = request.param(model, x)
        opened.truth = brute_force(model, x, WINDOW.shape, WINDOW.strides)
        yield opened


@pytest.mark.parametrize("limit", [None, 1, 4])
def test_each_change_is_answered_once(session, limit):
    work = distinct_work(session.changed, np.arange(len(WINDOW)))
    assert len(work.unchanged) and len(work.boxes) < len(WINDOW) - len(work.unchanged)
    order = np.random.default_rng(0).permutation(len(work.boxes))
    answered = np.zeros(len(order), dtype=np.int64)
    for computed in session.compute(work.boxes[order], limit):
        assert len(computed.which) == len(computed.outputs) and computed.dropped is None
        assert limit is None or len(computed.which) <= limit
        answered[computed.which] += 1
        firsts = np.array([work.positions[i][0] for i in order[computed.which]])
        torch.testing.assert_close(computed.outputs, session.truth[firsts], rtol=1e-4, atol=1e-5)
    assert (answered == 1).all()


def test_the_loop_asks_for_no_change_twice(session, monkeypatch):
    asked = []
    compute = session.compute
    monkeypatch.setattr(
        session, "compute", lambda changes, *rest: asked.append(changes) or compute(changes, *rest)
    )
    positions = np.arange(len(WINDOW))
    found = answers(session, np.concatenate([positions, positions[::-1]]))
    (changes,) = asked
    assert len(np.unique(changes.reshape(len(changes), -1), axis=0)) == len(changes)
    assert (changes[..., 1] > changes[..., 0]).all()
    torch.testing.assert_close(found.outputs, session.truth, rtol=1e-4, atol=1e-5)


class Overflowing(nn.Module):
    """Beyond float32 where something near 1 becomes 0."""

    def __init__(self):
        super().__init__()
        self.near = nn.Conv2d(3, 3, 1, groups=3)
        self.far = nn.Conv2d(3, 2, 3, padding=1)
        with torch.no_grad():
            self.near.weight.fill_(-1e20)
            self.near.bias.fill_(1e20)
            self.far.weight.fill_(1e18)

    def forward(self, x):
        return self.far(self.near(x)).mean((2, 3)) * 1e-35


def test_a_session_that_hands_over_answers_the_rest():
    """From the first batch with a number that is not finite on, changes are the reference executor's."""
    model, x = Overflowing().eval(), 1 + 1e-3 * torch.randn(1, 3, 24, 20)
    baseline = torch.ones_like(x)
    baseline[:, :, 17] = 0
    with torch.no_grad():
        graph = capture(Source(model, (x,)))
        example = Plan.of(graph, WINDOW), Opening((x,), baseline, 2**30)
        opened = []

        def instead():
            opened.append(ReferenceSession(ReferenceProgram(graph), *example))
            return opened[-1]

        found = answers(NativeSession(NativeProgram(graph), *example, Standby(instead)), limit=4).outputs
        truth = brute_force(model, x, WINDOW.shape, WINDOW.strides, baseline)
    assert len(opened) == 1 and 0 < int(truth.isfinite().sum()) < truth.numel()
    torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-3, equal_nan=True)


def test_trimmed_sessions_charge_what_they_cost(session):
    """To the same account, once there is one; a full computation has no steps to tell apart."""
    work = distinct_work(session.changed, np.arange(len(WINDOW)))
    list(session.compute(work.boxes))
    session.costs = Costs()
    trimmed = session.trimmed(0.1, lambda outputs: outputs[:, 1])
    assert trimmed.costs is session.costs
    assert not session.costs.of_run(0, 0.0).costs
    list(trimmed.compute(work.boxes))
    found = session.costs.of_run(len(work.boxes), 1.0)
    assert bool(found.costs) == (not isinstance(session, FullSession))
    assert all(cost.seconds >= 0 for cost in found.costs.values())
