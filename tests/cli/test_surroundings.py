"""The command line and the zoo under what users and their machines do to them."""

from __future__ import annotations

import gc
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import weakref
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from krypton_engine import Heatmap, zoo
from krypton_engine.cli import installation, main
from krypton_engine.cli.findings import show_findings
from krypton_engine.cli.model import target_of
from krypton_engine.cli.text import command_lines
from krypton_engine.errors import InputError
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.zoo import networks

FACTORY = """
import sys
import torch
from torch import nn


def network(channels=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(576, 3)
    )


def grey():
    return network(1)


def exits():
    sys.exit("usage: train.py --data DIR")


def exits_in_forward():
    class Exits(nn.Module):
        def forward(self, x):
            sys.exit()

    return Exits()


def picky():
    def preprocess(image):
        if image.size == (300, 260):  # as it is tried out
            return torch.zeros(3, 24, 24)
        raise KeyError("scanner")

    return network(), preprocess


def frail():
    class Frail(nn.Sequential):
        def forward(self, x):
            if x.any():
                raise RuntimeError("a picture that is not black")
            return super().forward(x)

    return Frail(*network())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a model and a picture of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delitem(sys.modules, "trial_factory", raising=False)
    (tmp_path / "trial_factory.py").write_text(FACTORY)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path


QUESTION = ("--model", "trial_factory:network", "--size", "24", "--window", "8", "--stride", "8")


def explain(*words, image="photo.png"):
    return main(["explain", image, *(words if "--model" in words else (*QUESTION, *words))])


def refused(capsys, status):
    """The message of a command that was refused in a few lines."""
    told = capsys.readouterr().err
    assert status == 2 and told.startswith("krypton: error: ") and len(told.splitlines()) <= 4, told
    assert "Traceback" not in told and "Error:" not in told.splitlines()[-1], told
    return told


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
        ({0: "a", 1: "b"}, "holds 2 names; accepted: 3"),
        ({i: str(i) for i in range(4)}, "holds 4 names; accepted: 3"),
        ({0: ["n01440764", "tench"], 1: "b", 2: "c"}, "which is no name"),
        (["a", None, "c"], "holds None"),
        ({"a", "b", "c"}, "class_names is set, which has no order"),
        ("abc", "class_names is str, which has no order"),
        (3, "class_names is int, which has no order"),
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


# Memory


def test_a_long_and_thin_picture_takes_little_memory(tmp_path):
    Image.new("RGB", (1, 20_000), (10, 200, 30)).save(tmp_path / "thin.png")
    code = f"""
