// Approximate, exact and their difference side by side, with what each cost.
import { floats } from "./bytes";
import { h, type Listening, onRepaint } from "./dom";
import { Windows } from "./layout";
import { figure } from "./figures";
import { arrived, type Comparison, EXACT } from "./messages";
import { backdrop, drops, overlay, sheet } from "./paint";
import type { Scene } from "./scene";
import { cut, faster, percent, seconds } from "./words";

/** The maps side by side, in their order. */
const NAMES = ["Approximate", "Exact", "Difference"] as const;

/** One of the maps: the drop at every cell, and how it was measured. */
interface Panel {
  note: string;
  drops: Float32Array;
}

/** A measured number: a name for style sheets and tests, then what a reader sees. */
interface Figure {
  key: string;
  term: string;
  value: string;
  note: string;
}

/** By name as in `NAMES`. */
function panelsOf(c: Comparison): Panel[] {
  const [approximate, exact] = [floats(c.approximate), floats(c.exact)];
  const error = exact.map((value, i) => value - (approximate[i] ?? 0));
  const largest = error.reduce((most, e) => (Number.isFinite(e) ? Math.max(most, Math.abs(e)) : most), 0);
  const base = c.base ?? NaN;
  return [
    {
      note: `${percent(c.measured / c.positions)} of the positions, ${seconds(c.seconds)}`,
      drops: drops(approximate, base),
    },
    { note: `every position, ${seconds(c.exactSeconds)}`, drops: drops(exact, base) },
    { note: `same colours; at most ${figure(largest)}`, drops: error },
  ];
}

function figuresOf(c: Comparison, running: boolean): Figure[] {
  const ours = faster(c.speedUp);
  return [
    { key: "ssim", term: "SSIM", value: c.ssim === null ? "–" : cut(c.ssim, 3), note: similarity(c) },
    {
      key: "share",
      term: "positions computed",
      value: percent(c.measured / c.positions),
      note: `${c.measured} of ${c.positions}`,
    },
    { key: "exact", term: "against our exact map", value: ours.times, note: `${ours.word}, measured` },
    { key: "full", term: "against full inference", ...againstFull(c, running) },
  ];
}

function similarity(c: Comparison): string {
  if (c.ssim === null) return "undefined where a map is not finite";
  const expected = c.estimate ? `, ${cut(c.estimate.value, 2)} expected` : "";
  return `measured${expected}; target ${c.ssimTarget.toFixed(2)} ${c.ssim >= c.ssimTarget ? "met" : "not met"}`;
}

function againstFull(c: Comparison, running: boolean): Pick<Figure, "value" | "note"> {
  if (c.fullSpeedUp === null) return { value: "…", note: running ? "being timed" : "not timed" };
  const [approximate, exact] = [faster(c.fullSpeedUp), faster(c.fullSpeedUpExact ?? 1)];
  const full = seconds(c.fullSeconds ?? 0);
  return {
    value: approximate.times,
    note: `${approximate.word}, estimated: ${full} from timed passes; exact ${exact.times} ${exact.word}`,
  };
}

/** Draws a map over the picture, twice as large as the input. */
function drawPanel(canvas: HTMLCanvasElement, panel: Panel, c: Comparison, scene: Scene): void {
  const { height, width, picture } = scene;
  const context = canvas.getContext("2d");
  if (!context || !picture) return;
  [canvas.height, canvas.width] = [2 * height, 2 * width];
  backdrop(context, picture, scene.opacity > 0);
  context.imageSmoothingEnabled = false;
  const all = new Uint8Array(c.rows * c.columns).fill(EXACT);
  const pixels = overlay(panel.drops, all, new Windows(c, scene).cells, scene, scene);
  context.drawImage(sheet(pixels, height, width), 0, 0, canvas.width, canvas.height);
}

export function compare(listening: Listening, scene: Scene): HTMLElement {
  const panels = NAMES.map((name) => {
    const canvas = h("canvas", { role: "img", "aria-label": `${name} map`, "data-panel": name.toLowerCase() });
    const note = h("small", {});
    return { canvas, note, element: h("figure", {}, canvas, h("figcaption", {}, h("b", {}, name), note)) };
  });
  const figures = h("dl", { class: "kr-figures" });
  const section = h(
    "section",
    { class: "kr-compare", "aria-label": "Approximate beside exact" },
    h("h3", {}, "Approximate beside exact"),
    h("div", { class: "kr-panels" }, ...panels.map((panel) => panel.element)),
    figures,
  );
  const draw = onRepaint(() => {
    const c = listening.model.get("_comparison");
    const map = scene.current;
    const there = arrived(c) && map !== null && c.target === map.target && !scene.waiting;
    section.hidden = !there;
    if (!there || !scene.picture) return;
    panelsOf(c).forEach((panel, i) => {
      const place = panels[i];
      if (!place) return;
      drawPanel(place.canvas, panel, c, scene);
      place.note.textContent = panel.note;
    });
    figures.replaceChildren(
      ...figuresOf(c, listening.model.get("running")).map(({ key, term, value, note }) =>
        h("div", { "data-figure": key }, h("dt", {}, term), h("dd", {}, h("b", {}, value), h("small", {}, note))),
      ),
    );
  });
  listening.to(["_comparison", "running"], draw);
  scene.watch(draw);
  return section;
}
