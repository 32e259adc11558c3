"""In-place writes that nobody else sees, made functional, and programs that need no other preparation.

PyTorch functionalises any program, but by tracing anew, which takes longer than the export itself. What most
networks write in place, such as ``relu_`` after a convolution, is functional under another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_arg

from krypton_engine.graph.draft import name_of
from krypton_engine.graph.operators.base import FACTS, RULES
from krypton_engine.graph.operators.pointwise import IDENTITIES, is_pointwise

aten = torch.ops.aten

_OWN = {
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "batch_norm", "cat", "clone", "full", "matmul", "max_pool1d", "max_pool2d", "max_pool3d",
    "new_full", "new_ones", "new_zeros", "ones", "ones_like", "slice_scatter", "zeros", "zeros_like",
}  # fmt: skip
"""Operators whose result is memory of its own, never a view of an operand; beside elementwise ones, and those
that are known to be fresh (`krypton_engine.graph.operators.base.Facts`)."""

DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
"""Operators that return their first argument where the third, ``train``, is false."""

_ASSIGNMENTS = {aten.copy.default, aten.fill.Scalar, aten.fill.Tensor}
"""Elementwise operators that PyTorch does not tag as such: those of assignments to parts."""

_PARTS = {aten.alias.default, aten.slice.Tensor, aten.select.int}
"""Views that an operator can put back into what they are a part of."""

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
        before.update([call] if functional is None else _replaced(program, call, functional, before))


def _replaced(
    program: torch.export.ExportedProgram,
    call: torch.fx.Node,
    operator: Any,
    before: set[torch.fx.Node],
) -> list[torch.fx.Node]:
    """Calls in the place of ``call``: of an operator, and of those that put its result back where it belongs.

    Args:
        program: Exported program, changed.
        call: The call.
        operator: The operator.
        before: Calls before this one, which read what was there before.
    """
    graph = program.graph

    def added(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any) -> torch.fx.Node:
        node: torch.fx.Node = graph.create_node("call_function", target, args, dict(kwargs), name_of(target))
        node.meta = {**call.meta, "val": value}
        return node

    *views, whole = [call] if _writes_nothing(call) else _names(call.args[0])
    with graph.inserting_before(call):
        made = [added(operator, call.args, call.kwargs, call.meta["val"])]
        for view in views:
            if view.target is aten.alias.default:
                continue
            arguments: Any = view.args
            into, *where = arguments
            part, target = made[-1], aten.slice_scatter.default
            if view.target is aten.select.int:
                dim, index = where
                index %= into.meta["val"].shape[dim]
                part = added(aten.unsqueeze.default, (part, dim), {}, part.meta["val"].unsqueeze(dim))
                made.append(part)
                where = [dim, index, index + 1]
            made.append(added(target, (into, part, *where), view.kwargs, into.meta["val"]))
    for name in {call, whole}:
        name.replace_all_uses_with(made[-1], lambda user: user not in before and user not in made)
        program.graph_signature.replace_all_uses(name.name, made[-1].name)
    graph.erase_node(call)
    return made


def _names(value: Any) -> list[Any]:
    """A value, what it is a part of, and so on to what is no part of anything."""
    found = [value]
    while isinstance(value, torch.fx.Node) and value.target in _PARTS:
        args: Any = value.args
        if value.target is aten.select.int and not isinstance(args[0].meta["val"].shape[args[1]], int):
            break  # a row, whose number may count from the end
        value = args[0]
        found.append(value)
    return found


def _is_alone(call: torch.fx.Node, before: set[torch.fx.Node]) -> bool:
    """Whether what a call writes to has no other name under which it is read afterwards."""
    *views, whole = _names(call.args[0])
    if not isinstance(whole, torch.fx.Node) or not _is_own(whole):
        return False
    if any(len(view.users) > 1 for view in views):
        return False
    if call.users and any(view.target is not aten.alias.default for view in views):
        return False  # the result is one more name of the part
    last = views[-1] if views else call
    return all(user is last or user not in before or _is_own(user) for user in whole.users)


def _writes_nothing(call: torch.fx.Node) -> bool:
    """Whether a call that writes in place is of a dropout, which in evaluation does nothing."""
    operator: Any = call.target
    return name_of(operator)[:-1] in DROPOUTS and not call.args[2]


def _functional(call: torch.fx.Node, before: set[torch.fx.Node]) -> Any:
    """The functional operator of the same result; None where a write may be seen elsewhere."""
    operator: Any = call.target
    name = name_of(operator)
    if _writes_nothing(call):
        return getattr(getattr(aten, name[:-1]), operator._overloadname)
    functional: Any = getattr(getattr(aten, name[:-1], None), operator._overloadname, None)
    if functional is None or _arguments(functional) != _arguments(operator):
        return None
    known = FACTS.get(functional)
    if not _is_elementwise(functional) and (known is None or known.in_place is not operator):
        return None
    if not _is_alone(call, before):
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
    if operator in _ASSIGNMENTS:
        return True
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
