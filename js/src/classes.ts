// The class explained: the five likeliest with their probabilities, and a search for the rest.
import { h, type Listening, unique } from "./dom";
import type { Scene } from "./scene";
import { best, digits } from "./state";

export function classes(listening: Listening, scene: Scene, live: boolean): HTMLElement {
  const { model } = listening;
  const list = h("div", { class: "kr-classes", role: "group", "aria-label": "Class explained" });
  const id = unique("search");
  const options = h("datalist", { id: `${id}-names` });
  // The likeliest stands for "whatever is predicted", so that another image is asked for its own.
  const set = (target: number) => {
    model.set("target", target === model.get("_view").predicted ? null : target);
    model.save_changes();
  };
  const search = h("input", {
    id,
    type: "search",
    list: `${id}-names`,
    placeholder: "Search all classes",
    autocomplete: "off",
    "data-lm-suppress-shortcuts": "true",
    onchange: () => {
      const found = model.get("_class_names").indexOf(search.value);
      if (found < 0) return;
      set(found);
      search.value = "";
    },
  });
  listening.to(["_class_names"], () => {
    const names = model.get("_class_names");
    options.replaceChildren(...names.map((name) => h("option", { value: name })));
  });

  const draw = () => {
    const shares = scene.probabilities;
    const target = model.get("target") ?? (shares.length ? model.get("_view").predicted : null);
    const shown = best(shares, 5);
    if (target !== null && target < shares.length && !shown.includes(target)) shown.push(target);
    const focused = list.contains(document.activeElement) ? (document.activeElement as HTMLElement).dataset.target : "";
    list.replaceChildren(
      ...shown.map((index) => {
        const button = h(
          "button",
          {
            type: "button",
            "data-target": index,
            "aria-pressed": String(index === target),
            disabled: !live,
            onclick: () => set(index),
          },
          h("span", {}, scene.name(index)),
          h("b", {}, digits(shares[index] ?? NaN)),
        );
        button.style.setProperty("--kr-share", `${100 * Math.max(0, Math.min(1, shares[index] ?? 0))}%`);
        return button;
      }),
    );
    if (focused) list.querySelector<HTMLElement>(`[data-target="${focused}"]`)?.focus();
  };
  // Only what can change the list redraws it: a frame that comes while a button is pressed must not.
  let drawn = scene.probabilities;
  scene.watch(() => {
    if (drawn !== scene.probabilities) draw();
    drawn = scene.probabilities;
  });
  listening.to(["target", "_class_names"], draw);
  const find = h("div", {}, h("label", { for: id, class: "kr-hidden" }, "Search all classes"), search, options);
  listening.to(["_class_names"], () => {
    find.hidden = !live || model.get("_class_names").length <= 5;
  });
  return h("div", { class: "kr-group" }, h("h3", {}, "Class explained"), list, find);
}
