"""The native executor: which graphs the C++ engine takes, and which it should."""

from __future__ import annotations

import math

import torch

from krypton_engine.errors import InputError
from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.native import engine
from krypton_engine.executors.native.program import NativeProgram
from krypton_engine.executors.native.sums import AXES
from krypton_engine.executors.programs import kept
from krypton_engine.graph.ir import BATCH, Graph
from krypton_engine.plan.plan import Plan


class NativeExecutor:
    """See `krypton_engine.executors.base.Executor`.

    Examples:
        >>> cpu = torch.device("cpu")
        >>> EXECUTOR.preference(cpu), EXECUTOR.preference(torch.device("cuda"))
        (1, None)
        >>> EXECUTOR.program(graph, plan, cpu).reason  # no layer that the engine lacks
        ''
        >>> EXECUTOR.pays(graph, plan, cpu, memory_budget=1000)
        Traceback (most recent call last):
        krypton_engine.executors.base.Unsupported: memory_budget does not hold the C++ engine's packed weights
    """

    name = "native"

    def about(self) -> str:
        """See `krypton_engine.executors.base.Executor.about`."""
        if engine.MISSING:
            raise Unsupported(engine.MISSING)
        kernels = engine.instruction_sets()[0]
        return f"C++ for float32 signals, images and volumes on the CPU, with {kernels} kernels"

    def preference(self, device: torch.device) -> int | None:
        """1, above the reference executor, for a CPU; None for any other device."""
        return 1 if device.type == "cpu" else None

    def program(self, graph: Graph, plan: Plan, device: torch.device) -> NativeProgram:
        """The graph made ready, for every window.

        Raises:
            Unsupported: The engine is missing, or the input is no float32 image on the CPU, or the engine
                would have to clip layers after its part.
        """
        if engine.MISSING:
            raise Unsupported(engine.MISSING)
        if device.type != "cpu":
            raise Unsupported(f"the C++ engine runs on the CPU, not on {device.type}")
        axes = len(graph.input.shape) - 1
        if graph.input.roles != (BATCH, *range(axes)) or not 1 < axes <= 1 + len(AXES):
            raise Unsupported(
                f"the C++ engine runs signals, images and volumes, and this input has {axes} axes, not 2 to 4"
            )
        kind = graph.input.dtype
        if kind is None or kind.is_complex or (kind.is_floating_point and kind != torch.float32):
            raise Unsupported(f"the C++ engine computes in float32, not {kind}")
        found = kept(graph, self.name, _program)
        if graph.clips and found.reason:  # what follows would not be clipped
            raise Unsupported(f"the C++ engine clips every value or none, and cannot run all: {found.reason}")
        return found

    def pays(self, graph: Graph, plan: Plan, device: torch.device, memory_budget: int) -> None:
        """See `krypton_engine.executors.base.Executor.pays`.

        Raises:
            Unsupported: PyTorch on boxes is faster than the engine and PyTorch in full on the rest, or the
                budget does not hold the engine's memory.
        """
        if _packed_bytes(graph) > memory_budget:
            raise Unsupported("memory_budget does not hold the C++ engine's packed weights")
        found = self.program(graph, plan, device)
        if not found.pays(plan):
            raise Unsupported(f"faster here, since the C++ engine lacks {found.reason}")
        try:
            found.largest_batch(plan, memory_budget)
        except InputError as error:
            raise Unsupported(f"the C++ engine takes more memory: {error}") from error


EXECUTOR = NativeExecutor()


def _program(graph: Graph) -> NativeProgram:
    try:
        return NativeProgram(graph)
    except ValueError as error:
        raise Unsupported(f"the C++ engine refuses it: {error}") from error


def _packed_bytes(graph: Graph) -> int:
    """Bytes of a graph's packed weights at most, about: Winograd makes 9 numbers 36, and 27 of them 144."""
    times = {4: 36 / 9, 5: 144 / 27}
    return sum(
        math.ceil(node.value.numel() * node.value.element_size() * times.get(node.value.dim(), 1))
        for node in graph.nodes
        if node.value is not None
    )
