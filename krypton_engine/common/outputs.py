"""The kind of a model's outputs, and their activation."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from krypton_engine.common.calling import Activate


def activated(outputs: Tensor, activate: Activate) -> Tensor:
    """Outputs after an activation, which gets a copy that it may write over.

    Examples:
        >>> outputs = torch.tensor([[-1.0, 2.0]])
        >>> activated(outputs, torch.relu_), activated(outputs, None) is outputs
        (tensor([[0., 2.]]), True)
    """
    return outputs if activate is None else activate(outputs.clone())


def are_probabilities(outputs: Tensor) -> bool:
    """Whether these are probabilities of classes: rows that sum to one, none negative.

    Examples:
        >>> are_probabilities(torch.tensor([[0.25, 0.75]]))
        True
    """
    return (
        outputs.ndim == 2
        and outputs.shape[1] > 1
        and outputs.is_floating_point()
        and bool((outputs >= 0).all())
        and bool(((outputs.double().sum(1) - 1).abs() < 1e-3).all())
    )


def usual_activation(outputs: Tensor) -> Literal["softmax"] | None:
    """The activation of outputs ``(images, classes)`` where a user names none.

    Softmax, unless the rows are probabilities already or have one number.

    Examples:
        >>> usual_activation(torch.tensor([[3.0, -1.0]]))
        'softmax'
    """
    return None if outputs.shape[1] == 1 or are_probabilities(outputs) else "softmax"
