"""Coalitions as walks: an example with some clusters covered, kept so that the next step is a small one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.executors.base import Session
from krypton_engine.perturbation.hierarchy import Tree
from krypton_engine.perturbation.windows import replaced
from krypton_engine.run.owen import Coalition, Step

LEAST_WALKS = 3
"""Walks without which there are no coalitions: nothing, everything, and one between."""

_MOST_WALKS = 64
"""Walks that are kept, at most."""


class Coalitions:
    """Values of coalitions, and the walks that stand at those that steps leave from.

    Of nothing and of everything the walks stay; of the others, those that were used last.

    Args:
        session: Session on the input, of `LEAST_WALKS` at least.
        tree: The clusters.
        x: The input: ``(1, *input_shape)``.
        baseline: What covered cells become, broadcast against the input.
        select: Function from outputs ``(n, *output_shape)`` to values ``(n, ...)``.

    Attributes:
        nothing: The coalition of no cell.
        everything: The coalition of all cells.
        seen: Inputs and outputs, to be compared with the forward function's own: of nothing, of everything,
            and of the last step.

    Examples:
        >>> from krypton_engine.executors.base import Opening
        >>> from krypton_engine.executors.reference.program import ReferenceProgram
        >>> from krypton_engine.perturbation.hierarchy import Halves
        >>> from krypton_engine.plan.plan import Plan
        >>> tree, grey = Halves((3, 24, 20)), torch.full((1,), 0.5)
        >>> opening = Opening((x,), grey, memory_budget=2**30)
        >>> session = ReferenceProgram(graph).open(Plan.of(graph, tree.regions(4)), opening)
        >>> coalitions = Coalitions(session, tree, x, grey, lambda outputs: outputs[:, 2])
        >>> lower, upper = tree.halves(tree.root)
        >>> by_upper, by_lower = coalitions.values(
        ...     [(coalitions.nothing, upper, True), (coalitions.everything, upper, False)]
        ... )
        >>> x[..., 12:, :] = 0.5  # the lower half is covered
        >>> abs(float(by_upper[0] - model(x)[0, 2])) < 1e-5
        True
    """

    def __init__(
        self,
        session: Session,
        tree: Tree,
        x: Tensor,
        baseline: Tensor,
        select: Callable[[Tensor], Tensor],
    ) -> None:
        self._tree, self._select = tree, select
        self._x, self._baseline = x, baseline.to(x).expand(x.shape)
        self._differs = (self._x != self._baseline)[0].cpu().numpy()
        # Along an axis that all positions span, boxes stay whole: executors rely on that.
        self._whole = [axis for axis in range(x.ndim - 1) if session.window.spans(axis)]
        self._inputs = [self._baseline, self._x]
        self._walks = session.walks([self._baseline, None])
        self._most = min(session.most_walks, _MOST_WALKS)
        self._boxes: dict[int, IntArray] = {}
        # A step that changes nothing tells what the walks stand at.
        box = session.window.boxes(np.array([0]))[0]
        outputs = self._walks.look(
            np.array([0, 1]), np.stack([box, box]), lambda i: self._inputs[i][self._inside(box)]
        )
        self.seen = list(zip(self._inputs, outputs.split(1), strict=True))
        nothing, everything = self._selected(outputs)
        self.nothing = Coalition(nothing)
        self.everything = Coalition(everything, self.nothing, tree.root)
        self._ends = {self.nothing: 0, self.everything: 1}
        self._between: OrderedDict[Coalition, int] = OrderedDict()  # the last used at the end

    def values(self, steps: Sequence[Step]) -> Floats:
        """Values after steps: ``(steps, values)``; see `krypton_engine.run.owen.Evaluate`."""
        found = np.stack([source.value for source, _, _ in steps])
        changing = [i for i, (_, cluster, _) in enumerate(steps) if self._filled(cluster)]
        for some in self._parts(changing, steps):
            self._stand_at([steps[i][0] for i in some])
            which = [self._walk(steps[i][0]) for i in some]
            boxes = [self._box(steps[i][1]) for i in some]
            contents = [
                self._content(self._inputs[walk], *steps[i][1:]) for i, walk in zip(some, which, strict=True)
            ]
            outputs = self._walks.look(np.array(which), np.stack(boxes), contents.__getitem__)
            found[some] = self._selected(outputs)
            now = replaced(self._inputs[which[-1]], boxes[-1], contents[-1])
            self.seen[2:] = [(now, outputs[-1:].clone())]
        return found

    def _parts(self, numbers: Sequence[int], steps: Sequence[Step]) -> Iterator[list[int]]:
        """Numbers of steps, as many together as the walks that they leave from can be held."""
        part: list[int] = []
        sources: set[Coalition] = set()
        for i in numbers:
            sources.add(steps[i][0])
            if len(part) == self._most or len(sources - self._ends.keys()) > self._most - len(self._ends):
                yield part
                part, sources = [], {steps[i][0]}
            part.append(i)
        if part:
            yield part

    def _stand_at(self, coalitions: Sequence[Coalition]) -> None:
        """Let walks stand at all of some coalitions."""
        needed = [each for each in dict.fromkeys(coalitions) if each not in self._ends]
        missing = [each for each in needed if each not in self._between]
        for each in needed:
            if each in self._between:
                self._between.move_to_end(each)
        begun: dict[Coalition, int] = {}
        boxes, contents = [], []
        for each in missing:
            # From the last coalition on its way that a walk stands at; the first cluster holds the others.
            way: list[Coalition] = []
            at = each
            while at not in self._ends and at not in self._between:
                assert at.source is not None
                way, at = [at, *way], at.source
            source = self._walk(at)
            now = self._inputs[source]
            for coalition in way:
                box = self._box(coalition.cluster)
                now = replaced(now, box, self._content(now, coalition.cluster, coalition.comes))
            walk = self._walks.branch(source, self._to_reuse(needed))
            self._inputs[walk : walk + 1] = [now]
            begun[each] = walk
            boxes.append(self._box(way[0].cluster))
            contents.append(now[self._inside(boxes[-1])])
        if missing:
            self._walks.advance(np.array(list(begun.values())), np.stack(boxes), contents.__getitem__)
        self._between |= begun

    def _to_reuse(self, needed: Sequence[Coalition]) -> int | None:
        """The walk that was not used for longest, which is given up; None while there is room for more."""
        if len(self._inputs) < self._most:
            return None
        oldest = next(each for each in self._between if each not in needed)
        return self._between.pop(oldest)

    def _walk(self, coalition: Coalition) -> int:
        """The walk that stands at a coalition."""
        return self._ends[coalition] if coalition in self._ends else self._between[coalition]

    def _selected(self, outputs: Tensor) -> Floats:
        """The values of outputs, in a row for each."""
        return self._select(outputs).double().reshape(len(outputs), -1).cpu().numpy()

    def _inside(self, box: IntArray) -> tuple[slice, ...]:
        return (slice(None), *(slice(lo, hi) for lo, hi in box.tolist()))

    def _content(self, now: Tensor, cluster: int, comes: bool) -> Tensor:
        """What the cells of a cluster's box become in an input as the cluster comes, or goes."""
        box = self._box(cluster)
        inside = self._inside(box)
        cells = self._tree.cells(cluster, box).to(now.device)
        return torch.where(cells, (self._x if comes else self._baseline)[inside], now[inside])

    def _filled(self, cluster: int) -> bool:
        """Whether a cluster changes anything."""
        box = self._box(cluster)
        return bool((box[:, 1] > box[:, 0]).all())

    def _box(self, cluster: int) -> IntArray:
        """Bounding box of the cells that a cluster changes; zeros where it changes none."""
        if cluster not in self._boxes:
            self._boxes[cluster] = self._changed(cluster)
        return self._boxes[cluster]

    def _changed(self, cluster: int) -> IntArray:
        box = self._tree.box(cluster)
        inside = tuple(slice(lo, hi) for lo, hi in box.tolist())
        changes = self._differs[inside] & self._tree.cells(cluster, box)[0].numpy()
        found = np.zeros_like(box)
        if changes.any():
            for axis, (first, _) in enumerate(box.tolist()):
                along = np.flatnonzero(changes.any(tuple(i for i in range(len(box)) if i != axis)))
                found[axis] = first + along[0], first + along[-1] + 1
            for axis in self._whole:
                found[axis] = 0, self._differs.shape[axis]
        return found
