"""Which graphs the C++ engine takes."""

from __future__ import annotations

import torch

from krypton_engine.executors.native import engine
from krypton_engine.executors.native.lowering import COLUMNS, ROWS
from krypton_engine.executors.native.program import NativeProgram
from krypton_engine.graph.ir import BATCH, Graph


def program(graph: Graph, device: torch.device) -> NativeProgram | str:
    """``graph`` made ready, or why the engine cannot run it."""
    if engine.MISSING:
        return engine.MISSING
    if device.type != "cpu":
        return f"the C++ engine runs on the CPU, not on {device.type}"
    if graph.input.roles != (BATCH, 0, ROWS, COLUMNS):
        return f"the C++ engine runs images, and this input has {len(graph.input.shape) - 1} axes, not 3"
    kind = graph.input.dtype
    if kind is None or kind.is_complex or (kind.is_floating_point and kind != torch.float32):
        return f"the C++ engine computes in float32, not {kind}"
    try:
        found = NativeProgram(graph)
    except ValueError as error:  # beyond its limits
        return f"the C++ engine refuses it: {error}"
    if graph.clips and found.reason:  # what follows would not be clipped
        return f"the C++ engine clips all or nothing, and it stops at {found.reason}"
    return found


def packed_bytes(graph: Graph) -> int:
    """About what the packed weights of ``graph`` take at most: Winograd makes 9 numbers 36."""
    return sum(
        node.value.numel() * node.value.element_size() * (4 if node.value.dim() == 4 else 1)
        for node in graph.nodes
        if node.value is not None
    )
