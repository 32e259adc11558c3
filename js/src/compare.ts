// Approximate, exact and their difference side by side, with what each cost.
import { h, type Listening, onRepaint } from "./dom";
import { backdrop, drops, overlay, sheet } from "./paint";
import type { Scene } from "./scene";
import { figure } from "./figures";
import { floats } from "./bytes";
import { arrived, EXACT } from "./messages";
import { cut, faster, seconds } from "./words";

const percent = (share: number) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

type Pace = ReturnType<typeof faster>;

export function compare(listening: Listening, scene: Scene): HTMLElement {
  const panels = ["Approximate", "Exact", "Difference"].map((name) => {
    const canvas = h("canvas", { role: "img", "aria-label": `${name} map`, "data-panel": name.toLowerCase() });
    const note = h("small", {});
    return { canvas, note, element: h("figure", {}, canvas, h("figcaption", {}, h("b", {}, name), note)) };
  });
  const figures = h("dl", { class: "kr-figures" });
  const section = h(
    "section",
    { class: "kr-compare", "aria-label": "Approximate beside exact" },
    h("h3", {}, "Approximate beside exact"),
    h("div", { class: "kr-panels" }, ...panels.map((panel) => panel.element)),
    figures,
  );
  const draw = onRepaint(() => {
    const found = listening.model.get("_comparison");
    const map = scene.current;
    const there = arrived(found) && map !== null && found.target === map.target && !scene.waiting;
    section.hidden = !there;
    if (!there || !scene.picture) return;
    const c = found;
    const { height, width, table, limit } = scene;
    const all = new Uint8Array(c.rows * c.columns).fill(EXACT);
    const [approximate, exact] = [floats(c.approximate), floats(c.exact)];
    const error = exact.map((value, i) => value - (approximate[i] ?? 0));
    const largest = error.reduce((most, e) => (Number.isFinite(e) ? Math.max(most, Math.abs(e)) : most), 0);
    const base = c.base ?? NaN;
    [drops(approximate, base), drops(exact, base), error].forEach((cells, i) => {
      const canvas = panels[i]?.canvas;
      const context = canvas?.getContext("2d");
      if (!canvas || !context || !scene.picture) return;
      [canvas.height, canvas.width] = [2 * height, 2 * width];
      backdrop(context, scene.picture, listening.model.get("opacity") > 0);
      context.imageSmoothingEnabled = false;
      const pixels = overlay(cells, all, c, height, width, limit, table, listening.model.get("opacity"));
      context.drawImage(sheet(pixels, height, width), 0, 0, canvas.width, canvas.height);
    });
    const notes = [
      `${percent(c.measured / c.positions)} of the positions, ${seconds(c.seconds)}`,
      `every position, ${seconds(c.exactSeconds)}`,
      `same colours; at most ${figure(largest)}`,
    ];
    notes.forEach((note, i) => {
      const panel = panels[i];
      if (panel) panel.note.textContent = note;
    });
    const [ours, full, fullExact] = [c.speedUp, c.fullSpeedUp ?? 1, c.fullSpeedUpExact ?? 1].map(faster) as [Pace, Pace, Pace];
    figures.replaceChildren(
      ...(
        [
          [
            "ssim",
            "SSIM",
            c.ssim === null ? "–" : cut(c.ssim, 3),
            c.ssim === null
              ? "there is none where a map is not finite"
              : `measured${c.estimate ? `, ${cut(c.estimate.value, 2)} expected` : ""}; target ${c.ssimTarget.toFixed(2)} ${c.ssim >= c.ssimTarget ? "met" : "not met"}`,
          ],
          ["share", "positions computed", percent(c.measured / c.positions), `${c.measured} of ${c.positions}`],
          ["exact", "against our exact map", ours.times, `${ours.word}, measured`],
          c.fullSpeedUp === null
            ? ["full", "against full inference", "…", listening.model.get("running") ? "being timed" : "not timed"]
            : [
                "full",
                "against full inference",
                full.times,
                `${full.word}, estimated: ${seconds(c.fullSeconds ?? 0)} from timed passes; exact ${fullExact.times} ${fullExact.word}`,
              ],
        ] as const
      ).map(([key, term, value, note]) =>
        h("div", { "data-figure": key }, h("dt", {}, term), h("dd", {}, h("b", {}, value), h("small", {}, note))),
      ),
    );
  });
  listening.to(["_comparison", "running"], draw);
  scene.watch(draw);
  return section;
}