import resource
from krypton_engine import zoo
picture = zoo.load_image({str(tmp_path / "thin.png")!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for shorter_side in (256, None):
    x = zoo.Preprocess((224, 224), (0.0,) * 3, (1.0,) * 3, shorter_side)(picture)
    assert x.shape == (3, 224, 224) and x.std((1, 2)).max() == 0
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # MiB


@pytest.mark.parametrize("size", [(3, 1000), (1000, 3)], ids=str)
def test_a_long_and_thin_picture_is_what_torchvision_makes_of_it(size):
    import torchvision

    noise = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    recipe = networks.recipe_of("resnet18").preprocess
    theirs = torchvision.models.ResNet18_Weights.DEFAULT.transforms()(Image.fromarray(noise))
    ours = recipe(Image.fromarray(noise))
    level = 1 / 255 / min(recipe.std)  # of one pixel, which may be rounded otherwise
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1.01 * level)
    assert ours.std() > 10 * level


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "BMP"])
def test_pictures_that_would_fill_the_memory_are_refused(folder, monkeypatch, format):
    Image.new("L", (60, 50)).save("bomb.png", format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # 3000 are three times as many
    with pytest.raises(InputError, match=r"source is 'bomb.png', which cannot be read as an image: .*bomb"):
        zoo.load_image("bomb.png")


def test_tune_holds_one_picture_at_a_time(folder, monkeypatch):
    loaded, most, load = [], [], zoo.load_image

    def noting(name):
        picture = load(name)
        gc.collect()
        loaded.append(weakref.ref(picture))
        most.append(sum(each() is not None for each in loaded))
        return picture

    monkeypatch.setattr(zoo, "load_image", noting)
    names = [f"{i}.png" for i in range(6)]
    for name in names:
        shutil.copy("photo.png", name)
    assert main(["tune", *names, *QUESTION, "--max-seconds", "1e-9"]) == 0
    assert len(most) == 6 and max(most) <= 2  # the one before goes when the next has come


GIB = 2**30


def machine(root, *groups, mounted=""):
    """A system as a process in these control groups sees it: lines of its own, and (folder, file, number)."""
    lines, files = groups[0], groups[1:]
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 999999999 kB\nMemAvailable: 524288 kB\n")
    (root / "proc/self/cgroup").write_text(lines)
    for folder, name, content in files:
        where = root / "sys/fs/cgroup" / mounted / folder
        where.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(f"{content}\n")
    return installation.memory(root)


@pytest.mark.parametrize("nested", [False, True], ids=["container", "host"])
def test_memory_of_a_container_version_2(tmp_path, nested):
    name = "system.slice/job" if nested else ""
    told = machine(
        tmp_path,
        f"0::/{name}\n",
        ("", "memory.max", "max" if nested else GIB),
        (os.path.dirname(name), "memory.max", GIB),
        (os.path.dirname(name), "memory.current", GIB * 7 // 8),
        (os.path.dirname(name), "memory.stat", f"anon 1\ninactive_file {GIB // 8}"),
        (name, "memory.max", "max" if nested else GIB),
    )
    assert told.startswith("1.0 GiB, 0.2 GiB available")  # 1 - (7/8 - 1/8), below the machine's 0.5


@pytest.mark.parametrize("name", ["/", "/docker/0123abcd"])  # a container's own name is not in its mount
def test_memory_of_a_container_version_1(tmp_path, name):
    told = machine(
        tmp_path,
        f"5:cpu,cpuacct:{name}\n4:memory:{name}\n0::/\n",
        ("", "memory.limit_in_bytes", GIB),
        ("", "memory.usage_in_bytes", GIB // 4),
        ("", "memory.stat", f"inactive_file 1\ntotal_inactive_file {GIB // 8}"),
        mounted="memory",
    )
    assert told.startswith("1.0 GiB, 0.5 GiB available")  # the machine's


def test_memory_without_a_limit_is_the_machines(tmp_path):
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    expected = f"{total / GIB:.1f} GiB, 0.5 GiB available"
    unlimited = ("", "memory.limit_in_bytes", 9223372036854771712)
    assert machine(tmp_path / "1", "4:memory:/\n", unlimited, mounted="memory") == expected
    assert machine(tmp_path / "2", "0::/\n", ("", "memory.max", "max")) == expected
    assert machine(tmp_path / "3", "0::/\n") == expected


# What Krypton has drawn is no sample


def test_tune_leaves_out_what_krypton_drew(folder, capsys):
    os.mkdir("scans")
    shutil.copy("photo.png", "scans/scan.png")
    assert explain("--out", "scans/map.png", image="scans/scan.png") == 0
    capsys.readouterr()
    for given in (["scans"], ["scans/map.png", "scans/scan.png"]):
        assert main(["tune", *given, *QUESTION, "--out", "t.json", "--max-seconds", "1e-9"]) == 0
        told = capsys.readouterr()
        assert "pictures    1: " in told.out
        assert (
            told.err == f"krypton: note: left out as drawn by Krypton: {os.path.join('scans', 'map.png')}\n"
        )
        os.remove("t.json")
    os.remove("scans/scan.png")
    for given in ("scans", "scans/map.png"):
        status = main(["tune", given, *QUESTION])
        assert "IMAGE" in capsys.readouterr().err and status == 2


# Pictures that are damaged, and such as others write


def jpeg(exif):
    """A picture 30 pixels wide and 20 high, dark on the left, with EXIF data as they are."""
    file = io.BytesIO()
    Image.fromarray(np.repeat([[0, 255]], 15, axis=1).repeat(20, axis=0).astype(np.uint8)).save(
        file, "JPEG", exif=exif
    )
    return file.getvalue()


def test_exif_that_cannot_be_written_again_still_turns_the_picture(folder):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    # The maker's tag becomes the compression's, which is a number and cannot be written from a text.
    broken = jpeg(exif).replace(b"\x01\x0f\x00\x02", b"\x01\x03\x00\x02")
    assert broken != jpeg(exif)
    Path("turned.jpg").write_bytes(broken)
    turned = np.asarray(zoo.load_image("turned.jpg"))
    assert turned.shape == (30, 20, 3)
    assert turned[:10].mean() < 20 and turned[20:].mean() > 235  # clockwise: the left is on top


@pytest.mark.parametrize("orientation", [0, 1, 9, 65535])
def test_orientations_that_are_none_leave_the_picture(folder, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Path("odd.jpg").write_bytes(jpeg(exif))
    assert zoo.load_image("odd.jpg").size == (30, 20)


@pytest.mark.parametrize(
    "format", ["AVIF", "BLP", "DDS", "GIF", "JPEG", "PNG", "QOI", "TIFF", "WEBP", "SPIDER"]
)
def test_damaged_pictures_are_refused_by_name(folder, format):
    noise = np.random.default_rng(0).integers(0, 256, (24, 30, 3)).astype(np.uint8)
    picture = Image.fromarray(noise).convert({"BLP": "P", "SPIDER": "F"}.get(format, "RGB"))
    file = io.BytesIO()
    picture.save(file, format)
    whole, random = file.getvalue(), np.random.default_rng(1)
    read = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for at in random.integers(0, min(len(whole), 150), 3):
            damaged[at] = random.integers(256)
        Path("damaged.img").write_bytes(damaged[: random.integers(1, 2 * len(whole))])
        try:
            zoo.load_image("damaged.img")
            read += 1
        except InputError as error:
            assert "source is 'damaged.img'" in str(error) and len(str(error).splitlines()) == 1
    assert read < 60


def test_pictures_of_numbers_that_are_none(folder):
    pixels = np.zeros((4, 5), np.float32)
    for bad in (np.nan, np.inf):
        pixels[1, 2] = bad
        Image.fromarray(pixels).save("bad.tif")
        with pytest.raises(InputError, match=r"source is 'bad.tif', which holds NaN or infinite pixels"):
            zoo.load_image("bad.tif")


# Weights


class Kernel(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 48))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


@pytest.fixture
def kernel(folder, monkeypatch):
    """Loads a model of one weight from a file that holds what is given."""
    module = type(sys)("trial_kernel")
    module.Kernel, module.Wrapped = Kernel, lambda: nn.DataParallel(Kernel())
    monkeypatch.setitem(sys.modules, "trial_kernel", module)

    def load(content, name="Kernel"):
        torch.save(content, "w.pt")
        return zoo.load_model(f"trial_kernel:{name}", size=4, weights="w.pt").model

    return load


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({0: torch.zeros(3, 48)}, "holds no state dict"),
        ({"weight": torch.zeros(3, 48).to_sparse()}, "holds a sparse tensor, weight"),
        ({"weight": torch.zeros(3, 48).to_sparse_csr()}, "holds a sparse tensor, weight"),
        ({"weight": torch.zeros(3, 48, device="meta")}, "holds a meta tensor, weight"),
        ({"weight": torch.zeros(3, 48, dtype=torch.complex64)}, "weight of complex numbers for real ones"),
        ({"weight": torch.zeros(3, 48, dtype=torch.int8)}, "weight of whole numbers for real ones"),
        ({"weight": [1.0] * 144}, "holds no state dict"),
        ({"epoch": 3, "networks": {"weight": torch.zeros(3, 48)}}, "holds no state dict"),
        ({"model": {"layers": {"weight": torch.zeros(3, 48)}}}, "holds no state dict"),
    ],
    ids=["numbered", "sparse", "csr", "meta", "complex", "whole", "list", "unknown", "deep"],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_weights_that_cannot_be_loaded(kernel, content, told):
    with pytest.raises(InputError) as caught:
        kernel(content)
    assert "weights is 'w.pt'" in str(caught.value) and told in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_meta_weights_of_a_known_model_build_nothing(folder):
    huge = torch.zeros(1, 1).expand(10**12, 1)  # four bytes in the file
    for weight in (torch.zeros(10**12, 1000, device="meta"), huge):
        torch.save({"classifier.1.bias": weight}, "w.pt")
        with pytest.raises(InputError, match=r"weights is 'w\.pt'"):
            zoo.load_model("squeezenet1_1", weights="w.pt")


@pytest.mark.parametrize("keys", ["{}", "module.{}", "_orig_mod.{}", "_orig_mod.module.{}"])
@pytest.mark.parametrize("nest", ["", "state_dict", "model", "model_state_dict", "model state_dict"])
def test_weights_of_wrappers_and_trainers(kernel, keys, nest):
    weight = torch.randn(3, 48)
    content = {keys.format("weight"): weight}
    for name in reversed(nest.split()):
        content = {name: content, "epoch": 3}
    assert kernel(content).weight.equal(weight)


def test_weights_of_a_model_that_is_a_wrapper(kernel):
    weight = torch.randn(3, 48)
    assert kernel({"module.weight": weight}, "Wrapped").module.weight.equal(weight)


# Callables that exit, and such that fail later


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sys:exit", "model is 'sys:exit', which gave no model: SystemExit"),
        ("trial_factory:exits", "SystemExit: usage: train.py"),
        ("trial_script:build", "gave no model: SystemExit"),
        ("trial_factory:exits_in_forward", "does not take an input"),
        ("trial_factory:picky", "IMAGE is 'photo.png', and the preprocessing of 'trial_factory:picky' fails"),
        (
            "trial_factory:frail",
            "IMAGE is 'photo.png', which makes trial_factory:frail fail: RuntimeError: a",
        ),
        ("builtins:print", "returns NoneType"),
    ],
)
def test_callables_that_do_not_give_a_model(folder, capsys, name, told):
    Path("trial_script.py").write_text(
        "import argparse\nargparse.ArgumentParser().parse_args(['--no-such'])\n"
    )
    size = () if name.endswith("picky") else ("--size", "24")
    status = explain("--model", name, *size)
    printed = capsys.readouterr().err
    assert status == 2 and told in printed[printed.index("krypton: error: ") :]


