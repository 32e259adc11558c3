"""The costs of a timed run, put into the plan of its map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.base import Session
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.changed import distinct_work


def analyzed(heatmap: Heatmap, session: Session, known: Heatmap | None = None) -> Heatmap:
    """A map whose plan holds what its run measured.

    Args:
        heatmap: The map; one without a plan stays as it is.
        session: Session that computed the map; its ``costs`` hold the times.
        known: Part of the map that an earlier call measured; None if there was none.

    Examples:
        >>> from krypton_engine.executors.full import FullSession
        >>> from krypton_engine.plan.measured import Costs
        >>> session = FullSession(model, (x,), 0, heatmap.window, torch.zeros(1), None, model(x), 4)
        >>> session.costs = Costs()
        >>> analyzed(replace(heatmap, plan=plan, seconds=0.5), session).plan.measured
        Measured(positions=4, seconds=0.5, costs={})
    """
    if session.costs is None or heatmap.plan is None:
        return heatmap
    new = heatmap.measured if known is None else heatmap.measured & ~known.measured
    positions: IntArray = np.flatnonzero(new.numpy())
    seconds = heatmap.seconds - (0.0 if known is None else known.seconds)
    measured = session.costs.of_run(len(distinct_work(session.changed, positions).boxes), seconds)
    return replace(heatmap, plan=replace(heatmap.plan, measured=measured))
