// Drawing and state: pure functions, against cases told by hand.
import { describe, expect, it, vi } from "vitest";
import table from "../../tests/widget/figures.json";
import { matching } from "../src/classes";
import { atMost, figure, figures, moves, together } from "../src/figures";
import { describe as inspected } from "../src/inspector";
import { Regions, Windows } from "../src/layout";
import { type Axis, axesOf, boxBetween, brush, centreAt, indexAt, spanAt, spread } from "../src/geometry";
import { borders, dots, drops, gradient, outline, overlay, reach, tint, tone, weight } from "../src/paint";
import { floats, octets } from "../src/bytes";
import { throttled } from "../src/dom";
import { answers, best, colourLimit, toMap } from "../src/map";
import { EXACT, INTERPOLATED, LINEARISED, type Map, type Model, TRIMMED, UNKNOWN } from "../src/messages";
import { FLAT, Section } from "../src/section";
import { Sketch } from "../src/stage/sketch";
import { cut, faster, likeness, seconds, standing } from "../src/words";
import { settings } from "./settings";

const grid = { sizes: [224, 224], counts: [27, 27], window: 16, stride: 8 };
const [axis] = axesOf(grid) as [Axis];
const colours = Uint8Array.from({ length: 768 }, (_, i) => Math.floor(i / 3));
const flat = (height: number, width: number) => new Section(FLAT, [height, width], [1, 1]);

describe("geometry", () => {
  it("shows a position where its window is centred", () => {
    for (let i = 0; i < axis.count; i++) {
      const centre = i * axis.stride + axis.window / 2;
      expect(centreAt(i, axis)).toBe(centre);
      expect(indexAt(centre, axis)).toBe(i);
      expect(indexAt(centre - axis.stride / 2 + 0.01, axis)).toBe(i);
    }
    expect(indexAt(0, axis)).toBe(0);
    expect(indexAt(224, axis)).toBe(26);
  });

  it("keeps x and y apart", () => {
    expect(new Windows(grid).at([40, 16])).toBe(4 * 27 + 1);
  });

  it("cuts the last window, and covers an axis that is shorter", () => {
    expect(spanAt(26, { ...axis, size: 220 })).toEqual([208, 220]);
    const [short] = axesOf({ sizes: [5, 40], counts: [1, 4], window: 16, stride: 8 });
    expect(short).toEqual({ size: 5, count: 1, window: 5, stride: 5 });
  });

  it("finds a place again on every grid", () => {
    for (const stride of [3, 8, 5, 16]) {
      const other = { ...axis, count: 70, stride };
      for (const index of [0, 9, 12, 69]) expect(indexAt(centreAt(index, other), other)).toBe(index);
    }
    const [first] = spanAt(13, axis); // cells 104 to 119
    const at = centreAt(13, axis);
    for (const stride of [1, 2, 3, 5, 16]) {
      const other = { ...axis, count: 300, stride };
      expect(Math.abs(spanAt(indexAt(at, other), other)[0] - first)).toBeLessThanOrEqual(stride / 2);
    }
  });

  it("covers every pixel", () => {
    const index = spread(axis);
    expect(index).toHaveLength(224);
    expect([index[0], index[223]]).toEqual([0, 26]);
    expect(index.every((value, i) => i === 0 || value >= (index[i - 1] ?? 0))).toBe(true);
  });

  it("makes boxes of two corners in any order", () => {
    expect(boxBetween({ x: 30.2, y: 5 }, { x: 10.7, y: 20 }, { height: 24, width: 28 })).toEqual({
      top: 5,
      left: 10,
      bottom: 20,
      right: 28,
    });
    expect(boxBetween({ x: 3, y: 3 }, { x: 3, y: 3 }, { height: 24, width: 28 })).toBeNull();
  });

  it("paints round strokes without gaps", () => {
    const mask = new Uint8Array(20 * 30);
    brush(mask, 20, 30, { x: 5, y: 10 }, { x: 25, y: 10 }, 3);
    for (let x = 5; x < 25; x++) expect(mask[10 * 30 + x]).toBe(1);
    expect(mask[0]).toBe(0);
    brush(mask, 20, 30, { x: -5, y: -5 }, { x: 35, y: 25 }, 50);
    expect(mask.every((on) => on === 1)).toBe(true);
  });
});

