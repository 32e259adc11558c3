// Magnifying and moving a section: by wheel, by two fingers, by double click, by dragging, by keys.
import type { Point } from "../geometry";
import { shareOf } from "./listening";
import type { Viewport } from "./viewport";

/** How much a key magnifies, and a double click; and one pixel of a wheel. */
const [KEY, CLICK, WHEEL] = [1.5, 4, 1.0025];
/** Pixels that a pointer moves by before that is no click any more. */
const SLACK = 4;
/** Share of the canvas that a key moves by. */
const STEP = 0.15;

const WAYS: Partial<Record<string, readonly [number, number]>> = {
  ArrowUp: [0, STEP],
  ArrowDown: [0, -STEP],
  ArrowLeft: [STEP, 0],
  ArrowRight: [-STEP, 0],
};

/** Magnifies by +, - and 0, moves by Alt and arrow keys. Whether the key means anything. */
export function zoomKey(event: KeyboardEvent, part: Viewport): boolean {
  const way = WAYS[event.key];
  if (way && event.altKey) part.drag(...way);
  else if (event.key === "+" || event.key === "=") part.magnify(KEY);
  else if (event.key === "-") part.magnify(1 / KEY);
  else if (event.key === "0") part.reset();
  else return false;
  return true;
}

/** Listens to the pointer; `moved` says whether it has dragged the picture since it was pressed. */
export function listenToZoom(
  canvas: HTMLCanvasElement,
  part: Viewport,
  turnsSlices: boolean,
  drags: () => boolean,
  draw: () => void,
): { readonly moved: boolean } {
  const fingers = new Map<number, Point>();
  const state = { moved: false };
  let pressed: Point | null = null;
  const middle = (points: readonly Point[]): Point => ({
    x: points.reduce((sum, { x }) => sum + x, 0) / points.length,
    y: points.reduce((sum, { y }) => sum + y, 0) / points.length,
  });
  const apart = ([a, b]: readonly Point[]) => (a && b ? Math.max(1e-3, Math.hypot(a.x - b.x, a.y - b.y)) : 1);
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, shareOf(canvas, event));
    pressed = { x: event.clientX, y: event.clientY };
    state.moved = false;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!fingers.size) state.moved = false;
    const from = fingers.get(event.pointerId);
    if (!from || !drags()) return;
    const to = shareOf(canvas, event);
    const before = [...fingers.values()];
    if (fingers.size === 1 && (part.whole || (!state.moved && pressed && Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) < SLACK))) return;
    fingers.set(event.pointerId, to);
    const after = [...fingers.values()];
    state.moved = true;
    canvas.setPointerCapture(event.pointerId);
    if (fingers.size > 1) part.magnify(apart(after) / apart(before), middle(before));
    const [was, is] = [middle(before), middle(after)];
    part.drag(is.x - was.x, is.y - was.y);
    draw();
  });
  for (const end of ["pointerup", "pointercancel", "pointerleave"] as const) {
    canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }
  canvas.addEventListener("dblclick", (event) => {
    if (!drags()) return;
    if (part.whole) part.magnify(CLICK, shareOf(canvas, event));
    else part.reset();
    draw();
  });
  canvas.addEventListener("wheel", (event) => {
    // A wheel that only passes over the map scrolls the page; a pinch on a touchpad comes with the control key.
    const pinched = event.ctrlKey || event.metaKey;
    if (!pinched && (turnsSlices || (part.whole && document.activeElement !== canvas))) return;
    const pixels = event.deltaMode ? 30 * event.deltaY : event.deltaY;
    if (!pinched && part.whole && pixels > 0) return;
    event.preventDefault();
    part.magnify((pinched ? WHEEL ** 3 : WHEEL) ** -pixels, shareOf(canvas, event));
    draw();
  });
  return state;
}
