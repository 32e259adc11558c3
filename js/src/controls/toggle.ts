// A switch bound to a trait.
import { h, type Listening, set } from "../dom";
import type { State } from "../messages";

export function toggle(listening: Listening, name: "exact" | "curve" | "dots", label: string, note: string): HTMLElement {
  const { model } = listening;
  const input = h("input", {
    type: "checkbox",
    role: "switch",
    "data-trait": name satisfies keyof State,
    "data-lm-suppress-shortcuts": "true",
    onchange: () => set(model, name, input.checked),
  });
  listening.to([name], () => {
    input.checked = model.get(name);
  });
  return h("label", { class: "kr-switch" }, input, h("span", {}, h("b", {}, label), h("small", {}, note)));
}
