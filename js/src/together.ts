// Several regions covered at once: the picture, and what the model says of it.
import { floats } from "./bytes";
import { h, type Listening, onRepaint, set } from "./dom";
import { moves, together } from "./figures";
import { answers, best } from "./map";
import { arrived, type Together } from "./messages";
import type { Scene } from "./scene";
import { drawBelow, drawCover } from "./stage/drawing";
import { thumb } from "./thumb";

/** What the model says, in words; null before its answer has come. */
export function sayTogether(scene: Scene, found: Together | Partial<Record<string, never>>): [string, string][] | null {
  const { current: map, covered } = scene;
  if (!map || !arrived(found) || !answers(found.asked, scene.model, true)) return null;
  if (found.covered.length !== covered.size || !found.covered.every((id) => scene.model.get("covered").includes(id))) return null;
  const shares = floats(found.probabilities);
  const after = shares[map.target ?? 0] ?? NaN;
  const alone = [...covered].reduce((sum, cell) => sum + map.base - (map.values[cell] ?? NaN), 0);
  const drop = map.base - after;
  const [most] = best(shares, 1);
  const [[before, now], [fall, apart], [share]] = together([map.base, after], [drop, alone], [shares[most ?? 0] ?? NaN]) as [
    [string, string],
    [string, string],
    [string],
  ];
  const rows: [string, string][] = [
    [scene.name(map.target), `${before} → ${now}`],
    moves(drop, fall),
    ["alone, summed", moves(alone, apart).join(" ")],
  ];
  if (shares.length > 1 && most !== undefined) {
    rows.push([most === scene.predicted ? "still says" : "flips to", `${scene.name(most)} ${share}`]);
  }
  return rows;
}

export function togetherPanel(listening: Listening, scene: Scene, live: boolean): HTMLElement {
  const { model } = listening;
  const canvas = h("canvas", { class: "kr-thumb", role: "img", "aria-label": "The picture with these regions covered" });
  const caption = h("b", {});
  const table = h("dl", { "aria-live": "polite" });
  const none = h("button", { type: "button", class: "kr-link", onclick: () => set(model, "covered", []) }, "Uncover all");
  const body = h("div", { class: "kr-asked" }, canvas, caption, table);
  const element = h("div", { class: "kr-group kr-together" }, h("h3", {}, "Covered together", none), body);
  const draw = onRepaint(() => {
    const { covered, regions } = scene;
    element.hidden = !regions || !covered.size;
    none.hidden = !live;
    if (element.hidden || !regions) return;
    const pane = thumb(canvas, scene, scene.cross);
    if (pane) {
      drawBelow(pane, scene, false);
      drawCover(pane, scene, covered);
    }
    const rows = sayTogether(scene, model.get("_together"));
    caption.textContent = `${covered.size} region${covered.size === 1 ? "" : "s"}${rows ? "" : ", being asked"}`;
    if (rows) table.replaceChildren(...rows.flatMap(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]));
  });
  listening.to(["_together", "covered"], draw);
  scene.watch(draw);
  return element;
}
