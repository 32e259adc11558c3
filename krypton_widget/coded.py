"""Numbers of an image for the page, in 16 bits."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn import functional

from krypton_widget.maps import Sent

_LARGEST_SENT = 2**24
"""Bytes of cells that a page is sent of one image at most, two for each; beyond, they are made coarser."""

_POOLS: dict[int, Any] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}
"""Means of neighbours, by the number of axes."""


def coded(cells: Tensor) -> Sent:
    """Numbers as codes of 16 bits between their extremes; of very many, means of neighbours.

    Args:
        cells: ``(channels, *sizes)``.

    Examples:
        >>> sent = coded(torch.tensor([[0.0, 0.5, 1.0]]))
        >>> sent["of"], sent["channels"], np.frombuffer(sent["cells"], "<u2").tolist()
        ([3], 1, [0, 32768, 65535])
    """
    of = list(cells.shape[1:])
    finite = cells[cells.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
    cells = cells.nan_to_num(nan=low, posinf=high, neginf=low)
    alike = (slice(None), *[slice(0, 1)] * len(of))
    cells = cells[alike] if low == high else coarser(cells, _LARGEST_SENT // 2)
    codes = ((cells.double() - low) * (65535 / ((high - low) or 1.0))).round()
    return {
        "of": of,
        "sizes": list(cells.shape[1:]),
        "channels": len(cells),
        "low": low,
        "high": high,
        "cells": codes.numpy().astype("<u2").tobytes(),
    }


def coarser(cells: Tensor, largest: int) -> Tensor:
    """Cells ``(C, *sizes)``, or means of neighbours where there are more than ``largest``.

    Examples:
        >>> coarser(torch.arange(4.0)[None], 2), coarser(torch.arange(4.0)[None], 4)
        (tensor([[0.5000, 2.5000]]), tensor([[0., 1., 2., 3.]]))
    """
    sizes = cells.shape[1:]
    if cells.numel() <= largest:
        return cells
    share = (largest / cells.numel()) ** (1 / len(sizes))
    fewer = [max(1, math.floor(size * share)) for size in sizes]
    found: Tensor = _POOLS[len(sizes)](cells, fewer)
    return found
