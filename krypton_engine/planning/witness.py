"""The user's own forward function, asked about a map where a difference would show."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.planning import proof
from krypton_engine.planning.proof import Disagreement, Noise, agree, largest
from krypton_engine.planning.question import Question


class Witness:
    """The user's own forward function, asked about a map where a difference would show.

    Args:
        question: What is asked.
        occluded: Which input is.
        row: Of which example the map is.
        builder: Of the map.
        positions: Those of it that count.
        eps: See `krypton_engine.planning.proof.precision`.
        warn: Gets the largest drop and the rounding that may hide a difference.
        known: How many roundings the graph differed by when new, if it is an earlier call's. It may differ
            by twice as much; of more, a new capture has to show that rounding is the cause. None for one that
            was captured for this question: there, `Noise` says what rounding may cause.

    Attributes:
        largest: The position of the largest drop.
        differed: The largest difference met, in roundings of the largest output.
    """

    def __init__(
        self,
        question: Question,
        occluded: int,
        row: int,
        builder: MapBuilder,
        positions: IntArray,
        eps: float,
        warn: Callable[[float, float], None],
        known: float | None = None,
    ) -> None:
        self._question, self._occluded, self._row, self._eps = question, occluded, row, eps
        self._builder, self._warn = builder, warn
        self._numbers, self._base = builder.kept()
        numbers = self._numbers[positions]
        spans = (numbers.double() - self._base.double()).abs().nan_to_num(0.0, posinf=0.0)
        self._rounding = eps * max(largest(numbers), largest(self._base))
        self._span = float(spans.max())
        self._granted = proof.ROUNDINGS_SURE * max(1.0, known or 0.0) * self._rounding
        expected = min(proof.ROUNDINGS_LIKELY * self._rounding, proof.MOST_NOISE_OF_DROP * self._span)
        self._known, self.differed = known is not None, 0.0
        self._tolerance = (proof.VISIBLE_SHARE_OF_DROP * spans.amax(0)).clamp_min(
            self._granted if self._known else expected
        )
        self.largest = int(positions[int(builder.drops()[positions].nan_to_num(0.0, posinf=0.0).argmax())])

    def asked_for_the_base(self) -> None:
        """Compare the un-occluded answers.

        Raises:
            Disagreement: The function says something else.
        """
        if self._granted > proof.MOST_NOISE_OF_DROP * self._span:
            self._warn(self._span, self._granted)
        said = self._question.base[self._row : self._row + 1]
        self._compare(self._base, self._builder.kept_of(said)[0], self._question.example(self._row)[0])

    def asked_for(self, position: int, mine: Tensor | None = None) -> None:
        """Compare the answers at a position.

        Args:
            position: The position.
            mine: What is to be compared; None for what the map holds.

        Raises:
            Disagreement: The function says something else.
        """
        inputs = self._question.at(self._occluded, self._row, position)
        self._compare(self._numbers[position] if mine is None else mine, self._ask(inputs), inputs)

    def _ask(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return self._builder.kept_of(self._question.ask(inputs, self._row))[0]

    def _compare(self, mine: Tensor, theirs: Tensor, inputs: tuple[Tensor, ...]) -> None:
        theirs = theirs.to(mine.dtype)
        if mine.shape == theirs.shape and self._rounding:
            self.differed = max(self.differed, largest(mine.double() - theirs.double()) / self._rounding)
        if agree(mine, theirs, self._tolerance):
            return
        if self._known:
            raise Disagreement(proof.DISAGREES)
        noise = Noise(self._ask, inputs, self._occluded, self._eps).measured(float(self._tolerance.max()))
        noise = max(noise, proof.ROUNDINGS_SURE * self._rounding)
        if not agree(mine, theirs, noise):
            raise Disagreement(proof.DISAGREES)
        if noise > proof.MOST_NOISE_OF_DROP * self._span:
            self._warn(self._span, noise)
