"""What a collection costs beside a loop, what a second worker brings, and whether memory grows.

    python benchmarks/collection.py [--images 300] [--model vgg16-brain-mri] [--window 16] [--stride 8]

Everything runs on one thread a worker. A loop over `KryptonOcclusion.heatmap` that reads and decodes too, one
worker and two are timed one after the other, `--rounds` times. Printed are medians, in seconds and in seconds
of CPU of this process and its workers, which a busy machine can be asked about, and the largest memory of a
process in the first and the second half.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import resource
import shutil
import statistics
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from krypton_engine import KryptonOcclusion, zoo
from krypton_engine.collection import explain

SLICES = [f"mri:{plane}:{i}" for plane in ("axial", "coronal", "sagittal") for i in range(50, 140, 3)]


def pictures(folder: Path, count: int) -> list[Path]:
    """Slices of the brain template and photographs, each a little different."""
    names = [name for name in [*SLICES, "astronaut", "chelsea", "coffee", "rocket"]]
    generator, paths = np.random.default_rng(0), []
    for i in range(count):
        pixels = np.asarray(zoo.load_image(names[i % len(names)])).astype(float)
        noise = generator.normal(0, 4, pixels.shape)
        path = folder / f"{i:04}.png"
        Image.fromarray(np.clip(pixels + noise * (pixels > 0), 0, 255).astype(np.uint8)).save(path)
        paths.append(path)
    return paths


class Memory:
    """Largest resident memory of this process and its children, sampled four times a second."""

    def __enter__(self):
        self.samples, self._over = [], threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def _watch(self):
        me = psutil.Process()
        while not self._over.wait(0.25):
            sizes = []
            for process in [me, *me.children()]:
                with suppress(psutil.NoSuchProcess):
                    sizes.append(process.memory_info().rss / 2**20)
            self.samples.append(max(sizes))

    def __exit__(self, *_):
        self._over.set()


def clocks():
    """Seconds, and seconds of CPU of this process and of the children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def since(began):
    return tuple(now - then for now, then in zip(clocks(), began, strict=True))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--model", default="vgg16-brain-mri")
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--stride", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    weights = "pretrained" if options.model in ("vgg16-brain-mri", "efficientnet-lite0") else "random"
    net = zoo.load_model(options.model, weights=weights)
    window = (3, options.window, options.window), (3, options.stride, options.stride)
    times: dict[str, list[tuple[float, float]]] = {"loop": [], "1 worker": [], "2 workers": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        paths = pictures(folder / "pictures", options.images)
        occlusion = KryptonOcclusion(net.model)
        occlusion.heatmap(net.preprocess(Image.open(paths[0]).convert("RGB"))[None], *window)
        for _ in range(options.rounds):
            began = clocks()
            for path in paths:
                occlusion.heatmap(net.preprocess(zoo.load_image(path))[None], *window)
            times["loop"].append(since(began))
            for workers in (1, 2):
                out = folder / "out"
                with Memory() as memory:
                    began = clocks()
                    explain(folder / "pictures", net, *window, out=out, workers=workers)
                    times[f"{workers} worker{'s' * (workers > 1)}"].append(since(began))
                half = len(memory.samples) // 2
                early, late = max(memory.samples[:half], default=0), max(memory.samples[half:], default=0)
                print(
                    f"{workers} workers: memory {early:.0f} MiB in the first half, {late:.0f} in the second"
                )
                shutil.rmtree(out)
    medians = {
        name: [statistics.median(each) for each in zip(*all, strict=True)] for name, all in times.items()
    }
    for name, (seconds, cpu) in medians.items():
        rate = 60 * options.images / seconds
        print(f"{name:10} {seconds:8.1f} s  {cpu:8.1f} s of CPU  {rate:7.1f} images a minute")
    (loop, loop_cpu), (one, one_cpu), (two, _) = medians.values()
    print(f"overhead beside the loop {one / loop - 1:+.1%}, of CPU {one_cpu / loop_cpu - 1:+.1%}")
    print(f"2 workers against 1: {one / two:.2f}x")


if __name__ == "__main__":
    main()
