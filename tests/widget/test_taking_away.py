"""What can be taken away from an explorer, and what stays of it.

The call of a map, files and their names, a kept map, the still picture in a saved notebook.
"""

from __future__ import annotations

import base64
import inspect
import io
import re
import shlex
from dataclasses import replace

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image
from support.widget_page import Page
from torch import nn

from krypton_engine import Heatmap, InputError, KryptonOcclusion, fillings, zoo
from krypton_engine.cli import main
from krypton_engine.medical import Geometry, Scan
from krypton_widget import OcclusionExplorer

SIZE = (24, 20)


class Net(nn.Sequential):
    """A small network of images with so many axes, whose answers differ."""

    def __init__(self, axes=2, channels=3):
        torch.manual_seed(0)
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
        pool = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[axes]
        head = nn.Linear(4 * 2**axes, 4)
        super().__init__(conv(channels, 4, 3, padding=1), nn.ReLU(), pool(2), nn.Flatten(), head)
        with torch.no_grad():
            head.weight.mul_(20)
        self.eval()


def preprocess(image):
    pixels = np.asarray(image.convert("RGB").resize(SIZE[::-1]), np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1).sub(0.4).div(0.25)


def photo(size=SIZE, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def cells(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


MASK = np.arange(24)[:, None] // 6 * 3 + np.arange(20) // 7


@pytest.fixture
def explore():
    made = []

    def make(model=None, image=None, **options):
        options = {"window": 6, "stride": 3, "exact": True} | options
        made.append(
            OcclusionExplorer(
                Net() if model is None else model, photo() if image is None else image, **options
            )
        )
        made[-1].wait(120)
        return made[-1]

    yield make
    for explorer in made:
        explorer.close()


# --- the call -----------------------------------------------------------------------------------------

SCAN = Scan.of(cells(1, 6, 14, 12).numpy(), Geometry.of_spacing((6, 14, 12), (3.0, 1.0, 1.0)), (0.1, 0.7))


@pytest.mark.parametrize(
    ("axes", "channels", "image", "options"),
    [
        (2, 3, photo(), {}),
        (2, 3, photo((50, 40)), {"preprocess": preprocess, "baseline": "blur"}),
        (2, 3, [photo(), photo(seed=1)], {"baseline": "mean", "target": 2}),
        (2, 3, np.asarray(photo()), {"baseline": "local mean"}),
        (2, 3, cells(3, *SIZE), {"baseline": "noise", "region": (3, 2, 12, 14)}),
        (2, 3, photo((50, 40)), {"preprocess": preprocess, "regions": "slic:9"}),
        (2, 3, photo(), {"regions": MASK, "baseline": fillings.LocalMean(border=2)}),
        (2, 3, photo(), {"exact": False, "ssim_target": 0.8, "activation": torch.sigmoid}),
        (3, 1, SCAN, {"window": 4}),
        (3, 2, cells(2, 6, 14, 12), {"baseline": "mean", "window": 8}),
        (3, 1, cells(1, 6, 14, 12), {"baseline": "black", "stride": 2}),
        (1, 2, cells(2, 40), {"baseline": "blur"}),
    ],
)
def test_the_call_in_python_makes_this_very_map(explore, axes, channels, image, options):
    model = Net(axes, channels)
    explorer = explore(model, image, **options)
    text = Page(explorer).frame["calls"]["python"]
    assert not re.search(r"explorer", text.split("\n", 1)[1]) or "regions" in options
    given = {
        "explorer": explorer, "model": model, "image": image, "images": image, "preprocess": preprocess,
        "filling": options.get("baseline"), "activation": options.get("activation"),
    }  # fmt: skip
    exec(text, given)
    heatmap = given["heatmap"]
    assert heatmap.target == explorer.heatmap.target and heatmap.window == explorer.heatmap.window
    assert torch.equal(heatmap.measured, explorer.heatmap.measured)
    known = ~explorer.heatmap.values.isnan()
    torch.testing.assert_close(heatmap.values[known], explorer.heatmap.values[known], rtol=0, atol=1e-6)
    assert (heatmap.values[known] - heatmap.base).abs().max() > 1e-3, "there is something to compare"


FACTORY = """
import numpy as np
import torch
from torch import nn

{net}

{preprocess}

def build():
    return Net(), preprocess

def of_scans():
    return Net(3, 1)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a module of the models, a photograph and a scan."""
    source = inspect.getsource(preprocess)
    (tmp_path / "mine.py").write_text(
        f"SIZE = {SIZE}\n" + FACTORY.format(net=inspect.getsource(Net), preprocess=source)
    )
    photo((50, 40)).save(tmp_path / "a photo.png")
    np.save(tmp_path / "scan.npy", cells(6, 14, 12).numpy())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def run(text, **stand):
    """Run a command as it was copied, with what the words in capitals stand for."""
    for word, value in stand.items():
        text = text.replace(word, value)
    words = shlex.split(text, comments=True)
    assert words[0] == "krypton"
    assert main(words[1:]) == 0
    return Heatmap.load("map.npz")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"baseline": "blur", "target": 3, "window": 8, "stride": 2},
        {"baseline": "local mean"},
        {"baseline": "noise"},
        {"activation": None},
        {"exact": False, "ssim_target": 0.8},
    ],
)
def test_the_command_makes_this_very_map(explore, home, options):
    explorer = explore(Net(), Image.open("a photo.png"), preprocess=preprocess, **options)
    text = Page(explorer).frame["calls"]["command"]
    assert "'a photo.png'" in text
    heatmap = run(text, MODEL="mine:build")
    assert heatmap.window == explorer.heatmap.window and heatmap.target == explorer.heatmap.target
    if options.get("exact", True):
        torch.testing.assert_close(heatmap.values, explorer.heatmap.values, rtol=0, atol=1e-5)
    else:
        assert bool((explorer.heatmap.status == 1).any())
        both = heatmap.measured & explorer.heatmap.measured
        torch.testing.assert_close(heatmap.values[both], explorer.heatmap.values[both], rtol=0, atol=1e-5)


