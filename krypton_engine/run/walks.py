"""Walks: regions filled one after another, each from where the last has left the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import Flags, IntArray
from krypton_engine.executors.base import Session
from krypton_engine.perturbation.changed import ChangedRegions
from krypton_engine.perturbation.windows import replaced

OnStep = Callable[[int], object]
"""Called after every step, with the number of walks that took it."""


def walked(
    session: Session, x: Tensor, orders: IntArray, on_step: OnStep = lambda _: None
) -> Iterator[Tensor]:
    """Outputs after every step as walks fill regions in some orders.

    Args:
        session: Session over regions, opened on ``x``.
        x: The input that all walks begin at: ``(1, *input_shape)``.
        orders: The region of every step: ``(walks, steps)``, at most ``session.most_walks`` walks.
        on_step: See `OnStep`.

    Yields:
        ``(walks, *output_shape)``.

    Examples:
        >>> from krypton_engine.executors.base import Opening
        >>> from krypton_engine.executors.reference.program import ReferenceProgram
        >>> from krypton_engine.perturbation.regions import Regions
        >>> from krypton_engine.plan.plan import Plan
        >>> regions = Regions.of(torch.arange(20) // 5, (3, 24, 20))
        >>> opening = Opening((x,), torch.zeros(1), memory_budget=2**30)
        >>> session = ReferenceProgram(graph).open(Plan.of(graph, regions), opening)
        >>> *_, outputs = walked(session, x, np.array([[0, 1, 2, 3], [3, 1, 0, 2]]))
        >>> outputs.shape, torch.allclose(outputs, model(torch.zeros_like(x)), atol=1e-5)
        (torch.Size([2, 5]), True)
    """
    yield from _along(session, x, [None] * len(orders), orders, on_step)


def led(
    session: Session,
    x: Tensor,
    order: IntArray,
    select: Callable[[Tensor], Tensor],
    on_step: OnStep = lambda _: None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values on the way as regions are filled in one order, in a few walks side by side.

    Each walk begins at the input with all before it filled, which takes a full pass, and goes on where the
    steps of all walks share the weights that are read: about the square root of all steps each.

    Args:
        session: Session over regions, opened on ``x``.
        x: The input: ``(1, *input_shape)``.
        order: Regions, different ones: ``(steps,)``.
        select: Function from outputs ``(n, *output_shape)`` to the values that are kept, ``(n, ...)``.
        on_step: See `OnStep`.

    Returns:
        Values after every step, ``(steps, ...)``; the outputs after the first step that changes anything, and
        after the last, each ``(1, *output_shape)``.

    Examples:
        >>> from krypton_engine.executors.base import Opening
        >>> from krypton_engine.executors.reference.program import ReferenceProgram
        >>> from krypton_engine.perturbation.regions import Regions
        >>> from krypton_engine.plan.plan import Plan
        >>> regions = Regions.of(torch.arange(20) // 5, (3, 24, 20))
        >>> opening = Opening((x,), torch.zeros(1), memory_budget=2**30)
        >>> session = ReferenceProgram(graph).open(Plan.of(graph, regions), opening)
        >>> values, first, last = led(session, x, np.array([2, 0, 3, 1]), lambda outputs: outputs[:, 2])
        >>> x[..., :5] = x[..., 10:15] = 0.0  # what the first two cover
        >>> values.shape, torch.allclose(values[1], model(x)[0, 2], atol=1e-5)
        (torch.Size([4]), True)
    """
    changed = session.changed
    assert isinstance(changed, ChangedRegions)
    changes = np.flatnonzero(_filled(changed.boxes(order)))
    filling = order[changes]
    first = last = session.base
    reached = select(session.base)
    if len(filling):
        length = -(-len(filling) // max(1, min(session.most_walks, math.isqrt(len(filling)))))
        parts = [filling[first : first + length] for first in range(0, len(filling), length)]
        starts: list[Tensor | None] = [None]
        now = x
        for part in parts[:-1]:
            for region in part.tolist():
                now = replaced(now, changed.boxes(np.array([region]))[0], changed.content_on(now, region))
            starts.append(now)
        orders = np.full((len(parts), length), -1, dtype=np.int64)
        for row, part in zip(orders, parts, strict=True):
            row[: len(part)] = part
        found = []
        for step, outputs in enumerate(_along(session, x, starts, orders, on_step)):
            first = outputs[:1] if step == 0 else first
            # The last walk may be shorter, and stays where it has ended.
            last = outputs[-1:]
            found.append(select(outputs))
        reached = torch.cat([reached, torch.stack(found, 1).flatten(0, 1)[: len(filling)]])
    # A region that changes nothing leaves the output as it was.
    done = np.searchsorted(changes, np.arange(len(order)), side="right")
    return reached[torch.from_numpy(done).to(reached.device)], first, last


def _filled(boxes: IntArray) -> Flags:
    """Whether boxes hold anything."""
    return np.asarray((boxes[..., 1] > boxes[..., 0]).all(1))


def _along(
    session: Session, x: Tensor, starts: Sequence[Tensor | None], orders: IntArray, on_step: OnStep
) -> Iterator[Tensor]:
    """Outputs after every step of walks from some inputs, None for ``x``; a step of -1 is none."""
    changed = session.changed
    assert isinstance(changed, ChangedRegions)
    walks, now = session.walks(starts), [x if start is None else start for start in starts]
    outputs = session.base.expand(len(orders), *session.base.shape[1:]).clone()
    for positions in orders.T:
        boxes = changed.boxes(np.maximum(positions, 0))
        which = np.flatnonzero((positions >= 0) & _filled(boxes))
        if len(which):
            contents = [changed.content_on(now[walk], int(positions[walk])) for walk in which]
            for walk, content in zip(which, contents, strict=True):
                now[walk] = replaced(now[walk], boxes[walk], content)
            outputs = outputs.clone()
            outputs[torch.from_numpy(which).to(outputs.device)] = walks.advance(
                which, boxes[which], contents.__getitem__
            )
        on_step(len(which))
        yield outputs
