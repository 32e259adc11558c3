// The toolbar: what the pointer and the keys do on the stage.
import { h, type Listening, set } from "../dom";
import type { Scene } from "../scene";
import type { Tool } from "./sketch";

/** A tool; labels and words of help by the image's number of axes, for those that have the tool. */
interface Offer {
  name: Tool;
  label: Partial<Record<number, string>>;
  help: Partial<Record<number, string>>;
  /** Whether a kernel has to measure what the tool asks for. */
  asks: boolean;
}

const ZOOM = "Double click, a pinch, + and - zoom, 0 shows all, Alt and arrow keys move; h hides the map, f fills the screen.";
const CELLS = `Arrow keys move from cell to cell, Enter pins. ${ZOOM}`;
const SLICES = `Click where the views shall meet; the wheel turns slices. Arrow keys move the cross-hairs, Page Up and Page Down the slice. ${ZOOM}`;

const LEVELS = "Drag up to brighten, to the left for contrast; or arrow keys. Double click or Enter resets.";

const TOOLS: readonly Offer[] = [
  { name: "look", label: { 1: "Inspect", 2: "Inspect", 3: "Inspect" }, help: { 1: CELLS, 2: CELLS, 3: SLICES }, asks: false },
  {
    name: "rectangle",
    label: { 1: "Interval", 2: "Rectangle", 3: "Box" },
    help: {
      1: "Drag an interval; or Enter, arrow keys, Enter. Escape cancels.",
      2: "Drag a rectangle; or Enter, arrow keys, Enter. Escape cancels.",
      3: "Drag two sides of a box in one view, the third in another; or Enter, arrow keys, Enter. Escape cancels.",
    },
    asks: true,
  },
  {
    name: "brush",
    label: { 2: "Brush" },
    help: { 2: "Paint with the pointer; or move with the arrow keys, Space paints, Enter applies. [ and ] change the size, x erases." },
    asks: true,
  },
  {
    name: "levels",
    label: { 2: "Window/level", 3: "Window/level" },
    help: { 2: LEVELS, 3: LEVELS },
    asks: false,
  },
];

const EVERYWHERE = ["", "Whole signal", "Whole image", "Whole volume"];

/** Buttons for the tools, and one that lifts the region. */
export function toolbar(
  listening: Listening,
  scene: Scene,
  live: boolean,
  choose: (tool: Tool, help: string) => void,
): HTMLElement {
  const { model } = listening;
  let pressed: Tool = "look";
  const press = (name: Tool, help: string) => {
    pressed = name;
    choose(name, help);
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
  };
  const buttons = TOOLS.map(({ name, help }) =>
    h("button", {
      type: "button",
      class: "kr-tool",
      "data-tool": name,
      "aria-pressed": String(name === pressed),
      onclick: () => press(name, help[scene.sizes.length] ?? ""),
    }),
  );
  const everywhere = h("button", {
    type: "button",
    class: "kr-tool",
    "data-tool": "everywhere",
    onclick: () => set(model, "region", null),
  });
  listening.to(["region"], () => {
    everywhere.disabled = !model.get("region");
  });
  const bar = h("div", { class: "kr-tools", role: "toolbar", "aria-label": "Region" }, ...buttons, everywhere);
  let axes = 0;
  scene.watch(() => {
    if (axes === scene.sizes.length) return;
    axes = scene.sizes.length;
    buttons.forEach((button, i) => {
      const offer = TOOLS[i];
      button.textContent = offer?.label[axes] ?? "";
      button.hidden = !offer?.label[axes] || (offer.asks && !live);
    });
    everywhere.textContent = EVERYWHERE[axes] ?? "";
    everywhere.hidden = !live;
    bar.hidden = !live && axes < 2;
    press("look", helpFor(axes));
  });
  return bar;
}

/** How the tool that is chosen at first is used. */
function helpFor(axes: number): string {
  return TOOLS[0]?.help[axes] ?? "";
}
