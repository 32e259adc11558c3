"""Networks with convolutions between attentions, as people write them, for pictures of 32 x 32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from timm.models.maxxvit import MaxxVit, MaxxVitCfg
from timm.models.mobilevit import MobileVitBlock
from torch import Tensor, nn
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


class _Block(nn.Module):
    """Attention in windows of 4 x 4 of a map of channels first."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(channels), nn.Linear(channels, 3 * channels)
        self.up, self.down = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, 3)
        sizes = x.shape[0], x.shape[1] // 4, x.shape[2] // 4, 4, 4
        windows = self.norm(x).unflatten(1, (-1, 4)).unflatten(3, (-1, 4)).transpose(2, 3)
        q, k, v = (
            self.qkv(windows.flatten(0, 2).flatten(1, 2)).unflatten(2, (3, 2, -1)).movedim(2, 0).unbind()
        )
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + y.reshape(*sizes, -1).transpose(2, 3).reshape(x.shape)
        return (x + self.down(F.gelu(self.up(x)))).movedim(3, 1)


class Between(nn.Module):
    """Something between two attentions in windows: of 8 x 8 cells, and of what that makes of them.

    Args:
        then: Function of the network and the cells, 8 channels first.
        channels: Number of channels of its result.
        parts: Modules that it calls, attributes of the network.
    """

    def __init__(self, then: Callable[[Any, Tensor], Tensor], channels: int = 8, **parts: nn.Module):
        super().__init__()
        self.then, self.patches, self.first = then, nn.Conv2d(3, 8, 4, 4), _Block(8)
        self.last, self.head = _Block(channels), nn.Linear(channels, 5)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.then(self, self.first(self.patches(x)))).mean((2, 3)))
