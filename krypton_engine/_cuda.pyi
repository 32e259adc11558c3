"""Types of the module that ``csrc/cuda`` builds. Addresses are integers: ``Tensor.data_ptr()``."""

from collections.abc import Sequence
from enum import Enum

architectures: str

class Element(Enum):
    float32 = ...
    float16 = ...
    bfloat16 = ...

class Function(Enum):
    identity = ...
    sigmoid = ...
    silu = ...
    hardsigmoid = ...
    hardswish = ...
    leaky_relu = ...
    elu = ...
    tanh = ...
    gelu = ...
    gelu_tanh = ...

class Axis:
    def __init__(self, size: int = 1, extent: int = 1, start: int = 0, lo: int = 0, hi: int = 0) -> None: ...

class Cells:
    def __init__(self, view: int, changed: int, place: int, axes: Sequence[Axis]) -> None: ...

class Read:
    def __init__(
        self, start: int = 0, stride: int = 1, padding: int = 0, dilation: int = 1, sources: int = 0
    ) -> None: ...

def compose(
    cells: Cells,
    reads: Sequence[Read],
    box: Sequence[int],
    copies: int,
    out: int,
    pitch: int,
    columns: int,
    fill: float,
    overlay: bool,
    element: Element,
    stream: int,
) -> None: ...
def unfold(
    cells: Cells,
    reads: Sequence[Read],
    kernel: Sequence[int],
    steps: Sequence[int],
    box: Sequence[int],
    first: int,
    copies: int,
    out: int,
    columns: int,
    element: Element,
    stream: int,
) -> None: ...
def finish(
    x: int,
    columns: int,
    bias: int,
    residual: Cells | None,
    reads: Sequence[Read],
    box: Sequence[int],
    copies: int,
    function: Function,
    low: float,
    high: float,
    parameter: float,
    element: Element,
    stream: int,
) -> None: ...
def pool(
    cells: Cells,
    reads: Sequence[Read],
    kernel: Sequence[int],
    divisors: Sequence[int],
    maximum: bool,
    box: Sequence[int],
    copies: int,
    out: int,
    columns: int,
    element: Element,
    stream: int,
) -> None: ...
def shrink(
    cells: Cells,
    box: Sequence[int],
    copies: int,
    columns: int,
    threshold: float,
    gradient: int,
    marks: int,
    left: int,
    effect: int,
    element: Element,
    stream: int,
) -> None: ...
