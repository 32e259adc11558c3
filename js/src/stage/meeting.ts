// Where the sections of a volume meet: a slider for each, and what is there.
import { h, onRepaint, unique } from "../dom";
import { figure } from "../figures";
import type { Scene } from "../scene";
import type { Section } from "../section";

/** The slider of a section's slice, and a function that moves it where the cross-hairs are. */
export function slices(scene: Scene, section: Section): { element: HTMLElement; follow: () => void } {
  const { across, name } = section.plane;
  const axis = across ?? 0;
  const id = unique("slice");
  const count = section.sizes[axis] ?? 1;
  const input = h("input", {
    type: "range",
    id,
    min: 0,
    max: count - 1,
    step: 1,
    "data-slice": name,
    "data-lm-suppress-shortcuts": "true",
    oninput: () => scene.meet(scene.cross.map((at, i) => (i === axis ? Number(input.value) : at))),
  });
  const output = h("output", { for: id });
  const follow = () => {
    const slice = section.slice(scene.cross);
    input.value = String(slice);
    output.textContent = `${slice} / ${count - 1}`;
    input.setAttribute("aria-valuetext", output.textContent);
    input.style.setProperty("--kr-share", `${(100 * slice) / Math.max(1, count - 1)}%`);
  };
  follow();
  return { element: h("div", { class: "kr-slider" }, h("label", { for: id }, name), output, input), follow };
}

/** The place of the cross-hairs, the image's number there, and which numbers are black and white. */
export function meeting(scene: Scene): HTMLElement {
  const table = h("dl", {});
  const most = h("button", { type: "button", class: "kr-tool", onclick: () => scene.meetMost() }, "Most important");
  const reset = h("button", { type: "button", class: "kr-tool", onclick: () => scene.show(null) }, "Reset window");
  const draw = onRepaint(() => {
    const { cross, axes, cells, field, levels } = scene;
    if (!scene.isVolume) return;
    const voxel = cross.map(Math.floor);
    const rows: [string, string][] = voxel.map((at, axis) => [axes[axis] ?? "", String(at)]);
    if (field?.affine) {
      const world = field.affine.map(([a = 0, b = 0, c = 0, d = 0]) => a * (voxel[0] ?? 0) + b * (voxel[1] ?? 0) + c * (voxel[2] ?? 0) + d);
      rows.push(["mm (RAS)", world.map((mm) => mm.toFixed(1).replace("-", "−")).join(", ")]);
    }
    if (cells) rows.push(["number", figure(cells.at(cross))]);
    rows.push(["black, white", levels.map(figure).join(", ")]);
    table.replaceChildren(...rows.flatMap(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]));
    most.disabled = !scene.map?.most;
    const first = field?.levels;
    reset.disabled = !first || (first[0] === levels[0] && first[1] === levels[1]);
  });
  scene.watch(draw);
  return h("div", { class: "kr-meeting" }, h("h3", {}, "Cross-hairs"), table, h("div", {}, most, reset));
}
