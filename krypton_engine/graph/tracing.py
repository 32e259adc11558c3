"""Callables that torch.export cannot take as they stand, as graphs of operators for any number of rows.

`recorded` runs a callable twice, on two rows and on three, and writes down its operators. Where both records
differ in numbers alone, such as a size that was taken for an ``int``, those numbers follow from the number of
rows. `one_by_one` does so with the callable on each row by itself, so that the record holds its answer to an
only row, whatever rows do to each other: of loops over rows, say, two records have different lengths.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from krypton_engine.graph.ir import Rows
from krypton_engine.graph.state import version_of

aten = torch.ops.aten

Forward = Callable[..., Any]

_LARGEST_KNOWN = 64
"""Numbers of the largest constant whose values are known while a callable is exported, in place of one."""

_FEW, _MORE = 2, 3
"""Rows of the two records."""


class _Told(TorchFunctionMode):
    """Operators in place of ``.data``, and of random numbers between equal limits, which are none."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()
        if func == torch.Tensor.uniform_ and len(args) == 3 and args[1] == args[2]:
            number = torch.tensor(float(args[1]), dtype=args[0].dtype).expand(args[0].shape).clone()
            args[0].copy_(number)
            return number  # known to the exporter, which what was written to is not
        return func(*args, **(kwargs or {}))


@contextmanager
def readable() -> Iterator[None]:
    """Within, an exporter sees the numbers of small constants, and changes made past the operators.

    Examples:
        >>> def doubled(x):
        ...     return 2 * x if torch.tensor([1.0, 3.0])[1] > 2 else x
        >>> with readable():  # elsewhere no number of a constant may decide, and the trace fails
        ...     traced = make_fx(doubled, tracing_mode="fake")(torch.ones(2))
        >>> traced(torch.ones(2))
        tensor([2., 2.])
    """
    with ExitStack() as stack:
        for module in ("torch._subclasses.fake_tensor", "torch.fx.experimental.proxy_tensor"):
            stack.enter_context(mock.patch(f"{module}.CONSTANT_NUMEL_LIMIT", _LARGEST_KNOWN, create=True))
        stack.enter_context(_Told())
        yield


def recorded(function: Forward, tensors: tuple[Tensor, ...], batched: tuple[bool, ...]) -> fx.GraphModule:
    """The operators of ``function(*tensors)``, for any number of rows.

    Args:
        function: Function of tensors alone.
        tensors: Its arguments; of those that are ``batched``, one row is enough.
        batched: For each argument, whether its first dimension is the rows.

    Raises:
        ValueError: The function does something else for more rows.

    Examples:
        >>> made = recorded(lambda x: x.reshape(int(x.shape[0]), -1), (x,), (True,))
        >>> made(torch.ones(5, 3, 24, 20)).shape
        torch.Size([5, 1440])
    """
    few, more = (_record(function, _rows(tensors, batched, n), True) for n in (_FEW, _MORE))
    return _merged(few, more, batched)


def one_by_one(function: Forward, tensors: tuple[Tensor, ...], batched: tuple[bool, ...]) -> fx.GraphModule:
    """The operators of ``function`` on every row by itself, for any number of rows; see `recorded`.

    Examples:
        >>> made = one_by_one(lambda rows: rows - rows.mean(0), (torch.ones(1, 2),), (True,))
        >>> made(torch.rand(3, 2)).tolist()  # each row is its own mean
        [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """

    def one(*rows: Tensor) -> Tensor:
        given = (row[None] if each else row for row, each in zip(rows, batched, strict=True))
        output = function(*given)
        if not isinstance(output, Tensor):
            raise ValueError("the forward function does not return a single tensor")
        if output.ndim and output.shape[0] != 1:
            raise ValueError("the output for one example is not one row")
        return output if output.ndim == 0 else output[0]

    all_of_them = torch.vmap(one, in_dims=tuple(0 if each else None for each in batched))
    few, more = (_record(all_of_them, _rows(tensors, batched, n), False) for n in (_FEW, _MORE))
    return _merged(few, more, batched)


def _rows(tensors: tuple[Tensor, ...], batched: tuple[bool, ...], count: int) -> tuple[Tensor, ...]:
    return tuple(
        torch.cat([t[:1]] * count) if each else t.clone() for t, each in zip(tensors, batched, strict=True)
    )


def _record(function: Forward, tensors: tuple[Tensor, ...], as_written: bool) -> fx.GraphModule:
    """The operators of one run: those that the callable names, or those that PyTorch makes of them."""
    # A named function: a module of TorchScript has no signature to read. Inputs are fake, since what is
    # decided by their values (`tolist`, NumPy) would be recorded as decided for good; weights are real.
    return make_fx(
        lambda *given: function(*given),
        tracing_mode="fake",
        pre_dispatch=as_written,
        _allow_non_fake_inputs=True,
    )(*tensors)


@contextmanager
def restored(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within, modules may write or replace their buffers; afterwards all buffers are as before.

    Examples:
        >>> norm = nn.BatchNorm1d(2)
        >>> with restored([norm]):
        ...     _ = norm(torch.rand(4, 2))
        >>> norm.running_mean
        tensor([0., 0.])
    """
    held = [
        (module, name, buffer, version_of(buffer), buffer.clone())
        for root in modules
        for module in root.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, buffer, version, content in held:
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
            if version_of(buffer) != version:
                buffer.copy_(content)


def _merged(few: fx.GraphModule, more: fx.GraphModule, batched: tuple[bool, ...]) -> fx.GraphModule:
    """One graph of two records, which differ in numbers that follow from the number of rows."""
    graph = few.graph
    pairs = list(zip(graph.nodes, more.graph.nodes, strict=False))
    if len(graph.nodes) != len(more.graph.nodes):
        raise ValueError("the forward function calls more operators for more rows")
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_after(inputs[-1]):
        size = graph.call_function(aten.sym_size.int, (inputs[batched.index(True)], 0))
    known: dict[Rows, fx.Node] = {}

    def number(rows: Rows) -> fx.Node:
        if rows not in known:
            with graph.inserting_after(size):
                times = graph.call_function(operator.mul, (size, rows.per_copy))
            with graph.inserting_after(times):
                known[rows] = graph.call_function(operator.add, (times, rows.extra))
        return known[rows]

    def merged(mine: Any, other: Any) -> Any:
        if isinstance(mine, fx.Node):
            return mine
        if isinstance(mine, (tuple, list)) and isinstance(other, (tuple, list)) and len(mine) == len(other):
            return type(mine)(merged(a, b) for a, b in zip(mine, other, strict=True))
        if isinstance(mine, dict) and isinstance(other, dict) and mine.keys() == other.keys():
            return {key: merged(item, other[key]) for key, item in mine.items()}
        if type(mine) is type(other) is int and mine != other:
            per_row, rest = divmod(other - mine, _MORE - _FEW)
            if not rest:
                return number(Rows(per_row, mine - _FEW * per_row))
        if mine != other:
            raise ValueError(f"a number is not linear in the rows of the batch: {mine} becomes {other}")
        return mine

    for mine, other in pairs:
        if (mine.op, mine.target) != (other.op, other.target):
            raise ValueError("the forward function calls other operators for more rows")
        if mine.op == "get_attr" and not torch.equal(getattr(few, mine.target), getattr(more, other.target)):
            raise ValueError("a constant depends on the number of rows")
        mine.args, mine.kwargs = merged(mine.args, other.args), merged(mine.kwargs, other.kwargs)
    few.recompile()
    return few
