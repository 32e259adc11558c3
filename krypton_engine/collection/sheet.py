"""Contact sheets: many maps on one page, as a picture or as a page that is sorted by a click."""

from __future__ import annotations

import base64
import html as markup
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from krypton_engine.collection.rows import Record
from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.figures import figure
from krypton_engine.common.files import DRAWN
from krypton_engine.errors import InputError
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.paint import COLORMAP
from krypton_engine.heatmap.shown import axes_of

if TYPE_CHECKING:
    import PIL.Image

ENDINGS = {".png": "a picture", ".html": "a page"}
"""Endings of contact sheets."""

_SIDE, _WIDE, _GAP, _LINE = 168, 420, 10, 15
"""Pixels along a map, along the three slices of a volume, between maps, and of a line of words."""

_EXCEEDED = 0.01
"""Share of the maps whose largest drop is beyond the ends of the scale."""


@dataclass(frozen=True)
class Cell:
    """A map on a contact sheet.

    Attributes:
        record: Its row's record.
        heatmap: The map.
        beneath: Picture to draw over.
        largest: Largest drop, with either sign; NaN where none is finite.
    """

    record: Record
    heatmap: Heatmap
    beneath: AnyArray | None
    largest: float

    @staticmethod
    def of(record: Record, heatmap: Heatmap, picture: AnyArray | None) -> Cell:
        """The cell of a map; where there is no picture, it is drawn over black.

        Examples:
            >>> Cell.of({"id": "a"}, heatmap, None).largest
            0.5
        """
        drops = heatmap.drop[heatmap.drop.isfinite()].double()
        largest = float(drops.flatten()[drops.abs().argmax()]) if drops.numel() else math.nan
        if picture is None:
            try:
                sizes = [heatmap.window.input_shape[axis] for axis in axes_of(heatmap.window)[0]]
                picture = np.zeros(sizes, np.uint8)
            except InputError:  # neither a signal, nor an image, nor a volume
                pass
        return Cell(record, heatmap, picture, largest)

    @property
    def is_volume(self) -> bool:
        """Whether three slices are drawn.

        Examples:
            >>> Cell.of({"id": "a"}, heatmap, None).is_volume
            False
        """
        return self.beneath is not None and self.beneath.ndim == 3

    def drawn(self, scale: float) -> PIL.Image.Image | None:
        """The map over its picture, at most `_SIDE` pixels high and wide, of a volume `_WIDE`; or None.

        Examples:
            >>> Cell.of({"id": "a"}, heatmap, None).drawn(1.0).size
            (140, 168)
        """
        if self.beneath is None or self.heatmap.drop.shape != self.heatmap.measured.shape:
            return None
        picture = self.heatmap.overlay(self.beneath, scale=scale)
        widest = _WIDE if self.is_volume else _SIDE
        share = min(widest / picture.width, _SIDE / picture.height)
        return picture.resize((round(picture.width * share), round(picture.height * share)))


def scale_of(cells: Sequence[Cell]) -> float:
    """The drop at the ends of the colours, which one in a hundred maps exceeds.

    Examples:
        >>> scale_of([Cell.of({"id": "a"}, heatmap, None)]), scale_of([])
        (0.5, 1.0)
    """
    largest = [abs(cell.largest) for cell in cells if math.isfinite(cell.largest)]
    return float(np.quantile(largest, 1 - _EXCEEDED, method="higher")) or 1.0 if largest else 1.0


