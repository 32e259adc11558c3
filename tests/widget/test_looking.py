"""How the page shows a map: on the way to the next, its scale, what flips, zoom, greys, lines on controls."""

from __future__ import annotations

import base64
import functools
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.jupyter_pages import CHROMIUM
from support.live_page import opened
from support.widget_page import Page
from torch import nn

from krypton_engine.heatmap.status import Status
from krypton_widget import OcclusionExplorer

if CHROMIUM is None:
    if os.environ.get("KRYPTON_REQUIRE_BROWSER") == "1":
        pytest.fail("KRYPTON_REQUIRE_BROWSER is 1, but there is no Chromium", pytrace=False)
    pytest.skip("needs Chromium", allow_module_level=True)

AXE = Path(__file__).parents[2] / "js" / "node_modules" / "axe-core" / "axe.min.js"

SIZE = (48, 64)


@functools.cache  # captured once
def network(scale=30.0, channels=3):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(channels, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3),
        nn.Flatten(), nn.Linear(72, 7),
    ).eval()  # fmt: skip
    with torch.no_grad():
        net[-1].weight.mul_(scale)
    return net


def photo(seed=0, size=SIZE):
    coarse = np.random.default_rng(seed).integers(0, 256, (size[0] // 4, size[1] // 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def made():
    """Makes explorers whose maps are finished; one of the same arguments once, since nobody changes them."""
    known = {}

    def make(name="photo", **options):
        if name not in known:
            image = options.pop("image", None)
            model = options.pop("model", None) or network()
            options = {"window": 12, "stride": 4, "exact": True, "class_names": list("abcdefg")} | options
            known[name] = OcclusionExplorer(model, photo() if image is None else image, **options)
            known[name].wait(60)
        return known[name]

    yield make
    for explorer in known.values():
        explorer.close()


@pytest.fixture
def live(browser):
    with opened(browser) as page:
        yield page


def shown(live, explorer):
    live.add(explorer)
    return live.show(len(live.page.evaluate("window.models.map((m) => 0)")) - 1)


def pixels_of(root, selector=".kr-map") -> np.ndarray:
    address = root.locator(selector).first.evaluate("(canvas) => canvas.toDataURL()")
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"), float
    )


def ends(root) -> list[str]:
    return root.locator(".kr-ends span").all_text_contents()


# --- from one map to the next -------------------------------------------------------------------------


def test_the_old_map_stays_until_the_new_one_is_coarse(live, made):
    explorer = made()
    root = shown(live, explorer)
    before, scale = pixels_of(root), ends(root)
    few = Page(explorer).frame
    status = np.zeros(few["total"], np.uint8)
    status[0] = Status.EXACT
    few = few | {
        "asked": few["asked"] | {"window": 9},
        "window": 9,
        "largest": 1.0,
        "done": 1,
        "coarse": False,
        "finished": False,
        "status": status.tobytes(),
    }
    live.update(0, window=9, running=True)
    live.update(0, _frame=few)
    live.page.wait_for_timeout(200)
    np.testing.assert_array_equal(pixels_of(root), before)
    assert ends(root) == scale, "limits are frozen"
    assert root.locator(".kr-before").inner_text() == "The map before: the new one is on its way"
    assert float(root.locator(".kr-map").evaluate("(e) => getComputedStyle(e).opacity")) < 0.6
    assert "1 of 140" in root.locator(".kr-state").inner_text(), "the new one's progress is told"
    live.update(0, _frame=few | {"coarse": True, "done": 30})
    live.page.wait_for_timeout(400)
    assert np.abs(pixels_of(root) - before).max() > 20 and not root.locator(".kr-before").is_visible()
    assert root.locator(".kr-going").count() == 0, "the old one has gone"


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_maps_fade_unless_motion_is_to_be_reduced(live, made, motion):
    live.page.emulate_media(reduced_motion=motion)
    explorer = made()
    shown(live, explorer)
    live.page.evaluate("""() => {
      window.gone = 0;
      const animate = Element.prototype.animate;
      Element.prototype.animate = function (...how) {
        window.gone += this.className === "kr-going";
        return animate.apply(this, how);
      };
    }""")
    frame = Page(explorer).frame
    live.update(0, window=9)
    live.page.wait_for_timeout(300)
    live.update(0, _frame=frame | {"asked": frame["asked"] | {"window": 9}})
    live.page.wait_for_timeout(300)
    assert live.page.evaluate("window.gone") == (1 if motion == "no-preference" else 0)


# --- the screen ---------------------------------------------------------------------------------------


def test_nothing_jumps_when_the_first_map_comes(live, made):
    explorer = made()
    root = shown(live, explorer)
    after = root.locator(".kr-map").bounding_box()
    live.update(0, _frame={})
    live.page.wait_for_timeout(100)
    assert root.locator(".kr-map").bounding_box() == pytest.approx(after, abs=1)
    assert not root.locator(".kr-bar").is_visible()


@pytest.mark.parametrize("size", [(48, 64), (96, 24), (24, 96)])
@pytest.mark.parametrize("window", [(1440, 900), (800, 900)])
def test_map_and_scale_fit_what_is_visible(live, made, size, window):
    """Whatever the picture's proportions; nothing lies over anything else."""
    live.page.set_viewport_size({"width": window[0], "height": window[1]})
    explorer = made(str(size), image=photo(size=size), window=8, stride=8)
    root = shown(live, explorer)
    boxes = [
        root.locator(part).first.bounding_box() for part in (".kr-map", ".kr-legend", ".kr-view", ".kr-side")
    ]
    canvas, legend, view, side = boxes
    for box in (canvas, legend, view):
        assert box["y"] + box["height"] <= window[1] and box["x"] + box["width"] <= window[0]
    assert abs(canvas["width"] / canvas["height"] - size[1] / size[0]) < 0.02 * size[1] / size[0]
    assert legend["x"] >= canvas["x"] + canvas["width"] and view["y"] >= canvas["y"] + canvas["height"]
    assert side["x"] + side["width"] <= canvas["x"]
    inner = root.locator(".kr-side").first.evaluate("(e) => [e.scrollWidth, e.clientWidth]")
    assert inner[0] <= inner[1]


def test_the_scale_has_the_colours_of_the_map(live, made):
    """Over the same grey, with the same opacity: a pixel of the map is found on the scale."""
    explorer = made()
    root = shown(live, explorer)
    scale, canvas = pixels_of(root, ".kr-bar"), pixels_of(root)
    low, base, high = (float(text) for text in ends(root))
    assert root.locator(".kr-legend b").all_inner_texts()[0] == "important"
    values = explorer.heatmap.values.squeeze().numpy()
    grey = np.asarray(Image.fromarray(photo()).convert("L"), float)
    for row, column in ((2, 3), (5, 7), (7, 10), (4, 4)):
        y, x = row * 4 + 6, column * 4 + 6
        seen = canvas[int((y + 0.5) / 48 * canvas.shape[0]), int((x + 0.5) / 64 * canvas.shape[1])]
        at = (values[row, column] - low) / (high - low) * scale.shape[0]
        told = scale[int(np.clip(at, 0, scale.shape[0] - 1)), round(grey[y, x] / 255 * (scale.shape[1] - 1))]
        assert np.abs(seen - told).max() < 30, (row, column)
    # The histogram holds every value.
    name = root.locator(".kr-histogram").get_attribute("aria-label")
    assert name.startswith("Histogram of the values") and f"{base:g}"[:4] in root.inner_text()


def test_a_nothing_is_not_drawn_as_if_it_counted(live, made):
    explorer = made("calm", model=network(0.02))
    largest = float(np.abs(explorer.heatmap.drop.numpy()).max())
    assert 0 < largest < 0.02
    root = shown(live, explorer)
    said = root.locator(".kr-nothing").inner_text()
    told = float(re.match(r"No patch changes this by more than (\S+);", said)[1].replace("−", "-"))
    assert largest <= told <= 2 * largest
    low, base, high = (float(text.replace("−", "-")) for text in ends(root))
    assert high - base == pytest.approx(0.05, abs=0.002) and base - low == pytest.approx(0.05, abs=0.002)
    pale = np.ptp(pixels_of(root), axis=2).max()
    live.update(0, scale="fixed", limit=largest)
    live.page.wait_for_timeout(100)
    assert np.ptp(pixels_of(root), axis=2).max() > 2 * pale, "unless the end is set"


def test_where_the_answer_flips(live, made):
    explorer = made("flips", image=photo(5), baseline="black", model=network(5.0))
    heatmap = explorer.heatmap
    classes = heatmap.classes.squeeze().numpy()
    predicted = int(explorer._subject.answer(0).argmax())
    flipped = classes != predicted
    others, times = np.unique(classes[flipped], return_counts=True)
    assert 0 < flipped.sum() < flipped.size
    root = shown(live, explorer)
    mostly = "mostly " if len(others) > 1 else ""
    expected = f"The answer flips at {flipped.sum()} of {flipped.size} places, {mostly}to "
    assert root.locator(".kr-flips").inner_text() == f"{expected}{'abcdefg'[others[times.argmax()]]}."
    # White and black dashes lie between a cell that flips and one that does not, and nowhere within either.
    canvas = pixels_of(root)
    live.update(0, opacity=0)
    live.page.wait_for_timeout(100)
    down, right = (canvas.shape[0] / 48, canvas.shape[1] / 64)

    def around(row, column, other):
        y = (row * 4 + 8) * down
        strip = canvas[int(y - 3) : int(y + 4), int((column * 4 + 5) * right) : int((column * 4 + 7) * right)]
        return np.ptp(strip.mean(2))

    border = [(r, c) for r in range(1, 9) for c in range(2, 12) if flipped[r, c] != flipped[r + 1, c]]
    inner = [(r, c) for r in range(1, 9) for c in range(2, 12) if flipped[r, c] == flipped[r + 1, c]]
    assert np.median([around(*at, 0) for at in border]) > 2 * np.median([around(*at, 0) for at in inner])


# --- zoom ---------------------------------------------------------------------------------------------


def part(root) -> str:
    return root.locator("[data-view=whole]").inner_text()


def test_zoom_and_pan_by_pointer_and_keys(live, made):
    root = shown(live, made())
    page, canvas = live.page, root.locator(".kr-map")
    box = canvas.bounding_box()

    def at(x, y):
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def where():
        page.wait_for_timeout(60)
        found = re.match(r"x (\d+), y (\d+)", root.locator(".kr-where").inner_text()).groups()
        return pytest.approx(tuple(map(int, found)), abs=1)

    page.mouse.move(*at(0.75, 0.25))
    assert where() == (48, 12)
    page.mouse.dblclick(*at(0.75, 0.25))
    page.mouse.move(*at(0.74, 0.26))
    page.mouse.move(*at(0.75, 0.25))
    assert part(root) == "400 %" and where() == (48, 12), "what was clicked stays under the pointer"
    page.mouse.move(*at(0.25, 0.25))
    assert where() == (40, 12)
    pinned = root.locator(".kr-inspector button", has_text="Unpin").is_visible()
    page.mouse.down()
    page.mouse.move(*at(0.5, 0.25), steps=5)
    page.mouse.up()
    assert where() == (40, 12), "dragged along"
    assert root.locator(".kr-inspector button", has_text="Unpin").is_visible() == pinned, "no click"
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(60)
    assert int(part(root).split()[0]) > 500 and where() == (40, 12)
    canvas.focus()
    page.keyboard.press("0")
    page.wait_for_timeout(60)
    assert part(root) == "100 %"
    page.keyboard.press("+")
    page.wait_for_timeout(60)
    assert part(root) == "150 %"
    before = pixels_of(root)
    page.keyboard.press("Alt+ArrowRight")
    page.wait_for_timeout(60)
    assert np.abs(pixels_of(root) - before).mean() > 3
    for _ in range(16):
        page.keyboard.press("ArrowDown")  # the cell looked at stays in sight
    page.wait_for_timeout(60)
    below = pixels_of(root)
    page.keyboard.press("ArrowUp")
    page.wait_for_timeout(60)
    assert (np.abs(pixels_of(root) - below).max(2) > 60).sum() > 50, "its frame is where one sees it"
    page.keyboard.press("0")
    page.locator("[data-view=in]").click()
    page.wait_for_timeout(60)
    assert part(root) == "200 %"


def test_a_wheel_that_passes_over_the_map_scrolls_the_page(live, made):
    live.page.set_viewport_size({"width": 1300, "height": 500})
    root = shown(live, made())
    live.page.mouse.move(0, 0)
    root.locator(".kr-map").hover()
    live.page.evaluate("document.activeElement?.blur(); window.scrollTo(0, 0)")
    live.page.mouse.wheel(0, 150)
    live.page.wait_for_timeout(200)
    assert live.page.evaluate("window.scrollY") > 0 and part(root) == "100 %"


def test_the_map_is_hidden_and_fills_the_screen_by_keys(live, made):
    root = shown(live, made())
    canvas = root.locator(".kr-map")
    canvas.focus()
    coloured = pixels_of(root)
    live.page.keyboard.press("h")
    live.page.wait_for_timeout(80)
    bare = pixels_of(root)
    picture = np.asarray(Image.fromarray(photo()).resize(bare.shape[1::-1], Image.Resampling.BILINEAR), float)
    assert np.abs(bare - picture).mean() < 8 and np.abs(coloured - picture).mean() > 15
    assert root.locator("[data-view=hide]").get_attribute("aria-pressed") == "true"
    live.page.keyboard.press("h")
    small = canvas.bounding_box()["height"]
    live.page.keyboard.press("f")
    live.page.wait_for_function("document.fullscreenElement?.className === 'krypton-explorer'")
    live.page.wait_for_timeout(200)
    assert canvas.bounding_box()["height"] > small
    live.page.keyboard.press("f")
    live.page.wait_for_function("!document.fullscreenElement")


def test_a_magnified_picture_is_sharper_than_the_models(live, made):
    """The part of the original that preprocessing keeps, found by ramps; where it bends the picture, none."""
    fine = np.zeros((384, 640, 3), np.uint8)
    fine[:, ::4] = fine[:, 1::4] = 255
    fine[150:230, 300:380, 1] = 0

    def crop(image):
        small = Image.fromarray(image).resize((160, 96), Image.Resampling.BOX).crop((48, 24, 112, 72))
        return torch.from_numpy(np.asarray(small, np.float32)).permute(2, 0, 1) / 127.5 - 1

    explorer = made("fine", image=fine, preprocess=crop)
    top, left, bottom, right = explorer._subject.input(0).part
    np.testing.assert_allclose(
        [top, left, bottom, right], [24 / 96, 48 / 160, 72 / 96, 112 / 160], atol=0.005
    )
    sent = Page(explorer).explorer.get_state("_detail")["_detail"]
    with Image.open(io.BytesIO(sent["picture"])) as detail:
        np.testing.assert_allclose(detail.size, (256, 192), atol=2)
    root = shown(live, explorer)
    root.locator(".kr-map").focus()
    live.page.keyboard.press("h")
    for _ in range(6):
        live.page.keyboard.press("+")
    live.page.wait_for_timeout(100)
    sharp = pixels_of(root).std(1).mean()
    live.update(0, _detail={})
    live.page.wait_for_timeout(150)
    assert sharp > 1.5 * pixels_of(root).std(1).mean()


def test_no_original_where_preprocessing_turns_the_picture(made):
    explorer = made(
        "turned",
        image=photo(size=(96, 128)),
        preprocess=lambda image: (
            torch.from_numpy(np.ascontiguousarray(image[::2, ::-2], np.float32)).permute(2, 0, 1) / 255
        ),
    )
    assert explorer._subject.input(0).part is None and not explorer.get_state("_detail")["_detail"]


FRAMES = """async (canvas) => {
  const box = canvas.getBoundingClientRect();
  const times = [];
  let last = performance.now();
  for (let i = 0; i < 60; i++) {
    const place = { clientX: box.left + box.width * 0.4, clientY: box.top + box.height * 0.6 };
    const how = { deltaY: i < 40 ? -30 : 40, ctrlKey: true, cancelable: true };
    canvas.dispatchEvent(new WheelEvent("wheel", { ...how, ...place }));
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - last);
    last = performance.now();
  }
  return times;
}"""


def test_a_large_picture_is_magnified_within_frames(live, made):
    """Of the largest picture that a page is sent, whatever the original was."""
    fine = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), dtype=np.uint8))
    file = io.BytesIO()
    fine.save(file, format="JPEG", quality=60)
    root = shown(live, made("square", image=photo(size=(48, 48))))
    live.update(0, _detail={"image": 0, "picture": file.getvalue()})
    live.page.wait_for_timeout(500)
    root.locator(".kr-map").evaluate(FRAMES)  # every size of the picture is made once
    assert np.median(root.locator(".kr-map").evaluate(FRAMES)) < 100  # on a busy machine; alone it is 17 ms


