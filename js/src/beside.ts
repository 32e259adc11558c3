// The map that was kept beside the map of today: with one pointer and one scale, side by side or one over the other.
import { floats, integers, octets } from "./bytes";
import { choice } from "./controls/choice";
import { bitmap, h, type Listening, onRepaint, unique } from "./dom";
import { figure, moves, together } from "./figures";
import type { Place } from "./geometry";
import { type Layout, Regions, Windows } from "./layout";
import { arrived, type Kept, UNKNOWN } from "./messages";
import { drops, tint } from "./paint";
import type { Scene } from "./scene";
import { Section } from "./section";
import { type Beneath, drawAbove, drawBelow, drawColours, outlineCell, type Pane } from "./stage/drawing";
import { BYTES, pyramidOf } from "./stage/pyramid";

/** Pixels of a map's width on its canvas. */
const WIDTH = 640;
/** The share of a wiped picture that is the kept map's at first. */
const HALF = 0.5;

type Manner = "side" | "wipe";

/** One of the two maps, with all that its picture needs. */
interface Side {
  name: string;
  base: number;
  largest: number;
  values: Float32Array;
  status: Uint8Array;
  layout: Layout;
  section: Section;
  through: Place;
  beneath: Beneath;
}

/** The kept map as it was sent, and the picture under it, once that has been read. */
interface Loaded {
  kept: Kept;
  picture: ImageBitmap | null;
  below: Beneath["below"];
  side: Omit<Side, "section" | "through" | "beneath">;
  sections: readonly Section[];
}

function toSide({ name, frame, view }: Kept): Loaded["side"] {
  return {
    name,
    base: frame.base ?? NaN,
    largest: frame.largest,
    values: floats(frame.values),
    status: octets(frame.status),
    layout: view.regions.byteLength ? new Regions(integers(view.regions), view.sizes) : new Windows(frame),
  };
}

/** A place on an image of other sizes. */
export function scaled(place: Place, from: Place, to: Place): Place {
  return place.map((at, axis) => (at * (to[axis] ?? 1)) / (from[axis] ?? 1));
}

