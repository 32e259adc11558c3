"""Deletion and insertion: which of two explanations is right.

The regions of an image are covered (or uncovered) one after another, those of the largest attribution first.
The sooner the answer falls (or rises), the better the explanation knew what counts: the measures of RISE
(Petsiuk et al., 2018). Every step starts from the one before, so that it costs what its region changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from krypton_engine.attr.checks import Activation
from krypton_engine.attr.curves import Attribution, Curve, Kind, curves
from krypton_engine.common.calling import Baselines, Forward
from krypton_engine.perturbation.regions import Regions

__all__ = ["Curve", "deletion", "insertion"]

_ONE = ""
"""Name of an attribution that stands alone."""


def deletion(
    forward_func: Forward,
    x: Tensor,
    attribution: Attribution | Mapping[str, Attribution],
    regions: Tensor | Regions | int = 16,
    baselines: Baselines = None,
    target: int | tuple[int, ...] | None = None,
    additional_forward_args: object = None,
    *,
    activation: Activation = "softmax",
    executor: str = "auto",
    memory_budget: int | None = None,
    show_progress: bool = False,
) -> Curve | dict[str, Curve]:
    """The target's value as the most important regions are covered first.

    Args:
        forward_func: The forward function that is explained.
        x: One example: ``(1, *input_shape)``.
        attribution: Attributions that broadcast to ``x``, or a `krypton_engine.Heatmap`; or several, by name.
            A region's importance is their mean over its cells.
        regions: The side of square patches in cells, or a mask of whole numbers that broadcasts to ``x``, or
            the regions of a heatmap, ``heatmap.window``.
        baselines: Scalar or tensor that replaces the covered cells. Default 0.
        target: Output index; None for the predicted class.
        additional_forward_args: Further arguments of the forward function.
        activation: As of `krypton_engine.KryptonOcclusion.heatmap`; None for logits.
        executor: As of `krypton_engine.KryptonOcclusion`.
        memory_budget: As there.
        show_progress: Whether to draw a progress bar with the time left.

    Returns:
        The curve, or one for every name.

    Raises:
        InputError: An argument that cannot be used; nothing has been computed then.

    Examples:
        >>> left = torch.zeros_like(x)
        >>> left[..., :10] = 1.0  # an explanation that holds the left half to be important
        >>> found = deletion(model, x, {"left first": left, "right first": -left}, regions=4)
        >>> curve = found["left first"]
        >>> len(curve.values), float(curve.shares[-1])  # both end where everything is covered
        (31, 1.0)
        >>> abs(float(found["right first"].values[-1] - curve.values[-1])) < 1e-6
        True
    """
    options = activation, executor, memory_budget, show_progress
    further = baselines, target, additional_forward_args
    return _by("deletion", forward_func, x, attribution, regions, *further, options)


def insertion(
    forward_func: Forward,
    x: Tensor,
    attribution: Attribution | Mapping[str, Attribution],
    regions: Tensor | Regions | int = 16,
    baselines: Baselines = None,
    target: int | tuple[int, ...] | None = None,
    additional_forward_args: object = None,
    *,
    activation: Activation = "softmax",
    executor: str = "auto",
    memory_budget: int | None = None,
    show_progress: bool = False,
) -> Curve | dict[str, Curve]:
    """The target's value as the most important regions are uncovered first, on a covered image.

    Arguments, results and errors are those of `deletion`.

    Examples:
        >>> curve = insertion(model, x, torch.rand_like(x), regions=8)
        >>> curve.kind, len(curve.values)
        ('insertion', 10)
    """
    options = activation, executor, memory_budget, show_progress
    return _by(
        "insertion",
        forward_func,
        x,
        attribution,
        regions,
        baselines,
        target,
        additional_forward_args,
        options,
    )


def _by(
    kind: Kind,
    forward_func: Forward,
    x: Tensor,
    attribution: Attribution | Mapping[str, Attribution],
    regions: Tensor | Regions | int,
    baselines: Baselines,
    target: int | tuple[int, ...] | None,
    additional: object,
    options: tuple[Activation, str, int | None, bool],
) -> Curve | dict[str, Curve]:
    """The curve of one attribution, or one for every name."""
    several = isinstance(attribution, Mapping)
    named = dict(attribution) if isinstance(attribution, Mapping) else {_ONE: attribution}
    found = curves(kind, forward_func, x, named, regions, baselines, target, additional, *options)
    return found if several else found[_ONE]
