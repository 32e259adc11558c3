// The call of the map on the page, to be copied: in Python and on the command line.
import { h, type Listening } from "./dom";
import { arrived, type Calls } from "./messages";
import type { Scene } from "./scene";

const KINDS = [
  ["python", "Python"],
  ["command", "Command line"],
] as const satisfies readonly (readonly [keyof Calls, string])[];

/** Milliseconds that a button says that it has copied. */
const SAID_MS = 1500;

export function callPanel(listening: Listening, scene: Scene): HTMLElement {
  const parts = KINDS.map(([kind, label]) => {
    const code = h("code", {});
    const copy = h("button", { type: "button", "data-copy": kind }, `Copy`);
    copy.setAttribute("aria-label", `Copy the call: ${label}`);
    copy.addEventListener("click", () => void copied(code).then((done) => say(copy, done)));
    const shell = h("pre", { tabindex: 0, "aria-label": label, "data-lm-suppress-shortcuts": "true" }, code);
    return { kind, code, element: h("div", {}, h("h3", {}, label, copy), shell) };
  });
  const element = h(
    "details",
    { class: "kr-call" },
    h("summary", {}, "The call of this map"),
    h("div", {}, ...parts.map((part) => part.element)),
  );
  const draw = () => {
    const { current: map, waiting } = scene;
    const calls = map?.finished && !waiting ? map.calls : {};
    element.hidden = !arrived<Calls>(calls);
    if (!arrived<Calls>(calls)) return;
    for (const { kind, code } of parts) code.textContent = calls[kind];
  };
  scene.watch(draw);
  listening.to(["_frame"], draw);
  return element;
}

/** Copies a text; where a page has no clipboard the text is selected, ready to be copied by keys. */
async function copied(code: HTMLElement): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection()?.selectAllChildren(code);
    return false;
  }
}

function say(button: HTMLElement, done: boolean): void {
  button.textContent = done ? "Copied" : "Selected";
  setTimeout(() => (button.textContent = "Copy"), SAID_MS);
}
