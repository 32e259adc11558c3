"""From a callable to a Graph: export, translate, fold, and remember."""

from __future__ import annotations

import atexit
import functools
import math
import operator
import os
import re
import threading
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from krypton_engine.graph import roles as rules
from krypton_engine.graph.export import ExportError, export
from krypton_engine.graph.ir import (
    BATCH,
    Convolution,
    Graph,
    Node,
    Ref,
    Roles,
    Rows,
    holds_rows,
    refs,
    resolve,
)
from krypton_engine.graph.state import (
    State,
    differences,
    environment,
    may_be_idle,
    modules_of,
    observe,
    version_of,
)

aten = torch.ops.aten

_RESHAPES = {aten.view.default, aten._unsafe_view.default}
_FILLED = {
    **dict.fromkeys(["new_zeros", "zeros_like", "new_empty", "empty_like", "new_full", "full_like"], 0),
    **dict.fromkeys(["new_ones", "ones_like"], 1),
}
"""Operators that give a value like another, of one number."""
_RESHAPED = {"squeeze", "flatten", "unflatten"}
_BATCH_NORMS = {aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default}
_CONVOLUTIONS = {
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
}
_AVERAGE_POOLS = {aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default}


class CaptureError(Exception):
    """Why a callable has no graph."""


# --- translation -------------------------------------------------------------------------------------


