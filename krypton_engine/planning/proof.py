"""Proof of a session by the user's own forward function, and of a graph's rows by each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from krypton_engine.common.figures import mebibytes
from krypton_engine.common.precision import precisions
from krypton_engine.executors.tail import channels_last
from krypton_engine.graph.ir import Graph, Node
from krypton_engine.graph.operators.base import ROW_BY_ROW
from krypton_engine.planning.rows import InFull

ROUNDINGS_OF_SUMMATION = 2000
"""Disagreement, in units of the dtype's rounding of the largest output, that two orders of summation may
show; more than that is a stale or wrong capture, or a callable that amplifies rounding."""

MOST_NOISE_OF_OUTPUT = 1 / 32
"""Rounding, as a share of the largest output, beyond which agreement would prove nothing."""

VISIBLE_SHARE_OF_DROP = 0.01
"""Disagreement, as a share of the largest drop of a map, that would show in it."""

ROUNDINGS_LIKELY = 16
"""Roundings of the largest output by which two good results may differ."""

ROUNDINGS_SURE = 2
"""Roundings by which any two results may differ."""

MOST_NOISE_OF_DROP = 1 / 4
"""Rounding, as a share of the largest drop of a map, beyond which agreement proves little of it."""

_AMPLIFIED_ROUNDINGS = 8
"""Roundings of the input that move an output as far as all roundings inside a callable do."""

_ROWS = 3
"""Rows that are computed together to see whether they disturb each other."""

_DISTANCE_BEYOND_INPUT = 3.0
"""Factor by which the cells of a row that is to disturb another exceed those of the input."""


class Disagreement(Exception):
    """The outputs of a graph differ from those of the callable that it was captured from."""


class Unprovable(Disagreement):
    """The outputs for this input cannot show whether a graph is right."""


DISAGREES = (
    "the captured graph disagrees with the forward function, which may be random or read across the batch"
)
ACROSS = "the forward function reads across the batch: its output for one example depends on other examples"
TOO_LARGE = (
    "a check that the forward function never reads across the batch computes other images beside this one, "
    "which takes {}, and memory_budget leaves {}"
)
AMPLIFIES = (
    "the output is largely rounding (changes of the last digits of the input move the output by {:.1%} of "
    "its size), so that no graph can be proved right"
)


def precision(graph: Graph, output: Tensor) -> float:
    """Rounding of the least precise numbers between the occluded input and ``output``.

    Examples:
        >>> signal = Node(0, "x", "input", (1, 8), (-1, 0), torch.float16, depends=True)
        >>> graph = Graph([signal], (0,), occluded=0, output=0, batched=(True,))
        >>> precision(graph, torch.zeros(1)) == torch.finfo(torch.float16).eps
        True
    """
    dtypes = [output.dtype, *(node.dtype for node in graph.nodes if node.depends and node.dtype is not None)]
    eps = max((torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point), default=0.0)
    if output.is_cuda and torch.float32 in dtypes and "tf32" in precisions():
        eps = max(eps, 2**-10)
    return eps


def summation(eps: float) -> float:
    """Disagreement, as a share of the largest output, that two orders of summation may show.

    Examples:
        >>> summation(2**-23)
        0.000238...
    """
    return min(ROUNDINGS_OF_SUMMATION * eps, max(MOST_NOISE_OF_OUTPUT, 16 * eps))


def largest(output: Tensor) -> float:
    """Largest finite magnitude; 0 if none is.

    Examples:
        >>> largest(torch.tensor([1.0, -3.0, float("inf")]))
        3.0
    """
    finite = output[output.isfinite()].abs().double()
    return float(finite.max()) if finite.numel() else 0.0


def agree(mine: Tensor, theirs: Tensor, tolerance: Tensor | float) -> bool:
    """Whether two outputs are the same but for ``tolerance``, which only floating-point numbers have.

    Examples:
        >>> mine, theirs = torch.tensor([1.0, torch.nan]), torch.tensor([1.001, torch.nan])
        >>> agree(mine, theirs, tolerance=0.01), agree(mine, theirs, tolerance=0.0)
        (True, False)
    """
    if mine.shape != theirs.shape:
        return False
    if not theirs.is_floating_point():
        return torch.equal(mine, theirs)
    close = (mine.double() - theirs.double()).abs() <= tolerance
    return bool((close | (mine == theirs) | (mine.isnan() & theirs.isnan())).all())


def check_end(found: Tensor, theirs: Tensor, base: Tensor) -> None:
    """Compare the outputs at the ends of walks with the forward function's own for the input they come to.

    Args:
        found: ``(walks, *output_shape)``.
        theirs: ``(1, *output_shape)``.
        base: Outputs where the walks began, ``(1, *output_shape)``: rounding is as large as what was summed.

    Raises:
        Disagreement: They differ by more than another order of summation.

    Examples:
        >>> base, theirs = torch.zeros(1, 2), torch.tensor([[1.0, 2.0]])
        >>> check_end(torch.tensor([[1.0, 2.0], [1.0, 2.1]]), theirs, base)
        Traceback (most recent call last):
        krypton_engine.planning.proof.Disagreement: the captured graph disagrees with the forward function...
    """
    eps = torch.finfo(theirs.dtype).eps if theirs.is_floating_point() else 0.0
    scale = max(largest(theirs), largest(base))
    if not agree(found, theirs.expand(found.shape), summation(eps) * scale):
        raise Disagreement(DISAGREES)


def separable(graph: Graph, inputs: tuple[Tensor, ...], memory: int) -> bool:
    """Whether the output for a row of a batch is the same as for the row alone, whatever rows are beside it.

    Args:
        graph: The graph, computed in full as PyTorch does. Its local operators run on one row at a time
            where the memory does not hold several rows.
        inputs: Tensors of one example.
        memory: Bytes that rows computed together may take.

    Raises:
        Unprovable: The graph computes nothing of other rows, or the memory does not hold them.

    Examples:
        >>> separable(graph, (x,), memory=2**20)
        True
    """
    in_full = InFull(graph, inputs, memory)
    if in_full.needed(_ROWS) > in_full.memory:
        raise Unprovable(TOO_LARGE.format(mebibytes(in_full.needed(_ROWS)), mebibytes(max(memory, 0))))
    x = inputs[graph.occluded]
    generator = torch.Generator("cpu").manual_seed(0)
    order = torch.randperm(x.numel(), generator=generator, device="cpu").to(x.device)
    mixed = x.reshape(-1)[order].reshape(x.shape)
    low, high = x.min().double(), x.max().double()
    wild = _DISTANCE_BEYOND_INPUT * (mixed.double() + (high - low).clamp_min(1))
    turned = high + low - mixed.double()  # within the range of the input, where indices and roots are at home
    others = [turned] if not x.is_floating_point() else [wild, turned]
    thoroughly, proved = not _each_row_by_itself(in_full.nodes), False
    for i, other in enumerate(others):
        # The input itself stands in neither the first nor the last row.
        rows = [other.to(x.dtype), x, mixed]
        # Far from the images that a network is made for its rounding is of any size: what others are beside a
        # wild row tells, not what that row is beside them.
        beyond = rows[0] if other is wild else None
        try:
            alone = [in_full.alone(row) for row in rows]
            orders = [(rows, alone, in_full.together(rows))]
            if thoroughly:  # a running maximum, or a sort, may find the rows of one order in their places
                orders.append((rows[::-1], alone[::-1], in_full.together(rows[::-1])))
        except Exception as error:  # such an input is beyond the model
            if proved or i + 1 < len(others):
                continue
            raise Unprovable(f"the captured graph fails on a batch of other inputs: {error}") from error
        for rows, alone, together in orders:
            if together.shape[:1] != (len(rows),) or not all(
                _undisturbed(in_full.alone, row, beside[None], own, precision(graph, own))
                for row, beside, own in zip(rows, together, alone, strict=True)
                if row is not beyond
            ):
                return False
        if not thoroughly:
            return True
        proved = True
    return True


def _each_row_by_itself(nodes: Sequence[Node]) -> bool:
    """Whether no operator may compare the rows of a batch, by the operators' names."""
    return all(node.local or node.op in ROW_BY_ROW for node in nodes)


