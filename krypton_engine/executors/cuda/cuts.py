"""The dominator after which full computation is faster than boxes, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from krypton_engine.executors.basis import Basis
from krypton_engine.executors.cuda.clock import Clock
from krypton_engine.executors.cuda.prepared import Prepared
from krypton_engine.executors.cuda.walk import Walk
from krypton_engine.executors.grouping import Group
from krypton_engine.executors.memory import Batches
from krypton_engine.executors.tail import last_uses
from krypton_engine.graph.ir import Node, refs
from krypton_engine.perturbation.windows import occlude


@dataclass(frozen=True)
class Race:
    """One group of positions on boxes against as many copies in full, on one example.

    Attributes:
        program: The graph made ready.
        basis: The example.
        walk: The walk that computes boxes of the example.
        batches: Division of the memory.
        group: The positions.
    """

    program: Prepared
    basis: Basis
    walk: Walk
    batches: Batches
    group: Group

    def cut(self) -> Node | None:
        """The dominator from which on full computation is faster; None if boxes are to the end."""
        cuts = self.program.graph.dominators
        with torch.cuda.device_of(self.basis.x):
            for _ in range(2):  # the first time something is still being loaded
                on_boxes, without = self._timed_boxes(cuts), self._timed_full(cuts)
        k = cheapest_cut(on_boxes, without)
        return None if k == len(cuts) else cuts[k]

    def _timed_boxes(self, cuts: Sequence[Node]) -> list[float]:
        """Seconds a position until each dominator, and until the output, on boxes."""
        nodes, members = self.program.graph.nodes, self.group.members
        clock = Clock(self.basis.x.device)
        at = self.walk.started(self.group)
        done = 0
        for cut in cuts:
            self.walk.compute(nodes[done : cut.index + 1], at)
            done = cut.index + 1
            clock.mark()
        self.walk.compute(nodes[done:], at)
        values = self.walk.exits(at)
        for _ in self.program.tail.outputs(members, values, self.batches.tail, self.basis.constant):
            pass
        clock.mark()
        return [seconds / at.copies for seconds in clock.seconds()]

    def _timed_full(self, cuts: Sequence[Node]) -> list[float]:
        """Seconds a position until each dominator, and until the output, in full."""
        graph, basis = self.program.graph, self.basis
        largest = max(node.bytes() for node in graph.nodes if node.depends)
        copies = min(len(self.group.members), max(1, self.batches.free // 4 // largest))
        last_use = last_uses(graph, graph.nodes)
        values: dict[int, object] = {
            graph.input.index: occlude(basis.x, basis.baseline, self.group.boxes[:copies])
        }

        def value(index: int) -> object:
            return values[index] if index in values else basis.constant(index, copies)

        clock, marks = Clock(basis.x.device), {cut.index for cut in cuts}
        for node in graph.nodes:
            if node.depends and node is not graph.input:
                values[node.index] = node.computed(value, copies)
                for operand in refs((node.args, node.kwargs)):
                    if last_use[operand] == node.index:
                        values.pop(operand, None)
            if node.index in marks:
                clock.mark()
        clock.mark()
        return [seconds / copies for seconds in clock.seconds()]


def cheapest_cut(on_boxes: Sequence[float], in_full: Sequence[float]) -> int:
    """The point after which full computation should go on.

    Args:
        on_boxes: Seconds until each point, and until the end, on boxes.
        in_full: The same for full computation.

    Returns:
        The number of the point; that of the end if boxes pay all the way.

    Examples:
        >>> cheapest_cut(on_boxes=[1.0, 6.0, 7.0], in_full=[4.0, 5.0, 6.0])
        0
    """
    total = [boxes + in_full[-1] - full for boxes, full in zip(on_boxes, in_full, strict=True)]
    return max(range(len(total)), key=lambda k: (-total[k], k))
