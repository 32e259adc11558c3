"""The common ground of all families of operators: calls, rules and their answers, facts.

A rule looks at one call and answers with a `Local`: how the call runs on a box. A rule raises `NotLocal` when
the call mixes cells along the last axis it has, or is not known; the call then is part of the full
computation. Rules are keyed on operators, never on models or modules.

`Facts` hold what executors ask of an operator beside its locality.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from krypton_engine.graph.box_operators import Apply, BoxOperator, Epilogue, Reindex
from krypton_engine.graph.ir import BATCH, Node, Ref, Roles, redirected, refs
from krypton_engine.graph.regions import AxisMap, IndexMap

Arguments: TypeAlias = Mapping[str, Any]
"""Arguments of a call by the names in its operator's schema, whose types PyTorch has checked."""


def _no_epilogue(arguments: Arguments) -> Epilogue | None:
    return None


class NotLocal(Exception):
    """The reason why a call cannot be computed on a box."""


@dataclass(frozen=True)
class Local:
    """The way that a call runs on boxes; see `krypton_engine.graph.ir.Node`."""

    roles: Roles
    on_box: BoxOperator
    operands: tuple[int, ...]
    maps: tuple[Mapping[int, AxisMap], ...] = ()
    whole: frozenset[int] = frozenset()
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Result:
    """An operator that gives one of several results of another.

    Examples:
        >>> largest = Result(torch.ops.aten.max.dim, number=0)
        >>> largest(torch.tensor([[1.0, 3.0, 2.0]]), 1)
        tensor([3.])
        >>> largest.tags == torch.ops.aten.max.dim.tags
        True
    """

    operator: Any
    number: int

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The result for arguments of the other operator."""
        result: Tensor = self.operator(*args, **kwargs)[self.number]
        return result

    @property
    def _schema(self) -> Any:
        return self.operator._schema

    @property
    def tags(self) -> Any:
        """See ``torch.Tag``."""
        return self.operator.tags


class Call(Protocol):
    """One call of an operator, its arguments bound to the names of its schema."""

    name: str
    shape: tuple[int, ...]
    batch_dims: tuple[bool, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, object]
    bound: Arguments
    pointwise: bool

    def __getitem__(self, name: str) -> Any: ...

    def node(self, ref: Ref) -> Node:
        """The node behind a reference."""

    def align(self, ref: Ref, roles: Roles, shape: tuple[int, ...]) -> Ref:
        """A constant whose dimensions follow the roles of the value that it is broadcast against."""


Rule = Callable[[Call], Local]
RULES: dict[str, Rule] = {}
"""Rules by the operator's name, without its overload."""


ROW_BY_ROW: set[str] = set()
"""Names of operators that compare no rows even when computed in full."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the operators ``names`` (without their overload).

    Examples:
        >>> from unittest import mock
        >>> with mock.patch.dict(RULES):  # the rules are as before afterwards
        ...     @rule("swish", "swish_of_six")
        ...     def of_swish(call):
        ...         return rearranged(call.node(call["self"]), call.node(call["self"]).roles)
        ...     RULES["swish"] is RULES["swish_of_six"] is of_swish
        True
    """

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


@dataclass(frozen=True)
class Facts:
    """Facts that hold of every call of an operator, whichever executor runs it.

    Attributes:
        fresh: Whether the result lies in memory of its own, so that its reader may write over it.
        in_place: Variant that writes the result over the first operand; None if there is none.
        out: Variant that writes the result into its argument ``out``; None if there is none.
        joins: Whether the result is the operands side by side, each of them unchanged.
        epilogue: Function from arguments by name to the epilogue that a convolution may end with instead of
            the operator; to None where arguments make that impossible.
    """

    fresh: bool = False
    in_place: Callable[..., Tensor] | None = None
    out: Callable[..., Tensor] | None = None
    joins: bool = False
    epilogue: Callable[[Arguments], Epilogue | None] = _no_epilogue


_NOTHING = Facts()
FACTS: dict[Hashable, Facts] = {}


