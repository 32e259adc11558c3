"""Occlusion maps of volumes: exactly, against Captum's and MONAI's own classes, alternated.

    python benchmarks/volumes.py                                # four networks, random weights
    python benchmarks/volumes.py --networks densenet121 --rounds 3 --threads 1
    python benchmarks/volumes.py --whole                        # every position, not a sample of layers

Captum and MONAI evaluate the whole network for every window, so that their pace on some stands for all:
Captum's at the batch and in the layout that are fastest, MONAI's on a part of the volume. Krypton's is that
of the windows which touch three planes: at the rim, at a quarter and in the middle of the first axis. Times
are those of the process, which other work hardly disturbs. Errors are against float64, beside PyTorch's own;
the peak is of a process that only Krypton runs in, beside the libraries and the network.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import exact
import torch
from exact import captum_seconds, layouts, machine, resident
from monai.networks.nets import DenseNet121, resnet18
from monai.visualize import OcclusionSensitivity
from regions import timed
from torch import Tensor, nn
from torchvision.models.video import r3d_18

from krypton_engine import KryptonOcclusion
from krypton_engine.perturbation.windows import SlidingWindow

BATCHES = (1, 2, 4)


class Twice(nn.Sequential):
    """Two convolutions of 3 x 3 x 3, each with its norm and its ReLU."""

    def __init__(self, given: int, made: int) -> None:
        steps = []
        for channels in (given, made):
            steps += [nn.Conv3d(channels, made, 3, padding=1, bias=False), nn.BatchNorm3d(made), nn.ReLU()]
        super().__init__(*steps)


class LesionVolume(nn.Module):
    """A U-Net of four levels, and the volume of what it marks: the sum of probabilities over all voxels."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        finer, coarser = widths[:-1], widths[1:]
        self.down = nn.ModuleList(map(Twice, (1, *finer), widths))
        self.up = nn.ModuleList([nn.ConvTranspose3d(b, a, 2, 2) for a, b in zip(finer, coarser, strict=True)])
        self.mix = nn.ModuleList([Twice(2 * a, a) for a in finer])
        self.head = nn.Conv3d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.down[0](x)]
        for down in self.down[1:]:
            levels.append(down(torch.max_pool3d(levels[-1], 2)))
        x = levels.pop()
        for up, mix in zip(reversed(self.up), reversed(self.mix), strict=True):
            x = mix(torch.cat([levels.pop(), up(x)], 1))
        return self.head(x).sigmoid().mean((2, 3, 4))


Build = Callable[[], nn.Module]
Sizes = tuple[int, ...]
CUBE, CLIP = (1, 96, 96, 96), (3, 16, 112, 112)
NETWORKS: dict[str, tuple[Build, Sizes, Sizes, Sizes]] = {
    "densenet121": (lambda: DenseNet121(3, 1, 2), CUBE, (16, 16, 16), (8, 8, 8)),
    "resnet18": (
        lambda: resnet18(spatial_dims=3, n_input_channels=1, num_classes=2),
        CUBE,
        (16,) * 3,
        (8,) * 3,
    ),
    "r3d_18": (lambda: r3d_18(num_classes=10), CLIP, (4, 16, 16), (4, 8, 8)),
    "unet": (LesionVolume, CUBE, (16, 16, 16), (8, 8, 8)),
}


def made(name: str) -> tuple[nn.Module, Tensor, SlidingWindow]:
    """A network of random weights and statistics, a volume and the window."""
    torch.manual_seed(0)
    build, shape, size, stride = NETWORKS[name]
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model, torch.randn(1, *shape), SlidingWindow(shape, (shape[0], *size), (shape[0], *stride))


def captum_pace(model: nn.Module, x: Tensor) -> tuple[str, float]:
    """Captum's fastest layout and batch, and its seconds for a volume at those."""
    found = {}
    for layout, memory_format in layouts(x).items():
        model, x = model.to(memory_format=memory_format), x.contiguous(memory_format=memory_format)
        captum_seconds(model, x, 1, 1)
        for batch in BATCHES:
            found[f"{layout}, batch {batch}"] = captum_seconds(model, x, batch, 4)
    model.to(memory_format=torch.contiguous_format)
    best = min(found, key=found.__getitem__)
    return best, found[best]


