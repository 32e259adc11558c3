"""The user's own forward function, asked about a map where a difference would show."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.base import Session
from krypton_engine.executors.tail import values_in_full
from krypton_engine.graph.ir import Graph
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.perturbation.changed import distinct_work
from krypton_engine.planning import proof
from krypton_engine.planning.memory import Proofs
from krypton_engine.planning.proof import Disagreement, Noise, agree, largest
from krypton_engine.planning.question import Question

GOLDEN_RATIO = 0.618034
"""A number whose multiples, modulo 1, fall evenly, so that each proof looks at other places."""

_SHARE_OF_TIME_TO_PROVE = 0.02
"""Share of a map's time that goes into more than one question to the user's own forward function about it."""

_MOST_PROVED = 8
"""Positions of a map that it is asked about at most."""

UNPROVABLE = (
    "the largest drop of a map ({:.2g}) is about what rounding does to the model's output ({:.2g}), so that "
    "no check can distinguish a wrong map from a right one; logits in place of probabilities, or a wider "
    "dtype, may show more"
)
MAY_BE_STALE = (
    "the largest drop of a map ({:.2g}) is so small beside what rounding does to the model's output ({:.2g}) "
    "that a change of the model since an earlier call may not show; a new map, "
    "logits in place of probabilities, or a wider dtype, are safe"
)


class Witness:
    """The user's own forward function, asked about a map where a difference would show.

    Args:
        question: Question that the map answers.
        occluded: Number of the occluded input.
        row: Number of the map's example.
        builder: Builder of the map.
        positions: Positions of the map that count, each of which changes other cells.
        eps: See `krypton_engine.planning.proof.precision`.
        warn: Function that takes `UNPROVABLE` or `MAY_BE_STALE`, the largest drop, and the rounding that
            may hide a difference.
        known: Proofs of a graph of an earlier call, which may differ by twice as much as when it was new;
            beyond that, a new capture has to show that rounding is the cause. None for a graph that was
            captured for this question: there, `Noise` bounds the effect of rounding.
        exported: The graph before it was rewritten; None without one. In full it gives the function's answer
            at the time of the capture, to the last digit: compared where rounding may hide that the function
            has changed since.

    Attributes:
        largest: The position of the largest drop.
        differed: The largest difference met, in roundings of the largest output.
        differed_in_full: Largest difference of the exported graph, in the same unit.

    Examples:
        >>> from krypton_engine.executors.base import Opening
        >>> from krypton_engine.planning.planner import Preparer
        >>> question = Question(model, (x,), (torch.zeros(1),), (plan.window,), None, model(x))
        >>> ready = Preparer("reference", None).plan(graph, plan.window, x.device)
        >>> session = ready.open(Opening((x,), torch.zeros(1), memory_budget=2**30))
        >>> builder = MapBuilder(plan.window, session.base, lambda outputs: outputs[:, 2])
        >>> positions = np.arange(len(plan.window))
        >>> boxes = session.changed.boxes(positions)
        >>> for found in session.compute(boxes):
        ...     builder.record(found.which, found.outputs)
        >>> witness = Witness(question, 0, 0, builder, positions, eps=2**-23, warn=print)
        >>> witness.examine(session, boxes, number=0)
        >>> witness.largest == int(builder.heatmap().drop.abs().argmax())
        True
        >>> witness.differed < 16  # roundings
        True
        >>> question.forward_func = lambda images: 2 * model(images)
        >>> witness.examine(session, boxes, number=1)
        Traceback (most recent call last):
        krypton_engine.planning.proof.Disagreement: the captured graph disagrees with the forward function...
    """

    def __init__(
        self,
        question: Question,
        occluded: int,
        row: int,
        builder: MapBuilder,
        positions: IntArray,
        eps: float,
        warn: Callable[[str, float, float], None],
        known: Proofs | None = None,
        exported: Graph | None = None,
    ) -> None:
        self._question, self._occluded, self._row, self._eps = question, occluded, row, eps
        self._builder, self._positions, self._warn = builder, positions, warn
        self._known, self._exported = known, exported
        self._numbers, self._base = builder.kept()
        numbers = self._numbers[positions]
        spans = (numbers.double() - self._base.double()).abs().nan_to_num(0.0, posinf=0.0)
        self._rounding = eps * max(largest(numbers), largest(self._base))
        self._span = float(spans.max())
        self._visible = proof.VISIBLE_SHARE_OF_DROP * spans.amax(0)
        self.differed = self.differed_in_full = 0.0
        self.largest = int(positions[int(builder.drops()[positions].nan_to_num(0.0, posinf=0.0).argmax())])

    def examine(self, session: Session, boxes: IntArray, number: int) -> None:
        """Ask about the base, the largest drop and, as time allows, further positions, each time others.

        Args:
            session: Session whose answers the map holds.
            boxes: Changed cells of the positions, ``(positions, axes, 2)``.
            number: Number of this proof among those of the graph.

        Raises:
            Disagreement: The function says something else.
        """
        self._asked_for_the_base()
        exact = len(self._builder.exact())
        began = time.perf_counter()
        for count in range(_MOST_PROVED):
            spent = time.perf_counter() - began
            if count and spent * (count + 1) / count > _SHARE_OF_TIME_TO_PROVE * self._builder.seconds:
                return
            place = (number * _MOST_PROVED + count) * GOLDEN_RATIO % 1
            position = self.largest
            if count:
                position = int(self._positions[int(place * len(self._positions))])
            inputs = self._question.at(self._occluded, self._row, position)
            mine = self._numbers[position]
            if not exact:
                (found,) = session.compute(boxes[self._positions == position])
                mine = self._builder.kept_of(found.outputs)[0]
            self._compare(mine, self._ask(inputs), inputs)

    def examine_resumed(self, session: Session) -> None:
        """Compare an earlier call's value at the largest drop with the answers of today.

        Args:
            session: Session of today. Its difference from the function bounds the effect of rounding on the
                map: twice as much, or as much as when the graph was new, is granted.

        Raises:
            Disagreement: The function says something else than the map, or the graph than the function.
        """
        work = distinct_work(session.changed, np.array([self.largest]))
        if not len(work.boxes):
            return
        inputs = self._question.at(self._occluded, self._row, self.largest)
        theirs, old = self._ask(inputs), self._numbers[self.largest]
        (found,) = session.compute(work.boxes, None, work.contents)
        today = self._builder.kept_of(found.outputs)[0].to(old.dtype)
        self._note(today, theirs)
        granted = self._granted()
        if not agree(old, theirs.to(old.dtype), self._visible.clamp_min(granted)):
            raise Disagreement(proof.DISAGREES)
        if self._hides(granted) and not agree(old, today, 0.0):
            self._warn(MAY_BE_STALE, self._span, granted)

    def examine_graph(self) -> None:
        """Compare an earlier call's graph with the function where the map could not show that it is stale.

        Raises:
            Disagreement: The function says something else.
        """
        if self._known is not None and self._hides(self._granted()):
            inputs = self._question.at(self._occluded, self._row, self.largest)
            self._compare_exported(self._ask(inputs), inputs)

    def _asked_for_the_base(self) -> None:
        """Compare the un-occluded answers."""
        granted = self._granted()
        if granted > proof.MOST_NOISE_OF_DROP * self._span:
            self._warn(UNPROVABLE, self._span, granted)
        inputs, _ = self._question.example(self._row)
        if self._hides(granted):  # to the last digit, an example says alone what its graph says
            theirs = self._ask(inputs)
        else:
            said = self._question.base[self._row : self._row + 1]
            theirs = self._builder.kept_of(said)[0]
        self._compare(self._base, theirs, inputs)

    def _ask(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return self._builder.kept_of(self._question.ask(inputs, self._row))[0]

    def _granted(self) -> float:
        """The difference that rounding may cause in a graph which differed as much as it has shown to."""
        known = 0.0 if self._known is None else self._known.differed
        return proof.ROUNDINGS_SURE * max(1.0, known, self.differed) * self._rounding

    def _hides(self, granted: float) -> bool:
        """Whether a difference that is granted to rounding would show in the map."""
        return granted > proof.VISIBLE_SHARE_OF_DROP * self._span

    def _note(self, mine: Tensor, theirs: Tensor) -> None:
        if mine.shape == theirs.shape and self._rounding:
            self.differed = max(self.differed, self._roundings(mine, theirs))

    def _roundings(self, mine: Tensor, theirs: Tensor) -> float:
        return largest(mine.double() - theirs.double()) / self._rounding

    def _compare(self, mine: Tensor, theirs: Tensor, inputs: tuple[Tensor, ...]) -> None:
        """Compare an answer with the function's."""
        theirs = theirs.to(mine.dtype)
        if self._known is not None:
            granted = self._granted()
            if not agree(mine, theirs, self._visible.clamp_min(granted)):
                raise Disagreement(proof.DISAGREES)
        else:
            self._note(mine, theirs)
            self._explain(mine, theirs, inputs)
            granted = self._granted()
        if self._hides(granted):
            self._compare_exported(theirs, inputs)

    def _explain(self, mine: Tensor, theirs: Tensor, inputs: tuple[Tensor, ...]) -> None:
        """Find out whether rounding explains the difference of a new graph."""
        likely = min(proof.ROUNDINGS_LIKELY * self._rounding, proof.MOST_NOISE_OF_DROP * self._span)
        tolerance = self._visible.clamp_min(likely)
        if agree(mine, theirs, tolerance):
            return
        noise = Noise(self._ask, inputs, self._occluded, self._eps).measured(float(tolerance.max()))
        noise = max(noise, proof.ROUNDINGS_SURE * self._rounding)
        if not agree(mine, theirs, noise):
            raise Disagreement(proof.DISAGREES)
        if noise > proof.MOST_NOISE_OF_DROP * self._span:
            self._warn(UNPROVABLE, self._span, noise)

    def _compare_exported(self, theirs: Tensor, inputs: tuple[Tensor, ...]) -> None:
        """Compare the function's answer when it was captured with its answer today."""
        if self._exported is None or not self._rounding:
            return
        others = self._question.tensors(self._row)[len(inputs) :]
        graph = self._exported
        output = values_in_full(graph, (*inputs, *others), {graph.output})[graph.output]
        mine = self._builder.kept_of(output)[0].to(theirs.dtype)
        if self._known is None:
            self.differed_in_full = max(self.differed_in_full, self._roundings(mine, theirs))
            return
        granted = proof.ROUNDINGS_SURE * self._known.differed_in_full * self._rounding
        if not agree(mine, theirs, self._visible.clamp_min(granted)):
            raise Disagreement(proof.DISAGREES)
        if self._hides(granted):
            self._warn(MAY_BE_STALE, self._span, granted)
