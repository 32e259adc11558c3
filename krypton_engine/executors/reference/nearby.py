"""Convolutions on the rows of tokens that lie near one another."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from krypton_engine.graph.box_operators import Convolution


def is_product(operator: object) -> bool:
    """Whether an operator on boxes is a convolution with a product of matrices for every cell.

    Examples:
        >>> is_product(graph.nodes[7].on_box), is_product(graph.nodes[8].on_box)  # a convolution, a ReLU
        (True, False)
    """
    return isinstance(operator, Convolution) and operator.groups == 1 == max(operator.dilation)


def is_by_channel(operator: object, channels: int) -> bool:
    """Whether an operator on boxes is a convolution of every channel by itself.

    Examples:
        >>> is_by_channel(graph.nodes[7].on_box, channels=3)
        False
    """
    return isinstance(operator, Convolution) and operator.groups == channels and max(operator.dilation) == 1


def convolved(operator: Convolution, near: Tensor, constant: Callable[[int, int], Tensor]) -> Tensor:
    """Cells of such a convolution, each from what it reads.

    Args:
        operator: One that `is_product`, or that `is_by_channel` with a result for every channel.
        near: The elements that cells read: ``(cells, parts, channels)``, parts of a kernel in C order.
        constant: Function that gives the value of a node that no position changes, for a number of copies.

    Returns:
        ``(cells, channels)``.

    Examples:
        >>> values = {1: torch.ones(8, 8, 3, 3), 2: torch.zeros(8)}
        >>> operator = graph.nodes[7].on_box
        >>> weight = graph.nodes[operator.weight].value
        >>> near = torch.ones(1, 9, 3)  # a cell of ones, away from the borders
        >>> found = convolved(operator, near, lambda index, copies: graph.nodes[index].value)
        >>> expected = weight.sum((1, 2, 3)) + graph.nodes[operator.bias].value
        >>> torch.allclose(found, expected, atol=1e-5)
        True
    """
    weight = constant(operator.weight, 1)
    by_part = weight.movedim(1, -1).flatten(1, -2)  # (results, parts, channels of a group)
    if operator.groups == 1:
        found = near.flatten(1) @ by_part.flatten(1).T
    else:
        found = (near * by_part[..., 0].T).sum(1)
    return found if operator.bias is None else found.add_(constant(operator.bias, 1))
