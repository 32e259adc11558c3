// The pictures to pick from, if there are several: what each is called, what the model says of it, how far its map is.
import { h, type Listening, png, set, unique } from "./dom";
import { figure } from "./figures";
import type { Scene } from "./scene";

/** Words for how far a map is. */
function stateOf({ map, current }: Scene, running: boolean): string {
  if (!map) return running ? "measuring" : "";
  if (!current || !map.finished) return running ? "measuring" : "in part";
  return map.exact ? "exact" : "approximate";
}

export function picker(listening: Listening, scene: Scene): HTMLElement {
  const { model } = listening;
  const row = h("div", { class: "kr-picker", role: "radiogroup", "aria-label": "Image" });
  const group = unique("image");
  let cards: { input: HTMLInputElement; said: HTMLElement; state: HTMLElement }[] = [];
  listening.to(["_thumbnails"], () => {
    const names = model.get("_image_names");
    row.hidden = !model.get("_thumbnails").length;
    cards = [];
    row.replaceChildren(
      ...model.get("_thumbnails").map((bytes, index) => {
        const name = names[index] ?? "";
        const input = h("input", {
          type: "radio",
          name: group,
          "aria-label": `Image ${index + 1}${name && `, ${name}`}`,
          "data-lm-suppress-shortcuts": "true",
          onchange: () => set(model, "image_index", index),
        });
        const [said, state] = [h("small", {}), h("small", {})];
        cards.push({ input, said, state });
        const label = h("label", {}, input);
        if (bytes.byteLength) {
          const url = URL.createObjectURL(new Blob([png(bytes)], { type: "image/png" }));
          label.append(h("img", { src: url, alt: "", onload: () => URL.revokeObjectURL(url) }));
        } else label.append(h("span", {}, String(index + 1)));
        label.append(h("div", {}, h("b", {}, name || `Image ${index + 1}`), said, state));
        return label;
      }),
    );
  });
  const follow = () => {
    const now = model.get("image_index");
    cards.forEach(({ input }, index) => (input.checked = index === now));
    const card = cards[now];
    const { predicted, probabilities } = scene;
    if (!card || predicted === null) return;
    card.said.textContent = probabilities.length > 1 ? `${scene.name(predicted)} ${figure(probabilities[predicted] ?? NaN)}` : "";
    card.state.textContent = stateOf(scene, model.get("running"));
  };
  listening.to(["image_index", "_thumbnails", "running"], follow);
  scene.watch(follow);
  return row;
}
