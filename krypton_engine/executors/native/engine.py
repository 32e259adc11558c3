"""The C++ engine, where it is installed, its instruction sets and its threads."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

try:
    from krypton_engine import _native as _native
except ImportError as error:  # a pure Python install
    _native = None  # type: ignore[assignment]
    MISSING = f"the C++ engine is not installed ({error})"
else:
    MISSING = ""


def instruction_sets() -> list[str]:
    """Instruction sets of this machine that the engine has kernels for, best first.

    Examples:
        >>> instruction_sets()[-1]  # for any processor
        'portable'
    """
    return [] if MISSING else _native.instruction_sets()


def peak(instruction_set: str, seconds: float) -> float:
    """The most operations a second that a core reaches, in a loop of multiply-adds in registers.

    Args:
        instruction_set: One of `instruction_sets`.
        seconds: Time to take; the best of what it holds counts.

    Examples:
        >>> peak("portable", seconds=0.01) > 1e8
        True
    """
    return _native.peak(instruction_set, seconds)


def processors() -> float:
    """Processors that this process may use, by its affinity and the quota of its container.

    Examples:
        >>> 0 < processors() <= os.cpu_count()
        True
    """
    allowed: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            allowed = min(allowed, int(quota) / int(period))
    except (OSError, ValueError):
        pass
    return allowed


def threads() -> int:
    """Threads to use: PyTorch's number, and no more processors than the process may use.

    Examples:
        >>> 1 <= threads() <= torch.get_num_threads()
        True
    """
    return max(1, min(torch.get_num_threads(), math.ceil(processors())))
