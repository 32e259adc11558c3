"""The C++ engine's own tests: built with CMake, run by CTest; here, under sanitizers, and as ARM code."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nanobind
import pytest

ROOT = Path(__file__).parents[2]
# Where pip puts what a virtual environment brings, its CMake and Ninja among it.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def tool(name: str) -> str:
    """Path of a program; a test without it is skipped, unless the machine is said to have all."""
    found = shutil.which(name, path=PATH)
    if found is None:
        if "CI" in os.environ or os.environ.get("KRYPTON_REQUIRE_NATIVE") == "1":
            pytest.fail(f"there is no {name}", pytrace=False)
        pytest.skip(f"there is no {name}")
    return found


def build(request: pytest.FixtureRequest, name: str, *options: str) -> Path:
    """A folder with the C++ tests built; kept between runs, so that only what changed is compiled."""
    tool(os.environ.get("CXX", "c++"))
    folder = Path(request.config.cache.mkdir(f"csrc-{name}"))
    commands = [
        [tool("cmake"), "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
         "-DKRYPTON_TESTS=ON", f"-DPython_EXECUTABLE={sys.executable}", *options],
        [tool("cmake"), "--build", folder],
    ]  # fmt: skip
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    assert "warning:" not in done.stdout, done.stdout
    return folder


def ctest(folder: Path) -> None:
    command = [
        tool("ctest"),
        "--test-dir",
        folder,
        "--output-on-failure",
        "--no-tests=error",
        "--timeout",
        "600",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def release(request: pytest.FixtureRequest) -> Path:
    """As users have it, and the module of the CUDA engine's kernels with them, for the host."""
    return build(request, "release", f"-Dnanobind_DIR={nanobind.cmake_dir()}")


def test_cpp(request):
    ctest(release(request))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rounds"), [("operators", 1000), ("session", 1000)])
def test_many_random_programs(request, name, rounds):
    done = subprocess.run([release(request) / f"{name}_test", str(rounds)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_instruction_sets_share_no_code(request):
    """Of a function in two translation units the linker keeps one: perhaps the one for wide machines."""
    objects = sorted(release(request).glob("CMakeFiles/krypton_*.dir/csrc/cpu/kernels.cpp.o"))
    assert objects
    for path in objects:
        isa = path.parts[-4].removeprefix("krypton_").removesuffix(".dir")
        lines = subprocess.run([tool("nm"), "-C", path], capture_output=True, text=True, check=True).stdout
        symbols = [line[17:].split(" ", 1) for line in lines.splitlines()]
        # Capital letters are seen by the linker, `u` too; small ones stay in their object.
        shared = {(kind, name) for kind, name in symbols if kind.isupper() or kind == "u"}
        assert {(kind, name) for kind, name in shared if kind != "U"} == {("D", f"krypton::{isa}::table")}
        called = {name for kind, name in shared if kind == "U"}
        assert called <= {"memset", "memcpy", "memmove", "__stack_chk_fail"}, called


def sanitized(request: pytest.FixtureRequest) -> Path:
    """The C++ tests, and both Python modules."""
    options = ["-DKRYPTON_SANITIZE=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O1"]
    return build(request, "sanitize", *options, f"-Dnanobind_DIR={nanobind.cmake_dir()}")


@pytest.mark.slow
def test_cpp_under_sanitizers(request):
    ctest(sanitized(request))


# Runs pytest with the modules of a folder in place of those that are installed.
RUN = """
import importlib.util, pathlib, sys
import pytest
folder = pathlib.Path(sys.argv[1])
(path,) = folder.glob("_native.*")
spec = importlib.util.spec_from_file_location("krypton_engine._native", path)
sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from krypton_engine.executors.native import engine
assert engine._native is module
sys.path[:0] = ["tests", "tests/executors"]
import test_native_kernels
test_native_kernels.release = lambda request: folder
sys.exit(pytest.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_python_under_sanitizers(request):
    """What Python passes to the engine: wrong arguments, random networks, the CUDA kernels on the host."""
    folder = sanitized(request)
    libraries = [
        subprocess.check_output([tool(os.environ.get("CXX", "c++")), f"-print-file-name={name}"], text=True)
        for name in ("libasan.so", "libstdc++.so.6")  # the second, or the first does not see what is thrown
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(library.strip() for library in libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own, at exit
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    modules = [f"tests/executors/test_{name}.py" for name in ("native_fuzz", "native", "cuda")]
    # Large networks take an hour so, and show no more than small ones.
    some = "not models_run_there and not reference_is and not families"
    done = subprocess.run(
        [sys.executable, "-c", RUN, folder, *modules, "-k", some, "-q", "-s", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_cpp_on_arm(request):
    """Cross-compiled, and run by an emulator."""
    emulator = [tool("qemu-aarch64"), "-L", "/usr/aarch64-linux-gnu"]
    ctest(
        build(
            request,
            "arm",
            "-DCMAKE_SYSTEM_NAME=Linux",
            "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
            f"-DCMAKE_CXX_COMPILER={tool('aarch64-linux-gnu-g++')}",
            f"-DCMAKE_CROSSCOMPILING_EMULATOR={';'.join(emulator)}",
        )
    )


# An emulator's processors, and what they can run.
PROCESSORS = {"Nehalem": ["portable"], "Haswell": ["avx2", "portable"]}


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_instruction_set_is_chosen_by_the_processor(processor):
    """The same module, loaded by an older machine, finds and runs the kernels that fit."""
    code = (
        "from krypton_engine import _native as native; names = native.instruction_sets();"
        "[native.peak(name, 0.01) for name in names]; print(*names)"
    )
    emulator = [tool("qemu-x86_64"), "-cpu", processor]
    done = subprocess.run([*emulator, sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == PROCESSORS[processor], done.stderr
