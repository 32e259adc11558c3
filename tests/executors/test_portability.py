"""The engine as other systems see it: a compiler that brings their headers compiles every file for them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nanobind
import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"

# Systems, and what CMake calls their processors there. On macOS an int64_t is no long; on Windows a long has
# 32 bits, and every 64-bit number that is cut down to them is an error.
SYSTEMS = {"aarch64-macos": "arm64", "x86_64-windows-gnu": "AMD64"}
FLAGS = [
    "-std=c++20", f"-I{CSRC}", "-g0", "-fno-sanitize=undefined",
    "-Wall", "-Wextra", "-Wshorten-64-to-32", "-Werror",
]  # fmt: skip

# What Python's headers ask about their system: the file beside them answers for this one.
PYCONFIG = """
#ifdef _WIN32
#define MS_WINDOWS
#define MS_WIN64
#define NT_THREADS
#else
#define HAVE_PTHREAD_H 1
#endif
#define HAVE_WCHAR_H 1
#define SIZEOF_SHORT __SIZEOF_SHORT__
#define SIZEOF_INT __SIZEOF_INT__
#define SIZEOF_LONG __SIZEOF_LONG__
#define SIZEOF_LONG_LONG __SIZEOF_LONG_LONG__
#define SIZEOF_VOID_P __SIZEOF_POINTER__
#define SIZEOF_SIZE_T __SIZEOF_SIZE_T__
#define SIZEOF_WCHAR_T __SIZEOF_WCHAR_T__
#define SIZEOF_FLOAT 4
#define SIZEOF_DOUBLE 8
#define SIZEOF_TIME_T 8
#define ALIGNOF_MAX_ALIGN_T 16
"""


def kernel_flags(processor: str) -> list[list[str]]:
    """Flags of the kernels' file by instruction set, as CMakeLists.txt has them for a processor."""
    branches = re.findall(
        r'PROCESSOR MATCHES "(.*)"\)((?:\s*krypton_kernels\(.*\))+)', (ROOT / "CMakeLists.txt").read_text()
    )
    (calls,) = [calls for names, calls in branches if processor in names.split("|")]
    found = []
    for isa, lanes, tile, more in re.findall(r"krypton_kernels\((\w+) (\d+) (\d+)(.*)\)", calls):
        defined = [f"-DKRYPTON_ISA={isa}", f"-DKRYPTON_LANES={lanes}", f"-DKRYPTON_TILE={tile}"]
        # This compiler calls the levels of a processor by names without hyphens.
        found.append([*defined, *more.replace("x86-64-v", "x86_64_v").split()])
    return found


def python_headers(folder: Path) -> Path:
    """Python's headers, but for the one that describes a system."""
    for header in Path(sysconfig.get_path("include")).iterdir():
        if header.name != "pyconfig.h":
            (folder / header.name).symlink_to(header)
    (folder / "pyconfig.h").write_text(PYCONFIG)
    return folder


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_file_compiles_elsewhere(system, request, tmp_path):
    bindings = ["-isystem", nanobind.include_dir(), "-isystem", str(python_headers(tmp_path))]
    bindings.append('-DKRYPTON_CUDA_ARCHITECTURES=""')
    # As CMake has it; for Windows, nanobind asks for the system's own C++ library to be built so.
    if system.endswith("macos"):
        bindings += ["-DNB_BACKEND_MODULE=nanobind_backend", "-DPy_LIMITED_API=0x030B0000"]
    kernels = CSRC / "cpu" / "kernels.cpp"
    jobs = [(kernels, flags) for flags in kernel_flags(SYSTEMS[system])]
    jobs += [(path, []) for path in CSRC.rglob("*.cu")]
    others = sorted({*CSRC.rglob("*.cpp")} - {kernels, *(CSRC / "tests").glob("*.cpp")})
    assert len(others) > 20
    # The rest in two pieces, since most of the time goes into the headers that all of them include.
    for name, flags in (("engine", []), ("bindings", bindings)):
        paths = [path for path in others if (path.parent.name == "bindings") == (name == "bindings")]
        together = tmp_path / f"{name}.cpp"
        together.write_text("".join(f'#include "{path}"\n' for path in paths))
        jobs.append((together, flags))

    def compiled(number: int) -> str:
        path, flags = jobs[number]
        language = ["-x", "c++"] if path.suffix == ".cu" else []  # for the host, as the tests do
        command = [sys.executable, "-m", "ziglang", "c++", "-target", system, *FLAGS, *flags, *language]
        cache = os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(request.config.cache.mkdir("zig"))}
        done = subprocess.run(
            [*command, "-c", str(path), "-o", str(tmp_path / f"{number}.o")],
            capture_output=True,
            text=True,
            env=cache,
        )
        return done.stdout + done.stderr if done.returncode else ""

    with ThreadPoolExecutor(2) as pool:
        wrong = [output for output in pool.map(compiled, range(len(jobs))) if output]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", ["csrc", "benchmarks"])
def test_numbers_have_one_size_everywhere(path):
    """No `long`, of 64 bits here and of 32 on Windows, and no literal of that type."""
    files = [p for p in (ROOT / path).rglob("*") if p.suffix in (".cpp", ".h", ".cu")]
    assert files
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            code = re.sub(r'"(\\.|[^"\\])*"|//.*', "", line)
            assert not re.search(r"\blong\b|\b\d+[lL]\b", code), f"{file.relative_to(ROOT)}:{number}: {line}"
