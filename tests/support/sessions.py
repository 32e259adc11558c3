"""What a session answers for positions, by way of the one loop."""

from __future__ import annotations

import numpy as np
import torch

from krypton_engine.executors.reference.executor import EXECUTOR
from krypton_engine.run.loop import Watch, run


class Answers:
    """Outputs by position, NaN elsewhere, and what was dropped: None where a session drops nothing."""

    def __init__(self, session):
        shape = (len(session.window), *session.base.shape[1:])
        self.outputs = torch.full(shape, float("nan"), dtype=session.base.dtype)
        self.dropped = None

    def record(self, positions, outputs, effects=None):
        self.outputs[torch.from_numpy(positions)] = outputs.cpu()
        if effects is not None:
            if self.dropped is None:
                self.dropped = np.zeros(len(self.outputs))
            self.dropped[positions] = effects

    def heatmap(self):
        raise AssertionError("nobody watches")


def answers(session, positions=None, limit=None) -> Answers:
    """What ``session`` answers for positions, by default for all, at most ``limit`` of them together."""
    positions = np.arange(len(session.window)) if positions is None else np.asarray(positions)
    found = Answers(session)
    with Watch(len(positions), None, False) as watch:
        run(session, [positions], found, watch, limit)
    return found


def by_reference(graph, plan):
    """The reference executor's program of a graph."""
    return EXECUTOR.program(graph, plan, torch.device("cpu"))


def computed(session, limit=None):
    """Outputs and dropped effects of all positions, none of which may leave the input as it is."""
    boxes = session.window.boxes(np.arange(len(session.window)))
    outputs = torch.full((len(boxes), *session.base.shape[1:]), torch.nan, dtype=session.base.dtype)
    dropped = torch.zeros(len(boxes), dtype=torch.float64)
    for each in session.compute(boxes, limit):
        outputs[each.which], dropped[each.which] = each.outputs, torch.from_numpy(each.dropped)
    return outputs, dropped


def check_each_is_answered_once(session, limit, target):
    """In any order; beside others a position may compute more tokens, and is nearer to the truth by less."""
    outputs, effects = computed(session)
    usual = target(outputs) + effects
    order = np.random.default_rng(0).permutation(len(session.window))
    answered = np.zeros(len(order), dtype=np.int64)
    for each in session.compute(session.window.boxes(order), limit):
        answered[each.which] += 1
        assert limit is None or len(each.which) <= limit
        value = target(each.outputs) + torch.from_numpy(each.dropped)
        torch.testing.assert_close(value, usual[order[each.which]], rtol=0, atol=5e-5)
    assert (answered == 1).all()


def check_it_is_the_full_computation(session, truth):
    outputs, dropped = computed(session)
    moved = (truth - session.base).abs().max()
    assert moved > 1e-3
    assert (outputs - truth).abs().max() < 1e-10 * moved
    assert not dropped.any()


def errors_of(session, target, truth):
    """The distance from the truth, with what was dropped and without it."""
    outputs, dropped = computed(session)
    return (target(outputs) + dropped - target(truth)).norm(), (target(outputs) - target(truth)).norm()
