"""What a session answers for positions, by way of the one loop."""

from __future__ import annotations

import numpy as np
import torch

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
