// The maps of this page so far, each with its settings: to go back to, and to begin anew.
import { h, type Listening, onRepaint } from "./dom";
import { octets } from "./bytes";
import type { Asked, Map, Model, State } from "./messages";
import { superpixels } from "./partition";
import type { Scene } from "./scene";
import { drawAbove, drawBelow, drawColours } from "./stage/drawing";

/** Maps that are shown; the oldest go. */
const MOST = 16;
/** Pixels of a small map's width. */
const WIDTH = 112;

/** The controls that begin anew, with those of the look. */
const CONTROLS = [
  "window", "stride", "regions", "baseline", "exact", "ssim_target", "region", "image_index", "target", "covered",
  "curve", "opacity", "colormap", "scale", "limit", "overlay", "threshold", "dots",
] as const satisfies readonly (keyof State)[];

interface Earlier {
  asked: Asked;
  element: HTMLElement;
}

/** Settings as a text that no others have. */
export function keyOf(asked: Asked): string {
  return JSON.stringify(asked, (_, value: unknown) => (value instanceof DataView ? octets(value).join("") : value));
}

/** The settings of a map in two lines: what it explains, and how. */
export function describeAsked(asked: Asked, name: string, images: readonly string[]): [string, string] {
  const cover = asked.baseline.replace("given: ", "");
  const parts =
    asked.regions === null
      ? `${asked.window}/${asked.stride} ${cover}`
      : `${typeof asked.regions === "string" ? `${superpixels(asked.regions)} superpixels` : "regions"}, ${cover}`;
  const whole = asked.regions !== null || asked.exact === true || (asked.ssim_target ?? 1) >= 1;
  const how = whole ? "exact" : `similarity ${asked.ssim_target}`;
  const file = images[asked.image_index] ?? "";
  const image = images.length > 1 ? `, ${file === "" ? `image ${asked.image_index + 1}` : file}` : "";
  return [name, `${parts}, ${how}${asked.region ? ", in a region" : ""}${image}`];
}

/** Sets all the controls that settings hold; what the user gave comes back where the page still has it. */
function restore(model: Model, settings: Partial<State>): void {
  for (const [name, value] of Object.entries(settings)) model.set(name as keyof State, value);
  model.save_changes();
}

/** Settings as controls. */
function controlsOf(asked: Asked): Partial<State> {
  const baseline = asked.baseline.startsWith("given: ") ? { given: asked.baseline } : asked.baseline;
  return { ...asked, baseline };
}

export function strip(listening: Listening, scene: Scene): HTMLElement {
  const { model } = listening;
  const first = Object.fromEntries(CONTROLS.map((name) => [name, model.get(name)]));
  const earlier: Earlier[] = [];
  let at = -1;
  const row = h("div", { class: "kr-maps", role: "group", "aria-label": "Earlier maps" });
  const keep = h(
    "button",
    { type: "button", "data-do": "keep", title: "Show this map beside those to come", onclick: () => model.send({ kind: "keep" }) },
    "Keep this map",
  );
  const undo = h(
    "button",
    {
      type: "button",
      "data-do": "undo",
      title: "Back to the map before",
      onclick: () => {
        const before = earlier[at - 1];
        if (before) restore(model, controlsOf(before.asked));
      },
    },
    "Undo",
  );
  const reset = h(
    "button",
    { type: "button", "data-do": "reset", title: "All controls as they were at first", onclick: () => restore(model, first) },
    "Reset",
  );
  const element = h("section", { class: "kr-earlier", "aria-label": "Maps so far" }, h("div", {}, keep, undo, reset), row);

  const note = (map: Map): number => {
    const key = keyOf(map.asked);
    const known = earlier.findIndex(({ asked }) => keyOf(asked) === key);
    if (known >= 0) return known;
    const [name, how] = describeAsked(map.asked, scene.name(map.target), model.get("_image_names"));
    const canvas = h("canvas", {});
    draw(canvas, scene);
    const button = h(
      "button",
      { type: "button", title: `${name}: ${how}`, onclick: () => restore(model, controlsOf(map.asked)) },
      canvas,
      h("b", {}, name),
      h("small", {}, how),
    );
    earlier.push({ asked: map.asked, element: button });
    if (earlier.length > MOST) earlier.shift();
    row.replaceChildren(...earlier.map((each) => each.element));
    row.scrollLeft = row.scrollWidth;
    return earlier.length - 1;
  };
  const follow = onRepaint(() => {
    const { current: map, waiting, ready } = scene;
    keep.disabled = !map;
    if (!map?.finished || waiting || !ready || !scene.tints) return;
    at = note(map);
    earlier.forEach((each, i) => each.element.setAttribute("aria-pressed", String(i === at)));
    undo.disabled = at < 1;
    row.hidden = earlier.length < 2;
  });
  [undo.disabled, row.hidden] = [true, true];
  scene.watch(follow);
  return element;
}

/** A small picture of the map on the page. */
function draw(canvas: HTMLCanvasElement, scene: Scene): void {
  const [section] = scene.sections;
  const context = canvas.getContext("2d");
  if (!section || !context || !scene.layout || !scene.tints) return;
  canvas.width = WIDTH;
  canvas.height = Math.max(1, Math.round(WIDTH / section.aspect));
  const pane = { context, section, through: scene.cross, width: canvas.width, height: canvas.height };
  drawBelow(pane, scene, true);
  context.imageSmoothingEnabled = false;
  drawColours(pane, scene.tints, scene.layout.on(section, scene.cross));
  drawAbove(pane, scene);
}
