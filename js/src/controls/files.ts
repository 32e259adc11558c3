// Buttons for files, and the files that come.
import { h, type Listening, png } from "../dom";
import type { Model } from "../messages";

/** Buttons that ask the kernel for a file, to be offered in this `view`. */
export function files(listening: Listening, view: string): HTMLElement {
  const { model } = listening;
  const button = (suffix: string, title: string) =>
    h("button", { type: "button", title, onclick: () => model.send({ kind: "save", as: suffix, view }) }, suffix.toUpperCase());
  return h(
    "div",
    { class: "kr-files", role: "group", "aria-label": "Save" },
    h("span", {}, "Save"),
    button("png", "A picture of the map"),
    button("npz", "The numbers, for Heatmap.load"),
    button("html", "This page, without a kernel or a network"),
  );
}

/** Offers a file that the kernel made for this view: an explorer may be shown twice. */
export function receive(model: Model, listening: Listening, view: string): void {
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
