"""The translation of an exported program into a Graph, operator by operator."""

from __future__ import annotations

import functools
import operator
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from krypton_engine.graph.box_operators import Apply
from krypton_engine.graph.draft import BoundCall, CaptureError, Draft, name_of
from krypton_engine.graph.emit import RESHAPES, emit, label
from krypton_engine.graph.functional import DROPOUTS
from krypton_engine.graph.ir import BATCH, Graph, Ref, Roles, refs
from krypton_engine.graph.operators import NotLocal, Result, arguments, localise
from krypton_engine.graph.operators.pointwise import IDENTITIES
from krypton_engine.graph.spellings import alone

aten = torch.ops.aten

_FILLED = {
    **dict.fromkeys(["new_zeros", "zeros_like", "new_empty", "empty_like", "new_full", "full_like"], 0),
    **dict.fromkeys(["new_ones", "ones_like"], 1),
}
"""Operators that give a value like another, of one number."""
_RESHAPED = {"squeeze", "flatten", "unflatten"}
_BATCH_NORMS = {
    aten._native_batch_norm_legit_no_training.default,
    aten.native_batch_norm.default,
    aten.batch_norm.default,
}


def translate(program: torch.export.ExportedProgram, batched: tuple[bool, ...], occluded: int) -> Graph:
    """The graph of an exported program.

    Args:
        program: Exported program of functional operators, with a dynamic batch.
        batched: For every tensor input, whether its first dimension is the batch.
        occluded: Number of the input that windows occlude.

    Raises:
        CaptureError: With the reason.

    Examples:
        >>> from krypton_engine.graph.export import export
        >>> made = translate(export(lambda x: x.relu(), [], (x,), (True,)), (True,), occluded=0)
        >>> [(node.op, node.roles) for node in made.nodes]
        [('input', (-1, 0, 1, 2)), ('relu', (-1, 0, 1, 2))]
    """
    return _Translation(program, batched, occluded).build()


