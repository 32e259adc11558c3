"""Volumes and signals on the page that is shipped, in Chromium: three linked views, and curves."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from support.jupyter_pages import CHROMIUM, jupyter, open_notebook, run_next_cells
from support.live_page import opened
from support.widget_page import Page
from torch import nn

from krypton_engine.medical import Geometry, Scan
from krypton_widget import OcclusionExplorer

if CHROMIUM is None:
    if os.environ.get("KRYPTON_REQUIRE_BROWSER") == "1":
        pytest.fail("KRYPTON_REQUIRE_BROWSER is 1, but there is no Chromium", pytrace=False)
    pytest.skip("needs Chromium", allow_module_level=True)

AXE = Path(__file__).parents[2] / "js" / "node_modules" / "axe-core" / "axe.min.js"
SIZES = (12, 30, 24)
AXIAL, CORONAL, SAGITTAL = (f".kr-map[data-plane={name}]" for name in ("axial", "coronal", "sagittal"))

PIXELS = """(selector) => {
  const canvas = document.querySelector(selector);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [canvas.width, canvas.height, btoa(Array.from(data, (c) => String.fromCharCode(c)).join(""))];
}"""


def network(axes):
    torch.manual_seed(0)
    conv, pool = (nn.Conv3d, nn.AdaptiveAvgPool3d) if axes == 3 else (nn.Conv1d, nn.AdaptiveAvgPool1d)
    net = nn.Sequential(
        conv(1, 4, 3, padding=1), nn.ReLU(), pool(2), nn.Flatten(), nn.Linear(4 * 2**axes, 3)
    ).eval()
    with torch.no_grad():
        net[-1].weight.mul_(20)
    return net


def scan():
    """A ramp along every axis, so that every voxel's grey says where it lies."""
    ramp = sum(
        np.linspace(0, 1, n).reshape([-1 if i == axis else 1 for i in range(3)])
        for axis, n in enumerate(SIZES)
    )
    return Scan.of(ramp[None] / 3, Geometry.of_spacing(SIZES, (2.0, 1.0, 1.0)))


@pytest.fixture
def explore():
    made = []

    def make(image, model=None, **options):
        model = model or network(3 if isinstance(image, Scan) else 1)
        made.append(OcclusionExplorer(model, image, **{"window": 6, "stride": 3, "exact": True} | options))
        made[-1].wait(120)
        return made[-1]

    yield make
    for explorer in made:
        explorer.close()


@pytest.fixture
def live(browser):
    with opened(browser) as page:
        yield page


@pytest.fixture
def volume(live, explore):
    """An explorer of a volume, on a page."""
    explorer = explore(scan())
    live.add(explorer)
    live.show(0)
    return live, explorer


def at(live, selector, x, y):
    box = live.page.locator(selector).bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def met(live):
    """Depth, row and column of the cross-hairs."""
    live.page.wait_for_timeout(80)
    text = live.page.locator(".kr-meeting dl").inner_text()
    return [int(re.search(rf"{axis}\s+(\d+)", text)[1]) for axis in ("depth", "rows", "columns")]


def inspected(live):
    live.page.wait_for_timeout(80)
    text = live.page.locator(".kr-inspected dl").inner_text()
    return [
        tuple(map(int, re.search(rf"{axis}\s+(\d+)–(\d+)", text).groups()))
        for axis in ("depth", "rows", "columns")
    ]


def pixels(live, selector):
    live.page.wait_for_timeout(80)
    width, height, data = live.page.evaluate(PIXELS, selector)
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)


# --- three views --------------------------------------------------------------------------------------


def test_three_views_in_the_patients_proportions(volume):
    live, _ = volume
    boxes = {name: live.page.locator(name).bounding_box() for name in (AXIAL, CORONAL, SAGITTAL)}
    one = boxes[AXIAL]["width"] / 24  # pixels a millimetre, in all of them
    for name, (width, height) in {AXIAL: (24, 30), CORONAL: (24, 24), SAGITTAL: (30, 24)}.items():
        assert boxes[name]["width"] == pytest.approx(one * width, rel=0.01)
        assert boxes[name]["height"] == pytest.approx(one * height, rel=0.02)
    assert boxes[CORONAL]["x"] == boxes[AXIAL]["x"] and boxes[SAGITTAL]["y"] == boxes[CORONAL]["y"]


