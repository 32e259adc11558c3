"""Brain slices for tuning and for judging, and networks trained on them: nothing held out is near the rest.

The slices are of the MNI152 template in three planes, each without and with a synthetic lesion. Along every
plane, 12 mm repeat: the first 4 are for training and tuning, slices 7 and 8 are held out, so that at least
4 mm lie between the two kinds. What a network learns is the plane and whether there is a lesion: six classes.
The volumes are of the whole template at 4 mm, with a bright lesion, a dark one, or none: three classes. What
is held out has lesions at other places.

    python benchmarks/brain.py resnet18 weights/resnet18.pt        some minutes on two cores
    python benchmarks/brain.py inception_v3 weights/inception_v3.pt
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from krypton_engine import zoo
from krypton_engine.zoo import Preprocess

EXTENTS = {"axial": (36, 160), "coronal": (24, 176), "sagittal": (34, 166)}
"""Slices with enough brain in them."""

PERIOD, LEARN, HELD_OUT = 12, (0, 1, 2, 3), (7, 8)
CLASSES = [f"{plane}{lesion}" for plane in EXTENTS for lesion in ("", "+lesion")]
SIZES = {"inception_v3": 299}
"""Sizes of the images that networks take, where that is not 224."""

RATES = {"swin_t": 2e-4}
"""Largest learning rates, where that is not 1e-3: a transformer learns little from random weights at that."""

FROM_TIMM = ("convnextv2_atto",)
OF_OTHER_NORMS = {
    "resnet18_instance_norm": ("resnet18", partial(nn.InstanceNorm2d, affine=True)),
    "resnet50_group_norm": ("resnet50", partial(nn.GroupNorm, 32)),
}
OF_TORCHVISION = ("resnet18", "inception_v3", "mobilenet_v3_large", "regnet_y_800mf", "swin_t")
OF_VOLUMES = ("resnet10_3d_instance_norm",)
ARCHITECTURES = sorted({*FROM_TIMM, *OF_OTHER_NORMS, *OF_TORCHVISION, *OF_VOLUMES})

LESIONS = ("none", "bright", "dark")
VOLUMES = 240


def names(which: tuple[int, ...], architecture: str = "") -> list[str]:
    """Slices of which the number modulo the period is in ``which``, without and with a lesion; or volumes."""
    if architecture in OF_VOLUMES:
        return [f"volume:{i}" for i in range(VOLUMES) if i % PERIOD in which]
    return [
        f"mri:{plane}:{i}{lesion}"
        for plane, (first, last) in EXTENTS.items()
        for i in range(first, last + 1)
        if i % PERIOD in which
        for lesion in ("", "+lesion")
    ]


def spread(all_names: list[str], count: int) -> list[str]:
    """``count`` of them, evenly."""
    return [
        all_names[i]
        for i in np.linspace(0, len(all_names) - 1, min(count, len(all_names))).round().astype(int)
    ]


@cache
def template() -> np.ndarray:
    """The brain, of 0 to 1: ``(39, 50, 50)``, up, forward and to the right, 4 mm a cell."""
    slices = [zoo.load_image(f"mri:axial:{i}").convert("L").reduce(4) for i in range(22, 177, 4)]
    return np.stack([np.asarray(each) for each in slices]).astype(np.float32) / 255


def volume(name: str) -> Tensor:
    """The brain, shifted by up to a cell and of another brightness, with its lesion: ``(1, 40, 50, 50)``."""
    number = int(name.split(":")[1])
    generator, brain = np.random.default_rng(number), template()
    lesion = LESIONS[label(name)]
    if lesion != "none":
        centre, radius = generator.choice(np.argwhere(brain > 0.4)), generator.uniform(3, 5)
        distance = np.linalg.norm(np.moveaxis(np.indices(brain.shape), 0, -1) - centre, axis=-1)
        inside = 1 / (1 + np.exp(2 * (distance - radius)))
        brain = brain + (float(lesion == "bright") - brain) * inside
    moved = np.roll(brain, generator.integers(-1, 2, 3), (0, 1, 2)) * generator.uniform(0.8, 1)
    return torch.from_numpy(moved.astype(np.float32))[None]


def prepared(architecture: str) -> Callable[[str], Tensor]:
    """What a network takes, by name."""
    if architecture in OF_VOLUMES:
        return volume
    prepare = preprocess(architecture)
    return lambda name: prepare(zoo.load_image(name))


def label(name: str) -> int:
    if name.startswith("volume:"):
        return int(name.split(":")[1]) // PERIOD % len(LESIONS)
    _, plane, rest = name.split(":")
    return CLASSES.index(plane + ("+lesion" if rest.endswith("+lesion") else ""))


def preprocess(architecture: str) -> Preprocess:
    return Preprocess((SIZES.get(architecture, 224),) * 2, (0.0,) * 3, (1.0,) * 3)


def load(architecture: str, weights: Path) -> nn.Module:
    """The trained network, for evaluation."""
    model = build(architecture)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def build(architecture: str) -> nn.Module:
    """The network with random weights."""
    if architecture in FROM_TIMM:
        import timm

        return timm.create_model(architecture, num_classes=len(CLASSES))
    if architecture in OF_VOLUMES:
        from monai.networks.nets import ResNet

        norm: Any = ("instance", {"affine": True})
        return ResNet(
            "basic",
            [1] * 4,
            [16, 32, 64, 128],
            n_input_channels=1,
            conv1_t_size=3,
            conv1_t_stride=2,
            num_classes=len(LESIONS),
            norm=norm,
        )
    name, norm = OF_OTHER_NORMS.get(architecture, (architecture, None))
    options: dict[str, Any] = {"norm_layer": norm} if norm else {}
    if name == "inception_v3":
        options |= {"aux_logits": False, "init_weights": True}
    return torchvision.models.get_model(name, num_classes=len(CLASSES), **options)


def train(architecture: str, epochs: int, device: str, batch: int = 16) -> tuple[nn.Module, float]:
    """A network from random weights, and its accuracy on the slices held out.

    Slices are shifted by up to 8 pixels, volumes by 2, and their brightness is varied. AdamW, one cycle.
    """
    torch.manual_seed(0)
    prepare, model = prepared(architecture), build(architecture)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # so few steps do not move statistics that follow at 0.01
    learn, held_out = (names(which, architecture) for which in (LEARN, HELD_OUT))
    images = torch.stack([prepare(name) for name in learn])
    labels = torch.tensor([label(name) for name in learn])
    rate = RATES.get(architecture, 1e-3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    of_volumes = architecture in OF_VOLUMES
    layout, shift = (torch.channels_last_3d, 2) if of_volumes else (torch.channels_last, 8)
    model = model.to(device, memory_format=layout).train()
    began, step = time.perf_counter(), 0
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for rows in order[: len(images) // batch * batch].split(batch):
            x = torch.stack(
                [
                    images[i].roll(tuple(torch.randint(-shift, shift + 1, (2,)).tolist()), (-2, -1))
                    for i in rows.tolist()
                ]
            )
            x = x * torch.empty(batch, *[1] * (x.dim() - 1)).uniform_(0.8, 1.2)
            # Twice as fast on processors that know the type; norms of volumes make it infinite.
            with torch.autocast(device, torch.bfloat16, enabled=not of_volumes):
                outputs = model(x.to(device))
            loss = nn.functional.cross_entropy(outputs.float(), labels[rows].to(device))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            step += 1
            if step % 20 == 0:
                print(
                    f"step {step} of {steps}, loss {loss:.3f}, {time.perf_counter() - began:.0f} s",
                    flush=True,
                )
    model = model.cpu().eval()
    with torch.no_grad():
        right = [int(model(prepare(name)[None]).argmax()) == label(name) for name in spread(held_out, 60)]
    return model, float(np.mean(right))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("architecture", choices=ARCHITECTURES)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    args = parser.parse_args()
    model, accuracy = train(args.architecture, args.epochs, args.device)
    args.weights.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), args.weights)
    print(f"{accuracy:.0%} of 60 held-out slices right; written to {args.weights}")


if __name__ == "__main__":
    main()
