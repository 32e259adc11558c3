"""The documentation: its code runs, its commands parse, its names and figures are all of the package's."""

from __future__ import annotations

import importlib
import re
import shlex
from itertools import groupby

import pytest
from ipywidgets import Widget
from support.pages import NAMES, PAGES, ROOT, blocks, pictures, run

from krypton_engine.cli.parser import build_parser


def named(page):
    return page.relative_to(ROOT).as_posix()


def sections(page):
    """A page's blocks of Python; of the page whose sections are about one package each, by section."""
    found = [block for block in blocks(page) if block.language == "python" and not block.reason]
    if page.name != "switching.md":
        return [("", found)] if found else []
    return [(heading, list(some)) for heading, some in groupby(found, lambda block: block.heading)]


@pytest.mark.parametrize(
    ("page", "found"),
    [
        pytest.param(page, found, id=" ".join(filter(None, (named(page), heading))))
        for page in PAGES
        for heading, found in sections(page)
    ],
)
def test_code_runs(page, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        run(page, found, NAMES.get(page.name, pictures)(monkeypatch))
    finally:
        Widget.close_all()


def test_what_does_not_run_says_why():
    said = {(page.name, block.reason) for page in PAGES for block in blocks(page) if block.reason}
    assert said == {("switching.md", "TensorFlow")}


def commands(page):
    """The command lines of Krypton on a page, as words."""
    for block in blocks(page):
        if block.language == "sh":
            for line in block.code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if "krypton" in words:
                    yield words[words.index("krypton") + 1 :]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_parse(page):
    for words in commands(page):
        build_parser().parse_args([word for word in words if word != "..."])


SNAPSHOT = ROOT / "tests" / "engine" / "public_api.txt"
PUBLIC = re.findall(r"^(\S+):$", SNAPSHOT.read_text(), re.MULTILINE)
"""Modules whose names are public."""


def public(module):
    """The public names of a module, those that it lists or else those that it defines, with their values."""
    found = vars(importlib.import_module(module))
    own = [
        name for name, value in found.items() if getattr(value, "__module__", "") == module and name[0] != "_"
    ]
    return {name: getattr(importlib.import_module(module), name) for name in found.get("__all__", own)}


def shown(path):
    """What an identifier of the reference shows: a module's names, or one."""
    if path in PUBLIC:
        return list(public(path).values())
    module, _, name = path.rpartition(".")
    return [getattr(importlib.import_module(module), name)]


def test_reference_has_every_public_name():
    text = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    known = {id(value) for path in re.findall(r"^::: (\S+)$", text, re.MULTILINE) for value in shown(path)}
    lacking = [
        f"{module}.{name}"
        for module in PUBLIC
        for name, value in public(module).items()
        if id(value) not in known
    ]
    assert not lacking


def test_rooms_are_drawn():
    text = (ROOT / "docs" / "architecture.md").read_text()
    picture = (ROOT / "docs" / "images" / "rooms.svg").read_text()
    rooms = [path.parent.name for path in (ROOT / "krypton_engine").glob("*/__init__.py")]
    for room in rooms:
        assert f"{room}/" in text, f"the table of rooms lacks {room}"
        assert room in picture, f"the drawing of rooms lacks {room}"


def test_figures_of_the_readme_are_measured():
    figures = re.findall(r"[\d.]+x\b", (ROOT / "README.md").read_text())
    measured = set(re.findall(r"[\d.]+x\b", (ROOT / "docs" / "benchmarks.md").read_text()))
    assert len(figures) > 10
    assert set(figures) <= measured
