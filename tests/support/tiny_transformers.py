"""Vision transformers in the spellings that people use, small enough for brute force, all of them awake."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

_SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


class HuggingFace(nn.Module):
    """The spelling of Hugging Face's ViT and DINOv2: separate projections, eager or by one operator.

    Args:
        eager: Whether attention is written out, with a mask that masks nothing.
        joined: Whether the head reads the class token beside the mean of the patches, as DINOv2's does.
    """

    def __init__(self, *, eager: bool, joined: bool):
        super().__init__()
        self.eager, self.joined = eager, joined
        self.patches = nn.Conv2d(3, 24, 8, 8)
        self.cls = nn.Parameter(torch.zeros(1, 1, 24))
        self.positions = nn.Parameter(torch.zeros(1, 17, 24))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "before": nn.LayerNorm(24),
                    "query": nn.Linear(24, 24),
                    "key": nn.Linear(24, 24),
                    "value": nn.Linear(24, 24),
                    "dense": nn.Linear(24, 24),
                    "after": nn.LayerNorm(24),
                    "up": nn.Linear(24, 48),
                    "down": nn.Linear(48, 24),
                }
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(48 if joined else 24, 5)

    def attention(self, block: nn.ModuleDict, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, 8)
        q, k, v = (block[name](x).view(shape).transpose(1, 2) for name in ("query", "key", "value"))
        if self.eager:
            weights = torch.matmul(q, k.transpose(2, 3)) / 8**0.5
            weights = weights + torch.zeros(1, 1, 17, 17, dtype=x.dtype)
            y = torch.matmul(F.softmax(weights, dim=-1, dtype=x.dtype), v)
        else:
            everything = torch.ones(1, 1, 17, 17, dtype=torch.bool).expand(x.shape[0], -1, -1, -1)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=everything, scale=8**-0.5)
        return block["dense"](y.transpose(1, 2).reshape(*x.shape[:-1], -1).contiguous())

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), dim=1) + self.positions
        for block in self.blocks:
            x = self.attention(block, block["before"](x)) + x
            x = block["down"](F.gelu(block["up"](block["after"](x)))) + x
        x = self.norm(x)
        if self.joined:
            return self.head(torch.cat([x[:, 0], x[:, 1:].mean(dim=1)], dim=1))
        return self.head(x[:, 0])


class Attending(nn.Module):
    """`torch.nn.MultiheadAttention` asked for its weights, on the patches of a picture that is not square."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        y, _ = self.attention(x, x, x)
        return self.head(F.gelu(x + y).mean(1))


class Signal(nn.Module):
    """Tokens of a signal, which no reshape makes."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv1d(3, 16, 4, 4)
        self.qkv = nn.Linear(16, 48)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.patches(x).transpose(1, 2)
        q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)
        x = x + F.scaled_dot_product_attention(q, k, v)[:, 0]
        return self.head(x.relu().sum(1))


def of_timm(name: str, fused: bool, **sizes: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        made: nn.Module = timm.create_model(name, pretrained=False, **sizes)
        for module in made.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = fused
        return made

    return make


def _timm(name: str, fused: bool = True, **others: object) -> Callable[[], nn.Module]:
    return of_timm(name, fused, **{**_SIZES, **others})


SPELLINGS: dict[str, Callable[[], nn.Module]] = {
    "timm": _timm("vit_tiny_patch16_224"),
    "timm, written out": _timm("vit_tiny_patch16_224", fused=False),
    "mean of the patches": _timm("vit_tiny_patch16_224", global_pool="avg"),
    "layer scale": _timm("deit3_small_patch16_224"),
    "distilled": _timm("deit_tiny_distilled_patch16_224"),
    "registers": _timm("vit_small_patch14_reg4_dinov2"),
    "relative positions": _timm("beit_base_patch16_224"),
    "relative positions, written out": _timm("beit_base_patch16_224", fused=False),
    "rotary": _timm("vit_small_patch16_dinov3"),
    "torchvision": lambda: torchvision.models.VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=5),
    "hugging face": lambda: HuggingFace(eager=False, joined=False),
    "hugging face, eager": lambda: HuggingFace(eager=True, joined=True),
    "multi-head attention": Attending,
}
"""Networks for pictures of 32 x 32."""


def awake(model: nn.Module) -> nn.Module:
    """A model in float64 whose weights make all of it count: layers that start at zero do not."""
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.2)
    return model.double().eval()