# Numbers on the command line


def test_one_mean_serves_all_channels(folder):
    assert explain("--mean", "0.5", "--std", "0.25", "--out", "map.npz") == 0
    pixels = np.asarray(Image.open("photo.png"), dtype=np.float64).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(Heatmap.load("map.npz").image.numpy(), (pixels - 0.5) / 0.25, atol=1e-6)


def test_a_grey_model_is_found_out(folder):
    words = ("--model", "trial_factory:grey", "--size", "24", "--window", "8", "--stride", "8")
    assert explain(*words, "--mean", "0.5", "--out", "map.npz") == 0
    grey = np.asarray(Image.open("photo.png").convert("L"), dtype=np.float64)[None] / 255
    np.testing.assert_allclose(Heatmap.load("map.npz").image.numpy(), grey - 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--baseline", "1e39"),
        ("--baseline", "-1e39"),
        ("--baseline", "inf"),
        ("--baseline", "-inf"),
        ("--baseline", "nan"),
        ("--mean", "1e39"),
        ("--mean", "nan"),
        ("--std", "1e-60"),
        ("--std", "inf"),
        ("--memory-budget", "1e-9"),
        ("--memory-budget", "inf"),
        ("--size", "99999999999"),
    ],
)
def test_numbers_that_no_model_can_take(folder, capsys, option, value):
    words = [word for word in QUESTION if option != "--size" or word not in ("--size", "24")]
    told = refused(capsys, explain(*words, f"{option}={value}"))
    assert option in told or "size" in told


