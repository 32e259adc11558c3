"""From an exported program to a Graph, operator by operator."""

from __future__ import annotations

import functools
import operator
import re
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from krypton_engine.graph.draft import BoundCall, CaptureError, Draft
from krypton_engine.graph.ir import (
    BATCH,
    Apply,
    Convolution,
    Graph,
    Ref,
    Roles,
    holds_rows,
    refs,
    resolve,
)
from krypton_engine.graph.operators import NotLocal, localise
from krypton_engine.graph.operators.pointwise import pointwise
from krypton_engine.graph.state import version_of

aten = torch.ops.aten

_IDENTITIES = {"clone", "alias", "detach", "contiguous", "lift_fresh_copy", "lift_fresh"}
"""Operators whose result is their first argument."""

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


def translate(program: torch.export.ExportedProgram, batched: tuple[bool, ...], occluded: int) -> Graph:
    """The graph of an exported program.

    Args:
        program: Of functional operators, with a dynamic batch.
        batched: For every tensor input, whether its first dimension is the batch.
        occluded: Which input the windows occlude.

    Raises:
        CaptureError: With the reason.
    """
    return _Translation(program, batched, occluded).build()


class _Translation:
    """An exported program on its way to a graph, node by node."""

    def __init__(
        self, program: torch.export.ExportedProgram, batched: tuple[bool, ...], occluded: int
    ) -> None:
        self.program = program
        self.batched = batched
        self.occluded = occluded
        self.user_inputs = list(program.graph_signature.user_inputs)
        self.draft = Draft(self._batch_size())
        self.env: dict[torch.fx.Node, Any] = {}
        self.folded: dict[torch.fx.Node, torch.fx.Node] = {}
        self.pools: dict[torch.fx.Node, torch.fx.Node] = {}

    # -- one fx node -----------------------------------------------------------------------------------

    def build(self) -> Graph:
        signature = self.program.graph_signature
        state = {**self.program.state_dict, **self.program.constants}
        held = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        user_inputs = self.user_inputs
        inputs: dict[str, int] = {}
        sources: list[tuple[Tensor, int]] = []
        output: Any = None
        for fx_node in self.program.graph_module.graph.nodes:
            if fx_node.op == "placeholder":
                if fx_node.name in held:
                    tensor = state[held[fx_node.name]]
                    sources.append((tensor, version_of(tensor)))
                    self.env[fx_node] = self.draft.constant(held[fx_node.name], tensor.detach())
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
        _, batch = self.draft.shape_of(output[0].meta["val"])
        if not batch or not batch[0] or any(batch[1:]):
            raise CaptureError("the output's first dimension is not the batch")
        missing = [name for name in user_inputs if name not in inputs]
        if missing:
            raise CaptureError("an input is not used")
        graph = Graph(
            self.draft.nodes,
            tuple(inputs[name] for name in user_inputs),
            self.occluded,
            result.node,
            self.batched,
            tuple(sources),
        )
        return _prune(graph)

    def _batch_size(self) -> Any:
        """The symbol that the exporter uses for the number of copies."""
        for fx_node in self.program.graph_module.graph.nodes:
            is_input = fx_node.op == "placeholder" and fx_node.name in self.user_inputs
            if is_input and self.batched[self.user_inputs.index(fx_node.name)]:
                size = fx_node.meta["val"].shape[0]
                if isinstance(size, int):
                    raise CaptureError("the batch size is fixed by the forward function")
                return size.node.expr
        raise CaptureError("no input has a batch dimension")

    def _input(self, fx_node: torch.fx.Node, number: int) -> Ref:
        value = fx_node.meta["val"]
        shape, _ = self.draft.shape_of(value)
        head: Roles = (BATCH,) if self.batched[number] else (None,)
        if number == self.occluded:
            return self.draft.add(
                fx_node.name,
                "input",
                shape,
                (BATCH, *range(len(shape) - 1)),
                dtype=value.dtype,
                depends=True,
                box=Apply(),
            )
        rest: Roles = (None,) * (len(shape) - 1)
        return self.draft.add(
            fx_node.name, "input", shape, (*head, *rest) if shape else (), dtype=value.dtype
        )

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
            return self.draft.rows(value)
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
        if name in _IDENTITIES or (
            name in {"_to_copy", "to"}
            and isinstance(args[0], Ref)
            and isinstance(value, Tensor)
            and self.draft.nodes[args[0].node].dtype == value.dtype
        ):
            return args[0]
        if name == "cat":  # what has no cells, such as ``x[:, :, :0]``, adds nothing
            args = (
                [ref for ref in args[0] if 0 not in self.draft.nodes[ref.node].shape] or args[0],
                *args[1:],
            )
        if name == "slice_scatter" and _takes_all((args[0], *args[2:]), self.draft.nodes[args[0].node].shape):
            return args[1]
        if (
            name == "slice"
            and isinstance(args[0], Ref)
            and _takes_all(args, self.draft.nodes[args[0].node].shape)
        ):
            return args[0]
        if (
            "adaptive" in name
            and isinstance(value, Tensor)
            and self.draft.shape_of(value)[0] == self.draft.nodes[args[0].node].shape
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
            sizes = [size if isinstance(size, int) else self.draft.rows(size) for size in value.shape]
            fill = _bound(fx_node).get("fill_value", _FILLED[name])
            kinds = {"dtype": value.dtype, "device": value.device}
            return self._emit(fx_node, aten.full.default, (sizes, fill), kinds)
        if name in {"split", "split_with_sizes", "chunk", "unbind"}:
            return self._pieces(fx_node, args, kwargs)
        if name in _RESHAPED and isinstance(
            value, Tensor
        ):  # squeeze() of a box would also drop axes that happen to be of size 1 there
            sizes = [size if isinstance(size, int) else self.draft.rows(size) for size in value.shape]
            return self._emit(fx_node, aten.reshape.default, (args[0], sizes), {})
        return self._emit(fx_node, fx_node.target, args, kwargs)

    def _emit(
        self, fx_node: torch.fx.Node, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        if target in _RESHAPES:
            target = aten.reshape.default
        value = fx_node.meta["val"]
        operands = list(dict.fromkeys(refs((args, dict(kwargs)))))
        depends = any(self.draft.nodes[i].depends for i in operands)
        has_rows = holds_rows((args, dict(kwargs)))
        is_tensor = isinstance(value, Tensor)
        name = target._schema.name.split("::")[1]
        if not depends and not has_rows and all(self.draft.nodes[i].value is not None for i in operands):
            with torch.no_grad():
                folded = target(*resolve(args, self.draft.value, 1), **resolve(kwargs, self.draft.value, 1))
            if is_tensor:
                return self.draft.constant(fx_node.name, folded)
            return tuple(self.draft.constant(fx_node.name, part) for part in folded)
        call = BoundCall(self.draft, target, value, args, dict(kwargs))
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
            return self.draft.add(_name_of(fx_node), name, call.shape, roles, **common)
        reason = f"{name} gives several values"
        if is_tensor:
            if not self.draft.keeps_rows_apart(value):
                raise CaptureError(f"{name} reads across the batch")
            try:
                local = localise(call)
            except NotLocal as not_local:
                reason = str(not_local)
            else:
                return self.draft.add(
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
        return self.draft.add(_name_of(fx_node), name, call.shape, opaque, reason=reason, **common)

    def _item(self, fx_node: torch.fx.Node, args: tuple[Any, ...]) -> Any:
        source, number = args
        if isinstance(source, (tuple, list)):
            item = source[number]
            return item(fx_node) if callable(item) else item
        node = self.draft.nodes[source.node]
        return self.draft.add(
            _name_of(fx_node),
            "getitem",
            self.draft.shape_of(fx_node.meta["val"])[0],
            (None,) * fx_node.meta["val"].ndim,
            target=operator.getitem,
            args=args,
            depends=node.depends,
            dtype=fx_node.meta["val"].dtype,
        )

    def _pieces(self, fx_node: torch.fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``split`` and its kin as one slice for every piece."""
        call = BoundCall(self.draft, fx_node.target, fx_node.meta["val"], args, kwargs)
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
            self.draft.nodes[self.env[item].node].value if item in self.env else None
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
        column = [-1] + [1] * (len(self.draft.nodes[args[0].node].shape) - 2)
        shift = self.draft.constant(f"{fx_node.name}_shift", self.draft.value(bias.node).reshape(column))
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
            value = self.draft.nodes[ref.node].value if isinstance(ref, Ref) else None
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
        node = self.draft.nodes[args[0].node]
        if statistics is None or not node.depends:
            return self._emit(fx_node, fx_node.target, args, fx_node.kwargs)
        column = (-1,) + (1,) * (len(node.shape) - 2)
        scale, shift = (
            self.draft.constant(f"{fx_node.name}_{name}", t.to(node.dtype).reshape(column))
            for name, t in zip(("scale", "shift"), statistics, strict=True)
        )
        result = self._affine(fx_node, args[0], scale, shift)
        return (result,) if is_tuple else result

    def _affine(self, fx_node: torch.fx.Node, x: Ref, scale: Ref, shift: Ref) -> Ref:
        node = self.draft.nodes[x.node]
        value = fx_node.meta["val"]
        value = value if isinstance(value, Tensor) else value[0]
        call = types.SimpleNamespace(
            name="batch_norm",
            shape=node.shape,
            args=(shift, x, scale),
            kwargs={},
            pointwise=True,
            node=lambda ref: self.draft.nodes[ref.node],
            align=self.draft.align,
        )
        common: dict[str, Any] = {"target": aten.addcmul.default, "depends": True, "dtype": node.dtype}
        try:
            local = pointwise(call)
        except NotLocal as reason:
            return self.draft.add(
                _name_of(fx_node),
                "batch_norm",
                node.shape,
                (None,) * len(node.shape),
                args=(shift, x, scale),
                reason=str(reason),
                **common,
            )
        assert local.args is not None
        return self.draft.add(
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
        weight = self.draft.nodes[args[1].node].value
        bias_ref = args[2] if len(args) > 2 else None
        bias = self.draft.nodes[bias_ref.node].value if bias_ref is not None else None
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
            self.draft.constant(
                f"{fx_node.name}_weight", (weight.double() * scale.reshape(column)).to(weight.dtype)
            ),
            self.draft.constant(f"{fx_node.name}_bias", shift.to(weight.dtype)),
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