def declare(target: Hashable, facts: Facts) -> None:
    """Register the facts of one overload of an operator.

    Examples:
        >>> from unittest import mock
        >>> negative = Node(1, "neg", "neg", (1, 3), (-1, None), torch.float32, torch.ops.aten.neg.default)
        >>> with mock.patch.dict(FACTS):  # the facts are as before afterwards
        ...     declare(torch.ops.aten.neg.default, Facts(in_place=torch.ops.aten.neg_.default))
        ...     facts(negative).in_place is torch.ops.aten.neg_.default
        True
    """
    FACTS[target] = facts


def facts(node: Node) -> Facts:
    """Facts of the operator of ``node``; the defaults of `Facts` for an operator without an entry.

    Examples:
        >>> relu = Node(1, "relu", "relu", (1, 3), (-1, None), torch.float32, torch.ops.aten.relu.default)
        >>> facts(relu).in_place is torch.ops.aten.relu_.default
        True
    """
    return FACTS.get(node.target, _NOTHING)


def epilogue_of(node: Node) -> Epilogue | None:
    """``node`` as the end of the convolution that it reads, if it can be one.

    Examples:
        >>> relu = Node(1, "relu", "relu", (1, 3), (-1, None), None, torch.ops.aten.relu.default, (Ref(0),))
        >>> epilogue_of(relu)
        Epilogue(low=0.0, high=inf, function='identity', parameter=0.0)
    """
    known = facts(node)
    return known.epilogue(arguments(node.target, node.args, node.kwargs)) if known is not _NOTHING else None


def arguments(target: Any, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, Any]:
    """Arguments by the names of an operator's schema, defaults filled in.

    Examples:
        >>> arguments(torch.ops.aten.hardtanh.default, ("x",), {"max_val": 6})
        {'self': 'x', 'min_val': -1, 'max_val': 6}
    """
    found = {}
    for i, argument in enumerate(target._schema.arguments):
        given = args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value)
        found[argument.name] = given
    return found


def positive(dim: int, rank: int) -> int:
    """``dim`` counted from the front.

    Examples:
        >>> positive(-1, rank=4), positive(2, rank=4)
        (3, 2)
    """
    return dim % rank if rank else dim


def touched(roles: Roles, dims: Sequence[int]) -> frozenset[int]:
    """Axes that run along ``dims``; a call that mixes cells along them reads them whole.

    Examples:
        >>> sorted(touched((BATCH, None, 0, 1), dims=[1, 2, 3]))
        [0, 1]
    """
    found = {roles[dim] for dim in dims}
    if BATCH in found:
        raise NotLocal("reads across the batch")
    return frozenset(axis for axis in found if axis is not None)


def only_dependent(call: Call) -> Node:
    """The one operand that windows change.

    Raises:
        NotLocal: Several operands change, or the one is not on boxes.

    Examples:
        >>> only_dependent(call(torch.ops.aten.mul.Tensor, graph.nodes[7], graph.nodes[1])).op
        'conv2d'
    """
    dependent = [i for i in dict.fromkeys(refs((call.args, dict(call.kwargs)))) if call.node(Ref(i)).depends]
    if len(dependent) != 1:
        raise NotLocal(f"{call.name} of several changed values")
    return local_operand(call, Ref(dependent[0]))


def local_operand(call: Call, ref: object) -> Node:
    """The node behind ``ref``.

    Raises:
        NotLocal: The node is a constant, or not on boxes.

    Examples:
        >>> relu = call(torch.ops.aten.relu.default, graph.nodes[7])
        >>> local_operand(relu, relu["self"]).op
        'conv2d'
        >>> local_operand(relu, 0.5)
        Traceback (most recent call last):
        krypton_engine.graph.operators.base.NotLocal: relu of a constant
    """
    if not isinstance(ref, Ref):
        raise NotLocal(f"{call.name} of a constant")
    node = call.node(ref)
    if not node.depends:
        raise NotLocal(f"{call.name} of a constant with changing arguments")
    if not node.local:
        raise NotLocal("follows a full computation")
    return node


