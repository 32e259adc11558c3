// The position under the pointer: the occluded image there, and its numbers.
import { h, onRepaint } from "./dom";
import { moves, together } from "./figures";
import { Regions } from "./layout";
import { INTERPOLATED, LINEARISED, TRIMMED, UNKNOWN } from "./messages";
import type { Scene } from "./scene";
import { drawBelow, drawCover } from "./stage/drawing";
import { thumb } from "./thumb";

/** How a value was come by that was not measured in full, by its status. */
const HOW: Partial<Record<number, string>> = {
  [INTERPOLATED]: "estimated",
  [LINEARISED]: "measured to the first order, and corrected",
  [TRIMMED]: "measured, small changes dropped",
};

/** What is known of the cell looked at, in words. */
export function describe(scene: Scene): { rows: [string, string][]; how: string; text: string } | null {
  const { current: map, cell: i, layout } = scene;
  if (!map || !layout || i === null) return null;
  const pixels: [string, string][] = [
    ...(layout instanceof Regions ? [["region", scene.id(i)] as [string, string]] : []),
    ...layout.box(i).map(([first, last], axis): [string, string] => [scene.axes[axis] ?? "", `${first}–${last - 1}`]),
  ];
  const place = pixels.map((row) => row.join(" ")).join(", ");
  const status = map.status[i] ?? UNKNOWN;
  if (status === UNKNOWN) return { rows: pixels, how: "not measured", text: `${place}: not measured` };
  const value = map.values[i] ?? NaN;
  const drop = map.base - value;
  const name = scene.name(map.target);
  const [[before, after], [fall], [share]] = together([map.base, value], [drop], [map.classValues[i] ?? NaN]) as [
    [string, string],
    [string],
    [string],
  ];
  const rows: [string, string][] = [
    [name, `${before} → ${after}`],
    moves(drop, fall),
  ];
  let text = `${place}: ${name} ${before} becomes ${after}, ${moves(drop, fall).join(" ")}`;
  const other = map.classes[i] ?? -1;
  if (status !== INTERPOLATED && other >= 0) {
    const flips = other !== scene.predicted;
    rows.push([flips ? "flips to" : "still says", `${scene.name(other)} ${share}`]);
    text += flips ? `, flips to ${scene.name(other)} ${share}` : `, still says ${scene.name(other)}`;
  }
  rows.push(...pixels);
  const how = HOW[status] ?? "measured";
  return { rows, how, text: `${text}, ${how}` };
}

export function inspector(scene: Scene): HTMLElement {
  const canvas = h("canvas", { class: "kr-thumb", role: "img", "aria-label": "The image with the patch on it" });
  const caption = h("p", { class: "kr-how" });
  const table = h("dl", {});
  const unpin = h("button", { type: "button", class: "kr-link", onclick: () => scene.pin(null) }, "Unpin");
  const hint = h("p", { class: "kr-hint" });
  const body = h("div", { class: "kr-inspected" }, canvas, h("div", {}, caption, table));
  const draw = onRepaint(() => {
    const found = describe(scene);
    body.hidden = !found;
    hint.hidden = !!found;
    hint.textContent = scene.model.get("regions")
      ? "Point at a region to see what covering it does; click to cover several together."
      : "Point at the map to see the patch there; click to pin it.";
    unpin.hidden = !scene.pinned;
    const { cell, place } = scene;
    if (!found || cell === null || !place || !scene.ready) return;
    const pane = thumb(canvas, scene, place);
    if (pane) {
      drawBelow(pane, scene, false);
      drawCover(pane, scene, new Set([cell]));
    }
    caption.textContent = found.how;
    caption.dataset.how = found.how;
    table.replaceChildren(...found.rows.flatMap(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]));
  });
  scene.watch(draw);
  return h(
    "div",
    { class: "kr-group kr-inspector" },
    h("h3", {}, "Under the pointer", unpin),
    hint,
    body,
  );
}
