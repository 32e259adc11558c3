"""The command line: every command, and every bad input in one message before any work."""

from __future__ import annotations

import importlib.metadata
import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import ShapleyValueSampling
from PIL import Image
from support import factories

from krypton_engine import Heatmap, KryptonOcclusion, Tuning, errors, evaluate, fillings, zoo
from krypton_engine.attr import explain as attr_explain
from krypton_engine.attr import learn as attr_learn
from krypton_engine.cli import main
from krypton_engine.cli.installation import extras_missing
from krypton_engine.cli.messages import message
from krypton_engine.cli.picture import baseline_of, input_of
from krypton_engine.heatmap.status import Status
from krypton_engine.zoo import lesions

FACTORY = (
    factories.network(20)
    + """

def one():
    return network(1)


def normalised():
    network_ = network()
    return nn.Sequential(network_, nn.Softmax(1))


class Everything(nn.Module):  # nothing about it is local
    def forward(self, x):
        flat = x.flatten(1)
        return torch.stack([flat.sort(1).values[:, i * 1000] for i in range(3)], 1)


def complete():
    def preprocess(image):
        pixels = torch.tensor(list(image.resize((40, 40)).getdata()), dtype=torch.float32)
        return pixels.T.reshape(3, 40, 40) / 255

    return network(), preprocess, ["cat", "dog", "fish"]


def standardising():
    def preprocess(image):
        x = complete()[1](image)
        return (x - x.mean()) / x.std()

    return network(), preprocess


def any_size():
    def preprocess(image):
        return torch.zeros(3, image.height, image.width)

    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3)), preprocess


def nan_preprocess():
    return network(), lambda image: torch.full((3, 40, 40), float("nan"))


def nan_model():
    broken = network()
    broken[-1].weight.data.fill_(float("nan"))
    return broken


def fails():
    raise RuntimeError("one\\ntwo\\nthree\\nfour\\nfive\\nsix")


def no_model():
    return 3
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with a model, a checkpoint, class names and pictures of the user's own."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "cli_factory.py").write_text(FACTORY)
    (folder / "names.txt").write_text("cat\ndog\nfish\n")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)
    pixels[:20] = 0
    Image.fromarray(pixels).save(folder / "photo.png")
    grey = pixels[..., 0].astype(np.float32)
    Image.fromarray(grey).save(folder / "float.tif")
    grey[3, 3] = np.nan
    Image.fromarray(grey).save(folder / "nan.tif")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    torch.save({"weight": torch.ones(2)}, folder / "other.pt")
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


MINE = ("--model", "cli_factory:network", "--size", "40")
COARSE = ("--window", "10", "--stride", "10")


def explain(*words, image="photo.png"):
    return main(["explain", image, *(words if "--model" in words else (*MINE, *words))])


def refuses(capsys, status, *parts):
    """Exit status 2, and a message of at most four lines that holds ``parts``."""
    captured = capsys.readouterr()
    assert status == 2
    assert captured.err.startswith("krypton: error: ")
    assert len(captured.err.splitlines()) <= 4
    assert "Traceback" not in captured.err and "\x1b" not in captured.err
    for part in parts:
        assert part in captured.err
    assert "heatmap " not in captured.out  # nothing was computed


# explain


def test_explain_writes_what_the_library_computes(capsys, folder, tmp_path):
    png, npz = tmp_path / "map.png", tmp_path / "map.npz"
    names = ("--classes", "names.txt")
    assert explain(*names, *COARSE, "--baseline", "black", "--out", str(png), "--out", str(npz)) == 0
    printed = capsys.readouterr().out
    assert "16 positions" in printed and str(png) in printed and str(npz) in printed
    assert "Heatmap(" not in printed  # for programmers
    assert all(name in printed for name in ("cat", "dog", "fish"))
    assert Image.open(png).width > 500

    model = zoo.load_model("cli_factory:network", size=40)
    x = model.preprocess(zoo.load_image("photo.png"))[None]
    window, stride = (3, 10, 10), (3, 10, 10)
    expected = KryptonOcclusion(model.model).heatmap(x, window, stride, 0.0, activation="softmax")
    saved = Heatmap.load(npz)
    assert saved.target == expected.target
    torch.testing.assert_close(saved.values, expected.values)
    assert bool(saved.measured.all())


def test_explain_defaults_to_a_picture_here(capsys, folder):
    assert explain(*COARSE) == 0
    assert (folder / "heatmap.png").is_file()
    assert "class " in capsys.readouterr().out  # without names


def test_explain_regions_and_fillings_as_the_library(capsys, tmp_path):
    out, mask = tmp_path / "map.npz", torch.arange(40)[:, None] // 20 * 2 + torch.arange(40) // 20
    np.save(tmp_path / "mask.npy", mask.numpy())
    model = zoo.load_model("cli_factory:network", size=40)
    occlusion, x = KryptonOcclusion(model.model), model.preprocess(zoo.load_image("photo.png"))[None]
    regions = str(tmp_path / "mask.npy")
    assert explain("--regions", regions, "--baseline", "black", "--out", str(out)) == 0
    assert "regions, black: 4 positions" in capsys.readouterr().out
    expected = occlusion.heatmap(x, regions=mask, activation="softmax")
    torch.testing.assert_close(Heatmap.load(out).values, expected.values)

    assert explain(*COARSE, "--filling", "noise", "--samples", "2", "--out", str(out)) == 0
    window = (3, 10, 10)
    expected = occlusion.heatmap(x, window, window, fillings.Noise(samples=2), activation="softmax")
    torch.testing.assert_close(Heatmap.load(out).values, expected.values)
    assert "noise, 2 samples" in capsys.readouterr().out

    for words in (("--filling", "local-mean"), ("--filling", "conditional", "--samples", "1")):
        assert explain("--window", "6", "--stride", "6", *words, "--out", str(out)) == 0
    assert Heatmap.load(out).baseline.startswith("conditional of 6x6 given 4 around, 1 samples, seed 0")
    assert explain("--regions", "slic:9", "--out", str(tmp_path / "map.png")) == 0
    tiles = np.arange(40)[:, None] // 5 * 8 + np.arange(40) // 5  # on a grid
    np.save(tmp_path / "mask.npy", tiles)
    assert explain("--regions", regions, "--ssim", "0.5", "--out", str(out)) == 0
    assert Heatmap.load(out).drop.shape == (8, 8)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--regions", "slick:9"), "Accepted: slic:COUNT"),
        (("--regions", "photo.png"), "--regions is 'photo.png'"),
        (("--regions", "slic:9", "--ssim", "0.9"), "--ssim is 0.9; accepted: none with these regions"),
        (("--method", "owen", "--samples", "1"), "--samples is 1; accepted: at least 2 with"),
        (("--method", "shapley", "--ssim", "0.9"), "--ssim is 0.9; accepted: none with --method"),
        (("--samples", "3"), "--samples is 3; accepted: none without --filling"),
        (("--filling", "local-mean", "--samples", "3"), "--samples is 3; accepted: 1 with"),
        (("--filling", "conditional", "--regions", "slic:9"), "--filling is conditional"),
        (("--filling", "noise", "--samples", "2", "--ssim", "0.9"), "ssim_target is given"),
        (("--filling", "conditional", "--window", "38"), "images is one of shape"),
    ],
)
def test_regions_and_fillings_that_cannot_be_used(capsys, words, part):
    refuses(capsys, explain(*words), part)


def test_compare_tells_the_better_of_two_maps(capsys, tmp_path):
    occlusion, opposite = tmp_path / "occlusion.npz", tmp_path / "opposite.npz"
    assert explain(*COARSE, "--baseline", "black", "--out", str(occlusion)) == 0
    heatmap = Heatmap.load(occlusion)
    replace(heatmap, values=2 * heatmap.base - heatmap.values).save(opposite)
    capsys.readouterr()
    words = ("--baseline", "black", "--patch", "10", "--out", str(tmp_path / "curves.png"))
    assert main(["compare", str(opposite), str(occlusion), "photo.png", *MINE, *words]) == 0
    printed = capsys.readouterr().out
    assert printed.count("occlusion.npz, the best") == 2 and "16 regions" in printed

    model = zoo.load_model("cli_factory:network", size=40)
    x = model.preprocess(zoo.load_image("photo.png"))[None]
    curve = evaluate.deletion(model.model, x, heatmap, 10, 0.0, heatmap.target)
    assert f"area {curve.area:.3f}"[:9] in printed
    assert Image.open(tmp_path / "curves.png").width > 500


def test_explain_shares_the_answer_out_among_regions(capsys, tmp_path):
    out = tmp_path / "shapley.npz"
    words = ("--method", "shapley", "--window", "10", "--samples", "4", "--baseline", "black")
    assert explain(*words, "--out", str(out), "--out", str(tmp_path / "shapley.png")) == 0
    printed = capsys.readouterr().out
    assert "16 regions, black, 4 permutations" in printed and "add up to" in printed
    model = zoo.load_model("cli_factory:network", size=40)
    x = model.preprocess(zoo.load_image("photo.png"))[None]
    mask = torch.arange(40)[:, None] // 10 * 4 + torch.arange(40) // 10
    forward = torch.nn.Sequential(model.model, torch.nn.Softmax(1))
    target = int(model.model(x).argmax())
    torch.manual_seed(0)
    captum = ShapleyValueSampling(forward)
    theirs = captum.attribute(x, target=target, feature_mask=mask[None, None], n_samples=4)
    np.testing.assert_allclose(np.load(out)["attribution"], theirs[0].numpy(), atol=1e-6)

    owen = tmp_path / "owen.npz"
    assert explain("--method", "owen", "--regions", "slic:9", "--samples", "50", "--out", str(owen)) == 0
    shares = np.load(owen)["contributions"].sum()
    grey = baseline_of("grey", model, zoo.load_image("photo.png"), x)
    assert abs(shares - float((forward(x) - forward(grey))[0, target].detach())) < 1e-5
    words = ("--patch", "10", "--out", str(tmp_path / "curves.png"))
    assert main(["compare", str(out), str(owen), "photo.png", *MINE, *words]) == 0
    capsys.readouterr()
    refuses(capsys, explain("--method", "owen", "--filling", "noise"), "--filling is noise")
    refuses(capsys, explain("--method", "owen", "--ssim", "0.9"), "--ssim is 0.9")


def test_maps_that_end_early_and_patches_beside_regions(capsys, tmp_path):
    whole, half = tmp_path / "whole.npz", tmp_path / "half.npz"
    assert explain(*COARSE, "--out", str(whole)) == 0
    half.write_bytes(whole.read_bytes()[:900])
    words = ["photo.png", *MINE, "--out", str(tmp_path / "curves.png")]
    capsys.readouterr()
    refuses(capsys, main(["compare", str(half), *words]), "half.npz")
    refuses(
        capsys, main(["compare", str(whole), *words, "--regions", "slic:9", "--patch", "4"]), "--patch is 4"
    )


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("nothing.npz", "photo.png"), "MAP is 'nothing.npz', which is no saved heatmap"),
        (("small.npz", "photo.png"), "MAP is 'small.npz'; accepted: maps over the model's input, 3x40x40"),
        (("map.npz", "map.npz", "photo.png"), "MAP is 'map.npz'; accepted: files that are named once"),
        (("map.npz", "other.npz", "photo.png"), "--target is missing"),
        (("map.npz", "photo.png", "--patch", "0"), "--patch"),
        (("map.npz", "photo.png", "--out", "curves.npz"), "--out is 'curves.npz'"),
    ],
)
def test_maps_that_cannot_be_compared(capsys, folder, words, part):
    assert explain(*COARSE, "--out", "map.npz", "--target", "0") == 0
    assert explain(*COARSE, "--out", "other.npz", "--target", "1") == 0
    small = KryptonOcclusion(lambda x: x.mean((2, 3))).heatmap(torch.rand(1, 3, 8, 8), (3, 4, 4), 4)
    small.save("small.npz")
    capsys.readouterr()
    refuses(capsys, main(["compare", *words, *MINE]), part)


@pytest.mark.parametrize(("given", "index"), [("DOG", 1), ("2", 2), ("-1", 2)])
def test_target(capsys, tmp_path, given, index):
    out = str(tmp_path / "map.npz")
    assert explain("--classes", "names.txt", *COARSE, "--target", given, "--out", out) == 0
    assert Heatmap.load(out).target == index


def test_a_name_of_two_classes(capsys, folder):
    (folder / "twins.txt").write_text("crane\nfish\ncrane\n")
    refuses(capsys, explain("--classes", "twins.txt", "--target", "crane"), "--target is 'crane'", "0 or 2")


def test_activation(capsys, tmp_path):
    out = str(tmp_path / "map.npz")
    assert explain(*COARSE, "--activation", "none", "--out", out) == 0
    model = zoo.load_model("cli_factory:network", size=40)
    x = model.preprocess(zoo.load_image("photo.png"))[None]
    assert float(Heatmap.load(out).base) == pytest.approx(model.model(x).max().item())
    assert explain("--model", "cli_factory:one", "--size", "40", *COARSE, "--out", out) == 0  # of one: none
    capsys.readouterr()
    refuses(
        capsys,
        explain("--model", "cli_factory:one", "--size", "40", "--activation", "softmax"),
        "--activation is softmax",
    )


def test_probabilities_are_noticed(capsys, tmp_path):
    """They are left alone, unless softmax is asked for: then there is a hint."""
    words = ("--model", "cli_factory:normalised", "--size", "40", *COARSE, "--out", str(tmp_path / "map.npz"))
    assert explain(*words) == 0
    assert "--activation none?" not in capsys.readouterr().out
    found = Heatmap.load(tmp_path / "map.npz")
    assert float(found.base_outputs.sum()) == pytest.approx(1, abs=1e-6)
    assert found.base == found.base_outputs.max()
    assert explain(*words, "--activation", "softmax") == 0
    assert "--activation none?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("black", [-0.5] * 3),
        ("grey", [128 / 255 - 0.5] * 3),
        ("0.25", [0.25] * 3),
        ("-1", [-1.0] * 3),
        ("mean", None),
    ],
)
def test_baseline(given, expected):
    model = zoo.load_model("cli_factory:network", size=40, mean=0.5)
    image = zoo.load_image("photo.png")
    x = input_of(model, image, "photo.png")
    baseline = baseline_of(given, model, image, x)
    assert baseline.shape == x.shape
    if expected is None:  # of the whole picture, in bytes
        expected = np.asarray(image, float).mean((0, 1)).round() / 255 - 0.5
    wanted = torch.as_tensor(expected)[None].to(x)
    torch.testing.assert_close(baseline[:, :, 7, 3], wanted)
    if given == "black":  # exactly, or black parts of a picture would cost something
        assert bool((baseline == x)[..., :5, :].all())


def test_sizes_of_two_numbers(capsys):
    assert explain("--window", "20,10", "--stride", "20,5") == 0
    printed = capsys.readouterr().out
    assert "20 x 10, stride 20 x 5" in printed and "14 positions" in printed


def test_a_factory_that_returns_everything(capsys):
    assert explain("--model", "cli_factory:complete", *COARSE, "--target", "fish") == 0
    assert "fish" in capsys.readouterr().out
    assert explain("--model", "cli_factory:standardising", *COARSE, "--baseline", "0") == 0
    capsys.readouterr()
    refuses(
        capsys,
        explain("--model", "cli_factory:standardising", "--baseline", "black"),
        "--baseline is black",
        "blur, or a number",
    )


def test_full_inference_is_told_in_one_note(capsys):
    assert explain("--model", "cli_factory:Everything", "--size", "40", *COARSE) == 0
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 1
    assert notes[0].startswith("krypton: note: occlusion runs as batched full inference")


def test_sixteen_bit_and_float_pictures(capsys):
    assert explain(*COARSE, image="float.tif") == 0


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--window", "41"], ["--window is 41;", "(3, 40, 40)"]),
        (["--window", "10,50"], ["--window is 10,50;"]),
        (["--window", "4", "--stride", "5"], ["--stride is 5\n", "(3, 4, 4)"]),
        (["--window", "0"], ["--window"]),
        (["--window", "-3"], ["--window"]),
        (["--stride", "2.5"], ["--stride"]),
        (["--stride", "1,2,3"], ["--stride"]),
        (["--target", "3"], ["--target is 3", "0 to 2"]),
        (["--target", "-4"], ["--target is -4"]),
        (["--target", "dog"], ["--target is 'dog'", "no names"]),
        (["--target", "bird", "--classes", "names.txt"], ["--target is 'bird'", "cat, dog, fish"]),
        (["--baseline", "blue"], ["--baseline is 'blue'", "grey, black, mean, blur or a number"]),
        (["--baseline", "nan"], ["--baseline"]),
        (["--activation", "relu"], ["--activation", "relu"]),
        (["--executor", "warp"], ["--executor", "reference"]),
        (["--memory-budget", "0"], ["--memory-budget"]),
        (["--ssim", "0"], ["--ssim", "'0'", "above 0 and at most 1"]),
        (["--ssim", "1.5"], ["--ssim", "'1.5'"]),
        (["--ssim", "nan"], ["--ssim", "'nan'"]),
        (["--ssim", "much"], ["--ssim", "'much'"]),
        (["--tuning", "names.txt"], ["--tuning", "without --ssim"]),
        (["--ssim", "0.9", "--tuning", "none.json"], ["--tuning is 'none.json'", "no saved tuning"]),
        (["--ssim", "0.9", "--tuning", "names.txt"], ["--tuning is 'names.txt'", "no saved tuning"]),
        (["--out", "map.jpg"], ["--out is 'map.jpg'", ".png"]),
        (["--out", "nowhere/map.png"], ["--out is 'nowhere/map.png'", "does not exist"]),
        (["--weights", "none.pt"], ["--weights is 'none.pt'"]),
        (["--weights", "other.pt"], ["--weights is 'other.pt'", "does not fit"]),
        (["--weights", "names.txt"], ["--weights is 'names.txt'"]),
        (["--classes", "none.txt"], ["--classes is 'none.txt'"]),
        (["--mean", "1,2"], ["--mean"]),
        (["--std", "0"], ["--std"]),
        (["--std", "x"], ["--std"]),
        (["--model", "cli_factory:network"], ["--size"]),
        (["--model", "resnet81"], ["model is 'resnet81'", "resnet18"]),
        (["--model", "no_such_module:f"], ["model is 'no_such_module:f'"]),
        (["--model", "cli_factory:nothing", "--size", "40"], ["model is 'cli_factory:nothing'"]),
        (["--model", "cli_factory:fails", "--size", "40"], ["model is 'cli_factory:fails'", "one"]),
        (["--model", "cli_factory:no_model", "--size", "40"], ["model is 'cli_factory:no_model'", "int"]),
        (["--model", "cli_factory:network", "--size", "30"], ["model 'cli_factory:network'", "30"]),
        (["--model", "cli_factory:nan_preprocess"], ["IMAGE", "NaN"]),
        (["--model", "cli_factory:nan_model", "--size", "40"], ["IMAGE", "NaN"]),
    ],
)
def test_bad_arguments(capsys, words, parts):
    refuses(capsys, explain(*words), *parts)


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("nan.tif", ["IMAGE is 'nan.tif'", "NaN"]),
        ("broken.png", ["IMAGE is 'broken.png'", "cannot be read"]),
        ("names.txt", ["IMAGE is 'names.txt'", "cannot be read"]),
        ("missing.png", ["IMAGE is 'missing.png'", "neither a file nor a known name"]),
        ("mri:axial:9999", ["IMAGE is 'mri:axial:9999'"]),
    ],
)
def test_bad_images(capsys, image, parts):
    refuses(capsys, explain(image=image), *parts)


def test_a_folder_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "map.png").mkdir()
    refuses(capsys, explain("--out", str(tmp_path / "map.png")), "--out", "cannot be written")


@pytest.mark.parametrize("words", [[], ["frobnicate"], ["explain"], ["explain", "photo.png"], ["plan"]])
def test_bad_commands(capsys, words):
    refuses(capsys, main(words), "--help")


def test_any_other_failure_is_short_too(capsys, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("\n".join(["x" * 1000] * 9))

    monkeypatch.setattr(attr_explain, "heatmap", fail)
    refuses(capsys, explain(), "RuntimeError", "--debug")


def test_explain_evaluates_the_picture_once(capsys, monkeypatch):
    """The prediction, the checks and the base of the heatmap come from one answer of the model."""
    evaluations, before_work, load, heatmap = [], [], zoo.load_model, attr_explain.heatmap

    def loaded(*args, **kwargs):
        model = load(*args, **kwargs)
        picture = model.preprocess(zoo.load_image("photo.png"))[None]

        def note(module, given):
            if not torch.compiler.is_exporting() and given[0].shape == picture.shape:
                evaluations.append(given[0].equal(picture))

        model.model.register_forward_pre_hook(note)
        return model

    def noting(*args):
        before_work.append(list(evaluations))
        return heatmap(*args)

    monkeypatch.setattr(zoo, "load_model", loaded)
    monkeypatch.setattr(attr_explain, "heatmap", noting)
    refuses(capsys, explain("--target", "9"), "--target is 9")
    assert evaluations == [True] and not before_work
    assert explain(*COARSE) == 0
    assert before_work == [[True, True]]  # those of the two commands


def test_debug_shows_the_traceback(capsys):
    assert explain("--target", "9", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(["--debug", "plan", "nothing"]) == 2
    assert "Traceback" in capsys.readouterr().err


# Ctrl-C


def test_interrupted_run_keeps_what_it_has(capsys, monkeypatch, tmp_path):
    whole = attr_explain.heatmap

    def interrupted(preparer, request, began, on_progress, *rest):
        def progress(heatmap, done, total):
            on_progress(heatmap, done, total)
            if done >= 3:
                raise KeyboardInterrupt

        return whole(preparer, request, began, progress, *rest)

    monkeypatch.setattr(attr_explain, "heatmap", interrupted)
    titles, content = [], Heatmap.content
    monkeypatch.setattr(
        Heatmap,
        "content",
        lambda map, ending, **picture: titles.append(picture.get("title")) or content(map, ending, **picture),
    )
    png, npz = tmp_path / "map.png", tmp_path / "map.npz"
    status = explain("--window", "10", "--stride", "1", "--out", str(png), "--out", str(npz))
    assert status == 130
    told = capsys.readouterr().err
    partial = Heatmap.load(npz)
    count = int(partial.measured.sum())
    assert 3 <= count < partial.measured.numel() == 31 * 31
    assert f"the {count} of 961 positions" in told and str(npz) in told
    assert titles[0] is None and titles[1].endswith(f"\ninterrupted: {count} of 961 positions")
    assert png.is_file()


def test_interrupted_before_there_is_anything(capsys, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "load_model", interrupted)
    assert explain("--out", str(tmp_path / "map.png")) == 130
    assert capsys.readouterr().err == "krypton: interrupted\n"
    assert not (tmp_path / "map.png").exists()


# approximate maps

FINE = ("--window", "10", "--stride", "2")


@pytest.fixture(scope="module")
def scans(folder):
    """A folder of pictures of one kind: smooth and random."""
    (folder / "scans").mkdir()
    for i in range(10):
        coarse = np.random.default_rng(100 + i).integers(0, 256, (6, 6, 3)).astype(np.uint8)
        picture = Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC)
        picture.save(folder / "scans" / f"{i}.png")
    (folder / "scans" / "notes.txt").write_text("no picture")
    return folder / "scans"


@pytest.fixture(scope="module")
def tuned(folder, scans):
    """A tuning by the command line, and what that printed."""
    words = [sys.executable, "-m", "krypton_engine", "tune", "scans", *MINE, *FINE, "-o", "tuned.json"]
    done = subprocess.run([*words, "-o", "tuned.png"], cwd=folder, capture_output=True, text=True, check=True)
    return folder / "tuned.json", done.stdout


def tune(*words, images=("scans",)):
    return main(["tune", *images, *(words if "--model" in words else (*MINE, *words))])


def test_tune_learns_what_the_library_learns(tuned, scans):
    path, printed = tuned
    model = zoo.load_model("cli_factory:network", size=40)
    samples = [model.preprocess(zoo.load_image(scans / f"{i}.png"))[None] for i in range(10)]
    grey = model.preprocess(Image.new("RGB", (40, 40), (128, 128, 128)))[None]
    call = dict(sliding_window_shapes=(3, 10, 10), strides=(3, 2, 2), baselines=grey)
    expected = KryptonOcclusion(model.model).tune(samples, **call, activation="softmax")
    found = Tuning.load(path)
    assert found.fingerprint.differences(expected.fingerprint) == [] and found.images == expected.images
    # What is trimmed depends on the time that it saves; what is found without does not.
    for mine, theirs in zip(found.of(0.0), expected.of(0.0), strict=True):
        assert mine.computed == theirs.computed
        assert mine.ssim == pytest.approx(theirs.ssim, abs=1e-4)
    assert str(found) in printed and "10: " in printed and "the predicted class" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert Image.open(path.with_suffix(".png")).width > 500


def test_tune_evaluates_each_picture_once(monkeypatch, scans, tmp_path):
    """Predictions, checks and the bases of the maps come from one answer of the model a picture."""
    pictures, before_work, load, learn = [], [], zoo.load_model, attr_learn.learn

    def loaded(*args, **kwargs):
        model = load(*args, **kwargs)
        model.model.register_forward_pre_hook(lambda module, given: pictures.append(given[0].clone()))
        return model

    def noting(*args):
        before_work.extend(pictures)
        return learn(*args)

    monkeypatch.setattr(zoo, "load_model", loaded)
    monkeypatch.setattr(attr_learn, "learn", noting)
    names = [str(scans / f"{i}.png") for i in range(3)]
    assert tune(*COARSE, "-o", str(tmp_path / "t.json"), images=names) == 0
    assert len(before_work) == 3 and not before_work[0].equal(before_work[1])


def test_tune_goes_on_from_what_is_there(capsys, scans, tmp_path):
    out, one = str(tmp_path / "some.json"), str(scans / "1.png")
    assert tune(*FINE, "-o", out, images=[one]) == 0
    assert "takes 9 images" in capsys.readouterr().out  # too few
    before = Tuning.load(out)
    assert tune(*FINE, "-o", out, images=[one, str(scans / "2.png")]) == 0
    assert "goes on" in capsys.readouterr().out
    after = Tuning.load(out)
    assert after.curves[: len(before.curves)] == before.curves and len(after.images) == 2
    refuses(
        capsys, tune(*COARSE, "-o", out, images=[one]), f"--out is '{out}', which exists already", "strides"
    )
    assert Tuning.load(out).curves == after.curves


def ends_tuning(monkeypatch, exception):
    """Let it end with an exception once two samples are known."""
    whole = attr_learn.learn

    def ended(preparer, request, began, on_progress, show_progress):
        def progress(tuning, done, total):
            on_progress(tuning, done, total)
            if done == 2:
                raise exception

        return whole(preparer, request, began, progress, show_progress)

    monkeypatch.setattr(attr_learn, "learn", ended)


def test_interrupted_tuning_keeps_what_it_has(capsys, monkeypatch, scans, tmp_path):
    ends_tuning(monkeypatch, KeyboardInterrupt)
    out = str(tmp_path / "tuning.json")
    assert tune(*FINE, "-o", out) == 130
    assert f"the tuning of 2 pictures is in {out}" in capsys.readouterr().err
    assert len(Tuning.load(out).images) == 2


def test_a_killed_tuning_keeps_what_it_has(monkeypatch, scans, tmp_path):
    """No handler runs: what was learnt must be on the disk already."""
    ends_tuning(monkeypatch, SystemExit)
    out = tmp_path / "tuning.json"
    with pytest.raises(SystemExit):
        tune(*FINE, "-o", str(out))
    assert len(Tuning.load(out).images) == 2 and [out] == list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["huge", "wordy", "broken"])
def test_tune_names_the_picture_of_a_folder_that_cannot_be_read(capsys, tmp_path, kind):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    side = 40_000 if kind == "huge" else 4
    words = zlib.compress(b"a" * 3_000_000) if kind == "wordy" else zlib.compress(b"a")
    picture = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    picture += chunk(b"zTXt", b"Comment\0\0" + words)
    (tmp_path / "bad.png").write_bytes(picture)
    status = tune(*FINE, "-o", str(tmp_path / "t.json"), images=[str(tmp_path)])
    refuses(capsys, status, "IMAGE", str(tmp_path / "bad.png"), "cannot be read")


def test_tune_does_not_take_its_own_figure_for_a_picture(capsys, scans, tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes((scans / f"{i}.png").read_bytes())
    files = ("-o", str(tmp_path / "tuning.json"), "-o", str(tmp_path / "tuning.png"))
    for _ in range(2):
        assert tune(*FINE, *files, images=[str(tmp_path)]) == 0
        assert "2: " in capsys.readouterr().out
    assert (tmp_path / "tuning.png").is_file()


def test_a_tuning_behind_a_link_is_kept_there(scans, tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "tuning.json"
    link.symlink_to(tmp_path / "there" / "real.json")
    assert tune(*FINE, "--max-seconds", "1e-6", "-o", str(link)) == 0
    assert link.is_symlink() and (tmp_path / "there" / "real.json").is_file()


def test_no_picture_is_overwritten(capsys, scans, tmp_path):
    picture = tmp_path / "scan.png"
    picture.write_bytes((scans / "0.png").read_bytes())
    before = picture.read_bytes()
    assert tune(*FINE, "-o", str(tmp_path / "t.json"), "-o", str(picture), images=[str(picture)]) == 2
    assert explain("--out", str(picture), image=str(picture)) == 2
    assert tune(*FINE, "-o", str(tmp_path / "t.json"), "-o", str(picture), images=[str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("an IMAGE, which would be lost") == 3 and picture.read_bytes() == before


def test_tune_without_time(capsys, scans, tmp_path):
    files = tmp_path / "none.json", tmp_path / "none.png"
    assert tune(*FINE, "--max-seconds", "1e-6", "-o", str(files[0]), "-o", str(files[1])) == 0
    assert "0 images" in capsys.readouterr().out
    assert files[0].is_file() and not files[1].exists()


@pytest.mark.parametrize("with_tuning", [False, True], ids=["untuned", "tuned"])
def test_approximate_maps_are_called_so(capsys, monkeypatch, tuned, scans, tmp_path, with_tuning):
    titles, save = [], Heatmap.save

    def noting(self, path, **picture):
        titles.extend([picture["title"]] if "title" in picture else [])
        save(self, path, **picture)

    monkeypatch.setattr(Heatmap, "save", noting)
    options = ("--tuning", str(tuned[0])) if with_tuning else ()
    png, npz = tmp_path / "map.png", tmp_path / "map.npz"
    photo = str(scans / "3.png")
    out = ("--out", str(png), "--out", str(npz))
    assert explain(*FINE, "--ssim", "0.6", *options, *out, image=photo) == 0
    printed = capsys.readouterr().out
    heatmap = Heatmap.load(npz)
    status, estimate = heatmap.status, heatmap.ssim_estimate
    interpolated = int((status == Status.INTERPOLATED).sum())
    assert 0 < interpolated < status.numel() == 256
    share = f"{1 - interpolated / 256:.0%} of 256 positions measured"
    assert share in printed and f"{interpolated} interpolated" in printed
    if trimmed := int((status == Status.TRIMMED).sum()):
        assert f"{trimmed} trimmed" in printed
    how = "tuned on 10 pictures" if with_tuning else "estimated on the way"
    assert f"about {estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}), {how}" in printed
    assert explain(*FINE, "--out", str(png), image=photo) == 0
    assert "similarity" not in capsys.readouterr().out
    approximate, exact = titles
    line = approximate.splitlines()[1]  # of its own, and short enough for the picture
    assert line.startswith(f"approximate: {1 - interpolated / 256:.0%} measured") and len(line) <= 65
    assert f"SSIM about {estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})" in line
    assert "measured" not in exact and "SSIM" not in exact


def test_exact_where_nothing_less_is_sure(capsys, scans, tmp_path):
    few, out, photo = str(tmp_path / "few.json"), str(tmp_path / "map.npz"), str(scans / "3.png")
    assert tune(*FINE, "-o", few, images=[str(scans / "1.png")]) == 0
    for words, told in (
        (["--ssim", "0.9999999"], "exact: all was measured, since no smaller part was certain enough"),
        (["--ssim", "1"], "exact: all was measured\n"),
        (["--ssim", "0.5", "--tuning", few], "takes a tuning of 9 pictures, and this one has 1"),
    ):
        capsys.readouterr()
        assert explain(*FINE, *words, "--out", out, image=photo) == 0
        assert told in capsys.readouterr().out
        assert bool((Heatmap.load(out).status == Status.EXACT).all())


def test_a_tuning_for_something_else(capsys, tuned):
    path = str(tuned[0])
    for words, parts in (
        (["--stride", "5"], ["strides"]),
        (["--activation", "none"], ["activation"]),
        (["--baseline", "black"], ["baseline"]),
    ):
        status = explain(*FINE, *words, "--ssim", "0.9", "--tuning", path)
        refuses(capsys, status, "made for something else", *parts)


@pytest.mark.parametrize(
    ("images", "words", "parts"),
    [
        ([], [], ["IMAGE"]),
        (["missing.png"], [], ["IMAGE is 'missing.png'"]),
        (["scans", "broken.png"], [], ["IMAGE is 'broken.png'"]),
        (["empty"], [], ["IMAGE is 'empty', a folder without pictures"]),
        (["scans"], ["--confidence", "1"], ["--confidence"]),
        (["scans"], ["--confidence", "90"], ["--confidence", "'90'"]),
        (["scans"], ["--max-seconds", "0"], ["--max-seconds"]),
        (["scans"], ["--baseline", "mean"], ["--baseline is mean", "one for all"]),
        (["scans"], ["--window", "50"], ["--window"]),
        (["scans"], ["--target", "7"], ["--target is 7"]),
        (["scans"], ["-o", "t.npz"], ["--out is 't.npz'", ".json"]),
        (["scans"], ["-o", "t.png"], ["--out", "0 .json files"]),
        (["scans"], ["-o", "t.json", "-o", "u.json"], ["--out", "2 .json files"]),
        (["scans"], ["-o", "bad.json"], ["--out is 'bad.json'", "no saved tuning"]),
        (["scans", "photo.png"], ["--model", "cli_factory:any_size"], ["IMAGE", "3 x 40 x 40", "--size"]),
    ],
)
def test_bad_tunings(capsys, folder, scans, images, words, parts):
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "bad.json").write_text("{}")
    refuses(capsys, tune(*words, images=images), *parts)
    assert not (folder / "tuning.json").exists()


# plan, info, demo


def test_plan(capsys):
    assert main(["plan", "cli_factory:network", "--size", "40", "--window", "8"]) == 0
    printed = capsys.readouterr().out
    assert "conv2d" in printed and "redundancy ratio" in printed and "random" not in printed
    assert main(["plan", "vgg16-brain-mri", "--window", "16", "--stride", "4"]) == 0
    printed = capsys.readouterr().out
    assert "random weights" in printed and "3249 positions" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert main(["plan", "cli_factory:network", "--size", "40", "--window", "8", "--run"]) == 0
    printed = capsys.readouterr().out
    assert "measured" in printed and "furthest above its expected share" in printed
    refuses(capsys, main(["plan", "cli_factory:network", "--size", "40", "--window", "41"]), "--window")
    refuses(capsys, main(["plan", "nothing"]), "model is 'nothing'")


def test_info(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed and importlib.metadata.version("captum") in printed
    assert "reference yes" in printed


def test_missing_extras_are_named(capsys, monkeypatch):
    wanted = ['torch>=2.13', 'pillow; extra == "demo"', "no-such-package==1.*; extra == 'demo'",
              'krypton-occlusion[demo]; extra == "test"']  # fmt: skip
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    version = importlib.metadata.version

    def installed(name):
        return "0" if name == "krypton-occlusion" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", installed)
    assert extras_missing() == {"demo": ["no-such-package"], "test": []}
    main(["info"])
    assert 'without no-such-package: pip install "krypton-occlusion[demo]"' in capsys.readouterr().out


def test_demo_on_a_small_model(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "DEMO_MODEL", "cli_factory:complete")
    monkeypatch.setattr(zoo, "DEMO_IMAGE", "photo.png")
    assert main(["demo", "--out", str(tmp_path / "new"), "--stride", "8"]) == 0
    shows_the_demo(capsys.readouterr().out, tmp_path / "new", (4, 4))


@pytest.mark.slow
def test_demo(capsys, tmp_path):
    assert main(["demo", "--out", str(tmp_path), "--stride", "16"]) == 0
    printed = capsys.readouterr().out
    shows_the_demo(printed, tmp_path, (15, 15))
    assert "notumor 0.998" in printed and "meningioma" in printed


@pytest.mark.slow
def test_demo_of_a_volume(capsys, monkeypatch, tmp_path):
    """The map in the file lies where the drawn lesion does, as nibabel reads it."""
    nibabel = pytest.importorskip("nibabel")
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["demo", "--volume", "--out", str(tmp_path)]) == 0
    shows(capsys.readouterr().out, tmp_path)
    scan, share = lesions.brain_scan()
    written = nibabel.load(tmp_path / "krypton-demo-volume.nii.gz")
    drop = np.nan_to_num(written.get_fdata(), nan=-np.inf)
    most = written.affine @ [*np.unravel_index(drop.argmax(), drop.shape), 1]
    lesion = scan.geometry.world(np.argwhere(share[0].numpy() > 0.5).mean(0))
    assert np.linalg.norm(most[:3] - lesion) < 16
    assert (tmp_path / "krypton-demo-volume.png").is_file()


def shows_the_demo(printed, folder, grid):
    shows(printed, folder)
    assert Heatmap.load(folder / "krypton-demo.npz").values.shape == grid
    assert (folder / "krypton-demo.png").is_file()


def shows(printed, folder):
    lines = printed.replace(str(folder), "folder").splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    for word in ("plan ", "Krypton ", "Captum ", "speed-up ", "agreement ", "The picture:"):
        assert any(line.startswith(word) for line in lines), word
    difference = float(printed.partition("largest difference ")[2].split()[0])
    assert difference < 1e-4


# The program


def test_module_runs_and_imports_little():
    code = (
        "import sys; from krypton_engine.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print([m for m in ('torch', 'numpy', 'captum', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    words = [sys.executable, "-m", "krypton_engine"]
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("krypton ")
    done = subprocess.run([*words, "explain", "missing.png", "--model", "x"], capture_output=True, text=True)
    assert done.returncode == 2 and "IMAGE is 'missing.png'" in done.stderr and not done.stdout


def test_messages_name_options():
    error = errors.InputError("strides", "(3, 9, 9)", "at most the window, (3, 4, 4)")
    assert message(error) == "krypton: error: --stride is (3, 9, 9); accepted: at most the window, (3, 4, 4)"
    long = errors.InputError("weights", "'w.pt'", "x" * 100, "which is no file")
    assert message(long) == f"krypton: error: --weights is 'w.pt', which is no file\nAccepted: {'x' * 100}"