def axis_of(call: Call, node: Node, dim: int) -> int:
    """The axis along dimension ``dim`` of ``node``, which must run along one.

    Examples:
        >>> flip, image = call(torch.ops.aten.flip.default, graph.nodes[7], [3]), graph.nodes[7]
        >>> axis_of(flip, image, dim=3)
        2
        >>> axis_of(flip, image, dim=0)
        Traceback (most recent call last):
        krypton_engine.graph.operators.base.NotLocal: flip along the batch
    """
    role = node.roles[dim]
    if role == BATCH:
        raise NotLocal(f"{call.name} along the batch")
    assert role is not None
    return role


def mixing(node: Node, dims: Sequence[int], keep: bool = True) -> Local:
    """The way on boxes of a call that mixes cells along ``dims`` and along no other dimension.

    Examples:
        >>> image = Node(0, "x", "input", (1, 3, 8, 8), (BATCH, None, 0, 1), None)
        >>> over_rows = mixing(image, [2], keep=False)
        >>> over_rows.roles, sorted(over_rows.whole)
        ((-1, None, 1), [0])
    """
    rank = len(node.shape)
    dims = [positive(dim, rank) for dim in dims]
    whole = touched(node.roles, dims)
    roles = [None if dim in dims else role for dim, role in enumerate(node.roles)]
    if not keep:
        roles = [role for dim, role in enumerate(roles) if dim not in dims]
    return Local(tuple(roles), Apply(), (node.index,), ({},), whole)


def rearranged(node: Node, roles: Sequence[int | None], sized: bool = False) -> Local:
    """The way on boxes of a call that reorders or adds dimensions; see `Apply` for ``sized``.

    Examples:
        >>> image = Node(0, "x", "input", (1, 3, 8, 8), (BATCH, None, 0, 1), None)
        >>> rearranged(image, (BATCH, 0, 1, None)).roles
        (-1, 0, 1, None)
    """
    return Local(tuple(roles), Apply(sized), (node.index,), ({},))


def reindexed(node: Node, sources: Mapping[int, IndexMap], fill: float = 0.0) -> Local:
    """The way on boxes of a call that moves cells along axes; ``fill`` where a cell has no source.

    Examples:
        >>> signal = Node(0, "x", "input", (1, 3), (BATCH, 0), None)
        >>> reindexed(signal, {0: IndexMap(3, (2, 1, 0))}).maps[0][0].source
        (2, 1, 0)
    """
    return Local(node.roles, Reindex(fill), (node.index,), (dict(sources),))


def merged(call: Call, dependent: list[Node], shape: tuple[int, ...], free: Sequence[int]) -> Local:
    """The way on boxes of a call whose operands, of one rank, meet cell by cell.

    Along the dimensions ``free`` their sizes need not agree.

    Examples:
        >>> shape, operands = graph.nodes[7].shape, [graph.nodes[7], graph.nodes[8]]
        >>> addition = call(torch.ops.aten.add.Tensor, *operands, shape=shape)
        >>> merged(addition, operands, shape, free=()).operands
        (7, 8)
    """
    roles = list(dependent[0].roles)
    for node in dependent:
        if len(node.shape) != len(shape):
            raise NotLocal(f"{call.name} broadcasts over a leading dimension")
        for dim, role in enumerate(node.roles):
            if role != roles[dim]:
                raise NotLocal(f"{call.name} combines an axis with another dimension")
            if role not in (None, BATCH) and node.shape[dim] != shape[dim]:
                raise NotLocal(f"{call.name} repeats one cell along an axis")
    final = tuple(roles)

    def aligned(index: int) -> int:
        ref = Ref(index)
        return index if call.node(ref).depends else call.align(ref, final, shape).node

    args, kwargs = redirected(tuple(call.args), aligned), redirected(call.kwargs, aligned)
    operands = tuple(dict.fromkeys(refs((args, kwargs))))
    if any(roles[dim] is not None for dim in free):
        raise NotLocal(f"{call.name} along an axis")
    return Local(final, Apply(), operands, tuple({} for _ in operands), args=args, kwargs=kwargs)
