// Native, labelled inputs bound to traits.
import { h, type Listening, unique } from "./dom";
import { gradient } from "./paint";
import { octets, type State, throttled } from "./state";

/** Between two messages to the kernel while a slider is dragged. */
const SEND_MS = 100;

type Numeric = "window" | "stride" | "ssim_target" | "opacity";

interface SliderOptions {
  name: Numeric;
  label: string;
  min: number;
  max: () => number;
  step: number;
  show: (value: number) => string;
  /** Traits that `show` or `max` read. */
  also?: (keyof State & string)[];
  /** Traits that change with this one at once. */
  with?: (value: number) => Partial<State>;
}

export function slider(listening: Listening, options: SliderOptions): HTMLElement {
  const { model } = listening;
  const { soon, now } = throttled(() => model.save_changes(), SEND_MS);
  const id = unique(options.name);
  let dragged = false;
  const set = () => {
    const value = Number(input.value);
    model.set(options.name, value);
    for (const [name, other] of Object.entries(options.with?.(value) ?? {})) model.set(name as Numeric, other as number);
    show();
  };
  const input = h("input", {
    type: "range",
    id,
    min: options.min,
    step: options.step,
    "data-trait": options.name,
    // Notebook 7 would take the arrow keys.
    "data-lm-suppress-shortcuts": "true",
    oninput: () => {
      dragged = true;
      set();
      soon();
    },
    onchange: () => {
      dragged = false;
      set();
      now();
    },
  });
  const output = h("output", { for: id });
  const show = () => {
    const value = model.get(options.name);
    input.max = String(Math.max(options.max(), value));
    if (!dragged) input.value = String(value);
    output.textContent = options.show(value);
    input.setAttribute("aria-valuetext", options.show(value));
    const share = (Number(input.value) - options.min) / Math.max(1e-9, Number(input.max) - options.min);
    input.style.setProperty("--kr-share", `${100 * share}%`);
  };
  listening.to([options.name, ...(options.also ?? [])], show);
  return h("div", { class: "kr-slider" }, h("label", { for: id }, options.label), output, input);
}

/** One of a few, as buttons side by side. */
export function choice<T extends string>(
  listening: Listening,
  label: string,
  options: readonly { value: T; label: string; swatch?: string }[],
  read: () => T,
  write: (value: T) => void,
  names: (keyof State & string)[],
): HTMLElement {
  const group = unique("choice");
  const inputs = options.map(({ value }) =>
    h("input", {
      type: "radio",
      name: group,
      value,
      "data-lm-suppress-shortcuts": "true",
      onchange: () => write(value),
    }),
  );
  listening.to(names, () => {
    for (const input of inputs) input.checked = input.value === read();
  });
  const labels = options.map((option, i) =>
    h(
      "label",
      {},
      inputs[i] as HTMLInputElement,
      h(
        "span",
        {},
        ...(option.swatch ? [h("i", { class: `kr-swatch kr-swatch-${option.swatch}` })] : []),
        option.label,
      ),
    ),
  );
  return h("fieldset", { class: "kr-choice" }, h("legend", {}, label), h("div", {}, ...labels));
}

export function exactToggle(listening: Listening): HTMLElement {
  const { model } = listening;
  const input = h("input", {
    type: "checkbox",
    role: "switch",
    "data-trait": "exact",
    "data-lm-suppress-shortcuts": "true",
    onchange: () => {
      model.set("exact", input.checked);
      model.save_changes();
    },
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

export function runControls(listening: Listening): HTMLElement {
  const { model } = listening;
  const side = () => Math.min(model.get("_view").height ?? 64, model.get("_view").width ?? 64);
  const set = <K extends keyof State & string>(name: K, value: State[K]) => {
    model.set(name, value);
    model.save_changes();
  };
  return h(
    "div",
    { class: "kr-group" },
    h("h3", {}, "Patch"),
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
      (value) => set("baseline", value),
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

export function lookControls(listening: Listening): HTMLElement {
  const { model } = listening;
  const id = unique("colormap");
  const select = h("select", {
    id,
    "data-trait": "colormap",
    "data-lm-suppress-shortcuts": "true",
    onchange: () => {
      model.set("colormap", select.value);
      model.save_changes();
    },
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
      if (Number(limit.value) > 0) {
        model.set("limit", Number(limit.value));
        model.save_changes();
      } else limit.value = String(model.get("limit"));
    },
  });
  const limitRow = h("div", { class: "kr-row" }, h("label", { for: limitId }, "Colours end at ±"), limit);
  listening.to(["scale", "limit"], () => {
    limitRow.hidden = model.get("scale") !== "fixed";
    limit.value = String(model.get("limit"));
  });
  return h(
    "div",
    { class: "kr-group" },
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
        { value: "own", label: "own" },
        { value: "shared", label: "shared" },
        { value: "fixed", label: "fixed" },
      ] as const,
      () => model.get("scale"),
      (value) => {
        model.set("scale", value);
        model.save_changes();
      },
      ["scale"],
    ),
    limitRow,
  );
}

/** Buttons for what can be taken away. */
export function files(listening: Listening, view: string): HTMLElement {
  const { model } = listening;
  const button = (suffix: string, title: string) =>
    h("button", { type: "button", title, onclick: () => model.send({ kind: "save", as: suffix, view }) }, suffix.toUpperCase());
  return h(
    "div",
    { class: "kr-files", role: "group", "aria-label": "Save" },
    h("span", {}, "Save"),
    button("png", "A picture of the map"),
    button("npz", "The numbers, for Heatmap.load"),
    button("html", "This page, without a kernel or a network"),
  );
}
