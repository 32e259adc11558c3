"""Scattered regions: changed piece by piece, each piece from where the last has left the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.base import Computed, Session
from krypton_engine.perturbation.changed import Work
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import Contents

_MOST_WALKS = 8
"""Scattered regions that are computed side by side."""


def computed(session: Session, work: Work, limit: int | None = None) -> Iterator[Computed]:
    """Outputs for every set of changed cells, as of `krypton_engine.executors.base.Session.compute`.

    Where the session's regions are changed piece by piece, a walk changes the pieces of each scattered one.

    Args:
        session: Session that answers for positions.
        work: The sets of changed cells.
        limit: Largest number of sets to compute together; None for the session's own.

    Examples:
        >>> from krypton_engine.executors.base import Opening
        >>> from krypton_engine.executors.reference.program import ReferenceProgram
        >>> from krypton_engine.perturbation.changed import distinct_work, in_pieces
        >>> from krypton_engine.plan.plan import Plan
        >>> mask = torch.zeros(24, 20, dtype=torch.int64)
        >>> mask[1:3, 1:3] = mask[-2:, -2:] = 1
        >>> regions = in_pieces(Regions.of(mask, (3, 24, 20)))
        >>> opening = Opening((x,), torch.zeros(1), memory_budget=2**30)
        >>> session = ReferenceProgram(graph).open(Plan.of(graph, regions), opening)
        >>> (found,) = computed(session, distinct_work(session.changed, np.array([1])))
        >>> torch.allclose(found.outputs, model(torch.where(mask == 1, 0.0, x)), atol=1e-5)
        True
    """
    regions = session.window.plain
    pieces: dict[int, IntArray] = {}
    if isinstance(regions, Regions) and regions.apart and session.most_walks > 1:
        for i, alike in enumerate(work.positions):
            parts = _within(regions.pieces(int(alike[0])), work.boxes[i])
            if len(parts) > 1:
                pieces[i] = parts
    if not pieces:
        yield from session.compute(work.boxes, limit, work.contents)
        return
    rest = np.array([i for i in range(len(work.boxes)) if i not in pieces], dtype=np.int64)
    if len(rest):
        together = work.part(rest)
        for found in session.compute(together.boxes, limit, together.contents):
            yield replace(found, which=rest[found.which])
    at_once = min(session.most_walks - 1, _MOST_WALKS, limit or _MOST_WALKS, len(pieces))
    # The first stays where it is, for the others to come back to.
    walks = session.walks([None] * (1 + at_once))
    scattered = sorted(pieces, key=lambda i: len(pieces[i]))
    for first in range(0, len(scattered), at_once):
        some = scattered[first : first + at_once]
        outputs = session.base.expand(len(some), *session.base.shape[1:]).clone()
        for which, boxes, contents in _steps(work, {i: pieces[i] for i in some}):
            outputs[which] = walks.advance(which + 1, boxes, contents)
        yield Computed(np.array(some), outputs)
        for walk in range(1, 1 + len(some)):
            walks.branch(0, walk)


def _within(pieces: IntArray, box: IntArray) -> IntArray:
    """Pieces cut to the box of the cells that really change; those outside are gone."""
    low = np.maximum(pieces[..., 0], box[:, 0])
    high = np.minimum(pieces[..., 1], box[:, 1])
    return np.stack([low, high], -1)[(low < high).all(1)]


def _steps(work: Work, pieces: dict[int, IntArray]) -> Iterator[tuple[IntArray, IntArray, Contents]]:
    """One piece of every set that has more, at a time: the sets' places, the pieces' boxes and contents."""
    for step in range(max(map(len, pieces.values()))):
        going = [(place, i) for place, i in enumerate(pieces) if step < len(pieces[i])]
        boxes = np.stack([pieces[i][step] for _, i in going])
        yield np.array([place for place, _ in going]), boxes, partial(_part_of, work, going, boxes)


def _part_of(work: Work, going: list[tuple[int, int]], boxes: IntArray, number: int) -> Tensor:
    """What the cells of a piece's box become."""
    assert work.contents is not None
    _, i = going[number]
    inside = (slice(lo, hi) for lo, hi in (boxes[number] - work.boxes[i][:, :1]).tolist())
    return work.contents(i)[(slice(None), *inside)]
