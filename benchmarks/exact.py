"""Exact incremental occlusion against Captum's own `Occlusion.attribute`: time, memory, numbers.

    python benchmarks/exact.py                      docs/benchmarks.md's table, under 20 minutes on two cores
    python benchmarks/exact.py --quick              one window, fewer positions, under 3 minutes
    python benchmarks/exact.py --survey             one model of every torchvision family
    python benchmarks/exact.py --memory             peaks at stride 1 and 8, and whether budgets are honoured

docs/benchmarks.md says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import json
import math
import multiprocessing
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from captum.attr import Occlusion
from torch import Tensor, nn

from krypton_engine import KryptonOcclusion
from krypton_engine.errors import FallbackWarning, InputError
from krypton_engine.executors.registry import EXECUTORS
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.zoo import load_image, load_model

MODELS = ("vgg16", "resnet18", "inception_v3")
MORE_MODELS = ("densenet121", "mobilenet_v2", "efficientnet-lite0")  # with the first window only
WINDOWS = ("16/4", "16/8", "32/8")
FAMILIES = (
    "alexnet", "vgg11", "resnet18", "resnet50", "inception_v3", "googlenet", "densenet121", "mobilenet_v2",
    "mobilenet_v3_large", "efficientnet_b0", "efficientnet-lite0", "convnext_tiny", "regnet_y_400mf",
    "regnet_x_400mf", "shufflenet_v2_x1_0", "squeezenet1_0", "mnasnet1_0", "resnext50_32x4d", "swin_t",
    "vit_b_16", "maxvit_t",
)  # fmt: skip
BATCHES = (1, 2, 4, 8, 16, 32)
LAYOUTS = {"default": torch.contiguous_format, "channels last": torch.channels_last}
LAYOUTS_OF_VOLUMES = LAYOUTS | {"channels last": torch.channels_last_3d}


def layouts(x: Tensor) -> dict[str, torch.memory_format]:
    """Memory layouts for a batch of images or volumes, by name."""
    return LAYOUTS_OF_VOLUMES if x.dim() == 5 else LAYOUTS


PILOT = 200  # positions: enough for a pace and for the profile
PEAK = 1000  # positions: enough to fill every batch, on which the peak depends
NEVER_BELOW = 0.9  # of Captum's speed, on any model
BUDGETS = (300 * 2**20, 2 * 2**30)
STRIDE_ONE_SLACK = 1.05  # two runs of one program differ by that much in resident memory
clock = time.perf_counter  # time.process_time with --cpu-time
ROOT = Path(__file__).resolve().parent.parent
PAGE_BEGIN, PAGE_END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


@dataclass(frozen=True)
class Spread:
    """A median and what it lies between."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        return Spread(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        digits = 2 if self.median < 9.95 else 1 if self.median < 99.5 else 0
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: Pairs of a Captum and a Krypton run.
        seconds: A Krypton run takes about so long at most; where the whole map does not fit, bands of it do.
        images: Captum runs evaluate at least so many images.
        trials: Runs of which the fastest counts in the search for Captum's best batch and layout.
    """

    rounds: int
    seconds: float
    images: int
    trials: int


FULL = Effort(rounds=3, seconds=15, images=16, trials=2)
QUICK = Effort(rounds=2, seconds=6, images=8, trials=1)
SURVEY = Effort(rounds=3, seconds=8, images=8, trials=1)
SURVEY_QUICK = Effort(rounds=2, seconds=2, images=8, trials=1)


@dataclass(frozen=True)
class Case:
    """A model on an image, as both sides get it, and Captum's best way to run it."""

    name: str
    model: nn.Module
    x: Tensor
    layout: str
    batch: int


@dataclass(frozen=True)
class Result:
    """One row of the table. Memory is in MiB; None where it was not measured."""

    model: str
    size: int
    window: str
    positions: int
    sampled: int
    rounds: int
    captum_batch: int
    captum_layout: str
    captum_ms: Spread
    krypton_ms: Spread
    speed_up: Spread
    executor: str
    reference_ms: Spread | None
    reference_speed_up: Spread | None
    incremental: bool
    redundancy_ratio: float | None
    first_call_seconds: float
    difference: float
    span: float
    beside_layers: float | None
    captum_mib: float | None = None
    krypton_mib: float | None = None


# -- both sides ----------------------------------------------------------------------------------------------


