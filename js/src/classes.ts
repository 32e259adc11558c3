// The class explained: the five likeliest with their probabilities, or those whose names hold what is typed.
import { group, h, type Listening, set, unique } from "./dom";
import { figure } from "./figures";
import type { Scene } from "./scene";
import { best } from "./map";

const SHOWN = 5;

/** Classes whose names hold `text`, whatever its case: those that begin with it first, then the likeliest. */
export function matching(names: readonly string[], text: string, shares: ArrayLike<number>): number[] {
  const sought = text.trim().toLowerCase();
  const lower = names.map((name) => name.toLowerCase());
  const rank = (index: number) => {
    const name = lower[index] ?? "";
    return name === sought ? 0 : name.startsWith(sought) ? 1 : 2;
  };
  return [...names.keys()]
    .filter((index) => lower[index]?.includes(sought))
    .sort((a, b) => rank(a) - rank(b) || (shares[b] ?? 0) - (shares[a] ?? 0));
}

export function classes(listening: Listening, scene: Scene, live: boolean): HTMLElement {
  const { model } = listening;
  const list = h("div", { class: "kr-classes", role: "group", "aria-label": "Class explained" });
  const [id, listId] = [unique("search"), unique("classes")];
  list.id = listId;
  // The likeliest stands for "whatever is predicted", so that another image is asked for its own.
  const choose = (target: number) => {
    search.value = "";
    set(model, "target", target === scene.predicted ? null : target);
    draw(); // also where that is the class explained already
  };
  const search = h("input", {
    id,
    type: "search",
    placeholder: "Search all classes",
    autocomplete: "off",
    "aria-controls": listId,
    "data-lm-suppress-shortcuts": "true",
    oninput: () => draw(),
    onkeydown: (event: KeyboardEvent) => {
      if (event.key === "Enter") {
        const [first] = found();
        if (first !== undefined) choose(first);
      } else if (event.key === "Escape") {
        search.value = "";
        draw();
      } else return;
      event.preventDefault();
      event.stopPropagation();
    },
  });
  const said = h("p", { class: "kr-hint", role: "status" });
  const found = () =>
    search.value.trim() ? matching(model.get("_class_names"), search.value, scene.probabilities) : [];

  const draw = () => {
    const { probabilities: shares, target } = scene;
    const sought = search.value.trim();
    const matches = found();
    const shown = sought ? matches.slice(0, SHOWN) : best(shares, SHOWN);
    if (!sought && target !== null && target < shares.length && !shown.includes(target)) shown.push(target);
    said.hidden = !sought;
    said.textContent = !matches.length
      ? `No class has “${sought}” in its name.`
      : `${matches.length.toLocaleString("en")} found; Enter takes the first.`;
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
            onclick: () => choose(index),
          },
          h("span", {}, scene.name(index)),
          h("b", {}, figure(shares[index] ?? NaN)),
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
  const find = h("div", {}, h("label", { for: id, class: "kr-hidden" }, "Search all classes"), search, said);
  listening.to(["_class_names"], () => {
    find.hidden = !live || model.get("_class_names").length <= SHOWN;
  });
  return group("Class explained", list, find);
}
