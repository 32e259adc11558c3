// What is measured: what is covered and how, and how precisely.
import { group, h, type Listening, set } from "../dom";
import { superpixels } from "../partition";
import { choice } from "./choice";
import { slider } from "./slider";
import { toggle } from "./toggle";

/** Words that the kernel knows for what covered cells become. */
const COVERS = ["grey", "black", "mean", "blur", "local mean", "noise"] as const;

/** Colours by what they are of a signal. */
const OF_SIGNALS: Partial<Record<string, string>> = { grey: "middle", black: "lowest" };

/** What the cells of an image are called, by the number of its axes. */
const UNITS = ["", "steps", "px", "voxels"];

/** Superpixels at most; every one is measured. */
const MOST_SUPERPIXELS = 400;

export function measuringControls(listening: Listening): HTMLElement {
  return h(
    "div",
    { class: "kr-side" },
    covering(listening),
    precision(listening),
  );
}

/** Windows or regions, their size, and what they become. */
function covering(listening: Listening): HTMLElement {
  const { model } = listening;
  const sizes = (): number[] => model.get("_view").sizes ?? [64, 64];
  // A patch is a square on a picture, and a cube that a volume's shorter axes cut.
  const side = () => (sizes().length === 2 ? Math.min(...sizes()) : Math.max(...sizes()));
  const unit = () => UNITS[sizes().length] ?? "";
  const window = h(
    "div",
    { class: "kr-group" },
    slider(listening, {
      name: "window",
      label: "Size",
      min: 2,
      max: () => Math.floor(side() / 2),
      step: 1,
      show: (value) => `${value} ${unit()}`,
      also: ["_view"],
      with: (value) => ({ stride: Math.min(model.get("stride"), value) }),
    }),
    slider(listening, {
      name: "stride",
      label: "Stride",
      min: 1,
      max: () => model.get("window"),
      step: 1,
      show: (value) => `${value} ${unit()}`,
      also: ["window", "_view"],
    }),
  );
  const count = slider(listening, {
    name: "regions",
    label: "About so many",
    min: 10,
    max: () => MOST_SUPERPIXELS,
    step: 10,
    show: String,
    read: () => superpixels(model.get("regions")),
    write: (value) => model.set("regions", `slic:${value}`),
  });
  listening.to(["regions"], () => {
    window.hidden = model.get("regions") !== null;
    count.hidden = typeof model.get("regions") !== "string";
  });
  return group("Cover", parts(listening), window, count, covers(listening));
}

function parts(listening: Listening): HTMLElement {
  const { model } = listening;
  const values = {
    windows: () => null,
    superpixels: () => `slic:${superpixels(null)}`,
    yours: () => model.get("_given").regions ?? null,
  };
  return choice(
    listening,
    "What",
    [
      { value: "windows", label: "windows" },
      { value: "superpixels", label: "superpixels", shown: () => (model.get("_view").sizes?.length ?? 2) === 2 },
      { value: "yours", label: "regions", shown: () => !!model.get("_given").regions },
    ] as const,
    () => (model.get("regions") === null ? "windows" : typeof model.get("regions") === "string" ? "superpixels" : "yours"),
    (value) => set(model, "regions", values[value]()),
    ["regions", "_given", "_view"],
  );
}

function covers(listening: Listening): HTMLElement {
  const { model } = listening;
  const given = () => model.get("_given").baseline ?? null;
  const called = (cover: string) => ((model.get("_view").sizes?.length ?? 2) === 1 ? (OF_SIGNALS[cover] ?? cover) : cover);
  return choice<string>(
    listening,
    "With",
    [
      ...COVERS.map((value) => ({ value, label: () => called(value), swatch: value.replace(" ", "-") })),
      { value: "yours", label: "yours", swatch: "yours", shown: () => given() !== null },
    ],
    () => (typeof model.get("baseline") === "string" ? (model.get("baseline") as string) : "yours"),
    (value) => set(model, "baseline", value === "yours" ? (given() ?? "grey") : value),
    ["baseline", "_given", "_view"],
  );
}

/** How much of the map is measured, and whether it is judged. */
function precision(listening: Listening): HTMLElement {
  const { model } = listening;
  const windows = h(
    "div",
    { class: "kr-group" },
    slider(listening, {
      name: "ssim_target",
      label: "Similarity to the exact map",
      min: 0.5,
      max: () => 1,
      step: 0.01,
      show: (value) => (value >= 1 ? "1, exact" : value.toFixed(2)),
    }),
    toggle(listening, "exact", "Exact", "measure every position"),
  );
  listening.to(["regions"], () => {
    windows.hidden = model.get("regions") !== null; // of regions every one is measured
  });
  return group("Precision", windows, toggle(listening, "curve", "Deletion curve", "cover what counts most first"));
}