def test_the_command_of_a_scan_makes_this_very_map(explore, home):
    explorer = explore(Net(3, 1), cells(6, 14, 12)[None], window=8, stride=4, baseline="grey")
    text = Page(explorer).frame["calls"]["command"]
    assert "--window 6,8,8" in text
    heatmap = run(text, IMAGE="scan.npy", MODEL="mine:of_scans")
    torch.testing.assert_close(heatmap.values, explorer.heatmap.values, rtol=0, atol=1e-5)


def test_a_model_and_a_picture_of_the_zoo_are_named(explore):
    net = zoo.load_model("squeezenet1_1", weights="random")
    image = zoo.load_image("camera")
    explorer = explore(net.model, image, preprocess=net.preprocess, window=112, stride=112)
    text = Page(explorer).frame["calls"]["command"]
    assert text.startswith("krypton explain camera --model squeezenet1_1 --weights random --window 112")


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (photo(), {"region": (0, 0, 9, 9)}, "a region to look at"),
        (photo(), {"baseline": fillings.LocalMean(border=2)}, "a filling of your own"),
        (photo(), {"activation": torch.sigmoid}, "an activation of your own"),
    ],
)
def test_what_the_command_line_has_not_is_said(explore, image, options, words):
    text = Page(explore(Net(), image, **options)).frame["calls"]["command"]
    assert text == f"# The command line has no {words}."


def test_a_map_on_its_way_has_no_call(explore):
    explorer = explore()
    assert Page(explorer).frame["calls"]
    explorer.exact, explorer.window = False, 5
    explorer.cancel()
    explorer.wait(60)
    assert not Page(explorer).frame.get("calls")


# --- files --------------------------------------------------------------------------------------------


def test_files_are_named_by_image_class_and_window(explore, home):
    names = ["tabby", "tiger cat/α", "dog", "owl"]
    explorer = explore(
        image=[Image.open("a photo.png"), photo()], preprocess=preprocess, class_names=names, target=1
    )
    ((name, _),) = Page(explorer).press_save("npz")
    assert name == "a-photo-tiger-cat-α-6x6.npz"
    explorer.image_index, explorer.regions = 1, "slic:9"
    explorer.wait(60)
    ((name, _),) = Page(explorer).press_save("pdf")
    assert re.fullmatch(r"image-2-tiger-cat-α-\d+-regions\.pdf", name)


