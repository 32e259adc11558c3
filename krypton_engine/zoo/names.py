"""Names of classes: in order, by index, or in a file."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from krypton_engine.common.arguments import whole
from krypton_engine.common.text import one_line
from krypton_engine.errors import InputError

ClassNames = Iterable[str] | Mapping[int, str] | Mapping[str, str] | Mapping[int | str, str]
"""Names of classes in order, or by index."""

_ACCEPTED = "a list of names, or a mapping from index to name such as id2label"


def names_in_order(class_names: ClassNames, count: int | None = None) -> list[str]:
    """Class names by index.

    Args:
        class_names: One name a class, in order; or a mapping from index to name, such as Hugging Face's
            ``id2label``, its keys whole numbers or their digits, in any order.
        count: The number of classes, if known.

    Returns:
        One name a class.

    Raises:
        InputError: Not as many names as classes, keys that are missing, double or no indices, or names that
            are no text.

    Examples:
        >>> names_in_order({"1": "dog", "0": "cat"})
        ['cat', 'dog']
    """
    if isinstance(class_names, (str, bytes, Set)) or not isinstance(class_names, Iterable):
        raise InputError("class_names", type(class_names).__name__, _ACCEPTED, "which has no order")
    if isinstance(class_names, Mapping):
        named = [(_class_index(key), name) for key, name in class_names.items()]
        keys = [key for key, _ in named]
        if sorted(keys) != list(range(len(keys))):
            missing, extra = set(range(len(keys))) - set(keys), set(keys) - set(range(len(keys)))
            told = f"{min(missing)}, but " + (f"has {min(extra)}" if extra else "has a key twice")
            raise InputError("class_names", told, "the keys 0 to the last class, each once", verb="lacks")
        names = [name for _, name in sorted(named, key=operator.itemgetter(0))]
    else:
        names = list(class_names)
    for name in names:
        if isinstance(name, (Iterable, type(None))) and not isinstance(name, str):
            raise InputError("class_names", repr(name), _ACCEPTED, "which is no name", verb="holds")
    if count is not None and len(names) != count:
        raise InputError(
            "class_names", f"{len(names)} names", f"{count}, as many as the model has outputs", verb="holds"
        )
    return [str(name) for name in names]


def _class_index(key: object) -> int:
    """A class's index, as a mapping's key has it: whole, or as digits."""
    index = int(key) if isinstance(key, str) and key.isdecimal() else whole(key)
    if index is None:
        raise InputError("class_names", repr(key), "indices of classes, such as 0 or '0'", verb="has the key")
    return index


def named_classes(given: ClassNames | str | os.PathLike[str] | None, classes: int) -> list[str] | None:
    """The user's class names, read from a file if need be, checked against the number of outputs.

    Examples:
        >>> named_classes({0: "cat", 1: "dog"}, 2), named_classes(None, 2)
        (['cat', 'dog'], None)
    """
    if given is None:
        return None
    return names_in_order(_read_names(given) if isinstance(given, (str, os.PathLike)) else given, classes)


def _read_names(path: str | os.PathLike[str]) -> ClassNames:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        if Path(path).suffix.lower() == ".json":
            found: ClassNames = json.loads(text, object_pairs_hook=_each_once)
            return found
    except (OSError, ValueError, RecursionError) as error:  # of decoding too
        raise InputError(
            "class_names",
            repr(os.fspath(path)),
            f"{_ACCEPTED}, or a file: .json, or text with one name a line",
            f"which cannot be read: {one_line(error)}",
        ) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object as a dict, which would keep the last of two equal keys without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is double")
    return found