# Where the text goes


def test_nobody_reads(folder):
    """`krypton explain ... | true`, as a shell has it: the text is lost, the files are not."""
    program = f"{sys.executable} -m krypton_engine explain photo.png {' '.join(QUESTION)}"
    script = f"{program} --out a.png --out a.npz | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "141\n" and done.stderr == ""
    assert Heatmap.load("a.npz").measured.all() and Image.open("a.png").width > 500


def test_nothing_is_open(folder):
    """Files that are opened get the numbers of closed streams, and what is printed must not go there."""
    program = f"{sys.executable} -m krypton_engine explain photo.png {' '.join(QUESTION)}"
    script = f"{program} --out a.png --out a.npz <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", script], capture_output=True).returncode == 0
    assert Heatmap.load("a.npz").measured.all() and Image.open("a.png").width > 500


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("kind", ["closed", "full", "unread"])
def test_streams_that_take_nothing(folder, monkeypatch, capfd, stream, kind):
    taken = None
    if kind == "full":
        taken = open("/dev/full", "w")  # noqa: SIM115
    if kind == "unread":
        reader, writer = os.pipe()
        os.close(reader)
        taken = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, stream, taken)
    expected = {("stdout", "full"): 2, ("stdout", "unread"): 141}.get((stream, kind), 0)
    assert explain("--model", "trial_factory:picky", "--debug") == 2  # told, or nobody hears it
    assert explain("--out", "map.npz", "--out", "map.png") == expected
    assert Heatmap.load("map.npz").measured.all() and Path("map.png").is_file()
    told = capfd.readouterr()
    if taken is not None:
        with suppress(OSError):
            taken.close()
    assert ("the text cannot be written" in told.err) == (expected == 2)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_names_that_the_terminal_cannot_write(folder, monkeypatch, encoding):
    Path("names.txt").write_text("Löwe\nживотное\n猫\n", encoding="utf-8")
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    assert explain("--classes", "names.txt", "--target", "LÖWE", "--out", "map.png") == 0
    out.flush()
    printed = out.buffer.getvalue().decode(encoding)
    assert "猫".encode("unicode_escape").decode() in printed and "L\\xf6we" in printed.replace("ö", "\\xf6")


