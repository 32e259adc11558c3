"""What a release says of itself, in one voice."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import krypton_engine

ROOT = Path(__file__).parents[2]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


def test_one_version_everywhere():
    (newest, day), *_ = re.findall(r"^## (\d\S*) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert krypton_engine.__version__ == version("krypton-occlusion") == newest == CITATION["version"]
    assert str(CITATION["date-released"]) == day


def test_one_address_everywhere():
    source = PROJECT["urls"]["Source"]
    assert CITATION["repository-code"] == source
    assert all(address.startswith(source) for address in PROJECT["urls"].values())


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_issue_forms_ask_for_what_the_program_prints(form):
    """A command that a form names is one of ours."""
    from krypton_engine.cli.commands import COMMANDS

    named = set(re.findall(r"`krypton (\w+)", form.read_text()))
    assert named <= {command.name for command in COMMANDS}
    fields = [field["id"] for field in yaml.safe_load(form.read_text()).get("body", [])]
    assert len(fields) == len(set(fields))
