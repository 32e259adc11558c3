// A few options, of which one is chosen.
import { h, type Listening, unique } from "../dom";
import type { State } from "../messages";

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
