"""Sessions on linearised graphs: exact where boxes are all of the image, else off by the second order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.gates import GATES, SMOOTH_GATES, Gated
from support.sessions import answers
from support.truth import brute_force, occlude, windows

from krypton_engine.executors.base import Opening, Unsupported
from krypton_engine.executors.reference.executor import EXECUTOR
from krypton_engine.graph.rewrites.linearise import linearised
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.plan import Plan
from krypton_engine.planning.cache import Source, capture

SHAPE = (3, 24, 20)


def opened(model, x, size, stride, baseline=0.0, head=lambda outputs: outputs[:, 2]):
    graph = linearised(capture(Source(model, (x,))))
    assert graph.sites
    plan = Plan.of(graph, SlidingWindow(SHAPE, (3, *size), (3, *stride)))
    program = EXECUTOR.program(graph, plan, x.device)
    return program.open(plan, Opening((x,), torch.as_tensor(baseline, dtype=x.dtype), 2**30, head))


@pytest.fixture
def x():
    return torch.randn(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", GATES)
def test_windows_of_nearly_all(name, x):
    """Boxes hold every cell, so that nothing is left out."""
    torch.manual_seed(0)
    model = Gated(GATES[name])
    found = answers(opened(model, x, (23, 19), (1, 1)))
    truth = brute_force(model, x, (3, 23, 19), (3, 1, 1))
    torch.testing.assert_close(found.outputs, truth, rtol=1e-9, atol=1e-11)
    assert np.abs(found.dropped).max() < 1e-9 * float(truth.abs().max())


@pytest.mark.parametrize("name", SMOOTH_GATES)
def test_the_error_is_of_the_second_order(name, x):
    """Of a change a tenth as large the error is a hundredth; without the effects it would be a tenth."""
    torch.manual_seed(1)
    model = Gated(GATES[name])
    errors, frozen = [], []
    for share in (1e-2, 1e-3):
        baseline = (1 - share) * x
        found = answers(opened(model, x, (6, 6), (6, 6), baseline))
        places = windows(SHAPE, (3, 6, 6), (3, 6, 6)).values()
        with torch.no_grad():
            truth = torch.cat([model(occlude(x, cells, baseline)) for cells in places])[:, 2].numpy()
        values = found.outputs[:, 2].numpy()
        errors.append(np.abs(values + found.dropped - truth).max())
        frozen.append(np.abs(values - truth).max())
    assert errors[0] < 0.1 * frozen[0]
    assert errors[1] < 0.02 * errors[0] + 1e-13


def test_groups_do_not_matter(x):
    torch.manual_seed(2)
    model = Gated(GATES["group norm"])
    session = opened(model, x, (5, 5), (3, 3))
    alone, together = answers(session, limit=1), answers(session)
    torch.testing.assert_close(alone.outputs, together.outputs, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(alone.dropped, together.dropped, rtol=1e-7, atol=1e-12)


def test_trimmed_too(x):
    """What trimming drops and what gates do outside are added up; neither would do alone."""
    torch.manual_seed(3)
    model, head = Gated(GATES["sigmoid"]), lambda outputs: outputs[:, 2]
    baseline = (
        1 - torch.logspace(-5, 0, SHAPE[2], dtype=x.dtype)
    ) * x  # on the left, next to nothing changes
    session = opened(model, x, (5, 5), (4, 4), baseline)
    exact = brute_force(model, x, (3, 5, 5), (3, 4, 4), baseline)[:, 2].numpy()
    whole, trimmed = answers(session), answers(session.trimmed(0.05, head))

    def error(effects):
        return np.abs(trimmed.outputs[:, 2].numpy() + effects - exact).max()

    for part in (0, whole.dropped, trimmed.dropped - whole.dropped):
        assert error(trimmed.dropped) < 0.01 * error(part)


def test_a_target_without_a_gradient(x):
    model = Gated(GATES["sigmoid"])
    with pytest.raises(Unsupported, match="no gradient"):
        opened(model, x, (5, 5), (4, 4), head=lambda outputs: outputs[:, 2].detach())
