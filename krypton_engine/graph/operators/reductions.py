"""Operators that mix the cells of whole dimensions: sums, means, softmax."""

from __future__ import annotations

from krypton_engine.graph.operators.base import Call, Local, NotLocal, mixing, only_dependent, rule


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "glu", "softmin")
def _along_dim(call: Call) -> Local:
    return mixing(call, only_dependent(call), [call["dim"]])


@rule("mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "norm", "logsumexp", "prod")
def _reduction(call: Call) -> Local:
    node = only_dependent(call)
    dims = call["dim"]
    if dims is None or dims == [] or dims == ():
        raise NotLocal(f"{call.name} over everything")
    return mixing(call, node, dims if isinstance(dims, (tuple, list)) else [dims], keep=call["keepdim"])
