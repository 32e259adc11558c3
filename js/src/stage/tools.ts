// The toolbar: what the pointer and the keys do on the stage.
import { h, type Listening, set } from "../dom";
import type { Tool } from "./sketch";

const TOOLS: readonly { name: Tool; label: string; help: string }[] = [
  { name: "look", label: "Inspect", help: "Arrow keys move from cell to cell, Enter pins." },
  {
    name: "rectangle",
    label: "Rectangle",
    help: "Drag a rectangle; or Enter, arrow keys, Enter. Escape cancels.",
  },
  {
    name: "brush",
    label: "Brush",
    help: "Paint with the pointer; or move with the arrow keys, Space paints, Enter applies.",
  },
];

/** Buttons for the tools, and one that lifts the region. */
export function toolbar(listening: Listening, choose: (tool: Tool, help: string) => void): HTMLElement {
  const { model } = listening;
  const buttons = TOOLS.map(({ name, label, help }) =>
    h(
      "button",
      {
        type: "button",
        class: "kr-tool",
        "data-tool": name,
        "aria-pressed": String(name === "look"),
        onclick: () => {
          choose(name, help);
          for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
        },
      },
      label,
    ),
  );
  const everywhere = h(
    "button",
    {
      type: "button",
      class: "kr-tool",
      "data-tool": "everywhere",
      onclick: () => set(model, "region", null),
    },
    "Whole image",
  );
  listening.to(["region"], () => {
    everywhere.disabled = !model.get("region");
  });
  return h("div", { class: "kr-tools", role: "toolbar", "aria-label": "Region" }, ...buttons, everywhere);
}

/** How the tool that is chosen at first is used. */
export const FIRST_HELP = TOOLS[0]?.help ?? "";
