// The colour bar.
import { h } from "./dom";
import { figures } from "./figures";
import { gradient, reach } from "./paint";
import type { Scene } from "./scene";

/** Outputs with the patch on, from where they fall most to where they rise most. */
export function legend(scene: Scene): HTMLElement {
  const bar = h("i", { class: "kr-bar" });
  const mark = h("i", { class: "kr-mark" });
  const [low, middle, high] = [h("span", {}), h("span", { class: "kr-base" }), h("span", {})];
  const caption = h("p", {});
  const element = h("div", { class: "kr-legend" }, caption, h("div", { class: "kr-bar-box" }, bar, mark), h("div", { class: "kr-ends" }, low, middle, high));
  scene.watch(() => {
    const { map, limit } = scene;
    element.hidden = !map;
    if (!map) return;
    const [from, to] = reach(map.base, limit, scene.areShares);
    for (const part of [bar, mark, low, middle, high]) part.hidden = !Number.isFinite(map.base);
    const share = (value: number) => (map.base - value + limit) / (2 * limit);
    bar.style.background = gradient(scene.table, share(from), share(to));
    const at = `${(100 * (map.base - from)) / Math.max(1e-12, to - from)}%`;
    mark.style.left = at;
    middle.style.left = at;
    middle.style.translate = `-${at}`; // so that it never leaves the bar
    const written = figures([from, map.base, to]);
    [low, middle, high].forEach((end, i) => {
      end.textContent = written[i] ?? "";
    });
    const place = (map.base - from) / Math.max(1e-12, to - from);
    low.style.visibility = place < 0.16 ? "hidden" : "";
    high.style.visibility = place > 0.84 ? "hidden" : "";
    caption.textContent = `${scene.areShares ? "Probability" : "Output"} of “${scene.name(map.target)}” by ${map.asked.regions ? "region covered" : "position of the patch"}; the mark is without ${map.asked.regions ? "any" : "a patch"}${map.notFinite ? "; hatched where the change is not finite" : ""}`;
  });
  return element;
}
