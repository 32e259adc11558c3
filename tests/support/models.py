"""Real families of networks with random weights, and the rule that says when two runs agree."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from krypton_engine import FallbackWarning, Heatmap, KryptonOcclusion, zoo
from support.truth import occlude, windows

ODD_SIZE = (97, 131)
LARGEST = 16 * 2**30
"""Memory for the largest models: 2.6 GB of weights, and as much again with their batch norms folded."""

FAMILIES = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "swin_t",
    "vgg11_bn",
    "vit_b_16",
)
"""One torchvision model of every family but MaxViT, which takes nothing smaller than 224 x 224."""


@dataclass(frozen=True)
class Case:
    """A model and what it is explained on.

    Attributes:
        name: What the model is called.
        make: Gives the model, in eval mode.
        image: Gives the input, without the batch dimension.
        window: Spatial sizes of the window; its strides are the same, so that positions do not overlap.
        baseline: What is put in the occluded cells.
        count: How many positions are compared.
    """

    name: str
    make: Callable[[], nn.Module]
    image: Callable[[], Tensor]
    window: tuple[int, ...] = (32, 32)
    baseline: float = 0.0
    count: int = 6


# --- models and images -------------------------------------------------------------------------------


def photograph(size: tuple[int, int], name: str = "chelsea") -> Tensor:
    """A photograph, normalised as for ImageNet."""
    preprocess = zoo.Preprocess(size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return preprocess(zoo.load_image(name))


def brain_volume(shape: tuple[int, int, int]) -> Tensor:
    """Voxels of the middle of a brain: ``(1, *shape)``, about four millimetres apart."""
    depth, height, width = shape
    slices = [zoo.load_image(f"mri:axial:{30 + 4 * i}").convert("L") for i in range(depth)]
    volume = np.stack([np.asarray(s, dtype=np.float32) / 255 for s in slices])[:, ::4, ::4]
    top, left = (volume.shape[1] - height) // 2, (volume.shape[2] - width) // 2
    return torch.from_numpy(volume[None, :, top : top + height, left : left + width].copy())


def awake(model: nn.Module, shape: Sequence[int]) -> nn.Module:
    """``model`` in eval mode with statistics of its own, and no layer that outputs nothing but zeros."""
    zoo.calibrate_batch_norm(model.eval(), shape)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():  # the heads of vision transformers
                module.weight.normal_(0, 0.1)
    return model


def torchvision_size(name: str) -> tuple[int, int]:
    if name.startswith("vit"):
        return (98, 98) if name.endswith("14") else (96, 96)
    return (224, 224) if name.startswith("maxvit") else ODD_SIZE


def torchvision_case(name: str) -> Case:
    """A torchvision classification model of random weights on a photograph of odd size if it takes one."""
    size = torchvision_size(name)

    def make() -> nn.Module:
        if not name.startswith("vit"):
            return awake(zoo.load_model(name, weights="random", size=size).model, (3, *size))
        import torchvision

        torch.manual_seed(0)
        return awake(torchvision.models.get_model(name, weights=None, image_size=size[0]), (3, *size))

    return Case(name, make, lambda: photograph(size))


def timm_case(name: str) -> Case:
    size, fields = ((96, 96), {"img_size": 96}) if name.startswith("vit") else (ODD_SIZE, {})

    def make() -> nn.Module:
        import timm

        torch.manual_seed(0)
        return awake(timm.create_model(name, pretrained=False, **fields), (3, *size))

    return Case(name, make, lambda: photograph(size))


def monai_case(name: str) -> Case:
    volume, plane = (33, 40, 37), (67, 90)

    def make() -> nn.Module:
        from monai.networks import nets

        torch.manual_seed(0)
        if name == "3-D ResNet10":
            model = nets.resnet10(spatial_dims=3, n_input_channels=1, num_classes=3)
        elif name == "3-D DenseNet121":
            model = nets.DenseNet121(spatial_dims=3, in_channels=1, out_channels=3)
        else:  # instance norm is its default
            model = nets.BasicUNet(2, 1, 2, features=(8, 8, 16, 16, 32, 8))
        return awake(model, (1, *(volume if "3-D" in name else plane)))

    if "3-D" in name:
        return Case(name, make, lambda: brain_volume(volume), (7, 8, 8), 1.0)
    return Case(name, make, lambda: photograph(plane)[:1], (16, 16), 1.0)


def zoo_case(name: str, image: str) -> Case:
    """A model with the weights that it was trained to."""
    loaded = zoo.load_model(name)
    return Case(name, lambda: loaded.model, lambda: loaded.preprocess(zoo.load_image(image)), count=2)


# --- the rule ----------------------------------------------------------------------------------------


def spread_positions(counts: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Positions of a grid: two corners (the last is cut by the border), the centre, edges."""
    last = [n - 1 for n in counts]
    middle = [n // 2 for n in counts]
    found = [tuple(last), tuple(middle), (0,) * len(counts), (0, *middle[1:]), (*middle[:-1], last[-1])]
    found += [(*last[:-1], 0), tuple(n // 3 for n in counts)]
    return list(dict.fromkeys(found))[:count]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; differences are the largest over positions and outputs."""

    heatmap: Heatmap
    error: float
    error_of_torch: float
    largest: float
    map_range: float
    warnings: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """At most three times as far from float64 as PyTorch's own float32, or 1e-6 of the output."""
        return self.error <= max(3 * self.error_of_torch, 1e-6 * self.largest)

    def __str__(self) -> str:
        return (
            f"error {self.error:.3g}, PyTorch's own {self.error_of_torch:.3g}, largest output "
            f"{self.largest:.3g}, range of the map {self.map_range:.3g}, {self.heatmap.plan!r}"
        )


def compare(case: Case, executor: str = "auto", device: str | torch.device = "cpu") -> Comparison:
    """Krypton, PyTorch in float32 and PyTorch in float64, on a few positions far from each other."""
    model, x = case.make().to(device), case.image()[None].to(device)
    sizes = x.shape[2:]
    counts = [math.ceil((n - k) / k) + 1 for n, k in zip(sizes, case.window, strict=True)]
    positions = spread_positions(counts, case.count)
    window = (x.shape[1], *case.window)
    cells = windows(x.shape[1:], window, window)
    copies = torch.cat([occlude(x, cells[0, *position], case.baseline) for position in positions])
    with torch.no_grad():
        double = copy.deepcopy(model).double()
        exact = double(copies.double()).cpu()
        del double
        torchs = model(copies).cpu()
    region = torch.zeros(x.shape[1:], dtype=torch.bool)
    for position in positions:
        region[(0, *(i * k for i, k in zip(position, case.window, strict=True)))] = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        heatmap = KryptonOcclusion(model, executor=executor, memory_budget=LARGEST).heatmap(
            x, window, window, case.baseline, region=region, classes="all"
        )
    outputs = heatmap.values if heatmap.outputs is None else heatmap.outputs
    krypton = torch.stack([outputs[position] for position in positions])
    assert int(heatmap.measured.sum()) == len(positions) and krypton.shape == exact.shape
    of_target = exact if heatmap.outputs is None else exact[:, heatmap.target]
    return Comparison(
        heatmap,
        float((krypton - exact).abs().max()),
        float((torchs - exact).abs().max()),
        float(exact.abs().max()),
        float((of_target.amax(0) - of_target.amin(0)).max()),
        tuple(str(w.message) for w in caught if issubclass(w.category, FallbackWarning)),
    )
