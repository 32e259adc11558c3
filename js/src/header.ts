// The headline: the question, how far its map is, and what went wrong.
import { h, type Listening } from "./dom";
import { figure } from "./figures";
import type { Scene } from "./scene";
import { likeness, seconds, standing } from "./words";

export function header(listening: Listening, scene: Scene, live: boolean): HTMLElement {
  const { model } = listening;
  const title = h("h2", {});
  const state = h("span", { class: "kr-state" });
  // Said aloud when a run begins and ends, not at each of its many steps.
  const spoken = h("span", { class: "kr-hidden", role: "status" });
  const left = h("span", { class: "kr-left" });
  const probably = h("span", { class: "kr-likeness" });
  const cancel = h(
    "button",
    { type: "button", class: "kr-cancel", onclick: () => model.send({ kind: "cancel" }) },
    "Cancel",
  );
  const resume = h(
    "button",
    { type: "button", class: "kr-resume", title: "What was measured stays", onclick: () => model.send({ kind: "resume" }) },
    "Continue",
  );
  const bar = h("progress", { max: 1, "aria-label": "Progress of the map" });
  const draw = () => {
    const { progress: map, waiting } = scene;
    const running = live && model.get("running");
    const { kind, text } = standing({ map, running, waiting, failed: model.get("_failed") });
    if (spoken.textContent !== text && (state.dataset.kind !== kind || kind !== "running")) spoken.textContent = text;
    state.dataset.kind = kind;
    state.textContent = text;
    const target = map ? map.target : scene.target;
    const said = map ? map.base : target === null ? null : (scene.probabilities[target] ?? null);
    title.replaceChildren();
    if (said === null) title.append("Occlusion map");
    else title.append("What speaks for ", h("em", {}, scene.name(target)), ` (${scene.areShares ? "probability" : "output"} ${figure(said)})`);
    const busy = running || waiting;
    const unfinished = busy && map && (waiting || !map.finished);
    const toTheEnd = model.get("regions") !== null || model.get("exact") || model.get("ssim_target") >= 1;
    left.textContent = unfinished
      ? waiting || map.left === null
        ? ""
        : `${toTheEnd ? "" : "at most "}${seconds(map.left)} left`
      : kind !== "error" && map?.finished && !map.asked.region
        ? `${seconds(map.seconds)}${map.inFull ? ", by full inference" : ""}`
        : "";
    probably.textContent = map && !waiting && kind !== "error" ? likeness(map.estimate, map.note) : "";
    cancel.hidden = !running;
    resume.hidden = !live || kind !== "cancelled";
    if (busy && !map) bar.removeAttribute("value");
    else bar.value = !map || map.total === 0 ? 0 : map.finished && !waiting ? 1 : map.done / map.total;
    bar.classList.toggle("kr-still", !busy);
  };
  listening.to(["running", "_failed", "_class_names"], draw);
  scene.watch(draw);
  return h("div", { class: "kr-header" }, title, h("div", { class: "kr-status" }, state, left, probably, spoken), cancel, resume, bar);
}

/** An error of the kernel, as long as it stands. */
export function trouble(listening: Listening): HTMLElement {
  const { model } = listening;
  const text = h("p", {});
  const element = h("div", { class: "kr-error", role: "alert" }, h("b", {}, "This did not work."), text);
  listening.to(["error"], () => {
    element.hidden = !model.get("error");
    text.textContent = model.get("error");
  });
  return element;
}
