// A labelled slider bound to a trait.
import { h, type Listening, throttled, unique } from "../dom";
import type { State } from "../messages";

/** Milliseconds between two messages to the kernel while a slider is dragged. */
const SEND_MS = 100;

type Numeric = "window" | "stride" | "ssim_target" | "opacity" | "threshold";

interface SliderOptions {
  name: keyof State;
  label: string;
  min: number;
  max: () => number;
  step: number;
  show: (value: number) => string;
  /** Traits that `show` or `max` read. */
  also?: (keyof State)[];
  /** Reads and writes the number, where the trait holds more than that. */
  read?: () => number;
  write?: (value: number) => void;
  /** Traits that change with this one at once. */
  with?: (value: number) => Partial<State>;
}

export function slider(listening: Listening, options: SliderOptions): HTMLElement {
  const { model } = listening;
  const { soon, now } = throttled(() => model.save_changes(), SEND_MS);
  const id = unique(options.name);
  const read = options.read ?? (() => model.get(options.name as Numeric));
  const write = options.write ?? ((value: number) => model.set(options.name as Numeric, value));
  let dragged = false;
  const set = () => {
    const value = Number(input.value);
    write(value);
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
    const value = read();
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
