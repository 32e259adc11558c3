// What is measured: the patch, and how precisely.
import { group, h, type Listening, set } from "../dom";
import { choice } from "./choice";
import { slider } from "./slider";

export function measuringControls(listening: Listening): HTMLElement {
  const { model } = listening;
  const side = () => Math.min(model.get("_view").height ?? 64, model.get("_view").width ?? 64);
  return group(
    "Patch",
    slider(listening, {
      name: "window",
      label: "Size",
      min: 2,
      max: () => Math.floor(side() / 2),
      step: 1,
      show: (value) => `${value} px`,
      also: ["_view"],
      with: (value) => ({ stride: Math.min(model.get("stride"), value) }),
    }),
    slider(listening, {
      name: "stride",
      label: "Stride",
      min: 1,
      max: () => model.get("window"),
      step: 1,
      show: (value) => `${value} px`,
      also: ["window"],
    }),
    choice(
      listening,
      "Colour",
      ["grey", "black", "mean", "blur"].map((value) => ({ value, label: value, swatch: value })),
      () => model.get("baseline"),
      (value) => set(model, "baseline", value),
      ["baseline"],
    ),
    h("h3", {}, "Precision"),
    slider(listening, {
      name: "ssim_target",
      label: "SSIM target",
      min: 0.5,
      max: () => 1,
      step: 0.01,
      show: (value) => (value >= 1 ? "1, exact" : value.toFixed(2)),
    }),
    exactToggle(listening),
  );
}

function exactToggle(listening: Listening): HTMLElement {
  const { model } = listening;
  const input = h("input", {
    type: "checkbox",
    role: "switch",
    "data-trait": "exact",
    "data-lm-suppress-shortcuts": "true",
    onchange: () => set(model, "exact", input.checked),
  });
  listening.to(["exact"], () => {
    input.checked = model.get("exact");
  });
  return h(
    "label",
    { class: "kr-switch" },
    input,
    h("span", {}, h("b", {}, "Exact"), h("small", {}, "measure every position")),
  );
}
