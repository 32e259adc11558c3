"""Operators, one file a family: which calls can be computed on boxes, and how.

`localise` answers for a call by the rule of its operator. A new operator needs a rule in the file of its
family; elementwise operators need none if PyTorch tags them so.
"""

from krypton_engine.graph.ir import BATCH
from krypton_engine.graph.operators import (
    activations,
    convolution,
    indexing,
    joining,
    linear,
    normalisation,
    padding,
    pointwise,
    pooling,
    recurrent,
    reductions,
    resampling,
    shapes,
    spectra,
)
from krypton_engine.graph.operators.base import (
    RULES,
    Arguments,
    Call,
    Facts,
    Local,
    NotLocal,
    Result,
    arguments,
    epilogue_of,
    facts,
)

__all__ = [
    "Arguments",
    "Call",
    "Facts",
    "Local",
    "NotLocal",
    "Result",
    "activations",
    "arguments",
    "bounded",
    "convolution",
    "epilogue_of",
    "facts",
    "indexing",
    "joining",
    "linear",
    "localise",
    "normalisation",
    "padding",
    "pointwise",
    "pooling",
    "recurrent",
    "reductions",
    "resampling",
    "ruled",
    "shapes",
    "spectra",
]


def localise(call: Call) -> Local:
    """The way that ``call`` runs on a box, by its operator's rule.

    Raises:
        NotLocal: With the reason.

    Examples:
        >>> localise(call(torch.ops.aten.relu.default, graph.nodes[7], shape=(1, 8, 24, 20))).roles
        (-1, None, 1, 2)
        >>> localise(call(torch.ops.aten.mean.dim, graph.nodes[7], [2, 3], shape=(1, 8)))
        Traceback (most recent call last):
        krypton_engine.graph.operators.base.NotLocal: mean reads every axis from end to end
    """
    local = bounded(call)
    if not any(role is not None and role != BATCH for role in local.roles):
        raise NotLocal(f"{call.name} reads every axis from end to end")
    return local


def ruled(call: Call) -> Local:
    """The answer of a call's rule, whatever the roles of its operands are.

    Raises:
        NotLocal: With the reason.

    Examples:
        >>> turned = call(torch.ops.aten.permute.default, graph.nodes[7], [1, 0, 2, 3], shape=(8, 1, 24, 20))
        >>> ruled(turned).roles  # the batch comes second, as `bounded` refuses
        (None, -1, 1, 2)
    """
    found = RULES.get(call.name) or (pointwise.pointwise if call.pointwise else None)
    if found is None:
        raise NotLocal(f"{call.name} is not known to be local")
    try:
        return found(call)
    except KeyError as argument:
        raise NotLocal(f"{call.name} without {argument}") from None


def bounded(call: Call) -> Local:
    """The answer of `localise`, also for a call that leaves no axis: a global value without cells.

    Raises:
        NotLocal: With the reason.

    Examples:
        >>> local = bounded(call(torch.ops.aten.mean.dim, graph.nodes[7], [2, 3], shape=(1, 8)))
        >>> local.roles, sorted(local.whole)  # no axis is left, and both are read from end to end
        ((-1, None), [1, 2])
    """
    local = ruled(call)
    if local.roles[:1] != (BATCH,):
        raise NotLocal(f"{call.name} moves or reads the batch")
    if 0 in call.shape:
        raise NotLocal(f"{call.name} has an empty result")
    return local
