// What the stage hears: pointing, pinning and drawing a region, by pointer or by keyboard.
import type { Point } from "../geometry";
import type { Layout } from "../layout";
import type { Scene } from "../scene";
import type { Sketch } from "./sketch";

/** What the stage does in answer. */
interface Actions {
  draw: () => void;
  /** Asks for the region that was drawn, and clears the sketch. */
  apply: () => void;
  giveUp: () => void;
  /** Pins a place; of regions, covers the one there together with those chosen before, or uncovers it. */
  choose: (at: Point) => void;
}

/** Rows and columns that a key moves by. */
const STEPS: Partial<Record<string, readonly [number, number]>> = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};
/** How many cells a step is with the shift key held. */
const FAR = 4;

/** Listens to the pointer; a region can only be drawn where there is a kernel to measure it (`live`). */
export function listenToPointer(
  canvas: HTMLCanvasElement,
  scene: Scene,
  sketch: Sketch,
  live: boolean,
  { draw, apply, giveUp, choose }: Actions,
): void {
  const point = (event: MouseEvent): Point => {
    const box = canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * scene.width,
      y: ((event.clientY - box.top) / box.height) * scene.height,
    };
  };
  canvas.addEventListener("pointermove", (event) => {
    const at = point(event);
    if (sketch.tool === "look") scene.look(at);
    else if (sketch.from) sketch.extend(at);
    draw();
  });
  canvas.addEventListener("pointerdown", (event) => {
    if (sketch.tool === "look" || !live) return;
    canvas.setPointerCapture(event.pointerId);
    sketch.begin(point(event));
    draw();
  });
  canvas.addEventListener("pointerup", () => {
    if (sketch.tool !== "look" && sketch.from) apply();
  });
  canvas.addEventListener("pointercancel", giveUp);
  canvas.addEventListener("pointerleave", () => scene.look(null));
  canvas.addEventListener("click", (event) => {
    if (sketch.tool === "look") choose(point(event));
  });
}

/** Listens to the keys; `say` says aloud what is under the cell looked at. */
export function listenToKeys(
  canvas: HTMLCanvasElement,
  scene: Scene,
  sketch: Sketch,
  { draw, apply, giveUp, choose, say }: Actions & { say: () => void },
): void {
  canvas.addEventListener("keydown", (event) => {
    const layout = scene.current && scene.layout;
    if (!layout) return;
    const cell = scene.cell ?? layout.middle;
    const step = STEPS[event.key];
    if (step) {
      const far = event.shiftKey ? FAR : 1;
      scene.move(layout.centre(scene.cell === null ? cell : layout.moved(cell, far * step[0], far * step[1])));
      if (sketch.tool === "rectangle" && sketch.from) sketch.extend(middle(layout, scene.cell ?? cell));
    } else if (event.key === "Enter") {
      if (sketch.tool === "look") {
        if (scene.cell !== null) choose(layout.centre(cell));
      } else if (sketch.tool === "brush" || sketch.from) apply();
      else sketch.begin(middle(layout, cell));
    } else if (event.key === " " && sketch.tool === "brush") sketch.extend(middle(layout, cell));
    else if (event.key === "Escape") {
      giveUp();
      if (scene.pinned) scene.pin(null);
    } else return;
    event.preventDefault();
    event.stopPropagation();
    say();
    draw();
  });
}

/** The middle of the pixels that the covering of a cell lies in. */
function middle(layout: Layout, cell: number): Point {
  const box = layout.box(cell);
  return { x: (box.left + box.right) / 2, y: (box.top + box.bottom) / 2 };
}