def test_greys_are_the_voxels_of_the_slice_the_right_way_round(volume):
    live, _ = volume
    live.update(0, opacity=0)
    cells = scan().tensor[0].numpy()
    live.page.mouse.click(*at(live, AXIAL, 0.5, 0.5))
    live.page.mouse.move(0, 0)
    depth, row, column = met(live)
    for name, slice_ in {
        AXIAL: cells[depth, ::-1, ::-1],
        CORONAL: cells[::-1, row, ::-1],
        SAGITTAL: cells[::-1, ::-1, column],
    }.items():
        drawn = pixels(live, name)[..., 0].astype(float) / 255
        # In eight places that neither lines nor letters touch.
        for y, x in (
            (0.1, 0.1),
            (0.1, 0.9),
            (0.9, 0.1),
            (0.9, 0.9),
            (0.2, 0.15),
            (0.8, 0.85),
            (0.85, 0.2),
            (0.15, 0.8),
        ):
            expected = slice_[int(y * slice_.shape[0]), int(x * slice_.shape[1])]
            found = drawn[int(y * drawn.shape[0]), int(x * drawn.shape[1])]
            assert found == pytest.approx(expected, abs=0.035), (name, y, x)


def test_a_click_in_one_view_moves_the_others(volume):
    live, _ = volume
    live.page.mouse.click(*at(live, AXIAL, 6.5 / 24, 4.5 / 30))
    assert met(live)[1:] == [30 - 1 - 4, 24 - 1 - 6]  # seen from below, from the front
    live.page.mouse.click(*at(live, SAGITTAL, 15.5 / 30, 2.5 / 12))
    assert met(live) == [12 - 1 - 2, 30 - 1 - 15, 24 - 1 - 6]
    sliders = {
        s: live.page.locator(f"[data-slice={s}]").input_value() for s in ("axial", "coronal", "sagittal")
    }
    assert sliders == {"axial": "9", "coronal": "14", "sagittal": "17"}


def test_slices_move_by_slider_wheel_and_keys(volume):
    live, _ = volume
    live.page.mouse.click(*at(live, AXIAL, 0.5, 0.5))
    depth, row, column = met(live)
    live.page.locator("[data-slice=axial]").focus()
    live.page.keyboard.press("ArrowRight")
    assert met(live) == [depth + 1, row, column]
    live.page.mouse.move(*at(live, AXIAL, 0.3, 0.3))
    live.page.mouse.wheel(0, 100)
    after = met(live)
    assert after[0] < depth + 1 and after[1:] == [row, column]
    live.page.mouse.wheel(0, -100)
    live.page.locator(CORONAL).focus()
    before = met(live)
    for key in ("PageUp", "PageUp", "PageDown", "ArrowUp", "Shift+ArrowLeft"):
        live.page.keyboard.press(key)
    assert met(live) == [before[0] + 1, row + 1, column + 4]
    for _ in range(40):
        live.page.keyboard.press("PageUp")
    assert met(live)[1] == SIZES[1] - 1


def test_hovering_inspects_without_moving_anything(volume):
    live, explorer = volume
    live.page.mouse.click(*at(live, AXIAL, 0.5, 0.5))
    here = met(live)
    live.page.mouse.move(*at(live, CORONAL, 0.1, 0.1))
    window = explorer.heatmap.window
    place = (11 - int(0.1 * 12), here[1], 23 - int(0.1 * 24))
    indices = [window.nearest(axis)[cell] for axis, cell in zip((1, 2, 3), place, strict=True)]
    boxes = [
        (int(window.starts(a)[i]), int(window.stops(a)[i]) - 1)
        for a, i in zip((1, 2, 3), indices, strict=True)
    ]
    assert inspected(live) == boxes and met(live) == here
    value = explorer.heatmap.values[tuple(indices)].item()
    text = live.page.locator(".kr-inspected dl").inner_text()
    assert float(re.search(r"→ ([\d.]+)", text)[1]) == pytest.approx(value, rel=0.01)
    live.page.mouse.move(0, 0)
    cell = [window.nearest(axis)[cell] for axis, cell in zip((1, 2, 3), here, strict=True)]
    assert inspected(live)[0][0] == window.starts(1)[cell[0]]  # of the cross-hairs again


