"""The explorer in marimo, in Chromium: the map comes, and a slider moves it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from support.jupyter_pages import CHROMIUM

if CHROMIUM is None:
    if os.environ.get("KRYPTON_REQUIRE_BROWSER") == "1":
        pytest.fail("KRYPTON_REQUIRE_BROWSER is 1, but there is no Chromium", pytrace=False)
    pytest.skip("needs Chromium", allow_module_level=True)

APP = """
import marimo

app = marimo.App()

@app.cell
def _():
    import marimo as mo
    import torch
    from torch import nn
    from krypton_widget import OcclusionExplorer

    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    image = torch.rand(3, 32, 32)
    explorer = OcclusionExplorer(nn.Sequential(*layers).eval(), image, window=8, stride=4, exact=True)
    mo.ui.anywidget(explorer)
    return

if __name__ == "__main__":
    app.run()
"""


@pytest.fixture
def address(tmp_path):
    """A marimo app that shows an explorer."""
    (tmp_path / "app.py").write_text(APP)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = {name: str(tmp_path) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")}
    command = [
        sys.executable, "-m", "marimo", "run", "app.py", "--headless", "--no-token", "--host", "127.0.0.1",
        "--port", str(port),
    ]  # fmt: skip
    log = (tmp_path / "marimo.log").open("wb")
    server = subprocess.Popen(command, cwd=tmp_path, env=os.environ | home, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, (tmp_path / "marimo.log").read_text()
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.25)
        yield url
    finally:
        server.terminate()
        server.wait(10)
        log.close()


def test_the_map_comes_and_a_slider_moves_it(browser, address):
    context = browser.new_context(viewport={"width": 1400, "height": 1400})
    page = context.new_page()
    said = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".kr-state[data-kind=exact]", timeout=120_000)
    assert "49 of 49" in page.locator(".kr-state").inner_text()
    page.locator("input[data-trait=stride]").focus()
    page.keyboard.press("ArrowRight")
    page.locator(".kr-map[data-map='8/5/36']").wait_for(timeout=60_000)
    page.wait_for_selector(".kr-state[data-kind=exact]", timeout=60_000)
    context.close()
    assert not said, said
