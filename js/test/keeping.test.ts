// Kept maps, earlier ones, and what counts most: the numbers, against cases told by hand.
import { describe, expect, it } from "vitest";
import { scaled } from "../src/beside";
import { brush } from "../src/geometry";
import { Windows } from "../src/layout";
import { EXACT, UNKNOWN } from "../src/messages";
import { strongest } from "../src/ranking";
import { FLAT, Section } from "../src/section";
import { Sketch } from "../src/stage/sketch";
import { describeAsked, keyOf } from "../src/strip";
import { settings } from "./settings";

describe("what counts most", () => {
  const layout = new Windows({ sizes: [8, 8], counts: [3, 3], window: 4, stride: 2 });
  const map = (...drops: number[]) => ({
    base: 1,
    values: Float32Array.from(drops, (drop) => 1 - drop),
    status: new Uint8Array(9).fill(EXACT),
  });

  it("is listed by size, whatever its sign, and once of windows that overlap by half", () => {
    // The middle one lies within half a window of all the others.
    expect(strongest(map(0.5, 0, -0.75, 0, 0.1, 0, 0.25, 0, 0.3), layout, 8)).toEqual([2, 0, 8, 6]);
    expect(strongest(map(0, 0, 0, 0, -0.9, 0, 0.25, 0, 0.3), layout, 8)).toEqual([4]);
    expect(strongest(map(0.5, 0, -0.75, 0, 0, 0, 0.25, 0, 0.3), layout, 2)).toEqual([2, 0]);
  });

  it("leaves out what is not known, not finite, or no change", () => {
    const odd = map(NaN, 0, Infinity, 0, 0, 0, 0.25, 0, 0.3);
    odd.status[8] = UNKNOWN;
    expect(strongest(odd, layout, 8)).toEqual([6]);
    expect(strongest(map(0, 0, 0, 0, 0, 0, 0, 0, 0), layout, 8)).toEqual([]);
  });
});

describe("earlier maps", () => {
  it("are told apart by every setting", () => {
    const mask = (...cells: number[]) => ({ mask: new DataView(Uint8Array.from(cells).buffer) });
    const all = [
      settings,
      { ...settings, window: 8 },
      { ...settings, target: 1 },
      { ...settings, region: { box: [0, 0, 4, 4] } },
      { ...settings, region: mask(1, 0) },
      { ...settings, region: mask(0, 1) },
    ].map(keyOf);
    expect(new Set(all).size).toBe(all.length);
    expect(keyOf({ ...settings, region: mask(1, 0) })).toBe(all[4]);
  });

  it("say what they are of", () => {
    expect(describeAsked(settings, "cat", [])).toEqual(["cat", "16/8 grey, similarity 0.95"]);
    expect(describeAsked({ ...settings, exact: true, region: { box: [0, 0, 4, 4] } }, "cat", ["", "tabby"])).toEqual([
      "cat",
      "16/8 grey, exact, in a region, image 1",
    ]);
    const regions = { ...settings, regions: "slic:80", baseline: "given: local mean" };
    expect(describeAsked(regions, "cat", [])).toEqual(["cat", "80 superpixels, local mean, exact"]);
  });
});

it("finds a place on an image of another size", () => {
  expect(scaled([4, 6], [8, 12], [24, 12])).toEqual([12, 6]);
});

describe("the brush", () => {
  const section = new Section(FLAT, [4, 4], [1, 1]);
  const painted = (sketch: Sketch) => Array.from(sketch.painted ?? []).reduce((sum, cell) => sum + cell, 0);

  it("takes paint away as it put it on", () => {
    const mask = new Uint8Array(16);
    brush(mask, 4, 4, { x: 2, y: 2 }, { x: 2, y: 2 }, 8);
    brush(mask, 4, 4, { x: 1, y: 1 }, { x: 1, y: 1 }, 1, 0);
    expect(Array.from(mask.slice(0, 8))).toEqual([0, 0, 1, 1, 0, 0, 1, 1]);
  });

  it("adds to the region in force, and erases in it", () => {
    const sketch = new Sketch();
    [sketch.tool, sketch.radius] = ["brush", 1];
    sketch.begin({ x: 1, y: 1 }, section, { box: [0, 2, 4, 4] });
    expect(painted(sketch)).toBe(8 + 4);
    sketch.clear();
    sketch.erases = true;
    sketch.begin({ x: 3, y: 3 }, section, { box: [0, 2, 4, 4] });
    expect(painted(sketch)).toBe(8 - 4);
    sketch.clear();
    sketch.begin({ x: 3, y: 3 }, section, null); // in everything
    expect(painted(sketch)).toBe(16 - 4);
  });
});
