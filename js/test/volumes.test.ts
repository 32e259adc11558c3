// Sections of volumes, and signals: pure functions, against cases told by hand.
import { describe, expect, it } from "vitest";
import { Cells, grey } from "../src/cells";
import { Regions, Windows } from "../src/layout";
import type { Plane } from "../src/messages";
import { Section } from "../src/section";
import { points } from "../src/signal";
import { dragged } from "../src/stage/listening";
import { Sketch, spansOf } from "../src/stage/sketch";

const sizes = [4, 5, 6];
const plane = (across: number, down: number, right: number, flip: [boolean, boolean]): Plane => ({
  name: String(across), across, down, right, flip, ends: [],
});
/** As of a patient whose slices rise: left is at the right hand, up is up. */
const axial = new Section(plane(0, 1, 2, [true, true]), sizes, [3, 1, 1]);
const coronal = new Section(plane(1, 0, 2, [true, false]), sizes, [3, 1, 1]);
const number = (at: readonly number[]) => at.reduce((sum, index, axis) => sum * (sizes[axis] ?? 1) + Math.floor(index), 0);

describe("sections", () => {
  it("are as broad and tall as the patient", () => {
    expect([axial.width, axial.height, axial.aspect]).toEqual([6, 5, 6 / 5]);
    expect([coronal.width, coronal.height, coronal.aspect]).toEqual([6, 4, 6 / 12]);
  });

  it("find the place of a point, and the point of a place", () => {
    const through = [2.5, 3.5, 1.5];
    expect(axial.place({ x: 0.5, y: 0.5 }, through)).toEqual([2.5, 4.5, 5.5]);
    expect(coronal.place({ x: 0.5, y: 0.5 }, through)).toEqual([3.5, 3.5, 0.5]);
    for (const section of [axial, coronal]) {
      const point = { x: 1.25, y: 2.5 };
      expect(section.point(section.place(point, through))).toEqual(point);
    }
  });

  it("read the cells that lie in them", () => {
    for (const section of [axial, coronal]) {
      const through = [2.5, 3.5, 1.5];
      const cells = section.cells(through);
      for (let y = 0; y < section.height; y++) {
        for (let x = 0; x < section.width; x++) {
          expect(cells[y * section.width + x]).toBe(number(section.place({ x: x + 0.5, y: y + 0.5 }, through)));
        }
      }
    }
  });

  it("show a box where it is, and where it is not", () => {
    const box = [[1, 3], [0, 2], [2, 6]] as const;
    expect(axial.box(box)).toEqual({ top: 3, bottom: 5, left: 0, right: 4 });
    expect(axial.spans(axial.box(box), box)).toEqual(box);
    expect([axial.cuts(box, [2.5, 4, 4]), axial.cuts(box, [3.5, 0, 3])]).toEqual([true, false]);
  });

  it("turn steps on the screen into steps in the volume", () => {
    expect(axial.steps(1, 0)).toEqual([0, -1, -0]);
    expect(coronal.steps(0, 2, -1)).toEqual([-0, -1, 2]);
  });
});

describe("layouts of volumes", () => {
  const windows = new Windows({ sizes, counts: [1, 2, 2], window: 4, stride: 2 });

  it("show the window that is centred nearest to every pixel", () => {
    for (const section of [axial, coronal]) {
      const through = [1.5, 2.5, 4.5];
      const shown = windows.on(section, through);
      for (let pixel = 0; pixel < shown.length; pixel++) {
        const point = { x: (pixel % section.width) + 0.5, y: Math.floor(pixel / section.width) + 0.5 };
        expect(shown[pixel]).toBe(windows.at(section.place(point, through)));
      }
    }
    expect(windows.box(3)).toEqual([[0, 4], [2, 5], [2, 6]]);
    expect(windows.centred(coronal, [0, 4.5, 0])).toEqual([2, 3]);
  });

  it("of regions are cut through as the volume is", () => {
    const numbers = Int32Array.from({ length: 120 }, (_, i) => (i < 60 ? 0 : i < 90 ? 1 : 2));
    const regions = new Regions(numbers, sizes);
    expect(new Set(regions.on(axial, [2.5, 0, 0]))).toEqual(new Set([1]));
    expect([...regions.on(coronal, [0, 0, 0])].slice(0, 7)).toEqual([2, 2, 2, 2, 2, 2, 1]);
    expect(regions.box(0)).toEqual([[0, 2], [0, 5], [0, 6]]);
    expect(regions.at(regions.centre(2))).toBe(2);
  });
});

