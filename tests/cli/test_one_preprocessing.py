"""The command line and the widget make the same of a picture, and take each other's tunings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support import factories
from support.widget_page import Drawings, Page

from krypton_engine import InputError, KryptonOcclusion, Tuning, zoo
from krypton_engine.cli import main
from krypton_engine.cli.picture import baseline_of, input_of
from krypton_widget import OcclusionExplorer
from krypton_widget.pictures import ModelInput

FACTORY = (
    factories.network(10)
    + """

def probabilities():
    return nn.Sequential(network(), nn.Softmax(1))


def double():
    return network().double()
"""
)

MODEL = ("--model", "pair_factory:network", "--size", "20", "--mean", "0.4", "--std", "0.3")
WINDOW = ("--window", "6", "--stride", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    (folder / "pair_factory.py").write_text(FACTORY)
    for i in range(10):
        coarse = np.random.default_rng(i).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((32, 24), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def loaded(factory="network"):
    return zoo.load_model(f"pair_factory:{factory}", size=20, mean=0.4, std=0.3)


@pytest.fixture
def explore():
    """An explorer as its documentation has it: the zoo's preprocessing, and defaults else."""
    made = []

    def make(tuning=None, factory="network", **options):
        model, image = loaded(factory), zoo.load_image("0.png")
        options = {"window": 6, "stride": 2} | options
        made.append(
            OcclusionExplorer(model.model, image, preprocess=model.preprocess, tuning=tuning, **options)
        )
        made[-1].wait(60)
        return made[-1]

    yield make
    for explorer in made:
        explorer.close()


@pytest.fixture(scope="module")
def tuned(folder):
    """A tuning made by the command line, all choices being its own."""
    names = [str(folder / f"{i}.png") for i in range(1, 10)]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        assert main(["tune", *names, *MODEL, *WINDOW, "-o", "tuning.json"]) == 0
    return folder / "tuning.json"


@pytest.mark.parametrize("colour", ["grey", "black", "mean", "blur"])
@pytest.mark.parametrize("factory", ["network", "double"])
def test_patches_are_the_same_numbers(colour, factory):
    model, image = loaded(factory), zoo.load_image("0.png")
    x = input_of(model, image, "0.png")
    theirs = ModelInput(image, model.preprocess)
    assert torch.equal(x, theirs.x.to(x)) and x.dtype == next(model.model.parameters()).dtype
    found = baseline_of(colour, model, image, x)
    assert torch.equal(found, theirs.patch(colour).to(x))
    assert torch.equal(found, zoo.patch(image, colour, model.preprocess).to(x))


def test_colours_are_chosen_in_the_picture():
    """By hand: of the whole picture, in bytes, before it is cropped and normalised."""
    model, image = loaded(), zoo.load_image("0.png")
    pixels = np.asarray(image, dtype=np.float64)
    for colour, level in (("grey", 128.0), ("black", 0.0), ("mean", pixels.mean((0, 1)).round())):
        expected = torch.as_tensor((np.broadcast_to(level, 3) / 255 - 0.4) / 0.3).float()
        found = zoo.patch(image, colour, model.preprocess)
        torch.testing.assert_close(found, expected.reshape(1, 3, 1, 1).expand(1, 3, 20, 20))
    blurred = zoo.patch(image, "blur", model.preprocess)
    assert 0 < float(blurred.std()) < float(model.preprocess(image).std())
    with pytest.raises(InputError, match="colour is 'blue'; accepted: 'grey', 'black', 'mean', 'blur'"):
        zoo.patch(image, "blue", model.preprocess)


def test_the_widget_takes_a_tuning_of_the_command_line(explore, tuned):
    explorer = explore(Tuning.load(tuned), ssim_target=0.8)
    frame = Page(explorer).frame
    assert frame["note"] == "" and frame["estimate"]["basis"] == "tuned" and not explorer.error


