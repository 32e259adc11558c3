"""A real Jupyter server and a real browser, for the tests of the widget and for its screenshots."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMIUM_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TOKEN = "krypton"


@contextmanager
def jupyter(notebooks: Path, home: Path, app: str = "lab"):
    """Start JupyterLab (``"lab"``) or Notebook 7 (``"notebook"``); gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = os.environ | folders | {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings")}
    environment |= {
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    settings = home / "settings" / "@jupyterlab"
    (settings / "apputils-extension").mkdir(parents=True)
    (settings / "apputils-extension" / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
    command = [
        sys.executable, "-m", "jupyter", app, "--no-browser", "--allow-root", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={notebooks}",
        "--LabApp.expose_app_in_browser=True", "--JupyterNotebookApp.expose_app_in_browser=True",
    ]  # fmt: skip
    log = (home / f"{app}.log").open("wb")
    server = subprocess.Popen(
        command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _until_it_answers(server, f"{address}/api?token={TOKEN}", home / f"{app}.log")
        yield address
    finally:
        # Kernels are in the server's group and must not outlive it.
        server.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(10)
        log.close()


def _until_it_answers(server, url, log):
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.25)
    raise RuntimeError(f"Jupyter did not start:\n{log.read_text()[-3000:]}")


def open_notebook(page, address: str, name: str, app: str = "lab") -> None:
    """Open a notebook and wait for its kernel to be idle."""
    path = f"lab/tree/{name}?token={TOKEN}&reset" if app == "lab" else f"notebooks/{name}?token={TOKEN}"
    page.goto(f"{address}/{path}")
    page.wait_for_function("window.jupyterapp !== undefined", timeout=60_000)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_function(
        "(window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status) === 'idle'",
        timeout=90_000,
    )


def run_next_cells(page, count: int) -> None:
    """Run the selected cell and those after it, ``count`` in all; returns before they have ended."""
    for _ in range(count):
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
        page.wait_for_timeout(200)
