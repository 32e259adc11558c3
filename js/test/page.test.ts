// The page's parts on a model without a kernel. Pixels are looked at in Chromium (tests/widget/test_browser.py).
// @vitest-environment happy-dom
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { State } from "../src/messages";
import { FLAT } from "../src/section";
import widget from "../src/widget";
import { settings as asked } from "./settings";

const bytes = (...values: number[]) => new DataView(Float32Array.from(values).buffer);

function fakeModel(changes: Partial<State> = {}) {
  const state = {
    window: 16,
    stride: 8,
    ssim_target: 0.95,
    exact: false,
    baseline: "grey",
    region: null,
    regions: null,
    covered: [],
    curve: false,
    target: null,
    image_index: 0,
    opacity: 0.85,
    colormap: "coolwarm",
    scale: "own",
    limit: 1,
    overlay: "cells",
    threshold: 0,
    dots: true,
    running: false,
    error: "",
    _failed: false,
    _class_names: ["cat", "dog"],
    _colours: { coolwarm: new DataView(new ArrayBuffer(768)) },
    _thumbnails: [],
    _image_names: [],
    _detail: {},
    _cells: {},
    _view: {},
    _frame: {},
    _comparison: {},
    _together: {},
    _curves: {},
    _given: {},
    _kept: {},
    ...changes,
  } as unknown as State;
  const listeners = new Map<string, Set<(...args: unknown[]) => void>>();
  return {
    state,
    listeners,
    get: (name: keyof State) => state[name],
    set: (name: keyof State, value: never) => {
      state[name] = value;
      for (const listener of listeners.get(`change:${name}`) ?? []) listener();
    },
    save_changes: vi.fn(),
    send: vi.fn(),
    on: (name: string, listener: () => void) => {
      listeners.set(name, (listeners.get(name) ?? new Set()).add(listener));
    },
    off: (name: string, listener: () => void) => listeners.get(name)?.delete(listener),
  };
}

function show(model: ReturnType<typeof fakeModel>) {
  const el = document.createElement("div");
  document.body.append(el);
  const end = widget.render({ model, el } as never);
  return { el, end };
}

const picture = {
  baseline: "grey",
  sizes: [16, 24],
  spacing: [1, 1],
  axes: ["rows", "columns"],
  planes: [FLAT],
  picture: bytes(1),
  patch: bytes(1),
  cover: {},
  byWindow: false,
  partition: null,
  regions: bytes(),
  ids: [],
  probabilities: bytes(0.9, 0.1),
  predicted: 0,
  areShares: true,
};

const settled = () => new Promise((resolve) => setTimeout(resolve, 50));

const frame = {
  asked,
  sizes: [16, 24],
  counts: [1, 2],
  window: 16,
  stride: 8,
  target: 0,
  base: 0.9,
  largest: 0.4,
  shared: 0.4,
  seconds: 1,
  done: 2,
  total: 2,
  left: 0,
  finished: true,
  most: null,
  exact: true,
  coarse: true,
  least: 0.05,
  estimate: null,
  note: "",
  inFull: false,
  calls: { python: "heatmap = 1", command: "krypton explain IMAGE" },
  notFinite: 0,
  values: bytes(0.5, 0.8),
  status: new DataView(Uint8Array.of(4, 4).buffer),
  classes: new DataView(Int32Array.of(1, 0).buffer),
  classValues: bytes(0.5, 0.8),
};

beforeEach(() => {
  document.body.replaceChildren();
  globalThis.createImageBitmap = vi.fn(() => Promise.resolve({} as ImageBitmap));
});