@pytest.mark.parametrize(
    "name", [b"$a_{$ \\x^{2}.png", b"caf\xe9.png", "猫.png".encode()], ids=["math", "latin", "cat"]
)
def test_names_of_files(folder, capsys, name):
    image, out = os.fsdecode(name), os.fsdecode(b"map-" + name)
    shutil.copy("photo.png", image)
    numbers = str(Path(out).with_suffix(".npz"))
    assert explain("--out", out, "--out", numbers, image=image) == 0
    assert Image.open(out).width > 500 and Heatmap.load(numbers).measured.all()


# Files whole, the numbers first


@pytest.mark.parametrize("order", [("map.png", "map.npz"), ("map.npz", "map.png")])
@pytest.mark.parametrize("failing", [".png", ".npz"])
def test_a_file_that_cannot_be_written_keeps_no_other_from_it(folder, capsys, monkeypatch, order, failing):
    Path("map.png").write_text("earlier")
    Path("map.npz").write_text("earlier")
    whole, written = Heatmap.save, []

    def save(self, path, **picture):
        written.append(Path(path).suffix)
        if Path(path).suffix == failing:
            raise OSError(28, "No space left on device", str(path))
        whole(self, path, **picture)

    monkeypatch.setattr(Heatmap, "save", save)
    assert explain("--out", order[0], "--out", order[1]) == 2
    assert written == [".npz", ".png"]
    told = capsys.readouterr()
    assert f"No space left on device: 'map{failing}'" in told.err and "written" not in told.out
    kept, new = Path(f"map{failing}"), Path("map.png" if failing == ".npz" else "map.npz")
    assert kept.read_bytes() == b"earlier" != new.read_bytes()