def png(title: str, cells: Sequence[Cell], failures: Mapping[str, str], maps: int, failed: int) -> bytes:
    """A contact sheet as a PNG.

    Args:
        title: Words above.
        cells: The maps that are shown.
        failures: The reason of images that failed, by id, as far as they are shown.
        maps: Number of all maps.
        failed: Number of all images that failed.

    Examples:
        >>> import PIL.Image
        >>> content = png("Cats", [Cell.of({"id": "a"}, heatmap, None)], {}, maps=1, failed=0)
        >>> PIL.Image.open(io.BytesIO(content)).format
        'PNG'
    """
    from PIL import Image, ImageDraw, ImageFont
    from PIL.PngImagePlugin import PngInfo

    scale = scale_of(cells)
    pictures = [cell.drawn(scale) for cell in cells]
    sizes = [picture.size for picture in pictures if picture is not None]
    width = max((width for width, _ in sizes), default=_SIDE)
    most = max((height for _, height in sizes), default=_SIDE)
    columns = max(
        math.ceil(3 * _SIDE / width), min(len(cells), math.ceil(math.sqrt(1.6 * len(cells) * most / width)))
    )
    high, wide, top = most + 3 * _LINE + _GAP, width + _GAP, 4 * _LINE
    lines = [f"failed: {name}: {reason}" for name, reason in failures.items()]
    height = top + math.ceil(len(cells) / columns) * high + len(lines) * _LINE + _GAP
    page = Image.new("RGB", (columns * wide + _GAP, height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=12)

    def write(place: tuple[float, float], text: str, width: int, colour: str = "black") -> None:
        shown = text.encode("ascii", "replace").decode()  # the letters of this font
        while shown and draw.textlength(shown, font) > width:
            shown = shown[:-4] + "..." if len(shown) > 4 else ""
        draw.text(place, shown, colour, font)

    whole = columns * wide - _GAP
    write((_GAP, _GAP), title, whole)
    write((_GAP, _GAP + _LINE), _legend(scale, len(cells), maps, len(failures), failed), whole, "#555")
    for number, (cell, picture) in enumerate(zip(cells, pictures, strict=True)):
        x, y = _GAP + number % columns * wide, top + number // columns * high
        if picture is not None:
            page.paste(picture, (x, y))
        for line, (text, colour) in enumerate(zip(_caption(cell), ("black", "#555", "#555"), strict=True)):
            write((x, y + most + 2 + line * _LINE), text, width, colour)
    for line, text in enumerate(lines):
        write((_GAP, height - (len(lines) - line) * _LINE - _GAP / 2), text, whole, "#a00")
    info, buffer = PngInfo(), io.BytesIO()
    for name, value in DRAWN.items():
        info.add_text(name, value)
    page.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def _legend(scale: float, shown: int, maps: int, told: int, failed: int) -> str:
    """The meaning of the colours, and what is left out, in words."""
    words = f"red where the target falls when occluded, blue where it rises; full colour at {figure(scale)}"
    if shown < maps:
        words += f"; the first {shown} of {maps} maps"
    if told < failed:
        words += f"; the first {told} of {failed} failures"
    return words


def _caption(cell: Cell) -> tuple[str, str, str]:
    """The three lines below a map."""
    record = cell.record
    base = "" if record.get("base") is None else figure(record["base"])
    found = f"{record.get('class') or 'target'} {base}"
    drop = f"drop {figure(cell.largest)}"
    if record.get("ssim") is not None and (record.get("measured") or 0) < 1:
        drop += f", SSIM {record['ssim']:.3f}"
    return str(record["id"]), found, drop


_SORTS = {
    "id": "name", "class": "class", "group": "group", "base": "target's value", "drop": "largest drop",
    "ssim": "SSIM", "seconds": "seconds",
}  # fmt: skip
"""Words of the buttons that sort, by attribute."""


def html(title: str, cells: Sequence[Cell], failures: Mapping[str, str], maps: int, failed: int) -> bytes:
    """A contact sheet as one page that needs nothing else.

    Args:
        title, cells, failures, maps, failed: As of `png`.

    Examples:
        >>> page = html("Cats", [Cell.of({"id": "<a>"}, heatmap, None)], {"b.png": "torn"}, 1, 1).decode()
        >>> "&lt;a&gt;" in page, "torn" in page, "http" in page
        (True, True, False)
    """
    from matplotlib import colormaps

    scale = scale_of(cells)
    colours = (colormaps[COLORMAP](np.linspace(0, 1, 9))[:, :3] * 255).round().astype(int).tolist()
    held = {name for cell in cells for name in _SORTS if _sorted_by(cell, name) != ""}
    return _PAGE.substitute(
        title=markup.escape(title),
        legend=markup.escape(_legend(scale, len(cells), maps, len(failures), failed)),
        low=f"-{figure(scale)}",
        high=figure(scale),
        colours=", ".join(f"rgb({r} {g} {b})" for r, g, b in colours),
        buttons="".join(
            f'<button type="button" data-by="{name}">{word}</button>'
            for name, word in _SORTS.items()
            if name in held
        ),
        maps="\n".join(_figure(cell, scale) for cell in cells),
        width=16 + max((_WIDE if cell.is_volume else _SIDE for cell in cells), default=_SIDE),
        failures=_failures(failures),
    ).encode()


def _sorted_by(cell: Cell, name: str) -> str:
    """The value that a map is sorted by, as text."""
    value = cell.largest if name == "drop" else cell.record.get(name)
    return "" if value is None else str(value)


def _figure(cell: Cell, scale: float) -> str:
    picture, told = cell.drawn(scale), "<div class='none'>no picture</div>"
    name, found, drop = map(markup.escape, _caption(cell))
    if picture is not None:
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=88)
        data = base64.b64encode(buffer.getvalue()).decode()
        size = f'width="{picture.width}" height="{picture.height}"'
        told = f'<img src="data:image/jpeg;base64,{data}" {size} alt="map of {name}">'
    values = " ".join(f'data-{by}="{markup.escape(_sorted_by(cell, by))}"' for by in _SORTS)
    return (
        f"<figure {values}>{told}<figcaption><b>{name}</b><span>{found}</span><span>{drop}</span>"
        "</figcaption></figure>"
    )