def _undisturbed(
    output: Callable[[Tensor], Tensor], row: Tensor, beside: Tensor, alone: Tensor, eps: float
) -> bool:
    """Whether a row's output in a batch equals its output alone, but for rounding."""
    tolerance = summation(eps) * largest(alone)
    if agree(beside, alone, tolerance):
        return True
    return agree(beside, alone, Noise(lambda moved: output(*moved), (row,), 0, eps).measured(tolerance))


@dataclass(frozen=True)
class Noise:
    """The distance by which rounding may move an answer of the user's own forward function.

    Args:
        ask: Function from the inputs of one example to its answer.
        inputs: Inputs of the answer in question.
        moved: Number of the input whose last digits are moved.
        eps: See `precision`.

    Examples:
        >>> noise = Noise(lambda inputs: inputs[0].sum() * 1000, (torch.ones(1, 4),), moved=0, eps=2**-23)
        >>> round(noise.measured(random=0.0) / (4000 * 2**-23))
        8
    """

    ask: Callable[[tuple[Tensor, ...]], Tensor]
    inputs: tuple[Tensor, ...]
    moved: int
    eps: float

    def measured(self, random: float) -> float:
        """The largest difference between two answers that rounding explains.

        The largest of three: the changes of the answer where ``_AMPLIFIED_ROUNDINGS`` move all cells of the
        input in one direction, and each in its own, since sums add up the one and average out the other; and
        as many times the change by another order of summation, as kernels have it for channels last.

        Args:
            random: Difference of two answers to the same input above which the function is random, so that
                rounding explains nothing.
        """
        x, nudge = self.inputs[self.moved], _AMPLIFIED_ROUNDINGS * self.eps
        generator = torch.Generator("cpu").manual_seed(0)
        signs = torch.randint(0, 2, x.shape, generator=generator, device="cpu").to(x) * 2 - 1

        def answer(direction: Tensor | int) -> Tensor:
            # Integers have no last digits.
            nudged = x * (1 + nudge * direction) if x.is_floating_point() else x
            return self.ask((*self.inputs[: self.moved], nudged, *self.inputs[self.moved + 1 :])).double()

        base = answer(0)
        if largest(answer(0) - base) > random:
            return 0.0
        laid_out = (*self.inputs[: self.moved], channels_last(x), *self.inputs[self.moved + 1 :])
        summed = largest(self.ask(laid_out).double() - base)
        return max(largest(answer(1) - base), largest(answer(signs) - base), _AMPLIFIED_ROUNDINGS * summed)
