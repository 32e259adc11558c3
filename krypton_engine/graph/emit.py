"""One operator of an exported program, written into the draft of a graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from krypton_engine.graph.draft import BoundCall, CaptureError, Draft, name_of
from krypton_engine.graph.ir import BATCH, Ref, Roles, holds_rows, refs, resolve
from krypton_engine.graph.operators import NotLocal, localise

aten = torch.ops.aten

RESHAPES = {
    aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.flatten.using_ints,
    aten.unflatten.int,
}  # fmt: skip
"""Spellings of ``reshape``."""


def emit(
    draft: Draft,
    fx_node: torch.fx.Node,
    target: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, object],
    value: Any = None,
) -> Any:
    """``target`` in the place of an operator: a constant, a node that runs on boxes, or one in full.

    Args:
        draft: The graph so far, which takes the node.
        fx_node: The operator of the exported program.
        target: The operator to call.
        args: Its arguments, with references to nodes of the draft.
        kwargs: Its named arguments.
        value: An example of the result; None for the exporter's own of ``fx_node``.

    Returns:
        A reference to the new node; of a constant operator, what it gives.

    Raises:
        CaptureError: Copies would feel each other, or several values are given that no window changes.

    Examples:
        >>> from krypton_engine.graph.box_operators import Apply
        >>> from krypton_engine.graph.export import export
        >>> program = export(lambda x: x.relu(), [], (x,), (True,))
        >>> (relu,) = program.graph.find_nodes(op="call_function", target=aten.relu.default)
        >>> draft = Draft(symbol=relu.meta["val"].shape[0].node.expr)
        >>> image = draft.add("x", "input", (1, 3, 24, 20), (BATCH, 0, 1, 2), on_box=Apply(), depends=True)
        >>> made = draft.node(emit(draft, relu, relu.target, (image,), {}))
        >>> made.op, made.local, made.roles
        ('relu', True, (-1, 0, 1, 2))
    """
    if target in RESHAPES:
        target, args = aten.reshape.default, (_before_reshape(draft, args[0]), *args[1:])
    value = fx_node.meta["val"] if value is None else value
    operands = list(dict.fromkeys(refs((args, dict(kwargs)))))
    depends = any(draft.nodes[i].depends for i in operands)
    has_rows = holds_rows((args, dict(kwargs)))
    is_tensor = isinstance(value, Tensor)
    name = name_of(target)
    if not depends and not has_rows and all(draft.nodes[i].value is not None for i in operands):
        with torch.no_grad():
            folded = target(*resolve(args, draft.value, 1), **resolve(kwargs, draft.value, 1))
        if is_tensor:
            return draft.constant(fx_node.name, folded)
        if isinstance(folded, (bool, int, float)):  # of a parameter: the graph is stale once that changes
            return folded
        return tuple(draft.constant(fx_node.name, part) for part in folded)
    shape, batch_dims = draft.shape_of(value) if isinstance(value, Tensor) else ((), ())
    call = BoundCall(draft, target, args, kwargs, shape, batch_dims)
    common: dict[str, object] = {
        "target": target,
        "args": args,
        "kwargs": dict(kwargs),
        "depends": depends,
        "dtype": value.dtype if is_tensor else None,
    }
    if not depends:
        if not is_tensor:
            raise CaptureError(f"{name} of values that no window changes has several results")
        roles: Roles = tuple(BATCH if is_batch else None for is_batch in call.batch_dims)
        return draft.add(label(fx_node), name, call.shape, roles, **common)
    reason = f"{name} has several results"
    if is_tensor:
        if not draft.keeps_rows_apart(value):
            raise CaptureError(f"{name} reads across the batch")
        try:
            local = localise(call)
        except NotLocal as not_local:
            reason = str(not_local)
        else:
            return draft.add(
                label(fx_node),
                name,
                call.shape,
                local.roles,
                on_box=local.on_box,
                operands=local.operands,
                maps=local.maps or ({},) * len(local.operands),
                whole=local.whole,
                **{
                    **common,
                    "args": args if local.args is None else local.args,
                    "kwargs": dict(kwargs) if local.kwargs is None else local.kwargs,
                },
            )
    opaque: Roles = (None,) * len(call.shape)
    return draft.add(label(fx_node), name, call.shape, opaque, reason=reason, **common)


def _before_reshape(draft: Draft, ref: Ref) -> Ref:
    """The operand of the reshape that made a value, which another reshape may undo; else the value."""
    node = draft.nodes[ref.node]
    if node.target is not aten.reshape.default or not node.depends or node.local:
        return ref
    operand: Ref = node.args[0]
    return operand


def label(fx_node: torch.fx.Node) -> str:
    """The user's name of the module that an operator belongs to; the exporter's name where there is none.

    Examples:
        >>> fx_node = torch.fx.Graph().placeholder("relu_1")
        >>> label(fx_node)
        'relu_1'
        >>> fx_node.meta["nn_module_stack"] = {"": ("function.layer1.0.relu", torch.nn.ReLU)}
        >>> label(fx_node)
        'layer1.0.relu'
    """
    stack = fx_node.meta.get("nn_module_stack") or {"": ("", None)}
    path, _ = list(stack.values())[-1]
    named = re.fullmatch(r"(?:function|found\.\d+)\.(.+)", path)
    return named[1] if named else fx_node.name