# --- greys --------------------------------------------------------------------------------------------


def test_window_and_level_of_a_picture(live, made):
    root = shown(live, made())
    live.update(0, opacity=0)
    box = root.locator(".kr-map").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    before = pixels_of(root)
    root.locator("[data-tool=levels]").click()
    live.page.mouse.move(*middle)
    live.page.mouse.down()
    live.page.mouse.move(middle[0], middle[1] - 60)
    live.page.mouse.up()
    live.page.wait_for_timeout(80)
    assert pixels_of(root).mean() > before.mean() + 20, "brighter"
    live.page.mouse.dblclick(*middle)
    live.page.wait_for_timeout(80)
    np.testing.assert_allclose(pixels_of(root), before, atol=1)
    root.locator("select[data-view=levels]").select_option(label="more contrast")
    live.page.wait_for_timeout(80)
    assert pixels_of(root).std() > before.std() + 10
    root.locator(".kr-map").focus()
    live.page.keyboard.press("Enter")
    live.page.keyboard.press("ArrowUp")
    live.page.wait_for_timeout(80)
    assert before.mean() < pixels_of(root).mean() < before.mean() + 40, "by keys"


def test_sixteen_bits_of_a_scan_are_all_there(live, made):
    """A lesion of a few Hounsfield units shows in a narrow window, which eight bits would not hold."""
    units = np.full((48, 64), 40.0, np.float32)
    units[:8] = -1000
    units[20:30, 30:44] = 46
    units[:, -2:] = 1500
    explorer = made(
        "scan",
        image=units,
        model=network(channels=1),
        activation="softmax",
        preprocess=lambda cells: torch.from_numpy(np.asarray(cells, np.float32))[None] / 1500,
    )
    sent = explorer.get_state("_cells")["_cells"]
    assert (sent["low"], sent["high"], sent["of"]) == (-1000, 1500, [48, 64])
    root = shown(live, explorer)
    live.update(0, opacity=0)
    root.locator("[data-tool=levels]").click()
    names = root.locator("select[data-view=levels] option").all_inner_texts()
    assert {"as given", "all numbers", "brain", "lung"} <= set(names)
    root.locator("select[data-view=levels]").select_option(label="brain")
    live.page.wait_for_timeout(80)
    canvas = pixels_of(root).mean(2)

    def seen(y, x):
        return canvas[int(y / 48 * canvas.shape[0]), int(x / 64 * canvas.shape[1])]

    assert seen(4, 30) == 0 and seen(40, 63.5) == 255
    assert seen(40, 20) == pytest.approx(255 * 40 / 80, abs=1.5)
    assert seen(25, 37) == pytest.approx(255 * 46 / 80, abs=1.5)
    root.locator("[data-tool=look]").click()
    box = root.locator(".kr-map").bounding_box()
    live.page.mouse.move(box["x"] + 37 / 64 * box["width"], box["y"] + 25 / 48 * box["height"])
    live.page.wait_for_timeout(60)
    assert root.locator(".kr-where").inner_text() == "x 37, y 25: 46"


