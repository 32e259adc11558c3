"""The module of ``csrc/cuda``, where it is installed, and what it runs on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

try:
    from krypton_engine import _cuda
except ImportError as error:  # built without nvcc
    _cuda = None  # type: ignore[assignment]
    MISSING = f"the CUDA engine is not installed ({error})"
else:
    MISSING = ""

DEVICE = "cuda"

AXES = 3
"""Axes that boxes run along at most, as the kernels have it."""

ELEMENTS = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


@functools.cache
def probe(device: torch.device) -> str:
    """Why a device cannot run the kernels; empty if it can."""
    x = torch.zeros(1, device=device)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    try:
        with torch.cuda.device_of(x):
            _cuda.finish(
                x.data_ptr(), 1, 0, None, [_cuda.Read()] * AXES, [1] * AXES, 1, _cuda.Function.clamp, 0, 1,
                _cuda.Element.float32, stream,
            )  # fmt: skip
    except RuntimeError as error:
        return f"the CUDA engine cannot run on {device} ({error}); it was built for {architectures()}"
    return ""


def architectures() -> str:
    """The compute capabilities that the engine was built for, as CMake names them."""
    return "" if MISSING else _cuda.architectures


def padded(items: list[Any], more: Callable[[], Any]) -> list[Any]:
    """One item for every axis that the kernels know."""
    return [*items, *(more() for _ in range(AXES - len(items)))]