def test_the_first_finished_map_is_met_where_it_counts_most(volume):
    live, explorer = volume
    attribution = explorer.heatmap.attribution()[0]
    most = met(live)
    assert attribution[tuple(most)] == attribution.max()
    live.page.mouse.click(*at(live, AXIAL, 0.9, 0.9))
    moved = met(live)
    live.update(0, **Page(explorer).run)
    assert met(live) == moved != most
    live.page.get_by_role("button", name="Most important").click()
    assert met(live) == most


def test_window_and_level_by_dragging(volume):
    live, _ = volume
    live.update(0, opacity=0)
    before = pixels(live, SAGITTAL)[..., 0].mean()
    live.page.locator("[data-tool=levels]").click()
    live.page.mouse.move(*at(live, AXIAL, 0.5, 0.5))
    live.page.mouse.down()
    live.page.mouse.move(*at(live, AXIAL, 0.5, 0.2), steps=4)
    live.page.mouse.up()
    assert pixels(live, SAGITTAL)[..., 0].mean() > before + 30  # brighter, in every view
    live.page.mouse.dblclick(*at(live, AXIAL, 0.5, 0.5))
    assert abs(pixels(live, SAGITTAL)[..., 0].mean() - before) < 3
    live.page.locator(CORONAL).focus()
    for _ in range(5):
        live.page.keyboard.press("ArrowDown")
    assert pixels(live, SAGITTAL)[..., 0].mean() < before - 10
    live.page.get_by_role("button", name="Reset window").click()
    assert abs(pixels(live, SAGITTAL)[..., 0].mean() - before) < 3


