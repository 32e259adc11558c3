// Why there are colours beyond a region that is looked at.
import { h } from "../dom";
import type { Scene } from "../scene";

/** What the cells of an image are called, by the number of its axes. */
const UNITS = ["", "steps", "px", "voxels"];

/** A sentence on the colours beyond the region in force; hidden where there is none. */
export function reaching(scene: Scene): HTMLElement {
  const element = h("p", { class: "kr-hint kr-reaching" });
  scene.watch(() => {
    const { map, region } = scene;
    element.hidden = !map || !region || !map.window;
    if (!map || element.hidden) return;
    const far = `${Math.ceil(map.window / 2)} ${UNITS[map.sizes.length] ?? ""}`;
    element.textContent = `Every patch that touches the region is measured. A colour lies in the middle of its patch: up to ${far} beyond the region.`;
  });
  return element;
}
