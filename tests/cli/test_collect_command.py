"""``krypton collect``: the maps of ``krypton explain``, what is refused, and exit statuses."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support import factories

from krypton_engine import Heatmap
from krypton_engine.cli import main
from krypton_engine.collection import Collection
from krypton_engine.collection.audit import Audit

MINE = ("--model", "collect_factory:network", "--size", "40", "--workers", "1")
COARSE = ("--window", "10", "--stride", "10")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working directory with a model, and a folder of pictures of which one is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "collect_factory.py").write_text(factories.network(20))
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.bmp"):
        pixels = generator.integers(0, 256, (50, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    (tmp_path / "photos/torn.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    return tmp_path


def collect(*words, source="photos"):
    return main(["collect", source, "-o", "maps", *MINE, *words])


@pytest.mark.parametrize(
    "words",
    [
        COARSE,
        (*COARSE, "--baseline", "mean", "--target", "1", "--activation", "none"),
        ("--regions", "slic:9"),
        (*COARSE, "--filling", "noise", "--samples", "2"),
    ],
)
def test_maps_are_those_of_explain(words, capsys):
    assert collect(*words) == 0
    out = capsys.readouterr().out
    assert "explained   3 of 4 pictures" in out and "torn.png" in out
    found = Collection("maps")
    for name in ("a.png", "b.jpg", "c.bmp"):
        assert main(["explain", f"photos/{name}", *MINE[:4], *words, "-o", "one.npz"]) == 0
        one = Heatmap.load("one.npz")
        assert found[name].values.equal(one.values) and found[name].target == one.target
        assert found[name].baseline == one.baseline and found[name].window == one.window
    assert Image.open("maps/contact.png").info["Software"] == "Krypton"


def test_the_same_command_goes_on_and_another_is_refused(here, capsys):
    assert collect(*COARSE) == 0
    Image.new("RGB", (60, 50)).save("photos/torn.png")
    assert collect(*COARSE, "--retry") == 0
    assert not Collection("maps").failures
    capsys.readouterr()
    assert collect("--window", "20", "--stride", "10") == 2
    error = capsys.readouterr().err
    assert (
        "--out is 'maps', which holds maps of another call: different are window (10 there, 20 here)" in error
    )


@pytest.mark.parametrize(
    ("words", "source", "said"),
    [
        (("--window", "80"), "photos", "--window is 80"),
        (("--window", "16mm"), "photos", "--window is 16mm"),
        (("--target", "7"), "photos", "--target is 7"),
        (("--tune", "3"), "photos", "--tune is 3"),
        (("--audit", "0.5"), "photos", "--audit is 0.5"),
        (("--tuning", "no.json"), "photos", "--tuning is 'no.json'"),
        ((), "nowhere", "SOURCE is 'nowhere'"),
    ],
)
def test_bad_input_is_one_message_before_work(words, source, said, capsys):
    assert collect(*words, source=source) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"krypton: error: {said}") and error.count("\n") <= 2


def test_a_broken_promise_tells_by_the_exit_status(monkeypatch, capsys):
    words = ("--window", "10", "--stride", "2", "--ssim", "0.9", "--audit", "1")
    assert collect(*words) == 0
    assert "images audited" in capsys.readouterr().out
    broken = Audit(0.9, 0.9, {str(i): 0.5 for i in range(9)})
    monkeypatch.setattr(Collection, "audit", property(lambda self: broken))
    assert collect(*words) == 3
    assert "the promise is broken" in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    from krypton_engine.cli.commands import collect as command

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command._MapCall, "explained", interrupted)
    assert collect(*COARSE) == 130
    assert "the same command goes on" in capsys.readouterr().err
