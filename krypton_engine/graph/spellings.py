"""Operators that others express, such as ``addmm`` by ``linear``, rewritten before translation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any, cast
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import exported_program

from krypton_engine.graph.draft import name_of
from krypton_engine.graph.functional import is_ready, make_functional
from krypton_engine.graph.operators.base import RULES

aten = torch.ops.aten

Spelling = Callable[..., Tensor | tuple[Tensor, ...]]

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    after: Sequence[int],
    groups: int,
    *_: bool,
) -> Tensor:
    """A convolution as traced modules and core ATen have it."""
    rank = x.dim() - 2
    if transposed:
        return _TRANSPOSED[rank](x, weight, bias, stride, padding, after, groups, dilation)
    return _CONVOLUTIONS[rank](x, weight, bias, stride, padding, dilation, groups)


def _addmm(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight.t(), bias)


def _rot90(x: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    first, second = dims
    if k % 4 == 2:
        return x.flip(first, second)
    return x.flip(second if k % 4 == 1 else first).transpose(first, second) if k % 4 else x.clone()


def _select_scatter(x: Tensor, cells: Tensor, dim: int, index: int) -> Tensor:
    index %= x.shape[dim]
    return torch.slice_scatter(x, cells.unsqueeze(dim), dim, index, index + 1)


def _beside_the_diagonal(x: Tensor) -> Tensor:
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape[-2:])
    return columns - rows[:, None]


def _tril(x: Tensor, diagonal: int = 0) -> Tensor:
    return torch.where(_beside_the_diagonal(x) <= diagonal, x, False)


def _triu(x: Tensor, diagonal: int = 0) -> Tensor:
    return torch.where(_beside_the_diagonal(x) >= diagonal, x, False)


def _diff(
    x: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    x = torch.cat([part for part in (prepend, x, append) if part is not None], dim)
    for _ in range(n):
        last = x.shape[dim] - 1
        x = x.narrow(dim, 1, last) - x.narrow(dim, 0, last)
    return x


def _by_running_statistics(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    _: bool,
    momentum: float,
    eps: float,
    __: bool,
) -> Tensor:
    """An instance norm in evaluation, whose statistics are a batch norm's."""
    return F.batch_norm(x, mean, variance, weight, bias, False, momentum, eps)


def _tensordot(x: Tensor, y: Tensor, dims: Sequence[int], others: Sequence[int]) -> Tensor:
    letters = [chr(ord("a") + i) for i in range(x.dim() + y.dim())]
    mine, theirs = letters[: x.dim()], letters[x.dim() :]
    for dim, other in zip(dims, others, strict=True):
        theirs[other] = mine[dim]
    left = [letter for letter in mine if letter not in theirs]
    right = [letter for letter in theirs if letter not in mine]
    return torch.einsum(f"{''.join(mine)},{''.join(theirs)}->{''.join([*left, *right])}", x, y)