class _Bound:
    """A call with its arguments under the names of its operator's schema."""

    def __init__(
        self, builder: _Builder, target: Any, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.builder = builder
        self.args = args
        self.kwargs: Mapping[str, Any] = kwargs
        schema = target._schema
        self.name = schema.name.split("::")[1]
        self.pointwise = rules.is_pointwise(target)
        bound: dict[str, Any] = {}
        self.bound: Mapping[str, Any] = bound
        for position, argument in enumerate(schema.arguments):
            if position < len(args):
                bound[argument.name] = args[position]
            elif argument.name in kwargs:
                bound[argument.name] = kwargs[argument.name]
            else:
                bound[argument.name] = argument.default_value
        self.shape, self.batch_dims = builder.shape_of(result) if isinstance(result, Tensor) else ((), ())

    def __getitem__(self, name: str) -> Any:
        return self.bound[name]

    def node(self, ref: Ref) -> Node:
        return self.builder.nodes[ref.node]

    def align(self, ref: Ref, roles: Roles, shape: tuple[int, ...]) -> Ref:
        return self.builder.align(ref, roles, shape)


class _Builder:
    """Translates an exported program node by node."""

    def __init__(
        self, program: torch.export.ExportedProgram, batched: tuple[bool, ...], occluded: int
    ) -> None:
        self.program = program
        self.batched = batched
        self.occluded = occluded
        self.nodes: list[Node] = []
        self.env: dict[torch.fx.Node, Any] = {}
        self.folded: dict[torch.fx.Node, torch.fx.Node] = {}
        self.pools: dict[torch.fx.Node, torch.fx.Node] = {}
        self.symbol: Any = None

    def add(self, name: str, op: str, shape: tuple[int, ...], roles: Roles, **fields: Any) -> Ref:
        self.nodes.append(Node(len(self.nodes), name, op, shape, roles, fields.pop("dtype", None), **fields))
        return Ref(len(self.nodes) - 1)

    def constant(self, name: str, value: Tensor) -> Ref:
        shape = tuple(value.shape)
        return self.add(name, "constant", shape, (None,) * len(shape), value=value, dtype=value.dtype)

    def shape_of(self, value: Tensor) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Shape with 1 for the batch, and which dimensions are exactly the batch."""
        shape, batch = [], []
        for size in value.shape:
            if isinstance(size, int):
                shape.append(size)
                batch.append(False)
            else:
                rows = self.rows(size)
                shape.append(rows(1))
                batch.append(rows == Rows(1))
        return tuple(shape), tuple(batch)

    def keeps_rows_apart(self, value: Tensor) -> bool:
        """Whether a value has a dimension of rows, and only one: a sum over the batch has none."""
        counted = [self.rows(size) for size in value.shape if not isinstance(size, int)]
        return len(counted) == 1 and counted[0].extra == 0

    def rows(self, size: Any) -> Rows:
        """A symbolic size as a function of the number of copies."""
        if isinstance(size, int):
            return Rows(0, size)
        expression = size.node.expr
        at = [int(expression.subs(self.symbol, copies)) for copies in (0, 1, 2, 3, 7)]
        rows = Rows(at[1] - at[0], at[0])
        if [rows(copies) for copies in (2, 3, 7)] != at[2:]:
            raise CaptureError(f"a size is not linear in the batch: {expression}")
        return rows

    def align(self, ref: Ref, roles: Roles, shape: tuple[int, ...]) -> Ref:
        """See `krypton_engine.graph.roles.Call.align`."""
        node = self.nodes[ref.node]
        pad = len(roles) - len(node.shape)
        full = (1,) * pad + node.shape
        aligned: Roles = tuple(
            role if role == BATCH or (role is not None and n > 1) else None
            for role, n in zip(roles, full, strict=True)
        )
        if node.roles and node.roles[0] == BATCH and pad:
            raise rules.NotLocal("broadcasts another input over a leading dimension")
        if not (node.roles and node.roles[0] == BATCH):
            aligned = tuple(None if role == BATCH else role for role in aligned)
        if all(role is None for role in aligned):
            return ref
        fields: dict[str, Any] = {"dtype": node.dtype}
        if node.value is not None:
            fields["value"] = node.value.reshape(full)
        else:
            sizes = [Rows(1) if role == BATCH else n for n, role in zip(full, aligned, strict=True)]
            fields |= {"target": aten.reshape.default, "args": (ref, sizes)}
        return self.add(f"{node.name}_aligned", "constant", full, aligned, **fields)

    # -- one fx node -----------------------------------------------------------------------------------

    def build(self) -> Graph:
        signature = self.program.graph_signature
        state = {**self.program.state_dict, **self.program.constants}
        held = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        user_inputs = list(signature.user_inputs)
        fx_nodes = list(self.program.graph_module.graph.nodes)
        self.symbol = self._find_symbol(fx_nodes, user_inputs)
        inputs: dict[str, int] = {}
        sources: list[tuple[Tensor, int]] = []
        output: Any = None
        for fx_node in fx_nodes:
            if fx_node.op == "placeholder":
                if fx_node.name in held:
                    tensor = state[held[fx_node.name]]
                    sources.append((tensor, version_of(tensor)))
                    self.env[fx_node] = self.constant(held[fx_node.name], tensor.detach())
                elif fx_node.name in user_inputs:
                    self.env[fx_node] = self._input(fx_node, user_inputs.index(fx_node.name))
                    inputs[fx_node.name] = self.env[fx_node].node
            elif fx_node.op == "call_function":
                self.env[fx_node] = self._call(fx_node)
            elif fx_node.op == "output":
                output = fx_node.args[0]
            else:
                raise CaptureError(f"the exported program holds {fx_node.op}")
        if not isinstance(output, (tuple, list)) or len(output) != 1 or output[0] is None:
            raise CaptureError("the forward function does not return a single tensor")
        result = self.env[output[0]]
        _, batch = self.shape_of(output[0].meta["val"])
        if not batch or not batch[0] or any(batch[1:]):
            raise CaptureError("the output's first dimension is not the batch")
        missing = [name for name in user_inputs if name not in inputs]
        if missing:
            raise CaptureError("an input is not used")
        graph = Graph(
            self.nodes,
            tuple(inputs[name] for name in user_inputs),
            self.occluded,
            result.node,
            self.batched,
            tuple(sources),
        )
        return _prune(graph)

    def _find_symbol(self, fx_nodes: list[torch.fx.Node], user_inputs: list[str]) -> Any:
        for fx_node in fx_nodes:
            is_input = fx_node.op == "placeholder" and fx_node.name in user_inputs
            if is_input and self.batched[user_inputs.index(fx_node.name)]:
                size = fx_node.meta["val"].shape[0]
                if isinstance(size, int):
                    raise CaptureError("the batch size is fixed by the forward function")
                return size.node.expr
        raise CaptureError("no input has a batch dimension")

    def _input(self, fx_node: torch.fx.Node, number: int) -> Ref:
        value = fx_node.meta["val"]
        shape, _ = self.shape_of(value)
        head: Roles = (BATCH,) if self.batched[number] else (None,)
        if number == self.occluded:
            return self.add(
                fx_node.name,
                "input",
                shape,
                (BATCH, *range(len(shape) - 1)),
                dtype=value.dtype,
                depends=True,
                box=rules.Apply(),
            )
        rest: Roles = (None,) * (len(shape) - 1)
        return self.add(fx_node.name, "input", shape, (*head, *rest) if shape else (), dtype=value.dtype)

    def _call(self, fx_node: torch.fx.Node) -> Any:
        def translate(item: Any) -> Any:
            if isinstance(item, torch.fx.Node):
                return self.env[item]
            if isinstance(item, (tuple, list)):
                return type(item)(translate(part) for part in item)
            if isinstance(item, dict):
                return {key: translate(part) for key, part in item.items()}
            return item

        if not fx_node.users:  # an assertion about a tensor
            return None
        value = fx_node.meta.get("val")
        if isinstance(value, torch.SymInt):
            return self.rows(value)
        if isinstance(value, (int, float, bool)) and not isinstance(value, Tensor):
            return value
        args, kwargs = translate(tuple(fx_node.args)), translate(dict(fx_node.kwargs))
        if fx_node in self.folded:  # a batch norm whose convolution has taken it in
            return (args[0],)
        if fx_node.target is operator.getitem:
            return self._item(fx_node, args)
        if not isinstance(fx_node.target, torch._ops.OpOverload):
            raise CaptureError(f"the exported program calls {fx_node.target}")
        name = fx_node.target._schema.name.split("::")[1]
        if name in rules.PREFIX_IDENTITY or (
            name in {"_to_copy", "to"}
            and isinstance(args[0], Ref)
            and isinstance(value, Tensor)
            and self.nodes[args[0].node].dtype == value.dtype
        ):
            return args[0]
        if name == "cat":  # what has no cells, such as ``x[:, :, :0]``, adds nothing
            args = ([ref for ref in args[0] if 0 not in self.nodes[ref.node].shape] or args[0], *args[1:])
        if name == "slice_scatter" and _takes_all((args[0], *args[2:]), self.nodes[args[0].node].shape):
            return args[1]
        if name == "slice" and isinstance(args[0], Ref) and _takes_all(args, self.nodes[args[0].node].shape):
            return args[0]
        if (
            "adaptive" in name
            and isinstance(value, Tensor)
            and self.shape_of(value)[0] == self.nodes[args[0].node].shape
        ):
            return args[0]
        if fx_node.target in _BATCH_NORMS:
            return self._batch_norm(fx_node, args)
        if fx_node.target in _AVERAGE_POOLS and self._swaps_with_reader(fx_node):
            self.pools[next(iter(fx_node.users))] = fx_node
            return args[0]
        if fx_node.target in _CONVOLUTIONS:
            args = self._fold(fx_node, args)
            if fx_node in self.pools:
                return self._pool_last(fx_node, args, self.pools[fx_node])
        if name in _FILLED and isinstance(value, Tensor):  # nothing but the type of the other is read
            sizes = [size if isinstance(size, int) else self.rows(size) for size in value.shape]
            fill = _bound(fx_node).get("fill_value", _FILLED[name])
            kinds = {"dtype": value.dtype, "device": value.device}
            return self._emit(fx_node, aten.full.default, (sizes, fill), kinds)
        if name in {"split", "split_with_sizes", "chunk", "unbind"}:
            return self._pieces(fx_node, args, kwargs)
        if name in _RESHAPED and isinstance(
            value, Tensor
        ):  # squeeze() of a box would also drop axes that happen to be of size 1 there
            sizes = [size if isinstance(size, int) else self.rows(size) for size in value.shape]
            return self._emit(fx_node, aten.reshape.default, (args[0], sizes), {})
        return self._emit(fx_node, fx_node.target, args, kwargs)

    def _emit(
        self, fx_node: torch.fx.Node, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        if target in _RESHAPES:
            target = aten.reshape.default
        value = fx_node.meta["val"]
        operands = list(dict.fromkeys(refs((args, dict(kwargs)))))
        depends = any(self.nodes[i].depends for i in operands)
        has_rows = holds_rows((args, dict(kwargs)))
        is_tensor = isinstance(value, Tensor)
        name = target._schema.name.split("::")[1]
        if not depends and not has_rows and all(self.nodes[i].value is not None for i in operands):
            with torch.no_grad():
                folded = target(*resolve(args, self._value, 1), **resolve(kwargs, self._value, 1))
            if is_tensor:
                return self.constant(fx_node.name, folded)
            return tuple(self.constant(fx_node.name, part) for part in folded)
        call = _Bound(self, target, value, args, dict(kwargs))
        common: dict[str, Any] = {
            "target": target,
            "args": args,
            "kwargs": dict(kwargs),
            "depends": depends,
            "dtype": value.dtype if is_tensor else None,
        }
        if not depends:
            batched = is_tensor and call.batch_dims[:1] == (True,)
            if not is_tensor or any(call.batch_dims[1:]):
                raise CaptureError(f"{name} of the other inputs moves the batch")
            roles: Roles = ((BATCH,) if batched else (None,)) * bool(call.shape) + (None,) * (
                len(call.shape) - 1
            )
            return self.add(_name_of(fx_node), name, call.shape, roles, **common)
        reason = f"{name} gives several values"
        if is_tensor:
            if not self.keeps_rows_apart(value):
                raise CaptureError(f"{name} reads across the batch")
            try:
                local = rules.localise(call)
            except rules.NotLocal as not_local:
                reason = str(not_local)
            else:
                return self.add(
                    _name_of(fx_node),
                    name,
                    call.shape,
                    local.roles,
                    box=local.box,
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
        return self.add(_name_of(fx_node), name, call.shape, opaque, reason=reason, **common)

    def _value(self, index: int) -> Tensor:
        value = self.nodes[index].value
        assert value is not None
        return value

    def _item(self, fx_node: torch.fx.Node, args: tuple[Any, ...]) -> Any:
        source, number = args
        if isinstance(source, (tuple, list)):
            item = source[number]
            return item(fx_node) if callable(item) else item
        node = self.nodes[source.node]
        return self.add(
            _name_of(fx_node),
            "getitem",
            self.shape_of(fx_node.meta["val"])[0],
            (None,) * fx_node.meta["val"].ndim,
            target=operator.getitem,
            args=args,
            depends=node.depends,
            dtype=fx_node.meta["val"].dtype,
        )

    def _pieces(self, fx_node: torch.fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``split`` and its kin as one slice for every piece."""
        call = _Bound(self, fx_node.target, fx_node.meta["val"], args, kwargs)
        dim, start, pieces = call["dim"], 0, []
        for piece in fx_node.meta["val"]:
            if call.name == "unbind":
                pieces.append(
                    functools.partial(
                        self._emit, target=aten.select.int, args=(args[0], dim, start), kwargs={}
                    )
                )
                start += 1
                continue
            length = piece.shape[dim]
            if not isinstance(length, int):
                raise CaptureError(f"{call.name} along the batch")
            pieces.append(
                functools.partial(
                    self._emit,
                    target=aten.slice.Tensor,
                    args=(args[0], dim, start, start + length),
                    kwargs={},
                )
            )
            start += length
        return tuple(pieces)

    # -- an average pooling before a convolution -------------------------------------------------------

    def _swaps_with_reader(self, fx_node: torch.fx.Node) -> bool:
        """Whether an average pooling does the same, on fewer channels, to what alone reads it.

        Such is a convolution that weighs channels only: the two commute, but for the bias, which comes after
        both, since a pooling that counts its padding would diminish it at the border.
        """
        if fx_node.target not in _AVERAGE_POOLS or len(fx_node.users) != 1:
            return False
        (reader,) = fx_node.users
        if reader.target not in _CONVOLUTIONS or reader.args[0] is not fx_node:
            return False
        bound = _bound(reader)
        weight, bias = (
            self.nodes[self.env[item].node].value if item in self.env else None
            for item in (bound["weight"], bound["bias"])
        )
        if weight is None or (bias is None) != (bound["bias"] is None):
            return False
        before, between, after = (n.meta["val"].shape for n in (_bound(fx_node)["self"], fx_node, reader))
        return (
            weight.shape[0] < weight.shape[1] == between[1]
            and {*weight.shape[2:], *bound["stride"]} == {1}
            and before[2:] == between[2:] == after[2:]
        )

    def _pool_last(self, fx_node: torch.fx.Node, args: tuple[Any, ...], pool: torch.fx.Node) -> Any:
        """A convolution, the average pooling that it was to read, and its bias."""
        bias = args[2] if len(args) > 2 else None
        weighed = self._emit(fx_node, fx_node.target, (*args[:2], None, *args[3:]), {})
        pooled = self._emit(fx_node, pool.target, (weighed, *pool.args[1:]), pool.kwargs)
        if bias is None:
            return pooled
        column = [-1] + [1] * (len(self.nodes[args[0].node].shape) - 2)
        shift = self.constant(f"{fx_node.name}_shift", self._value(bias.node).reshape(column))
        return self._emit(fx_node, aten.add.Tensor, (pooled, shift), {})

    # -- batch norm ------------------------------------------------------------------------------------

    def _statistics(self, fx_node: torch.fx.Node) -> tuple[Tensor, Tensor] | None:
        """Scale and shift of a batch norm with constant statistics, in float64."""
        bound = _bound(fx_node)
        if bound.get("training"):
            return None
        tensors = []
        for name in ("weight", "bias", "running_mean", "running_var"):
            item = bound.get(name)
            ref = self.env.get(item) if isinstance(item, torch.fx.Node) else None
            value = self.nodes[ref.node].value if isinstance(ref, Ref) else None
            if item is not None and value is None:
                return None
            tensors.append(None if value is None else value.double())
        weight, bias, mean, var = tensors
        if mean is None or var is None:
            return None
        eps: Any = bound["eps"]
        scale = (var + eps).rsqrt()
        if weight is not None:
            scale = scale * weight
        shift = -mean * scale
        return scale, shift if bias is None else shift + bias

    def _batch_norm(self, fx_node: torch.fx.Node, args: tuple[Any, ...]) -> Any:
        statistics = self._statistics(fx_node)
        is_tuple = not isinstance(fx_node.meta["val"], Tensor)
        node = self.nodes[args[0].node]
        if statistics is None or not node.depends:
            return self._emit(fx_node, fx_node.target, args, fx_node.kwargs)
        column = (-1,) + (1,) * (len(node.shape) - 2)
        scale, shift = (
            self.constant(f"{fx_node.name}_{name}", t.to(node.dtype).reshape(column))
            for name, t in zip(("scale", "shift"), statistics, strict=True)
        )
        result = self._affine(fx_node, args[0], scale, shift)
        return (result,) if is_tuple else result

    def _affine(self, fx_node: torch.fx.Node, x: Ref, scale: Ref, shift: Ref) -> Ref:
        node = self.nodes[x.node]
        value = fx_node.meta["val"]
        value = value if isinstance(value, Tensor) else value[0]
        call = types.SimpleNamespace(
            name="batch_norm",
            shape=node.shape,
            args=(shift, x, scale),
            kwargs={},
            pointwise=True,
            node=lambda ref: self.nodes[ref.node],
            align=self.align,
        )
        common: dict[str, Any] = {"target": aten.addcmul.default, "depends": True, "dtype": node.dtype}
        try:
            local = rules.pointwise(call)
        except rules.NotLocal as reason:
            return self.add(
                _name_of(fx_node),
                "batch_norm",
                node.shape,
                (None,) * len(node.shape),
                args=(shift, x, scale),
                reason=str(reason),
                **common,
            )
        assert local.args is not None
        return self.add(
            _name_of(fx_node),
            "batch_norm",
            node.shape,
            local.roles,
            box=local.box,
            operands=local.operands,
            maps=local.maps,
            args=local.args,
            **common,
        )

    def _fold(self, fx_node: torch.fx.Node, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments of a convolution that has taken in the batch norm that alone reads it."""
        readers = list(fx_node.users)
        if len(readers) != 1 or readers[0].target not in _BATCH_NORMS or readers[0].args[0] is not fx_node:
            return args
        norm = readers[0]
        # The statistics stand before the convolution: they are placeholders.
        statistics = self._statistics(norm)
        weight = self.nodes[args[1].node].value
        bias_ref = args[2] if len(args) > 2 else None
        bias = self.nodes[bias_ref.node].value if bias_ref is not None else None
        if statistics is None or weight is None or (bias_ref is not None and bias is None):
            return args
        if any(
            len(list(user.args)) < 2 or user.args[1] != 0
            for user in norm.users
            if user.target is operator.getitem
        ):
            return args
        scale, shift = statistics
        column = (-1,) + (1,) * (weight.dim() - 1)
        if bias is not None:
            shift = shift + bias.double() * scale
        self.folded[norm] = fx_node
        return (
            args[0],
            self.constant(
                f"{fx_node.name}_weight", (weight.double() * scale.reshape(column)).to(weight.dtype)
            ),
            self.constant(f"{fx_node.name}_bias", shift.to(weight.dtype)),
            *args[3:],
        )


def _bound(fx_node: torch.fx.Node) -> dict[str, Any]:
    """Arguments by the names of the operator's schema, defaults filled in."""
    out = {}
    for i, argument in enumerate(fx_node.target._schema.arguments):  # type: ignore[union-attr]
        given = fx_node.args[i] if i < len(fx_node.args) else fx_node.kwargs.get(argument.name)
        out[argument.name] = argument.default_value if given is None else given
    return out


def _name_of(fx_node: torch.fx.Node) -> str:
    """What the user calls the module that an operator belongs to; the exporter's name where there is none."""
    stack = fx_node.meta.get("nn_module_stack") or {"": ("", None)}
    path, _ = list(stack.values())[-1]
    named = re.fullmatch(r"(?:function|found\.\d+)\.(.+)", path)
    return named[1] if named else fx_node.name


def _takes_all(args: tuple[Any, ...], shape: tuple[int, ...]) -> bool:
    """Whether the arguments of a ``slice`` leave nothing out (``x[:, 0]`` slices the batch so)."""
    defaults: tuple[Any, ...] = (0, None, None, 1)
    dim, start, end, step = args[1:] + defaults[len(args) - 1 :]
    everything = isinstance(end, int) and end >= 2**62
    return step == 1 and start in (None, 0) and (end is None or everything or end == shape[dim] != 1)


def _prune(graph: Graph) -> Graph:
    """The graph without nodes that its output does not need, renumbered."""
    needed = {graph.output, *graph.inputs}
    for node in reversed(graph.nodes):
        if node.index in needed:
            needed |= set(refs((node.args, node.kwargs))) | set(node.operands)
            if isinstance(node.box, Convolution):
                needed |= {i for i in (node.box.weight, node.box.bias) if i is not None}
    kept = [node for node in graph.nodes if node.index in needed]
    number = {node.index: i for i, node in enumerate(kept)}

    def renumber(item: Any) -> Any:
        if isinstance(item, Ref):
            return Ref(number[item.node])
        if isinstance(item, (tuple, list)):
            return type(item)(renumber(part) for part in item)
        if isinstance(item, Mapping):
            return {key: renumber(part) for key, part in item.items()}
        return item

    for node in kept:
        node.index = number[node.index]
        node.args, node.kwargs = renumber(node.args), renumber(node.kwargs)
        node.operands = tuple(number[i] for i in node.operands)
        if isinstance(node.box, Convolution):
            box = node.box
            node.box = Convolution(
                number[box.weight],
                None if box.bias is None else number[box.bias],
                box.stride,
                box.padding,
                box.dilation,
                box.groups,
            )
    graph.nodes = kept
    graph.inputs = tuple(number[i] for i in graph.inputs)
    graph.output = number[graph.output]
    return graph


# --- the memory of captures ---------------------------------------------------------------------------

_LARGEST_MEMORY = 512 * 2**20
"""Bytes that the captures of one model may take; the one used last is kept in any case."""

_PROGRAMS = 5
"""What a graph and its programs take, in multiples of its constants: Winograd makes 9 numbers 36."""

_MOST = 32
"""Captures of one model that are kept at most."""

_DOUBTED = {4**n for n in range(16)}
"""How often a value that is held to be idle may change before another capture shows whether it still is."""


@dataclass(eq=False)
class _Kept:
    """A capture, or why there is none.

    Attributes:
        key: What the capture is for.
        found: The graph, or the reason.
        state: The callable's when the capture was made.
        final: Whether another try in this state would end in the same.
        idle: Names of values in the state, such as counters, which changed once, and the graph did not.
        changes: How often one of these has changed since.
    """

    key: Any
    found: Graph | str
    state: State
    final: bool = True
    idle: set[str] = field(default_factory=set)
    changes: int = 0

    def is_stale(self) -> bool:
        """Whether a tensor that the graph was made of has been written to."""
        return isinstance(self.found, Graph) and not self.found.fresh()

    def holds(self, key: Any, state: State, exactly: bool = False) -> bool:
        """Whether this is the capture for ``key``, and nothing that counts, or at all, has changed since."""
        if self.key != key or not self.final or self.is_stale():
            return False
        changed = differences(self.state, state)
        if exactly or not changed <= self.idle:
            return not changed
        self.changes += bool(changed)
        return not changed or self.changes not in _DOUBTED

    def takes(self, other: _Kept) -> bool:
        """Whether a later capture says the same, so that what has changed meanwhile does not count.

        Only numbers and collections come to be idle. Graphs share their weights with the model, and so with
        each other: a stale one looks like that which follows it.
        """
        if self.key != other.key or self.is_stale() or not _same(self.found, other.found):
            return False
        changed = differences(self.state, other.state)
        states = (self.state, other.state)
        if not all(may_be_idle(state.get(name)) for name in changed for state in states):
            return False
        self.idle |= changed
        self.state, self.final = other.state, True
        return True


_memories: weakref.WeakKeyDictionary[Any, list[_Kept]] = weakref.WeakKeyDictionary()
# A model may outlive the interpreter (`torch.jit.script` holds it); the engine's programs may not.
atexit.register(_memories.clear)
_remembering = threading.RLock()
_capturing = threading.RLock()


def _forked() -> None:
    """Locks for a child process, where the threads that hold today's are not."""
    global _remembering, _capturing
    _remembering, _capturing = threading.RLock(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _memory(function: Callable[..., Any]) -> list[_Kept]:
    """Captures of ``function``, the one used last at the end.

    They live as long as the first module that the callable closes over, else as long as the callable.
    """
    anchors: list[Any] = list(modules_of(function))
    try:
        return _memories.setdefault(anchors[0] if anchors else function, [])
    except TypeError:  # neither a module nor anything that can be weakly referenced
        return []


def _recall(memory: list[_Kept], key: Any, state: State, exactly: bool = False) -> _Kept | None:
    with _remembering:
        for kept in reversed(memory):
            if kept.holds(key, state, exactly):
                memory.append(memory.pop(memory.index(kept)))
                return kept
    return None


def _remember(memory: list[_Kept], new: _Kept) -> _Kept:
    """``new``, or the capture that was kept already and says the same; what is too much is forgotten."""
    with _remembering:
        kept = next((kept for kept in memory if kept.takes(new)), new)
        memory[:] = [each for each in memory if each is not kept and not each.is_stale()]
        memory.append(kept)
        taken = 0
        for i, each in reversed(list(enumerate(memory[:-1]))):
            taken += _PROGRAMS * each.found.constant_bytes if isinstance(each.found, Graph) else 0
            if taken > _LARGEST_MEMORY or i + _MOST < len(memory):
                del memory[: i + 1]
                break
        return kept


def _forget(memory: list[_Kept], key: Any) -> None:
    """Forget graphs that were made for ``key``: one of them is wrong."""
    with _remembering:
        memory[:] = [kept for kept in memory if kept.key != key or isinstance(kept.found, str)]


def _same(mine: Graph | str, other: Graph | str) -> bool:
    """Whether two captures say the same."""
    if isinstance(mine, str) or isinstance(other, str):
        return mine == other
    return mine.same(other)


@dataclass(frozen=True)
class _Source:
    """A callable and the arguments that it is captured with.

    Args:
        function: Anything that Captum takes as ``forward_func``.
        inputs: Tensors whose first dimension is the batch.
        occluded: Which of them the windows occlude.
        additional: Further arguments; tensors whose first dimension is the batch are batched too.
    """

    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    occluded: int
    additional: tuple[Any, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensor arguments."""
        return self.inputs + tuple(a for a in self.additional if isinstance(a, Tensor))

    @property
    def batched(self) -> tuple[bool, ...]:
        """For each of ``tensors``, whether its first dimension is the batch."""
        rows = self.inputs[0].shape[0]
        return tuple(t.ndim > 0 and t.shape[0] == rows for t in self.tensors)

    @property
    def key(self) -> Any:
        """What a capture depends on beside the state of the callable."""
        shapes = tuple(
            (tuple(t.shape[1:] if b else t.shape), t.dtype, t.device, b)
            for t, b in zip(self.tensors, self.batched, strict=True)
        )
        fixed = tuple(type(a).__name__ for a in self.additional if not isinstance(a, Tensor))
        return self.occluded, shapes, fixed, environment(self.inputs[self.occluded].device)

    def observed(self) -> State:
        """The state of the callable and of those of its arguments that are no tensors."""
        return observe(self.function, *(a for a in self.additional if not isinstance(a, Tensor)))

    def __call__(self, *tensors: Tensor) -> Any:
        """The callable on tensors in place of ``tensors``."""
        left = iter(tensors[len(self.inputs) :])
        rest = [next(left) if isinstance(a, Tensor) else a for a in self.additional]
        return self.function(*tensors[: len(self.inputs)], *rest)

    def capture(self, state: State) -> _Kept:
        """The graph, or why there is none: a word, since an exception would keep what its frames hold."""

        def kept(found: Graph | str, final: bool = True) -> _Kept:
            return _Kept(self.key, found, state, final)

        x, batched = self.inputs[self.occluded], self.batched
        if x.is_complex() or x.ndim < 3 or not batched[self.occluded] or math.prod(x.shape) == 0:
            return kept("the input has no axis that windows could slide along incrementally")
        try:
            function = self if self.additional else self.function
            program = export(function, modules_of(self.function), self.tensors, batched)
        except ExportError as error:
            first = str(error).strip().splitlines()
            return kept(f"torch.export failed: {first[0] if first else ''}"[:300], final=False)
        try:
            return kept(_Builder(program, batched, self.occluded).build())
        except CaptureError as error:
            return kept(str(error))
        except Exception as error:  # what the translation did not foresee
            return kept(f"the exported program is beyond us: {type(error).__name__}: {error}"[:300])


def capture(
    function: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    occluded: int,
    additional: tuple[Any, ...] = (),
    *,
    again: bool = False,
) -> Graph:
    """The graph of ``function(*inputs, *additional)`` with ``inputs[occluded]`` occluded.

    The result is kept for as long as the model lives and used again for inputs of the same shape, until
    something changes that the graph depends on.

    Args:
        function: Anything that Captum takes as ``forward_func``.
        inputs: Tensors whose first dimension is the batch.
        occluded: Which of them the windows occlude.
        additional: Further arguments; tensors whose first dimension is the batch are batched too.
        again: Forget the capture that is kept, which was wrong, and make another.

    Raises:
        CaptureError: With the reason; it is kept too. A failing export is tried twice, since what failed may
            have been something else in the process.
    """
    source, memory = _Source(function, inputs, occluded, additional), _memory(function)
    key, state = source.key, source.observed()
    if again:
        _forget(memory, key)
    found = _recall(memory, key, state)
    if found is None:
        with _capturing:  # what another thread has captured meanwhile need not be captured again
            found = _recall(memory, key, state, exactly=True) or _remember(memory, source.capture(state))
    if isinstance(found.found, str):
        raise CaptureError(found.found)
    return found.found


def refuse(
    function: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    occluded: int,
    additional: tuple[Any, ...],
    reason: str,
) -> None:
    """Keep ``reason`` in place of a graph that was wrong twice, until something changes.

    Args:
        function: See `capture`; so are ``inputs``, ``occluded`` and ``additional``.
        inputs: See above.
        occluded: See above.
        additional: See above.
        reason: What `capture` says from now on.
    """
    source, memory = _Source(function, inputs, occluded, additional), _memory(function)
    key, state = source.key, source.observed()
    _forget(memory, key)
    _remember(memory, _Kept(key, reason, state))
