// The explorer's page: lays out the parts and binds them to the model.
import type { RenderProps } from "@anywidget/types";
import { classes } from "./classes";
import { compare } from "./compare";
import { files, lookControls, runControls } from "./controls";
import { h, Listening, png, unique } from "./dom";
import { inspector } from "./inspector";
import { Scene } from "./scene";
import { stage } from "./stage";
import { figure } from "./figures";
import { likeness, type Model, seconds, type State, standing } from "./state";

function header(listening: Listening, scene: Scene, live: boolean): HTMLElement {
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
  const bar = h("progress", { max: 1, "aria-label": "Progress of the map" });
  const draw = () => {
    const { current: map, waiting } = scene;
    const running = live && model.get("running");
    const { kind, text } = standing({ map, running, waiting, failed: model.get("_failed") });
    if (spoken.textContent !== text && (state.dataset.kind !== kind || kind !== "running")) spoken.textContent = text;
    state.dataset.kind = kind;
    state.textContent = text;
    const target = map ? map.target : scene.target;
    const said = map ? map.base : target === null ? null : (scene.probabilities[target] ?? null);
    title.replaceChildren();
    if (said === null) title.append("Occlusion map");
    else title.append("Why ", h("em", {}, scene.name(target)), `, ${figure(said)}?`);
    const busy = running || waiting;
    const unfinished = busy && map && (waiting || !map.finished);
    const toTheEnd = model.get("exact") || model.get("ssim_target") >= 1;
    left.textContent = unfinished
      ? waiting || map.left === null
        ? ""
        : `${toTheEnd ? "" : "at most "}${seconds(map.left)} left`
      : kind !== "error" && map?.finished && !map.asked.region
        ? `${seconds(map.seconds)}${map.inFull ? ", by full inference" : ""}`
        : "";
    probably.textContent = map && !waiting && kind !== "error" ? likeness(map.estimate, map.note) : "";
    cancel.hidden = !running;
    if (busy && !map) bar.removeAttribute("value");
    else bar.value = !map || map.total === 0 ? 0 : map.finished && !waiting ? 1 : map.done / map.total;
    bar.classList.toggle("kr-still", !busy);
  };
  listening.to(["running", "_failed", "_class_names"], draw);
  scene.watch(draw);
  return h("div", { class: "kr-header" }, title, h("div", { class: "kr-status" }, state, left, probably, spoken), cancel, bar);
}

function trouble(listening: Listening): HTMLElement {
  const { model } = listening;
  const text = h("p", {});
  const element = h("div", { class: "kr-error", role: "alert" }, h("b", {}, "This did not work."), text);
  listening.to(["error"], () => {
    element.hidden = !model.get("error");
    text.textContent = model.get("error");
  });
  return element;
}

/** Pictures to pick from, if there are several. */
function picker(listening: Listening): HTMLElement {
  const { model } = listening;
  const row = h("div", { class: "kr-picker", role: "radiogroup", "aria-label": "Image" });
  const group = unique("image");
  listening.to(["_thumbnails"], () => {
    row.hidden = !model.get("_thumbnails").length;
    row.replaceChildren(
      ...model.get("_thumbnails").map((bytes, index) => {
        const input = h("input", {
          type: "radio",
          name: group,
          "aria-label": `Image ${index + 1}`,
          "data-lm-suppress-shortcuts": "true",
          onchange: () => {
            model.set("image_index", index);
            model.save_changes();
          },
        });
        const label = h("label", {}, input);
        if (bytes.byteLength) {
          const url = URL.createObjectURL(new Blob([png(bytes)], { type: "image/png" }));
          label.append(h("img", { src: url, alt: "", onload: () => URL.revokeObjectURL(url) }));
        } else label.append(h("span", {}, String(index + 1)));
        return label;
      }),
    );
  });
  listening.to(["image_index", "_thumbnails"], () => {
    row.querySelectorAll("input").forEach((input, index) => {
      input.checked = index === model.get("image_index");
    });
  });
  return row;
}

/** Offers a file that the kernel made for this view: an explorer may be shown twice. */
function receive(model: Model, listening: Listening, view: string): void {
  const take = (message: { kind?: string; name?: string; view?: string }, buffers: DataView[]) => {
    const [bytes] = buffers;
    if (message.kind !== "file" || message.view !== view || !bytes) return;
    const url = URL.createObjectURL(new Blob([png(bytes)]));
    h("a", { href: url, download: message.name ?? "krypton-map" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };
  model.on("msg:custom", take);
  listening.atEnd(() => model.off("msg:custom", take));
}

function render({ model, el }: Pick<RenderProps<State>, "model" | "el">): () => void {
  const listening = new Listening(model);
  const live = model.get("_kernel") !== false;
  const scene = new Scene(model, listening, live);
  const view = unique("view");
  const root = h(
    "div",
    { class: "krypton-explorer" },
    header(listening, scene, live),
    trouble(listening),
    picker(listening),
    h(
      "div",
      { class: "kr-body" },
      h(
        "div",
        { class: "kr-side" },
        ...(live ? [runControls(listening)] : []),
        lookControls(listening),
        ...(live ? [files(listening, view)] : []),
      ),
      stage(listening, scene, live),
      h("div", { class: "kr-side kr-reading" }, classes(listening, scene, live), inspector(scene)),
    ),
    compare(listening, scene),
  );
  el.append(root);
  if (live) receive(model, listening, view);
  return () => {
    listening.end();
    root.remove();
  };
}

export default { render };