describe("numbers of a volume", () => {
  const codes = Uint16Array.from({ length: 120 }, (_, i) => Math.round((65535 * i) / 119));
  const cells = new Cells({ of: sizes, sizes, channels: 1, low: -1, high: 1, cells: new DataView(codes.buffer) });

  it("are those that were sent", () => {
    expect(cells.at([0, 0, 0])).toBe(-1);
    expect(cells.at([3.9, 4.9, 5.9])).toBe(1);
    expect(cells.at([2.5, 3.5, 1.5])).toBeCloseTo(-1 + (2 * number([2, 3, 1])) / 119, 4);
  });

  it("stand for their neighbours where they are coarser", () => {
    const few = new Cells({ of: [4], sizes: [2], channels: 1, low: 0, high: 1, cells: new DataView(Uint16Array.of(0, 65535).buffer) });
    expect([0, 1, 2, 3].map((i) => few.at([i]))).toEqual([0, 0, 1, 1]);
    expect(few.channels.map((line) => [...line])).toEqual([[0, 0, 1, 1]]);
  });

  it("cover what is masked, from elsewhere on a sheet", () => {
    const mask = new Uint8Array(30);
    mask[0] = 1;
    const through = [1.5, 0.5, 0.5];
    const pixels = cells.over(axial, through, mask, [-1, 1], [1, 0, -2]);
    expect([...pixels.slice(0, 5)]).toEqual([...Array<number>(3).fill(grey(cells.at([2, 4, 3]), [-1, 1])), 255, 0]);
  });

  it("are black and white at the levels", () => {
    expect([-1, 0, 0.5, 1, 2].map((value) => grey(value, [0, 1]))).toEqual([0, 0, 128, 255, 255]);
  });
});

describe("windows of greys", () => {
  it("are broader to the right and brighter above", () => {
    expect(dragged([0, 1], 0, 0)).toEqual([0, 1]);
    expect(dragged([0, 1], 150, 0)).toEqual([-1, 2]);
    expect(dragged([0, 1], 0, -150)).toEqual([-1, 0]);
  });
});

describe("a box in a volume", () => {
  it("reaches through it at first, and keeps its third side later", () => {
    const sketch = new Sketch();
    sketch.tool = "rectangle";
    sketch.begin({ x: 1.5, y: 0.5 }, axial, null);
    sketch.extend({ x: 3.2, y: 1.5 }, axial);
    const first = sketch.region(null);
    expect(first).toEqual({ box: [0, 3, 2, 4, 5, 5] });
    sketch.clear();
    sketch.begin({ x: 2.5, y: 1.2 }, coronal, first);
    sketch.extend({ x: 4.5, y: 1.8 }, coronal);
    expect(sketch.region(first)).toEqual({ box: [2, 3, 2, 3, 5, 5] });
    expect(spansOf(null, sizes)).toEqual([[0, 4], [0, 5], [0, 6]]);
  });
});

describe("curves", () => {
  it("keep the least and the largest of many numbers", () => {
    expect(points(Float32Array.of(1, 2, 3), 6)).toEqual([[1, 1], [3, 2], [5, 3]]);
    const line = Float32Array.from({ length: 400 }, (_, i) => (i === 150 ? 9 : 0));
    expect(points(line, 4)[3]).toEqual([1.5, 9]);
    expect(points(line, 4)).toHaveLength(8);
  });
});
