"""Graphs in full, by a loop that frees nothing and lays nothing out."""

from __future__ import annotations

import torch

from krypton_engine.graph.ir import Graph, resolve


def values(graph: Graph, x: torch.Tensor) -> dict[int, torch.Tensor]:
    """Every value of a graph, computed in full."""
    found = {node.index: node.value for node in graph.nodes if node.value is not None}
    found[graph.inputs[0]] = x
    for node in graph.nodes:
        if node.index not in found:
            args, kwargs = (resolve(each, found.__getitem__, len(x)) for each in (node.args, node.kwargs))
            found[node.index] = node.target(*args, **kwargs)
    return found
