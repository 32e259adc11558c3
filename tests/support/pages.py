"""Pages of the documentation: their code, and the names that it takes for granted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from IPython.display import display
from PIL import Image
from torch import nn
from torchvision.models import detection
from torchvision.ops import MultiScaleRoIAlign

from krypton_engine import KryptonOcclusion, zoo
from krypton_engine.zoo import Preprocess, ZooModel
from krypton_widget import OcclusionExplorer
from support import scans as scanned

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(
    r"(?P<indent>^ *)(?:<!-- not run: (?P<reason>.+?) -->\n *)?```(?P<language>\w+)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of code on a page."""

    language: str
    code: str
    line: int
    heading: str
    reason: str | None
    """Why the block does not run, where the page says that it does not."""


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in their order, without the indent of a tab."""
    text = page.read_text()
    for found in _FENCE.finditer(text):
        headings = re.findall(r"^## (.+)$", text[: found.start()], re.MULTILINE)
        lines = [line.removeprefix(found["indent"]) for line in found["code"].splitlines()]
        line = text[: found.start("code")].count("\n")
        yield Block(found["language"], "\n".join(lines), line, ["", *headings][-1], found["reason"])


def run(page: Path, found: list[Block], names: dict[str, Any]) -> None:
    """Run blocks one after another, as one program; a fault shows the page's own line."""
    for block in found:
        exec(compile("\n" * block.line + block.code, page, "exec"), names)


# --- names that pages take for granted -----------------------------------------------------------------


def classifier(channels: int = 3, axes: int = 2, side: int = 64, classes: int = 5) -> nn.Sequential:
    """A small network, large enough that incremental work pays."""
    torch.manual_seed(0)
    conv, pool = {1: (nn.Conv1d, nn.MaxPool1d), 2: (nn.Conv2d, nn.MaxPool2d), 3: (nn.Conv3d, nn.MaxPool3d)}[
        axes
    ]
    return nn.Sequential(
        conv(channels, 8, 3, padding=1), nn.ReLU(), pool(2), conv(8, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * (side // 2) ** axes, classes),
    ).eval()  # fmt: skip


def waves(*shape: int, seed: int = 0) -> torch.Tensor:
    """A smooth input without a place that is the baseline."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, shape[0], *(max(2, n // 8) for n in shape[1:]), generator=generator)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape) - 1]
    return nn.functional.interpolate(coarse, shape[1:], mode=mode) + 0.1


def pictures(_=None) -> dict[str, Any]:
    """What most pages start from: a model of five classes, an image for it, more of its kind, a mask."""
    images = torch.cat([waves(3, 64, 64, seed=seed) for seed in range(10)])
    rows = torch.arange(64) // 16
    return {
        "torch": torch, "np": np, "model": classifier(), "x": images[:1], "images": images[:4],
        "samples": list(images.split(1)), "classes": torch.tensor([0, 1, 2, 3]),
        "mask": rows[:, None] * 4 + rows,
        "picture": Image.fromarray((images[0].movedim(0, 2).numpy() * 200).astype(np.uint8)),
    }  # fmt: skip


def wide(channels: int, axes: int, outputs: int = 2, dense: bool = False) -> nn.Sequential:
    """A network for inputs of any size: a row of outputs, or as many channels (``dense``)."""
    torch.manual_seed(0)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[axes - 1]
    layers = [conv(channels, 8, 3, padding=1), nn.ReLU(), conv(8, outputs, 3, padding=1)]
    return nn.Sequential(*layers, *([] if dense else [pool(1), nn.Flatten()])).eval()


def readme(_) -> dict[str, Any]:
    names = pictures()
    return names | {"occlusion": KryptonOcclusion(names["model"])}


def explorer(_) -> dict[str, Any]:
    names = pictures() | {"OcclusionExplorer": OcclusionExplorer, "display": display}
    return names | {"image": names["x"][0], "preprocess": None, "names": ["cat", "dog", "fox", "hen", "owl"]}


def fields(_) -> dict[str, Any]:
    """Volumes, signals, and networks that segment and detect."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4))
    backbone.out_channels = 8
    detector = detection.FasterRCNN(
        backbone, min_size=64, max_size=64, rpn_pre_nms_top_n_test=50, rpn_post_nms_top_n_test=10,
        rpn_anchor_generator=detection.anchor_utils.AnchorGenerator(((16, 32),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2), box_head=detection.faster_rcnn.TwoMLPHead(72, 16),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(16, 3),
    )  # fmt: skip
    return {
        "network": wide(1, 3), "volume": waves(1, 24, 24, 24), "unet": wide(1, 3, dense=True),
        "recorder": wide(2, 1), "signal": waves(2, 128), "photograph": waves(3, 64, 64),
        "detector": detector.eval(),
    }  # fmt: skip


def scans(_) -> dict[str, Any]:
    """A DICOM series of 12 slices in ``series/``, and a network for volumes of Hounsfield units."""
    affine = scanned.LPS @ np.diag([3.0, 0.8, 0.8, 1.0])[:, [2, 1, 0, 3]]
    scanned.write(Path("series"), scanned.series(affine, scanned.volume((12, 32, 32))))
    network = wide(1, 3)
    return {"model": network, "network": network, "OcclusionExplorer": OcclusionExplorer}


def small_zoo(monkeypatch) -> dict[str, Any]:
    """A zoo of small models, which need neither a download nor time."""
    preprocess = Preprocess((64, 64), (0.5,) * 3, (0.25,) * 3)
    names = ["cat", "dog", "fox", "hen", "owl"]
    net = ZooModel(
        "any", classifier(), preprocess, (3, 64, 64), names, "random weights", preprocess.picture
    )  # fmt: skip
    monkeypatch.setattr(zoo, "load_model", lambda name: net)
    return pictures() | {"zoo": zoo}


def collections(monkeypatch) -> dict[str, Any]:
    """Photographs in ``photos/``, and a zoo whose models need no download."""
    for number in range(4):
        path = Path("photos/odd" if number % 2 else "photos") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    return small_zoo(monkeypatch)


def switching(monkeypatch) -> dict[str, Any]:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # shap's loops take less time than to compile them
    names = pictures()
    return names | {"last_convolution": names["model"][3]}


NAMES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "README.md": readme,
    "collections.md": collections,
    "explorer.md": explorer,
    "explorer-hosts.md": explorer,
    "medical.md": scans,
    "start.md": small_zoo,
    "switching.md": switching,
    "volumes.md": fields,
}
"""By page, a function of pytest's monkeypatch that makes the names, and files, here; else `pictures`."""
