"""Volumes and signals as the model's input, and as a page draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from krypton_engine.errors import InputError
from krypton_engine.heatmap.picture import Drawing
from krypton_engine.medical import Geometry
from krypton_engine.perturbation.fillings import Blur, Mean
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.zoo.patches import COLOURS
from krypton_engine.zoo.pixels import black_and_white
from krypton_widget.coded import coarser, coded
from krypton_widget.maps import Sent, sizes_in_words
from krypton_widget.pictures import Picture
from krypton_widget.planes import planes_of

_THUMBNAIL = 96
"""Pixels of the side of a signal's small picture."""


@dataclass
class Field:
    """A volume or a signal as the model sees it.

    Args:
        x: The model's input: float ``(1, C, D, H, W)`` or ``(1, C, L)``.
        name: Name of the image in errors.
        geometry: Place of a volume's cells; None where unknown.
        levels: The numbers that are black and white at first; None for nearly the input's own extremes.
    """

    x: Tensor
    name: str = "image"
    geometry: Geometry | None = None
    levels: tuple[float, float] | None = None
    _patches: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def remedy(self) -> str:
        """Advice for a user whose model refuses the input.

        Examples:
            >>> Field(torch.zeros(1, 2, 40)).remedy
            'The image was read as a signal, 40 (length), of 2 channels; ...'
        """
        sizes, channels = self.x.shape[2:], self.x.shape[1]
        kind = "signal" if len(sizes) == 1 else "volume"
        return (
            f"The image was read as a {kind}, {sizes_in_words(sizes)}, of {channels} channels; "
            f"preprocess= makes of an image what the model takes: its size, channels and range"
        )

    def ends(self) -> tuple[float, float]:
        """The numbers that are black and white at first.

        Examples:
            >>> Field(torch.tensor([[[0.0, 0.5, 1.0]]])).ends()
            (0.0, 1.0)
        """
        if self.levels is None:
            cells = self.x[torch.isfinite(self.x)].double().numpy()
            self.levels = black_and_white(cells) if cells.size else (0.0, 1.0)
        return self.levels

    def patch(self, baseline: str) -> Tensor:
        """The covering of all windows, of the shape of ``x``.

        ``"black"`` is the smallest number, as on the command line; ``"grey"`` the middle between the numbers
        that are black and white at first; ``"mean"`` that of every channel; ``"blur"`` the input, blurred.

        Raises:
            InputError: No such colour.

        Examples:
            >>> given = Field(torch.tensor([[[0.0, 0.5, 1.0]]]))
            >>> given.patch("grey"), given.patch("black").max()
            (tensor([[[0.5000, 0.5000, 0.5000]]]), tensor(0.))
        """
        if baseline not in self._patches:
            self._patches[baseline] = self._covering(baseline)
        return self._patches[baseline]

    def _covering(self, baseline: str) -> Tensor:
        if baseline not in COLOURS:
            raise InputError("colour", repr(baseline), ", ".join(map(repr, COLOURS)))
        if baseline == "black":
            return self.x.nan_to_num(nan=math.inf).amin().expand(self.x.shape)
        if baseline == "grey":
            return torch.full_like(self.x, sum(self.ends()) / 2)
        shape, cell = tuple(self.x.shape[1:]), (self.x.shape[1], *[1] * (self.x.ndim - 2))
        somewhere = SlidingWindow(shape, cell, cell)  # any that does not slide over the channels
        return (Mean() if baseline == "mean" else Blur()).fill(self.x, somewhere, 0)

    def to_page(self) -> Sent:
        """The cells with all that a page needs to draw them.

        Examples:
            >>> sent = Field(torch.rand(1, 1, 4, 5, 6)).to_page()
            >>> sent["sizes"], sent["levels"], len(sent["cells"])
            ([4, 5, 6], [0.0, 1.0], 240)
        """
        affine = None if self.geometry is None else self.geometry.affine[:3].tolist()
        return {**self.cells(self.x), "levels": list(self.ends()), "affine": affine}

    def cells(self, x: Tensor) -> Sent:
        """Cells of a model's input for the page: numbers of 16 bits between their extremes.

        Args:
            x: ``(1, C, *sizes)``: of a volume the mean of the channels is sent, of a signal each. Of more
                than 16 MiB, means of neighbours are sent; of cells that are all alike, a single one.

        Examples:
            >>> given = Field(torch.zeros(1, 1, 2, 2, 2))
            >>> sent = given.cells(torch.full((1, 1, 4, 4, 4), 0.5))
            >>> sent["of"], sent["sizes"], sent["low"]
            ([4, 4, 4], [1, 1, 1], 0.5)
        """
        return coded(x[0].float() if x.ndim == 3 else x[0].float().mean(0, keepdim=True))

    def drawing(self) -> Drawing:
        """The arguments of `krypton_engine.Heatmap.overlay` that put a map over this input.

        Examples:
            >>> Field(torch.rand(1, 1, 4, 5, 6)).drawing()["image"].shape
            (4, 5, 6)
        """
        if self.x.ndim == 3:
            return {"image": self.x[0].float().numpy()}
        spacing = None if self.geometry is None else self.geometry.spacing
        return {"image": self._grey(self.x[0].float().mean(0)), "spacing": spacing}

    def _grey(self, cells: Tensor) -> Picture:
        low, high = self.ends()
        shares = (cells.nan_to_num(nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
        return (shares.clamp(0, 1) * 255).round().to(torch.uint8).numpy()

    @property
    def picture(self) -> Picture:
        """A picture of the input: of a volume its middle slice, of a signal its curves; uint8 RGB.

        Examples:
            >>> Field(torch.rand(1, 1, 4, 5, 6)).picture.shape, Field(torch.rand(1, 2, 40)).picture.shape
            ((5, 6, 3), (96, 96, 3))
        """
        if self.x.ndim == 3:
            return _curves(self.x[0].float())
        plane = planes_of(3, self.geometry)[0]
        volume = self.x[0].float().mean(0).permute(plane["across"], plane["down"], plane["right"])
        turned = [axis for axis, flip in enumerate(plane["flip"]) if flip]
        return np.repeat(self._grey(volume[len(volume) // 2].flip(turned))[..., None], 3, axis=-1)


def _curves(channels: Tensor) -> Picture:
    """A small picture of curves, dark on white."""
    side = _THUMBNAIL
    cells = coarser(channels, side * len(channels)).nan_to_num()
    picture = np.full((side, side, 3), 255, np.uint8)
    low, high = float(cells.min()), float(cells.max())
    rows = ((high - cells) / ((high - low) or 1.0) * (side - 13) + 6).round().long().numpy()
    columns = np.linspace(0, side - 1, rows.shape[1]).round().astype(int)
    for curve in rows:
        every = np.interp(np.arange(side), columns, curve).round().astype(int)
        for column in range(1, side):
            top, bottom = sorted((every[column - 1], every[column]))
            picture[top : bottom + 1, column] = 40
    return picture
