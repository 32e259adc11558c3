"""Networks with convolutions between attentions, as people write them, for pictures of 32 x 32."""

from __future__ import annotations

from collections.abc import Callable

from timm.models.maxxvit import MaxxVit, MaxxVitCfg
from timm.models.mobilevit import MobileVitBlock
from torch import nn
from torchvision.models import MaxVit
from torchvision.ops import SqueezeExcitation


def maxvit() -> nn.Module:
    """Gates everywhere, attention in windows and on dilated grids, coarser grids by pools."""
    return MaxVit((32, 32), 8, 2, [8, 16], [1, 1], 4, 0.0, num_classes=5)


def coatnet() -> nn.Module:
    """A gate before attentions over all cells."""
    depths, kinds = (1, 2), ("C", "T")
    options = MaxxVitCfg(embed_dim=(16, 32), depths=depths, block_type=kinds, stem_width=8)
    return MaxxVit(options, img_size=32, num_classes=5)


def mobilevit(pool: nn.Module | None = None) -> nn.Module:
    """Attention among every fourth cell, and convolutions: of all kinds, and one behind a gate."""

    def block() -> MobileVitBlock:
        return MobileVitBlock(16, 16, transformer_dim=16, transformer_depth=1, patch_size=2, num_heads=2)

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), block(), SqueezeExcitation(16, 4, nn.SiLU),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), pool or nn.AvgPool2d(2), block(),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4), nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


MIXED: dict[str, Callable[[], nn.Module]] = {
    "maxvit": maxvit,
    "coatnet": coatnet,
    "mobilevit": mobilevit,
}
