"""Questions to a callable: everything that a call asks for but the target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.calling import Forward
from krypton_engine.executors.full import evaluate
from krypton_engine.perturbation.changed import changed_by
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.windows import occlude
from krypton_engine.planning.cache import Source

T = TypeVar("T")


@dataclass
class Question:
    """Questions to a callable: everything that a call asks for but the target.

    Attributes:
        forward_func: The forward function that is explained.
        inputs: Its tensor inputs, first dimension the examples.
        baselines: Values that replace occluded cells: one tensor for each input, broadcast against it.
        windows: The positions over each input: a sliding window's, or regions.
        additional: Further arguments of ``forward_func``; None if there are none.
        base: Outputs of the forward function for the un-occluded inputs.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window = SlidingWindow((3, 24, 20), (3, 8, 8), (3, 8, 8))
        >>> question = Question(model, (x,), (torch.zeros(1),), (window,), None, model(x))
        >>> question.baseline(0, row=0).shape
        torch.Size([1, 3, 24, 20])
        >>> bool(question.at(0, 0, position=0)[0][0, :, :8, :8].any())
        False
    """

    forward_func: Forward
    inputs: tuple[Tensor, ...]
    baselines: tuple[Tensor, ...]
    windows: tuple[Positions, ...]
    additional: tuple[object, ...] | None
    base: Tensor

    def example(self, row: int) -> tuple[tuple[Tensor, ...], tuple[object, ...]]:
        """Inputs and additional arguments of one example.

        Examples:
            >>> images, base = torch.cat([x, -x]), torch.zeros(2, 5)
            >>> question = Question(model, (images,), (torch.zeros(1),), (heatmap.window,), (0.5,), base)
            >>> inputs, additional = question.example(1)
            >>> torch.equal(inputs[0], -x), additional
            (True, (0.5,))
        """
        rows = self.inputs[0].shape[0]

        def cut(item: T) -> T | Tensor:
            if isinstance(item, Tensor) and item.ndim > 0 and item.shape[0] == rows:
                return item[row : row + 1]
            return item

        return tuple(cut(x) for x in self.inputs), tuple(cut(a) for a in self.additional or ())

    def tensors(self, row: int) -> tuple[Tensor, ...]:
        """All tensor arguments of one example.

        Examples:
            >>> given, scale, base = torch.cat([x, -x]), torch.tensor([1.0, 2.0]), torch.zeros(2, 5)
            >>> question = Question(model, (given,), (torch.zeros(1),), (heatmap.window,), (0.5, scale), base)
            >>> image, scale_of_row = question.tensors(1)
            >>> torch.equal(image, -x), scale_of_row
            (True, tensor([2.]))
        """
        inputs, additional = self.example(row)
        return inputs + tuple(a for a in additional if isinstance(a, Tensor))

    def source(self, occluded: int) -> Source:
        """The source that a graph is captured from."""
        return Source(self.forward_func, self.inputs, occluded, self.additional or ())

    def as_occluded(self, occluded: int) -> Question:
        """The same question with one input in the type of its occluded copies, which its baseline may widen.

        Examples:
            >>> words, half = torch.zeros(1, 3, 24, 20, dtype=torch.int64), torch.tensor([0.5])
            >>> question = Question(model, (words,), (half,), (heatmap.window,), None, torch.zeros(1, 5))
            >>> question.as_occluded(0).inputs[0].dtype
            torch.float32
        """
        x = self.inputs[occluded]
        x = x.to(torch.result_type(x, self.baselines[occluded]))
        return replace(self, inputs=(*self.inputs[:occluded], x, *self.inputs[occluded + 1 :]))

    def baseline(self, occluded: int, row: int) -> Tensor:
        """The baseline of one example: ``(1, *input_shape)``."""
        return self.baselines[occluded].expand(self.inputs[occluded].shape)[row : row + 1]

    def at(self, occluded: int, row: int, position: int) -> tuple[Tensor, ...]:
        """The inputs of one example with a position occluded."""
        inputs, _ = self.example(row)
        x = inputs[occluded]
        baseline = self.baseline(occluded, row).to(x.device)
        changed = changed_by(self.windows[occluded], x, baseline)
        content = changed.content(position)
        boxes = changed.boxes(np.array([position]))
        covered = occlude(x, baseline, boxes, None if content is None else lambda _: content)
        return (*inputs[:occluded], covered, *inputs[occluded + 1 :])

    def from_baseline(self) -> Question:
        """The question about the baselines, covered with the inputs: insertion for deletion.

        Examples:
            >>> question = Question(model, (x,), (torch.zeros(1),), (heatmap.window,), None, model(x))
            >>> question.from_baseline().inputs[0].any(), question.from_baseline().baselines[0] is x
            (tensor(False), True)
        """
        starts = tuple(
            baseline.expand(x.shape).to(torch.result_type(x, baseline))
            for x, baseline in zip(self.inputs, self.baselines, strict=True)
        )
        base = evaluate(self.forward_func, starts, self.additional)
        return replace(self, inputs=starts, baselines=self.inputs, base=base)

    def ask(self, inputs: tuple[Tensor, ...], row: int) -> Tensor:
        """The answer of the user's own forward function to other inputs in place of an example's.

        Examples:
            >>> question = Question(model, (x,), (torch.zeros(1),), (heatmap.window,), None, model(x))
            >>> torch.equal(question.ask((x / 2,), row=0), model(x / 2))
            True
        """
        return evaluate(self.forward_func, inputs, self.example(row)[1] or None)
