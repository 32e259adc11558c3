"""The built site: nothing comes from elsewhere, names and pictures have words, axe finds no fault."""

from __future__ import annotations

import re
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import griffe
import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "site"
AXE = ROOT / "js" / "node_modules" / "axe-core" / "axe.min.js"
sys.path.insert(0, str(ROOT / "tests"))

from support.jupyter_pages import CHROMIUM, CHROMIUM_FLAGS  # noqa: E402

PAGES = sorted(SITE.rglob("*.html"))
LOOKED_AT = [
    "index.html", "start.html", "approximation.html", "switching.html", "benchmarks.html", "gallery.html",
    "gallery/quickstart.html", "reference/engine.html", "command-line.html", "architecture.html",
]  # fmt: skip

FETCHED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "video": "src", "form": "action"}
"""Attributes whose address a browser asks for by itself; those of ``link`` depend on its relation."""


class Elements(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_pages_are_there():
    built = {page.relative_to(SITE).as_posix() for page in PAGES}
    assert set(LOOKED_AT) <= built
    assert len(built) > 35


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(SITE).as_posix())
def test_nothing_is_asked_of_others_and_pictures_have_words(page):
    for tag, attributes in Elements(page).found:
        fetched = FETCHED.get(tag) or ("href" if tag == "link" else None)
        address = attributes.get(fetched or "") or ""
        assert not re.match(r"(\w+:)?//", address), f"{tag} asks {address}"
        if tag == "img" and attributes.get("aria-hidden") != "true":
            assert (attributes.get("alt") or "").strip(), f"no words for {address[:80]}"


def test_every_name_of_the_reference_has_a_docstring():
    text = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    shown = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    loader = griffe.GriffeLoader(search_paths=[ROOT])
    for package in ("krypton_engine", "krypton_widget"):
        loader.load(package)
    loader.resolve_aliases()
    lacking = []
    for path in shown:
        found = loader.modules_collection[path]
        own = [each for each in found.members.values() if not each.is_alias and each.is_function]
        public = [found, *(each for each in own if not each.name.startswith("_"))]
        lacking += [each.path for each in public if not each.has_docstring]
    assert len(shown) > 30
    assert not lacking


def test_styles_ask_nobody():
    for style in SITE.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", style.read_text()), style


@pytest.fixture(scope="module")
def address():
    handler = partial(SimpleHTTPRequestHandler, directory=SITE)
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module", params=["light", "dark"])
def page(request, address):
    """A page of a browser with one of the palettes, and the addresses that it asks for."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_page(color_scheme=request.param, viewport={"width": 1280, "height": 900})
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        yield page
        browser.close()


@pytest.mark.parametrize("name", LOOKED_AT)
def test_axe_finds_nothing(page, address, name):
    page.goto(f"{address}/{name}")
    page.wait_for_timeout(300)
    page.evaluate(AXE.read_text())
    found = page.evaluate(
        "async () => (await axe.run()).violations.map(v => `${v.id} (${v.impact}): `"
        " + v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + ' ' + n.failureSummary).join('; '))"
    )
    assert not found, "\n".join(found)
    assert all(url.startswith((address, "data:", "blob:")) for url in page.asked), page.asked
