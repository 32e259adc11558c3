"""Walks: regions filled one after another, each from where the last has left the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

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


def paired(
    session: Session,
    x: Tensor,
    select: Callable[[Tensor], Tensor],
    at_once: int | None = None,
    on_step: OnStep = lambda _: None,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Values with every region filled, and with every two of them.

    A walk goes to each region in turn, and looks at every later one from there.

    Args:
        session: Session over regions, opened on ``x``, of two walks at least.
        x: The input: ``(1, *input_shape)``.
        select: Function from outputs ``(n, *output_shape)`` to the values that are kept, ``(n, ...)``.
        at_once: Largest number of looks that are computed together; None for as many as there may be walks.
        on_step: See `OnStep`.

    Returns:
        Outputs with single regions filled, ``(regions, *output_shape)``; values with two regions filled,
        ``(regions, regions, ...)``, on the diagonal with one; an input with two filled, and its outputs,
        ``(1, *output_shape)``, to be compared with the forward function's own.

    Examples:
        >>> from krypton_engine.executors.base import Opening
        >>> from krypton_engine.executors.reference.program import ReferenceProgram
        >>> from krypton_engine.perturbation.regions import Regions
        >>> from krypton_engine.plan.plan import Plan
        >>> regions = Regions.of(torch.arange(20) // 5, (3, 24, 20))
        >>> opening = Opening((x,), torch.zeros(1), memory_budget=2**30)
        >>> session = ReferenceProgram(graph).open(Plan.of(graph, regions), opening)
        >>> single, pairs, _ = paired(session, x, lambda outputs: outputs[:, 2])
        >>> x[..., :5] = x[..., 10:15] = 0.0  # what the first and the third cover
        >>> single.shape, torch.allclose(pairs[0, 2], model(x)[0, 2], atol=1e-5)
        (torch.Size([4, 5]), True)
    """
    changed = session.changed
    assert isinstance(changed, ChangedRegions)
    regions = np.arange(len(session.window))
    changing = regions[_filled(changed.boxes(regions))]
    walks, walk = session.walks([None]), None
    most = min(session.most_walks, at_once or session.most_walks)

    def looks(source: int, now: Tensor, those: IntArray) -> Iterator[tuple[IntArray, Tensor]]:
        """Outputs with each of some regions filled in an input that a walk stands at."""
        for first in range(0, len(those), most):
            some = those[first : first + most]
            contents = [changed.content_on(now, int(region)) for region in some]
            which = np.full(len(some), source)
            yield some, walks.look(which, changed.boxes(some), contents.__getitem__)
            on_step(len(some))

    single = session.base.expand(len(regions), *session.base.shape[1:]).clone()
    for some, outputs in looks(0, x, changing):
        single[torch.from_numpy(some)] = outputs
    last, values = (x, session.base), select(single)
    pairs = values[None].expand(len(regions), *values.shape).clone()
    pairs[changing] = values[changing][:, None]  # beside a region that changes nothing
    for number, region in enumerate(changing[:-1].tolist()):
        box, content = changed.boxes(np.array([region])), changed.content(region)
        walk = walks.branch(0, walk)
        walks.advance(np.array([walk]), box, partial(_same, content))
        now = replaced(x, box[0], content)
        for some, outputs in looks(walk, now, changing[number + 1 :]):
            found, end = select(outputs), changed.boxes(some[-1:])[0]
            last = replaced(now, end, changed.content_on(now, int(some[-1]))), outputs[-1:]
            pairs[region, some] = found
            pairs[some, region] = found
    return single, pairs, last


def _same(content: Tensor, _: int) -> Tensor:
    """The contents of a single change."""
    return content


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
