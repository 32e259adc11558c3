"""In-place writes that nobody else sees, made functional, and programs that need no other preparation.

PyTorch functionalises any program, but by tracing anew, which takes longer than the export itself. What most
networks write in place, such as ``relu_`` after a convolution, is functional under another name.
"""

from __future__ import annotations

from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_arg

from krypton_engine.graph.draft import name_of
from krypton_engine.graph.operators.base import FACTS, RULES
from krypton_engine.graph.operators.pointwise import IDENTITIES, is_pointwise

_OWN = {
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "batch_norm", "cat", "matmul", "max_pool1d", "max_pool2d", "max_pool3d",
}  # fmt: skip
"""Operators whose result is memory of its own, never a view of an operand; beside elementwise ones, and those
that are known to be fresh (`krypton_engine.graph.operators.base.Facts`)."""

DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
"""Operators that return their first argument where the third, ``train``, is false."""

_TAKEN = {"flatten", "unflatten", "squeeze", "chunk", "scaled_dot_product_attention"} | IDENTITIES | DROPOUTS
"""Composite operators without a rule that a translation takes as they are."""

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd

_NUMBERS = (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
"""Types of values that are no tensors: sizes, and what is reckoned of them."""


def is_ready(call: torch.fx.Node) -> bool:
    """Whether a translation takes a call as it is: functional, and not for PyTorch to take apart.

    Args:
        call: Node of an exported program that calls a function.

    Examples:
        >>> program = torch.export.export(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.RReLU()), (x,))
        >>> [is_ready(call) for call in program.graph.nodes if call.op == "call_function"]
        [True, False]
    """
    operator: Any = call.target
    if not isinstance(operator, torch._ops.OpOverload):  # a part of a result, a number made of rows
        return operator is getitem or isinstance(call.meta.get("val"), _NUMBERS)
    if operator._schema.is_mutable:
        return False
    if isinstance(call.meta.get("val"), _NUMBERS):
        return True
    if not operator.has_kernel_for_dispatch_key(_COMPOSITE):
        return True
    name = name_of(operator)
    if name == "batch_norm":  # in training its statistics are written to, which the schema does not say
        return not call.args[5]
    if torch.Tag.maybe_aliasing_or_mutating in operator.tags:
        return name in DROPOUTS and not call.args[2]
    return name in RULES or name in _TAKEN or is_pointwise(operator)


def make_functional(program: torch.export.ExportedProgram) -> None:
    """Call functional operators in place of those that write to what nothing else reads any more.

    Args:
        program: Exported program, changed.

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 2), torch.nn.ReLU(inplace=True))
        >>> for net in net, net[1]:  # the second writes to what its caller holds
        ...     program = torch.export.export(net, (x,))
        ...     make_functional(program)
        ...     print([str(call.target) for call in program.graph.nodes if call.op == "call_function"])
        ['aten.linear.default', 'aten.relu.default']
        ['aten.relu_.default']
    """
    before: set[torch.fx.Node] = set()
    for call in list(program.graph.nodes):
        functional = None
        if isinstance(call.target, torch._ops.OpOverload) and call.target._schema.is_mutable:
            functional = _functional(call, before)
        before.add(call if functional is None else _replaced(program, call, functional))


def _replaced(program: torch.export.ExportedProgram, call: torch.fx.Node, operator: Any) -> torch.fx.Node:
    """A call of another operator in the place of ``call``, and with a name after that operator."""
    with program.graph.inserting_before(call):
        made: torch.fx.Node = program.graph.create_node(
            "call_function", operator, call.args, call.kwargs, name_of(operator)
        )
    made.meta = call.meta
    call.replace_all_uses_with(made)
    program.graph.erase_node(call)
    program.graph_signature.replace_all_uses(call.name, made.name)
    return made


def _functional(call: torch.fx.Node, before: set[torch.fx.Node]) -> Any:
    """The functional operator of the same result; None where a write may be seen elsewhere."""
    operator: Any = call.target
    name = name_of(operator)
    if name[:-1] in DROPOUTS and not call.args[2]:  # which writes nothing
        return getattr(getattr(torch.ops.aten, name[:-1]), operator._overloadname)
    packet = getattr(torch.ops.aten, name[:-1], None)
    functional: Any = getattr(packet, operator._overloadname, None)
    if functional is None or _arguments(functional) != _arguments(operator):
        return None
    known = FACTS.get(functional)
    if not _is_elementwise(functional) and (known is None or known.in_place is not operator):
        return None
    into = call.args[0]
    if not isinstance(into, torch.fx.Node) or not _is_own(into):
        return None
    if any(user is not call and not (user in before and _is_own(user)) for user in into.users):
        return None
    # In place, the result has the type of what is written to: of a comparison, too.
    made = functional(*map_arg(call.args, _alike), **map_arg(call.kwargs, _alike))
    return functional if made.dtype == call.meta["val"].dtype else None


def _arguments(operator: torch._ops.OpOverload) -> list[str]:
    return [argument.name for argument in operator._schema.arguments]


def _alike(node: torch.fx.Node) -> Any:
    """A value of the same type and rank, of one element and without memory; of a number, itself."""
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        return value
    return torch.empty((1,) * value.ndim, dtype=value.dtype, device="meta")


def _is_elementwise(operator: Any) -> bool:
    """Whether each element of a result is made of an element of each operand, by a kernel of its own."""
    return is_pointwise(operator) and not operator.has_kernel_for_dispatch_key(_COMPOSITE)


def _is_own(node: torch.fx.Node) -> bool:
    """Whether a value is the one result, in memory of its own, of a functional operator."""
    operator: Any = node.target
    if not isinstance(operator, torch._ops.OpOverload) or not isinstance(node.meta["val"], Tensor):
        return False
    if any(each.alias_info for each in (*operator._schema.arguments, *operator._schema.returns)):
        return False
    known = FACTS.get(operator)
    fresh = known is not None and (known.fresh or known.in_place is not None)
    return fresh or name_of(operator) in _OWN or _is_elementwise(operator)
