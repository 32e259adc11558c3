// What the brush is like: its size, and whether it adds or erases.
import { h, unique } from "../dom";
import { clamp } from "../geometry";
import type { Scene } from "../scene";
import type { Sketch } from "./sketch";

/** Share of a picture's shorter side that the brush reaches at first, and at most. */
const [USUAL, MOST] = [1 / 24, 1 / 4];
/** How much larger the next size is. */
const STEP = 1.25;

export interface Brushing {
  element: HTMLElement;
  /** Shows the controls while the brush is the tool, in the size that fits the picture. */
  follow: (chosen: boolean) => void;
  /** A key of the brush: `[` and `]` change its size, `x` what it does. Whether the key means anything. */
  hear: (key: string) => boolean;
}

export function brushing(scene: Scene, sketch: Sketch, draw: () => void): Brushing {
  const id = unique("brush");
  const shorter = () => Math.min(...scene.sizes);
  const size = h("input", {
    id,
    type: "range",
    min: 1,
    step: 1,
    "data-brush": "size",
    "data-lm-suppress-shortcuts": "true",
    oninput: () => reach(Number(size.value)),
  });
  const output = h("output", { for: id });
  const erase = h("button", {
    type: "button",
    class: "kr-tool",
    "data-brush": "erase",
    "aria-pressed": "false",
    title: "Take away from the region (x)",
    onclick: () => turn(),
  }, "Erase");
  const reach = (radius: number) => {
    sketch.radius = clamp(Math.round(radius), 1, Math.max(1, Math.round(shorter() * MOST)));
    size.max = String(Math.max(1, Math.round(shorter() * MOST)));
    size.value = String(sketch.radius);
    output.textContent = `${2 * sketch.radius} px`;
    size.setAttribute("aria-valuetext", output.textContent);
    size.style.setProperty("--kr-share", `${(100 * (sketch.radius - 1)) / Math.max(1, Number(size.max) - 1)}%`);
    draw();
  };
  const turn = () => {
    sketch.erases = !sketch.erases;
    erase.setAttribute("aria-pressed", String(sketch.erases));
    draw();
  };
  const element = h(
    "div",
    { class: "kr-brush" },
    h("div", { class: "kr-slider", title: "Width of the brush ([ and ])" }, h("label", { for: id }, "Brush"), output, size),
    erase,
  );
  element.hidden = true;
  let fitted = 0;
  const follow = (chosen: boolean) => {
    element.hidden = !chosen;
    if (!chosen || fitted === shorter()) return;
    fitted = shorter();
    reach(fitted * USUAL);
  };
  const hear = (key: string) => {
    if (key === "[") reach(Math.min(sketch.radius - 1, sketch.radius / STEP));
    else if (key === "]") reach(Math.max(sketch.radius + 1, sketch.radius * STEP));
    else if (key === "x") turn();
    else return false;
    return true;
  };
  return { element, follow, hear };
}
