"""What would make explaining faster on a machine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_LIMITS = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "MKL_NUM_THREADS")
_BINDINGS = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
_CAPABILITY = "ATEN_CPU_CAPABILITY"


@dataclass(frozen=True)
class Machine:
    """What speed depends on.

    Attributes:
        processors: Processors of the machine.
        allowed: Processors that this process may use, by its affinity and its container's quota.
        threads: Number of PyTorch's threads.
        load: Processes that wanted a processor in the last minute, on average; 0 where that is unknown.
        engine_missing: Why the C++ engine is missing; empty where it is installed.
        kernels: Instruction sets of the engine's kernels that this machine has, best first.
        gpu: Whether PyTorch sees one.
        driver: Whether there is an NVIDIA driver.
        cuda_missing: Why the CUDA engine is missing; empty where it is installed.
        environment: Environment variables.
    """

    processors: int
    allowed: float
    threads: int
    load: float = 0.0
    engine_missing: str = ""
    kernels: tuple[str, ...] = ("avx2", "portable")
    gpu: bool = False
    driver: bool = False
    cuda_missing: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def here() -> Machine:
        """This machine, as this process sees it.

        Examples:
            >>> machine = Machine.here()
            >>> 1 <= machine.allowed <= machine.processors
            True
        """
        import torch

        from krypton_engine.executors import registry
        from krypton_engine.executors.base import Unsupported
        from krypton_engine.executors.native import engine

        try:
            registry.executor("cuda").about()
            cuda_missing = ""
        except Unsupported as reason:
            cuda_missing = str(reason)
        return Machine(
            processors=os.cpu_count() or 1,
            allowed=engine.processors(),
            threads=torch.get_num_threads(),
            load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
            engine_missing=engine.MISSING,
            kernels=tuple(engine.instruction_sets()),
            gpu=torch.cuda.is_available(),
            driver=Path("/proc/driver/nvidia/version").exists(),
            cuda_missing=cuda_missing,
            environment=dict(os.environ),
        )


def advice(machine: Machine) -> list[str]:
    """What would make explaining faster, what brings most first; nothing where all is well.

    Examples:
        >>> advice(Machine(processors=8, allowed=8, threads=8))
        []
        >>> for sentence in advice(Machine(8, 8, threads=1, environment={"OMP_NUM_THREADS": "1"})):
        ...     print(sentence)
        PyTorch and the engine take 1 of 8 processors: unset OMP_NUM_THREADS=1
    """
    found = (rule(machine) for rule in (_gpu, _engine, _processors, _threads, _capability, _load))
    return [sentence for sentence in found if sentence]


def _gpu(machine: Machine) -> str:
    if machine.driver and not machine.gpu:
        return "there is an NVIDIA driver, but this PyTorch sees no GPU: install one that is built for CUDA"
    if machine.gpu and machine.cuda_missing:
        return f"the GPU runs PyTorch alone: {machine.cuda_missing}"
    return ""


def _engine(machine: Machine) -> str:
    if machine.engine_missing:
        return f"{machine.engine_missing}: with it, maps take a half to a third of the time"
    if machine.kernels == ("portable",):
        return "the processor has no AVX2, or a virtual machine hides it: with it, two to three times as fast"
    return ""


def _processors(machine: Machine) -> str:
    if math.ceil(machine.allowed) >= machine.processors:
        return ""
    bound = _set(machine, _BINDINGS)
    why = f"unset {bound}, which binds threads to them" if bound else "see taskset, or the container's quota"
    return f"this process may use {machine.allowed:g} of {machine.processors} processors: {why}"


def _threads(machine: Machine) -> str:
    allowed = math.ceil(machine.allowed)
    if machine.threads >= allowed:
        return ""
    limit = _set(machine, _LIMITS)
    how = f"unset {limit}" if limit else f"torch.set_num_threads({allowed})"
    return f"PyTorch and the engine take {machine.threads} of {allowed} processors: {how}"


def _capability(machine: Machine) -> str:
    lowered = _set(machine, (_CAPABILITY,))
    return f"unset {lowered}, by which PyTorch's own kernels do without newer instructions" if lowered else ""


def _load(machine: Machine) -> str:
    if machine.load < 0.5:
        return ""
    return (
        f"in the last minute {machine.load:.1f} of {machine.processors} processors were busy: "
        "what was measured here may be too low"
    )


def _set(machine: Machine, names: tuple[str, ...]) -> str:
    """The variables that are set, as a shell shows them."""
    return " ".join(f"{name}={machine.environment[name]}" for name in names if name in machine.environment)