def monai_pace(model: nn.Module, x: Tensor, window: SlidingWindow) -> float:
    """MONAI's seconds for a volume."""
    sizes, strides = window.shape[1:], window.strides[1:]
    overlap = [1 - stride / size for stride, size in zip(strides, sizes, strict=True)]
    evaluated = []
    hook = model.register_forward_pre_hook(lambda _, given: evaluated.append(len(given[0])))
    sensitivity = OcclusionSensitivity(model, sizes, 2, False, mode=0.0, overlap=overlap, activate=False)
    part = [limit for stride in strides for limit in (0, 2 * stride - 1)]
    seconds, _ = timed(partial(sensitivity, x, b_box=part))
    hook.remove()
    return seconds / sum(evaluated)


def krypton_pace(model: nn.Module, x: Tensor, window: SlidingWindow, whole: bool) -> tuple[float, int, Any]:
    """Krypton's seconds for a position, capture and packing among them; how many positions; and the map."""
    planes = torch.zeros(1, *window.input_shape[1:], dtype=torch.bool)
    depth = planes.shape[1]
    planes[:, [0, depth // 4, depth // 2]] = True
    region = None if whole else planes
    occlusion = KryptonOcclusion(model)
    call = partial(occlusion.heatmap, x, window.shape, window.strides, region=region, classes="all")
    seconds, heatmap = timed(call)
    count = int(heatmap.measured.sum())
    return seconds / count, count, heatmap


def errors(model: nn.Module, x: Tensor, window: SlidingWindow, heatmap: Any) -> tuple[float, float]:
    """Largest error of Krypton and of PyTorch at three positions, against float64."""
    double = copy.deepcopy(model).double()
    flat = heatmap.measured.flatten().nonzero().flatten()
    mine = theirs = 0.0
    for position in flat[:: max(1, len(flat) // 3)][:3].tolist():
        covered = x.clone()
        (box,) = window.boxes(torch.tensor([position]).numpy())
        covered[(0, *(slice(lo, hi) for lo, hi in box))] = 0.0
        with torch.no_grad():
            right, own = double(covered.double()), model(covered)
        found = heatmap.outputs.reshape(-1, right.shape[1])[position] if heatmap.outputs is not None else None
        found = heatmap.values.flatten()[position] if found is None else found
        mine = max(mine, float((found - right[0]).abs().max()))
        theirs = max(theirs, float((own - right).abs().max()))
    return mine, theirs


def peak_of(name: str, threads: int) -> float:
    """GiB that a map takes at most, beside the libraries and the network."""
    torch.set_num_threads(threads)
    model, x, window = made(name)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far, which is the parent's at first
    before = resident("VmRSS")
    krypton_pace(model, x, window, whole=False)
    return (resident("VmHWM") - before) / 2**30


def row(name: str, rounds: int, whole: bool) -> dict[str, Any]:
    """One network's figures."""
    model, x, window = made(name)
    captum, monai = [], []
    for _ in range(rounds):
        best, theirs = captum_pace(model, x)
        monais = monai_pace(model, x, window)
        mine, count, heatmap = krypton_pace(model, x, window, whole)
        captum.append(theirs / mine)
        monai.append(monais / mine)
    own, torchs = errors(model, x, window, heatmap)
    with multiprocessing.get_context("spawn").Pool(1) as alone:
        peak = alone.apply(peak_of, (name, torch.get_num_threads()))
    return {
        "network": name, "positions": len(window), "measured": count, "captum": best, "ratios": captum,
        "monai": monai, "error": own, "torchs": torchs, "executor": heatmap.plan.executor, "peak": peak,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    exact.clock = time.process_time
    warnings.filterwarnings("ignore", "Using a non-tuple sequence")  # MONAI's
    rows = []
    for name in args.networks:
        rows.append(row(name, args.rounds, args.whole))
        found = rows[-1]
        ratio, spread = statistics.median(found["ratios"]), [f"{r:.1f}" for r in found["ratios"]]
        print(
            f"{name:12} {found['measured']:5} of {found['positions']:5} positions: {ratio:5.1f}x Captum "
            f"({', '.join(spread)}; {found['captum']}), {statistics.median(found['monai']):5.1f}x MONAI; "
            f"error {found['error']:.1e} (PyTorch's {found['torchs']:.1e}); peak {found['peak']:.1f} GiB; "
            f"{found['executor'].split()[0]}",
            flush=True,
        )
    if args.out:
        about = machine("native") | {"threads": args.threads}
        args.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
