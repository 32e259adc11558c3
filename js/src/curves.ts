// Deletion curves: what becomes of the class as the picture is covered, what counts most first.
import { floats } from "./bytes";
import { h, type Listening, onRepaint } from "./dom";
import { figure } from "./figures";
import { answers } from "./map";
import { arrived, type Curve } from "./messages";
import type { Scene } from "./scene";

/** The drawing's size in its own units. */
const [WIDTH, HEIGHT] = [220, 120];

/** What an image is called, by the number of its axes. */
const KINDS = ["", "signal", "picture", "volume"];

/** The points of a curve, between the lowest and the highest value of all. */
export function points(curve: Curve, low: number, high: number): string {
  const [shares, values] = [floats(curve.shares), floats(curve.values)];
  const span = high - low || 1;
  return Array.from(shares, (share, i) => {
    const y = HEIGHT * (1 - ((values[i] ?? low) - low) / span);
    return `${(WIDTH * share).toFixed(1)},${y.toFixed(1)}`;
  }).join(" ");
}

export function curvesPanel(listening: Listening, scene: Scene): HTMLElement {
  const { model } = listening;
  const plot = h("div", { class: "kr-plot", role: "img" });
  const [high, low] = [h("span", {}), h("span", {})];
  const legend = h("dl", {});
  const note = h("p", { class: "kr-hint" });
  const axis = h("span", {});
  const figureOf = h("div", { class: "kr-curve" }, high, plot, low, axis);
  const element = h("div", { class: "kr-group kr-curves" }, h("h3", {}, "Deletion curve"), figureOf, legend, note);
  const draw = onRepaint(() => {
    element.hidden = !model.get("curve");
    if (element.hidden) return;
    const kind = KINDS[scene.sizes.length] ?? "";
    axis.textContent = `share of the ${kind} covered`;
    const found = model.get("_curves");
    const there = arrived(found) && answers(found.asked, model, true) ? found : null;
    const drawn = there?.curves ?? [];
    figureOf.hidden = legend.hidden = !drawn.length;
    note.hidden = drawn.length > 0;
    if (there) note.textContent = there.note;
    else if (scene.region) note.textContent = `Curves are of the whole ${kind}.`;
    else note.textContent = model.get("running") ? "Being measured once the map is finished." : "Not measured.";
    if (!drawn.length) return;
    const all = drawn.flatMap((curve) => [...floats(curve.values)]);
    const ends = [Math.min(0, ...all), Math.max(...all)] as const;
    const lines = "<polyline/>".repeat(drawn.length);
    plot.innerHTML = `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none">${lines}</svg>`;
    plot.querySelectorAll("polyline").forEach((line, i) => {
      const curve = drawn[i];
      if (!curve) return;
      line.setAttribute("points", points(curve, ...ends));
      line.setAttribute("data-curve", curve.name);
    });
    plot.setAttribute("aria-label", drawn.map(({ name, area }) => `${name}: area ${figure(area)}`).join("; "));
    [low.textContent, high.textContent] = ends.map(figure) as [string, string];
    legend.replaceChildren(
      h("dt", {}, "area"),
      h("dd", {}, "lower is better"),
      ...drawn.flatMap(({ name, area }) => [
        h("dt", {}, h("i", { class: "kr-line", "data-curve": name }), name),
        h("dd", {}, figure(area)),
      ]),
    );
  });
  listening.to(["_curves", "curve", "running"], draw);
  scene.watch(draw);
  return element;
}