# What people read


@pytest.mark.parametrize("columns", [80, 60, 40])
@pytest.mark.parametrize("command", ["", "demo", "explain", "tune", "plan", "info", "doctor"])
def test_help_breaks_no_word(capsys, monkeypatch, columns, command):
    def printed(width):
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        return capsys.readouterr().out

    narrow, wide = printed(columns), printed(1000)
    assert narrow.replace("\\\n", "").split() == wide.replace("\\\n", "").split()
    # The usage is argparse's own, which keeps an option and its choices together.
    assert max(map(len, narrow.partition("\n\n")[2].splitlines())) <= max(columns, 46)


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("words", [["plan", *QUESTION[1:]], ["info"]], ids=["plan", "info"])
def test_tables_break_no_word(folder, capsys, monkeypatch, columns, words):
    monkeypatch.setattr(installation, "memory", lambda: "1 GiB")  # or it changes meanwhile

    def printed(width):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(words) == 0
        return capsys.readouterr().out

    narrow, wide = printed(columns), printed(1000)
    if words == ["info"]:
        assert narrow.split() == wide.split()
    else:  # columns are left out rather than folded, the last ones first
        assert set(narrow.split()) <= set(wide.split())
        assert {"MMACs", "operator"} <= set(narrow.split())
    assert all(len(line) <= columns or len(line.split()[-1]) > columns - 12 for line in narrow.splitlines())


def test_explain_tells_what_its_picture_shows(folder, capsys, monkeypatch):
    titles, save = [], Heatmap.save

    def noting(self, path, **picture):
        titles.append(picture["title"])
        save(self, path, **picture)

    monkeypatch.setattr(Heatmap, "save", noting)
    monkeypatch.setenv("COLUMNS", "80")
    Path("names.txt").write_text("cat\ndog\nfish\n")
    assert explain("--classes", "names.txt", "--target", "dog", "--baseline", "0") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and not any("Heatmap(" in line for line in lines)

    model = zoo.load_model("trial_factory:network", size=24).model.double()
    x = torch.from_numpy(np.asarray(Image.open("photo.png"), dtype=np.float64) / 255).permute(2, 0, 1)[None]
    drops = {}
    with torch.no_grad():
        base = float(model(x).softmax(1)[0, 1])
        for row in range(0, 24, 8):
            for column in range(0, 24, 8):
                occluded = x.clone()
                occluded[..., row : row + 8, column : column + 8] = 0
                drops[row, column] = base - float(model(occluded).softmax(1)[0, 1])
    text = " ".join(" ".join(lines).split())
    end = max(map(abs, drops.values()))
    assert f"drop of dog, {base:.3g} for the whole picture; the colours end at {end:.3g}" in text
    for word, (row, column) in (("most", max(drops, key=drops.get)), ("least", min(drops, key=drops.get))):
        drop = drops[row, column]
        where = f"at rows {row} to {row + 7}, columns {column} to {column + 7}"
        assert f"{word} {drop:.3g}, {where}: occluded, {base:.3g} becomes {base - drop:.3g}" in text
    assert titles == [f"dog: {base:.3g} (photo.png, trial_factory:network)"]


def test_positions_that_are_not_finite_are_counted(capsys):
    values = torch.tensor([[0.5, float("nan")], [float("inf"), 0.25]])
    window = SlidingWindow((3, 24, 24), (3, 12, 12), (3, 12, 12))
    heatmap = Heatmap(values, torch.tensor(1.0), torch.ones(2, 2, dtype=torch.bool), window, 0)
    model = zoo.ZooModel("m", nn.Identity(), lambda image: image, (3, 24, 24), None, "", lambda x: x)
    show_findings(heatmap, model, "class 0")
    printed = capsys.readouterr().out
    assert "2 positions are not finite" in printed and "the colours end at 0.75" in printed
    assert "most 0.75, at rows 12 to 23, columns 12 to 23: occluded, 1 becomes 0.25" in printed


