// Elements, and listeners that end with the view.
import type { Model, State } from "./messages";

type Props = Record<string, string | number | boolean | null | ((event: never) => void)>;

/** An element: properties beginning with "on" are listeners, the others attributes. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value as (event: Event) => void);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

/** A group of controls under a heading. */
export function group(heading: string, ...children: (Node | string)[]): HTMLElement {
  return h("div", { class: "kr-group" }, h("h3", {}, heading), ...children);
}

/** Sets a trait, here and in the kernel. */
export function set<K extends keyof State>(model: Model, name: K, value: State[K]): void {
  model.set(name, value);
  model.save_changes();
}

/** A name that no other element has: random, since each widget of a page loads this file anew, counters and all. */
export function unique(prefix: string): string {
  return `krypton-${prefix}-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
}

/** Listens to traits of the model until the view goes. */
export class Listening {
  private readonly ends: (() => void)[] = [];

  constructor(readonly model: Model) {}

  /** Calls `action` now and whenever one of the traits changes. */
  to(names: (keyof State)[], action: () => void): void {
    for (const name of names) {
      this.model.on(`change:${name}`, action);
      this.ends.push(() => this.model.off(`change:${name}`, action));
    }
    action();
  }

  atEnd(action: () => void): void {
    this.ends.push(action);
  }

  end(): void {
    for (const end of this.ends.splice(0)) end();
  }
}

/** Calls `action` once before the next repaint, however often it is asked for. */
export function onRepaint(action: () => void): () => void {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      action();
    });
  };
}

/** A picture out of the bytes of a PNG. */
export async function bitmap(bytes: DataView): Promise<ImageBitmap> {
  return createImageBitmap(new Blob([png(bytes)], { type: "image/png" }));
}

/** A copy of a message's bytes, as a Blob takes them. */
export function png(bytes: DataView): Uint8Array<ArrayBuffer> {
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength).slice();
}

/** Calls at most once in `wait` milliseconds, and always for the last call; `now` does not wait. */
export function throttled(action: () => void, wait: number): { soon: () => void; now: () => void } {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let last = -Infinity;
  const now = () => {
    clearTimeout(timer);
    timer = undefined;
    last = Date.now();
    action();
  };
  const soon = () => {
    if (timer !== undefined) return;
    const rest = last + wait - Date.now();
    if (rest <= 0) now();
    else timer = setTimeout(now, rest);
  };
  return { soon, now };
}
