"""Draws docs/images/widget-*.png and explorer.webp: the widget in a real JupyterLab, as the pages show it.

The notebook holds its picture itself, smaller, so that it is there wherever the notebook is opened from.

python docs/widget_pictures.py
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import nbformat
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests"))

from support.jupyter_pages import CHROMIUM, CHROMIUM_FLAGS, jupyter, open_notebook, run_next_cells  # noqa: E402

CELL = """
from krypton_engine import zoo
from krypton_widget import OcclusionExplorer

net = zoo.load_model({model!r})
images = [zoo.load_image(name) for name in {images}]
explorer = OcclusionExplorer(
    net.model, images, preprocess=net.preprocess, class_names=net.class_names, {options}
)
explorer
"""

VOLUME = """
import torch
from torch import nn
from torch.nn import functional
from krypton_engine import zoo
from krypton_engine.medical import Geometry, Scan, read_scan
from krypton_widget import OcclusionExplorer

template = read_scan(zoo.packages.packaged("nilearn", zoo.images.TEMPLATE, "nilearn"))
cells = functional.avg_pool3d(template.tensor[None], 2)[0]
geometry = template.geometry.of_grid((2, 2, 2), (2, 2, 2), tuple(cells.shape[1:]))
torch.manual_seed(3)
model = nn.Sequential(
    nn.Conv3d(1, 8, 5, padding=2, stride=2), nn.BatchNorm3d(8), nn.ReLU(),
    nn.Conv3d(8, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(),
    nn.AdaptiveAvgPool3d(4), nn.Flatten(), nn.Linear(512, 3),
)
with torch.no_grad():
    model[-1].weight.mul_(12)
    model(cells[None] / cells.max())  # statistics, of weights by chance
explorer = OcclusionExplorer(
    model.eval(), Scan(cells / cells.max(), geometry), class_names=["healthy", "atrophy", "tumour"],
    window=18, stride=6, baseline="black", exact=True, region=(30, 50, 20, 70, 100, 75),
)
explorer
"""

MOVE = """([trait, value]) => {
  const input = document.querySelector(`input[data-trait=${trait}]`);
  input.value = value;
  for (const kind of ["input", "change"]) input.dispatchEvent(new Event(kind, { bubbles: true }));
}"""
SEEN = (0, 0, 1220, 822)  # controls, map and legend, without what is below
SIZE = (854, 575)

PHOTOGRAPHS = {"model": "efficientnet-lite0", "images": ["chelsea", "coffee", "rocket"]}
BRAINS = {"model": "vgg16-brain-mri", "images": ["mri:axial:90+lesion", "mri:axial:100"]}


@contextmanager
def opened(browser, cell, theme):
    """A page of JupyterLab on which ``cell`` runs, in a theme, with the widget drawn."""
    with tempfile.TemporaryDirectory() as folder:
        notebooks, home = Path(folder) / "notebooks", Path(folder) / "home"
        notebooks.mkdir()
        home.mkdir()
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell)],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        nbformat.write(notebook, notebooks / "widget.ipynb")
        with jupyter(notebooks, home) as address:
            page = browser.new_page(viewport={"width": 1400, "height": 2000})
            open_notebook(page, address, "widget.ipynb")
            page.evaluate(
                f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: {theme!r}}})"
            )
            page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
            run_next_cells(page, 1)
            page.wait_for_selector(".krypton-explorer", timeout=120_000)
            yield page
            page.close()


def picture(browser, name, cell, theme, state, pinned):
    """Run ``cell``, wait for ``state`` (JavaScript), pin a cell and take the widget's picture."""
    with opened(browser, cell, theme) as page:
        page.wait_for_function(state, timeout=300_000)
        box = page.locator(".kr-map").first.bounding_box()
        if pinned:
            x, y = pinned
            page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
            page.mouse.move(0, 0)
        if name == "dark":  # one picture of the comparison is enough
            page.add_style_tag(content=".kr-compare { display: none !important }")
        page.wait_for_timeout(400)
        page.locator(".krypton-explorer").screenshot(path=IMAGES / f"widget-{name}.png")


def animation(browser, cell, trait, values):
    """A slider moves to each of ``values``; what is seen, as an animated picture of an even pace."""
    with opened(browser, cell, "JupyterLab Light") as page:
        ended = "document.querySelector('.kr-cancel').hidden"
        page.wait_for_function(ended, timeout=300_000)
        frames, milliseconds = [], []

        def look(shown_for):
            png = page.locator(".krypton-explorer").screenshot()
            frames.append(Image.open(io.BytesIO(png)).convert("RGB").crop(SEEN).resize(SIZE, Image.LANCZOS))
            milliseconds.append(shown_for)

        look(1500)
        for value in values:
            page.evaluate(MOVE, [trait, value])
            page.wait_for_timeout(150)
            while not page.evaluate(ended):
                look(120)
            page.wait_for_timeout(300)
            look(1500)
        frames[0].save(
            IMAGES / "explorer.webp", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0,
            quality=55, method=6,
        )  # fmt: skip


def attach(picture, notebook, cell):
    """Put a picture into a cell of a notebook, which shows it as ``attachment:<name>.jpg``."""
    image = Image.open(picture).convert("RGB")
    image.thumbnail((1000, 2000))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=85, optimize=True)
    document = nbformat.read(notebook, as_version=4)
    (holder,) = (c for c in document.cells if c.id == cell)
    holder.attachments = {f"{picture.stem}.jpg": {"image/jpeg": base64.b64encode(file.getvalue()).decode()}}
    nbformat.write(document, notebook)


def main():
    compared = "document.querySelector('[data-figure=full] b')?.textContent.includes('×')"
    estimated = "document.querySelector('.kr-likeness')?.textContent.includes('exact map about')"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        cat = CELL.format(**PHOTOGRAPHS, options="window=32, stride=8, exact=True")
        picture(browser, "explorer", cat, "JupyterLab Light", compared, (0.47, 0.61))
        attach(ROOT / "docs/images/widget-explorer.png", ROOT / "notebooks/explorer.ipynb", "picture")
        brain = CELL.format(**BRAINS, options="window=16, stride=4, exact=True, baseline='black'")
        picture(browser, "dark", brain, "JupyterLab Dark", compared, (0.268, 0.83))
        pieces = CELL.format(**PHOTOGRAPHS, options="regions='slic', curve=True, covered=(47, 56, 74)")
        ended = "document.querySelector('.kr-cancel').hidden"
        answered = f"document.querySelector('.kr-curves polyline') && {ended}"
        picture(browser, "regions", pieces, "JupyterLab Light", answered, None)
        picture(browser, "running", brain, "JupyterLab Light", estimated, None)
        ended = "document.querySelector('.kr-state')?.textContent.includes('Exact in the region')"
        picture(browser, "volume", VOLUME, "JupyterLab Light", ended, None)
        cat = CELL.format(**PHOTOGRAPHS, options="window=24, stride=8, ssim_target=0.9")
        animation(browser, cat, "window", (48, 32, 24))
        browser.close()


if __name__ == "__main__":
    main()
