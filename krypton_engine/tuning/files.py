"""The saved form of a tuning: JSON of its attributes, with the version of their meaning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Errors of a damaged file, or of one of another kind."""

_FORMAT = 4
"""Version of the saved form. It rises whenever sampling takes other steps: an older tuning was found by
replaying the steps of its time."""


def packed(fields: Mapping[str, Any]) -> bytes:
    r"""The bytes of a file that holds attributes by name.

    Examples:
        >>> packed({"confidence": 0.9})
        b'{\n "format": 4,\n "confidence": 0.9\n}\n'
    """
    return (json.dumps({"format": _FORMAT, **fields}, indent=1) + "\n").encode()


def read(path: Path) -> dict[str, Any]:
    """The attributes by name that a file holds.

    Raises:
        ValueError: The file is of another version, or no JSON; a file of another kind raises any of
            `DAMAGED`.

    Examples:
        >>> _ = Path("birds.json").write_bytes(packed({"window": [3, 8, 8]}))
        >>> read(Path("birds.json"))
        {'window': (3, 8, 8)}
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if found.pop("format") != _FORMAT:
        raise ValueError("another version made it, whose sampling takes other steps; tune again")
    return {name: _tuples(item) for name, item in found.items()}


def _tuples(read: Any) -> Any:
    """JSON's lists as tuples, all the way down."""
    if isinstance(read, list):
        return tuple(_tuples(item) for item in read)
    if isinstance(read, dict):
        return {key: _tuples(item) for key, item in read.items()}
    return read