@pytest.mark.parametrize(("ending", "begin"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_pictures_of_three_kinds(explore, ending, begin, tmp_path):
    explorer = explore()
    ((_, content),) = Page(explorer).press_save(ending)
    assert content.startswith(begin)
    explorer.save(tmp_path / f"map.{ending}")
    assert (tmp_path / f"map.{ending}").read_bytes().startswith(begin)


def test_a_picture_is_as_wide_as_was_asked(explore, tmp_path):
    explorer = explore()
    explorer.save(tmp_path / "map.png", width=2000)
    assert Image.open(tmp_path / "map.png").width == 2000
    for wrong in (99, 20_001, 800.5, "wide"):
        with pytest.raises(InputError, match=r"width is .*; accepted: None, or pixels: 100 to 20000"):
            explorer.save(tmp_path / "map.png", width=wrong)


# --- a kept map ---------------------------------------------------------------------------------------


def test_a_kept_map_stays_while_others_come(explore):
    explorer = explore(class_names=["a", "b", "c", "d"], target=1)
    before = Page(explorer).frame
    explorer.keep()
    kept = explorer.get_state("_kept")["_kept"]
    assert kept["frame"]["values"] == before["values"] and kept["name"] == "b, 6 x 6 every 3 x 3, grey"
    explorer.window, explorer.target = 8, 2
    explorer.wait(60)
    kept = explorer.get_state("_kept")["_kept"]
    assert kept["frame"]["values"] == before["values"] != Page(explorer).frame["values"]
    explorer.let_go()
    assert explorer.get_state("_kept")["_kept"] == {}


def test_a_map_of_another_model_and_size_is_kept(explore):
    explorer = explore()
    x = cells(1, 3, 40, 32)
    other = KryptonOcclusion(Net()).heatmap(x, (3, 8, 8), (3, 4, 4), target=1)
    explorer.keep(other, "another")
    kept = explorer.get_state("_kept")["_kept"]
    assert (kept["name"], kept["frame"]["sizes"], kept["view"]["sizes"]) == ("another", [40, 32], [40, 32])
    values = np.frombuffer(kept["frame"]["values"], "<f4").reshape(other.values.shape)
    np.testing.assert_array_equal(values, other.values)
    assert Image.open(io.BytesIO(kept["view"]["picture"])).size == (32, 40)


@pytest.mark.parametrize("wrong", ["volume", "channels", "word"])
def test_what_cannot_be_kept_is_refused(explore, wrong):
    explorer = explore()
    engine = KryptonOcclusion(Net(3, 1) if wrong == "volume" else Net())
    heatmap = {
        "volume": lambda: engine.heatmap(cells(1, 1, 6, 8, 8), (1, 6, 4, 4), (1, 6, 4, 4), target=0),
        "channels": lambda: engine.heatmap(cells(1, 3, *SIZE), (1, 12, 10), (1, 12, 10), target=0),
        "word": lambda: "map",
    }[wrong]()
    with pytest.raises(InputError, match="heatmap is"):
        explorer.keep(heatmap)


def test_the_page_keeps_goes_on_and_lets_go(explore):
    explorer = explore()
    comm = explorer.comm

    def press(kind):
        comm.handle_msg({"content": {"data": {"method": "custom", "content": {"kind": kind}}}, "buffers": []})

    press("keep")
    assert explorer.get_state("_kept")["_kept"]["frame"]["finished"]
    press("let go")
    assert not explorer.get_state("_kept")["_kept"]
    explorer.stride = 1
    explorer.cancel()
    explorer.wait(60)
    press("resume")
    explorer.wait(60)
    assert Page(explorer).frame["finished"] and Page(explorer).frame["stride"] == 1
    press("no such thing")
    assert not explorer.error


# --- the still picture --------------------------------------------------------------------------------

NOTEBOOK = """
import torch
from torch import nn
from krypton_widget import OcclusionExplorer
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
image = torch.rand(3, 32, 32)
explorer = OcclusionExplorer(model.eval(), image, window=8, stride=4)
explorer
---
explorer.wait()
explorer.close()
---
explorer = OcclusionExplorer(model, image, window=8, stride=4)
explorer.wait()
explorer
---
explorer.close()
---
from krypton_engine import KryptonOcclusion
KryptonOcclusion(model).heatmap(image[None], (3, 8, 8), (3, 4, 4))
"""


def test_a_saved_notebook_holds_pictures_that_nbconvert_shows():
    """Whether the map was there when the explorer was shown, or came afterwards."""
    cells = NOTEBOOK.split("---")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
    NotebookClient(notebook, timeout=180, kernel_name="python3", store_widget_state=False).execute()
    pictures = [
        base64.b64decode(output["data"]["image/png"])
        for cell in notebook.cells
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 3 and all(Image.open(io.BytesIO(each)).width > 600 for each in pictures)
    for template in ("lab", "classic"):
        html, _ = HTMLExporter(template_name=template).from_notebook_node(notebook)
        assert len(re.findall(r"<img[^>]*data:image/png", html)) == 3
    words = re.findall(r'<img[^>]*alt="(\w+)', html)  # which the template of the lab does not write
    assert words == ["Occlusion", "Occlusion", "Heatmap"]


def test_a_map_that_cannot_be_drawn_is_its_words():
    image = cells(1, 3, *SIZE)
    heatmap = KryptonOcclusion(Net()).heatmap(image, (3, 12, 10), (3, 12, 10), target=0)
    png, words = heatmap._repr_png_()
    assert Image.open(io.BytesIO(png)).format == "PNG" and words == {"alt": repr(heatmap)}
    bare = replace(heatmap, image=None)
    assert bare._repr_png_() is None and repr(bare).startswith("Heatmap(")
