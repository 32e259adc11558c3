"""Operators that mix the cells of whole dimensions: sums, means, softmax."""

from __future__ import annotations

from krypton_engine.graph.operators import base


@base.rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "glu", "softmin")
@base.rule("sort", "argsort", "topk", "cummax", "cummin", "cumprod", "logcumsumexp")
def _along_dim(call: base.Call) -> base.Local:
    return base.mixing(base.only_dependent(call), [call["dim"]])


base.ROW_BY_ROW.update(("mean", "sum", "amax", "amin"))


@base.rule("mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "norm", "logsumexp", "prod")
@base.rule("max", "min", "median", "nanmedian", "mode", "kthvalue", "aminmax", "var_mean", "std_mean")
@base.rule("argmax", "argmin", "all", "any", "nansum")
def _reduction(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    dims = call.bound.get("dim")
    if dims is None or dims == [] or dims == ():
        raise base.NotLocal(f"{call.name} over everything")
    return base.mixing(node, dims if isinstance(dims, (tuple, list)) else [dims], keep=call["keepdim"])
