"""The purpose of a tuning: window, baseline, target, and the model's answer to a fixed image of noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from krypton_engine.common.calling import Target
from krypton_engine.heatmap.identity import Described, described, same_outputs
from krypton_engine.perturbation.windows import SlidingWindow

_MOST_OUTPUTS = 4096
"""Most numbers of a model's output that a fingerprint keeps."""


@dataclass(frozen=True)
class Fingerprint:
    """The purpose of a tuning: window, baseline, target and model.

    Attributes:
        input_shape: Shape of one example.
        window: Shape of the sliding window.
        strides: Steps of the window.
        baseline: The values that cover the cells, as `krypton_engine.heatmap.identity.described` has them.
        target: The target of every sample; None for the predicted class.
        answer: Outputs of the model, with its activation, for a fixed image of noise.
    """

    input_shape: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    baseline: Described
    target: Target
    answer: tuple[float, ...]

    @staticmethod
    def of(
        window: SlidingWindow, x: Tensor, baseline: Tensor, target: Target, model: Callable[[Tensor], Tensor]
    ) -> Fingerprint:
        """The fingerprint of a call.

        Args:
            window: The sliding window.
            x: An input, ``(1, *input_shape)``; its dtype and device count, not its values.
            baseline: Baseline of the same shape.
            target: Target as given; None for the predicted class.
            model: Function from inputs to (activated) outputs.

        Examples:
            >>> window = SlidingWindow((3, 24, 20), (3, 8, 8), (3, 4, 4))
            >>> found = Fingerprint.of(window, x, torch.full_like(x, 0.5), None, model)
            >>> found.strides, found.baseline, len(found.answer)
            ((3, 4, 4), (0.5, 0.5, 0.5), 5)
        """
        generator = torch.Generator("cpu").manual_seed(0)
        noise = torch.rand(x.shape, generator=generator, device="cpu")
        # Of numbers that name something, such as words, there may be two only.
        noise = (noise if x.is_floating_point() else noise * 2).to(x)
        return Fingerprint(
            window.input_shape,
            window.shape,
            window.strides,
            described(baseline),
            target,
            tuple(model(noise).double().flatten()[:_MOST_OUTPUTS].tolist()),
        )

    def differences(self, other: Fingerprint) -> list[str]:
        """The differences from another fingerprint, in words; empty where there are none.

        Examples:
            >>> from dataclasses import replace
            >>> tuning.fingerprint.differences(replace(tuning.fingerprint, strides=(3, 2, 2)))
            ['strides ((3, 4, 4) there, (3, 2, 2) here)']
        """
        mine, theirs = (
            torch.tensor(each.answer, dtype=torch.float64, device="cpu") for each in (self, other)
        )
        words = [] if same_outputs(mine, theirs) else ["the model, its weights or the activation"]
        for name in self.arguments_that_differ(other):
            words.append(f"{name} ({getattr(self, name)} there, {getattr(other, name)} here)")
        return words

    def arguments_that_differ(self, other: Fingerprint) -> list[str]:
        """Names of what differs from another fingerprint, the model aside.

        Examples:
            >>> from dataclasses import replace
            >>> tuning.fingerprint.arguments_that_differ(replace(tuning.fingerprint, target=1, answer=()))
            ['target']
        """
        names = ("input_shape", "window", "strides", "baseline", "target")
        return [name for name in names if getattr(self, name) != getattr(other, name)]
