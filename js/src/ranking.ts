// The cells that count most, with where they lie and what covering them does.
import { h, onRepaint } from "./dom";
import { moves, together } from "./figures";
import { type Layout, Windows } from "./layout";
import { INTERPOLATED, type Map, UNKNOWN } from "./messages";
import type { Scene } from "./scene";

/** Cells that are listed. */
const LISTED = 6;

/** The cells whose changes are largest, largest first; of windows that overlap by half or more, one. */
export function strongest(map: Pick<Map, "base" | "values" | "status">, layout: Layout, count: number): number[] {
  const size = (cell: number) => Math.abs(map.base - (map.values[cell] ?? NaN));
  const order = [...map.values.keys()]
    .filter((cell) => (map.status[cell] ?? UNKNOWN) > UNKNOWN && size(cell) > 0 && Number.isFinite(size(cell)))
    .sort((a, b) => size(b) - size(a));
  const found: number[] = [];
  for (const cell of order) {
    if (found.length === count) break;
    if (!(layout instanceof Windows) || found.every((other) => apart(layout, cell, other))) found.push(cell);
  }
  return found;
}

/** Whether two windows have less than half of an axis in common. */
function apart(layout: Windows, one: number, other: number): boolean {
  const [a, b] = [layout.centre(one), layout.centre(other)];
  return layout.axes.some(({ window }, axis) => Math.abs((a[axis] ?? 0) - (b[axis] ?? 0)) > window / 2);
}

/** Where a cell lies, in words. */
export function placeOf(scene: Scene, layout: Layout, cell: number): string {
  if (!(layout instanceof Windows)) return `region ${scene.id(cell)}`;
  return layout.box(cell).map(([first, last], axis) => `${scene.axes[axis] ?? ""} ${first}–${last - 1}`).join(", ");
}

export function ranking(scene: Scene): HTMLElement {
  const list = h("ol", {});
  const element = h("div", { class: "kr-group kr-ranking" }, h("h3", {}, "What counts most"), list);
  const go = (cell: number) => {
    const centre = scene.layout?.centre(cell);
    if (!centre) return;
    if (scene.isVolume) scene.meet(centre);
    else if (!scene.pinned || scene.cell !== cell) {
      if (scene.pinned) scene.pin(null);
      scene.pin(centre);
    }
  };
  // Up and down walk the list, as in a menu; the notebook would take them otherwise.
  const walk = (event: KeyboardEvent) => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    const buttons = [...list.querySelectorAll("button")];
    buttons[buttons.indexOf(event.target as HTMLButtonElement) + step]?.focus();
    event.preventDefault();
    event.stopPropagation();
  };
  let drawn: Map | null = null;
  const draw = onRepaint(() => {
    const { current: map, layout } = scene;
    const there = map?.finished && layout && scene.ready ? map : null;
    element.hidden = !there;
    if (!there || !layout || there === drawn) return;
    drawn = there;
    const cells = strongest(there, layout, LISTED);
    const drops = cells.map((cell) => there.base - (there.values[cell] ?? NaN));
    const [written = []] = together(drops);
    list.replaceChildren(
      ...cells.map((cell, i) => {
        const button = h(
          "button",
          {
            type: "button",
            "data-lm-suppress-shortcuts": "true",
            title: "Look at it on the map",
            onclick: () => go(cell),
            onkeydown: walk,
          },
          h("b", {}, moves(drops[i] ?? NaN, written[i]).join(" "), there.status[cell] === INTERPOLATED ? ", estimated" : ""),
          h("span", {}, placeOf(scene, layout, cell)),
        );
        return h("li", {}, button);
      }),
    );
    if (!cells.length) list.replaceChildren(h("li", {}, "Nothing changes the answer."));
  });
  scene.watch(draw);
  return element;
}
