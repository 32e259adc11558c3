"""What can be taken away: files of a map, and a page that needs neither kernel nor network."""

from __future__ import annotations

import base64
import html as markup
import json
import tempfile
from pathlib import Path
from typing import Any

from krypton_engine.heatmap import Heatmap


def file(heatmap: Heatmap, suffix: str, picture: dict[str, Any]) -> bytes:
    """The bytes of `Heatmap.save`.

    Args:
        heatmap: What to save.
        suffix: ``"png"`` or ``"npz"``.
        picture: For a PNG, the arguments of `Heatmap.overlay` and ``title``.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"map.{suffix}"
        heatmap.save(path, **picture)
        return path.read_bytes()


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0 auto; padding: 16px; max-width: 1100px; }}
{css}
</style>
</head>
<body>
<main id="explorer"></main>
<script type="application/json" id="state">{state}</script>
<script type="application/json" id="source">{source}</script>
<script type="module">
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const state = JSON.parse(document.getElementById("state").textContent, (_, value) =>
  value && typeof value === "object" && "$bytes" in value ? bytes(value.$bytes) : value);
const listeners = new Map();
const model = {{
  get: (name) => state[name],
  set: (name, value) => {{
    state[name] = value;
    (listeners.get("change:" + name) ?? []).forEach((listener) => listener());
  }},
  save_changes: () => {{}},
  send: () => {{}},
  on: (names, listener) => names.split(" ").forEach((name) =>
    listeners.set(name, [...(listeners.get(name) ?? []), listener])),
  off: () => {{}},
}};
const url = URL.createObjectURL(new Blob([read("source")], {{ type: "text/javascript" }}));
const widget = (await import(url)).default;
widget.render({{ model, el: document.getElementById("explorer") }});
</script>
</body>
</html>
"""


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
    return _PAGE.format(
        title=markup.escape("Krypton occlusion map"),
        css=(static / "widget.css").read_text(encoding="utf-8"),
        state=_json(kept),
        source=_json((static / "widget.js").read_text(encoding="utf-8")),
    ).encode()


def _json(value: Any) -> str:
    """JSON that may stand inside a script element; bytes as base64."""

    def encode(item: Any) -> Any:
        if isinstance(item, (bytes, bytearray, memoryview)):
            return {"$bytes": base64.b64encode(bytes(item)).decode()}
        return str(item)

    return json.dumps(_finite(value), default=encode, allow_nan=False).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """Numbers that JSON has: what is not finite becomes null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if (isinstance(value, float) and value != value) or value in (float("inf"), float("-inf")):
        return None
    return value
