// The map over the picture: a canvas that draws, listens, and speaks.
import { h, type Listening, onRepaint, set, unique } from "../dom";
import type { Point } from "../geometry";
import { describe } from "../inspector";
import { legend } from "../legend";
import type { Scene } from "../scene";
import { drawStage } from "./drawing";
import { listenToKeys, listenToPointer } from "./listening";
import { Sketch } from "./sketch";
import { FIRST_HELP, toolbar } from "./tools";

export function stage(listening: Listening, scene: Scene, live: boolean): HTMLElement {
  const { model } = listening;
  const help = unique("help");
  const spoken = h("output", { class: "kr-hidden", "aria-live": "polite" });
  const hint = h("span", { id: help, class: "kr-hidden" }, FIRST_HELP);
  const canvas = h("canvas", {
    class: "kr-map",
    tabindex: 0,
    role: "application",
    "aria-label": "Occlusion map",
    "aria-describedby": help,
    "data-lm-suppress-shortcuts": "true",
  });
  const sketch = new Sketch(scene);

  const draw = onRepaint(() => {
    drawStage(canvas, scene, sketch);
    // For whoever waits for a map to be on the screen.
    const { map } = scene;
    canvas.dataset.drawn = String(Number(canvas.dataset.drawn ?? 0) + 1);
    canvas.dataset.map = map ? `${map.window}/${map.stride}/${map.done}` : "";
  });
  const giveUp = () => {
    sketch.clear();
    draw();
  };
  const apply = () => {
    const { region } = sketch;
    if (region) set(model, "region", region);
    giveUp();
  };
  const say = () => {
    spoken.textContent = describe(scene)?.text ?? "";
  };
  const choose = (at: Point) => {
    const { regions } = scene;
    if (!regions) scene.pin(at);
    if (!regions || !live) return;
    const id = scene.id(regions.at(at));
    const before = model.get("covered");
    set(model, "covered", before.includes(id) ? before.filter((other) => other !== id) : [...before, id]);
  };
  listenToPointer(canvas, scene, sketch, live, { draw, apply, giveUp, choose });
  listenToKeys(canvas, scene, sketch, { draw, apply, giveUp, choose, say });
  const resized = new ResizeObserver(draw);
  resized.observe(canvas);
  listening.atEnd(() => resized.disconnect());

  const tools = toolbar(listening, (tool, text) => {
    sketch.tool = tool;
    scene.look(null);
    giveUp();
    canvas.dataset.tool = tool;
    hint.textContent = text;
    spoken.textContent = text;
  });
  tools.hidden = !live;
  const element = h("div", { class: "kr-stage" }, tools, h("div", { class: "kr-frame" }, canvas), hint, spoken, legend(scene));
  scene.watch(() => {
    element.dataset.stale = String(scene.map !== null && scene.current === null);
    draw();
  });
  return element;
}
