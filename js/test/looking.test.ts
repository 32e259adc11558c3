// @vitest-environment happy-dom
// How maps are shown: what flips, lines, zoom, scales; pure functions, against cases told by hand.
import { describe, expect, it } from "vitest";
import { flipsOf, sayFlips } from "../src/flips";
import { Windows } from "../src/layout";
import { histogram, sayNothing } from "../src/legend";
import { EXACT, INTERPOLATED, UNKNOWN } from "../src/messages";
import { composed, edges, isolines, weight } from "../src/paint";
import { FLAT, Section } from "../src/section";
import { presets } from "../src/stage/viewing";
import { Viewport } from "../src/stage/viewport";
import { tipOf } from "../src/tips";

describe("flips", () => {
  const name = (target: number) => `class ${target}`;

  it("are counted where they were measured, and drawn between as at the nearest", () => {
    const status = Uint8Array.of(EXACT, INTERPOLATED, INTERPOLATED, INTERPOLATED, EXACT, EXACT, UNKNOWN, EXACT);
    const classes = Int32Array.of(3, -1, -1, -1, 0, 2, -1, 3);
    const flips = flipsOf({ status, classes, counts: [8] }, 0);
    expect(Array.from(flips.cells)).toEqual([1, 1, 1, 0, 0, 1, 0, 1]);
    expect([flips.count, flips.measured, flips.mostly]).toEqual([3, 4, 3]);
    expect(sayFlips(flips, name, false)).toBe("The answer flips at 3 of 4 places measured, mostly to class 3.");
  });

  it("spread on a grid, not over its edges", () => {
    const status = Uint8Array.of(EXACT, INTERPOLATED, EXACT, INTERPOLATED, EXACT, EXACT);
    const flips = flipsOf({ status, classes: Int32Array.of(0, -1, 5, -1, 0, 0), counts: [2, 3] }, 0);
    expect(Array.from(flips.cells)).toEqual([0, 0, 1, 0, 0, 0]);
    expect(sayFlips(flips, name, true)).toBe("The answer flips at 1 of 4 regions measured, to class 5.");
  });

  it("are none where nothing flips", () => {
    const flips = flipsOf({ status: Uint8Array.of(EXACT, EXACT), classes: Int32Array.of(1, 1), counts: [2] }, 1);
    expect(sayFlips(flips, name, false)).toBe("The answer flips at none of 2 places.");
    expect(sayFlips(flipsOf({ status: Uint8Array.of(EXACT), classes: new Int32Array(), counts: [1] }, 1), name, false)).toBe("");
  });
});

describe("lines", () => {
  it("go around a mask as long as they go", () => {
    const lines = edges(Uint8Array.of(0, 0, 0, 0, 0, 1, 1, 0), { height: 2, width: 4 });
    expect([...lines].sort()).toEqual([[1, 1, 1, 2], [1, 1, 3, 1], [1, 2, 3, 2], [3, 1, 3, 2]]);
  });

  it("pass a level half way between two pixels", () => {
    const lines = isolines(Float32Array.of(0, 1, 0, 1), { height: 2, width: 2 }, 0.5);
    expect(lines).toEqual([[1, 0.5, 1, 1.5]]);
    expect(isolines(Float32Array.of(0, 1, NaN, 1), { height: 2, width: 2 }, 0.5)).toEqual([]);
  });
});

describe("a smooth map", () => {
  const section = new Section(FLAT, [2, 8], [1, 1]);
  const windows = new Windows({ sizes: [2, 8], counts: [1, 4], window: 2, stride: 2 });

  it("has the values where they were measured, and goes over between", () => {
    const found = windows.between(Float32Array.of(0, 4, 8, 0), section, []);
    expect(Array.from(found.slice(0, 8))).toEqual([0, 1, 3, 5, 7, 6, 2, 0]);
  });

  it("shows what is unknown nowhere else", () => {
    const found = windows.between(Float32Array.of(0, 4, NaN, 0), section, []);
    expect(Array.from(found.slice(0, 8))).toEqual([0, 1, 3, 4, NaN, NaN, 0, 0]);
  });
});

describe("a part of a section", () => {
  it("keeps in place what is magnified, and stays inside", () => {
    const part = new Viewport();
    part.magnify(4, { x: 0.75, y: 0.25 });
    expect(part.place({ x: 0.75, y: 0.25 })).toEqual({ x: 0.75, y: 0.25 });
    expect([part.zoom, part.x, part.y]).toEqual([4, 0.5625, 0.1875]);
    part.drag(1, 9);
    expect([part.x, part.y]).toEqual([0.3125, 0]);
    part.show({ x: 0.9, y: 0.1 });
    expect(part.x + 0.25).toBeGreaterThan(0.9);
    part.magnify(1e-3);
    expect([part.whole, part.x, part.y]).toEqual([true, 0, 0]);
    part.magnify(1e9);
    expect(part.zoom).toBe(40);
  });
});

describe("scales", () => {
  it("count every value once", () => {
    expect(histogram([0, 0.1, 0.5, 0.99, 1, 2, -1], 0, 1, 4)).toEqual([2, 0, 1, 3]);
  });

  it("are composed as a map is over a picture", () => {
    const table = Uint8Array.from({ length: 768 }, (_, i) => (i % 3 === 0 ? 255 : 0));
    const pixels = composed(Float32Array.of(1, 0), 2, { limit: 1, table, opacity: 0.6, threshold: 0 });
    expect(Array.from(pixels)).toEqual([153, 0, 0, 255, 255, 102, 102, 255, 0, 0, 0, 255, 255, 255, 255, 255]);
  });

  it("leave small changes bare below a threshold", () => {
    expect([weight(0.2, 1, 1, 0.3), weight(0.3, 1, 1, 0.3) > 0]).toEqual([0, true]);
  });

  it("say so where hardly anything changes", () => {
    const map = { asked: { regions: null }, largest: 0.0013, least: 0.05, coarse: true, finished: true };
    const say = (change: object, areShares = true) => sayNothing({ ...map, ...change } as never, { areShares });
    expect(say({})).toMatch(/^No patch changes this by more than 0.002; /);
    expect(say({ finished: false })).toMatch(/^No patch so far changes/);
    expect([say({ largest: 0.06 }), say({ coarse: false }), say({}, false)]).toEqual(["", "", ""]);
    expect(say({ largest: 0, asked: { regions: "slic:10" } })).toBe("No region changes this at all.");
  });

  it("offer windows of Hounsfield units where there is air", () => {
    const names = (low: number) => presets([0, 100], low, 2000).map(([name]) => name);
    expect(names(0)).toEqual(["as given", "all numbers", "more contrast"]);
    expect(presets([0, 100], -1000, 2000).find(([name]) => name === "brain")?.[1]).toEqual([0, 80]);
  });
});

describe("lines on controls", () => {
  it("are of the control that something is in", () => {
    document.body.innerHTML = '<div class="kr-slider"><label>Size</label><input data-trait="window"></div><p>no control</p>';
    const [label, text] = [document.querySelector("label"), document.querySelector("p")];
    expect(label && tipOf(label)?.text).toBe("Side of the patch that covers the image");
    expect(text && tipOf(text)).toBeNull();
  });
});