def test_a_box_is_drawn_in_any_view_and_keeps_its_third_side(volume):
    live, _ = volume
    live.page.mouse.click(*at(live, AXIAL, 0.5, 0.5))
    live.page.locator("[data-tool=rectangle]").click()

    def drag(selector, x0, y0, x1, y1):
        live.page.mouse.move(*at(live, selector, x0, y0))
        live.page.mouse.down()
        live.page.mouse.move(*at(live, selector, x1, y1), steps=3)
        live.page.mouse.up()
        live.page.wait_for_timeout(80)

    drag(AXIAL, 4.2 / 24, 3.2 / 30, 10.8 / 24, 8.8 / 30)
    assert live.state(0, "region") == {"box": [0, 21, 13, 12, 27, 20]}
    drag(CORONAL, 4.2 / 24, 2.2 / 12, 10.8 / 24, 5.8 / 12)
    assert live.state(0, "region") == {"box": [6, 21, 13, 10, 27, 20]}
    whole = live.page.locator("[data-tool=everywhere]")
    assert whole.inner_text() == "Whole volume"
    whole.click()
    assert live.state(0, "region") is None
    live.page.locator(SAGITTAL).focus()
    depth, row, _ = met(live)
    for key in ("Enter", "ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        live.page.keyboard.press(key)
    assert live.state(0, "region") == {"box": [depth - 1, row - 2, 0, depth + 1, row + 1, 24]}


def test_controls_speak_of_voxels_and_offer_no_superpixels(volume):
    live, _ = volume
    assert live.page.locator("label", has_text="superpixels").count() == 1
    assert not live.page.locator("label", has_text="superpixels").is_visible()
    assert not live.page.locator("[data-tool=brush]").is_visible()
    assert "6 voxels" in live.page.locator(".kr-side").first.inner_text()
    names = live.page.evaluate(
        "[...document.querySelectorAll('.kr-map')].map((c) => c.getAttribute('aria-label'))"
    )
    assert names == [f"Occlusion map, {name}" for name in ("axial", "coronal", "sagittal")]


def test_the_comparison_shows_three_slices_of_each(live, explore):
    live.add(explore(scan(), stride=1, ssim_target=0.8))
    live.show(0)
    panels = live.page.locator(".kr-panels canvas")
    sizes = [panels.nth(i).evaluate("(c) => c.width / c.height") for i in range(3)]
    assert sizes == pytest.approx([54 / 54] * 3, rel=0.05)


def test_a_slice_is_drawn_within_a_frame_for_128_cubed(live, explore):
    model = nn.Sequential(nn.AvgPool3d(16), nn.Flatten(), nn.Linear(512, 3)).eval()
    big = Scan.of(np.random.default_rng(0).random((1, 128, 128, 128)), Geometry.of_spacing((128,) * 3))
    live.add(explore(big, model, window=32, stride=16))
    live.show(0)
    taken = live.page.evaluate(
        """async () => {
          const canvas = document.querySelector(".kr-map");
          const times = [];
          for (let i = 0; i < 20; i++) {
            canvas.dispatchEvent(new KeyboardEvent("keydown", { key: i % 2 ? "PageUp" : "PageDown" }));
            times.push(await new Promise((done) => requestAnimationFrame(() => {
              const began = performance.now();  // what was asked for before is drawn before
              setTimeout(() => done(performance.now() - began));
            })));
          }
          return times.sort((a, b) => a - b)[10];
        }"""
    )
    assert taken < 200  # on a busy machine; alone it is a few milliseconds


@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core: `npm ci` in js/")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_bars_anybody(volume, scheme):
    live, _ = volume
    live.page.emulate_media(color_scheme=scheme)
    live.page.evaluate(AXE.read_text())
    found = live.page.evaluate(
        "async () => (await axe.run('.krypton-explorer')).violations.map((v) => v.id + v.nodes[0].html)"
    )
    assert not found


# --- lists, files -------------------------------------------------------------------------------------


def test_another_volume_is_another_volume(live, explore):
    other = Scan.of(np.random.default_rng(0).random((1, 8, 16, 20)), Geometry.of_spacing((8, 16, 20)))
    explorer = explore(scan())
    explorer._subject.images.append(other)
    live.add(explorer)
    live.show(0)
    live.page.mouse.click(*at(live, AXIAL, 0.9, 0.9))
    explorer.image_index = 1
    explorer.wait(120)
    live.update(0, image_index=1, _cells=Page(explorer).sent, **Page(explorer).run)
    box = live.page.locator(AXIAL).bounding_box()
    assert box["width"] / box["height"] == pytest.approx(20 / 16, rel=0.02)
    assert live.page.locator("[data-slice=axial]").get_attribute("max") == "7"


def test_a_saved_page_has_the_three_views(browser, explore, tmp_path):
    explorer = explore(scan())
    explorer.save(tmp_path / "map.html")
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 1200})
    page = context.new_page()
    said = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "map.html").as_uri())
    page.locator(f"{SAGITTAL}[data-drawn]").wait_for()
    page.mouse.wheel(0, 0)
    before = page.locator("[data-slice=coronal]").input_value()
    page.locator(CORONAL).focus()
    page.keyboard.press("PageDown")
    page.wait_for_timeout(80)
    assert int(page.locator("[data-slice=coronal]").input_value()) == int(before) - 1
    assert page.locator("[data-tool=levels]").is_visible()
    assert not page.locator("[data-tool=rectangle]").is_visible()
    context.close()
    assert not said


# --- signals ------------------------------------------------------------------------------------------


@pytest.fixture
def curve(live, explore):
    x = torch.zeros(1, 120)
    x[0, 60:70] = 1.0
    explorer = explore(x, window=10, stride=5)
    live.add(explorer)
    live.show(0)
    return live, explorer


