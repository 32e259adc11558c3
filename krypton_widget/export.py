"""Files of a map: its picture, its numbers, and a page that needs neither kernel nor network."""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from krypton_engine.common.arrays import Flags
from krypton_engine.common.figures import figure
from krypton_engine.errors import InputError
from krypton_engine.heatmap.files import ENDINGS
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.picture import Drawing
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_widget import maps
from krypton_widget.maps import Sent, finite
from krypton_widget.page import Shown

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
"""Content security policy: a saved page loads its own script and style, by their hashes, and its own data."""


_LONGEST_WORD = 40
"""Letters of the image's and the class's part of a file's name."""


@dataclass(frozen=True)
class Look:
    """The look of a map on the page.

    Attributes:
        opacity: Opacity of the colours, 0 to 1.
        colormap: Name of one of Matplotlib's colour maps.
        scale: ``"own"``, ``"shared"`` or ``"fixed"``; see `OcclusionExplorer`.
        limit: The end of a fixed scale.
    """

    opacity: float
    colormap: str
    scale: str
    limit: float

    def end(self, shown: Shown) -> float:
        """The change at the end of the colours.

        Examples:
            >>> shown = Shown(heatmap, task=None, largest=0.5, shared=0.75)
            >>> [Look(0.85, "coolwarm", scale, limit=2.0).end(shown) for scale in ("own", "shared", "fixed")]
            [0.5, 0.75, 2.0]
            >>> Look(0.85, "coolwarm", "own", limit=2.0).end(Shown(heatmap, None, 0.001, 0.75, least=0.05))
            0.05
        """
        if self.scale == "fixed":
            return self.limit
        return max({"own": shown.largest, "shared": shown.shared}[self.scale], shown.least) or 1.0


def map_file(
    ending: str,
    shown: Shown,
    look: Look,
    below: Drawing,
    class_names: Sequence[str],
    width: int | None = None,
) -> bytes:
    """The map on the page as a picture (``".png"``, ``".svg"``, ``".pdf"``) or as numbers (``".npz"``).

    Args:
        ending: Ending of the file's name.
        shown: The map.
        look: Look of the map on the page.
        below: Image under the map, and the size of its cells.
        class_names: One a class.
        width: Pixels of a PNG's width; None for the usual one.

    Raises:
        InputError: Another ending, or a width that no picture has.

    Examples:
        >>> shown, look = Shown(heatmap, None, 0.5, shared=0.75), Look(1.0, "coolwarm", "own", 1.0)
        >>> Path("map.npz").write_bytes(map_file(".npz", shown, look, {}, ["cat"])) > 0
        True
        >>> Heatmap.load("map.npz") == heatmap
        True
    """
    if ending not in ENDINGS:
        raise InputError(
            "path", f"a name that ends in {ending!r}", f"names that end in {', '.join(ENDINGS)} or .html"
        )
    if ending == ".npz":
        return shown.heatmap.content(ending)
    drawing: Drawing = {
        **below,
        "scale": look.end(shown),
        "cmap": look.colormap,
        "opacity": look.opacity,
        "title": title(shown.heatmap, shown.task.wanted, class_names),
        "width": width,
    }
    return maps.within(shown.heatmap, shown.task.wanted).content(ending, **drawing)


def file_name(shown: Shown, image: str, class_names: Sequence[str]) -> str:
    """The name of a map's file, without its ending: image, class and window.

    Args:
        shown: The map.
        image: Name of the image, or its file.
        class_names: One a class.

    Examples:
        >>> file_name(Shown(heatmap, None, 0.5, shared=0.75), "photos/my cat.jpg", ["tiger cat"])
        'my-cat-tiger-cat-12x10'
    """
    words = [Path(image).stem, explained(shown.heatmap, class_names)]
    window = shown.heatmap.window
    sizes = "x".join(map(str, window.shape[1:])) if isinstance(window, SlidingWindow) else ""
    words.append(sizes or f"{len(window)}-regions")
    return "-".join(re.sub(r"[^\w.]+", "-", word)[:_LONGEST_WORD].strip("-.") for word in words)


def explained(heatmap: Heatmap, class_names: Sequence[str]) -> str:
    """The class that a map explains.

    Examples:
        >>> explained(heatmap, ["cat"]), explained(heatmap, [])  # of another model, with other classes
        ('cat', 'class 0')
    """
    target = heatmap.target
    if not isinstance(target, int):
        return "output"
    return class_names[target] if target < len(class_names) else f"class {target}"


def title(heatmap: Heatmap, wanted: Flags, class_names: Sequence[str]) -> str:
    """A map's title: the class, its value, the patch, and the kind of the values at wanted positions.

    Args:
        heatmap: The map.
        wanted: Positions to look at.
        class_names: One a class.

    Examples:
        >>> title(heatmap, np.ones((2, 2), dtype=bool), ["cat"])
        'cat: 1, 12 x 10 patch, exact'
    """
    name = explained(heatmap, class_names)
    status = maps.on_grid(heatmap, heatmap.status)[wanted]
    exact, share = (status == Status.EXACT).all(), (status >= Status.TRIMMED).mean()
    how = "exact" if exact else f"approximate, {share:.0%} of the positions measured"
    how += "" if wanted.all() else " in the region"
    strange = maps.not_finite(heatmap, wanted)
    how += f", {strange} not finite" if strange else ""
    window = heatmap.window
    sliding = window if isinstance(window, SlidingWindow) else None
    what = f"{' x '.join(map(str, sliding.shape[1:]))} patch" if sliding else f"{len(window)} regions"
    return f"{name}: {figure(float(heatmap.base))}, {what}, {how}"


def html(state: Sent, static: Path) -> bytes:
    """The widget as a page in one file, without the controls that need a kernel.

    Args:
        state: The widget's traits by name.
        static: Folder of the built front end.

    Examples:
        >>> html({"window": 16}, Path(__file__).parent / "static")[:15]
        b'<!doctype html>'
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
        state=to_json(kept),
        source=to_json((static / "widget.js").read_text(encoding="utf-8")),
    ).encode()


def to_json(value: object) -> str:
    """JSON that may stand inside a script element; bytes as base64.

    Examples:
        >>> to_json({"limit": float("nan"), "pixels": b"abc"})
        '{"limit": null, "pixels": {"$bytes": "YWJj"}}'
    """

    def encode(item: object) -> object:
        if isinstance(item, (bytes, bytearray, memoryview)):
            return {"$bytes": base64.b64encode(bytes(item)).decode()}
        return str(item)

    return json.dumps(finite(value), default=encode, allow_nan=False).replace("<", "\\u003c")


def _hash(text: str) -> str:
    """A script's or style's own name in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
