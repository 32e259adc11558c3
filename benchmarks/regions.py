"""Superpixels and Shapley values against Captum's own, alternated.

    python benchmarks/regions.py                     # VGG16 and ResNet18, random weights, one photograph
    python benchmarks/regions.py --models resnet18 --rounds 3 --threads 1

Feature ablation of 100 SLIC superpixels, and Shapley sampling of 25 permutations of 49 square regions. Captum
evaluates the whole network for every feature, so that its pace on some features stands for all: as many as
two of its batches, at the batch that is fastest. Times are those of the process, which other work hardly
disturbs; the largest difference is between attributions of the same features by both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from captum.attr import FeatureAblation, ShapleyValueSampling
from exact import machine
from skimage.segmentation import slic
from torch import Tensor, nn

from krypton_engine import KryptonFeatureAblation, KryptonShapleyValueSampling, zoo

BATCHES = (1, 4, 8, 16)
PERMUTATIONS = 25


def superpixels(x: Tensor) -> Tensor:
    """About 100 SLIC superpixels of an image ``(1, 3, h, w)``: ``(1, 1, h, w)``."""
    picture = x[0].permute(1, 2, 0).numpy()
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    return torch.from_numpy(slic(picture, 100, compactness=10, start_label=0))[None, None]


def squares(x: Tensor, rows: int = 7) -> Tensor:
    """``rows`` x ``rows`` square regions: ``(1, 1, h, w)``."""
    height, width = x.shape[-2:]
    down, along = (torch.arange(n) * rows // n for n in (height, width))
    return (down[:, None] * rows + along)[None, None]


def timed(call: Any) -> tuple[float, Any]:
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def captum_pace(model: nn.Module, x: Tensor) -> tuple[int, float]:
    """Captum's fastest batch, and its seconds for an image at that."""
    found = {}
    for batch in BATCHES:
        count = 2 * max(batch, 4)
        stripes = (torch.arange(x.shape[-1]) * count // x.shape[-1])[None, None, None]
        attribute = FeatureAblation(model).attribute
        call = partial(attribute, x, target=0, feature_mask=stripes, perturbations_per_eval=batch)
        found[batch] = timed(call)[0] / (count + 1)
    best = min(found, key=found.__getitem__)
    return best, found[best]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["vgg16", "resnet18"])
    parser.add_argument("--image", default="chelsea")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    print("| model | method | features | steps | than Captum at its best | largest difference |")
    print("|---|---|--:|--:|--:|--:|")
    for name in args.models:
        net = zoo.load_model(name, weights="random")
        model = net.model.to(memory_format=torch.channels_last)
        x = net.preprocess(zoo.load_image(args.image))[None].contiguous(memory_format=torch.channels_last)
        for method, mask, samples in (("ablation", superpixels(x), 1), ("Shapley", squares(x), PERMUTATIONS)):
            features = len(mask.unique())
            ablates = method == "ablation"
            ours: Any = (KryptonFeatureAblation if ablates else KryptonShapleyValueSampling)(model)
            theirs: Any = (FeatureAblation if ablates else ShapleyValueSampling)(model)
            call = {"target": 0} | ({} if ablates else {"n_samples": samples})
            few = {"target": 0} | ({} if ablates else {"n_samples": 1})
            some = mask.clamp(max=7)
            torch.manual_seed(0)
            mine = ours.attribute(x, feature_mask=some, **few)
            torch.manual_seed(0)
            difference = float((mine - theirs.attribute(x, feature_mask=some, **few)).abs().max())
            ratios = []
            for _ in range(args.rounds):
                batch, pace = captum_pace(model, x)
                seconds, _ = timed(partial(ours.attribute, x, feature_mask=mask, **call))
                ratios.append(pace * (features * samples + 1) / seconds)
            row = {"model": name, "method": method, "features": features, "steps": features * samples}
            row |= {"ratios": ratios, "batch": batch, "difference": difference}
            rows.append(row)
            middle = statistics.median(ratios)
            print(
                f"| {name} | {method} | {features} | {features * samples} | **{middle:.1f}x** "
                f"({min(ratios):.1f} to {max(ratios):.1f}) | {difference:.0e} |",
                flush=True,
            )
    if args.out:
        args.out.write_text(json.dumps({"about": machine("auto"), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
