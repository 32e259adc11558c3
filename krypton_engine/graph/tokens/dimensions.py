"""Dimensions that several roles share, such as the copies and heads of an attention, through reshapes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from krypton_engine.graph.ir import BATCH, Roles, Rows

Factor = tuple[int | None, int]
"""A role and a size; the copies count as 1."""

_FIRST_SHARED = 100
"""Role of the first dimension that several roles share; roles of their own come below."""


class Regrouped(Exception):
    """A reshape that splits dimensions which have to stay whole."""


class Dimensions:
    """The factors that the dimensions of values consist of, outermost first.

    Args:
        cells: Roles and sizes of the dimensions which, merged in this order, have a new role.
        merged: Role of the merged dimension.

    Examples:
        >>> dimensions = Dimensions([(10, 4), (11, 4)], merged=0)
        >>> dimensions.reshaped((BATCH, None, 10, 11), (1, 24, 4, 4), [Rows(1), 24, 16])
        ((-1, None, 0), True)
        >>> roles, _ = dimensions.reshaped((0, BATCH, None), (16, 1, 24), [16, Rows(3), 8])
        >>> dimensions.factors(roles[1], 3)
        ((-1, 1), (None, 3))
    """

    def __init__(self, cells: Sequence[Factor], merged: int) -> None:
        self._cells = tuple(cells)
        self._merged = merged
        self._shared: list[tuple[Factor, ...]] = []

    def factors(self, role: int | None, size: int) -> tuple[Factor, ...]:
        """The factors of a dimension.

        Examples:
            >>> Dimensions([(10, 4), (11, 4)], merged=0).factors(None, 24)
            ((None, 24),)
        """
        if role is not None and role >= _FIRST_SHARED:
            return self._shared[role - _FIRST_SHARED]
        return ((role, 1 if role == BATCH else size),)

    def is_several(self, role: int | None) -> bool:
        """Whether several roles share a dimension."""
        return role is not None and role >= _FIRST_SHARED

    def heads_follow_copies(self, roles: Roles) -> bool:
        """Whether dimensions hold the copies, and then nothing but opaque factors."""
        first, *others = [role for each in roles for role, _ in self.factors(each, 1)] or [None]
        return first == BATCH and all(role is None for role in others)

    def reshaped(self, roles: Roles, shape: Sequence[int], sizes: Sequence[Any]) -> tuple[Roles, bool]:
        """Roles after a reshape, and whether ``cells`` were merged in it.

        Args:
            roles: Roles before the reshape.
            shape: Shape before the reshape.
            sizes: Arguments of the reshape: numbers, `Rows`, one of them perhaps -1.

        Raises:
            Regrouped: A dimension is neither kept whole nor merged with its neighbours.
        """
        before = [
            factor for each in zip(roles, shape, strict=True) for factor in self.factors(*each)
            if factor != (None, 1)
        ]  # fmt: skip
        groups = _grouped(before, _wanted(math.prod(shape), sizes))
        begins = self._cells in groups
        groups = [((self._merged, math.prod(n for _, n in g)),) if g == self._cells else g for g in groups]
        return tuple(self._role(group) for group in groups), begins

    def _role(self, group: tuple[Factor, ...]) -> int | None:
        if all(role is None for role, _ in group):
            return None
        if len(group) == 1:
            return group[0][0]
        if group not in self._shared:
            self._shared.append(group)
        return _FIRST_SHARED + self._shared.index(group)


def _wanted(elements: int, sizes: Sequence[Any]) -> list[tuple[bool, int]]:
    """For every dimension of the result, whether it holds the copies, and its size for one copy."""
    found = [(True, n.per_copy) if isinstance(n, Rows) and not n.extra else (False, n) for n in sizes]
    if not all(isinstance(n, int) for _, n in found):
        raise Regrouped
    rest = elements // max(1, math.prod(n for _, n in found if n != -1))
    copies = any(holds for holds, _ in found)
    return [(not copies, rest) if n == -1 else (holds, n) for holds, n in found]


def _grouped(factors: Sequence[Factor], wanted: Sequence[tuple[bool, int]]) -> list[tuple[Factor, ...]]:
    """Factors in the dimensions of a result; opaque ones may be split."""
    waiting = deque(factors)
    groups = []
    for holds, size in wanted:
        group: list[Factor] = []
        while holds or size > 1:
            if not waiting:
                raise Regrouped
            role, n = waiting.popleft()
            if role == BATCH and holds:
                holds = False
            elif role != BATCH and n > 1 and size % n == 0:
                size //= n
            elif role is None and size > 1 and n % size == 0:
                waiting.appendleft((None, n // size))
                n, size = size, 1
            else:
                raise Regrouped
            group.append((role, n))
        groups.append(tuple(group))
    if waiting:
        raise Regrouped
    return groups