def parse_window(text: str, x: Tensor) -> SlidingWindow:
    """`"16/4"`: a window of 16 x 16 over all channels, by steps of 4."""
    size, stride = map(int, text.split("/"))
    channels = x.shape[1]
    return SlidingWindow(tuple(x.shape[1:]), (channels, size, size), (channels, stride, stride))


def captum_seconds(model: nn.Module, x: Tensor, batch: int, images: int) -> float:
    """Seconds of `Occlusion.attribute` for an image that it evaluates, at `batch` images an evaluation.

    Each is a whole forward pass wherever the window lies and whatever its size, so a grid of a few large
    windows stands for the real one. The un-occluded image is one of those counted.
    """
    count = max(batch, images)
    rows = 2 ** (int(math.log2(count)) // 2)
    height, width = x.shape[-2:]
    window = (*x.shape[1:-2], math.ceil(height / rows), math.ceil(width / (count // rows)))
    evaluated = 1 + len(SlidingWindow(tuple(x.shape[1:]), window, window))
    occlusion = Occlusion(model)
    began = clock()
    occlusion.attribute(x, window, strides=window, target=0, perturbations_per_eval=batch)
    return (clock() - began) / evaluated


def best_for_captum(model: nn.Module, x: Tensor, trials: int) -> tuple[str, int]:
    """Layout and batch at which Captum is fastest."""
    seconds = {}
    for layout, memory_format in layouts(x).items():
        model, x = model.to(memory_format=memory_format), x.contiguous(memory_format=memory_format)
        captum_seconds(model, x, 1, 1)
        for batch in BATCHES:
            seconds[layout, batch] = min(captum_seconds(model, x, batch, 8) for _ in range(trials))
    return min(seconds, key=seconds.__getitem__)


def load_case(name: str, image: str, best: tuple[str, int] | None = None, trials: int = 1) -> Case:
    """A model of the zoo with random weights, in the layout in which Captum is fastest."""
    zoo = load_model(name, weights="random")
    x = zoo.preprocess(load_image(image))[None]
    layout, batch = best or best_for_captum(zoo.model, x, trials)
    memory_format = LAYOUTS[layout]
    model = zoo.model.to(memory_format=memory_format)
    return Case(name, model, x.contiguous(memory_format=memory_format), layout, batch)


def krypton(
    occlusion: KryptonOcclusion, x: Tensor, window: SlidingWindow, region: Tensor | None = None
) -> tuple[float, Heatmap]:
    """Seconds of one call, the attribution at every pixel included, and its heatmap."""
    began = clock()
    heatmap = occlusion.heatmap(x, window.shape, window.strides, region=region)
    heatmap.attribution()
    return clock() - began, heatmap


def first_position(window: SlidingWindow) -> Tensor:
    """The region that only the first position touches."""
    mask = torch.zeros(1, *window.input_shape[1:], dtype=torch.bool)
    mask[:, 0, 0] = True
    return mask


def bands(window: SlidingWindow, share: float) -> Tensor | None:
    """The region of whole rows of positions, about `share` of them in evenly spaced bands; None for all.

    A band is as many neighbouring rows as windows overlap. Of an odd number of bands one is taken, so that
    the window meets the phases of the network's strides alike.
    """
    _, size, _ = window.shape
    _, stride, _ = window.strides
    overlapping = max(1, size // stride)
    every = min(odd(1 / share), odd(window.counts[1] / overlapping - 1))
    if every == 1:
        return None
    mask = torch.zeros(1, *window.input_shape[1:], dtype=torch.bool)
    first = every // 2 * overlapping  # row of positions
    mask[:, (first + overlapping - 1) * stride :: every * overlapping * stride] = True
    return mask


def odd(spacing: float) -> int:
    """The smallest odd number that is not below `spacing`."""
    return 2 * math.ceil((max(spacing, 1) - 1) / 2) + 1


def pilot(window: SlidingWindow) -> Tensor | None:
    """Some `PILOT` positions."""
    return bands(window, 1.5 * PILOT / len(window))


class Side:
    """Krypton with one executor, on a sample of a window's positions that takes about ``seconds``."""

    def __init__(self, occlusion: KryptonOcclusion, x: Tensor, window: SlidingWindow, seconds: float) -> None:
        self.occlusion, self.x, self.window = occlusion, x, window
        self.sampled = 0
        krypton(occlusion, x, window, first_position(window))
        self.alone = min(krypton(occlusion, x, window, first_position(window))[0] for _ in range(4))
        expected = self._whole_map(*krypton(occlusion, x, window, pilot(window)))
        self.region = bands(window, seconds / expected)

    def seconds_a_position(self) -> float:
        """Of the whole map, from those of the sample."""
        seconds, heatmap = krypton(self.occlusion, self.x, self.window, self.region)
        self.sampled = int(heatmap.measured.sum())
        return self._whole_map(seconds, heatmap) / len(self.window)

    def _whole_map(self, seconds: float, heatmap: Heatmap) -> float:
        share = (len(self.window) - 1) / max(int(heatmap.measured.sum()) - 1, 1)
        # Other work on the machine may have stretched a call for one position: a part is no longer than all.
        return max(seconds, self.alone + (seconds - self.alone) * share)


# -- one row of the table ------------------------------------------------------------------------------------


def measure(case: Case, text: str, executor: Any, effort: Effort) -> Result:
    """Times both sides in turns, and compares their numbers."""
    x, window = case.x, parse_window(text, case.x)
    occlusion = KryptonOcclusion(case.model, executor=executor)
    first, heatmap = krypton(occlusion, x, window, first_position(window))
    plan = heatmap.plan
    chosen = plan.executor.split(" ")[0] if plan is not None else "full"
    ours = Side(occlusion, x, window, effort.seconds)
    theirs = None
    if chosen == "native":
        theirs = Side(KryptonOcclusion(case.model, executor="reference"), x, window, effort.seconds)
    captum_ms, krypton_ms, reference_ms = [], [], []
    for _ in range(effort.rounds):
        captum_ms.append(1e3 * captum_seconds(case.model, x, case.batch, effort.images))
        krypton_ms.append(1e3 * ours.seconds_a_position())
        if theirs is not None:
            reference_ms.append(1e3 * theirs.seconds_a_position())
    difference, span = largest_difference(case, occlusion, window)
    return Result(
        model=case.name,
        size=x.shape[-1],
        window=text,
        positions=len(window),
        sampled=ours.sampled,
        rounds=effort.rounds,
        captum_batch=case.batch,
        captum_layout=case.layout,
        captum_ms=Spread.of(captum_ms),
        krypton_ms=Spread.of(krypton_ms),
        speed_up=Spread.of([a / b for a, b in zip(captum_ms, krypton_ms, strict=True)]),
        executor=chosen,
        reference_ms=Spread.of(reference_ms) if reference_ms else None,
        reference_speed_up=(
            Spread.of([a / b for a, b in zip(captum_ms, reference_ms, strict=True)]) if reference_ms else None
        ),
        incremental=plan is not None and plan.incremental,
        redundancy_ratio=None if plan is None else plan.redundancy_ratio,
        first_call_seconds=first - ours.alone,
        difference=difference,
        span=span,
        beside_layers=beside_layers(occlusion if theirs is None else theirs.occlusion, x, window),
    )


def largest_difference(case: Case, occlusion: KryptonOcclusion, window: SlidingWindow) -> tuple[float, float]:
    """Between both sides' outputs, on 2 x 2 positions at corners, edges and centre; and what the map spans.

    Both are over the largest output, and of the class for which they are largest.

    Captum is given the real window and strides over the few pixels that the four windows cover, and a forward
    function that puts them back into the image.
    """
    _, size, _ = window.shape
    _, stride, _ = window.strides
    rows, columns = (sorted({0, n // 2 - 1, n - 2}) for n in window.counts[1:])
    tiles = [(row, column) for row in rows for column in columns]
    mask = torch.zeros(1, *window.input_shape[1:], dtype=torch.bool)
    for row, column in tiles:
        for i in (row * stride, (row + 1) * stride):
            mask[:, i, [column * stride, (column + 1) * stride]] = True
    heatmap = occlusion.heatmap(case.x, window.shape, window.strides, region=mask, classes="all")
    assert heatmap.outputs is not None and heatmap.base_outputs is not None
    scale = float(heatmap.base_outputs.abs().max()) or 1.0  # a new ViT answers 0
    known = heatmap.outputs[heatmap.measured]
    span = float((known.amax(0) - known.amin(0)).max()) / scale
    worst = 0.0
    for row, column in tiles:
        top, left = row * stride, column * stride
        cells = (..., slice(top, top + stride + size), slice(left, left + stride + size))
        seen: list[Tensor] = []
        forward = _pasted(case, cells, seen)
        Occlusion(forward).attribute(
            case.x[cells], window.shape, strides=window.strides, target=0, perturbations_per_eval=4
        )
        theirs = torch.cat(seen[1:]).unflatten(0, (2, 2)).transpose(0, 1)  # Captum counts rows fastest
        mine = heatmap.outputs[row : row + 2, column : column + 2]
        worst = max(worst, float((theirs - mine).abs().max()))
    return worst / scale, span


def _pasted(case: Case, cells: Any, seen: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(part: Tensor) -> Tensor:
        image = case.x.repeat(len(part), 1, 1, 1)
        image[cells] = part
        seen.append(case.model(image))
        return seen[-1]

    return forward


def beside_layers(occlusion: KryptonOcclusion, x: Tensor, window: SlidingWindow) -> float | None:
    """Share of the time that is neither convolution nor linear layer; None where PyTorch sees no layer."""
    layer = re.compile(r"conv(?!ert)|::linear|_linear|addmm|matmul|::b?mm$")

    def within_layer(event: Any) -> bool:
        parent = event.cpu_parent
        return parent is not None and (bool(layer.search(parent.name)) or within_layer(parent))

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        began = time.perf_counter()
        krypton(occlusion, x, window, pilot(window))
        seconds = time.perf_counter() - began
    layers = sum(
        event.cpu_time_total
        for event in profile.events()
        if layer.search(event.name) and not within_layer(event)
    )
    return 1 - layers / 1e6 / seconds if layers else None


# -- memory, each measurement in a process of its own --------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a process of its own measures the peak of."""

    side: str
    model: str
    image: str
    layout: str
    window: str
    threads: int
    batch: int = 1
    executor: Any = "auto"
    budget: int = 2 * 2**30
    whole: bool = False  # the whole map, else some `PEAK` positions of it
    cut_after: float | None = None  # seconds


@dataclass(frozen=True)
class Peak:
    """Bytes added at most; None where the system does not tell, or where the call was refused."""

    bytes: int | None
    note: str = ""


@functools.cache
def peak_of(job: Job) -> Peak:
    """Runs `job` in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, job).result()


def _peak(job: Job) -> Peak:
    torch.set_num_threads(job.threads)
    warnings.simplefilter("ignore", FallbackWarning)
    load_libraries()
    case = load_case(job.model, job.image, (job.layout, job.batch))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    note = ""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = resident("VmRSS")
    except OSError as error:
        return Peak(None, str(error))
    try:
        if job.side == "captum":
            captum_seconds(case.model, case.x, job.batch, 2 * job.batch)
        else:
            occlusion = KryptonOcclusion(case.model, executor=job.executor, memory_budget=job.budget)
            window = parse_window(job.window, case.x)
            with cut(job.cut_after):
                krypton(occlusion, case.x, window, None if job.whole else bands(window, PEAK / len(window)))
    except TimeoutError:
        note = f"cut after {job.cut_after:.0f} s"
    except InputError as error:
        return Peak(None, f"refused: {error}")
    return Peak(resident("VmHWM") - before, note)


def resident(name: str) -> int:
    """Bytes of this process: `VmRSS`, what is resident now, or `VmHWM`, the most that was."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{name}:")[1].split()[0])


@contextmanager
def cut(seconds: float | None) -> Iterator[None]:
    """Raises TimeoutError in the block after `seconds`."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def load_libraries() -> float:
    """Seconds that torch.export takes to load and start, which the first capture of a process pays for."""
    toy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    x = torch.rand(1, 3, 32, 32)
    occlusion = KryptonOcclusion(toy.eval())
    window = parse_window("8/4", x)
    Occlusion(toy).attribute(x, window.shape, strides=window.strides, target=0)
    return krypton(occlusion, x, window)[0] - krypton(occlusion, x, window)[0]


def with_peaks(result: Result, job: Job) -> Result:
    """`result` with the peaks of both sides."""
    sides = replace(job, side="captum", window="", executor=""), replace(job, side="krypton")
    peaks = [peak_of(side).bytes for side in sides]  # Captum's does not depend on the window
    captum_mib, krypton_mib = (None if peak is None else peak / 2**20 for peak in peaks)
    return replace(result, captum_mib=captum_mib, krypton_mib=krypton_mib)


def memory_checks(names: Sequence[str], job: Job, quick: bool) -> tuple[str, list[dict[str, Any]]]:
    """Peaks at stride 8 and 1, and under two budgets."""
    rows: list[dict[str, Any]] = []

    def add(what: str, job: Job, limit: float) -> Peak:
        peak = peak_of(job)
        verdict = "-" if peak.bytes is None else "yes" if peak.bytes <= limit else "**no**"
        rows.append(
            {"model": job.model, "window": job.window, "what": what, "peak": peak.bytes, "limit": limit,
             "kept": verdict, "note": peak.note}
        )  # fmt: skip
        print(f"  {job.model} {job.window}, {what}: {_mib(peak.bytes)} MiB", file=sys.stderr)
        return peak

    for name in names:
        mine = replace(job, side="krypton", model=name)
        for budget in BUDGETS:
            what = f"budget {budget / 2**20:.0f} MiB"
            add(what, replace(mine, window="16/4", budget=budget), budget)
        if name == "resnet18" or len(names) == 1:
            eight = add("stride 8, whole map", replace(mine, window="16/8", whole=True), BUDGETS[-1])
            add(
                "stride 1, whole map: no more than at stride 8",
                replace(mine, window="16/1", whole=True, cut_after=20 if quick else None),
                STRIDE_ONE_SLACK * (eight.bytes or math.inf),
            )
    lines = ["| model | window/stride | what | peak, MiB | limit, MiB | kept | |"]
    lines += ["|---|---|---|--:|--:|---|---|"]
    for row in rows:
        note = row["note"].partition("\n")[0]
        cells = [row["model"], row["window"], row["what"], _mib(row["peak"]), _mib(row["limit"]), row["kept"]]
        lines.append("| " + " | ".join([*cells, note]) + " |")
    return "\n".join(lines), rows


def _mib(count: float | None) -> str:
    return "-" if count is None or math.isinf(count) else f"{count / 2**20:.0f}"


# -- what is written -----------------------------------------------------------------------------------------


def machine(executor: str) -> dict[str, Any]:
    """Where and with what this was measured."""
    cpu = platform.processor()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        cpu = re.findall(r"model name\s*:\s*(.*)", cpuinfo.read_text())[0]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": date.today().isoformat(),
        "cpu": cpu,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "captum")},
        "commit": commit.stdout.strip(),
        "executor": executor,
        "clock": clock.__name__,
    }


def table(results: Sequence[Result], about: dict[str, Any]) -> str:
    """Markdown: a row for every result, then what it was measured on."""
    memory = any(r.krypton_mib is not None for r in results)
    head = [
        "model (pixels)", "window/stride", "Captum at its best, ms a position", "Krypton, ms a position",
        "faster by", "reference executor", "redundancy ratio", "largest difference",
        "reference: beside conv and linear", "first call, s",
    ]  # fmt: skip
    head += ["peak memory, Captum / Krypton, MiB"] if memory else []
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "--:|" * (len(head) - 2)]
    for r in results:
        below = f" **below {NEVER_BELOW}**" if r.speed_up.median < NEVER_BELOW else ""
        row = [
            f"{r.model} ({r.size})",
            r.window,
            f"{r.captum_ms}, batch {r.captum_batch}, {r.captum_layout}",
            f"{r.krypton_ms}, {r.executor}" + ("" if r.incremental else ", full inference"),
            f"**{r.speed_up.median:.2f}x** ({r.speed_up.low:.2f} to {r.speed_up.high:.2f}){below}",
            "-" if r.reference_speed_up is None else f"{r.reference_speed_up.median:.2f}x",
            "-" if r.redundancy_ratio is None else f"{r.redundancy_ratio:.2f}",
            f"{r.difference:.0e} of {r.span:.0e}",
            "-" if r.beside_layers is None else f"{r.beside_layers:.0%}",
            f"{r.first_call_seconds:.1f}",
        ]
        if memory:
            peaks = ("-" if mib is None else f"{mib:.0f}" for mib in (r.captum_mib, r.krypton_mib))
            row.append(" / ".join(peaks))
        lines.append("| " + " | ".join(row) + " |")
    shares = [r.sampled / r.positions for r in results]
    sampled = "whole maps" if min(shares) == 1 else f"{min(shares):.0%} to {max(shares):.0%} of every map"
    threads = "1 thread, CPU time" if about["clock"] == "process_time" else f"{about['threads']} threads"
    lines += [
        "",
        f"{about['cpu']} ({about['instructions']}), {threads}, torch {about['torch']}, "
        f"captum {about['captum']}, executor {about['executor']}, commit {about['commit']}, {about['date']}. "
        f"Median (lowest to highest) of {results[0].rounds} alternated rounds, {sampled}. Starting "
        f"torch.export, once a process, took {about['first_use_seconds']:.1f} s more.",
    ]
    return "\n".join(lines)


def update_page(text: str) -> None:
    """Replaces what lies between the two markers of docs/benchmarks.md."""
    path = ROOT / "docs" / "benchmarks.md"
    before, begin, rest = path.read_text().partition(PAGE_BEGIN)
    _, end, after = rest.partition(PAGE_END)
    if not (begin and end):
        sys.exit(f"{path} has no {PAGE_BEGIN} ... {PAGE_END} to put the table between")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def main() -> None:
    global clock
    args = arguments()
    torch.set_num_threads(1 if args.cpu_time else args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    warnings.simplefilter("ignore", FallbackWarning)
    about = machine(args.executor)
    if about["load_before"] > 0.5:
        print(f"load average {about['load_before']:.1f}: other work disturbs the timings", file=sys.stderr)
    kind = "memory" if args.memory else "survey" if args.survey else "exact"
    out = args.out or ROOT / "benchmarks" / "results" / f"{kind}-{about['date']}.json"
    job = Job("krypton", "", args.image, "default", "16/4", torch.get_num_threads(), executor=args.executor)
    if args.memory:
        text, rows = memory_checks(args.models or MODELS, job, args.quick)
        write(out, about, rows)
    else:
        about["first_use_seconds"] = load_libraries()
        results: list[Result] = []
        for result in comparisons(args, job):
            print(f"  {result.model} {result.window}: {result.speed_up}x", file=sys.stderr)
            results.append(result)
            write(out, about, [asdict(result) for result in results])
        text = table(results, about)
    print(text)
    print(f"written to {out}", file=sys.stderr)
    if args.update_page:
        update_page(text)


def comparisons(args: argparse.Namespace, job: Job) -> Iterator[Result]:
    """One result for every model and window; with peaks, except in the survey."""
    full, quick = (SURVEY, SURVEY_QUICK) if args.survey else (FULL, QUICK)
    effort = quick if args.quick else full
    windows = args.windows or (WINDOWS[:1] if args.quick or args.survey else WINDOWS)
    for name in args.models or (FAMILIES if args.survey else MODELS + MORE_MODELS):
        case = load_case(name, args.image, trials=effort.trials)
        for window in windows[:1] if name in MORE_MODELS and not args.models else windows:
            result = measure(case, window, args.executor, effort)
            if not args.survey:
                mine = replace(job, model=name, layout=case.layout, window=window, batch=case.batch)
                result = with_peaks(result, mine)
            yield result


def write(path: Path, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The JSON file, written anew after every result: a run that is cut short leaves what it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": about, "results": rows}, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--survey", action="store_true", help="one model of every family, window 16/4")
    what.add_argument("--memory", action="store_true", help="memory checks")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models of krypton_engine.zoo")
    parser.add_argument("--windows", nargs="+", metavar="SIZE/STRIDE", help=f"default {' '.join(WINDOWS)}")
    parser.add_argument("--executor", choices=EXECUTORS, default="auto")
    parser.add_argument("--quick", action="store_true", help="fewer positions, rounds and windows")
    parser.add_argument("--image", default="chelsea", help="a picture of krypton_engine.zoo, or a file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--cpu-time", action="store_true", help="time one thread on the CPU: for a machine with other work"
    )
    parser.add_argument("--out", type=Path, help="JSON file; default benchmarks/results/KIND-DATE.json")
    parser.add_argument("--update-page", action="store_true", help="put the table into docs/benchmarks.md")
    args = parser.parse_args()
    for text in args.windows or ():
        if not re.fullmatch(r"\d+/\d+", text):
            parser.error(f"--windows takes SIZE/STRIDE such as 16/4, got {text!r}")
    if args.update_page and (args.survey or args.memory):
        parser.error("--update-page goes with the main table only")
    return args


if __name__ == "__main__":
    main()