export function beside(listening: Listening, scene: Scene, live: boolean): HTMLElement {
  const { model } = listening;
  let loaded: Loaded | null = null;
  let manner: Manner = "side";
  let share = HALF;

  const figures = ["kept", "now"].map((which) => {
    const canvas = h("canvas", { role: "img", "data-beside": which });
    const caption = h("b", {});
    const said = h("span", {});
    return { which, canvas, caption, said, element: h("figure", {}, canvas, h("figcaption", {}, caption, said)) };
  });
  const wiped = h("canvas", { role: "img", "aria-label": "The kept map, and over it this one", "data-beside": "wipe" });
  const id = unique("wipe");
  const range = h("input", {
    id,
    type: "range",
    min: 0,
    max: 100,
    value: 100 * HALF,
    "data-beside": "share",
    "data-lm-suppress-shortcuts": "true",
    oninput: () => {
      share = Number(range.value) / 100;
      draw();
    },
  });
  const shares = h("output", { for: id });
  const wipe = h(
    "div",
    { class: "kr-wipe" },
    wiped,
    h("div", { class: "kr-slider" }, h("label", { for: id }, "Kept map to the left of"), shares, range),
  );
  const pair = h("div", { class: "kr-pair" }, ...figures.map((each) => each.element));
  const manners = choice<Manner>(
    listening,
    "Compare",
    [
      { value: "side", label: "side by side" },
      { value: "wipe", label: "wipe" },
    ],
    () => manner,
    (value) => {
      manner = value;
      draw();
    },
    [],
  );
  const letGo = h("button", { type: "button", class: "kr-link", onclick: () => model.send({ kind: "let go" }) }, "Let go");
  letGo.hidden = !live;
  const note = h("p", { class: "kr-hint" });
  const element = h(
    "section",
    { class: "kr-beside", "aria-label": "Kept map beside this one" },
    h("h3", {}, "Kept map beside this one", letGo),
    manners,
    wipe,
    pair,
    note,
  );

  const sides = (): [Side, Side] | null => {
    const { current: map, layout } = scene;
    const which = scene.pointed;
    const section = scene.sections[which];
    const other = loaded?.sections[which];
    if (!loaded || !map || !layout || !section || !other || !scene.ready) return null;
    const same = loaded.kept.view.sizes.join() === scene.sizes.join();
    const kept: Side = {
      ...loaded.side,
      section: other,
      through: scaled(scene.cross, scene.sizes, loaded.kept.view.sizes),
      beneath: {
        picture: loaded.picture,
        below: loaded.below,
        isVolume: scene.isVolume,
        cells: same ? scene.cells : null,
        levels: scene.levels,
      },
    };
    const now: Side = {
      name: scene.name(map.target),
      base: map.base,
      largest: map.largest,
      values: map.values,
      status: map.status,
      layout,
      section,
      through: scene.cross,
      beneath: scene,
    };
    return [kept, now];
  };

  const draw = onRepaint(() => {
    const found = sides();
    element.hidden = !loaded;
    pair.hidden = !found;
    wipe.hidden = !found || manner !== "wipe";
    manners.hidden = !found;
    if (!loaded) return;
    if (!found) {
      note.textContent = "This one is on its way.";
      return;
    }
    const limit = model.get("scale") === "fixed" ? scene.limit : Math.max(scene.limit, ...found.map((side) => side.largest));
    note.textContent = `Colours of both end at ±${figure(limit)}.`;
    found.forEach((side, i) => {
      const each = figures[i];
      if (!each) return;
      each.caption.textContent = manner === "side" ? side.name : `${i ? "Right" : "Left"}: ${side.name}`;
      each.canvas.setAttribute("aria-label", `${i ? "This map" : "Kept map"}: ${side.name}`);
      each.said.textContent = sayAt(side, placeOn(side));
      each.canvas.hidden = manner !== "side";
      if (manner === "side") paint(each.canvas, side, limit, 0, 1);
    });
    shares.textContent = `${Math.round(100 * share)} %`;
    range.setAttribute("aria-valuetext", shares.textContent);
    range.style.setProperty("--kr-share", shares.textContent.replace(" ", ""));
    if (manner === "wipe") {
      paint(wiped, found[1], limit, 0, 1);
      paint(wiped, found[0], limit, 0, share, true);
    }
  });

  const placeOn = (side: Side): Place | null => scene.place && scaled(scene.place, scene.sizes, side.section.sizes);

  /** Draws a part of a map's width, over what is there or on a new canvas. */
  const paint = (canvas: HTMLCanvasElement, side: Side, limit: number, from: number, to: number, over = false) => {
    const context = canvas.getContext("2d");
    if (!context) return;
    if (!over) {
      canvas.width = WIDTH;
      canvas.height = Math.max(1, Math.round(WIDTH / side.section.aspect));
    }
    const { width, height } = canvas;
    context.save();
    context.beginPath();
    context.rect(from * width, 0, (to - from) * width, height);
    context.clip();
    const pane: Pane = { context, width, height, section: side.section, through: side.through };
    context.clearRect(0, 0, width, height);
    drawBelow(pane, side.beneath, scene.opacity > 0);
    context.imageSmoothingEnabled = false;
    const tints = tint(drops(side.values, side.base), side.status, { limit, table: scene.table, opacity: scene.opacity, threshold: scene.threshold });
    drawColours(pane, tints, side.layout.on(side.section, side.through));
    drawAbove(pane, side.beneath);
    const place = placeOn(side);
    if (place) outlineCell(pane, side.layout, side.layout.at(place), 1.5);
    context.restore();
    if (!over) return;
    context.fillStyle = "#fff";
    context.fillRect(to * width - 1, 0, 2, height);
  };

  const point = (canvas: HTMLCanvasElement, which: 0 | 1) => {
    canvas.addEventListener("pointermove", (event) => {
      const side = sides()?.[which];
      if (!side) return;
      const box = canvas.getBoundingClientRect();
      const at = {
        x: ((event.clientX - box.left) / box.width) * side.section.width,
        y: ((event.clientY - box.top) / box.height) * side.section.height,
      };
      scene.look(scaled(side.section.place(at, side.through), side.section.sizes, scene.sizes));
    });
    canvas.addEventListener("pointerleave", () => scene.look(null));
  };
  figures.forEach(({ canvas }, i) => point(canvas, i ? 1 : 0));
  point(wiped, 1);

  const load = async () => {
    const kept = model.get("_kept");
    if (!arrived(kept)) {
      loaded = null;
      draw();
      return;
    }
    const { view } = kept;
    const picture = view.picture.byteLength ? await bitmap(view.picture) : null;
    if (model.get("_kept") !== kept) return;
    const sections = view.planes.map((plane) => new Section(plane, view.sizes, view.spacing));
    const below = picture && { pyramid: pyramidOf(picture), levels: BYTES };
    loaded = { kept, picture, below, side: toSide(kept), sections };
    draw();
  };
  listening.to(["_kept"], () => void load());
  scene.watch(draw);
  return element;
}

/** What covering a place does, in words. */
function sayAt({ base, values, status, layout }: Side, place: Place | null): string {
  const cell = place && layout.at(place);
  if (cell === null || (status[cell] ?? UNKNOWN) === UNKNOWN) return figure(base);
  const value = values[cell] ?? NaN;
  const [[before, after] = [], [fall] = []] = together([base, value], [base - value]);
  return `${before} → ${after}, ${moves(base - value, fall).join(" ")}`;
}
