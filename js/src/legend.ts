// The scale of the colours beside the map, with how often each change occurs; and what is to be read from it, in words.
import { h, type Listening } from "./dom";
import { atMost, figure, figures } from "./figures";
import { sayFlips } from "./flips";
import { type Map, UNKNOWN } from "./messages";
import { composed, reach } from "./paint";
import type { Scene } from "./scene";

/** Pixels of the scale's drawing, whose columns are the greys of the picture below; and bins of the histogram. */
const [COLUMNS, ROWS, BINS] = [16, 160, 32];

/** How many values lie in each of some bins, from the first number to the last. */
export function histogram(values: ArrayLike<number>, from: number, to: number, bins: number): number[] {
  const counts = Array<number>(bins).fill(0);
  for (const value of Array.from(values)) {
    const bin = Math.min(bins - 1, Math.floor(((value - from) / (to - from || 1)) * bins));
    if (bin >= 0) counts[bin] = (counts[bin] ?? 0) + 1;
  }
  return counts;
}

/** Outputs with the patch on, from where they fall most, above, to where they rise most. */
export function legend(scene: Scene): HTMLElement {
  const bar = h("canvas", { class: "kr-bar", width: COLUMNS, height: ROWS });
  const mark = h("i", { class: "kr-mark" });
  const plot = h("div", { class: "kr-histogram", role: "img" });
  const [low, middle, high] = [h("span", {}), h("span", { class: "kr-base" }), h("span", {})];
  const ends = h("div", { class: "kr-ends" }, low, middle, high);
  const [important, against] = [h("b", {}, "important"), h("b", {}, "speaks against")];
  const scale = h("div", { class: "kr-bar-box" }, bar, mark);
  const element = h("div", { class: "kr-legend" }, important, h("div", { class: "kr-scale" }, ends, scale, plot), against);
  let drawn: unknown[] = [];
  scene.watch(() => {
    const { map, limit, opacity, threshold, areShares } = scene;
    const there = map !== null && Number.isFinite(map.base);
    element.style.visibility = there ? "" : "hidden"; // the map has its place from the beginning
    if (!there) return;
    // A place that is pointed at changes nothing here.
    const now = [map, limit, opacity, threshold, scene.model.get("colormap"), areShares];
    if (now.every((value, i) => value === drawn[i])) return;
    drawn = now;
    const [from, to] = reach(map.base, limit, areShares);
    const context = bar.getContext("2d");
    const drops = Float32Array.from({ length: ROWS }, (_, row) => map.base - (from + ((row + 0.5) / ROWS) * (to - from)));
    if (context) context.putImageData(new ImageData(composed(drops, COLUMNS, scene), COLUMNS, ROWS), 0, 0);
    const place = (map.base - from) / Math.max(1e-12, to - from);
    for (const part of [mark, middle]) part.style.top = `${100 * place}%`;
    middle.style.translate = `0 -${100 * place}%`; // so that it never leaves the bar
    const written = figures([from, map.base, to]);
    [low, middle, high].forEach((end, i) => (end.textContent = written[i] ?? ""));
    low.style.visibility = place < 0.1 ? "hidden" : "";
    high.style.visibility = place > 0.9 ? "hidden" : "";
    against.hidden = place > 0.98;
    const counts = histogram(map.values.filter((_, i) => map.status[i] !== UNKNOWN), from, to, BINS);
    const most = Math.max(1, ...counts.map(Math.sqrt));
    const bars = counts.map((count, i) => `M0 ${i + 0.5}H${(20 * Math.sqrt(count)) / most}`).join("");
    plot.innerHTML = `<svg viewBox="0 0 20 ${BINS}" preserveAspectRatio="none"><path d="${bars}"/></svg>`;
    plot.setAttribute("aria-label", `Histogram of the values, ${written[0]} to ${written[2]}`);
  });
  return element;
}

/** What the colours are of, and what they say. */
export function reading(listening: Listening, scene: Scene): HTMLElement {
  const [caption, nothing, flips] = [h("p", {}), h("p", { class: "kr-nothing" }), h("p", { class: "kr-flips" })];
  const key = h("i", { class: "kr-dashes" });
  const say = () => {
    const { map, current } = scene;
    caption.textContent = map ? sayColours(map, scene) : "";
    nothing.textContent = current ? sayNothing(current, scene) : "";
    const words = current && scene.flips ? sayFlips(scene.flips, (target) => scene.name(target), !!current.asked.regions) : "";
    flips.hidden = !words || scene.probabilities.length < 2;
    flips.replaceChildren(...(scene.flips?.count ? [key] : []), words);
    nothing.hidden = !nothing.textContent;
  };
  listening.to(["_class_names"], say);
  scene.watch(say);
  return h("div", { class: "kr-says" }, nothing, flips, caption);
}

function sayColours(map: Map, scene: Scene): string {
  const { regions } = map.asked;
  const of = `${scene.areShares ? "Probability" : "Output"} of “${scene.name(map.target)}”`;
  const strange = map.notFinite ? "; hatched where the change is not finite" : "";
  return `${of} by ${regions ? "region covered" : "position of the patch"}; the mark is without ${regions ? "any" : "a patch"}${strange}.`;
}

/** A sentence on a map in which hardly anything changes; empty of others. */
export function sayNothing(map: Map, { areShares }: Pick<Scene, "areShares">): string {
  if (!areShares || !map.coarse || !(map.largest < map.least)) return "";
  const what = map.asked.regions ? "region" : "patch";
  return map.largest
    ? `No ${what}${map.finished ? "" : " so far"} changes this by more than ${atMost(map.largest)}; the colours end at ${figure(map.least)}.`
    : `No ${what}${map.finished ? "" : " so far"} changes this at all.`;
}
