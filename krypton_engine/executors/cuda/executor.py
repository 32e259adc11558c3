"""The CUDA executor: which graphs the engine of ``csrc/cuda`` takes."""

from __future__ import annotations

import torch

from krypton_engine.executors.base import Unsupported
from krypton_engine.executors.cuda import engine
from krypton_engine.executors.cuda.engine import AXES, ELEMENTS
from krypton_engine.executors.cuda.program import CudaProgram
from krypton_engine.executors.layout import Layout, column_axes
from krypton_engine.executors.programs import kept
from krypton_engine.graph.box_operators import Pool, Reindex
from krypton_engine.graph.ir import Graph
from krypton_engine.graph.regions import SpanMap, SpreadMap
from krypton_engine.plan.plan import Plan


class CudaExecutor:
    """See `krypton_engine.executors.base.Executor`.

    Examples:
        >>> EXECUTOR.preference(torch.device("cuda")), EXECUTOR.preference(torch.device("cpu"))
        (2, None)
        >>> EXECUTOR.program(graph, plan, torch.device("cpu"))
        Traceback (most recent call last):
        krypton_engine.executors.base.Unsupported: the CUDA engine ...
    """

    name = "cuda"

    def about(self) -> str:
        """See `krypton_engine.executors.base.Executor.about`."""
        return engine.about(torch.cuda.device_count())

    def preference(self, device: torch.device) -> int | None:
        """2, the highest, for a GPU; None for any other device."""
        return 2 if device.type == engine.DEVICE else None

    def program(self, graph: Graph, plan: Plan, device: torch.device) -> CudaProgram:
        """The graph made ready, for every window that the kernels can run on it.

        Raises:
            Unsupported: The engine is missing, or cannot run on the device, or has no kernels for the graph.
        """
        if engine.MISSING:
            raise Unsupported(engine.MISSING)
        if device.type != engine.DEVICE:
            raise Unsupported(f"the CUDA engine runs on a GPU, not on {device.type}")
        if graph.sites:
            raise Unsupported("the CUDA engine takes nothing to the first order yet")
        columns = column_axes(graph, plan.window)
        for node in graph.nodes:
            if not node.local:
                continue
            lacking = ""
            if node.dtype not in ELEMENTS:
                lacking = f"has no kernels for {node.dtype}"
            elif len(Layout.of(node, columns[node.index]).axes) > AXES:
                lacking = f"moves boxes along {AXES} axes at most"
            elif isinstance(node.on_box, Pool) and None in node.roles[2:]:
                lacking = "pools along the axes of boxes only"
            elif isinstance(node.on_box, Reindex) and len({graph.nodes[i].axes for i in node.operands}) > 1:
                lacking = "merges values of the same axes only"
            elif any(isinstance(step, (SpreadMap, SpanMap)) for maps in node.maps for step in maps.values()):
                lacking = "does not resize yet"
            if lacking:
                raise Unsupported(f"{node.op} ({node.name}): the CUDA engine {lacking}")
        engine.probe(device)
        return kept(graph, self.name, lambda own: CudaProgram(own, engine._cuda))

    def pays(self, graph: Graph, plan: Plan, device: torch.device, memory_budget: int) -> None:
        """Return for every graph that runs on a GPU: sessions leave boxes that do not pay by themselves."""


EXECUTOR = CudaExecutor()