def test_the_command_line_takes_a_tuning_for_the_widget(explore, capsys):
    model = loaded()
    pictures = [zoo.load_image(f"{i}.png") for i in range(1, 10)]
    patch = zoo.patch(pictures[0], "grey", model.preprocess)
    samples = [model.preprocess(picture)[None] for picture in pictures]
    tuning = KryptonOcclusion(model.model).tune(samples, (3, 6, 6), (3, 2, 2), patch, activation="softmax")
    assert Page(explore(tuning, ssim_target=0.8)).frame["note"] == ""
    tuning.save("mine.json")
    words = [*MODEL, *WINDOW, "--ssim", "0.8", "--tuning", "mine.json", "--out", "map.npz"]
    assert main(["explain", "0.png", *words]) == 0
    assert "tuned on 9 pictures" in capsys.readouterr().out


def test_a_tuning_of_the_older_grey_is_told(explore, capsys):
    """Until version 0.4 the command line's grey was 127 of 255."""
    model = loaded()
    samples = [model.preprocess(zoo.load_image(f"{i}.png"))[None] for i in range(1, 10)]
    older = model.preprocess(Image.new("RGB", (32, 24), (127, 127, 127)))[None]
    tuning = KryptonOcclusion(model.model).tune(
        samples, (3, 6, 6), (3, 2, 2), older, activation="softmax", max_seconds=1e-9
    )
    assert Page(explore(tuning)).frame["note"] == "the tuning is for another patch colour"
    tuning.save("older.json")
    words = [*MODEL, *WINDOW, "--ssim", "0.8", "--tuning", "older.json", "--out", "map.npz"]
    assert main(["explain", "0.png", *words]) == 2
    said = capsys.readouterr().err
    assert "made for something else" in said and "baseline" in said


@pytest.mark.parametrize("factory", ["network", "probabilities"])
def test_outputs_are_made_probabilities_alike(explore, factory):
    """Softmax where the outputs are none yet, and nothing where they are."""
    words = ["--model", f"pair_factory:{factory}", *MODEL[2:], *WINDOW]
    assert main(["explain", "0.png", *words, "--out", "map.npz"]) == 0
    from krypton_engine import Heatmap

    mine, theirs = Heatmap.load("map.npz"), explore(factory=factory, exact=True).heatmap
    torch.testing.assert_close(mine.values, theirs.values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", ["own", "fixed", "shared"])
def test_the_saved_picture_is_drawn_from_what_the_page_was_sent(explore, monkeypatch, tmp_path, scale):
    """The page's own arithmetic (js/src/paint.ts) on the numbers that it has, against the file's colours."""
    explorer = explore(exact=True, opacity=0.7, scale=scale, limit=0.01, colormap="PuOr_r")
    page = Page(explorer)
    heatmap, drawn = Drawings(monkeypatch).of(explorer, tmp_path)
    title, width = drawn.pop("title"), drawn.pop("width")
    saved = np.asarray(heatmap.overlay(**drawn), float)
    frame = page.frame
    drops = np.float32(frame["base"]) - page.cells("values")
    least = frame["least"]
    limit = {"own": max(frame["largest"], least), "fixed": 0.01, "shared": max(frame["shared"], least)}[scale]
    table = np.frombuffer(explorer.get_state("_colours")["_colours"]["PuOr_r"], np.uint8).reshape(256, 3)
    share = np.clip(np.rint((drops / limit + 1) / 2 * 255), 0, 255).astype(int)
    weight = 0.7 * np.minimum(1, np.abs(drops) / limit) ** 0.75
    centres = np.arange(20) + 0.5
    row, column = (np.clip(np.floor((centres - 2) / 2).astype(int), 0, n - 1) for n in drops.shape)
    picture = Image.fromarray(page.picture).convert("L")
    grey, mix = np.asarray(picture, float)[..., None], weight[row][:, column][..., None]
    expected = grey * (1 - mix) + table[share[row][:, column]].astype(float) * mix
    assert np.abs(saved - expected).max() <= 3.0, "one step of a table of 256 colours"
    assert np.array_equal(drawn["image"], page.picture) and title.endswith("exact")
    assert width is None
