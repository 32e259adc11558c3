"""What occlusion is, by a loop that uses nothing of ours: the right value of most tests."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from krypton_engine import Heatmap

Cells = tuple[slice, ...]


def windows(
    shape: Sequence[int], window: Sequence[int], strides: Sequence[int]
) -> dict[tuple[int, ...], Cells]:
    """Cells of every window by its place in the grid, in C order; the last along an axis may be cut."""
    axes = [
        [slice(i * s, i * s + k) for i in range(math.ceil((n - k) / s) + 1)]
        for n, k, s in zip(shape, window, strides, strict=True)
    ]
    places = itertools.product(*(range(len(axis)) for axis in axes))
    return {place: tuple(axis[i] for axis, i in zip(axes, place, strict=True)) for place in places}


def geometry(heatmap: Heatmap) -> tuple[Sequence[int], Sequence[int]]:
    """Window and strides of a heatmap, as `brute_force` takes them."""
    return heatmap.window.shape, heatmap.window.strides


def occlude(x: Tensor, cells: Cells, baseline: Any = 0.0) -> Tensor:
    """A copy of ``x`` ``(n, *shape)`` whose ``cells`` are the baseline's."""
    copied = x.detach().clone()
    everywhere = (slice(None), *cells)
    copied[everywhere] = torch.as_tensor(baseline, dtype=x.dtype, device=x.device).expand(x.shape)[everywhere]
    return copied


def brute_force(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    window: Sequence[int],
    strides: Sequence[int],
    baseline: Any = 0.0,
) -> Tensor:
    """Outputs with one window after the other occluded, a forward pass each: ``(positions, ...)``."""
    places = list(windows(x.shape[1:], window, strides).values())
    with torch.no_grad():
        first = forward(occlude(x, places[0], baseline))
        # In one block: the allocator puts small tensors that stay into the gaps of large ones that went.
        outputs = first.new_empty((len(places), *first.shape))
        outputs[0] = first
        for output, cells in zip(outputs[1:], places[1:], strict=True):
            output.copy_(forward(occlude(x, cells, baseline)))
        return outputs.flatten(0, 1)
