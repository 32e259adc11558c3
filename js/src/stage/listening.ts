// What the stage hears: pointing, pinning and drawing a region, moving slices and greys, by pointer or by keyboard.
import type { Levels } from "../cells";
import type { Place, Point } from "../geometry";
import type { Layout } from "../layout";
import type { Scene } from "../scene";
import type { Section } from "../section";
import type { Sketch } from "./sketch";
import type { Viewport } from "./viewport";
import { fill } from "./viewing";
import { listenToZoom, zoomKey } from "./zooming";

/** What the stage does in answer. */
interface Actions {
  draw: () => void;
  /** Asks for the region that was drawn, and clears the sketch. */
  apply: () => void;
  giveUp: () => void;
  /** Pins a place, or meets in it; of regions, covers the one there together with those chosen before, or uncovers it. */
  choose: (at: Place) => void;
}

interface KeyActions extends Actions {
  /** Says aloud what is under the cell looked at. */
  say: () => void;
  /** A key of the brush; whether it means anything. */
  brush: (key: string) => boolean;
}

/** Rows, columns and slices that a key moves by. */
const STEPS: Partial<Record<string, readonly [number, number, number]>> = {
  ArrowUp: [-1, 0, 0],
  ArrowDown: [1, 0, 0],
  ArrowLeft: [0, -1, 0],
  ArrowRight: [0, 1, 0],
  PageUp: [0, 0, 1],
  PageDown: [0, 0, -1],
};
/** How many cells a step is with the shift key held. */
const FAR = 4;
/** Pixels that a wheel turns by for the next slice. */
const NOTCH = 30;
/** Pixels that the pointer is dragged by for another level or a window three times as wide; and those that a key counts as. */
const [DRAGGED, KEY] = [150, 8];

/** Levels moved by pixels: to the right the window is wider, upwards all is brighter. */
export function dragged([black, white]: Levels, right: number, down: number): Levels {
  const width = (white - black) * 3 ** (right / DRAGGED);
  const middle = (black + white) / 2 + ((white - black) * down) / DRAGGED;
  return [middle - width / 2, middle + width / 2];
}

/** Listens to the pointer; a region can only be drawn where there is a kernel to measure it (`live`). */
export function listenToPointer(
  canvas: HTMLCanvasElement,
  section: Section,
  scene: Scene,
  sketch: Sketch,
  part: Viewport,
  live: boolean,
  { draw, apply, giveUp, choose }: Actions,
): void {
  let held: { x: number; y: number; levels: Levels } | null = null;
  let turned = 0;
  const point = (event: MouseEvent): Point => {
    const { x, y } = part.place(shareOf(canvas, event));
    return { x: x * section.width, y: y * section.height };
  };
  const zooming = listenToZoom(canvas, part, section.plane.across !== null, () => sketch.tool === "look", draw);
  const place = (event: MouseEvent) => section.place(point(event), scene.cross);
  canvas.addEventListener("pointermove", (event) => {
    scene.pointed = scene.sections.indexOf(section);
    if (zooming.moved) return;
    if (held) scene.show(dragged(held.levels, event.clientX - held.x, event.clientY - held.y));
    else if (sketch.tool === "look") scene.look(place(event));
    else if (sketch.tool === "brush") sketch.cursor = point(event);
    if (sketch.tool !== "look" && sketch.from) sketch.extend(point(event), section);
    draw();
  });
  canvas.addEventListener("pointerdown", (event) => {
    if (sketch.tool === "levels") held = { x: event.clientX, y: event.clientY, levels: scene.levels };
    else if (sketch.tool !== "look" && live) sketch.begin(point(event), section, scene.region);
    else return;
    canvas.setPointerCapture(event.pointerId);
    draw();
  });
  canvas.addEventListener("pointerup", () => {
    held = null;
    if (sketch.tool !== "look" && sketch.from) apply();
  });
  canvas.addEventListener("pointercancel", () => {
    held = null;
    giveUp();
  });
  canvas.addEventListener("pointerleave", () => {
    sketch.cursor = null;
    scene.look(null);
    draw();
  });
  canvas.addEventListener("click", (event) => {
    if (sketch.tool === "look" && !zooming.moved) choose(place(event));
  });
  canvas.addEventListener("dblclick", () => {
    if (sketch.tool === "levels") scene.show(null);
  });
  if (section.plane.across === null) return;
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) return; // magnifies
    event.preventDefault();
    turned += event.deltaMode ? event.deltaY * NOTCH : event.deltaY;
    const slices = -Math.trunc(turned / NOTCH);
    if (slices) step(scene, section.steps(0, 0, slices));
    turned %= NOTCH;
  });
}