# --- the look -----------------------------------------------------------------------------------------


def test_cells_smooth_contours_threshold_and_dots(live, made):
    explorer = made("in part", exact=False, ssim_target=0.6, window=12, stride=4)
    assert not bool(explorer.heatmap.measured.all())
    root = shown(live, explorer)
    pictures = {"cells": pixels_of(root)}
    for style in ("smooth", "contours"):
        root.locator(".kr-choice label", has_text=style).click()
        live.page.wait_for_timeout(100)
        assert live.state(0, "overlay") == style
        pictures[style] = pixels_of(root)
    for one, other in (("cells", "smooth"), ("smooth", "contours"), ("cells", "contours")):
        assert np.abs(pictures[one] - pictures[other]).mean() > 1, (one, other)
    root.locator(".kr-choice label", has_text="cells").click()
    root.locator("input[data-trait=dots]").focus()
    live.page.keyboard.press("Space")
    live.page.wait_for_timeout(100)
    assert live.state(0, "dots") is False
    bare = pixels_of(root)
    assert 0 < (np.abs(bare - pictures["cells"]).max(2) > 20).mean() < 0.1
    root.locator("input[data-trait=threshold]").fill("1")
    live.page.wait_for_timeout(100)
    assert live.state(0, "threshold") == 1
    # Nothing but the largest change is coloured.
    coloured = [(np.ptp(picture, axis=2) > 12).mean() for picture in (bare, pixels_of(root))]
    assert coloured[1] < 0.1 < coloured[0]