def _needed(output: torch.fx.Node) -> set[torch.fx.Node]:
    """All that an output is computed from, and itself."""
    found: set[torch.fx.Node] = set()
    open_ones = [output]
    while open_ones:
        fx_node = open_ones.pop()
        if fx_node not in found:
            found.add(fx_node)
            open_ones += fx_node.all_input_nodes
    return found


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
        sources: list[weakref.ref[Tensor]] = []
        # What else a program returns are new contents of buffers, which no output reads.
        *_, last = self.program.graph_module.graph.nodes
        asked = [item for item in last.args[0] if getattr(item, "name", None) in signature.user_outputs]
        if len(signature.user_outputs) != 1 or len(asked) != 1:
            raise CaptureError("the forward function does not return a single tensor")
        needed = _needed(asked[0])
        for fx_node in self.program.graph_module.graph.nodes:
            if fx_node not in needed and fx_node.name not in user_inputs:
                continue
            if fx_node.op == "placeholder":
                if fx_node.name in held:
                    tensor = state[held[fx_node.name]]
                    sources.append(weakref.ref(tensor))
                    own = tensor.detach()
                    if fx_node.name in signature.inputs_to_lifted_tensor_constants:
                        own = own.clone()  # what is written into it later is another graph's
                    self.env[fx_node] = self.draft.constant(held[fx_node.name], own)
                elif fx_node.name in user_inputs:
                    self.env[fx_node] = self._input(fx_node, user_inputs.index(fx_node.name))
                    inputs[fx_node.name] = self.env[fx_node].node
            elif fx_node.op == "call_function":
                self.env[fx_node] = self._call(fx_node)
            else:
                raise CaptureError(f"the exported program holds {fx_node.op}")
        result = self.env[asked[0]]
        _, batch = self.draft.shape_of(asked[0].meta["val"])
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
        return graph

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
                on_box=Apply(),
            )
        rest: Roles = (None,) * (len(shape) - 1)
        return self.draft.add(
            fx_node.name, "input", shape, (*head, *rest) if shape else (), dtype=value.dtype
        )

    def _translated(self, item: object) -> Any:
        """Arguments with references to the graph's nodes in place of the program's."""
        if isinstance(item, torch.fx.Node):
            return self.env[item]
        if isinstance(item, (tuple, list)):
            return type(item)(self._translated(part) for part in item)
        if isinstance(item, dict):
            return {key: self._translated(part) for key, part in item.items()}
        return item

    def _call(self, fx_node: torch.fx.Node) -> Any:
        if not fx_node.users:  # an assertion about a tensor
            return None
        value = fx_node.meta.get("val")
        if isinstance(value, torch.SymInt):
            return self.draft.rows(value)
        if isinstance(value, (int, float, bool)) and not isinstance(value, Tensor):
            return value
        args, kwargs = self._translated(tuple(fx_node.args)), self._translated(dict(fx_node.kwargs))
        if fx_node.target is operator.getitem:
            return self._item(fx_node, args)
        if not isinstance(fx_node.target, torch._ops.OpOverload):
            raise CaptureError(f"the exported program calls {fx_node.target}")
        name = name_of(fx_node.target)
        if name == "cat":  # what has no cells, such as ``x[:, :, :0]``, adds nothing
            some = [ref for ref in args[0] if 0 not in self.draft.nodes[ref.node].shape]
            args = (some or args[0], *args[1:])
        if isinstance(value, Tensor) and (operand := self._left_as_it_is(name, args, value)) is not None:
            return operand
        if fx_node.target in _BATCH_NORMS and _gives_one(fx_node):
            return self._batch_norm(fx_node)
        if name in _FILLED and isinstance(value, Tensor):  # nothing but the type of the other is read
            sizes = [size if isinstance(size, int) else self.draft.rows(size) for size in value.shape]
            fill = arguments(fx_node.target, args, kwargs).get("fill_value", _FILLED[name])
            if isinstance(fill, Ref):
                raise CaptureError(f"{name} takes its number from a value of the image")
            kinds = {"dtype": value.dtype, "device": value.device}
            return emit(self.draft, fx_node, aten.full.default, (sizes, fill), kinds)
        if name == "fill" and isinstance(value, Tensor) and (number := self._number(args[1])) is not None:
            sizes = [size if isinstance(size, int) else self.draft.rows(size) for size in value.shape]
            kinds = {"dtype": value.dtype, "device": value.device}
            return emit(self.draft, fx_node, aten.full.default, (sizes, number), kinds)
        if name == "index_put" and (mask := self._mask(args, kwargs)) is not None:
            return emit(self.draft, fx_node, aten.where.self, (mask, args[2], args[0]), {})
        if name in {"split", "split_with_sizes", "chunk", "unbind"}:
            return self._pieces(fx_node, args, kwargs)
        if isinstance(value, (tuple, list)) and (results := self._results(fx_node, args, kwargs)):
            return results
        if fx_node.target in RESHAPES and isinstance(value, Tensor) and self._is_padded_wave(fx_node, value):
            return emit(self.draft, fx_node, aten.unsqueeze.default, (args[0], 1), {}, value.transpose(0, 1))
        # ``squeeze`` of a box would also drop axes that happen to be of size 1 there.
        if name in _RESHAPED and isinstance(value, Tensor):
            sizes = [size if isinstance(size, int) else self.draft.rows(size) for size in value.shape]
            return emit(self.draft, fx_node, aten.reshape.default, (args[0], sizes), {})
        return emit(self.draft, fx_node, fx_node.target, args, kwargs)

    def _left_as_it_is(self, name: str, args: tuple[Any, ...], value: Tensor) -> Ref | None:
        """The operand that a call returns as it is; None for a call that does something."""
        if name == "slice_scatter":
            everything = _takes_all((args[0], *args[2:]), self.draft.nodes[args[0].node].shape)
            operand: Ref | None = args[1] if everything else None
            return operand
        first = args[0] if args else None
        if not isinstance(first, Ref):
            return None
        node = self.draft.nodes[first.node]
        idle = (
            name in IDENTITIES
            or (name in DROPOUTS and not args[2])
            or (name == "flatten" and len(node.shape) == value.ndim)
            or (name in {"_to_copy", "to", "type_as"} and node.dtype == value.dtype)
            or (name == "slice" and _takes_all(args, node.shape))
            or ("adaptive" in name and self.draft.shape_of(value)[0] == node.shape)
        )
        return first if idle else None

    def _is_padded_wave(self, fx_node: torch.fx.Node, value: Tensor) -> bool:
        """Whether waves ``(rows, cells)`` are the channels of one signal, only so that these are padded."""
        shape, batch = self.draft.shape_of(value)
        pads = list(fx_node.users)
        readers = [reader for pad in pads for reader in pad.users]
        return (
            batch == (False, True, False)
            and shape[0] == 1
            and all("pad" in str(pad.target) for pad in pads)
            and all(reader.target in RESHAPES and reader.meta["val"].ndim == 2 for reader in readers)
        )

    def _number(self, item: Any) -> float | int | bool | None:
        """The number that an argument is; None for one that is known only later."""
        if not isinstance(item, Ref):
            number: float | int | bool = item
            return number
        value = self.draft.nodes[item.node].value
        return None if value is None or value.numel() != 1 else value.item()

    def _mask(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Ref | None:
        """The cells that one number is assigned to, as truth values; None if more than that is assigned."""
        into, indices, number = args[:3]
        dims = [dim for dim, index in enumerate(indices) if index is not None]
        shape = self.draft.nodes[into.node].shape
        accumulates = kwargs.get("accumulate") or any(args[3:])
        if accumulates or len(dims) != 1 or self.draft.nodes[number.node].numel() != 1:
            return None
        (dim,), index = dims, self.draft.nodes[indices[dims[0]].node]
        if index.dtype == torch.bool:
            return indices[dim] if index.shape == shape else None
        if index.value is None:
            return None
        mask = torch.zeros(shape[dim], dtype=torch.bool, device=index.value.device)
        mask[index.value.reshape(-1)] = True
        return self.draft.constant(f"{index.name}_mask", mask.reshape(-1, *[1] * (len(shape) - dim - 1)))

    def _results(
        self, fx_node: torch.fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ...] | None:
        """The results that are read of an operator with several, on boxes if that computes none twice."""
        target, values = fx_node.target, fx_node.meta["val"]
        read = [i for i in range(len(values)) if any(user.args[1] == i for user in fx_node.users)]
        operands = [self.draft.nodes[i].shape for i in refs(args)]
        sizes = operands[0][2:], self.draft.shape_of(values[0])[0][2:]
        first = alone(target, args, sizes) if read == [0] else None
        if first is not None:
            return (functools.partial(emit, self.draft, target=first[0], args=first[1], kwargs={}),)
        local = all(self._is_local(Result(target, i), values[i], args, kwargs) for i in read)
        if not local and len(read) > 1:
            return None
        return tuple(
            functools.partial(emit, self.draft, target=Result(target, i), args=args, kwargs=kwargs)
            for i in range(len(values))
        )

    def _is_local(self, target: Any, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call has a rule that takes it."""
        if not isinstance(value, Tensor):
            return False
        try:
            localise(BoundCall(self.draft, target, args, kwargs, *self.draft.shape_of(value)))
        except NotLocal:
            return False
        return True

    def _item(self, fx_node: torch.fx.Node, args: tuple[Any, ...]) -> Any:
        source, number = args
        if isinstance(source, (tuple, list)):
            item = source[number]
            return item(fx_node) if callable(item) else item
        node = self.draft.nodes[source.node]
        return self.draft.add(
            label(fx_node),
            "getitem",
            self.draft.shape_of(fx_node.meta["val"])[0],
            (None,) * fx_node.meta["val"].ndim,
            target=operator.getitem,
            args=args,
            depends=node.depends,
            dtype=fx_node.meta["val"].dtype,
        )

    def _pieces(self, fx_node: torch.fx.Node, args: tuple[Any, ...], kwargs: dict[str, object]) -> Any:
        """``split`` and its kin as one slice for every piece."""
        call = BoundCall(self.draft, fx_node.target, args, kwargs)
        dim, start, pieces = call["dim"], 0, []
        for piece in fx_node.meta["val"]:
            if call.name == "unbind":
                pieces.append(
                    functools.partial(
                        emit, self.draft, target=aten.select.int, args=(args[0], dim, start), kwargs={}
                    )
                )
                start += 1
                continue
            length = piece.shape[dim]
            if not isinstance(length, int):
                raise CaptureError(f"{call.name} along the batch")
            pieces.append(
                functools.partial(
                    emit,
                    self.draft,
                    target=aten.slice.Tensor,
                    args=(args[0], dim, start, start + length),
                    kwargs={},
                )
            )
            start += length
        return tuple(pieces)

    def _batch_norm(self, fx_node: torch.fx.Node) -> Any:
        """A batch norm in evaluation as one operator with one result, whichever way it was exported."""
        bound = arguments(fx_node.target, fx_node.args, fx_node.kwargs)
        several = not isinstance(fx_node.meta["val"], Tensor)
        names = ("input", "weight", "bias", "running_mean", "running_var")
        args = tuple(self._translated(bound[name]) for name in names)
        training, cudnn = bound.get("training", False), bound.get("cudnn_enabled", True)
        last = (training, bound["momentum"], bound["eps"], cudnn)
        if not several:
            return emit(self.draft, fx_node, aten.batch_norm.default, (*args, *last), {})
        value = fx_node.meta["val"][0]
        return (emit(self.draft, fx_node, aten.batch_norm.default, (*args, *last), {}, value),)


def _gives_one(fx_node: torch.fx.Node) -> bool:
    """Whether the first result of an operator is the only one that is read."""
    return isinstance(fx_node.meta["val"], Tensor) or all(
        user.target is operator.getitem and user.args[1] == 0 for user in fx_node.users
    )


def _takes_all(args: tuple[Any, ...], shape: tuple[int, ...]) -> bool:
    """Whether the arguments of a ``slice`` leave nothing out (``x[:, 0]`` slices the batch so)."""
    defaults: tuple[Any, ...] = (0, None, None, 1)
    dim, start, end, step = args[1:] + defaults[len(args) - 1 :]
    everything = isinstance(end, int) and end >= 2**62
    return step == 1 and start in (None, 0) and (end is None or everything or end == shape[dim] != 1)
