"""Exact and approximate occlusion on a GPU against Captum at its best there, and the device's ceilings.

    python benchmarks/gpu.py                        VGG16, ResNet18 and InceptionV3, window 16, stride 4
    python benchmarks/gpu.py --tf32 --models vgg16  with TensorFloat-32
    python benchmarks/gpu.py --device cpu           to see whether it runs; the times say nothing of a GPU

Captum is measured over batch sizes and layouts under the same settings. What a map takes is a whole call:
views, boxes, heatmap. Weights are random (batch norm calibrated), so approximate maps tell the time of a
target and not whether it is kept; `approximate.py` judges that on trained networks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from captum.attr import Occlusion
from exact import LAYOUTS, MODELS, ROOT, parse_window
from torch import Tensor, nn

from krypton_engine import FallbackWarning, KryptonOcclusion
from krypton_engine.zoo import load_image, load_model

BATCHES = (16, 32, 64, 128, 256, 512)
CAPTUM_IMAGES = 512  # at least so many are evaluated for a pace


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


def captum_pace(model: nn.Module, x: Tensor, batch: int, images: int) -> float:
    """Seconds of Captum for an image that it evaluates: windows of one row, so that a batch fills."""
    rows = min(x.shape[2], max(1, -(-max(images, 2 * batch) // x.shape[3])))
    window = (x.shape[1], -(-x.shape[2] // rows), 1)
    count = rows * x.shape[3] + 1
    occlusion = Occlusion(model)

    def work() -> None:
        occlusion.attribute(x, window, strides=window, target=0, perturbations_per_eval=batch)

    return seconds_of(work, x.device) / count


def best_for_captum(model: nn.Module, x: Tensor, batches: Sequence[int], images: int) -> tuple[str, int]:
    paces = {}
    for layout, memory_format in LAYOUTS.items():
        model, x = model.to(memory_format=memory_format), x.contiguous(memory_format=memory_format)
        for batch in batches:
            try:
                captum_pace(model, x, batch, 1)  # the first run of a shape chooses algorithms
                paces[layout, batch] = captum_pace(model, x, batch, images)
            except torch.cuda.OutOfMemoryError:
                break
    return min(paces, key=paces.__getitem__)


def ceilings(device: torch.device) -> dict[str, float]:
    """What this device does at best under these settings: TFLOP/s, GB/s, microseconds a launch."""
    side = 8192 if device.type == "cuda" else 512
    a, b = torch.randn(2, side, side, device=device)
    copied = torch.empty(2**28 if device.type == "cuda" else 2**20, device=device)
    small = torch.zeros(1, device=device)

    def launches() -> None:
        for _ in range(1000):
            small.add_(1)

    def best(work: Callable[[], Any]) -> float:
        return min(seconds_of(work, device) for _ in range(5))

    half = len(copied) // 2
    return {
        "matrix product, TFLOP/s": 2 * side**3 / best(lambda: a @ b) / 1e12,
        "copy, GB/s": 8 * half / best(lambda: copied[:half].copy_(copied[half:])) / 1e9,
        "launch, us": best(launches) * 1e3,
    }


def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One model: paces in turns, medians."""
    device = torch.device(args.device)
    zoo = load_model(name, weights="random")
    model, x = zoo.model.to(device), zoo.preprocess(load_image(args.image))[None].to(device)
    window = parse_window(args.window, x)
    layout, batch = best_for_captum(model, x, args.batches, args.images)
    model, x = model.to(memory_format=LAYOUTS[layout]), x.contiguous(memory_format=LAYOUTS[layout])
    ways: dict[str, Callable[[], Any]] = {}
    for executor in ("cuda", "reference"):
        occlusion = KryptonOcclusion(model, executor=executor, memory_budget=args.budget * 2**20)
        call = (x, window.shape, window.strides)
        ways[f"exact, {executor}"] = lambda o=occlusion, c=call: o.heatmap(*c)
        ways[f"0.9, {executor}"] = lambda o=occlusion, c=call: o.heatmap(*c, ssim_target=0.9)
    plan, found = ways["exact, cuda"]().plan, {}
    for way, work in ways.items():
        work()  # captures, measures what pays, records
        found[way] = [seconds_of(work, device)]
    captum = []
    for _ in range(args.rounds):
        captum.append(captum_pace(model, x, batch, args.images) * (len(window) + 1))
        for way, work in ways.items():
            found[way].append(seconds_of(work, device))
    captum_seconds = statistics.median(captum)
    exact = statistics.median(found["exact, cuda"])
    return {
        "model": name,
        "window": args.window,
        "positions": len(window),
        "captum": f"{layout}, batch {batch}",
        "captum_seconds": captum_seconds,
        "seconds": {way: statistics.median(times) for way, times in found.items()},
        "faster": {way: captum_seconds / statistics.median(times) for way, times in found.items()},
        "executor": plan.executor if plan is not None else "full",
        "redundancy_ratio": plan.redundancy_ratio if plan is not None else None,
        "tflops": 2 * plan.macs_incremental * len(window) / exact / 1e12 if plan is not None else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--window", default="16/4", metavar="SIZE/STRIDE")
    parser.add_argument("--image", default="chelsea")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="that Captum may use")
    parser.add_argument("--images", type=int, default=CAPTUM_IMAGES)
    parser.add_argument("--budget", type=int, default=8192, metavar="MIB")
    parser.add_argument("--tf32", action="store_true", help="TensorFloat-32 for all")
    parser.add_argument("--autocast", choices=("float16", "bfloat16"), help="automatic mixed precision")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore", FallbackWarning)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    device = torch.device(args.device)
    about = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "precision": args.autocast or ("TF32" if args.tf32 else "float32"),
        "ceilings": ceilings(device),
    }
    print(json.dumps(about, indent=1))
    rows = []
    kind = None if args.autocast is None else getattr(torch, args.autocast)
    with torch.autocast(device.type, kind, enabled=kind is not None):
        for name in args.models:
            row = measured(name, args)
            print(json.dumps(row, indent=1), flush=True)
            rows.append(row)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps({"machine": about, "results": rows}, indent=1) + "\n")
    print(f"written to {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