def test_a_line_on_every_control_by_pointer_and_by_keyboard(live, made):
    root = shown(live, made())
    line = root.locator(".kr-tip")
    root.locator("[data-view=hide]").hover()
    line.wait_for(state="visible")
    assert line.inner_text() == "See the picture alone (h)"
    live.page.mouse.move(0, 0)
    line.wait_for(state="hidden")
    root.locator("input[data-trait=window]").focus()
    live.page.keyboard.press("Tab")
    line.wait_for(state="visible")
    focused = "document.activeElement"
    assert live.page.evaluate(f"{focused}.getAttribute('aria-describedby')") == line.get_attribute("id")
    live.page.keyboard.press("Escape")
    line.wait_for(state="hidden")
    silent = root.evaluate("""(root) => [...root.querySelectorAll("button, input, select")].filter(
      (control) => {
      if (!control.checkVisibility({ visibilityProperty: true })) return false;
      if (control.closest("[title]")) return false;
      control.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
      control.focus();
      return !control.hasAttribute("aria-describedby");
    }).map((control) => control.outerHTML.slice(0, 120))""")
    assert not silent


def test_thumbnails_say_what_they_are(live, made):
    pictures = [Image.fromarray(photo(i)) for i in range(2)]
    pictures[1].filename = "scans/left knee.png"
    root = shown(live, made("two", image=pictures))
    cards = root.locator(".kr-picker label").all_inner_texts()
    said = root.locator(".kr-classes button").first.inner_text().split()
    assert cards[0].split("\n") == ["Image 1", " ".join(said), "exact"] and "left knee.png" in cards[1]
    assert root.get_by_label("Image 2, left knee.png").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_here_bars_anybody(live, made, scheme):
    if not AXE.is_file():
        if os.environ.get("KRYPTON_REQUIRE_BROWSER") == "1":
            pytest.fail("KRYPTON_REQUIRE_BROWSER is 1, but axe-core is not installed in js/")
        pytest.skip("needs axe-core: `npm ci` in js/, which `make test` does where there is Node 20")
    live.page.emulate_media(color_scheme=scheme)
    live.page.add_style_tag(content=":root { color-scheme: light dark }")
    root = shown(live, made())
    live.page.evaluate(AXE.read_text())
    root.locator("[data-tool=levels]").click()
    root.locator("[data-view=hide]").hover()
    root.locator(".kr-tip").wait_for(state="visible")
    for change in ({}, {"window": 9}):  # the old map stays
        live.update(0, **change)
        live.page.wait_for_timeout(300)
        found = live.page.evaluate(
            "async () => (await axe.run('.krypton-explorer')).violations.map("
            "v => v.id + ': ' + v.nodes.map(n => n.html + ' ' + n.failureSummary).join('; '))"
        )
        assert not found, "\n".join(found)
