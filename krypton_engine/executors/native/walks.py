"""Walks of the C++ engine: inputs whose views change step by step, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.base import Walks
from krypton_engine.executors.native import engine
from krypton_engine.executors.native.prepared import Prepared
from krypton_engine.perturbation.windows import Contents, replaced
from krypton_engine.plan.plan import Plan


class NativeWalks:
    """See `krypton_engine.executors.base.Walks`.

    Args:
        program: The graph made ready.
        plan: Plan of positions whose boxes hold every change.
        starts: Inputs of float32, ``(1, *input_shape)``; those that are one tensor share its first views.
        constant: Function that gives the value of a node that no position changes, for a number of copies.
        standby: Opens another executor's walks on inputs, which take over for good where the engine computes
            a number that is not finite.

    Examples:
        >>> from krypton_engine.executors.tail import unchanging
        >>> program, starts = Prepared(graph), [x, x / 2]
        >>> constant = unchanging(program.graph, (x,), program.constants)
        >>> walks = NativeWalks(program, plan, starts, constant, standby=None)
        >>> which, grey = np.array([0, 1]), lambda i: torch.full((1, 3, 8, 8), 0.5)
        >>> for position in (0, 2):
        ...     outputs = walks.advance(which, plan.window.boxes(np.array([position, position])), grey)
        >>> occluded = torch.cat(starts)
        >>> occluded[..., :8, :16] = 0.5
        >>> torch.allclose(outputs, model(occluded), atol=1e-5)
        True
    """

    def __init__(
        self,
        program: Prepared,
        plan: Plan,
        starts: Sequence[Tensor],
        constant: Callable[[int, int], Tensor],
        standby: Callable[[Sequence[Tensor]], Walks],
    ) -> None:
        self._program, self._constant, self._standby = program, constant, standby
        self._now = list(starts)
        self._other: Walks | None = None
        kept = program.program.read_elsewhere(program.kept)
        first, index = starts[0], program.graph.input.index
        self._session: engine._native.Session | None = program.begin(plan, kept, first, first)
        for start in starts:
            self._session.begin(None if start is first else program.as_image(index, start))

    @staticmethod
    def most(program: Prepared, memory: int) -> int:
        """Walks that so many bytes hold, beside the session that leads them and changes of any size."""
        engine_program = program.program
        kept = engine_program.read_elsewhere(program.kept)
        run = [engine_program.run_bytes(program.whole, kept, engine.threads(), n) for n in (0, 1)]
        views = engine_program.view_bytes
        each = views + run[1] - run[0] + sum(program.graph.nodes[i].numel() * 8 for i in program.exits)
        return int(max(0, memory - views - run[0]) // max(each, 1))

    def advance(self, which: IntArray, boxes: IntArray, contents: Contents) -> Tensor:
        """See `krypton_engine.executors.base.Walks.advance`."""
        outputs = self._step(which, boxes, contents, settles=True)
        for i, walk in enumerate(which.tolist()):
            self._now[walk] = replaced(self._now[walk], boxes[i], contents(i))
        return outputs

    def look(self, which: IntArray, boxes: IntArray, contents: Contents) -> Tensor:
        """See `krypton_engine.executors.base.Walks.look`."""
        return self._step(which, boxes, contents, settles=False)

    def branch(self, source: int, into: int | None = None) -> int:
        """See `krypton_engine.executors.base.Walks.branch`."""
        walks: engine._native.Session | Walks | None = self._session or self._other
        assert walks is not None
        number: int = walks.branch(source, into)
        self._now[number : number + 1] = [self._now[source]]
        return number

    def _step(self, which: IntArray, boxes: IntArray, contents: Contents, settles: bool) -> Tensor:
        """Outputs after one more change of each of some walks; whether the walks keep the changes."""
        if self._session is not None:
            cells = self._program.as_cells(contents(i) for i in range(len(which)))
            step = partial(self._session.step, which.tolist(), settles, self._program.as_boxes(boxes), cells)
            outputs = self._program.outputs(len(which), step, self._constant)
            if outputs is not None:
                return outputs
            self._session, self._other = None, self._standby(self._now)
        assert self._other is not None
        return (self._other.advance if settles else self._other.look)(which, boxes, contents)
