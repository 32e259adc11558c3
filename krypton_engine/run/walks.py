"""Walks: regions filled one after another, each from where the last has left the input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.base import Session
from krypton_engine.perturbation.changed import ChangedRegions
from krypton_engine.perturbation.windows import replaced


def walked(
    session: Session,
    x: Tensor,
    orders: IntArray,
    on_step: Callable[[int], object] = lambda _: None,
) -> Tensor:
    """Outputs on the way as walks fill regions in some orders.

    Args:
        session: Session over regions, opened on ``x``.
        x: The input that all walks begin at: ``(1, *input_shape)``.
        orders: The region of every step: ``(walks, steps)``, at most ``session.most_walks`` walks; -1 for a
            step that changes nothing.
        on_step: Function called after every step, with the number of outputs.

    Returns:
        ``(walks, steps, *output_shape)``.

    Examples:
        >>> from krypton_engine.executors.base import Opening
        >>> from krypton_engine.executors.reference.program import ReferenceProgram
        >>> from krypton_engine.perturbation.regions import Regions
        >>> from krypton_engine.plan.plan import Plan
        >>> regions = Regions.of(torch.arange(20) // 5, (3, 24, 20))
        >>> opening = Opening((x,), torch.zeros(1), memory_budget=2**30)
        >>> session = ReferenceProgram(graph).open(Plan.of(graph, regions), opening)
        >>> outputs = walked(session, x, np.array([[0, 1, 2, 3], [3, 1, 0, 2]]))
        >>> outputs.shape, torch.allclose(outputs[:, -1], model(torch.zeros_like(x)), atol=1e-5)
        (torch.Size([2, 4, 5]), True)
    """
    changed = session.changed
    assert isinstance(changed, ChangedRegions)
    walks, now = session.walks([None] * len(orders)), [x] * len(orders)
    outputs = session.base.expand(len(orders), *session.base.shape[1:]).clone()
    found = []
    for positions in orders.T:
        boxes = changed.boxes(np.maximum(positions, 0))
        which = np.flatnonzero((positions >= 0) & (boxes[..., 1] > boxes[..., 0]).all(1))
        if len(which):
            contents = [changed.content_on(now[walk], int(positions[walk])) for walk in which]
            for walk, content in zip(which, contents, strict=True):
                now[walk] = replaced(now[walk], boxes[walk], content)
            outputs = outputs.clone()
            outputs[torch.from_numpy(which).to(outputs.device)] = walks.advance(
                which, boxes[which], contents.__getitem__
            )
        found.append(outputs)
        on_step(len(orders))
    return torch.stack(found, 1)
