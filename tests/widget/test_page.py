"""The page that is shipped, in Chromium: what it shows while things change, and what it keeps out."""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.jupyter_pages import CHROMIUM
from support.live_page import opened
from support.widget_page import Drawings, Page
from torch import nn

from krypton_engine.common.figures import figure, figures
from krypton_widget import OcclusionExplorer

if CHROMIUM is None:
    if os.environ.get("KRYPTON_REQUIRE_BROWSER") == "1":
        pytest.fail("KRYPTON_REQUIRE_BROWSER is 1, but there is no Chromium", pytrace=False)
    pytest.skip("needs Chromium", allow_module_level=True)


SIZE = (48, 64)


@functools.cache  # captured once
def network(scale=1.0):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(72, 7),
    ).eval()  # fmt: skip
    with torch.no_grad():
        net[-1].weight.mul_(scale)
    return net


def photo(seed=0, size=SIZE):
    coarse = np.random.default_rng(seed).integers(0, 256, (size[0] // 4, size[1] // 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.fixture
def explore():
    made = []

    def make(model=None, image=None, **options):
        options = {"window": 12, "stride": 4, "exact": True} | options
        model = network(30) if model is None else model
        made.append(OcclusionExplorer(model, photo() if image is None else image, **options))
        made[-1].wait(60)
        return made[-1]

    yield make
    for explorer in made:
        explorer.close()


@pytest.fixture
def live(browser):
    with opened(browser) as page:
        yield page


# --- several on a page --------------------------------------------------------------------------------


def test_two_explorers_and_two_views_of_one(live, explore):
    names = [
        ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"],
        ["pea", "bean", "kale", "leek", "okra", "yam", "rye"],
    ]
    for given in names:
        live.add(explore(class_names=given))
    views = [live.show(0), live.show(1), live.show(1)]
    roots = live.page.locator(".krypton-explorer")
    views = [roots.nth(i) for i in range(3)]
    for view in views:
        checked = view.locator(".kr-body .kr-choice input:checked")
        assert [checked.nth(i).input_value() for i in range(checked.count())] == [
            "windows", "grey", "own", "cells",
        ]  # fmt: skip
    views[1].locator(".kr-choice label", has_text="black").click()
    found = [view.locator(".kr-choice input:checked").nth(1).input_value() for view in views]
    assert found == ["grey", "black", "black"]
    assert (live.state(0, "baseline"), live.state(1, "baseline")) == ("grey", "black")
    for i, view in enumerate(views):
        view.locator("label", has_text="Opacity").click()
        assert view.locator("input[data-trait=opacity]").evaluate(
            "(input) => input === document.activeElement"
        )
        search = view.locator("input[type=search]")
        search.fill("e")
        listed = set(view.locator(".kr-classes span").all_inner_texts())
        assert listed and listed <= set(names[min(i, 1)])
    ids = live.page.evaluate("[...document.querySelectorAll('.krypton-explorer [id]')].map((e) => e.id)")
    assert len(set(ids)) == len(ids)


# --- places -------------------------------------------------------------------------------------------


def test_what_is_pinned_stays_where_it_is(live, explore):
    """By pixels, whatever the stride or size; back again it is the very same cell."""
    explorer = explore(stride=8, window=8)
    live.add(explorer)
    root = live.show(0)
    box = root.locator(".kr-map").bounding_box()
    at = (box["x"] + 0.69 * box["width"], box["y"] + 0.71 * box["height"])
    live.page.mouse.click(*at)
    live.page.mouse.move(0, 0)

    def pinned():
        live.page.wait_for_timeout(80)
        text = root.locator(".kr-inspected dl").inner_text()
        return [
            [int(n) for n in re.search(rf"{axis}\s+(\d+)–(\d+)", text).groups()]
            for axis in ("rows", "columns")
        ]

    first = pinned()
    assert first == [[32, 39], [40, 47]]
    for stride, window in ((3, 8), (8, 8), (5, 8), (7, 8), (4, 12), (2, 5), (8, 8)):
        explorer.stride, explorer.window, explorer.stride = 1, window, stride
        explorer.wait(60)
        live.update(0, window=window, stride=stride, **Page(explorer).run)
        for (low, high), (before, after) in zip(pinned(), first, strict=True):
            assert abs((low + high) / 2 - (before + after) / 2) <= stride / 2
    assert pinned() == first


# --- the same map everywhere --------------------------------------------------------------------------


def pixels_of(root, selector=".kr-map") -> np.ndarray:
    """The canvas's picture."""
    address = root.locator(selector).evaluate("(canvas) => canvas.toDataURL()")
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"), float
    )


@pytest.mark.parametrize("scale", ["own", "fixed"])
@pytest.mark.parametrize("region", [None, (8, 16, 40, 60)])
def test_the_saved_picture_is_the_pages(live, explore, monkeypatch, tmp_path, scale, region):
    """Drop by drop: also at its strongest place, and nothing outside a region."""
    explorer = explore(opacity=1.0, scale=scale, limit=0.05, region=None)
    explorer.region = region  # what was measured before is still known, and on no page
    explorer.wait(60)
    live.add(explorer)
    root = live.show(0)
    live.page.wait_for_timeout(300)
    heatmap, picture = Drawings(monkeypatch).of(explorer, tmp_path)
    drawn = np.asarray(
        heatmap.overlay(**{k: v for k, v in picture.items() if k not in ("title", "width")}), float
    )
    canvas = pixels_of(root)
    rows, columns = ((np.arange(n) + 0.5) * m / n for n, m in zip(SIZE, canvas.shape, strict=False))
    seen = canvas[rows.astype(int)][:, columns.astype(int)]
    # Away from the frame around a region, and from the edges where a browser smooths the picture.
    inner = np.zeros(SIZE, bool)
    inner[12:36, 20:56] = True
    difference = np.abs(seen - drawn)[inner]
    assert np.quantile(difference, 0.9) < 12 and difference.mean() < 5
    # By hand: the strongest drop, at its window's centre, in the colour at the end of the scale or past it.
    from matplotlib import colormaps

    wanted = np.frombuffer(Page(explorer).frame["status"], np.uint8).reshape(heatmap.measured.shape) > 0
    drops = np.where(wanted, explorer.heatmap.drop.numpy(), 0)
    limit = {"own": np.abs(drops).max(), "fixed": 0.05}[scale]
    row, column = np.unravel_index(np.abs(drops).argmax(), drops.shape)
    y, x = (int(i) * 4 + 6 for i in (row, column))
    share = np.clip(drops[row, column] / limit, -1, 1)
    if scale == "own":
        expected = np.array(colormaps[explorer.colormap]((share + 1) / 2)[:3]) * 255
        for image in (drawn, seen):
            assert np.abs(image[y, x] - expected).max() < 8
    if region is None:
        with pytest.raises(AssertionError):  # the mean over covering windows is another map
            np.testing.assert_allclose(
                heatmap.attribution().mean(0).abs().max(), np.abs(drops).max(), rtol=0.05
            )


def test_a_legend_writes_small_numbers_in_full_and_in_one_notation(live, explore):
    explorer = explore(network(0.02))
    live.add(explorer)
    root = live.show(0)
    low, base, high = (root.locator(".kr-ends span").nth(i).text_content() for i in range(3))
    middle = Page(explorer).frame["base"]
    limit = max(Page(explorer).frame["largest"], 0.05)
    expected = [text.replace("-", "−") for text in figures([middle - limit, middle, middle + limit])]
    assert [low, base, high] == expected
    assert figure(middle) in root.locator("h2").inner_text()
    tiny = Page(explorer).frame | {"base": 0.00074, "largest": 0.00037, "least": 0.0}
    live.update(0, _frame=tiny)
    low, base, high = (root.locator(".kr-ends span").nth(i).text_content() for i in range(3))
    assert [low, base, high] == ["0.00037", "0.00074", "0.00111"]
    table = json.loads((Path(__file__).parent / "figures.json").read_text())
    for values, words in table["figures"]:
        assert figures(values) == words
    assert [figure(float(word)) for word in table["not finite"]] == table["not finite"]


# --- while things change ------------------------------------------------------------------------------


def shown(root) -> dict:
    """What a person sees of the state of things."""
    return {
        "kind": root.locator(".kr-state").get_attribute("data-kind"),
        "full": root.locator("progress").evaluate("(bar) => bar.value === 1"),
        "stale": float(root.locator(".kr-map").evaluate("(e) => getComputedStyle(e).opacity")) < 0.6,
        "title": root.locator("h2").inner_text(),
        "compared": root.locator(".kr-compare").is_visible(),
        "blank": float(pixels_of(root).std()) < 1,
    }


@pytest.mark.parametrize(
    "move",
    [{"window": 9}, {"stride": 3}, {"baseline": "black"}, {"region": {"box": [0, 0, 9, 9]}}, {"target": 2}],
)
def test_no_moment_calls_an_old_map_exact(live, explore, move):
    explorer = explore()
    live.add(explorer)
    root = live.show(0)
    before = shown(root)
    assert (before["kind"], before["full"], before["stale"], before["compared"]) == (
        "exact",
        True,
        False,
        True,
    )
    for change in (move, {"running": True}):  # the page's own, then the kernel's first word
        live.update(0, **change)
        live.page.wait_for_timeout(300)
        now = shown(root)
        assert now["kind"] == "running" and not now["full"] and now["stale"] and not now["compared"]
        assert not root.locator(".kr-bar-box").evaluate("(e) => getComputedStyle(e).opacity > 0.6")
    if "target" in move:
        assert now["title"].startswith("What speaks for 2 (")


def test_another_picture_is_another_picture_at_once(live, explore):
    explorer = explore(image=[photo(0), photo(1)], class_names=list("abcdefg"))
    live.add(explorer)
    root = live.show(0)
    first = pixels_of(root)
    root.get_by_label("Image 2").check(force=True)
    assert live.state(0, "image_index") == 1
    live.page.wait_for_timeout(300)
    for change in ({}, {"running": True}):
        live.update(0, **change)
        now = shown(root)
        assert now["blank"] and now["kind"] == "running" and not now["full"] and not now["compared"]
        assert now["title"] == "Occlusion map" and not root.locator(".kr-classes button").count()
    explorer.image_index = 1
    explorer.wait(60)
    sent = Page(explorer).run
    live.update(0, _view=sent["_view"])  # the picture, and no map yet
    now = shown(root)
    assert not now["blank"] and now["kind"] == "running"
    live.update(0, **sent)
    now = shown(root)
    assert now["kind"] == "exact" and now["full"] and not now["stale"]
    assert np.abs(pixels_of(root) - first).mean() > 5


def test_more_of_the_same_map_is_no_finished_one(live, explore):
    explorer = explore(exact=False, ssim_target=0.7)
    live.add(explorer)
    root = live.show(0)
    assert shown(root)["kind"] == "approximate"
    live.update(0, exact=True)
    now = shown(root)
    assert now["kind"] == "running" and not now["full"] and not now["stale"], (
        "the map is still of what is asked"
    )


# --- classes ------------------------------------------------------------------------------------------


def test_a_click_is_not_lost_to_text_left_in_the_search(live, explore):
    live.add(explore(class_names=["tabby", "tiger cat", "Egyptian cat", "dog", "owl", "crane", "cat"]))
    root = live.show(0)
    search = root.locator("input[type=search]")
    search.fill("EGYPT")
    search.press("Enter")
    assert live.state(0, "target") == 2 and search.input_value() == ""
    search.fill("zebra")
    assert "No class has “zebra”" in root.locator("[role=status]", has_text="zebra").inner_text()
    search.fill("cat")
    assert root.locator(".kr-classes span").all_inner_texts()[0] == "cat"
    root.locator(".kr-classes button", has_text="tiger cat").click()
    live.page.wait_for_timeout(50)
    assert live.state(0, "target") in (1, None) and search.input_value() == ""
    assert root.locator("[aria-pressed=true] span").inner_text() == "tiger cat"


# --- keeping, and going back --------------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["side by side", "wipe"])
def test_a_kept_map_and_this_one_have_one_scale_and_one_pointer(live, explore, manner):
    explorer = explore(opacity=1.0)
    explorer.keep()
    live.add(explorer)
    explorer.target = (explorer.heatmap.target + 1) % 7
    explorer.wait(60)
    root = live.show(0)
    traits = Page(explorer)
    live.update(0, target=explorer.target, _kept=explorer.get_state("_kept")["_kept"], **traits.run)
    panel = root.locator(".kr-beside")
    panel.locator("label", has_text=manner).click()
    live.page.wait_for_timeout(200)
    kept = explorer.get_state("_kept")["_kept"]["frame"]
    maps = {
        name: (frame["base"] - np.frombuffer(frame["values"], "<f4")).reshape(frame["counts"])
        for name, frame in (("kept", kept), ("now", traits.frame))
    }
    limit = max(np.abs(each).max() for each in maps.values())
    assert f"±{figure(float(limit))}".replace("-", "−") in panel.inner_text()
    if manner == "wipe":
        panel.locator("[data-beside=share]").fill("40")
        live.page.wait_for_timeout(200)
        canvases = {name: pixels_of(root, "[data-beside=wipe]") for name in maps}
    else:
        canvases = {name: pixels_of(root, f"[data-beside={name}]") for name in maps}
    from matplotlib import colormaps

    for name, drops in maps.items():
        canvas = canvases[name]
        allowed = {"kept": slice(0, 4), "now": slice(7, None)}[name] if manner == "wipe" else slice(None)
        part = np.abs(drops[:, allowed])
        row, column = np.unravel_index(part.argmax(), part.shape)
        column += allowed.start or 0
        y, x = (int(i) * 4 + 6 for i in (row, column))
        share = drops[row, column] / limit
        grey = np.asarray(Image.fromarray(photo()).convert("L"), float)[y, x]
        weight = abs(share) ** 0.75
        expected = (
            grey * (1 - weight) + np.array(colormaps[explorer.colormap]((share + 1) / 2)[:3]) * 255 * weight
        )
        found = canvas[int((y + 0.5) * canvas.shape[0] / SIZE[0]), int((x + 0.5) * canvas.shape[1] / SIZE[1])]
        assert np.abs(found - expected).max() < 22, (name, found, expected)
    if manner == "wipe":
        return
    # The pointer on one is on the other, with what covering does there to each class.
    panel.locator("[data-beside=kept]").scroll_into_view_if_needed()
    box = panel.locator("[data-beside=kept]").bounding_box()
    live.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    live.page.wait_for_timeout(150)
    said = panel.locator("figcaption span").all_inner_texts()
    cell = (24 - 4) // 4, (32 - 4) // 4
    for text, (name, frame) in zip(said, (("kept", kept), ("now", traits.frame)), strict=True):
        before, after = re.match(r"(\S+) → ([^,]+), (?:falls|rises|changes) by", text).groups()
        before, after = (float(number.replace("−", "-")) for number in (before, after))
        assert before == pytest.approx(frame["base"], rel=1e-2)
        assert after == pytest.approx(frame["base"] - maps[name][cell], rel=1e-2)


def test_earlier_maps_are_a_click_away(live, explore):
    explorer = explore()
    live.add(explorer)
    root = live.show(0)
    for window in (9, 7):
        explorer.window = window
        explorer.wait(60)
        live.update(0, window=window, stride=explorer.stride, **Page(explorer).run)
    live.page.wait_for_timeout(150)
    maps = root.locator(".kr-maps button")
    assert [text.split("/")[0] for text in maps.locator("small").all_inner_texts()] == ["12", "9", "7"]
    pictures = {maps.nth(i).locator("canvas").evaluate("(canvas) => canvas.toDataURL()") for i in range(3)}
    assert len(pictures) == 3
    maps.nth(1).focus()
    live.page.keyboard.press("Enter")
    assert live.state(0, "window") == 9
    root.locator("[data-do=reset]").click()
    assert live.state(0, "window") == 12


def test_what_counts_most_is_walked_by_keys(live, explore):
    explorer = explore()
    live.add(explorer)
    root = live.show(0)
    listed = root.locator(".kr-ranking button")
    drops = explorer.heatmap.drop.numpy()
    row, column = np.unravel_index(np.abs(drops).argmax(), drops.shape)
    first = f"rows {4 * row}–{4 * row + 11}, columns {4 * column}–{4 * column + 11}"
    assert listed.first.locator("span").inner_text() == first
    told = [text.split(" by ") for text in listed.locator("b").all_inner_texts()]
    sizes = [float(size) for _, size in told]
    assert told[0][0] == ("falls" if drops[row, column] > 0 else "rises")
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == pytest.approx(np.abs(drops).max(), rel=1e-2)
    listed.first.focus()
    live.page.keyboard.press("ArrowDown")
    live.page.keyboard.press("Enter")
    live.page.wait_for_timeout(100)
    second = re.findall(r"\d+", listed.nth(1).locator("span").inner_text())
    assert re.findall(r"(\d+)–(\d+)", root.locator(".kr-inspected dl").inner_text()) == [
        tuple(second[:2]), tuple(second[2:])
    ]  # fmt: skip


def test_the_brush_adds_erases_and_says_why_colours_go_beyond(live, explore):
    explorer = explore()
    live.add(explorer)
    root = live.show(0)
    root.locator("[data-tool=brush]").click()
    size = root.locator("[data-brush=size]")
    size.fill("4")
    box = root.locator(".kr-map").bounding_box()

    def stroke(x, y):
        live.page.mouse.move(box["x"] + x * box["width"] / 64, box["y"] + y * box["height"] / 48)
        live.page.mouse.down()
        live.page.mouse.up()
        live.page.wait_for_timeout(80)
        return np.array(
            live.page.evaluate("[...new Uint8Array(window.models[0].state.region.mask.buffer)]")
        ).reshape(SIZE)

    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5

    def disc(cx, cy, radius=4):
        return np.hypot(y - cy, x - cx) <= radius

    def nearly(mask, expected):
        assert np.abs(mask - expected).sum() <= 12 and mask.any()

    box = root.locator(".kr-map").bounding_box()
    nearly(stroke(20, 20), disc(20, 20))
    box = root.locator(".kr-map").bounding_box()
    nearly(stroke(40, 20), disc(20, 20) | disc(40, 20))
    live.page.keyboard.press("Tab")
    root.locator(".kr-map").focus()
    live.page.keyboard.press("x")
    assert root.locator("[data-brush=erase]").get_attribute("aria-pressed") == "true"
    live.page.keyboard.press("]")
    assert int(size.input_value()) == 5
    box = root.locator(".kr-map").bounding_box()
    nearly(stroke(20, 20), disc(40, 20))
    explorer.region = np.asarray(disc(40, 20))
    explorer.wait(60)
    live.update(0, **Page(explorer).run)
    said = root.locator(".kr-reaching")
    assert said.is_visible() and "up to 6 px beyond the region" in said.inner_text()


def test_the_call_is_copied(live, explore):
    explorer = explore()
    live.add(explorer)
    root = live.show(0)
    root.locator(".kr-call summary").click()
    for kind in ("python", "command"):
        root.locator(f"[data-copy={kind}]").click()
        live.page.wait_for_timeout(100)
        chosen = live.page.evaluate("navigator.clipboard?.readText?.().catch(() => null) ?? null")
        assert (chosen or live.page.evaluate("String(getSelection())")) == Page(explorer).frame["calls"][kind]


# --- high contrast ------------------------------------------------------------------------------------


def picture_of(locator) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB"), float)


def contrast(image: np.ndarray) -> float:
    """Between the two commonest colours that are not nearly the same, as WCAG has it."""
    colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    linear = np.where(
        colours / 255 <= 0.04045, colours / 255 / 12.92, ((colours / 255 + 0.055) / 1.055) ** 2.4
    )
    light = linear @ [0.2126, 0.7152, 0.0722] + 0.05
    common = counts >= 6
    return float(light[common].max() / light[common].min())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_high_contrast_hides_nothing(live, explore, scheme):
    live.page.emulate_media(forced_colors="active", color_scheme=scheme)
    live.add(explore(image=[photo(0), photo(1)]))
    root = live.show(0)
    live.page.mouse.move(0, 0)
    parts = (
        ".kr-switch input",
        "input[data-trait=stride]",
        ".kr-tool[data-tool=look]",
        ".kr-choice :checked + span",
        ".kr-swatch-black",
        ".kr-strip",
        ".kr-bar",
        ".kr-classes button",
    )
    for part in parts:
        assert contrast(picture_of(root.locator(part).first)) >= 3, part
    # What is chosen looks otherwise than what is not, beyond the words in it.
    for one, other in (
        (".kr-tool[data-tool=look]", ".kr-tool[data-tool=brush]"),
        (".kr-picker label:nth-child(1)", ".kr-picker label:nth-child(2)"),
        (".kr-choice label:nth-child(1) span", ".kr-choice label:nth-child(2) span"),
    ):
        edges = []
        for selector in (one, other):
            box = root.locator(selector).first.bounding_box()
            clip = {
                "x": box["x"] - 6,
                "y": box["y"] - 6,
                "width": box["width"] + 12,
                "height": box["height"] + 12,
            }
            edges.append(
                np.asarray(Image.open(io.BytesIO(live.page.screenshot(clip=clip))).convert("RGB"), float)
            )
        ring = [np.unique(edge[4:9, 12:-12].reshape(-1, 3), axis=0) for edge in edges]
        assert ring[0].shape != ring[1].shape or np.abs(ring[0] - ring[1]).max() > 60, one
    switch = root.locator(".kr-switch input").first
    on = picture_of(switch)
    live.update(0, exact=False)
    live.page.wait_for_timeout(300)
    assert np.abs(picture_of(switch) - on).max() > 100
    slider = root.locator("input[data-trait=opacity]")
    left = picture_of(slider)
    slider.fill("0.1")
    assert np.abs(picture_of(slider) - left).max() > 100


# --- the saved page -----------------------------------------------------------------------------------


@pytest.fixture
def saved(browser, tmp_path):
    """Opens the saved page of an explorer, from a file and without a network."""
    contexts = []

    def opened(explorer):
        explorer.save(tmp_path / "map.html")
        contexts.append(browser.new_context(offline=True, viewport={"width": 1300, "height": 1200}))
        page = contexts[-1].new_page()
        page.said = []
        page.on("console", lambda m: page.said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto((tmp_path / "map.html").as_uri())
        page.locator(".kr-map[data-drawn]").wait_for()
        page.wait_for_timeout(200)
        return page

    yield opened
    for context in contexts:
        context.close()


def test_a_saved_page_runs_its_own_script_alone(saved, explore):
    evil = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
    page = saved(explore(class_names=[evil, *"bcdefg"], target=0))
    assert page.locator(".kr-state").get_attribute("data-kind") == "exact" and not page.said
    page.locator("input[data-trait=opacity]").fill("0.3")
    page.locator("select[data-trait=colormap]").select_option("berlin")
    assert not page.said
    injected = """() => {
      for (const [tag, text] of [["script", "window.broken = 2"], ["style", "body { display: none }"]]) {
        const element = document.createElement(tag);
        element.textContent = text;
        document.head.append(element);
      }
      const image = document.createElement("div");
      image.innerHTML = "<img src='data:,' onerror='window.broken = 3'><p style='color: red'></p>";
      document.body.append(image);
      return fetch("data:text/plain,hello").then(() => "fetched", () => "refused");
    }"""
    assert page.evaluate(injected) == "refused"
    page.wait_for_timeout(200)
    assert page.evaluate("window.broken") is None and page.locator("h2").is_visible()
    assert any("Content Security Policy" in text for text in page.said)


def test_a_saved_page_says_what_is_not_finite(saved, explore):
    inner = network(30)

    def model(x):
        covered = (x[:, :, 20, 30] == 0).all(1, keepdim=True)
        return torch.where(covered, torch.tensor(float("nan")), inner(x))

    explorer = explore(model, photo() | 1, baseline="black", activation=None, opacity=1.0)
    strange = int((~explorer.heatmap.values.isfinite()).sum())
    assert strange == 9
    page = saved(explorer)
    state = page.locator(".kr-state")
    assert (
        state.inner_text().endswith(f"{strange} not finite") and state.get_attribute("data-kind") != "exact"
    )
    assert "hatched where the change is not finite" in page.locator(".kr-says").inner_text()
    assert not page.said
    canvas = pixels_of(page.locator(".krypton-explorer"))
    y, x = int(20 / 48 * canvas.shape[0]), int(30 / 64 * canvas.shape[1])
    around = canvas[y - 20 : y + 20, x - 20 : x + 20]
    assert np.ptp(around, axis=2).max() < 6, "grey"
    assert around.std() > 20, "in stripes"
