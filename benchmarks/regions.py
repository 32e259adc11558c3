"""What covers regions, against Captum's own or shap's, alternated.

    python benchmarks/regions.py                     # VGG16 and ResNet18, random weights, one photograph
    python benchmarks/regions.py --models resnet18 --rounds 3 --threads 1
    python benchmarks/regions.py --methods Owen      # needs pip install shap

Feature ablation of 100 SLIC superpixels, and of 98 regions of two small squares far apart each (scattered);
Shapley sampling of 25 permutations of 49 square regions, and the interactions of all their pairs; a
deletion curve of 196 patches; and 500 evaluations of Owen values in the hierarchy of ``shap.maskers.Image``.
Captum and shap evaluate the whole network for every step, so that their pace on some stands for all, at the
batch that is fastest; interactions and curves, which neither has, are set against as many evaluations. Times
are those of the process, which other work hardly disturbs; the largest difference is between both on the same
features, or for want of another's from full passes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import FeatureAblation, ShapleyValueSampling
from exact import machine
from skimage.segmentation import slic
from torch import Tensor, nn

from krypton_engine import KryptonFeatureAblation, KryptonShapleyValueSampling, owen_values, zoo
from krypton_engine.evaluate import deletion

BATCHES = (1, 4, 8, 16)
PERMUTATIONS = 25
EVALUATIONS, FEW = 500, 98
METHODS = ("ablation", "scattered", "Shapley", "pairs", "deletion", "Owen")


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


def mirrored(x: Tensor, rows: int = 14) -> Tensor:
    """Regions of two squares each, opposite each other about the middle: ``(1, 1, h, w)``."""
    numbers = squares(x, rows)
    return torch.minimum(numbers, rows * rows - 1 - numbers)


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


def shap_values(model: nn.Module, x: Tensor, evaluations: int, batch: int) -> Tensor:
    """Owen values by shap itself: ``(1, 3, h, w)``."""
    import shap

    def forward(pictures: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)  # channels last
        with torch.no_grad():
            return model(images).numpy()

    picture = x.permute(0, 2, 3, 1).numpy()
    explainer = shap.PartitionExplainer(forward, shap.maskers.Image(np.zeros(picture.shape[1:], np.float32)))
    values = explainer(picture, max_evals=evaluations, batch_size=batch, outputs=[0], silent=True).values
    return torch.from_numpy(values[..., 0]).permute(0, 3, 1, 2)


def shap_pace(model: nn.Module, x: Tensor) -> tuple[int, float]:
    """Shap's fastest batch, and its seconds for an evaluation at that; compiling and trees left out."""
    found = {}
    for batch in BATCHES[1:]:
        trees = timed(partial(shap_values, model, x, 2, batch))[0]
        seconds = timed(partial(shap_values, model, x, 2 + FEW, batch))[0]
        found[batch] = (seconds - trees) / FEW
    best = min(found, key=found.__getitem__)
    return best, found[best]


def owen_row(model: nn.Module, x: Tensor, rounds: int) -> dict[str, Any]:
    """Owen values by both."""
    call = partial(owen_values, model, x, target=0)
    mine, right = call(max_evals=FEW), shap_values(model, x, FEW, batch=10)
    ratios = []
    for _ in range(rounds):
        batch, pace = shap_pace(model, x)
        seconds, _ = timed(partial(call, max_evals=EVALUATIONS))
        ratios.append(pace * EVALUATIONS / seconds)
    row = {"method": "Owen", "features": mine.numel(), "steps": EVALUATIONS, "ratios": ratios, "batch": batch}
    return row | {"difference": float((mine - right).abs().max()), "largest": float(right.abs().max())}


def captum_row(model: nn.Module, x: Tensor, method: str, rounds: int) -> dict[str, Any]:
    """Ablation or Shapley values by both."""
    ablates = method != "Shapley"
    masks = {"ablation": superpixels, "scattered": mirrored, "Shapley": squares}
    mask, samples = masks[method](x), 1 if ablates else PERMUTATIONS
    features = len(mask.unique())
    ours: Any = (KryptonFeatureAblation if ablates else KryptonShapleyValueSampling)(model)
    theirs: Any = (FeatureAblation if ablates else ShapleyValueSampling)(model)
    call = {"target": 0} | ({} if ablates else {"n_samples": samples})
    few = {"target": 0} | ({} if ablates else {"n_samples": 1})
    some = mask.clamp(max=7)  # the last of these is the rest
    torch.manual_seed(0)
    mine = ours.attribute(x, feature_mask=some, **few)
    torch.manual_seed(0)
    right = theirs.attribute(x, feature_mask=some, **few)
    ratios = []
    for _ in range(rounds):
        batch, pace = captum_pace(model, x)
        seconds, _ = timed(partial(ours.attribute, x, feature_mask=mask, **call))
        ratios.append(pace * (features * samples + 1) / seconds)
    row = {"method": method, "features": features, "steps": features * samples, "ratios": ratios}
    return row | {
        "batch": batch,
        "difference": float((mine - right).abs().max()),
        "largest": float(right.abs().max()),
    }


def full_row(model: nn.Module, x: Tensor, method: str, rounds: int) -> dict[str, Any]:
    """What Captum does not have, against full evaluations at Captum's pace."""
    mask = squares(x)
    features = len(mask.unique())
    if method == "pairs":
        call: Any = partial(KryptonFeatureAblation(model).interactions, x, target=0, feature_mask=mask)
        steps, found = features * (features + 1) // 2, call()[0]
        pair = torch.where((mask == 3) | (mask == 40), 0.0, x)
        with torch.no_grad():
            right = model(x)[0, 0] - model(pair)[0, 0] - found[3, 3] - found[40, 40]
        difference, largest = float((found[3, 40] - right).abs()), float(found.diagonal().abs().max())
    else:
        order = torch.arange(196.0, 0, -1)[squares(x, 14)]
        call = partial(deletion, model, x, order, regions=16, target=0, activation=None)
        curve, steps = call(), 196
        half = torch.where(order > 98, 0.0, x)
        with torch.no_grad():
            difference = abs(float(model(half)[0, 0]) - float(curve.values[98]))
        largest = float(np.ptp(curve.values))
        features = steps
    ratios = []
    for _ in range(rounds):
        batch, pace = captum_pace(model, x)
        ratios.append(pace * (steps + 1) / timed(call)[0])
    row = {"method": method, "features": features, "steps": steps, "ratios": ratios, "batch": batch}
    return row | {"difference": difference, "largest": largest}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["vgg16", "resnet18"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS[:-1])
    parser.add_argument("--image", default="chelsea")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    print("| model | method | features | steps | than Captum or shap at its best | largest difference |")
    print("|---|---|--:|--:|--:|--:|")
    for name in args.models:
        net = zoo.load_model(name, weights="random")
        model = net.model.to(memory_format=torch.channels_last)
        x = net.preprocess(zoo.load_image(args.image))[None].contiguous(memory_format=torch.channels_last)
        for method in args.methods:
            if method == "Owen":
                row = owen_row(model, x, args.rounds)
            else:
                by = full_row if method in ("pairs", "deletion") else captum_row
                row = by(model, x, method, args.rounds)
            rows.append({"model": name} | row)
            ratios = row["ratios"]
            print(
                f"| {name} | {method} | {row['features']} | {row['steps']} | "
                f"**{statistics.median(ratios):.1f}x** ({min(ratios):.1f} to {max(ratios):.1f}) | "
                f"{row['difference']:.0e} of {row['largest']:.0e} |",
                flush=True,
            )
    if args.out:
        args.out.write_text(json.dumps({"about": machine("auto"), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