describe("layouts", () => {
  const windows = new Windows({ sizes: [8, 6], counts: [3, 2], window: 4, stride: 2 });
  const section = flat(8, 6);

  it("of windows number them by rows", () => {
    for (let cell = 0; cell < 6; cell++) {
      expect(windows.at(windows.centre(cell))).toBe(cell);
      const { top, left } = section.box(windows.box(cell));
      expect([top, left]).toEqual([2 * Math.floor(cell / 2), 2 * (cell % 2)]);
    }
    expect(windows.middle).toBe(3);
    expect(windows.moved(0, [1, 1])).toBe(3);
    expect(windows.moved(5, [4, 0])).toBe(5);
    expect(windows.moved(1, [-4, 4])).toBe(1);
    expect(windows.onSheet(3)).toEqual([4, 4]);
    expect(Array.from(windows.on(section, []).slice(0, 6))).toEqual([0, 0, 0, 1, 1, 1]);
  });

  // 0 is a ring around 1; 2 has two pieces.
  const numbers = [
    [2, 0, 0, 0],
    [0, 0, 1, 0],
    [0, 0, 0, 0],
    [0, 0, 0, 2],
  ];
  const regions = new Regions(Int32Array.from(numbers.flat()), [4, 4]);

  it("of regions stand for them by one of their own pixels", () => {
    for (let cell = 0; cell < 3; cell++) expect(regions.at(regions.centre(cell))).toBe(cell);
    expect(regions.box(1)).toEqual([[1, 2], [2, 3]]);
    expect(regions.box(2)).toEqual([[0, 4], [0, 4]]);
    expect(Array.from(regions.mask(new Set([1, 2]), flat(4, 4), [])).filter(Boolean)).toHaveLength(3);
    expect([regions.at([-1, -1]), regions.at([99, 99])]).toEqual([2, 2]);
  });

  it("of regions move to the next one, or stay at the edge", () => {
    expect(regions.moved(1, [1, 0])).toBe(0);
    expect(regions.moved(0, [0, 1])).toBe(1);
    expect(regions.moved(0, [-4, 0])).toBe(1);
    expect(regions.moved(2, [-1, 0])).toBe(2);
  });

  it("draw borders between different cells alone", () => {
    const drawn = borders(Int32Array.of(0, 0, 1, 1), { height: 1, width: 4 });
    expect(Array.from({ length: 4 }, (_, x) => (drawn[4 * x + 3] ?? 0) > 0)).toEqual([false, true, false, false]);
  });
});

