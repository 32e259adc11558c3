"""What can be taken away: a page that needs neither kernel nor network."""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
from pathlib import Path
from typing import Any

from krypton_widget.maps import finite

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main id="explorer"></main>
<script type="application/json" id="state">{state}</script>
<script type="application/json" id="source">{source}</script>
<script type="module">{script}</script>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 16px; max-width: 1100px; }
"""

_SCRIPT = """
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const state = JSON.parse(document.getElementById("state").textContent, (_, value) =>
  value && typeof value === "object" && "$bytes" in value ? bytes(value.$bytes) : value);
const listeners = new Map();
const model = {
  get: (name) => state[name],
  set: (name, value) => {
    state[name] = value;
    (listeners.get("change:" + name) ?? []).forEach((listener) => listener());
  },
  save_changes: () => {},
  send: () => {},
  on: (names, listener) => names.split(" ").forEach((name) =>
    listeners.set(name, [...(listeners.get(name) ?? []), listener])),
  off: () => {},
};
const url = URL.createObjectURL(new Blob([read("source")], { type: "text/javascript" }));
const widget = (await import(url)).default;
widget.render({ model, el: document.getElementById("explorer") });
"""

_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; "
    "script-src '{script}' blob:; style-src '{css}'; img-src blob:"
)
"""What the page may load: its own script and style, by what they are, and what it makes of its own data."""


def html(state: dict[str, Any], static: Path) -> bytes:
    """The widget as it stands, in one file: what needs a kernel is left out of it.

    Args:
        state: The widget's traits by name.
        static: Folder of the built front end.
    """
    kept = {
        k: v for k, v in state.items() if k not in ("_esm", "_css", "_anywidget_id", "layout", "tabbable")
    }
    kept |= {"_kernel": False, "running": False, "error": "", "_failed": False, "_thumbnails": []}
    css = _STYLE + (static / "widget.css").read_text(encoding="utf-8")
    return _PAGE.format(
        title=markup.escape("Krypton occlusion map"),
        policy=_POLICY.format(script=_hash(_SCRIPT), css=_hash(css)),
        css=css,
        script=_SCRIPT,
        state=_json(kept),
        source=_json((static / "widget.js").read_text(encoding="utf-8")),
    ).encode()


def _json(value: Any) -> str:
    """JSON that may stand inside a script element; bytes as base64."""

    def encode(item: Any) -> Any:
        if isinstance(item, (bytes, bytearray, memoryview)):
            return {"$bytes": base64.b64encode(bytes(item)).decode()}
        return str(item)

    return json.dumps(finite(value), default=encode, allow_nan=False).replace("<", "\\u003c")


def _hash(text: str) -> str:
    """A script's or style's own name in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
