"""Exact and approximate occlusion on a GPU against full inference at its fastest, and the device's ceilings.

    python benchmarks/gpu.py                           three networks in four precisions, window 16, stride 4
    python benchmarks/gpu.py --precisions tf32 --models vgg16
    python benchmarks/gpu.py --device cpu --models resnet18 --batches 4 --images 8 --window 64/32
                                                       to see whether it runs; the times say nothing of a GPU

Full inference is what a user of a GPU runs: the fastest of eager and compiled ("max-autotune", with CUDA
graphs), of both layouts and of several batch sizes, in the same precision, on a batch that lies occluded on
the device already. Captum's own `attribute`, at the layout and batch that are best in eager mode, is measured
beside it. What a map takes is a whole call: views, boxes, looking, heatmap. Weights are random (batch norm
calibrated), so approximate maps tell the time of a target and not whether it is kept; `approximate.py` judges
that on trained networks.

The hardest rows come first, and no row begins after --minutes: what is written until then is whole.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from captum.attr import Occlusion
from exact import LAYOUTS, MODELS, ROOT, parse_window, write
from torch import Tensor, nn

from krypton_engine import FallbackWarning, KryptonOcclusion
from krypton_engine.zoo import load_image, load_model

BATCHES = (16, 32, 64, 128, 256, 512)
IMAGES = 512
"""Images that are evaluated for a pace, at least."""

PRECISIONS = ("bfloat16", "float16", "tf32", "float32")
"""Hardest first: two kinds of autocast, and float32 without and with all of its bits."""

COMPILED = 2
"""Batch sizes, the best ones of eager mode, that the compiled network is tried with."""


@contextlib.contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """The arithmetic of a row: the dtype of autocast, or of float32 the bits that count."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = name == "tf32"
    kind = getattr(torch, name) if name.endswith("float16") else None
    try:
        with torch.autocast(device.type, kind, enabled=kind is not None):
            yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