describe("the page", () => {
  it("labels every input", () => {
    const { el } = show(fakeModel());
    const inputs = [...el.querySelectorAll<HTMLInputElement>("input, select")];
    expect(inputs.length).toBeGreaterThan(10);
    for (const input of inputs) {
      const label = input.closest("label") ?? el.querySelector(`label[for="${input.id}"]`);
      expect(label ?? input.getAttribute("aria-label"), input.outerHTML).toBeTruthy();
      expect(input.dataset.lmSuppressShortcuts).toBe("true");
    }
  });

  it("labels the sliders of a volume's three views", async () => {
    const cells = { of: [2, 3, 4], sizes: [2, 3, 4], channels: 1, low: 0, high: 1, cells: new DataView(new ArrayBuffer(48)) };
    const planes = ["axial", "coronal", "sagittal"].map((name, across) => {
      const [down = 0, right = 1] = [0, 1, 2].filter((axis) => axis !== across);
      return { ...FLAT, name, across, down, right };
    });
    const axes = ["depth", "rows", "columns"];
    const volume = { ...picture, image: 0, sizes: [2, 3, 4], spacing: [1, 1, 1], axes, planes, picture: bytes(), patch: bytes() };
    const { el } = show(fakeModel({ _view: volume, _cells: { ...cells, image: 0, levels: [0, 1], affine: null } }));
    await settled();
    const sliders = [...el.querySelectorAll<HTMLInputElement>("[data-slice]")];
    expect(sliders.map(({ id, max }) => [el.querySelector(`label[for="${id}"]`)?.textContent, max])).toEqual([
      ["axial", "1"],
      ["coronal", "2"],
      ["sagittal", "3"],
    ]);
    expect(sliders.map((slider) => slider.dataset.lmSuppressShortcuts)).toEqual(["true", "true", "true"]);
    expect(el.querySelector(".kr-meeting dl")?.textContent).toContain("depth1rows1columns2");
  });

  it("takes the stride down with the patch, in one message", () => {
    const model = fakeModel();
    const { el } = show(model);
    const slider = el.querySelector<HTMLInputElement>("[data-trait=window]");
    if (!slider) throw new Error("no slider");
    slider.value = "5";
    slider.dispatchEvent(new Event("change"));
    expect([model.state.window, model.state.stride]).toEqual([5, 5]);
    expect(model.save_changes).toHaveBeenCalledTimes(1);
  });

  it("says what it shows", () => {
    const model = fakeModel({ _frame: frame });
    const { el } = show(model);
    expect(el.querySelector("h2")?.textContent).toBe("What speaks for cat (output 0.9)");
    expect(el.querySelector<HTMLElement>(".kr-state")?.dataset.kind).toBe("exact");
    model.set("error", "preprocess raised" as never);
    expect(el.querySelector<HTMLElement>(".kr-error")?.hidden).toBe(false);
    expect(el.querySelector(".kr-error")?.textContent).toContain("preprocess raised");
    expect(el.querySelector<HTMLElement>(".kr-state")?.dataset.kind, "the map is what it was").toBe("exact");
  });

  it("never calls the map of another question what was asked for", async () => {
    const model = fakeModel({ _view: { ...picture, image: 0 }, _frame: frame });
    const { el } = show(model);
    const state = el.querySelector<HTMLElement>(".kr-state");
    await settled();
    expect(state?.dataset.kind).toBe("exact");
    expect(el.querySelector<HTMLElement>(".kr-stage")?.dataset.stale).toBe("false");
    model.set("window", 9 as never); // the kernel has not heard of it yet
    expect(state?.textContent).toBe("Waiting for the kernel");
    expect(el.querySelector("progress")?.hasAttribute("value"), "no full bar").toBe(false);
    await settled();
    expect(el.querySelector<HTMLElement>(".kr-stage")?.dataset.stale).toBe("true");
    model.set("running", true as never);
    expect(state?.textContent).toBe("Reading the model");
    model.set("window", 16 as never);
    expect(state?.textContent).toContain("Exact");
    model.set("exact", true as never); // more of the same map
    expect([state?.dataset.kind, state?.textContent]).toEqual(["running", "Measuring, 2 of 2 positions"]);
  });

  it("shows a map on its own picture alone", async () => {
    const model = fakeModel({ _view: { ...picture, image: 0 }, _frame: frame });
    const { el } = show(model);
    await settled();
    expect(el.querySelector("h2")?.textContent).toBe("What speaks for cat (probability 0.9)");
    expect(el.querySelectorAll(".kr-classes button")).toHaveLength(2);
    model.set("image_index", 1 as never);
    expect(el.querySelector("h2")?.textContent).toBe("Occlusion map");
    expect(el.querySelector(".kr-classes button"), "they are of the other picture").toBeNull();
    const other = { ...picture, image: 1, predicted: 1, probabilities: bytes(0.2, 0.8) };
    model.set("_view", other as never);
    await settled();
    expect(el.querySelector("h2")?.textContent).toBe("What speaks for dog (probability 0.8)");
  });

  it("names the class explained while its map is on its way", async () => {
    const model = fakeModel({ _view: { ...picture, image: 0 }, _frame: frame });
    const { el } = show(model);
    await settled();
    model.set("target", 1 as never);
    expect(el.querySelector("h2")?.textContent).toBe("What speaks for dog (probability 0.1)");
    await vi.waitFor(() => expect(el.querySelector<HTMLElement>(".kr-inspected")?.hidden).not.toBe(false));
  });

  it("shares no name with another one on the page, nor a file", () => {
    const model = fakeModel();
    const views = [show(model), show(model), show(fakeModel())];
    const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
    expect(new Set(ids).size).toBe(ids.length);
    const groups = views.map(({ el }) => new Set([...el.querySelectorAll<HTMLInputElement>("[type=radio]")].map((i) => i.name)));
    expect(new Set(groups.flatMap((names) => [...names])).size).toBe(groups.reduce((sum, names) => sum + names.size, 0));
    const click = vi.spyOn(HTMLAnchorElement.prototype, "click").mockImplementation(() => undefined);
    views[1]?.el.querySelector<HTMLButtonElement>(".kr-files button")?.click();
    const [{ view }] = model.send.mock.calls[0] as [{ view: string }];
    URL.createObjectURL = vi.fn(() => "blob:");
    for (const listener of model.listeners.get("msg:custom") ?? []) listener({ kind: "file", view }, [bytes(1)]);
    expect(click).toHaveBeenCalledTimes(1);
    click.mockRestore();
  });

  it("finds classes by a part of their names, and says when there is none", async () => {
    const names = ["cat", "dog", "Bobcat", "wildcat", "owl", "crane", "Cat fish"];
    const probabilities = bytes(0.1, 0.1, 0.1, 0.3, 0.1, 0.1, 0.2);
    const model = fakeModel({ _class_names: names, _view: { ...picture, image: 0, probabilities, predicted: 3 } });
    const { el } = show(model);
    await settled();
    const search = el.querySelector<HTMLInputElement>("input[type=search]");
    if (!search) throw new Error("no search");
    const type = (text: string, key?: string) => {
      search.value = text;
      search.dispatchEvent(new Event("input"));
      if (key) search.dispatchEvent(new KeyboardEvent("keydown", { key }));
    };
    const listed = () => [...el.querySelectorAll(".kr-classes button span")].map((span) => span.textContent);
    type("CAT");
    expect(listed()).toEqual(["cat", "Cat fish", "wildcat", "Bobcat"]);
    type("bobC", "Enter");
    expect([model.state.target, search.value]).toEqual([2, ""]);
    type("zebra", "Enter");
    expect([model.state.target, listed()]).toEqual([2, []]);
    expect(el.querySelector(".kr-group [role=status]")?.textContent).toContain("No class has “zebra”");
    search.dispatchEvent(new Event("change")); // left, with the text in it
    type("", "Enter");
    expect(model.state.target).toBe(2);
    expect(listed()[0]).toBe("wildcat");
  });

  it("says aloud that a run began and ended, not how far it is", () => {
    const model = fakeModel({ running: true, _frame: { ...frame, done: 1, finished: false } });
    const spoken = show(model).el.querySelector("[role=status]");
    const first = spoken?.textContent;
    model.set("_frame", { ...frame, done: 2, finished: false } as never);
    expect(spoken?.textContent).toBe(first);
    model.set("running", false as never);
    model.set("_frame", frame as never);
    expect(spoken?.textContent).toContain("Exact");
  });

  it("tells how long: what is left, then what it took, and nothing of a run that failed", () => {
    const model = fakeModel({ running: true, _frame: { ...frame, done: 1, finished: false, left: null } });
    const time = show(model).el.querySelector(".kr-left");
    expect(time?.textContent).toBe("");
    model.set("_frame", { ...frame, done: 1, finished: false, left: 4 } as never);
    expect(time?.textContent).toBe("at most 4.0 s left");
    model.set("exact", true as never);
    const whole = { ...frame, asked: { ...asked, exact: true } };
    model.set("_frame", { ...whole, done: 1, finished: false, left: 3 } as never);
    expect(time?.textContent).toBe("3.0 s left");
    model.set("running", false as never);
    model.set("_frame", whole as never);
    expect(time?.textContent).toBe("1.0 s");
    model.set("_frame", { ...whole, done: 1, finished: false, left: 3 } as never);
    model.set("_failed", true as never);
    expect(time?.textContent).toBe("");
  });

  it("tells how similar an approximate map probably is, and what is interpolated", () => {
    const estimate = { value: 0.93, low: 0.9, high: 0.96, basis: "online" };
    const status = new DataView(Uint8Array.of(4, 1).buffer);
    const model = fakeModel({ _frame: { ...frame, done: 1, exact: false, estimate, status } });
    const { el } = show(model);
    expect(el.querySelector<HTMLElement>(".kr-state")?.dataset.kind).toBe("approximate");
    expect(el.querySelector(".kr-state")?.textContent).toBe("Approximate, 1 of 2 positions measured");
    expect(el.querySelector(".kr-likeness")?.textContent).toBe("Similarity to the exact map about 0.93, 0.90 to 0.96, estimated");
    model.set("_frame", frame as never);
    expect(el.querySelector(".kr-likeness")?.textContent).toBe("");
  });

  it("cancels and saves by messages", () => {
    const model = fakeModel({ running: true });
    const { el } = show(model);
    el.querySelector<HTMLButtonElement>(".kr-cancel")?.click();
    expect(model.send).toHaveBeenCalledWith({ kind: "cancel" });
    el.querySelector<HTMLButtonElement>(".kr-files button")?.click();
    expect(model.send).toHaveBeenCalledWith({ kind: "save", as: "png", view: expect.any(String) as string, width: 1250 });
  });

  it("keeps a map, lets it go, and continues after a cancel, by messages", async () => {
    const kept = { name: "dog, 8 every 4", frame, view: { ...picture, planes: [FLAT] } };
    const model = fakeModel({ _view: { ...picture, image: 0 }, _frame: { ...frame, done: 1, finished: false }, _kept: kept });
    const { el } = show(model);
    await settled();
    const press = (selector: string) => el.querySelector<HTMLButtonElement>(selector)?.click();
    press(".kr-resume");
    expect(model.send).toHaveBeenLastCalledWith({ kind: "resume" });
    press("[data-do=keep]");
    expect(model.send).toHaveBeenLastCalledWith({ kind: "keep" });
    const panel = el.querySelector<HTMLElement>(".kr-beside");
    expect(panel?.hidden).toBe(false);
    expect([...(panel?.querySelectorAll("figcaption b") ?? [])].map((b) => b.textContent)).toEqual(["dog, 8 every 4", "cat"]);
    press(".kr-beside h3 button");
    expect(model.send).toHaveBeenLastCalledWith({ kind: "let go" });
    model.set("_kept", {} as never);
    await settled();
    expect(panel?.hidden).toBe(true);
    model.set("_frame", frame as never);
    expect(el.querySelector<HTMLElement>(".kr-resume")?.hidden).toBe(true);
  });

  it("goes back to earlier maps, one by one, to any of them, and to the first controls", async () => {
    const model = fakeModel({ _view: { ...picture, image: 0 }, _frame: frame });
    const { el } = show(model);
    await settled();
    expect(el.querySelector<HTMLElement>(".kr-maps")?.hidden, "one map alone").toBe(true);
    for (const window of [12, 8]) {
      model.set("window", window as never);
      model.set("_frame", { ...frame, asked: { ...asked, window } } as never);
      await settled();
    }
    const maps = () => [...el.querySelectorAll<HTMLElement>(".kr-maps button")];
    expect(maps().map((map) => map.querySelector("small")?.textContent)).toEqual(["16", "12", "8"].map((w) => `${w}/8 grey, similarity 0.95`));
    expect(maps().map((map) => map.getAttribute("aria-pressed"))).toEqual(["false", "false", "true"]);
    el.querySelector<HTMLElement>("[data-do=undo]")?.click();
    expect(model.state.window).toBe(12);
    model.set("_frame", { ...frame, asked: { ...asked, window: 12 } } as never);
    await settled();
    expect(maps().map((map) => map.getAttribute("aria-pressed"))).toEqual(["false", "true", "false"]);
    maps()[2]?.click();
    expect(model.state.window).toBe(8);
    el.querySelector<HTMLElement>("[data-do=reset]")?.click();
    expect([model.state.window, model.state.opacity]).toEqual([16, 0.85]);
  });

  it("gives the call of a finished map alone", async () => {
    const model = fakeModel({ _view: { ...picture, image: 0 }, _frame: frame });
    const { el } = show(model);
    await settled();
    const panel = el.querySelector<HTMLElement>(".kr-call");
    expect([...(panel?.querySelectorAll("code") ?? [])].map((code) => code.textContent)).toEqual(["heatmap = 1", "krypton explain IMAGE"]);
    model.set("window", 8 as never);
    expect(panel?.hidden).toBe(true);
  });

  it("lists what counts most, and goes there", async () => {
    const model = fakeModel({ _view: { ...picture, image: 0 }, _frame: frame });
    const { el } = show(model);
    await settled();
    const listed = [...el.querySelectorAll<HTMLElement>(".kr-ranking button")];
    expect(listed.map((button) => button.textContent)).toEqual(["falls by 0.4rows 0–15, columns 0–15"]);
    listed[0]?.click();
    await settled();
    expect(el.querySelector(".kr-inspected dl")?.textContent).toContain("0.9 → 0.5");
  });

  it("has no controls that need a kernel where there is none", () => {
    const { el } = show(fakeModel({ _kernel: false }));
    expect(el.querySelector("[data-trait=window]")).toBeNull();
    expect(el.querySelector("[data-trait=opacity]")).not.toBeNull();
    expect(el.querySelector(".kr-files")).toBeNull();
  });

  it("leaves nothing behind", () => {
    const model = fakeModel();
    const { el, end } = show(model);
    end();
    expect(el.children).toHaveLength(0);
    expect([...model.listeners.values()].every((set) => set.size === 0)).toBe(true);
  });

  const answered = { regions: "slic:10", image_index: 0, baseline: "grey", target: null, region: null };

  it("covers regions together, one click each", async () => {
    const numbers = Int32Array.from({ length: 16 * 24 }, (_, pixel) => (pixel % 24 < 12 ? 0 : 1));
    const view = { ...picture, partition: "slic:10", regions: new DataView(numbers.buffer), ids: ["4", "9007199254740993"], image: 0 };
    const model = fakeModel({
      regions: "slic:10",
      covered: ["4", "9007199254740993"],
      _view: view as never,
      _frame: { ...frame, asked: answered, window: 0, stride: 0 } as never,
      _together: { asked: answered, covered: ["4", "9007199254740993"], probabilities: bytes(0.1, 0.9) } as never,
    });
    const { el } = show(model);
    await settled();
    const panel = el.querySelector<HTMLElement>(".kr-together");
    expect(panel?.hidden).toBe(false);
    expect(panel?.textContent).toContain("2 regions");
    expect(panel?.textContent).toContain("0.9 → 0.1");
    expect(panel?.textContent).toContain("falls by0.8"); // together
    expect(panel?.textContent).toContain("falls by 0.5"); // alone, summed: 0.4 and 0.1
    expect(panel?.textContent).toContain("flips todog 0.9");
    for (const trait of ["window", "stride", "ssim_target", "exact"]) {
      expect(el.querySelector(`[data-trait=${trait}]`)?.closest("[hidden]"), trait).toBeTruthy();
    }
    expect(el.querySelector("[data-trait=regions]")?.closest("[hidden]")).toBeNull();
    panel?.querySelector("button")?.click();
    expect(model.state.covered).toEqual([]);
    await settled();
    expect(panel?.hidden).toBe(true);
  });

  it("shows no answer to another question", async () => {
    const view = { ...picture, partition: "slic:10", regions: new DataView(new Int32Array(384).buffer), ids: ["0"], image: 0 };
    const model = fakeModel({
      regions: "slic:10",
      covered: ["0"],
      _view: view as never,
      _frame: { ...frame, asked: answered } as never,
      _together: { asked: answered, covered: ["0", "1"], probabilities: bytes(0.1, 0.9) } as never,
    });
    const { el } = show(model);
    await settled();
    expect(el.querySelector(".kr-together")?.textContent).toContain("1 region, being asked");
  });

  it("draws deletion curves with their areas", async () => {
    const curve = (name: string, area: number) => ({ name, shares: bytes(0, 0.5, 1), values: bytes(0.9, 0.3, 0), area });
    const curves = { asked, curves: [curve("exact", 0.375), curve("at random", 0.5)], note: "" };
    const model = fakeModel({ curve: true, _view: { ...picture, image: 0 } as never, _frame: frame as never, _curves: curves as never });
    const { el } = show(model);
    await settled();
    const panel = el.querySelector<HTMLElement>(".kr-curves");
    expect(panel?.querySelectorAll("polyline")).toHaveLength(2);
    expect(panel?.querySelector("polyline")?.getAttribute("points")).toBe("0.0,0.0 110.0,80.0 220.0,120.0");
    expect(panel?.textContent).toContain("0.375");
    model.set("window", 8 as never);
    await settled();
    expect(panel?.querySelector("dl")?.hidden).toBe(true);
  });

  it("offers what the user gave beside its own", () => {
    const model = fakeModel();
    const { el } = show(model);
    const yours = () => [...el.querySelectorAll<HTMLInputElement>("input[value=yours]")].map((input) => !input.closest("[hidden]"));
    expect(yours()).toEqual([false, false]);
    model.set("_given", { regions: { given: "1" }, baseline: { given: "soft 0" } } as never);
    expect(yours()).toEqual([true, true]);
    el.querySelectorAll<HTMLInputElement>("input[value=yours]").forEach((input) => input.click());
    expect(model.state.regions).toEqual({ given: "1" });
    expect(model.state.baseline).toEqual({ given: "soft 0" });
  });
});
