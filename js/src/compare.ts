// Approximate, exact and their difference side by side, with what each cost.
import { floats } from "./bytes";
import { h, type Listening, onRepaint } from "./dom";
import { Windows } from "./layout";
import { figure } from "./figures";
import { arrived, type Comparison, EXACT } from "./messages";
import { drops, tint } from "./paint";
import type { Scene } from "./scene";
import type { Section } from "./section";
import { drawAbove, drawBelow, drawColours } from "./stage/drawing";
import { cut, faster, percent, seconds } from "./words";

/** The maps side by side, in their order. */
const NAMES = ["Approximate", "Exact", "Difference"] as const;

/** Pixels of a signal's width. */
const WIDTH = 640;
/** Pixels between sections. */
const GAP = 8;

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
    { key: "ssim", term: "similarity to the exact map", value: c.ssim === null ? "–" : cut(c.ssim, 3), note: similarity(c) },
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

/** Pixels of a section: twice as many as it has cells, as far as these are its pixels. */
function sizeOf({ aspect, plane, width, height }: Section): { width: number; height: number } {
  if (plane.down !== null && plane.across === null) return { width: 2 * width, height: 2 * height };
  const pixels = plane.down === null ? WIDTH : Math.max(WIDTH / 2, 2 * width);
  return { width: pixels, height: Math.round(pixels / aspect) };
}

/** The places of sections on a canvas: of a volume the second lies below the first, and the third beside that. */
function placesOf(sections: readonly Section[]): { x: number; y: number; width: number; height: number }[] {
  const [first, , third] = sections;
  if (!first) return [];
  const size = sizeOf(first);
  if (!third) return [{ x: 0, y: 0, ...size }];
  return sections.map((section, i) => {
    const width = (size.width * section.broad) / first.broad;
    return { x: i === 2 ? size.width + GAP : 0, y: i ? size.height + GAP : 0, width, height: width / section.aspect };
  });
}

/** Draws a map over the image. */
function drawPanel(canvas: HTMLCanvasElement, panel: Panel, c: Comparison, scene: Scene): void {
  const context = canvas.getContext("2d");
  if (!context || !scene.ready) return;
  const places = placesOf(scene.sections);
  canvas.width = Math.round(Math.max(...places.map(({ x, width }) => x + width)));
  canvas.height = Math.round(Math.max(...places.map(({ y, height }) => y + height)));
  const layout = new Windows(c);
  const tints = tint(panel.drops, new Uint8Array(panel.drops.length).fill(EXACT), scene);
  scene.sections.forEach((section, i) => {
    const place = places[i];
    if (!place) return;
    const pane = { context, section, through: scene.cross, ...place };
    context.setTransform(1, 0, 0, 1, place.x, place.y);
    drawBelow(pane, scene, scene.opacity > 0);
    context.imageSmoothingEnabled = false;
    drawColours(pane, tints, layout.on(section, scene.cross));
    drawAbove(pane, scene);
  });
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
  let drawn: unknown[] = [];
  const draw = onRepaint(() => {
    const c = listening.model.get("_comparison");
    const map = scene.current;
    const there = arrived(c) && map !== null && c.target === map.target && !scene.waiting;
    section.hidden = !there;
    if (!there || !scene.ready) return;
    // A place that is pointed at changes nothing here.
    const now = [c, scene.below?.pyramid, scene.limit, scene.threshold, scene.opacity, scene.model.get("colormap"), scene.cross, scene.levels];
    if (now.some((value, i) => value !== drawn[i])) {
      drawn = now;
      panelsOf(c).forEach((panel, i) => {
        const place = panels[i];
        if (!place) return;
        drawPanel(place.canvas, panel, c, scene);
        place.note.textContent = panel.note;
      });
    }
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
