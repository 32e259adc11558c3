"""Types of the C++ engine (csrc/bindings)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

WindowNumbers = tuple[int, int, int, int, int, int]
EpilogueNumbers = tuple[float, float, str, float]
IntervalNumbers = tuple[list[int], list[int], list[int], list[int]]
Sizes = tuple[int, int, int]
Array = npt.NDArray[Any]

def instruction_sets() -> list[str]: ...
def functions() -> list[str]: ...
def peak(isa: str, seconds: float) -> float: ...
def kriging_weights(
    covariances: Array,
    shape: Sequence[int],
    positions: Array,
    near: Array,
    nugget: float,
    level_known: bool,
    weights: Array,
    multipliers: Array,
) -> None: ...

class Program:
    def __init__(self, isa: str, sizes: Sizes, channels: int) -> None: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def view_bytes(self) -> int: ...
    @property
    def outside_bytes(self) -> int: ...
    @property
    def isa(self) -> str: ...
    def run_bytes(self, extents: Array, kept: Sequence[int], threads: int, positions: int) -> int: ...
    def read_elsewhere(self, kept: Sequence[int]) -> list[int]: ...
    def constant(self, pixels: Array) -> int: ...
    def convolution(
        self,
        operands: Sequence[int],
        windows: Sequence[WindowNumbers],
        groups: int,
        weight: Array,
        bias: Array | None,
        epilogue: EpilogueNumbers,
        limits: tuple[int | None, ...] = ...,
    ) -> int: ...
    def pool(
        self,
        operand: int,
        windows: Sequence[WindowNumbers],
        channels: int,
        divisors: Sequence[Sequence[float]] | None,
        epilogue: EpilogueNumbers,
        limits: tuple[int | None, ...] = ...,
    ) -> int: ...
    def combine(
        self,
        arithmetic: str,
        operands: Sequence[int],
        sizes: Sizes,
        channels: int,
        scale: Array | None,
        shift: Array | None,
        epilogue: EpilogueNumbers,
    ) -> int: ...
    def prelu(self, operand: int, slope: Array, epilogue: EpilogueNumbers) -> int: ...
    def concat(
        self,
        operands: Sequence[int],
        channels: Sequence[tuple[int, int]],
        sizes: Sizes,
        scale: Array | None,
        shift: Array | None,
        epilogue: EpilogueNumbers,
    ) -> int: ...
    def reindex(
        self,
        operand: int,
        sources: Sequence[Sequence[int]],
        channels: int,
        fill: float,
        epilogue: EpilogueNumbers,
    ) -> int: ...
    def resample(
        self,
        operand: int,
        sizes: Sizes,
        tables: Sequence[IntervalNumbers | None],
        weights: Sequence[Array | None],
    ) -> int: ...
    def interleave(self, operand: int, cells: Sequence[int], cells_last: bool) -> int: ...
    def layer_norm(
        self,
        operand: int,
        sizes: Sizes,
        channels: int,
        epsilon: float,
        weight: Array | None,
        bias: Array | None,
        epilogue: EpilogueNumbers,
    ) -> int: ...
    def foreign(
        self,
        operands: Sequence[int],
        sizes: Sizes,
        channels: int,
        compute: Callable[[list[Array], Array, Array], None],
        bytes: int,
        tables: Sequence[IntervalNumbers | None] = ...,
    ) -> int: ...
    def moments(self, operand: int, variance: bool) -> int: ...
    def euclidean_norm(self, operand: int) -> int: ...
    def largest(self, operand: int) -> int: ...
    def norm(
        self,
        moments: int,
        channels: int,
        groups: int,
        epsilon: float,
        weight: Array | None,
        bias: Array | None,
    ) -> int: ...
    def meet(
        self,
        operand: int,
        met: int,
        meeting: str,
        scale: Array | None,
        shift: Array | None,
        adds_image: bool,
        epilogue: EpilogueNumbers,
    ) -> int: ...
    def mean(self, value: int, epilogue: EpilogueNumbers) -> int: ...
    def sum(self, value: int, epilogue: EpilogueNumbers) -> int: ...
    def cells(self, value: int, weight: Array, bias: Array | None, epilogue: EpilogueNumbers) -> int: ...
    def dense(self, vector: int, weight: Array, bias: Array | None, epilogue: EpilogueNumbers) -> int: ...

class Session:
    def __init__(
        self,
        program: Program,
        extents: Array,
        kept: Sequence[int],
        input: Array,
        baseline: Array,
        threads: int,
        shrinks: Sequence[tuple[int, float, Array | None]],
        gradients: Sequence[tuple[int, Array]] = ...,
    ) -> None: ...
    def base(
        self, values: Sequence[tuple[int, Array, Array]], vectors: Sequence[tuple[int, Array]]
    ) -> None: ...
    def run(
        self,
        boxes: Array,
        effects: Array | None,
        values: Sequence[tuple[int, Array, Array]],
        vectors: Sequence[tuple[int, Array]],
        contents: Array | None = ...,
    ) -> bool: ...
    def begin(self, input: Array | None) -> int: ...
    def branch(self, source: int, into: int | None = ...) -> int: ...
    def step(
        self,
        walks: Sequence[int],
        settles: bool,
        boxes: Array,
        contents: Array | None,
        values: Sequence[tuple[int, Array, Array]],
        vectors: Sequence[tuple[int, Array]],
    ) -> bool: ...
    timed: bool
    def times(self) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]: ...
    def cancel(self) -> None: ...
