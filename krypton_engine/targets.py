"""What a network with an output for every cell is asked for: heads that make one number of a segmentation.

A head follows the network, ``nn.Sequential(network, volume(1))``, and the two are explained like a classifier.
A covered region changes the segmentation around it; the head's sums over all cells are updated by that.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from krypton_engine.common.arguments import whole
from krypton_engine.errors import InputError

__all__ = ["Dice", "MeanIn", "Volume", "dice", "mean_in", "volume"]


class _OfClass(nn.Module):
    """A number made of the probabilities of one class, cell by cell."""

    def __init__(self, index: int, activate: bool) -> None:
        super().__init__()
        number = whole(index)
        if number is None or number < 0:
            raise InputError("index", repr(index), "the number of a channel, from 0 on")
        self.index, self.activate = number, activate

    def probabilities(self, output: Tensor | Mapping[str, Tensor]) -> Tensor:
        """The class's probability in every cell: ``(n, *cells)``."""
        y = output["out"] if isinstance(output, Mapping) else output
        if not isinstance(y, Tensor) or y.dim() < 3:
            given = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise InputError("the network's output", given, "(n, channels, *cells)", verb="has")
        if self.index >= y.shape[1] > 1:
            raise InputError("index", f"{self.index}", f"below {y.shape[1]}, the channels of the output")
        if self.activate:
            y = y.softmax(1) if y.shape[1] > 1 else y.sigmoid()
        return y[:, self.index if y.shape[1] > 1 else 0]

    def masked(self, mask: Tensor, probabilities: Tensor) -> Tensor:
        """A mask as numbers, of the probabilities' cells."""
        if mask.shape != probabilities.shape[1:]:
            cells = tuple(probabilities.shape[1:])
            raise InputError("mask", f"shape {tuple(mask.shape)}", f"the output's cells, {cells}", verb="has")
        return mask.to(probabilities)


def _as_mask(mask: Tensor, name: str) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or not bool(mask.any()):
        given = f"{mask.dtype}" if isinstance(mask, Tensor) and mask.dtype != torch.bool else "no cell"
        raise InputError(name, given, "a boolean tensor of the output's cells, true somewhere", verb="holds")
    return mask


class Volume(_OfClass):
    """The head that `volume` makes."""

    def __init__(self, index: int, activate: bool, cell: float) -> None:
        super().__init__(index, activate)
        self.cell = cell

    def forward(self, output: Tensor | Mapping[str, Tensor]) -> Tensor:
        """``(n, 1)``."""
        p = self.probabilities(output)
        return p.sum(tuple(range(1, p.dim())))[:, None] * self.cell


class MeanIn(_OfClass):
    """The head that `mean_in` makes."""

    mask: Tensor

    def __init__(self, mask: Tensor, index: int, activate: bool) -> None:
        super().__init__(index, activate)
        self.register_buffer("mask", mask)

    def forward(self, output: Tensor | Mapping[str, Tensor]) -> Tensor:
        """``(n, 1)``."""
        p = self.probabilities(output)
        mask = self.masked(self.mask, p)
        return (p * mask).sum(tuple(range(1, p.dim())))[:, None] / mask.sum()


class Dice(MeanIn):
    """The head that `dice` makes."""

    def forward(self, output: Tensor | Mapping[str, Tensor]) -> Tensor:
        """``(n, 1)``."""
        p = self.probabilities(output)
        mask, cells = self.masked(self.mask, p), tuple(range(1, p.dim()))
        return 2 * (p * mask).sum(cells)[:, None] / (p.sum(cells)[:, None] + mask.sum())


def volume(index: int = 1, *, activate: bool = True, cell: float = 1.0) -> Volume:
    """A head for the expected volume of a structure: its probability, summed over all cells.

    Args:
        index: The structure's channel; of an output of one channel, that.
        activate: Whether the output is logits: probabilities are their softmax over the channels, or their
            sigmoid where there is one channel. False where the output is probabilities already.
        cell: Size of a cell, in mm^3 say; the volume is in units of that.

    Returns:
        A module from ``(n, channels, *cells)``, or a mapping that has that as ``"out"``, to ``(n, 1)``.

    Raises:
        InputError: ``index`` is no channel of the output.

    Examples:
        >>> from krypton_engine import KryptonOcclusion
        >>> network = torch.nn.Conv2d(3, 2, 3, padding=1)
        >>> lesion = torch.nn.Sequential(network, volume(1, cell=0.5))
        >>> lesion(x).shape, bool(lesion(x) <= 0.5 * 24 * 20)
        (torch.Size([1, 1]), True)
        >>> KryptonOcclusion(lesion).heatmap(x, (3, 8, 8), (3, 4, 4)).values.shape
        torch.Size([5, 4])
    """
    return Volume(index, activate, cell)


def mean_in(region: Tensor, index: int = 1, *, activate: bool = True) -> MeanIn:
    """A head for the mean probability of a structure in a region.

    Args:
        region: Boolean mask of the output's cells: ``cells``.
        index, activate: As in `volume`.

    Returns:
        A module like `volume`'s.

    Raises:
        InputError: The mask is empty, no mask, or of other cells than the output.

    Examples:
        >>> region = torch.zeros(24, 20, dtype=torch.bool)
        >>> region[:4] = True
        >>> logits = torch.zeros(1, 1, 24, 20)
        >>> mean_in(region)(logits)
        tensor([[0.5000]])
    """
    return MeanIn(_as_mask(region, "region"), index, activate)


def dice(mask: Tensor, index: int = 1, *, activate: bool = True) -> Dice:
    """A head for the soft Dice coefficient of a structure and a mask of it.

    Args:
        mask: Boolean mask of the output's cells: ``cells``.
        index, activate: As in `volume`.

    Returns:
        A module like `volume`'s: twice the sum of probabilities within the mask, by the sum of all and of the
        mask's cells.

    Raises:
        InputError: As of `mean_in`.

    Source:
        Milletari, Navab and Ahmadi, "V-Net", 2016, without squares.

    Examples:
        >>> mask = torch.eye(4, dtype=torch.bool)
        >>> dice(mask, activate=False)(mask[None, None].float())
        tensor([[1.]])
    """
    return Dice(_as_mask(mask, "mask"), index, activate)