describe("colours", () => {
  it("puts no change in the middle", () => {
    expect([tone(0, 1), tone(1, 1), tone(-1, 1), tone(9, 1)]).toEqual([128, 255, 0, 255]);
  });

  it("shows the picture where nothing changes", () => {
    expect(weight(0, 1, 0.8)).toBe(0);
    expect(weight(-5, 1, 0.8)).toBeCloseTo(0.8);
  });

  it("colours each pixel by its cell, and leaves unknown ones bare", () => {
    const small = new Windows({ sizes: [1, 4], counts: [1, 2], window: 2, stride: 2 });
    const tints = tint(Float32Array.of(1, -1), Uint8Array.of(EXACT, UNKNOWN), { limit: 1, table: colours, opacity: 1, threshold: 0 });
    const pixels = overlay(tints, small.on(flat(1, 4), []), { height: 1, width: 4 });
    expect(Array.from(pixels)).toEqual([255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
  });

  it("hatches what is not finite, in no colour of the scale", () => {
    const small = new Windows({ sizes: [1, 8], counts: [1, 2], window: 4, stride: 4 });
    const look = { limit: 1, table: colours, opacity: 1, threshold: 0 };
    const tints = tint(Float32Array.of(NaN, -Infinity), Uint8Array.of(EXACT, EXACT), look);
    const pixels = overlay(tints, small.on(flat(1, 8), []), { height: 1, width: 8 });
    const greys = Array.from({ length: 8 }, (_, x) => pixels[4 * x]);
    expect(new Set(greys).size).toBe(2);
    expect(greys.slice(0, 4)).toEqual([greys[0], greys[0], greys[2], greys[2]]);
    expect(Array.from({ length: 8 }, (_, x) => pixels[4 * x + 3])).toEqual(Array(8).fill(255));
  });

  it("hatches a large picture in stripes that can be seen", () => {
    const look = { limit: 1, table: colours, opacity: 1, threshold: 0 };
    const pixels = overlay(tint(Float32Array.of(NaN), Uint8Array.of(EXACT), look), new Int32Array(1120), { height: 1, width: 1120 });
    const greys = Array.from({ length: 1120 }, (_, x) => pixels[4 * x]);
    expect(new Set(greys.slice(0, 10)).size).toBe(1);
    expect(greys.filter((grey, x) => x && grey !== greys[x - 1])).toHaveLength(111);
  });

  it("drops are base minus value", () => {
    expect(Array.from(drops(Float32Array.of(0.25, 1), 0.5))).toEqual([0.25, -0.5]);
  });

  it("marks measured cells only beside interpolated ones", () => {
    const small = new Windows({ sizes: [8, 8], counts: [1, 3], window: 4, stride: 2 });
    const here = small.centred(flat(8, 8), [0, 0]);
    expect(dots(Uint8Array.of(EXACT, TRIMMED, UNKNOWN), small, here)).toEqual([]);
    expect(dots(Uint8Array.of(EXACT, LINEARISED, UNKNOWN), small, here)).toHaveLength(1);
    expect(dots(Uint8Array.of(EXACT, INTERPOLATED, TRIMMED), small, here)).toEqual([
      [2, 2],
      [2, 6],
    ]);
  });

  it("outlines a mask", () => {
    const edge = outline(Uint8Array.from({ length: 25 }, () => 1), 5, 5);
    expect(edge[4 * 12 + 3]).toBe(0);
    expect(edge[3]).toBe(235);
  });

  it("a bar of probabilities ends where they do", () => {
    expect(reach(0.9, 0.5, true)).toEqual([0.4, 1]);
    expect(reach(0.9, 0.5, false)).toEqual([0.4, 1.4]);
    expect(gradient(colours, 0, 1)).toMatch(/^linear-gradient\(to right, rgb\(0 0 0\).*rgb\(255 255 255\)\)$/);
  });
});

const asked = { region: null } as Map["asked"];
const frame = (fields: Partial<Map>) =>
  ({ asked, done: 196, total: 729, exact: false, finished: true, largest: 0.2, shared: 0.4, least: 0, notFinite: 0, ...fields }) as Map;
const said = (map: Map | null, running: boolean, failed: boolean, waiting = false) =>
  standing({ map, running, failed, waiting });

describe("state", () => {
  it("reads numbers that begin anywhere", () => {
    const buffer = new ArrayBuffer(11);
    new DataView(buffer).setFloat32(3, 1.5, true);
    expect(Array.from(floats(new DataView(buffer, 3, 8)))).toEqual([1.5, 0]);
    expect(floats(undefined)).toHaveLength(0);
    expect(toMap({})).toBeNull();
  });

  it("never calls an approximate map exact", () => {
    expect(said(frame({}), false, false).kind).toBe("approximate");
    expect(said(frame({}), false, false).text).toBe("Approximate, 196 of 729 positions measured");
    expect(said(frame({ exact: true, done: 729 }), false, false).kind).toBe("exact");
    expect(said(frame({ finished: false }), false, false).kind).toBe("cancelled");
    expect(said(frame({ finished: false }), true, false).kind).toBe("running");
    expect(said(frame({ asked: { ...asked, region: { box: [0, 0, 9, 9] } } }), false, false).text).toContain("Approximate in the region");
    expect(said(frame({ exact: true, done: 729, notFinite: 3 }), false, false)).toEqual({
      kind: "strange",
      text: "Exact, 729 of 729 positions measured, 3 not finite",
    });
    expect(said(frame({ exact: true }), false, false, true).kind, "the controls have moved").toBe("running");
    expect(said(null, true, false).text).toBe("Reading the model");
    expect(said(null, false, false).text).toBe("Nothing measured");
    expect(said(frame({ finished: false }), false, true).kind).toBe("error");
    expect(said(frame({ finished: false }), true, true).kind).toBe("running");
  });

  it("knows what a map answers", () => {
    const controls: Record<string, unknown> = settings;
    const model = (changes: object) => ({ get: (name: string) => ({ ...controls, ...changes })[name] }) as unknown as Model;
    const of = (changes: object) => ({ ...controls, ...changes }) as unknown as Map["asked"];
    expect(answers(of({}), model({}), true)).toBe(true);
    for (const name of ["image_index", "window", "stride", "baseline", "target"]) {
      expect(answers(of({}), model({ [name]: 3 }), false), name).toBe(false);
    }
    for (const change of [{ exact: true }, { ssim_target: 0.9 }]) {
      expect([false, true].map((wholly) => answers(of({}), model(change), wholly))).toEqual([true, false]);
    }
    const mask = (...cells: number[]) => ({ region: { mask: new DataView(Uint8Array.of(...cells).buffer) } });
    const box = (...edges: number[]) => ({ region: { box: edges } });
    const regions = [{}, box(0, 0, 3, 3), box(0, 0, 3, 4), mask(0, 1), mask(1, 1)];
    for (const [i, one] of regions.entries()) {
      for (const [j, other] of regions.entries()) {
        expect(answers(of(one), model(other), false), `${i} ${j}`).toBe(i === j);
      }
    }
    expect(answers(of(mask(0, 1)), model(mask(0, 1)), false)).toBe(true);
  });

  it("ends the colours where it is told", () => {
    expect(colourLimit("own", 1, frame({}))).toBe(0.2);
    expect(colourLimit("shared", 1, frame({}))).toBe(0.4);
    expect(colourLimit("fixed", 0.7, frame({}))).toBe(0.7);
    expect(colourLimit("own", 1, frame({ largest: 0 }))).toBe(1);
    expect(colourLimit("own", 1, frame({ largest: 0.001, least: 0.05 }))).toBe(0.05);
    expect(colourLimit("fixed", 0.01, frame({ least: 0.05 })), "set").toBe(0.01);
  });

  it("finds the likeliest", () => {
    expect(best(Float32Array.of(0.1, 0.6, 0.3), 2)).toEqual([1, 2]);
  });

  it("tells what the SSIM probably is, never better than it is", () => {
    const estimate = { value: 0.9376, low: 0.9, high: 0.9999, basis: "online" };
    expect(likeness(estimate, "")).toBe("Similarity to the exact map about 0.93, 0.90 to 0.99, estimated");
    expect(likeness({ ...estimate, basis: "tuned" }, "")).toBe("Similarity to the exact map about 0.93, 0.90 to 0.99, tuned");
    expect(likeness({ ...estimate, low: 0.6 }, "the tuning is for another stride")).toBe(
      "Similarity to the exact map about 0.93, 0.60 to 0.99, estimated: the tuning is for another stride",
    );
    expect(likeness({ value: -0.01, low: -0.93, high: 0.49, basis: "online" }, "")).toBe(
      "Similarity to the exact map: too early to tell, estimated",
    );
    expect([cut(0.9999, 3), cut(-0.25, 2)]).toEqual(["0.999", "−0.25"]);
    expect(likeness(null, "")).toBe("");
  });

  it("writes numbers for people", () => {
    for (const [values, words] of table.figures as [number[], string[]][]) {
      expect(figures(values)).toEqual(words.map((word) => word.replaceAll("-", "−")));
    }
    expect([NaN, Infinity, -Infinity].map(figure)).toEqual(
      table["not finite"].map((word) => word.replace("-", "−")),
    );
    expect(together([1.05e-4], [1.05e-4, 6.8e-5])).toEqual([["1.05e−04"], ["1.05e−04", "6.8e−05"]]);
    const map = {
      sizes: [8, 8], counts: [1, 1], window: 8, stride: 8, target: 0, base: 0.2331234, status: new Uint8Array([EXACT]),
      values: new Float32Array([0.2331134]), classes: new Int32Array([-1]), classValues: new Float32Array([NaN]),
    };
    const scene = { current: map, cell: 0, layout: new Windows(map), axes: ["rows", "columns"], name: () => "dog" };
    expect(inspected(scene as never)?.rows.slice(0, 2)).toEqual([
      ["dog", "2.33123e−01 → 2.33113e−01"],
      ["falls by", "1e−05"],
    ]);
    expect([moves(0.5), moves(-0.5), moves(0)]).toEqual([["falls by", "0.5"], ["rises by", "0.5"], ["changes by", "0"]]);
    expect([atMost(0.0012), atMost(0.002), atMost(-0.5), atMost(0)]).toEqual(["0.002", "0.002", "0.5", "0"]);
    expect([seconds(0.25), seconds(2), seconds(600), seconds(7200)]).toEqual(["250 ms", "2.0 s", "10 min", "2.0 h"]);
  });

  it("calls slower what is", () => {
    expect([faster(29.4), faster(0.98), faster(1.5), faster(0.8)]).toEqual([
      { times: "29×", word: "faster" },
      { times: "1.0×", word: "as fast" },
      { times: "1.5×", word: "faster" },
      { times: "1.3×", word: "slower" },
    ]);
  });

  it("finds classes by any part of their names", () => {
    const names = ["tiger cat", "Egyptian Cat", "cat", "dog"];
    expect(matching(names, " cAt ", [0.1, 0.5, 0, 0])).toEqual([2, 1, 0]);
    expect(matching(names, "zebra", [])).toEqual([]);
  });

  it("throttles, and never loses the last call", () => {
    vi.useFakeTimers();
    const calls = vi.fn();
    const { soon, now } = throttled(calls, 100);
    for (let i = 0; i < 5; i++) soon();
    expect(calls).toHaveBeenCalledTimes(1);
    vi.advanceTimersByTime(100);
    expect(calls).toHaveBeenCalledTimes(2);
    soon();
    now();
    expect(calls).toHaveBeenCalledTimes(3);
    vi.advanceTimersByTime(500);
    expect(calls).toHaveBeenCalledTimes(3);
    vi.useRealTimers();
  });
});

describe("a region that is drawn", () => {
  const size = { height: 12, width: 16 };
  const section = flat(12, 16);

  it("is a rectangle between two corners, in any order, cut at the picture's edges", () => {
    const sketch = new Sketch();
    sketch.tool = "rectangle";
    expect(sketch.region(null)).toBeNull();
    sketch.begin({ x: 9.5, y: 20 }, section, null);
    sketch.extend({ x: 3.2, y: 4 }, section);
    expect(sketch.region(null)).toEqual({ box: [4, 3, 12, 10] });
    sketch.clear();
    expect(sketch.region(null)).toBeNull();
  });

  it("is what the brush touched on its way", () => {
    const sketch = new Sketch();
    [sketch.tool, sketch.radius] = ["brush", 3];
    sketch.begin({ x: 0, y: 6 }, section, null);
    sketch.extend({ x: 15, y: 6 }, section);
    const region = sketch.region(null);
    if (!region || !("mask" in region)) throw new Error("no mask");
    const mask = octets(region.mask);
    const row = (y: number) => [...mask.slice(y * size.width, (y + 1) * size.width)];
    expect(row(6)).toEqual(Array.from({ length: 16 }, () => 1));
    expect(row(0), "the brush reaches 3 pixels far").toEqual(Array.from({ length: 16 }, () => 0));
  });

  it("is nothing while looking", () => {
    const sketch = new Sketch();
    sketch.extend({ x: 3, y: 3 }, section);
    expect([sketch.from, sketch.region(null)]).toEqual([null, null]);
  });
});
