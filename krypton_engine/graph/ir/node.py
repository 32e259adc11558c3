"""One operator of a graph: its dimensions, which have known roles, and its operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from krypton_engine.graph.box_operators import BoxOperator, Pool, Reindex
from krypton_engine.graph.regions import AxisMap

BATCH = -1
"""Role of the dimension along which occluded copies are stacked; other roles are an axis or None."""

Roles = tuple[int | None, ...]
"""Role of every dimension of a value: ``BATCH``, the input axis that it runs along, or None (opaque)."""


@dataclass(frozen=True)
class Ref:
    """An operand: the value of another node."""

    node: int


@dataclass(frozen=True)
class Rows:
    """A size that depends on how many copies run together: ``per_copy * copies + extra``.

    Examples:
        >>> Rows(2, 1)(10)
        21
    """

    per_copy: int
    extra: int = 0

    def __call__(self, copies: int) -> int:
        """The size for ``copies`` copies."""
        return self.per_copy * copies + self.extra


@dataclass(frozen=True)
class Node:
    """One operator of the graph.

    ``target(*args, **kwargs)`` computes it in full, for any number of copies. A *local* node can also be
    computed on a box: ``on_box`` says how, ``maps[i]`` how its i-th operand is read along each axis (an axis
    without a map is read at the output's own cells), and the axes in ``whole`` are read from end to end.
    ``macs`` is the cost of the whole value for one copy; see `krypton_engine.graph.operators.cost`.

    Examples:
        >>> convolution, relu = graph.nodes[7], graph.nodes[8]
        >>> convolution.op, convolution.local, convolution.maps[0][1].kernel, convolution.fill
        ('conv2d', True, 3, 0.0)
        >>> relu.args, relu.computed({7: torch.tensor([-1.0, 2.0])}.__getitem__)
        ((Ref(node=7),), tensor([0., 2.]))
    """

    index: int
    name: str
    op: str
    shape: tuple[int, ...]
    roles: Roles
    dtype: torch.dtype | None
    target: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    value: Tensor | None = None
    on_box: BoxOperator | None = None
    operands: tuple[int, ...] = ()
    maps: tuple[Mapping[int, AxisMap], ...] = ()
    whole: frozenset[int] = frozenset()
    depends: bool = False
    macs: int = 0
    reason: str = ""

    @property
    def local(self) -> bool:
        """Whether the node can be recomputed on a box alone."""
        return self.on_box is not None

    @property
    def fill(self) -> float:
        """The value that the operator reads outside its operand."""
        if isinstance(self.on_box, Pool) and self.on_box.maximum:
            return -math.inf
        return self.on_box.fill if isinstance(self.on_box, Reindex) else 0.0

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """The input axes that the value still runs along, in the order of its dimensions.

        Examples:
            >>> graph.input.axes, graph.nodes[7].axes, graph.nodes[13].axes
            ((0, 1, 2), (1, 2), ())
        """
        return tuple(role for role in self.roles if role is not None and role != BATCH)

    def size(self, axis: int) -> int:
        """Number of cells along ``axis``.

        Examples:
            >>> graph.nodes[9].size(1), graph.nodes[9].size(2)  # half the image's rows and columns
            (12, 10)
        """
        return self.shape[self.roles.index(axis)]

    @property
    def cells(self) -> int:
        """Number of cells that boxes are made of; 1 for a full computation, which is one piece.

        Examples:
            >>> graph.nodes[7].shape, graph.nodes[7].cells
            ((1, 8, 24, 20), 480)
        """
        return math.prod(self.size(axis) for axis in self.axes) if self.local else 1

    @property
    def macs_of_cell(self) -> int:
        """Multiply-accumulates of one of the ``cells``, over all channels.

        Examples:
            >>> graph.nodes[7].macs_of_cell  # 3 x 3 x 3 weights for each of 8 channels
            216
        """
        return self.macs // self.cells

    def numel(self) -> int:
        """Number of elements for one copy.

        Examples:
            >>> graph.input.shape, graph.input.numel()
            ((1, 3, 24, 20), 1440)
        """
        return math.prod(self.shape)

    def bytes(self) -> int:
        """Memory of the value for one copy.

        Examples:
            >>> graph.input.dtype, graph.input.numel(), graph.input.bytes()
            (torch.float32, 1440, 5760)
        """
        return self.numel() * (4 if self.dtype is None else self.dtype.itemsize)

    def computed(
        self, value: Callable[[int], Any], copies: int = 1, target: Callable[..., Any] | None = None
    ) -> Any:
        """The node's value in full.

        Args:
            value: Function that gives the values of the nodes it refers to, for as many copies.
            copies: Number of occluded inputs that run together.
            target: Another operator that computes the same; None for the node's own.
        """
        run = target or self.target
        assert run is not None
        return run(*resolve(self.args, value, copies), **resolve(self.kwargs, value, copies))

    def same_cells(self, operand: int) -> bool:
        """Whether operand number ``operand`` is read exactly at the output's own cells.

        Examples:
            >>> graph.nodes[7].same_cells(0), graph.nodes[8].same_cells(0)  # a convolution, a ReLU
            (False, True)
        """
        return not self.whole and all(m.is_identity() for m in self.maps[operand].values())


def refs(args: Any) -> Iterator[int]:
    """Node numbers that a nest of arguments refers to.

    Examples:
        >>> list(refs((Ref(3), [1, Ref(5)], {"other": Ref(3)})))
        [3, 5, 3]
    """
    if isinstance(args, Ref):
        yield args.node
    elif isinstance(args, (tuple, list)):
        for item in args:
            yield from refs(item)
    elif isinstance(args, Mapping):
        for item in args.values():
            yield from refs(item)


def redirected(args: Any, to: Callable[[int], int]) -> Any:
    """A nest of arguments whose references are to other nodes.

    Examples:
        >>> redirected((Ref(3), [1, Ref(5)], {"other": Ref(3)}), lambda number: number + 1)
        (Ref(node=4), [1, Ref(node=6)], {'other': Ref(node=4)})
    """
    if isinstance(args, Ref):
        return Ref(to(args.node))
    if isinstance(args, (tuple, list)):
        return type(args)(redirected(item, to) for item in args)
    if isinstance(args, Mapping):
        return {key: redirected(item, to) for key, item in args.items()}
    return args


def holds_rows(args: Any) -> bool:
    """Whether a nest of arguments holds a size that depends on the number of copies.

    Examples:
        >>> holds_rows((Ref(0), [Rows(1), 8])), holds_rows((Ref(0), [1, 8]))
        (True, False)
    """
    if isinstance(args, Mapping):
        return any(holds_rows(item) for item in args.values())
    return isinstance(args, Rows) or (isinstance(args, (tuple, list)) and any(holds_rows(i) for i in args))


def resolve(args: Any, values: Callable[[int], Any], copies: int) -> Any:
    """``args`` with every reference replaced by its value and every `Rows` by its number.

    Examples:
        >>> resolve((Ref(0), [Rows(1), 8]), {0: "x"}.__getitem__, 2)
        ('x', [2, 8])
    """
    if isinstance(args, Ref):
        return values(args.node)
    if isinstance(args, Rows):
        return args(copies)
    if isinstance(args, (tuple, list)):
        return type(args)(resolve(item, values, copies) for item in args)
    if isinstance(args, Mapping):
        return {key: resolve(item, values, copies) for key, item in args.items()}
    return args