def _failures(failures: Mapping[str, str]) -> str:
    if not failures:
        return ""
    lines = "\n".join(
        f"<tr><td>{markup.escape(name)}</td><td>{markup.escape(reason or '')}</td></tr>"
        for name, reason in failures.items()
    )
    return (
        f"<h2>Failed</h2><table><thead><tr><th>image</th><th>reason</th></tr></thead>"
        f"<tbody>{lines}</tbody></table>"
    )


_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: light-dark(#1a1a1a, #e8e8e8); --quiet: light-dark(#595959, #a8a8a8);
  --line: light-dark(#d5d5d5, #444); --card: light-dark(#fff, #1e1e1e);
  --page: light-dark(#f6f6f6, #121212); }
body { margin: 0; padding: 20px 24px; font: 14px/1.4 system-ui, sans-serif; color: var(--ink);
  background: var(--page); }
h1 { font-size: 20px; margin: 0 0 2px; }
h2 { font-size: 16px; margin: 28px 0 8px; }
p { margin: 0 0 12px; color: var(--quiet); }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 8px; margin-bottom: 16px; }
.bar button { font: inherit; padding: 3px 10px; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); color: inherit; cursor: pointer; }
.bar button[aria-pressed=true] { border-color: var(--ink); font-weight: 600; }
.scale { margin-left: auto; display: flex; align-items: center; gap: 6px; color: var(--quiet); }
.scale i { width: 140px; height: 12px; border-radius: 3px; background: linear-gradient(to right, $colours); }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(${width}px, 1fr)); gap: 12px; }
figure { margin: 0; padding: 8px; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card); }
figure img, .none { display: block; margin: 0 auto 6px; max-width: 100%; }
.none { padding: 60px 0; text-align: center; color: var(--quiet); }
figcaption > * { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
figcaption span { color: var(--quiet); font-size: 13px; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
</style>
<h1>$title</h1>
<p>$legend</p>
<div class="bar" role="group" aria-label="sort the maps"><span>sort by</span>$buttons
<span class="scale">$low<i role="img" aria-label="scale of the colours"></i>$high</span></div>
<main>
$maps
</main>
$failures
<script>
const main = document.querySelector("main");
for (const button of document.querySelectorAll("button")) button.addEventListener("click", () => {
  const by = button.dataset.by, down = button.getAttribute("aria-pressed") === "true" && !button.dataset.down;
  for (const each of document.querySelectorAll("button")) {
    each.setAttribute("aria-pressed", String(each === button));
    delete each.dataset.down;
    each.textContent = each.textContent.replace(/ [\\u2191\\u2193]$$/, "");
  }
  if (down) button.dataset.down = "1";
  button.textContent += down ? " \\u2193" : " \\u2191";
  const order = new Intl.Collator(undefined, { numeric: false }), sign = down ? -1 : 1;
  const number = (text) => text === "" ? NaN : Number(text);
  const maps = [...main.children].sort((a, b) => {
    const [x, y] = [a.dataset[by], b.dataset[by]], [m, n] = [number(x), number(y)];
    if (Number.isNaN(m) || Number.isNaN(n)) return sign * order.compare(x, y);
    return sign * (m - n);
  });
  main.append(...maps);
});
</script>
</html>
""")
