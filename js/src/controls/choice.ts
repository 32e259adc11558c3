// A few options, of which one is chosen.
import { h, type Listening, unique } from "../dom";
import type { State } from "../messages";

/** A choice of one out of a few options, as buttons side by side. */
export function choice<T extends string>(
  listening: Listening,
  label: string,
  options: readonly { value: T; label: string | (() => string); swatch?: string; shown?: () => boolean }[],
  read: () => T,
  write: (value: T) => void,
  names: (keyof State)[],
): HTMLElement {
  const group = unique("choice");
  const buttons = options.map(({ value, label, swatch, shown }) => {
    const input = h("input", {
      type: "radio",
      name: group,
      value,
      "data-lm-suppress-shortcuts": "true",
      onchange: () => write(value),
    });
    const colour = swatch ? [h("i", { class: `kr-swatch kr-swatch-${swatch}` })] : [];
    const words = document.createTextNode("");
    const name = () => (words.data = typeof label === "string" ? label : label());
    return { input, shown, name, element: h("label", {}, input, h("span", {}, ...colour, words)) };
  });
  const field = h(
    "fieldset",
    { class: "kr-choice" },
    h("legend", {}, label),
    h("div", {}, ...buttons.map(({ element }) => element)),
  );
  listening.to(names, () => {
    for (const { input, shown, name, element } of buttons) {
      name();
      input.checked = input.value === read();
      element.hidden = shown?.() === false;
    }
    field.hidden = buttons.filter(({ element }) => !element.hidden).length < 2;
  });
  return field;
}
