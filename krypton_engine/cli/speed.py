"""The speed of this machine: what the processors reach at most, and what share of that explaining takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from krypton_engine import KryptonOcclusion, Plan
from krypton_engine.cli.text import duration
from krypton_engine.common.figures import figure
from krypton_engine.executors.native import engine
from krypton_engine.plan.measured import Measured
from krypton_engine.plan.steps import Step

_SIDE, _WINDOW, _STRIDE = 112, 16, 8
_PEAK_SECONDS = 0.3
_RUNS = 3
_FULL_IMAGES = 4
"""Images of one full pass: more are no faster, image for image."""


@dataclass(frozen=True)
class Speed:
    """One explanation, timed.

    Attributes:
        question: Network and window, in words.
        executor: The executor that ran, and why.
        kernels: Instruction set of the engine's kernels; empty without the engine.
        threads: Number of threads.
        peak: Operations a second of all threads together in a loop in registers; None without the engine.
        rates: Operations a second of all threads together, counted as of direct convolutions, by the
            kernel's side.
        positions: Number of windows.
        seconds: Time of the map.
        full_seconds: Time of PyTorch's full passes for the same windows.
    """

    question: str
    executor: str
    kernels: str
    threads: int
    peak: float | None
    rates: dict[int, float]
    positions: int
    seconds: float
    full_seconds: float


def measured() -> Speed:
    """The speed of a small network under a window, on the CPU: the best of a few runs, in some seconds.

    Examples:
        >>> from unittest import mock
        >>> quick = {"_SIDE": 48, "_RUNS": 1, "_PEAK_SECONDS": 0.01}
        >>> with mock.patch.multiple("krypton_engine.cli.speed", **quick):
        ...     measured().positions
        25
    """
    threads = engine.threads()
    kernels = "" if engine.MISSING else engine.instruction_sets()[0]
    peak = _peak(kernels, threads) if kernels else None
    model, x = _question()
    occlusion = KryptonOcclusion(model)
    runs = [_run(occlusion, x) for _ in range(1 + _RUNS)][1:]  # the first one captures, too
    plan, run = min(runs, key=lambda run: run[1].seconds)
    convolutions = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    sides = {name: layer.kernel_size[0] for name, layer in convolutions}
    with torch.no_grad():
        full = _quickest(lambda: model(x.expand(_FULL_IMAGES, -1, -1, -1))) / _FULL_IMAGES
    return Speed(
        question=f"a small network, {_WINDOW} x {_WINDOW} pixels covered of {_SIDE} x {_SIDE}",
        executor=plan.executor,
        kernels=kernels,
        threads=threads,
        peak=peak,
        rates={side: threads * _rate(plan.steps, run, sides, side) for side in sorted({*sides.values()})},
        positions=len(plan.window),
        seconds=run.seconds,
        full_seconds=full * len(plan.window),
    )


def rows(speed: Speed) -> Iterator[tuple[str, str]]:
    """Names and values of a table.

    Examples:
        >>> speed = Speed("a network", "native", "avx2", 2, 1e11, {1: 8e10, 3: 1.7e11}, 169, 0.5, 6.0)
        >>> for name, value in rows(speed):
        ...     print(name, value, sep=": ")
        peak: 100 GFLOP/s, multiply-adds in registers, avx2 on 2 threads
        1 x 1: 80 GFLOP/s, 80 % of the peak
        3 x 3: 170 GFLOP/s, 170 % of the peak (as a direct convolution; Winograd's multiplies less)
        map: 0.5 s for 169 windows
        PyTorch: 6 s for as many full passes, 12 times that
    """
    threads = f"{speed.threads} thread{'s' * (speed.threads > 1)}"
    if speed.peak is None:
        yield "peak", "unknown without the C++ engine, which measures it"
    else:
        yield "peak", f"{_giga(speed.peak)}, multiply-adds in registers, {speed.kernels} on {threads}"
    for side, rate in speed.rates.items():
        share = f", {rate / speed.peak:.0%} of the peak".replace("%", " %") if speed.peak else ""
        less = " (as a direct convolution; Winograd's multiplies less)" if speed.peak and side > 1 else ""
        yield f"{side} x {side}", f"{_giga(rate)}{share}{less}"
    yield "map", f"{duration(speed.seconds)} for {speed.positions} windows"
    times = figure(speed.full_seconds / speed.seconds)
    yield "PyTorch", f"{duration(speed.full_seconds)} for as many full passes, {times} times that"


def _giga(rate: float) -> str:
    return f"{figure(rate / 1e9)} GFLOP/s"


def _peak(kernels: str, threads: int) -> float:
    """Operations a second of all threads together, each in its loop."""
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda _: engine.peak(kernels, _PEAK_SECONDS), range(threads)))


def _question() -> tuple[nn.Module, Tensor]:
    """A network of the layers that most time goes into, and an image for it."""
    generator = torch.Generator().manual_seed(0)

    def convolution(inputs: int, outputs: int, side: int) -> tuple[nn.Module, nn.Module]:
        layer = nn.Conv2d(inputs, outputs, side, padding=side // 2)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        return layer, nn.ReLU()

    model = nn.Sequential(
        *convolution(3, 64, 3), *convolution(64, 64, 3), nn.MaxPool2d(2),
        *convolution(64, 128, 3), *convolution(128, 256, 1), *convolution(256, 128, 1),
        *convolution(128, 128, 3), nn.MaxPool2d(2),
        *convolution(128, 512, 1), *convolution(512, 128, 1), *convolution(128, 256, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    return model.eval(), torch.randn(1, 3, _SIDE, _SIDE, generator=generator)


def _run(occlusion: KryptonOcclusion, x: Tensor) -> tuple[Plan, Measured]:
    window, stride = (3, _WINDOW, _WINDOW), (3, _STRIDE, _STRIDE)
    plan = occlusion.heatmap(x, window, stride, target=0, analyze=True).plan
    assert plan is not None and plan.measured is not None  # of a network that runs incrementally
    return plan, plan.measured


def _rate(steps: Sequence[Step], run: Measured, sides: Mapping[str, int], side: int) -> float:
    """Operations a second of one thread, in the convolutions with a kernel of this side."""
    found = [(step, run.costs[step.index]) for step in steps if sides.get(step.name) == side]
    operations = sum(2 * step.macs / step.cells * cost.cells for step, cost in found)
    return operations / sum(cost.seconds for _, cost in found)


def _quickest(call: Callable[[], object]) -> float:
    def seconds() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    call()
    return min(seconds() for _ in range(_RUNS))
