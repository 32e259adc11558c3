"""The module of ``csrc/cuda``, where it is installed, and the devices that it runs on."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from krypton_engine.executors.base import Unsupported

try:
    from krypton_engine import _cuda as _cuda
except ImportError as error:  # built without nvcc
    _cuda = None  # type: ignore[assignment]
    MISSING = f"the CUDA engine is not installed ({error})"
else:
    MISSING = ""

T = TypeVar("T")

DEVICE = "cuda"

AXES = 3
"""Axes that boxes run along at most, as the kernels have it."""

ELEMENTS = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def probe(device: torch.device) -> None:
    """Run the smallest kernel on a device, once.

    Raises:
        Unsupported: The device cannot run it.
    """
    if refused := _refused(device):
        raise Unsupported(refused)


@functools.cache
def _refused(device: torch.device) -> str:
    """The reason why a device cannot run the kernels; empty if it can."""
    x = torch.zeros(1, device=device)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    try:
        with torch.cuda.device_of(x):
            _cuda.finish(
                x.data_ptr(), 1, 0, None, [_cuda.Read()] * AXES, [1] * AXES, 1, _cuda.Function.identity, 0, 1,
                0, _cuda.Element.float32, stream,
            )  # fmt: skip
    except RuntimeError as error:
        return f"the CUDA engine cannot run on {device} ({error}); it was built for {architectures()}"
    return ""


def architectures() -> str:
    """The compute capabilities that the engine was built for, as CMake names them.

    Examples:
        >>> bool(architectures()) != bool(MISSING)  # empty without an engine, else "75-real;90", say
        True
    """
    return "" if MISSING else _cuda.architectures


def about(devices: int) -> str:
    """The compute capabilities that the engine was built for, in words.

    Args:
        devices: Number of GPUs that PyTorch sees.

    Raises:
        Unsupported: The engine is missing, or there is no GPU.

    Examples:
        >>> about(devices=0)
        Traceback (most recent call last):
        krypton_engine.executors.base.Unsupported: ...
    """
    if MISSING:
        raise Unsupported(MISSING)
    built = f"built for compute capabilities {capabilities(architectures())}"
    if not devices:
        raise Unsupported(f"no GPU that torch sees; {built}")
    return built


def capabilities(architectures: str) -> str:
    """CMake's names of compute capabilities as NVIDIA writes them.

    Examples:
        >>> from krypton_engine.executors.cuda.engine import capabilities
        >>> capabilities("75-real;90")
        '7.5, 9.0 and PTX'
    """
    found = re.findall(r"(\d+)(\d)[af]?(-real|-virtual)?", architectures)
    if not found:  # such as "native"
        return architectures
    kernels = ", ".join(f"{major}.{minor}" for major, minor, kind in found if kind != "-virtual")
    ptx = any(kind != "-real" for *_, kind in found)
    return " and ".join([kernels] * bool(kernels) + ["PTX"] * ptx)


def padded(items: Sequence[T], more: Callable[[], T]) -> list[T]:
    """Items for all axes of the kernels, of which some are given.

    Examples:
        >>> padded([8, 6], lambda: 1)
        [8, 6, 1]
    """
    return [*items, *(more() for _ in range(AXES - len(items)))]
