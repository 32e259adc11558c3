// Buttons for files, and the files that come.
import { h, type Listening, png, unique } from "../dom";
import type { Model } from "../messages";

/** Pixels of a PNG's width: at least, at most, and at first. */
const [NARROWEST, WIDEST, USUAL] = [100, 20_000, 1250];

/** Buttons that ask the kernel for a file, to be offered in this `view`. */
export function files(listening: Listening, view: string): HTMLElement {
  const { model } = listening;
  const id = unique("width");
  const width = h("input", {
    id,
    type: "number",
    min: NARROWEST,
    max: WIDEST,
    step: 10,
    value: USUAL,
    "data-lm-suppress-shortcuts": "true",
  });
  const button = (suffix: string, title: string) => {
    const ask = () => {
      const wide = suffix === "png" ? { width: Number(width.value) || USUAL } : {};
      model.send({ kind: "save", as: suffix, view, ...wide });
    };
    return h("button", { type: "button", title, onclick: ask }, suffix.toUpperCase());
  };
  return h(
    "div",
    { class: "kr-files", role: "group", "aria-label": "Save" },
    h("span", {}, "Save"),
    button("png", "A picture of the map with its legend, as wide as below"),
    button("svg", "The same as a drawing"),
    button("pdf", "The same for print"),
    button("npz", "The numbers, for Heatmap.load"),
    button("html", "This page, without a kernel or a network"),
    h("div", { class: "kr-row" }, h("label", { for: id }, "Pixels of the PNG's width"), width),
  );
}

/** Offers a file that the kernel made for this view: an explorer may be shown twice. */
export function receive(model: Model, listening: Listening, view: string): void {
  const take = (message: { kind?: string; name?: string; view?: string }, buffers: DataView[]) => {
    const [bytes] = buffers;
    if (message.kind !== "file" || message.view !== view || !bytes) return;
    const url = URL.createObjectURL(new Blob([png(bytes)]));
    // Some browsers follow only a link that is on the page.
    const link = h("a", { href: url, download: message.name ?? "krypton-map" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };
  model.on("msg:custom", take);
  listening.atEnd(() => model.off("msg:custom", take));
}