def of_measured(values, measured, **rest):
    """A map of one row of positions; what was not measured is a guess."""
    window = SlidingWindow((3, 4, 4 * len(values)), (3, 4, 4), (3, 4, 4))
    grid = [torch.tensor(each).reshape(1, -1) for each in (values, measured)]
    return Heatmap(grid[0], torch.tensor(0.5), grid[1], window, 1, **rest)


def told_of(capsys, heatmap):
    model = zoo.ZooModel("m", nn.Identity(), lambda image: image, (3, 4, 4), ["a", "b"], "", lambda x: x)
    show_findings(heatmap, model, "b")
    return capsys.readouterr().out


def test_what_was_not_measured_is_not_told_as_found(capsys):
    """Extremes and answers of the three measured positions; the model says `a` of the picture."""
    classes, base = torch.tensor([[0, 1, -1, -1]]), torch.tensor([0.9, 0.5])
    heatmap = of_measured(
        [0.5, 0.4999, 0.1, math.nan], [True, True, False, True], classes=classes, base_outputs=base
    )
    text = told_of(capsys, heatmap)
    assert "most 0.0001, at rows 0 to 3, columns 4 to 7: occluded, 0.5 becomes 0.4999" in text
    assert "least 0, at rows 0 to 3, columns 0 to 3" in text
    assert "1 position is not finite" in text
    assert "another class at 1 of the 3 measured positions, mostly b" in text
    assert "another class at 1 of 4 positions" in told_of(
        capsys, replace(heatmap, measured=torch.ones(1, 4, dtype=torch.bool))
    )
    even = of_measured([0.5, 0.5], [True, True])
    assert "nothing changes" in told_of(capsys, even) and "most" not in told_of(capsys, even)
    small = told_of(capsys, replace(even, base=torch.tensor(1.05e-4), values=torch.tensor([[6.8e-5, 1e-4]])))
    assert "of b, 1.05e-04 for" in small and "occluded, 1.05e-04 becomes 6.8e-05" in small
    assert re.findall(r"0\.0\d*", small) == []


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("tigercat", ["tiger cat"]),
        ("Retriever", ["golden retriever", "Labrador retriever"]),
        ("egyptain cat", ["Egyptian cat"]),
        ("goldfihs", ["goldfish"]),
    ],
)
def test_names_near_a_target(given, near):
    names = networks.imagenet_names()
    model = zoo.ZooModel("m", nn.Identity(), lambda image: image, (3, 8, 8), names, "", lambda x: x)
    with pytest.raises(InputError) as caught:
        target_of(given, model, len(names))
    told = re.search(r"near it, (.*); or an index", str(caught.value))[1].split(", ")
    assert set(near) <= set(told) <= set(names) and "tench" not in told


def test_a_name_as_it_is_written_comes_first():
    names = ["dog", "DOG", "Cat"]
    model = zoo.ZooModel("m", nn.Identity(), lambda image: image, (3, 8, 8), names, "", lambda x: x)
    assert [target_of(name, model, 3) for name in ("dog", "DOG", "cat")] == [0, 1, 2]
    with pytest.raises(InputError, match="2 classes"):
        target_of("Dog", model, 3)


def test_a_broken_command_is_one_for_a_shell():
    command = "  krypton explain photo.jpg --model efficientnet-lite0 --window 32 --stride 8"
    lines = command_lines(command, 40)
    assert len(lines) > 1 and max(map(len, lines)) <= 40
    script = "krypton() { echo krypton $*; }\n" + "\n".join(lines)
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.split() == command.split()
