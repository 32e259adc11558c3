"""The command line and the zoo under what users and their machines do to them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from krypton_engine import zoo
from krypton_engine.errors import InputError

# Class names by index


@pytest.mark.parametrize(
    "given",
    [
        {2: "fish", 0: "cat", 1: "dog"},
        {"1": "dog", "2": "fish", "0": "cat"},
        {np.int64(2): "fish", "0": "cat", 1: "dog"},
        ["cat", "dog", "fish"],
        np.array(["cat", "dog", "fish"]),
        {"a": "cat", "b": "dog", "c": "fish"}.values(),
    ],
    ids=["numbers", "digits", "mixed", "list", "array", "view"],
)
def test_names_are_taken_by_index(given):
    assert zoo.names_in_order(given, 3) == ["cat", "dog", "fish"]


def test_names_in_order_of_many():
    order = np.random.default_rng(0).permutation(1000).tolist()
    assert zoo.names_in_order({str(i): f"name {i}" for i in order}) == [f"name {i}" for i in range(1000)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({0: "a", 1: "b", 3: "d"}, "lacks 2, but has 3"),
        ({1: "a", 2: "b", 3: "c"}, "lacks 0, but has 3"),
        ({-1: "a", 0: "b", 1: "c"}, "lacks 2, but has -1"),
        ({0: "a", "0": "b", 1: "c"}, "has a key twice"),
        ({"cat": 0, "dog": 1, "fish": 2}, "the key 'cat'"),
        ({0.0: "a", 1.0: "b", 2.0: "c"}, "the key 0.0"),
        ({False: "a", True: "b", 2: "c"}, "the key False"),
        ({"²": "a", "0": "b", "1": "c"}, "the key '²'"),
        ({0: "a", 1: "b"}, "holds 2 names, but the model has 3"),
        ({i: str(i) for i in range(4)}, "holds 4 names, but the model has 3"),
        ({0: ["n01440764", "tench"], 1: "b", 2: "c"}, "which is no name"),
        (["a", None, "c"], "holds None"),
        ({"a", "b", "c"}, "must be in order, got set"),
        ("abc", "must be in order, got str"),
        (3, "must be in order, got int"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_that_are_no_order(given, told):
    with pytest.raises(InputError) as caught:
        zoo.names_in_order(given, 3)
    assert told in str(caught.value) and "class_names" in str(caught.value)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a model of three classes that names them in a dict, as Hugging Face does."""
    (tmp_path / "trial_names.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), None, {2: 'c', 1: 'b', 0: 'a'}\n"
    )
    monkeypatch.chdir(tmp_path)
    return lambda **given: zoo.load_model("trial_names:build", size=4, **given).class_names


def test_names_wherever_they_enter(own, tmp_path):
    assert own() == ["a", "b", "c"]  # of the model's own factory
    assert own(class_names={"1": "y", "2": "z", "0": "x"}) == ["x", "y", "z"]
    for found in ({"1": "y", "2": "z", "0": "x"}, ["x", "y", "z"]):
        (tmp_path / "names.json").write_text(json.dumps(found))
        assert own(class_names="names.json") == ["x", "y", "z"]
    (tmp_path / "names.txt").write_text("\ufeffx\ny\nz\n", encoding="utf-8")  # as Windows writes it
    assert own(class_names="names.txt") == ["x", "y", "z"]


@pytest.mark.parametrize("text", ['{"0": "x", "0": "y", "1": "z"}', "[" * 100_000, "3", '"xyz"', "nothing"])
def test_files_of_names_that_are_none(own, tmp_path, text):
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(InputError, match="class_names"):
        own(class_names="names.json")
