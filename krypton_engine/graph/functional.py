"""In-place writes that nobody else sees, made functional, and programs that need no other preparation.

PyTorch functionalises any program, but by tracing anew, which takes longer than the export itself. What most
networks write in place, such as ``relu_`` after a convolution, is functional under another name.
"""

from __future__ import annotations

from operator import getitem
from typing import Any

import torch
from torch import Tensor

from krypton_engine.graph.draft import name_of
from krypton_engine.graph.operators.base import RULES
from krypton_engine.graph.operators.pointwise import IDENTITIES, is_pointwise

_OWN = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear",
    "matmul", "batch_norm", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "cat", "add",
    "sub", "mul", "div", "relu", "silu", "sigmoid", "hardswish", "hardsigmoid", "hardtanh",
    "leaky_relu", "elu", "gelu", "mish", "tanh", "clamp",
}  # fmt: skip
"""Operators whose result is memory of its own, never a view of an operand."""

DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
"""Operators that return their first argument where the third, ``train``, is false."""

_TAKEN = {"flatten", "unflatten", "squeeze", "chunk", "scaled_dot_product_attention"} | IDENTITIES | DROPOUTS
"""Composite operators without a rule that a translation takes as they are."""

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
    if not operator.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
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
    written = [argument.alias_info is not None for argument in operator._schema.arguments]
    if name[:-1] not in _OWN or written != [True] + [False] * (len(written) - 1):
        return None
    into, value = call.args[0], call.meta["val"]
    if not isinstance(into, torch.fx.Node) or not _is_own(into):
        return None
    if any(user is not call and not (user in before and _is_own(user)) for user in into.users):
        return None
    # In place, the result has the type of what is written to.
    if any(tensor.dtype != value.dtype for tensor in _tensors(call)):
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    return getattr(packet, operator._overloadname, None)


def _is_own(node: torch.fx.Node) -> bool:
    """Whether a value is the one result, in memory of its own, of a functional operator."""
    operator = node.target
    return (
        isinstance(operator, torch._ops.OpOverload)
        and not operator._schema.is_mutable
        and name_of(operator) in _OWN
        and isinstance(node.meta["val"], Tensor)
    )


def _tensors(call: torch.fx.Node) -> list[Tensor]:
    values = [operand.meta["val"] for operand in call.all_input_nodes]
    return [value for value in values if isinstance(value, Tensor)]
