"""What the engine computes at a time: a sum, and the epilogue that ends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from krypton_engine.graph.ir import Epilogue

ROWS, COLUMNS = 1, 2
"""Axes of an image that boxes run along; its channels are axis 0."""

Floats = npt.NDArray[np.float32]


NOTHING = Epilogue()


@dataclass(frozen=True)
class Sum:
    """A convolution, a concatenation or a layer before it is built, so that what follows can join it."""

    build: Callable[[Sum], int]
    kind: str
    weight: Floats | None = None
    bias: Floats | None = None
    scale: Floats | None = None
    shift: Floats | None = None
    residual: int | None = None
    epilogue: Epilogue = NOTHING

    @property
    def weights(self) -> Floats:
        """Weights of a kind of sum that has them."""
        assert self.weight is not None
        return self.weight


def numbers(epilogue: Epilogue) -> tuple[float, float, str, float]:
    """An epilogue as the engine takes it."""
    return epilogue.low, epilogue.high, epilogue.function, epilogue.parameter
