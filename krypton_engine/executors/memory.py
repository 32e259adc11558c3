"""The number of positions that run together within a budget of memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from krypton_engine.common.figures import mebibytes
from krypton_engine.errors import InputError
from krypton_engine.plan.plan import Plan

LARGEST_TAIL = 256
"""Positions that the full computation after the frontier runs on together."""

_SCRATCH_BYTES = 128 * 2**20
"""Memory that PyTorch itself takes for a pass (workspaces, reordered weights), measured on ResNet18."""


def held_throughout(plan: Plan) -> int:
    """Bytes of views, weights and workspaces, however few positions run together.

    Examples:
        >>> held_throughout(plan) - plan.bytes_views - plan.bytes_weights == 128 * 2**20  # PyTorch's own
        True
    """
    return plan.bytes_views + plan.bytes_weights + _SCRATCH_BYTES


def for_one_position(plan: Plan) -> int:
    """Bytes that a session needs beside `held_throughout`.

    Examples:
        >>> for_one_position(plan) > plan.frontier_bytes == 8 * 12 * 10 * 4
        True
    """
    return plan.bytes_per_position + plan.frontier_bytes + plan.tail_bytes_per_position


def beside(plan: Plan, memory_budget: int) -> int:
    """Bytes of a budget that a session leaves: at least `for_one_position`, without which none is open.

    Examples:
        >>> beside(plan, 2**30) == 2**30 - held_throughout(plan), beside(plan, 0) == for_one_position(plan)
        (True, True)
    """
    return max(for_one_position(plan), memory_budget - held_throughout(plan))


@dataclass(frozen=True)
class Batches:
    """The division of a session's memory.

    Attributes:
        free: Bytes beside views, weights and workspaces.
        boxes: Positions whose boxes are computed together.
        tail: Positions that the full computation after the frontier runs on together.
    """

    free: int
    boxes: int
    tail: int

    @classmethod
    def of(
        cls,
        plan: Plan,
        memory_budget: int,
        held: Iterable[Tensor],
        largest_batch: int,
        largest_tensor: int,
        largest_tail: int,
    ) -> Batches:
        """The division of a budget: half for the boxes, half for the frontier and the layers after it.

        Args:
            plan: Plan of the window: memory of views, weights and a position.
            memory_budget: Bytes that the session may add to the process.
            held: Tensors of the session that the plan does not count.
            largest_batch: Positions of a batch of boxes, at most.
            largest_tensor: Bytes of the largest tensor of boxes that a batch should make.
            largest_tail: Positions of a batch after the frontier, at most.

        Raises:
            InputError: The budget does not hold these and one position.

        Examples:
            >>> batches = Batches.of(plan, 2**28, [], 64, largest_tensor=2**20, largest_tail=128)
            >>> batches.boxes, batches.tail
            (64, 128)
            >>> Batches.of(plan, 2**20, [], 64, largest_tensor=2**20, largest_tail=128)
            Traceback (most recent call last):
            krypton_engine.errors.InputError: memory_budget is 1 MiB, this model and window take 128 MiB...
        """
        fixed = held_throughout(plan) + sum(tensor.numel() * tensor.element_size() for tensor in held)
        free, needed = memory_budget - fixed, for_one_position(plan)
        if free < needed:
            raise InputError(
                "memory_budget",
                mebibytes(memory_budget),
                problem=(
                    f"this model and window take {mebibytes(fixed)} for views, weights and workspaces "
                    f"and {mebibytes(needed)} for one position"
                ),
            )
        boxes = min(
            largest_batch,
            largest_tensor // max(plan.largest_box_tensor, 1),
            free // 2 // max(plan.bytes_per_position, 1),
        )
        after = plan.frontier_bytes + plan.tail_bytes_per_position
        tail = min(LARGEST_TAIL, largest_tail, free // 2 // max(after, 1))
        return cls(free, max(1, boxes), max(1, tail))
