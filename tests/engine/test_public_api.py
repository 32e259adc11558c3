"""Names and signatures that users rely on: none changes unnoticed.

``public_api.txt`` beside this file holds them. A change that is meant is written there by
``python tests/engine/test_public_api.py``, and stands in CHANGELOG.md; docs/releasing.md says which changes a
release may make.
"""

from __future__ import annotations

import difflib
import enum
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import pytest
from traitlets import TraitType

SNAPSHOT = Path(__file__).with_name("public_api.txt")

MODULES = (
    "krypton_engine",
    "krypton_engine.collection",
    "krypton_engine.compat.monai",
    "krypton_engine.errors",
    "krypton_engine.evaluate",
    "krypton_engine.fillings",
    "krypton_engine.heatmap",
    "krypton_engine.medical",
    "krypton_engine.occlusion",
    "krypton_engine.plan",
    "krypton_engine.quality",
    "krypton_engine.targets",
    "krypton_engine.tuning",
    "krypton_engine.windows",
    "krypton_engine.zoo",
    "krypton_widget",
)


class Words(str):
    """An annotation, which a signature shows without quotes."""

    __repr__ = str.__str__


def signature_of(function: Callable[..., object]) -> inspect.Signature:
    found = inspect.signature(function)
    parameters = [each.replace(annotation=shown(each.annotation)) for each in found.parameters.values()]
    return found.replace(parameters=parameters, return_annotation=shown(found.return_annotation))


def shown(annotation: object) -> object:
    return Words(annotation) if isinstance(annotation, str) else annotation


def public_api() -> str:
    return "".join(f"{line}\n" for module in MODULES for line in lines_of(module))


def lines_of(name: str) -> Iterator[str]:
    """A module's public names, each with what it is; a name that another module has too, there alone."""
    module = importlib.import_module(name)
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == name]
    yield f"{name}:"
    for key in sorted(getattr(module, "__all__", own)):
        if not key.startswith("_"):
            yield from lines_of_value(key, getattr(module, key), named_elsewhere(key, name))


def named_elsewhere(key: str, module: str) -> str:
    """The first public module in which a name is described; empty where this is it."""
    before = MODULES[: MODULES.index(module)]
    value = getattr(importlib.import_module(module), key)
    homes = (other for other in before if key in getattr(importlib.import_module(other), "__all__", ()))
    return next((home for home in homes if getattr(importlib.import_module(home), key) is value), "")


def lines_of_value(name: str, value: object, elsewhere: str) -> Iterator[str]:
    if elsewhere:
        yield f"  {name}: {elsewhere}.{name}"
    elif inspect.isclass(value):
        yield f"  class {name}{bases_of(value)}"
        yield from (f"    {line}" for line in sorted(members_of(value)))
    elif callable(value):
        yield f"  {name}{signature_of(value)}"
    else:
        yield f"  {name}: {type(value).__name__} = {value!r}"


def bases_of(kind: type) -> str:
    """Bases that are public, of ours or of others."""
    names = [base.__qualname__ for base in kind.__bases__ if base is not object and base.__name__[0] != "_"]
    return f"({', '.join(names)})" if names else ""


def members_of(kind: type) -> Iterator[str]:
    """Attributes, properties and methods of a class, those of our own bases among them."""
    if issubclass(kind, enum.Enum):
        yield from (f"{member.name} = {member.value!r}" for member in kind)
    if not issubclass(kind, (enum.Enum, Exception)):
        yield f"__init__{signature_of(kind.__init__)}"
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not owner.__module__.startswith("krypton_"):
            continue
        for name, type_ in inspect.get_annotations(owner).items():
            found[name] = f"{name}: {type_}"
        for name, member in vars(owner).items():
            found |= {name: text} if (text := member_text(name, member)) else {}
    yield from (text for name, text in found.items() if not name.startswith("_"))


def member_text(name: str, member: object) -> str:
    """A line on a property or a method; empty for anything else."""
    if isinstance(member, (property, cached_property)):
        getter = member.fget if isinstance(member, property) else member.func
        return f"{name}: {inspect.signature(getter).return_annotation} (property)"
    if isinstance(member, TraitType):
        return f"{name}: {type(member).__name__} (trait)"
    kind = {staticmethod: "static ", classmethod: "class "}.get(type(member), "")
    function = inspect.unwrap(getattr(member, "__func__", member))
    return f"{kind}{name}{signature_of(function)}" if inspect.isfunction(function) else ""


def test_public_api_is_as_it_was():
    pytest.importorskip("monai")
    was, now = SNAPSHOT.read_text().splitlines(), public_api().splitlines()
    changes = "\n".join(difflib.unified_diff(was, now, "released", "here", lineterm="", n=1))
    assert was == now, (
        f"the public API changes:\n{changes}\n\nIf that is meant, say so in CHANGELOG.md (docs/releasing.md: "
        f"which changes a release may make), and run\n    python {SNAPSHOT.with_name(Path(__file__).name)}"
    )


def test_snapshot_holds_no_address():
    """Or it would differ from one run to the next."""
    assert not re.search(r"0x[0-9a-f]{6}|\bat /", SNAPSHOT.read_text())


if __name__ == "__main__":
    SNAPSHOT.write_text(public_api())
    print(f"written: {SNAPSHOT}")
