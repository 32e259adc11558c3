// Below the map: how much it is magnified, whether it is hidden, the whole screen, and where the pointer is.
import { h, type Listening } from "../dom";
import { figure } from "../figures";
import type { Levels } from "../cells";
import type { Scene } from "../scene";
import type { Tool } from "./sketch";
import type { Viewport } from "./viewport";

/** How much a button magnifies. */
const BY = 2;

/** Windows of Hounsfield units that radiologists use: centre and width. */
const HOUNSFIELD: Readonly<Record<string, readonly [number, number]>> = {
  brain: [40, 80],
  "soft tissue": [40, 400],
  lung: [-600, 1500],
  bone: [450, 1800],
};
/** Numbers as low as this are Hounsfield units of air. */
const AIR = -500;

/** Windows to choose from, by name: those of the image's numbers, and of what these probably are. */
export function presets(first: Levels, low: number, high: number): [string, Levels][] {
  const middle = (first[0] + first[1]) / 2;
  const quarter = (first[1] - first[0]) / 4;
  const found: [string, Levels][] = [
    ["as given", first],
    ["all numbers", [low, high]],
    ["more contrast", [middle - quarter, middle + quarter]],
  ];
  if (low > AIR) return found;
  return [...found, ...Object.entries(HOUNSFIELD).map(([name, [centre, width]]): [string, Levels] => [name, [centre - width / 2, centre + width / 2]])];
}

export interface Viewing {
  element: HTMLElement;
  /** Shows how much of a section is seen. */
  follow: (part: Viewport) => void;
  /** Shows what goes with a tool. */
  choose: (tool: Tool) => void;
}

/** `part` is what is seen of the section that was pointed at last; `root` what fills the screen. */
export function viewing(listening: Listening, scene: Scene, part: () => Viewport, draw: () => void, root: () => Element | null): Viewing {
  const act = (name: string, label: string, action: () => void, words: string | null = null) =>
    h("button", { type: "button", class: "kr-tool", "data-view": name, "aria-label": words, onclick: action }, label);
  const zoom = (change: (part: Viewport) => void) => () => {
    change(part());
    draw();
  };
  const whole = act("whole", "100 %", zoom((seen) => seen.reset()));
  const hide = act("hide", "Hide map", () => scene.hide(!scene.hidden));
  const full = act("full", "Full screen", () => fill(root()));
  const where = h("output", { class: "kr-where" });
  const select = h("select", {
    "aria-label": "Window",
    "data-view": "levels",
    "data-lm-suppress-shortcuts": "true",
    onchange: () => {
      scene.show(presetsOf(scene)[Number(select.value)]?.[1] ?? null);
      select.value = "";
    },
  });
  select.hidden = true;
  full.hidden = !document.fullscreenEnabled;
  const element = h(
    "div",
    { class: "kr-view", role: "group", "aria-label": "View" },
    act("out", "−", zoom((seen) => seen.magnify(1 / BY)), "Zoom out"),
    whole,
    act("in", "+", zoom((seen) => seen.magnify(BY)), "Zoom in"),
    hide,
    full,
    select,
    where,
  );
  scene.watch(() => {
    hide.setAttribute("aria-pressed", String(scene.hidden));
    where.textContent = sayWhere(scene);
  });
  const changed = () => full.setAttribute("aria-pressed", String(document.fullscreenElement === root()));
  document.addEventListener("fullscreenchange", changed);
  listening.atEnd(() => document.removeEventListener("fullscreenchange", changed));
  return {
    element,
    follow: (seen) => {
      whole.textContent = `${Math.round(100 * seen.zoom)} %`;
    },
    choose: (tool) => {
      select.hidden = tool !== "levels";
      const names = presetsOf(scene).map(([name], i) => h("option", { value: i }, name));
      select.replaceChildren(h("option", { value: "", disabled: true, selected: true }, "window…"), ...names);
    },
  };
}

/** Fills the screen with an element, or ends that; nothing where the page may not. */
export function fill(element: Element | null): void {
  if (document.fullscreenElement) void document.exitFullscreen();
  else if (document.fullscreenEnabled) void element?.requestFullscreen();
}

function presetsOf(scene: Scene): [string, Levels][] {
  const { cells, firstLevels } = scene;
  return presets(firstLevels, cells?.low ?? 0, cells?.high ?? 255);
}

/** The place that is pointed at, and the number there. */
function sayWhere(scene: Scene): string {
  const { place, sizes, axes } = scene;
  if (!place || scene.isVolume) return "";
  const pixel = place.map(Math.floor);
  const at = sizes.length === 2 ? `x ${pixel[1]}, y ${pixel[0]}` : `${axes[0]} ${pixel[0]}`;
  const number = scene.number(place);
  return number === null ? at : `${at}: ${figure(number)}`;
}
