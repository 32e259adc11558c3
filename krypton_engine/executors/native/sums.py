"""Sums, the unit of the engine's work, and the epilogues that end them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from krypton_engine.graph.box_operators import NO_EPILOGUE, Epilogue

AXES = DEPTH, ROWS, COLUMNS = 3, 1, 2
"""Axes that boxes run along, in the engine's order; channels are axis 0.

An image has no depth, and a signal no rows either. Axes of an image have the numbers of its graph: only those
of volumes and signals are renamed.
"""

Sizes = tuple[int, int, int]
"""Cells along the axes, 1 where there is none."""

Window = tuple[int, int, int, int, int, int]
"""A kernel along an axis: cells in and out, kernel, stride, padding, dilation."""

Float32s = npt.NDArray[np.float32]
"""Numbers as the C++ engine takes them."""


@dataclass(frozen=True)
class Sum:
    """A convolution, a concatenation or a vector before it is built, so that its reader can join it.

    Of a meeting, ``image`` is the engine's number of the image that a global value meets, the only one that
    can be the residual.

    Examples:
        >>> from dataclasses import replace
        >>> def build(done):
        ...     return 3 if done.epilogue == NO_EPILOGUE else 4  # the number that the engine would give it
        >>> waiting = Sum(build, "convolution", weight=np.ones((8, 3, 1, 1, 1), dtype=np.float32))
        >>> joined = replace(waiting, epilogue=Epilogue(low=0.0))
        >>> waiting.build(waiting), joined.build(joined), joined.required_weight.shape
        (3, 4, (8, 3, 1, 1, 1))
    """

    build: Callable[[Sum], int]
    kind: str
    weight: Float32s | None = None
    bias: Float32s | None = None
    scale: Float32s | None = None
    shift: Float32s | None = None
    residual: int | None = None
    image: int | None = None
    epilogue: Epilogue = NO_EPILOGUE

    @property
    def required_weight(self) -> Float32s:
        """The weights of a kind of sum that always has them."""
        assert self.weight is not None
        return self.weight


def of_one_cell(sizes: Sizes) -> tuple[Window, ...]:
    """Kernels of one cell along every axis.

    Examples:
        >>> of_one_cell((1, 24, 20))
        ((1, 1, 1, 1, 0, 1), (24, 24, 1, 1, 0, 1), (20, 20, 1, 1, 0, 1))
    """
    return tuple((n, n, 1, 1, 0, 1) for n in sizes)


def numbers(epilogue: Epilogue) -> tuple[float, float, str, float]:
    """An epilogue as the engine takes it.

    Examples:
        >>> numbers(Epilogue(low=0.0))  # ReLU
        (0.0, inf, 'identity', 0.0)
    """
    return epilogue.low, epilogue.high, epilogue.function, epilogue.parameter
