"""What the package is before anything is computed."""

import subprocess
import sys
from importlib.resources import files

import pytest

import krypton_engine


def test_import_is_light():
    code = (
        "import sys, krypton_engine; "
        "heavy = {'torchvision', 'matplotlib', 'captum', 'onnx', 'nibabel', 'skimage'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_public_names_are_there():
    for name in krypton_engine.__all__:
        assert getattr(krypton_engine, name).__module__.startswith("krypton_engine.")
    with pytest.raises(AttributeError, match="no_such_name"):
        krypton_engine.no_such_name  # noqa: B018


@pytest.mark.parametrize("package", ["krypton_engine", "krypton_widget"])
def test_types_are_shipped(package):
    assert files(package).joinpath("py.typed").is_file()