def test_a_signal_is_a_curve_over_bands_of_colour(curve):
    live, explorer = curve
    drawn = pixels(live, ".kr-map")
    height, width = drawn.shape[:2]
    rows = np.flatnonzero(
        (drawn[:, int(width * 65.2 / 120), :3].astype(int).sum(-1) < 250)
        & (drawn[:, int(width * 65.2 / 120), 3] > 200)
    )
    assert rows.size and rows.mean() < 0.2 * height  # the curve is above there, in dark ink
    drop = explorer.heatmap.drop
    most = int(drop.abs().argmax()) * 5 + 5
    band = drawn[height // 2, int(width * most / 120)]
    assert band[3] > 60 and abs(int(band[0]) - int(band[2])) > 40
    assert live.page.locator(".kr-pane small").all_inner_texts() == ["step 0", "step 119"]


def test_a_signal_is_inspected_pinned_and_given_an_interval(curve):
    live, explorer = curve
    live.page.mouse.click(*at(live, ".kr-map", 40.5 / 120, 0.5))
    live.page.mouse.move(0, 0)
    live.page.wait_for_timeout(80)
    text = live.page.locator(".kr-inspected dl").inner_text()
    index = explorer.heatmap.window.nearest(1)[40]
    assert f"{5 * index}–{5 * index + 9}" in text
    live.page.locator(".kr-map").focus()
    live.page.keyboard.press("ArrowRight")
    live.page.wait_for_timeout(80)
    assert f"{5 * index + 5}–{5 * index + 14}" in live.page.locator(".kr-inspected dl").inner_text()
    interval = live.page.locator("[data-tool=rectangle]")
    assert interval.inner_text() == "Interval" and not live.page.locator("[data-tool=levels]").is_visible()
    interval.click()
    live.page.mouse.move(*at(live, ".kr-map", 20.2 / 120, 0.5))
    live.page.mouse.down()
    live.page.mouse.move(*at(live, ".kr-map", 39.8 / 120, 0.6), steps=3)
    live.page.mouse.up()
    live.page.wait_for_timeout(80)
    assert live.state(0, "region") == {"box": [20, 40]}
    assert live.page.locator("label", has_text="lowest").is_visible()


# --- a real notebook ----------------------------------------------------------------------------------

CELL = """
import numpy as np, torch
from torch import nn
from krypton_engine.medical import Geometry, Scan
from krypton_widget import OcclusionExplorer

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(32, 3)
).eval()
cells = np.random.default_rng(0).random((1, 12, 30, 24))
explorer = OcclusionExplorer(
    model, Scan.of(cells, Geometry.of_spacing((12, 30, 24), (2.0, 1.0, 1.0))), window=6, stride=3, exact=True
)
explorer
"""


def test_a_box_is_measured_in_a_real_notebook(browser, tmp_path):
    (tmp_path / "notebooks").mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)], metadata=kernel)
    nbformat.write(notebook, tmp_path / "notebooks" / "volume.ipynb")
    with jupyter(tmp_path / "notebooks", tmp_path) as address:
        context = browser.new_context(viewport={"width": 1500, "height": 1800})
        page = context.new_page()
        said = []
        page.on("pageerror", lambda error: said.append(str(error)))
        open_notebook(page, address, "volume.ipynb", "lab")
        run_next_cells(page, 1)
        page.wait_for_selector(".kr-state[data-kind=exact]", timeout=180_000)
        page.locator("[data-tool=rectangle]").click()
        page.locator(AXIAL).scroll_into_view_if_needed()
        box = page.locator(AXIAL).bounding_box()
        page.mouse.move(box["x"] + box["width"] * 4.5 / 24, box["y"] + box["height"] * 4.5 / 30)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 8.5 / 24, box["y"] + box["height"] * 8.5 / 30, steps=4)
        page.mouse.up()
        page.wait_for_function(
            "document.querySelector('.kr-state').textContent.includes('Exact in the region')", timeout=60_000
        )
        measured = page.locator(".kr-state").inner_text()
        context.close()
    # Rows 21 to 25 and columns 15 to 19 through all slices: 3 x 3 x 3 windows touch them at most.
    assert re.search(r"(\d+) of \1 positions", measured) and int(re.search(r"(\d+) of", measured)[1]) <= 36
    assert not said