@dataclass(frozen=True, eq=False)
class FullInference:
    """The user's network on batches of occluded images that lie on the device.

    Attributes:
        forward: The network, eager or compiled.
        x: One image, in the network's layout.
        layout: Name of the layout.
        batch: Images a call.
        compiled: Whether the network is.
    """

    forward: Callable[[Tensor], Tensor]
    x: Tensor
    layout: str
    batch: int
    compiled: bool = False

    def __str__(self) -> str:
        return f"{'compiled' if self.compiled else 'eager'}, {self.layout}, batch {self.batch}"

    @torch.no_grad()
    def pace(self, images: int) -> float:
        """Seconds for an image."""
        batch = self.x.expand(self.batch, *self.x.shape[1:]).contiguous(memory_format=LAYOUTS[self.layout])
        calls = -(-images // self.batch)

        def work() -> None:
            for _ in range(calls):
                self.forward(batch)

        return seconds_of(work, self.x.device) / (calls * self.batch)


def fastest(
    model: nn.Module, x: Tensor, batches: Sequence[int], images: int, compiled: bool = True
) -> tuple[FullInference, FullInference]:
    """Full inference at its fastest, and at its fastest in eager mode; the network is left in its layout."""

    def paced(full: FullInference) -> float:
        full.pace(1)  # the first run of a shape compiles, records, and chooses algorithms
        return full.pace(images)

    paces: dict[FullInference, float] = {}
    for layout, memory_format in LAYOUTS.items():
        model = model.to(memory_format=memory_format)
        for batch in batches:
            full = FullInference(model, x.contiguous(memory_format=memory_format), layout, batch)
            try:
                paces[full] = paced(full)
            except torch.cuda.OutOfMemoryError:
                break
    eager = min(paces, key=paces.__getitem__)
    model.to(memory_format=LAYOUTS[eager.layout])
    alike = sorted((full for full in paces if full.layout == eager.layout), key=paces.__getitem__)
    for full in alike[:COMPILED] if compiled else ():
        forward = torch.compile(model, mode="max-autotune", dynamic=False)
        made = FullInference(forward, full.x, full.layout, full.batch, compiled=True)
        paces[made] = paced(made)
    return min(paces, key=paces.__getitem__), eager


def captum_pace(model: nn.Module, x: Tensor, batch: int, images: int) -> float:
    """Seconds of Captum for an image that it evaluates: windows of one row, so that a batch fills."""
    rows = min(x.shape[2], max(1, -(-max(images, 2 * batch) // x.shape[3])))
    window = (x.shape[1], -(-x.shape[2] // rows), 1)
    count = rows * x.shape[3] + 1
    occlusion = Occlusion(model)

    def work() -> None:
        occlusion.attribute(x, window, strides=window, target=0, perturbations_per_eval=batch)

    return seconds_of(work, x.device) / count


def ceilings(device: torch.device, names: Sequence[str]) -> dict[str, float]:
    """What this device does at best: TFLOP/s by precision, GB/s, microseconds a launch."""
    side = 8192 if device.type == "cuda" else 512
    a, b = torch.randn(2, side, side, device=device)
    copied = torch.empty(2**28 if device.type == "cuda" else 2**20, device=device)
    small = torch.zeros(1, device=device)

    def launches() -> None:
        for _ in range(1000):
            small.add_(1)

    def best(work: Callable[[], Any]) -> float:
        return min(seconds_of(work, device) for _ in range(5))

    found = {}
    for name in names:
        kind = getattr(torch, name) if name.endswith("float16") else torch.float32
        left, right = a.to(kind), b.to(kind)
        with precision("tf32" if name == "tf32" else "float32", device):
            found[f"{name}, TFLOP/s"] = 2 * side**3 / best(lambda x=left, y=right: x @ y) / 1e12
    half = len(copied) // 2
    copying = best(lambda: copied[:half].copy_(copied[half:]))
    return found | {"copy, GB/s": 8 * half / copying / 1e9, "launch, us": best(launches) * 1e3}


def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One network in the precision of now: full inference and maps in turns, medians."""
    device = torch.device(args.device)
    zoo = load_model(name, weights="random")
    model, x = zoo.model.to(device), zoo.preprocess(load_image(args.image))[None].to(device)
    window = parse_window(args.window, x)
    began = time.perf_counter()
    full, eager = fastest(model, x, args.batches, args.images)
    search_seconds = time.perf_counter() - began
    occlusion = KryptonOcclusion(model, memory_budget=args.budget * 2**20)
    call = (eager.x, window.shape, window.strides)
    ways: dict[str, Callable[[], Any]] = {
        "exact": lambda: occlusion.heatmap(*call),
        "0.9": lambda: occlusion.heatmap(*call, ssim_target=0.9),
    }
    first, plan = {}, None
    for way, work in ways.items():
        first[way] = seconds_of(work, device)  # captures, measures what pays, records
        plan = plan or work().plan
    found: dict[str, list[float]] = {"full": [], "Captum": [], **{way: [] for way in ways}}
    images = len(window) + 1
    for _ in range(args.rounds):
        found["full"].append(full.pace(args.images) * images)
        found["Captum"].append(captum_pace(model, eager.x, eager.batch, args.images) * images)
        for way, work in ways.items():
            found[way].append(seconds_of(work, device))
    faster = {
        way: [theirs / ours for theirs, ours in zip(found["full"], found[way], strict=True)]
        for way in ("Captum", *ways)
    }
    return {
        "model": name,
        "window": args.window,
        "positions": len(window),
        "full": str(full),
        "eager": str(eager),
        "search_seconds": search_seconds,
        "first_seconds": first,
        "seconds": {way: statistics.median(times) for way, times in found.items()},
        "faster": {way: [statistics.median(r), min(r), max(r)] for way, r in faster.items()},
        "executor": plan.executor if plan is not None else "full",
        "redundancy_ratio": plan.redundancy_ratio if plan is not None else None,
        "tflops": 2 * plan.macs_incremental * len(window) / statistics.median(found["exact"]) / 1e12
        if plan is not None
        else None,
    }


def report(rows: Sequence[dict[str, Any]]) -> str:
    """The table: how many times faster than full inference at its fastest (lowest to highest)."""
    lines = [
        "| precision | network | full inference at its fastest | us an image | Captum | exact | SSIM 0.9 |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = [
            "{:.2f}x ({:.2f} to {:.2f})".format(*row["faster"][way]) for way in ("Captum", "exact", "0.9")
        ]
        pace = row["seconds"]["full"] / (row["positions"] + 1) * 1e6
        lines.append(
            f"| {row['precision']} | {row['model']} | {row['full']} | {pace:.0f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def main() -> None:
    args = arguments()
    ends = time.monotonic() + args.minutes * 60
    warnings.simplefilter("ignore", FallbackWarning)
    device = torch.device(args.device)
    about = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "ceilings": ceilings(device, args.precisions),
    }
    print(json.dumps(about, indent=1), file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for name, model in itertools.product(args.precisions, args.models):
        if time.monotonic() > ends:
            print(f"no time for {model} in {name}", file=sys.stderr)
            continue
        with precision(name, device):
            rows.append({"precision": name} | measured(model, args))
        torch.compiler.reset()
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        write(args.out, about, rows)
    print(report(rows))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--window", default="16/4", metavar="SIZE/STRIDE")
    parser.add_argument("--image", default="chelsea")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="of full inference")
    parser.add_argument("--images", type=int, default=IMAGES, help="evaluated for a pace, at least")
    parser.add_argument("--budget", type=int, default=8192, metavar="MIB", help="memory budget of a map")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no row begins")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
