"""A brain scan with a lesion, and a network that finds lesions: a volume for demos.

The brain is the MNI152 template, the lesion is drawn; ``benchmarks/lesions.py`` trained the network on such.
The command line takes it as ``--model krypton_engine.zoo.lesions:build``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from krypton_engine.medical import Geometry, Scan, read_scan
from krypton_engine.targets import volume
from krypton_engine.zoo.images import TEMPLATE
from krypton_engine.zoo.packages import packaged
from krypton_engine.zoo.weights import load_state_dict, read_state_dict

LESION_FINDER = "krypton_engine.zoo.lesions:build"
"""The lesion finder, by the name under which commands load it."""

WEIGHTS = Path(__file__).with_name("lesions.pt")
"""Trained weights, in float16."""

_SPACING = 2
"""Millimetres between the cells of a scan; the template's are 1 mm apart."""

MILLILITRES = _SPACING**3 / 1000
"""Volume of a cell."""

_MULTIPLE = 8
"""Cells along each axis are a multiple of what the network's three halvings divide by."""


def brain_scan(lesion: int | None = 12) -> tuple[Scan, Tensor]:
    """The brain of the MNI152 template with a lesion that nobody has: a bright ball with soft edges.

    Args:
        lesion: Seed of the lesion's place and size; None for no lesion.

    Returns:
        The scan, ``(1, 96, 120, 104)`` of 2 mm from 0 to 1, and the lesion's share of every cell, alike.

    Raises:
        InputError: nilearn or nibabel is missing.

    Examples:
        >>> scan, share = brain_scan()
        >>> scan, float(share.max()) > 0.9
        (Scan(1 x 96 x 120 x 104, 2 x 2 x 2 mm), True)
    """
    fine = read_scan(packaged("nilearn", TEMPLATE, "nilearn"))
    halved = nn.functional.avg_pool3d(fine.tensor, _SPACING) / 255
    padding = [n for size in halved.shape[:0:-1] for n in (0, -size % _MULTIPLE)]
    cells = nn.functional.pad(halved, padding)
    # A cell of 2 mm lies in the middle of eight of 1 mm.
    wider = np.diag([_SPACING, _SPACING, _SPACING, 1.0])
    wider[:3, 3] = (_SPACING - 1) / 2
    share = torch.zeros_like(cells)
    if lesion is not None:
        cells, share = with_lesion(cells, np.random.default_rng(lesion))
    _, depth, height, width = cells.shape
    return Scan(cells, Geometry(fine.geometry.affine @ wider, (depth, height, width)), (0.0, 1.0)), share


def with_lesion(brain: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A brain with a lesion somewhere in its bright matter.

    Args:
        brain: Cells of 2 mm from 0 to 1, ``(1, depth, height, width)``, some of them above 0.5.
        generator: Source of the lesion's place, size and brightness.

    Returns:
        The brain with the lesion, and the lesion's share of every cell, alike.

    Examples:
        >>> brain, share = with_lesion(torch.full((1, 32, 32, 32), 0.75), np.random.default_rng(0))
        >>> float(brain.min()), bool((brain[share > 0.9] > 0.83).all())
        (0.75, True)
    """
    centre = generator.choice(np.argwhere(brain[0].numpy() > 0.5))
    radius, brightness = generator.uniform(4, 7), generator.uniform(0.85, 1.0)
    axes = [torch.arange(n) - float(at) for n, at in zip(brain.shape[1:], centre, strict=True)]
    distance = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    share = torch.sigmoid(3 * (radius - distance))[None] * (brain > 0.2)
    return brain + (brightness - brain) * share, share


class LesionFinder(nn.Module):
    """A U-Net of three levels for brains of 2 mm: logits of a lesion, ``(n, 1, d, h, w)`` as the input.

    Examples:
        >>> LesionFinder()(torch.zeros(1, 1, 16, 8, 24)).shape
        torch.Size([1, 1, 16, 8, 24])
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle, self.deep = _twice(1, 8, stride=2), _twice(8, 16), _twice(16, 32)
        self.up_middle, self.up_stem = nn.ConvTranspose3d(32, 16, 2, 2), nn.ConvTranspose3d(16, 8, 2, 2)
        self.mix_middle, self.mix_stem = _twice(32, 16), _twice(16, 8)
        self.head = nn.ConvTranspose3d(8, 1, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a lesion in every cell.

        Examples:
            >>> LesionFinder().forward(torch.zeros(2, 1, 8, 8, 8)).shape
            torch.Size([2, 1, 8, 8, 8])
        """
        stem = self.stem(x)
        middle = self.middle(torch.max_pool3d(stem, 2))
        deep = self.deep(torch.max_pool3d(middle, 2))
        middle = self.mix_middle(torch.cat([middle, self.up_middle(deep)], 1))
        stem = self.mix_stem(torch.cat([stem, self.up_stem(middle)], 1))
        logits: Tensor = self.head(stem)
        return logits


def _twice(given: int, made: int, stride: int = 1) -> nn.Sequential:
    first = nn.Conv3d(given, made, 3, stride, padding=1, bias=False)
    second = nn.Conv3d(made, made, 3, padding=1, bias=False)
    return nn.Sequential(first, nn.BatchNorm3d(made), nn.ReLU(), second, nn.BatchNorm3d(made), nn.ReLU())


def lesion_finder() -> LesionFinder:
    """The network with its trained weights, in eval mode.

    Examples:
        >>> scan, share = brain_scan()
        >>> with torch.no_grad():
        ...     found = lesion_finder()(scan.tensor[None]).sigmoid()[0]
        >>> float(2 * (found * share).sum() / (found + share).sum()) > 0.7  # Dice
        True
    """
    model = LesionFinder()
    load_state_dict(model, read_state_dict(WEIGHTS, model.state_dict()), WEIGHTS)
    return model.eval()


def build() -> tuple[nn.Module, None, list[str]]:
    """The volume of the lesions that the network finds, in millilitres, as a model of scans.

    Returns:
        The model; no preprocessing, since a scan's numbers are what it takes; the name of its one number.

    Examples:
        >>> model, _, names = build()
        >>> model(brain_scan(None)[0].tensor[None]).item() < 0.5, names
        (True, ['lesion (ml)'])
    """
    return nn.Sequential(lesion_finder(), volume(0, cell=MILLILITRES)), None, ["lesion (ml)"]
