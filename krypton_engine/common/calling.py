"""Forward functions, targets and baselines in the forms in which users give them, which are Captum's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

Forward: TypeAlias = Callable[..., Tensor | float]
"""A model or another forward function: outputs ``(examples, *output_shape)``, or one number."""

Activate: TypeAlias = Callable[[Tensor], Tensor] | None
"""A function that is applied to outputs ``(n, *output_shape)`` before anything else; None applies none."""

Target: TypeAlias = int | tuple[int, ...] | list[int] | list[tuple[int, ...]] | Tensor | None
"""Index of the outputs: one for all examples, or a list or tensor with one for each; None selects nothing."""

Baseline: TypeAlias = Tensor | float
"""Values that replace the cells of one input, broadcast against it."""

Baselines: TypeAlias = Baseline | tuple[Baseline, ...] | None
"""The baseline of one input, or one for each of several; None is 0."""
