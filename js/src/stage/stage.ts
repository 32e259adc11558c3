// The map over the image: a canvas for every section that draws, listens, and speaks.
import { h, type Listening, onRepaint, set, unique } from "../dom";
import type { Place } from "../geometry";
import { describe } from "../inspector";
import { legend } from "../legend";
import type { Scene } from "../scene";
import type { Section } from "../section";
import { drawStage } from "./drawing";
import { brushing } from "./brushing";
import { listenToKeys, listenToPointer } from "./listening";
import { meeting, slices } from "./meeting";
import { reaching } from "./reaching";
import { Sketch } from "./sketch";
import { toolbar } from "./tools";

/** The broadest and the narrowest that a column of a volume's sections may be, for the other one. */
const [BROADEST, NARROWEST] = [2.5, 0.4];

export function stage(listening: Listening, scene: Scene, live: boolean): HTMLElement {
  const { model } = listening;
  const help = unique("help");
  const spoken = h("output", { class: "kr-hidden", "aria-live": "polite" });
  const hint = h("span", { id: help, class: "kr-hidden" });
  const frame = h("div", { class: "kr-frame" });
  const sketch = new Sketch();
  const crossHairs = meeting(scene);
  let panes: { section: Section; canvas: HTMLCanvasElement; follow: () => void }[] = [];

  const draw = onRepaint(() => {
    for (const { canvas, section } of panes) {
      drawStage(canvas, scene, section, sketch);
      // For whoever waits for a map to be on the screen.
      const { map } = scene;
      canvas.dataset.drawn = String(Number(canvas.dataset.drawn ?? 0) + 1);
      canvas.dataset.map = map ? `${map.window}/${map.stride}/${map.done}` : "";
    }
  });
  const giveUp = () => {
    sketch.clear();
    draw();
  };
  const brush = brushing(scene, sketch, draw);
  const apply = () => {
    const region = sketch.region(scene.region);
    if (region) set(model, "region", region);
    giveUp();
  };
  const say = () => {
    spoken.textContent = describe(scene)?.text ?? "";
  };
  const choose = (at: Place) => {
    const { regions } = scene;
    if (scene.isVolume) scene.meet(at);
    else if (!regions) scene.pin(at);
    if (!regions || !live) return;
    const id = scene.id(regions.at(at));
    const before = model.get("covered");
    set(model, "covered", before.includes(id) ? before.filter((other) => other !== id) : [...before, id]);
  };
  const resized = new ResizeObserver(draw);
  listening.atEnd(() => resized.disconnect());

  const pane = (section: Section): HTMLElement => {
    const { name } = section.plane;
    const canvas = h("canvas", {
      class: "kr-map",
      tabindex: 0,
      role: "application",
      "aria-label": name ? `Occlusion map, ${name}` : "Occlusion map",
      "aria-describedby": help,
      "data-lm-suppress-shortcuts": "true",
      "data-tool": sketch.tool,
      ...(name && { "data-plane": name }),
    });
    listenToPointer(canvas, section, scene, sketch, live, { draw, apply, giveUp, choose });
    listenToKeys(canvas, section, scene, sketch, { draw, apply, giveUp, choose, say, brush: brush.hear });
    resized.observe(canvas);
    if (section.plane.across === null) {
      panes.push({ section, canvas, follow: () => undefined });
      return section.plane.down === null ? h("div", { class: "kr-pane" }, canvas, steps(section.width)) : canvas;
    }
    const { element, follow } = slices(scene, section);
    panes.push({ section, canvas, follow });
    return h("div", { class: "kr-pane" }, canvas, element);
  };
  let laid: readonly Section[] = [];
  const lay = () => {
    if (laid === scene.sections) return;
    laid = scene.sections;
    resized.disconnect();
    panes = [];
    const [first, ...others] = laid.map(pane);
    const [one, , other] = laid;
    frame.classList.toggle("kr-three", others.length > 0);
    // All at one scale: two sections of a volume are as broad as each other, and two as tall.
    const share = one && other ? one.broad / other.broad : 1;
    frame.style.setProperty("--kr-columns", `${Math.min(BROADEST, Math.max(NARROWEST, share))}fr 1fr`);
    frame.replaceChildren(...(first ? [first] : []), ...(others.length ? [crossHairs, ...others] : []));
  };
  scene.watch(lay);

  const tools = toolbar(listening, scene, live, (tool, text) => {
    sketch.tool = tool;
    brush.follow(tool === "brush");
    scene.look(null);
    giveUp();
    for (const { canvas } of panes) canvas.dataset.tool = tool;
    hint.textContent = text;
    spoken.textContent = text;
  });
  const element = h("div", { class: "kr-stage" }, tools, brush.element, frame, hint, spoken, reaching(scene), legend(scene));
  scene.watch(() => {
    element.dataset.stale = String(scene.map !== null && scene.current === null);
    for (const { follow } of panes) follow();
    draw();
  });
  return element;
}

/** The first and the last step of a signal, below it. */
function steps(count: number): HTMLElement {
  return h("div", { class: "kr-ends" }, h("small", {}, "step 0"), h("small", {}, `step ${(count - 1).toLocaleString("en")}`));
}
