"""Data files inside packages that only some of the zoo needs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from krypton_engine.common.packages import install
from krypton_engine.errors import InputError


def packaged(package: str, file: str, distribution: str) -> Path:
    """A file in an installed package, found without importing the package.

    Args:
        package: Name by which the package is imported.
        file: Path inside the package.
        distribution: The package's name on PyPI.

    Raises:
        InputError: The package is not installed, or lacks the file.

    Examples:
        >>> packaged("captum", "attr/__init__.py", distribution="captum").is_file()
        True
    """
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / file
        if path.is_file():
            return path
    what = f"does not hold {file}" if found else "is not installed"
    raise InputError(f"the PyPI package {distribution}", f"{what}\n{install('demo')}", verb="")
