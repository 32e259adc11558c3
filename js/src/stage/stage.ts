// The map over the image: a canvas for every section that draws, listens, and speaks.
import { h, type Listening, onRepaint, set, unique } from "../dom";
import type { Place } from "../geometry";
import { describe } from "../inspector";
import { legend, reading } from "../legend";
import type { Map } from "../messages";
import type { Scene } from "../scene";
import type { Section } from "../section";
import { drawStage } from "./drawing";
import { brushing } from "./brushing";
import { listenToKeys, listenToPointer } from "./listening";
import { meeting, slices } from "./meeting";
import { reaching } from "./reaching";
import { Sketch } from "./sketch";
import { toolbar } from "./tools";
import { fade } from "./fade";
import { viewing } from "./viewing";
import { Viewport } from "./viewport";

/** The broadest and the narrowest that a column of a volume's sections may be, for the other one. */
const [BROADEST, NARROWEST] = [2.5, 0.4];

export function stage(listening: Listening, scene: Scene, live: boolean): HTMLElement {
  const { model } = listening;
  const help = unique("help");
  const spoken = h("output", { class: "kr-hidden", "aria-live": "polite" });
  const hint = h("span", { id: help, class: "kr-hidden" });
  const frame = h("div", { class: "kr-frame" });
  const framed = h("div", { class: "kr-framed" }, frame);
  const sketch = new Sketch();
  const crossHairs = meeting(scene);
  let panes: { section: Section; canvas: HTMLCanvasElement; part: Viewport; follow: () => void }[] = [];
  let before: Map | null = null;

  const draw = onRepaint(() => {
    const { map, current } = scene;
    const another = before !== null && map !== null && before !== map && isBefore && current !== null;
    [before, isBefore] = [map, map !== null && current === null];
    for (const { canvas, section, part } of panes) {
      if (another) fade(canvas);
      drawStage(canvas, scene, section, sketch, part);
      // For whoever waits for a map to be on the screen.
      canvas.dataset.drawn = String(Number(canvas.dataset.drawn ?? 0) + 1);
      canvas.dataset.map = map ? `${map.window}/${map.stride}/${map.done}` : "";
    }
    view.follow(seen());
  });
  /** Whether what is drawn is no longer what the controls ask for. */
  let isBefore = false;
  const seen = () => (panes[scene.pointed] ?? panes[0])?.part ?? new Viewport();
  const view = viewing(listening, scene, seen, () => draw(), () => element.closest(".krypton-explorer"));
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
    const part = new Viewport();
    listenToPointer(canvas, section, scene, sketch, part, live, { draw, apply, giveUp, choose });
    listenToKeys(canvas, section, scene, sketch, part, { draw, apply, giveUp, choose, say, brush: brush.hear });
    resized.observe(canvas);
    if (section.plane.across === null) {
      panes.push({ section, canvas, part, follow: () => undefined });
      return section.plane.down === null ? h("div", { class: "kr-pane" }, canvas, steps(section.width)) : canvas;
    }
    const { element, follow } = slices(scene, section);
    panes.push({ section, canvas, part, follow });
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
    framed.style.setProperty("--kr-aspect", String(one?.aspect ?? 1));
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
    view.choose(tool);
    scene.look(null);
    giveUp();
    for (const { canvas } of panes) canvas.dataset.tool = tool;
    hint.textContent = text;
    spoken.textContent = text;
  });
  const earlier = h("p", { class: "kr-before" }, "The map before: the new one is on its way");
  const shown = h("div", { class: "kr-shown" }, framed, legend(scene));
  framed.append(earlier);
  const element = h("div", { class: "kr-stage" }, tools, brush.element, shown, hint, spoken, view.element, reaching(scene), reading(listening, scene));
  scene.watch(() => {
    const stale = scene.map !== null && scene.current === null;
    element.dataset.stale = String(stale);
    earlier.hidden = !stale;
    for (const { follow } of panes) follow();
    draw();
  });
  return element;
}

/** The first and the last step of a signal, below it. */
function steps(count: number): HTMLElement {
  return h("div", { class: "kr-ends" }, h("small", {}, "step 0"), h("small", {}, `step ${(count - 1).toLocaleString("en")}`));
}
