"""Which graphs the CUDA engine takes."""

from __future__ import annotations

import torch

from krypton_engine.executors.cuda import engine
from krypton_engine.executors.cuda.engine import AXES, ELEMENTS
from krypton_engine.executors.cuda.program import CudaProgram
from krypton_engine.executors.layout import Layout, column_axes
from krypton_engine.graph.ir import Graph, Pool, Reindex
from krypton_engine.plan.plan import Plan


def program(graph: Graph, plan: Plan, device: torch.device) -> CudaProgram | str:
    """``graph`` made ready for the window of ``plan``, or why the engine cannot run it."""
    if engine.MISSING:
        return engine.MISSING
    if device.type != engine.DEVICE:
        return f"the CUDA engine runs on a GPU, not on {device.type}"
    columns = column_axes(graph, plan.window)
    for node in graph.nodes:
        if not node.local:
            continue
        if node.dtype not in ELEMENTS:
            return f"{node.op} ({node.name}): the CUDA engine has no kernels for {node.dtype}"
        if len(Layout.of(node, columns[node.index]).axes) > AXES:
            return f"{node.op} ({node.name}): the CUDA engine moves boxes along {AXES} axes at most"
        if isinstance(node.box, Pool) and None in node.roles[2:]:
            return f"{node.op} ({node.name}): the CUDA engine pools along the axes of boxes only"
        if isinstance(node.box, Reindex) and len({graph.nodes[i].axes for i in node.operands}) > 1:
            return f"{node.op} ({node.name}): the CUDA engine merges values of the same axes only"
    if refused := engine.probe(device):
        return refused
    if "cuda" not in graph.programs:
        graph.programs["cuda"] = CudaProgram(graph, engine._cuda)
    found: CudaProgram = graph.programs["cuda"]
    return found
