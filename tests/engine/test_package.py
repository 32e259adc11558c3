"""What the package is before anything is computed."""

import ast
import importlib
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import krypton_engine

PACKAGES = ["krypton_engine", "krypton_widget"]


HEAVY = {
    "torchvision", "matplotlib", "captum", "onnx", "nibabel", "skimage", "pydicom", "highdicom", "tifffile",
    "zarr", "pyarrow", "ray", "pandas",
}  # fmt: skip


def test_import_is_light():
    code = (
        "import sys, krypton_engine; "
        f"heavy = {HEAVY} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_public_names_are_there():
    for name in krypton_engine.__all__:
        assert getattr(krypton_engine, name).__module__.startswith("krypton_engine.")
    with pytest.raises(AttributeError, match="no_such_name"):
        krypton_engine.no_such_name  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_shipped(package):
    assert files(package).joinpath("py.typed").is_file()


ROOMS = [
    "cli", "collection", "attr", "tuning", "run", "planning", "executors", "heatmap", "approximation", "plan",
    "graph", "perturbation", "zoo", "medical", "common", "errors",
]  # fmt: skip


def imported(path):
    """Rooms of the engine that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: {node.lineno} imports relatively"
            full = [node.module or ""]
            if node.module == "krypton_engine":
                full = [f"krypton_engine.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        else:
            continue
        for name in full:
            parts = name.split(".")
            if parts[0] == "krypton_engine" and len(parts) > 1:
                yield node.lineno, parts[1]


def test_imports_run_down_the_house():
    home = Path(krypton_engine.__file__).parent
    wrong = []
    for path in home.rglob("*.py"):
        inside = path.relative_to(home).parts
        room = inside[0] if len(inside) > 1 else path.stem
        if room not in ROOMS:
            continue
        for line, other in imported(path):
            if other in ROOMS and ROOMS.index(other) < ROOMS.index(room):
                wrong.append(f"{path.relative_to(home)}:{line}: {room} imports {other}")
    assert not wrong, "\n".join(wrong)


# These call the kernels of csrc/cuda, which are there only where the CUDA engine is built.
CALL_KERNELS = tuple(
    f"krypton_engine/executors/cuda/{name}"
    for name in (
        "convolutions.py: Convolutions.",
        "cuts.py: Race.",
        "engine.py: probe",
        "program.py: CudaProgram.open",
        "reading.py: Reader.",
        "session.py: CudaSession.",
        "shrinking.py: Shrinking.",
        "walk.py: Walk.",
    )
)


def without_example(body, owner=""):
    """Public functions whose docstring has no example, nor that of the class, which is no Protocol."""
    for node in body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
            continue
        if ">>>" in (ast.get_docstring(node) or ""):
            continue
        if isinstance(node, ast.FunctionDef):
            yield f"{owner}{node.name}"
        elif "Protocol" not in map(ast.unparse, node.bases):
            yield from without_example(node.body, f"{node.name}.")


def test_every_public_function_has_an_example():
    home = Path(krypton_engine.__file__).parents[1]
    found = [
        f"{path.relative_to(home).as_posix()}: {name}"
        for folder in PACKAGES
        for path in sorted((home / folder).rglob("*.py"))
        for name in without_example(ast.parse(path.read_text()).body)
    ]
    lacking = [name for name in found if not name.startswith(CALL_KERNELS)]
    assert not lacking, "\n".join(lacking)
    shown = [name for name in CALL_KERNELS if not any(each.startswith(name) for each in found)]
    assert not shown, f"have examples by now: {shown}"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("occlusion", "KryptonOcclusion"),
        ("heatmap", "Heatmap"),
        ("heatmap", "Status"),
        ("plan", "Plan"),
        ("tuning", "Tuning"),
        ("quality", "ssim"),
        ("windows", "SlidingWindow"),
        ("zoo", "load_model"),
        ("cli", "main"),
    ],
)
def test_names_are_found_where_they_were(module, name):
    found = getattr(importlib.import_module(f"krypton_engine.{module}"), name)
    assert found.__name__ == name
