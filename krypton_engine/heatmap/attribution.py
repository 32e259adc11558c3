"""Captum's attribution out of the drops of a map."""

from __future__ import annotations

from torch import Tensor, where

from krypton_engine.perturbation.positions import Positions


def mean_drop(positions: Positions, drop: Tensor, known: Tensor) -> Tensor:
    """For every input cell the mean drop over the known positions that cover it.

    Args:
        positions: The positions.
        drop: Drops by position, ``(*grid, ...)``; ignored where not known.
        known: Truth values on the grid.

    Returns:
        ``(..., *input_shape)``, float32 (of regions, of the drops' dtype); NaN where no known position covers
        a cell.

    Examples:
        >>> mean_drop(heatmap.window, heatmap.drop, torch.tensor([[True, False], [False, False]])).nanmean()
        tensor(0.5000)
    """
    axes = len(positions.grid_shape)
    drops = (drop.flatten(0, axes - 1) if axes else drop[None]).movedim(0, -1)
    cells = known.reshape(-1)
    if bool(cells.all()):
        return positions.average(drops)
    return positions.average(where(cells, drops, 0.0)) / positions.average(cells.double())