/** Listens to the keys; `say` says aloud what is under the cell looked at. */
export function listenToKeys(
  canvas: HTMLCanvasElement,
  section: Section,
  scene: Scene,
  sketch: Sketch,
  part: Viewport,
  actions: KeyActions,
): void {
  const { draw, say } = actions;
  canvas.addEventListener("keydown", (event) => {
    scene.pointed = scene.sections.indexOf(section);
    const heard = section.plane.across === null ? hearFlat : hearVolume;
    if (hearLook(event, scene, part, sketch)) {
      // Nothing else moves.
    } else if (!heard(event, section, scene, sketch, actions)) return;
    else if (scene.place && !part.whole) {
      const { x, y } = section.point(scene.place);
      part.show({ x: x / section.width, y: y / section.height });
    }
    event.preventDefault();
    event.stopPropagation();
    say();
    draw();
  });
}

/** A place on a canvas, in shares of its width and height. */
export function shareOf(canvas: HTMLCanvasElement, { clientX, clientY }: { clientX: number; clientY: number }): Point {
  const box = canvas.getBoundingClientRect();
  return { x: (clientX - box.left) / box.width, y: (clientY - box.top) / box.height };
}

/** A key that moves or changes what is seen, and nothing else. Whether it means anything. */
function hearLook(event: KeyboardEvent, scene: Scene, part: Viewport, sketch: Sketch): boolean {
  if (event.ctrlKey || event.metaKey) return false;
  const by = STEPS[event.key];
  if (event.key === "h") scene.hide(!scene.hidden);
  else if (event.key === "f") fill((event.currentTarget as Element).closest(".krypton-explorer"));
  else if (by && !by[2] && sketch.tool === "levels") scene.show(dragged(scene.levels, KEY * by[1], KEY * by[0]));
  else if (event.key === "Enter" && sketch.tool === "levels") scene.show(null);
  else return zoomKey(event, part);
  return true;
}

/** A key on a picture or a signal: from cell to cell of the map. Whether it means anything. */
function hearFlat(event: KeyboardEvent, section: Section, scene: Scene, sketch: Sketch, actions: KeyActions): boolean {
  const { apply, giveUp, choose, brush } = actions;
  if (sketch.tool === "brush" && brush(event.key)) return true; // whatever the map is
  const layout = scene.current && scene.layout;
  if (!layout) return false;
  const cell = scene.cell ?? layout.middle;
  const by = STEPS[event.key];
  if (by && !by[2]) {
    const far = event.shiftKey ? FAR : 1;
    scene.move(layout.centre(scene.cell === null ? cell : layout.moved(cell, section.steps(far * by[0], far * by[1]))));
    const at = middle(layout, scene.cell ?? cell, section);
    if (sketch.tool === "rectangle" && sketch.from) sketch.extend(at, section);
    if (sketch.tool === "brush") sketch.cursor = at;
  } else if (event.key === "Enter") {
    if (sketch.tool === "look") {
      if (scene.cell !== null) choose(layout.centre(cell));
    } else if (sketch.tool === "brush" || sketch.from) apply();
    else sketch.begin(middle(layout, cell, section), section, scene.region);
  } else if (event.key === " " && sketch.tool === "brush") {
    if (sketch.painted) sketch.extend(middle(layout, cell, section), section);
    else sketch.begin(middle(layout, cell, section), section, scene.region);
  } else if (event.key === "Escape") {
    giveUp();
    if (scene.pinned) scene.pin(null);
  } else return false;
  return true;
}

/** A key on a section of a volume: from voxel to voxel. Whether it means anything. */
function hearVolume(event: KeyboardEvent, section: Section, scene: Scene, sketch: Sketch, actions: Actions): boolean {
  const { apply, giveUp, choose } = actions;
  const by = STEPS[event.key];
  if (by) {
    const far = event.shiftKey ? FAR : 1;
    step(scene, section.steps(far * by[0], far * by[1], far * by[2]));
    if (sketch.tool === "rectangle" && sketch.section === section) sketch.extend(section.point(scene.cross), section);
  } else if (event.key === "Enter") {
    if (sketch.tool === "look") choose(scene.cross);
    else if (sketch.from) apply();
    else sketch.begin(section.point(scene.cross), section, scene.region);
  } else if (event.key === "Escape") giveUp();
  else return false;
  return true;
}

/** Moves the cross-hairs by voxels. */
function step(scene: Scene, steps: Place): void {
  scene.meet(scene.cross.map((at, axis) => at + (steps[axis] ?? 0)));
}

/** The middle of the pixels that the covering of a cell lies in. */
function middle(layout: Layout, cell: number, section: Section): Point {
  const { top, left, bottom, right } = section.box(layout.box(cell));
  return { x: (left + right) / 2, y: (top + bottom) / 2 };
}
