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
        >>> from krypton_engine.graph.draft import BoundCall, Draft
        >>> from krypton_engine.graph.box_operators import Apply
        >>> draft = Draft(None)
        >>> image = draft.add("x", "input", (1, 8, 9), (BATCH, 0, 1), on_box=Apply(), depends=True)
        >>> localise(BoundCall(draft, torch.ops.aten.relu.default, (image,), {}, (1, 8, 9))).roles
        (-1, 0, 1)
        >>> localise(BoundCall(draft, torch.ops.aten.mean.dim, (image, [1, 2]), {}, (1,)))
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
        >>> from krypton_engine.graph.draft import BoundCall, Draft
        >>> from krypton_engine.graph.box_operators import Apply
        >>> draft = Draft(None)
        >>> image = draft.add("x", "input", (1, 8, 9), (BATCH, 0, 1), on_box=Apply(), depends=True)
        >>> call = BoundCall(draft, torch.ops.aten.permute.default, (image, [1, 0, 2]), {}, (8, 1, 9))
        >>> ruled(call).roles  # the batch comes second, as `bounded` refuses
        (0, -1, 1)
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
        >>> from krypton_engine.graph.draft import BoundCall, Draft
        >>> from krypton_engine.graph.box_operators import Apply
        >>> draft = Draft(None)
        >>> image = draft.add("x", "input", (1, 8, 9), (BATCH, 0, 1), on_box=Apply(), depends=True)
        >>> local = bounded(BoundCall(draft, torch.ops.aten.mean.dim, (image, [1, 2]), {}, (1,)))
        >>> local.roles, sorted(local.whole)  # no axis is left, and both are read from end to end
        ((-1,), [0, 1])
    """
    local = ruled(call)
    if local.roles[:1] != (BATCH,):
        raise NotLocal(f"{call.name} moves or reads the batch")
    if 0 in call.shape:
        raise NotLocal(f"{call.name} has an empty result")
    return local
