"""Networks with attention in windows, in the spellings that people use, small enough for brute force."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from torchvision.models.video.swin_transformer import SwinTransformer3d

from support.tiny_transformers import of_timm

TIMM = {
    "img_size": 32,
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 24,
    "depths": (2, 1),
    "num_heads": (3, 3),
    "num_classes": 5,
}
_TORCHVISION = {
    "patch_size": [4, 4],
    "embed_dim": 24,
    "depths": [2, 1],
    "num_heads": [3, 3],
    "window_size": [4, 4],
    "num_classes": 5,
}


class _Block(nn.Module):
    """A block of Hugging Face's Swin: projections by themselves, tokens in one row between the windows."""

    def __init__(self, size: int, channels: int, shift: int):
        super().__init__()
        self.size, self.shift = size, shift
        self.before, self.after = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.query, self.key, self.value, self.dense = (nn.Linear(channels, channels) for _ in range(4))
        self.up, self.down = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.table = nn.Parameter(torch.zeros(3, 16, 16))
        marks = torch.zeros(1, size, size, 1)
        if shift:
            marks[:, -4:], marks[:, :, -4:] = 1.0, 2.0
            marks[:, -4:, -4:], marks[:, -shift:, -shift:] = 3.0, 4.0
        marks = self.windows(marks)[..., 0]
        mask = (marks[:, None] != marks[:, :, None]).float() * -100.0
        self.register_buffer("mask", mask)

    def windows(self, x: Tensor) -> Tensor:
        side, channels = self.size // 4, x.shape[-1]
        x = x.view(-1, side, 4, side, 4, channels)
        return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 16, channels)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = (
            each(x).view(x.shape[0], 16, 3, -1).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        scores = torch.matmul(q, k.transpose(-1, -2)) / q.shape[-1] ** 0.5 + self.table.unsqueeze(0)
        if self.shift:
            count = self.mask.shape[0]
            scores = scores.view(x.shape[0] // count, count, 3, 16, 16) + self.mask[None, :, None]
            scores = scores.view(-1, 3, 16, 16)
        y = torch.matmul(F.softmax(scores, dim=-1), v).permute(0, 2, 1, 3).contiguous()
        return self.dense(y.view(x.shape))

    def forward(self, x: Tensor) -> Tensor:
        side = self.size // 4
        y = self.before(x).view(-1, self.size, self.size, x.shape[-1])
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = self.attention(self.windows(y)).view(-1, side, side, 4, 4, x.shape[-1])
        y = y.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, self.size, self.size, x.shape[-1])
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y.view(x.shape)
        return x + self.down(F.gelu(self.up(self.after(x))))


class HuggingFaceSwin(nn.Module):
    """The spelling of Hugging Face's Swin, with the positions of tokens."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, 4)
        self.positions = nn.Parameter(torch.zeros(1, 64, 24))
        self.first = nn.Sequential(_Block(8, 24, 0), _Block(8, 24, 2))
        self.norm, self.reduction = nn.LayerNorm(96), nn.Linear(96, 48, bias=False)
        self.second = _Block(4, 48, 0)
        self.last, self.head = nn.LayerNorm(48), nn.Linear(48, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        x = self.first(x).view(-1, 8, 8, 24)
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1).view(-1, 16, 96)
        x = self.last(self.second(self.reduction(self.norm(x))))
        return self.head(torch.flatten(F.adaptive_avg_pool1d(x.transpose(1, 2), 1), 1))


def _timm(name: str, fused: bool = False) -> Callable[[], nn.Module]:
    return of_timm(name, fused, **TIMM)


SWINS: dict[str, Callable[[], nn.Module]] = {
    "torchvision": lambda: SwinTransformer(**_TORCHVISION),
    "torchvision, second version": lambda: SwinTransformer(
        **_TORCHVISION, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    ),
    "timm": _timm("swin_tiny_patch4_window7_224"),
    "timm, fused": _timm("swin_tiny_patch4_window7_224", fused=True),
    "timm, second version": _timm("swinv2_tiny_window8_256"),
    "timm, second version by others": _timm("swinv2_cr_tiny_224"),
    "hugging face": HuggingFaceSwin,
}
"""Networks for pictures of 32 x 32."""


def padded() -> nn.Module:
    """A network for pictures of 40 x 40, whose windows do not fill the grid."""
    return SwinTransformer(**_TORCHVISION)


def video() -> nn.Module:
    """A network for 8 pictures of 16 x 16."""
    options = {**_TORCHVISION, "patch_size": [2, 4, 4], "window_size": [2, 2, 2]}
    return SwinTransformer3d(**options)
