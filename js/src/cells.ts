// The numbers of a volume or a signal, and how they become greys and curves.
import type { Place } from "./geometry";
import type { Cells as Sent } from "./messages";
import type { Section } from "./section";

/** Codes of the numbers that are sent. */
const CODES = 65536;

/** The numbers that are black and white. */
export type Levels = readonly [number, number];

export class Cells {
  private readonly codes: Uint16Array;
  private readonly slices = new Map<Section, { key: string; image: ImageData; canvas: HTMLCanvasElement }>();
  private greys: { levels: Levels; table: Uint8Array } | null = null;
  private lines: Float32Array[] | null = null;

  constructor(private readonly sent: Sent) {
    const { buffer, byteOffset, byteLength } = sent.cells;
    this.codes = new Uint16Array(new Uint8Array(buffer, byteOffset, byteLength).slice().buffer);
  }

  /** Extremes of the numbers. */
  get low(): number {
    return this.sent.low;
  }
  get high(): number {
    return this.sent.high;
  }

  /** The number at a place. */
  at(place: Place, channel = 0): number {
    const { sizes, of } = this.sent;
    let index = channel;
    sizes.forEach((size, axis) => (index = index * size + sentOf(place[axis] ?? 0, size, of[axis] ?? size)));
    return this.value(this.codes[index] ?? 0);
  }

  /** The numbers of a signal, by channel. */
  get channels(): readonly Float32Array[] {
    const { channels, sizes, of } = this.sent;
    this.lines ??= Array.from({ length: channels }, (_, channel) => {
      const [size, length] = [sizes[0] ?? 1, of[0] ?? 1];
      return Float32Array.from({ length }, (_, i) => this.value(this.codes[channel * size + sentOf(i, size, length)] ?? 0));
    });
    return this.lines;
  }

  /** The numbers of a picture in grey. */
  picture(levels: Levels): HTMLCanvasElement {
    const [height = 1, width = 1] = this.sent.sizes;
    const greys = this.table(levels);
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    this.codes.forEach((code, pixel) => (pixels[pixel] = 0xff000000 | (0x010101 * (greys[code] ?? 0))));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    canvas.getContext("2d")?.putImageData(image, 0, 0);
    return canvas;
  }

  /** A section of a volume in grey; the canvas is drawn on anew by the next slice. */
  slice(section: Section, through: Place, levels: Levels): HTMLCanvasElement {
    const { width, height } = section;
    let kept = this.slices.get(section);
    if (!kept) {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [width, height];
      kept = { key: "", image: new ImageData(width, height), canvas };
      this.slices.set(section, kept);
    }
    const key = [section.slice(through), ...levels].join();
    if (kept.key === key) return kept.canvas;
    kept.key = key;
    const greys = this.table(levels);
    const pixels = new Uint32Array(kept.image.data.buffer);
    this.indices(section, through).forEach((index, pixel) => {
      pixels[pixel] = 0xff000000 | (0x010101 * (greys[this.codes[index] ?? 0] ?? 0));
    });
    kept.canvas.getContext("2d")?.putImageData(kept.image, 0, 0);
    return kept.canvas;
  }

  /** The pixels of a section where a mask is set, in grey; the numbers are read `shift` away. */
  over(
    section: Section,
    through: Place,
    mask: Uint8Array,
    levels: Levels,
    shift: Place = [],
  ): Uint8ClampedArray<ArrayBuffer> {
    const pixels = new Uint8ClampedArray(4 * mask.length);
    mask.forEach((set, pixel) => {
      if (!set) return;
      const point = { x: (pixel % section.width) + 0.5, y: Math.floor(pixel / section.width) + 0.5 };
      const place = section.place(point, through).map((at, axis) => at + (shift[axis] ?? 0));
      const level = grey(this.at(place), levels);
      pixels.set([level, level, level, 255], 4 * pixel);
    });
    return pixels;
  }

  /** For every pixel of a section, the index of its number. */
  private indices(section: Section, through: Place): Int32Array {
    const { sizes, of } = this.sent;
    const { across, down, right } = section.plane;
    const step = (axis: number) => sizes.slice(axis + 1).reduce((product, size) => product * size, 1);
    const index = (axis: number | null, cell: number) =>
      axis === null ? 0 : sentOf(cell, sizes[axis] ?? 1, of[axis] ?? 1) * step(axis);
    return section.sum(
      (row) => index(down, row),
      (column) => index(right, column),
      index(across, section.slice(through)),
    );
  }

  /** The grey of every code. */
  private table(levels: Levels): Uint8Array {
    if (this.greys?.levels[0] !== levels[0] || this.greys.levels[1] !== levels[1]) {
      const table = Uint8Array.from({ length: CODES }, (_, code) => grey(this.value(code), levels));
      this.greys = { levels, table };
    }
    return this.greys.table;
  }

  private value(code: number): number {
    return this.sent.low + (code * (this.sent.high - this.sent.low)) / (CODES - 1);
  }
}

/** The grey of a number, 0 to 255. */
export function grey(value: number, [black, white]: Levels): number {
  return Math.min(255, Math.max(0, Math.round((255 * (value - black)) / (white - black || 1))));
}

/** Which of `size` numbers stands for a cell, of which there are `length`. */
function sentOf(cell: number, size: number, length: number): number {
  return Math.min(size - 1, Math.max(0, Math.floor((Math.floor(cell) * size) / length)));
}
