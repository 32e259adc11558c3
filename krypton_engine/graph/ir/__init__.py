"""The graph of a model, between PyTorch and the executors: operators whose dimensions have known roles."""

from krypton_engine.graph.ir.graph import Graph, clipped, in_full
from krypton_engine.graph.ir.node import BATCH, Node, Ref, Roles, Rows, holds_rows, redirected, refs, resolve

__all__ = [
    "BATCH",
    "Graph",
    "Node",
    "Ref",
    "Roles",
    "Rows",
    "clipped",
    "holds_rows",
    "in_full",
    "redirected",
    "refs",
    "resolve",
]
