"""Maps of several fillings, averaged."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from krypton_engine.heatmap.heatmap import Heatmap


def averaged(mean: Heatmap | None, following: Heatmap, count: int) -> Heatmap:
    """The mean of maps, with one more.

    Outputs are averaged, and the predicted classes are those of averaged outputs.

    Args:
        mean: Mean of the maps before; None for the first.
        following: One more, which may be known at a part of the positions only.
        count: Number of maps before.

    Returns:
        The mean, with every map's values in ``samples``. Where the last map is unknown, the mean is of those
        before.

    Examples:
        >>> from dataclasses import replace
        >>> first = averaged(None, heatmap, 0)
        >>> both = averaged(first, replace(heatmap, values=heatmap.values + 1), 1)
        >>> (both.values - heatmap.values).tolist(), both.samples.shape
        ([[0.5, 0.5], [0.5, 0.5]], torch.Size([2, 2, 2]))
    """
    if mean is None:
        return replace(following, samples=following.values[None])
    assert mean.samples is not None

    def together(before: Tensor, now: Tensor) -> Tensor:
        shape = (*following.measured.shape, *(1,) * (now.ndim - following.measured.ndim))
        # Where nothing was known, NaN, the following is all that is known.
        step = before + (now - before) / (count + 1)
        known = mean.measured.reshape(shape)
        return torch.where(following.measured.reshape(shape), torch.where(known, step, now), before)

    outputs, classes, class_values = None, None, None
    if mean.outputs is not None and following.outputs is not None:
        outputs = together(mean.outputs, following.outputs)
        best = outputs.max(dim=-1)
        measured = mean.measured | following.measured
        classes = torch.where(measured & best.values.isfinite(), best.indices, -1)
        class_values = best.values
    return replace(
        following,
        values=together(mean.values, following.values),
        measured=mean.measured | following.measured,
        outputs=outputs,
        classes=classes,
        class_values=class_values,
        samples=torch.cat([mean.samples, following.values[None]]),
    )
