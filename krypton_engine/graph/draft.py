"""A graph under construction: nodes added one by one, and calls whose arguments are bound to names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from krypton_engine.graph.ir import BATCH, Node, Ref, Roles, Rows
from krypton_engine.graph.operators import Arguments, NotLocal, arguments
from krypton_engine.graph.operators.cost import macs
from krypton_engine.graph.operators.pointwise import is_pointwise

aten = torch.ops.aten


class CaptureError(Exception):
    """The reason why a callable has no graph."""


def name_of(target: torch._ops.OpOverload) -> str:
    """An operator's name without its overload; without its namespace too where that is PyTorch's.

    Examples:
        >>> name_of(torch.ops.aten.add.Tensor)
        'add'
        >>> name_of(torch.ops.prims.add.default)  # what is named alike need not do the same
        'prims::add'
    """
    name: str = target._schema.name
    return name.removeprefix("aten::")


class Nodes(Protocol):
    """Nodes of a graph under construction, which calls refer to."""

    def node(self, ref: Ref) -> Node:
        """See `krypton_engine.graph.operators.Call`."""

    def align(self, ref: Ref, roles: Roles, shape: tuple[int, ...]) -> Ref:
        """See `krypton_engine.graph.operators.Call`."""


class BoundCall:
    """A call with its arguments under the names of its operator's schema.

    Args:
        nodes: Nodes that the arguments refer to.
        target: The operator.
        args: Positional arguments of the call.
        kwargs: Its keyword arguments.
        shape: Shape of the result, for one copy; empty for a call that gives no tensor.
        batch_dims: Which of the result's dimensions are exactly the batch.

    Examples:
        >>> draft = Draft(None, graph.nodes)
        >>> call = BoundCall(draft, torch.ops.aten.clamp.default, (Ref(7), 0.0), {}, (1, 8, 24, 20))
        >>> call["self"], call["min"], call["max"], call.node(call["self"]).op
        (Ref(node=7), 0.0, None, 'conv2d')
        >>> row = draft.constant("row", torch.ones(20))  # broadcast along the columns, axis 2
        >>> draft.node(call.align(row, (BATCH, None, 1, 2), call.shape)).roles
        (None, None, None, 2)
    """

    def __init__(
        self,
        nodes: Nodes,
        target: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, object],
        shape: tuple[int, ...] = (),
        batch_dims: tuple[bool, ...] = (),
    ) -> None:
        self._nodes = nodes
        self.target = target
        self.args = args
        self.kwargs = kwargs
        self.name = name_of(target)
        self.pointwise = is_pointwise(target)
        self.bound: Arguments = arguments(target, args, kwargs)
        self.shape, self.batch_dims = shape, batch_dims

    def __getitem__(self, name: str) -> Any:
        return self.bound[name]

    def node(self, ref: Ref) -> Node:
        """See `krypton_engine.graph.operators.Call`."""
        return self._nodes.node(ref)

    def align(self, ref: Ref, roles: Roles, shape: tuple[int, ...]) -> Ref:
        """See `krypton_engine.graph.operators.Call`."""
        return self._nodes.align(ref, roles, shape)


class Draft:
    """A graph under construction: its nodes so far, and sizes as functions of the number of copies.

    Args:
        symbol: The size of the batch in the exported program.
        nodes: Nodes to begin with, such as those of a graph that is to be changed.

    Examples:
        >>> draft = Draft(symbol=None)
        >>> weight = draft.constant("weight", torch.ones(2, 3))
        >>> draft.nodes[weight.node].shape, draft.value(weight.node).sum()
        ((2, 3), tensor(6.))
    """

    def __init__(self, symbol: Any, nodes: Iterable[Node] = ()) -> None:
        self.symbol = symbol
        self.nodes = list(nodes)

    def add(self, name: str, op: str, shape: tuple[int, ...], roles: Roles, **fields: Any) -> Ref:
        """A reference to a new node; ``fields`` are those of `Node`.

        Examples:
            >>> draft = Draft(symbol=None)
            >>> image = draft.add("x", "input", (1, 3, 8, 8), (BATCH, None, 0, 1))
            >>> image, draft.node(image).axes
            (Ref(node=0), (0, 1))
        """
        node = Node(len(self.nodes), name, op, shape, roles, fields.pop("dtype", None), **fields)
        self.nodes.append(replace(node, macs=macs(node, self.nodes.__getitem__)))
        return Ref(node.index)

    def constant(self, name: str, value: Tensor) -> Ref:
        """A reference to a new constant."""
        shape = tuple(value.shape)
        return self.add(name, "constant", shape, (None,) * len(shape), value=value, dtype=value.dtype)

    def node(self, ref: Ref) -> Node:
        """The node behind a reference."""
        return self.nodes[ref.node]

    def value(self, index: int) -> Tensor:
        """The value of a constant."""
        value = self.nodes[index].value
        assert value is not None
        return value

    def shape_of(self, value: Tensor) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Shape with 1 for the batch, and which dimensions are exactly the batch.

        Examples:
            >>> Draft(symbol=None).shape_of(torch.zeros(2, 3))  # no dimension depends on the batch
            ((2, 3), (False, False))
        """
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
        """A symbolic size as a function of the number of copies.

        Examples:
            >>> Draft(symbol=None).rows(8)
            Rows(per_copy=0, extra=8)
        """
        if isinstance(size, int):
            return Rows(0, size)
        expression = size.node.expr
        at = [int(expression.subs(self.symbol, copies)) for copies in (0, 1, 2, 3, 7)]
        rows = Rows(at[1] - at[0], at[0])
        if [rows(copies) for copies in (2, 3, 7)] != at[2:]:
            raise CaptureError(f"a size is not linear in the batch: {expression}")
        return rows

    def align(self, ref: Ref, roles: Roles, shape: tuple[int, ...]) -> Ref:
        """See `krypton_engine.graph.operators.Call`; a new node where the constant's roles differ."""
        fields = aligned(self.node(ref), roles)
        return ref if fields is None else self.add(**fields)


def aligned(node: Node, roles: Roles) -> dict[str, Any] | None:
    """Fields of a node that follows the roles of the value that ``node``, a constant, is broadcast against.

    None where the roles of ``node`` agree already.

    Examples:
        >>> row = Node(0, "row", "constant", (20,), (None,), None, value=torch.zeros(20))
        >>> fields = aligned(row, (BATCH, None, 1, 2))
        >>> fields["shape"], fields["roles"]
        ((1, 1, 1, 20), (None, None, None, 2))
    """
    pad = len(roles) - len(node.shape)
    full = (1,) * pad + node.shape
    own: Roles = tuple(
        role if role == BATCH or (role is not None and n > 1) else None
        for role, n in zip(roles, full, strict=True)
    )
    if (node.roles[:1] == (BATCH,) and pad) or BATCH in node.roles[1:]:
        raise NotLocal("broadcasts another input over a leading dimension")
    if not (node.roles and node.roles[0] == BATCH):
        own = tuple(None if role == BATCH else role for role in own)
    if all(role is None for role in own):
        return None
    fields: dict[str, Any] = {
        "name": f"{node.name}_aligned", "op": "constant", "shape": full, "roles": own, "dtype": node.dtype,
    }  # fmt: skip
    if node.value is not None:
        return fields | {"value": node.value.reshape(full)}
    sizes = [Rows(1) if role == BATCH else n for n, role in zip(full, own, strict=True)]
    return fields | {"target": aten.reshape.default, "args": (Ref(node.index), sizes)}
