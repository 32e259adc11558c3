// The pictures to pick from, if there are several.
import { h, type Listening, png, set, unique } from "./dom";

export function picker(listening: Listening): HTMLElement {
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
          onchange: () => set(model, "image_index", index),
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