def _adaptive_max(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Maxima of windows of several sizes, each made as long as the longest: its last cell repeats."""
    kernel = []
    for dim, (n, out) in enumerate(zip(x.shape[2:], sizes, strict=True), start=2):
        kernel.append(max(-((i + 1) * n // -out) - i * n // out for i in range(out)))
        if n % out:
            outputs, taps = torch.arange(out, device=x.device), torch.arange(kernel[-1], device=x.device)
            last = -((outputs + 1) * n // -out) - 1
            x = x.index_select(
                dim, torch.minimum((outputs * n // out)[:, None] + taps, last[:, None]).flatten()
            )
    found = _MAX_POOLS[len(kernel)](x, kernel)
    return found, torch.zeros_like(found, dtype=torch.int64)


def _unfolded(
    x: Tensor, kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """The windows of an image as columns."""
    x = F.pad(x, [padding[1], padding[1], padding[0], padding[0]])
    for dim, (size, apart, step) in enumerate(zip(kernel, dilation, stride, strict=True), start=2):
        x = x.unfold(dim, apart * (size - 1) + 1, step)[..., ::apart]
    return x.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)


def _folded(x: Tensor, sizes: Sequence[int], kernel: Sequence[int], *_: Sequence[int]) -> Tensor:
    """Columns as windows side by side."""
    rows, columns = (n // size for n, size in zip(sizes, kernel, strict=True))
    x = x.unflatten(2, (rows, columns)).unflatten(1, (-1, *kernel))
    return x.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)


_ADAPTIVE = {
    aten.adaptive_max_pool1d.default: aten.max_pool1d.default,
    aten.adaptive_max_pool2d.default: aten.max_pool2d.default,
    aten.adaptive_max_pool3d.default: aten.max_pool3d.default,
}

_SPELLINGS: Mapping[Any, Spelling] = {
    aten.convolution.default: _convolution,
    aten._convolution.default: _convolution,
    aten.rot90.default: _rot90,
    aten.type_as.default: lambda x, other: x.to(other.dtype),
    aten.select_scatter.default: _select_scatter,
    aten.diff.default: _diff,
    aten.tensordot.default: _tensordot,
    aten.tril.default: _tril,
    aten.triu.default: _triu,
    aten.rrelu.default: lambda x, lower=1 / 8, upper=1 / 3: F.leaky_relu(x, (lower + upper) / 2),
    aten.instance_norm.default: _by_running_statistics,
    aten.addmm.default: _addmm,
    aten.im2col.default: _unfolded,
    aten.col2im.default: _folded,
    **dict.fromkeys(_ADAPTIVE, _adaptive_max),
}


def _overlaps(call: torch.fx.Node) -> bool:
    """Whether windows are folded otherwise than side by side."""
    sizes, kernel, dilation, padding, stride = cast(Sequence[Sequence[int]], call.args[1:])
    side_by_side = all(n % size == 0 for n, size in zip(sizes, kernel, strict=True)) and kernel == stride
    return not side_by_side or set(dilation) != {1} or set(padding) != {0}


def _sizes(call: torch.fx.Node) -> Sequence[int]:
    return cast(Sequence[int], call.args[1])


def _reads_another(call: torch.fx.Node) -> bool:
    """Whether anything but the first of several results is read."""
    return any(user.args[1] != 0 and user.users for user in call.users)


_AS_THEY_ARE: Mapping[Any, Callable[[torch.fx.Node], bool]] = {
    aten.rrelu.default: lambda call: len(call.args) > 3 and bool(call.args[3]),
    aten.instance_norm.default: lambda call: bool(call.args[5]),
    aten.addmm.default: lambda call: bool(call.kwargs),
    aten.col2im.default: _overlaps,
    **dict.fromkeys(_ADAPTIVE, lambda call: set(_sizes(call)) == {1} or _reads_another(call)),
}
"""Conditions on which calls stay as they are, since no other operator expresses them."""

_MADE_BY_FUNCTIONALISATION = {aten.select_scatter.default}
"""Operators that appear in a program only once its in-place writes have been removed."""

_ALL_COMPOSITES = "_collect_all_valid_cia_ops"
"""PyTorch's function that lists the operators which are kept."""


def _base(operator: Any) -> str:
    """The name that all overloads of an operator share, its in-place one too."""
    return name_of(operator).rstrip("_")


@contextmanager
def _composites(names: Set[str]) -> Iterator[None]:
    """Within, this thread keeps no composite operators of other names from being taken apart.

    To keep one, such as ``conv2d``, PyTorch writes to the operator's dispatch tables: for all five hundred,
    half the time of a small network's export. A PyTorch that does otherwise is left alone.
    """
    every, me = vars(exported_program).get(_ALL_COMPOSITES, set), threading.get_ident()

    def some() -> set[Any]:
        found: set[Any] = every()
        return {op for op in found if _base(op) in names} if threading.get_ident() == me else found

    with mock.patch.object(exported_program, _ALL_COMPOSITES, some, create=True):
        yield


def spelled(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """A program without in-place writes, and without operators that others express.

    Args:
        program: Exported program; where no more than in-place writes must go, changed and returned itself.

    Examples:
        >>> program = torch.export.export(torch.nn.ReLU(inplace=True), (torch.ones(1, 2),))
        >>> [str(node.target) for made in (program, spelled(program)) for node in made.graph.nodes]
        ['input', 'aten.relu_.default', 'output', 'input', 'aten.relu.default', 'output']
    """
    casts = torch._C._is_any_autocast_enabled()  # which become operators only where a program is traced again
    if not casts:
        make_functional(program)
    calls = [node for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    kept = {call.target for call in calls if call.target in _AS_THEY_ARE and _AS_THEY_ARE[call.target](call)}
    found = {call.target for call in calls} - kept
    if any(target._schema.is_mutable for target in found):
        found |= _MADE_BY_FUNCTIONALISATION
    table = {target: spelling for target, spelling in _SPELLINGS.items() if target in found}
    functions = (node for node in program.graph.nodes if node.op == "call_function")
    if not casts and not table and all(map(is_ready, functions)):
        program.graph.eliminate_dead_code()  # such as indices that nobody reads
        return program
    # What functions of the table call is no more known than that they call what has a rule.
    with _composites({_base(call.target) for call in calls} | (RULES.keys() if table else set())):
        made: torch.export.ExportedProgram = program.run_decompositions(table)
    return made


_POOLS = {
    aten.max_pool2d_with_indices.default: aten.max_pool2d.default,
    aten.max_pool3d_with_indices.default: aten.max_pool3d.default,
}


def alone(
    target: Any, args: tuple[Any, ...], sizes: Sequence[Sequence[int]]
) -> tuple[Any, tuple[Any, ...]] | None:
    """An operator that gives the first result of another, and its arguments; None if there is none.

    Args:
        target: The other operator.
        args: Its arguments.
        sizes: Cells of its first operand and of its first result, by spatial dimension.

    Examples:
        >>> target = aten.max_pool2d_with_indices.default
        >>> found, arguments = alone(target, ("x", [2, 2]), sizes=[[8, 8], [4, 4]])
        >>> found is aten.max_pool2d.default, arguments
        (True, ('x', [2, 2]))
    """
    if target in _POOLS:
        return _POOLS[target], args
    if target in _ADAPTIVE and all(n % out == 0 for n, out in zip(*sizes, strict=True)):
        kernel = [n // out for n, out in zip(*sizes, strict=True)]
        return (_ADAPTIVE[target], (args[0], kernel)) if set(sizes[1]) != {1} else None
    if target is aten.native_layer_norm.default:
        return aten.layer_norm.default, args
    if target is aten.native_group_norm.default:
        x, weight, bias, _, _, _, groups, eps = args
        return aten.group_norm.default, (x, groups, weight, bias, eps)
    return None
