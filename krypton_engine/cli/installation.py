"""What is installed here, and what is missing: versions, memory, executors, extras."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import krypton_engine
from krypton_engine.cli.text import row

_DISTRIBUTION = "krypton-occlusion"


def show_installation() -> bool:
    """Print versions, executors and extras, each with what it lacks.

    Returns:
        Whether PyTorch is there, without which nothing runs.

    Examples:
        >>> show_installation()
        krypton     ...
        executors
        ...
        extras
        ...
        True
    """
    row("krypton", f"{krypton_engine.__version__} in {Path(krypton_engine.__file__).parent}")
    row("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    try:
        import torch
    except ImportError as error:
        row("torch", f"missing ({error}): pip install torch")
        return False
    row("torch", f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    row("captum", _version("captum") or "missing: pip install captum")
    row("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors")
    row("memory", memory())
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    row("gpu", ", ".join(devices) or "torch sees none")
    _show_executors()
    _show_extras()
    return True


def _show_executors() -> None:
    from krypton_engine.executors import registry

    print("\nexecutors")
    for name in registry.NAMES:
        row(f"  {name}", _about(name))


def _show_extras() -> None:
    print("\nextras")
    extras = extras_missing()
    if not extras:
        row("  unknown", f"{_DISTRIBUTION} is not installed here, this is a source tree")
    if complete := [extra for extra, missing in extras.items() if not missing]:
        row("  complete", ", ".join(complete))
    for extra, missing in extras.items():
        if missing:
            row(f"  {extra}", f'without {", ".join(missing)}: pip install "{_DISTRIBUTION}[{extra}]"')


def _about(name: str) -> str:
    """Whether an executor runs on this machine, and its hardware or the reason why not."""
    from krypton_engine.executors import registry
    from krypton_engine.executors.base import Unsupported

    try:
        return f"yes: {registry.executor(name).about()}"
    except Unsupported as reason:
        return f"no: {reason}"


def memory(root: Path = Path("/")) -> str:
    """Memory that this process may use, and the free part of it where the system knows that.

    Examples:
        >>> memory(root=Path("no such folder"))  # which holds neither /proc nor control groups
        '... GiB'
    """
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return "unknown"
    found = re.search(r"MemAvailable:\s*(\d+) kB", _read(root / "proc/meminfo"))
    free = [1024 * int(found[1])] if found else []
    limits = [(limit, used) for limit, used in _container(root) if limit < total]
    told = f"{min([total, *(limit for limit, _ in limits)]) / 2**30:.1f} GiB"
    free += [max(0, limit - used) for limit, used in limits]
    told += f", {min(free) / 2**30:.1f} GiB available" if free else ""
    return told + f" (the container's; the machine has {total / 2**30:.1f} GiB)" * bool(limits)


def _container(root: Path) -> Iterator[tuple[int, int]]:
    """Limits of memory of the control groups around this process, and the memory that counts against each.

    A container sees its own group as the uppermost one, whatever it is called outside.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":  # version 2
            mount, limit, used, cache = "", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit, used = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        top = root / "sys/fs/cgroup" / mount
        group = top / name.lstrip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
            if (most := _read(folder / limit).strip()).isdigit():
                kept = re.search(rf"^{cache} (\d+)", _read(folder / "memory.stat"), re.MULTILINE)
                now = _read(folder / used).strip()
                yield int(most), (int(now) if now.isdigit() else 0) - (int(kept[1]) if kept else 0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def extras_missing() -> dict[str, list[str]]:
    """The missing packages of every extra.

    Examples:
        >>> from unittest import mock
        >>> wanted = ["torch; extra == 'demo'", "no-such-package; extra == 'demo'", "numpy; extra == 'test'"]
        >>> with mock.patch("importlib.metadata.requires", lambda name: wanted):
        ...     extras_missing()
        {'demo': ['no-such-package'], 'test': []}
    """
    try:
        wanted = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return {}
    extras: dict[str, list[str]] = {}
    for requirement in wanted:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        name = re.match(r"[\w.-]+", requirement)
        if extra is None or name is None:
            continue
        missing = extras.setdefault(extra[1], [])
        if _version(name[0]) is None:
            missing.append(name[0])
    return extras


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
