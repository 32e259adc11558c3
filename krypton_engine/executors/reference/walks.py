"""Walks of the reference executor: examples whose views change step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.basis import Basis
from krypton_engine.executors.grouping import Grouping
from krypton_engine.executors.reference.prepared import Prepared
from krypton_engine.executors.reference.walk import Walk
from krypton_engine.perturbation.windows import Contents


class ReferenceWalks:
    """See `krypton_engine.executors.base.Walks`.

    Args:
        program: The graph made ready.
        examples: Examples that the walks begin at, which are theirs from now on.
        at_once: Walks whose layers after the frontier are computed together.

    Examples:
        >>> from krypton_engine.executors.base import Opening
        >>> program, opening = Prepared(graph), Opening((x,), torch.zeros(1), memory_budget=2**30)
        >>> basis = Basis(graph, program.constants, plan.window, opening, gradients={})
        >>> walks, grey = ReferenceWalks(program, [basis], at_once=1), lambda i: torch.full((1, 3, 8, 8), 0.5)
        >>> for box in plan.window.boxes(np.array([0, 2])):
        ...     outputs = walks.advance(np.array([0]), box[None], grey)
        >>> x[..., :8, :16] = 0.5
        >>> torch.allclose(outputs, model(x), atol=1e-5)
        True
    """

    def __init__(self, program: Prepared, examples: Sequence[Basis], at_once: int) -> None:
        self._program = program
        self._examples = list(examples)
        self._at_once = at_once

    def advance(self, which: IntArray, boxes: IntArray, contents: Contents) -> Tensor:
        """See `krypton_engine.executors.base.Walks.advance`."""
        return self._step(which, boxes, contents, settles=True)

    def look(self, which: IntArray, boxes: IntArray, contents: Contents) -> Tensor:
        """See `krypton_engine.executors.base.Walks.look`."""
        return self._step(which, boxes, contents, settles=False)

    def branch(self, source: int, into: int | None = None) -> int:
        """See `krypton_engine.executors.base.Walks.branch`."""
        number = len(self._examples) if into is None else into
        self._examples[number : number + 1] = [self._examples[source].fork()]
        return number

    def _step(self, which: IntArray, boxes: IntArray, contents: Contents, settles: bool) -> Tensor:
        """Outputs after one more change of each of some walks; whether the walks keep the changes."""
        outputs = []
        for first in range(0, len(which), self._at_once):
            some = np.arange(first, min(first + self._at_once, len(which)))
            values = [
                self._frontiers(self._examples[int(which[i])], boxes[i : i + 1], contents(int(i)), settles)
                for i in some
            ]
            joined = {node: torch.cat([each[node] for each in values]) for node in values[0]}
            constant = self._examples[int(which[some[0]])].constant
            outputs += [each for _, each in self._program.tail.outputs(some, joined, len(some), constant)]
        return torch.cat(outputs)

    def _frontiers(self, example: Basis, box: IntArray, content: Tensor, settles: bool) -> dict[int, Tensor]:
        """Frontier values after one more change of an example."""
        grouping = Grouping(self._program.graph, box, 1)
        group = grouping.group(grouping.members[0])
        step = Walk(
            self._program, example, group, lambda _: content, thresholds={}, costs=None, settles=settles
        )
        # What lies in a view is written over by the next step.
        return {node: value.clone() for node, value in step.frontiers().items()}
