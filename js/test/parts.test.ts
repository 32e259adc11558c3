// Drawing and state: pure functions, against cases told by hand.
import { describe, expect, it, vi } from "vitest";
import { boxBetween, brush, cellAt, indexAt, moved, patchBox, spread } from "../src/geometry";
import { dots, drops, gradient, outline, overlay, reach, tone, weight } from "../src/paint";
import {
  best,
  colourLimit,
  digits,
  EXACT,
  floats,
  INTERPOLATED,
  type Map,
  likeness,
  seconds,
  signed,
  standing,
  throttled,
  toMap,
  TRIMMED,
  UNKNOWN,
} from "../src/state";

const grid = { rows: 27, columns: 27, window: 16, stride: 8 };
const table = Uint8Array.from({ length: 768 }, (_, i) => Math.floor(i / 3));

describe("geometry", () => {
  it("shows a position where its window is centred", () => {
    for (let i = 0; i < grid.rows; i++) {
      const centre = i * grid.stride + grid.window / 2;
      expect(indexAt(centre, grid.rows, grid)).toBe(i);
      expect(indexAt(centre - grid.stride / 2 + 0.01, grid.rows, grid)).toBe(i);
    }
    expect(indexAt(0, grid.rows, grid)).toBe(0);
    expect(indexAt(224, grid.rows, grid)).toBe(26);
  });

  it("keeps x and y apart", () => {
    expect(cellAt(16, 40, grid)).toEqual({ row: 4, column: 1 });
  });

  it("cuts the last window", () => {
    expect(patchBox({ row: 26, column: 0 }, { ...grid, stride: 8 }, 220, 224)).toEqual({
      top: 208,
      left: 0,
      bottom: 220,
      right: 16,
    });
  });

  it("stays on the grid", () => {
    expect(moved({ row: 0, column: 26 }, -4, 4, grid)).toEqual({ row: 0, column: 26 });
    expect(moved({ row: 3, column: 3 }, 1, -1, grid)).toEqual({ row: 4, column: 2 });
  });

  it("covers every pixel", () => {
    const index = spread(224, 27, grid);
    expect(index).toHaveLength(224);
    expect([index[0], index[223]]).toEqual([0, 26]);
    expect(index.every((value, i) => i === 0 || value >= (index[i - 1] ?? 0))).toBe(true);
  });

  it("makes boxes of two corners in any order", () => {
    expect(boxBetween({ x: 30.2, y: 5 }, { x: 10.7, y: 20 }, 24, 28)).toEqual({
      top: 5,
      left: 10,
      bottom: 20,
      right: 28,
    });
    expect(boxBetween({ x: 3, y: 3 }, { x: 3, y: 3 }, 24, 28)).toBeNull();
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

describe("colours", () => {
  it("puts no change in the middle", () => {
    expect([tone(0, 1), tone(1, 1), tone(-1, 1), tone(9, 1)]).toEqual([128, 255, 0, 255]);
  });

  it("shows the picture where nothing changes", () => {
    expect(weight(0, 1, 0.8)).toBe(0);
    expect(weight(-5, 1, 0.8)).toBeCloseTo(0.8);
  });

  it("colours each pixel by its cell, and leaves unknown ones bare", () => {
    const small = { rows: 1, columns: 2, window: 2, stride: 2 };
    const pixels = overlay(
      Float32Array.of(1, -1),
      Uint8Array.of(EXACT, UNKNOWN),
      small,
      1,
      4,
      1,
      table,
      1,
    );
    expect(Array.from(pixels)).toEqual([255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
  });

  it("drops are base minus value", () => {
    expect(Array.from(drops(Float32Array.of(0.25, 1), 0.5))).toEqual([0.25, -0.5]);
  });

  it("marks measured cells only beside interpolated ones", () => {
    const small = { rows: 1, columns: 3, window: 4, stride: 2 };
    expect(dots(Uint8Array.of(EXACT, TRIMMED, UNKNOWN), small, 8, 8)).toEqual([]);
    expect(dots(Uint8Array.of(EXACT, INTERPOLATED, TRIMMED), small, 8, 8)).toEqual([
      { x: 2, y: 2 },
      { x: 6, y: 2 },
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
    expect(gradient(table, 0, 1)).toMatch(/^linear-gradient\(to right, rgb\(0 0 0\).*rgb\(255 255 255\)\)$/);
  });
});

const frame = (fields: Partial<Map>) =>
  ({ done: 196, total: 729, exact: false, finished: true, largest: 0.2, shared: 0.4, ...fields }) as Map;

describe("state", () => {
  it("reads numbers that begin anywhere", () => {
    const buffer = new ArrayBuffer(11);
    new DataView(buffer).setFloat32(3, 1.5, true);
    expect(Array.from(floats(new DataView(buffer, 3, 8)))).toEqual([1.5, 0]);
    expect(floats(undefined)).toHaveLength(0);
    expect(toMap({})).toBeNull();
  });

  it("never calls an approximate map exact", () => {
    expect(standing(frame({}), false, false).kind).toBe("approximate");
    expect(standing(frame({}), false, false).text).toBe("Approximate, 196 of 729 positions measured");
    expect(standing(frame({ exact: true, done: 729 }), false, false).kind).toBe("exact");
    expect(standing(frame({ finished: false }), false, false).kind).toBe("cancelled");
    expect(standing(frame({ finished: false }), true, false).kind).toBe("running");
    expect(standing(frame({ region: { box: [0, 0, 9, 9] } }), false, false).text).toContain("Approximate in the region");
    expect(standing(null, true, false).text).toBe("Reading the model");
    expect(standing(null, false, false).text).toBe("Nothing measured");
    expect(standing(frame({ finished: false }), false, true).kind).toBe("error");
    expect(standing(frame({ finished: false }), true, true).kind).toBe("running");
  });

  it("ends the colours where it is told", () => {
    expect(colourLimit("own", 1, frame({}))).toBe(0.2);
    expect(colourLimit("shared", 1, frame({}))).toBe(0.4);
    expect(colourLimit("fixed", 0.7, frame({}))).toBe(0.7);
    expect(colourLimit("own", 1, frame({ largest: 0 }))).toBe(1);
  });

  it("finds the likeliest", () => {
    expect(best(Float32Array.of(0.1, 0.6, 0.3), 2)).toEqual([1, 2]);
  });

  it("tells what the SSIM probably is, never better than it is", () => {
    const estimate = { value: 0.9376, low: 0.9, high: 0.9999, basis: "online" };
    expect(likeness(estimate, "")).toBe("SSIM about 0.93, 0.90 to 0.99, not tuned");
    expect(likeness({ ...estimate, basis: "tuned" }, "")).toBe("SSIM about 0.93, 0.90 to 0.99, tuned");
    expect(likeness({ ...estimate, low: -0.2 }, "the tuning is for another stride")).toBe(
      "SSIM about 0.93, −0.20 to 0.99, not tuned: the tuning is for another stride",
    );
    expect(likeness(null, "")).toBe("");
  });

  it("writes numbers for people", () => {
    expect([digits(0.12345), digits(-0.5), digits(0.00001), digits(NaN), digits(1234)]).toEqual([
      "0.123",
      "−0.500",
      "1.0e−5",
      "–",
      "1.2e+3",
    ]);
    expect(signed(0.5)).toBe("+0.500");
    expect([seconds(0.25), seconds(2), seconds(600), seconds(7200)]).toEqual(["250 ms", "2.0 s", "10 min", "2.0 h"]);
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
