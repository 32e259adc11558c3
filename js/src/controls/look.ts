// How a map looks: opacity, colours and their scale.
import { octets } from "../bytes";
import { h, type Listening, set, unique } from "../dom";
import { gradient } from "../paint";
import { choice } from "./choice";
import { slider } from "./slider";
import { toggle } from "./toggle";

export function lookControls(listening: Listening): HTMLElement {
  const { model } = listening;
  const id = unique("colormap");
  const select = h("select", {
    id,
    "data-trait": "colormap",
    "data-lm-suppress-shortcuts": "true",
    onchange: () => set(model, "colormap", select.value),
  });
  const strip = h("i", { class: "kr-strip" });
  listening.to(["colormap", "_colours"], () => {
    const names = Object.keys(model.get("_colours"));
    select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    select.value = model.get("colormap");
    strip.style.background = gradient(octets(model.get("_colours")[model.get("colormap")]), 1, 0);
  });
  const limitId = unique("limit");
  const limit = h("input", {
    id: limitId,
    type: "number",
    min: 0.001,
    step: 0.05,
    "data-trait": "limit",
    "data-lm-suppress-shortcuts": "true",
    onchange: () => {
      if (Number(limit.value) > 0) set(model, "limit", Number(limit.value));
      else limit.value = String(model.get("limit"));
    },
  });
  const limitRow = h("div", { class: "kr-row" }, h("label", { for: limitId }, "Colours end at ±"), limit);
  listening.to(["scale", "limit"], () => {
    limitRow.hidden = model.get("scale") !== "fixed";
    limit.value = String(model.get("limit"));
  });
  const overlays = choice(
    listening,
    "As",
    [
      { value: "cells", label: "cells" },
      { value: "smooth", label: "smooth" },
      { value: "contours", label: "contours", shown: () => (model.get("_view").sizes?.length ?? 2) > 1 },
    ] as const,
    () => model.get("overlay"),
    (value) => set(model, "overlay", value),
    ["overlay", "_view"],
  );
  const dots = toggle(listening, "dots", "Dots", "where it was measured");
  listening.to(["regions"], () => {
    overlays.hidden = dots.hidden = model.get("regions") !== null; // they have no neighbours
  });
  return h(
    "div",
    { class: "kr-look" },
    h("h3", {}, "Look"),
    slider(listening, {
      name: "opacity",
      label: "Opacity",
      min: 0,
      max: () => 1,
      step: 0.01,
      show: (value) => `${Math.round(value * 100)} %`,
    }),
    h("div", { class: "kr-row" }, h("label", { for: id }, "Colours"), h("span", { class: "kr-select" }, strip, select)),
    choice(
      listening,
      "Scale",
      [
        { value: "own", label: "this map" },
        { value: "shared", label: "all maps" },
        { value: "fixed", label: "set" },
      ] as const,
      () => model.get("scale"),
      (value) => set(model, "scale", value),
      ["scale"],
    ),
    limitRow,
    overlays,
    slider(listening, {
      name: "threshold",
      label: "Hide changes below",
      min: 0,
      max: () => 1,
      step: 0.01,
      show: (value) => (value ? `${Math.round(value * 100)} % of the scale` : "none"),
    }),
    dots,
  );
}
