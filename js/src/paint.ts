// Colours: pure functions from numbers to RGBA, and the few that put them on a canvas.
import type { Place, Size } from "./geometry";
import type { Windows } from "./layout";
import { INTERPOLATED, LINEARISED, TRIMMED, UNKNOWN } from "./messages";

/** Index into a table of 256 colours: 0.5 is no change, above it the output falls, below it rises. */
export function tone(drop: number, limit: number): number {
  const share = (drop / limit + 1) / 2;
  return Math.min(255, Math.max(0, Math.round(share * 255)));
}

/** How much of the colour covers the picture: the smaller a change, the more of the picture shows. */
export function weight(drop: number, limit: number, opacity: number, threshold = 0): number {
  const share = Math.min(1, Math.abs(drop) / limit);
  return share < threshold ? 0 : opacity * share ** 0.75;
}

/** Greys of the stripes that mark a change that is not finite: no scale has such colours. */
const GREYS = [96, 160] as const;
/** Width of these stripes in a small picture. */
const NARROWEST_STRIPE = 2;
/** Stripes along the longer side of a large picture, where narrower ones would run into one grey. */
const STRIPES = 112;

/** How drops become colours. */
export interface Look {
  /** Where the colours end. */
  limit: number;
  /** 256 colours, three bytes each. */
  table: Uint8Array;
  opacity: number;
  /** Share of the limit below which a change is not coloured. */
  threshold: number;
}

/** The colours of a map's cells. */
export interface Tints {
  /** By cell, RGBA. */
  colours: Uint32Array;
  /** Whether a cell's change is not finite. */
  hatched: Uint8Array;
  opacity: number;
}

export function tint(drops: Float32Array, status: Uint8Array, { limit, table, opacity, threshold }: Look): Tints {
  const cells = new Uint8ClampedArray(drops.length * 4);
  const hatched = Uint8Array.from(drops, (drop, i) => Number(status[i] !== UNKNOWN && !Number.isFinite(drop)));
  for (let i = 0; i < drops.length; i++) {
    if (status[i] === UNKNOWN || hatched[i]) continue;
    const drop = drops[i] ?? 0;
    const colour = 3 * tone(drop, limit);
    cells[4 * i] = table[colour] ?? 0;
    cells[4 * i + 1] = table[colour + 1] ?? 0;
    cells[4 * i + 2] = table[colour + 2] ?? 0;
    cells[4 * i + 3] = 255 * weight(drop, limit, opacity, threshold);
  }
  return { colours: new Uint32Array(cells.buffer), hatched, opacity };
}

/** Colours over the picture's pixels, each that of its cell. */
export function overlay(
  { colours, hatched, opacity }: Tints,
  layout: Int32Array,
  { height, width }: Size,
): Uint8ClampedArray<ArrayBuffer> {
  const pixels = new Uint8ClampedArray(height * width * 4);
  const target = new Uint32Array(pixels.buffer);
  const stripe = Math.max(NARROWEST_STRIPE, Math.round(Math.max(height, width) / STRIPES));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const cell = layout[y * width + x] ?? 0;
      if (!hatched[cell]) target[y * width + x] = colours[cell] ?? 0;
      else {
        const grey = GREYS[(x + y) % (2 * stripe) < stripe ? 0 : 1];
        pixels.set([grey, grey, grey, 255 * opacity], 4 * (y * width + x));
      }
    }
  }
  return pixels;
}

/** Colours of drops, a row each, over the greys of a picture from black to white: as a map looks over one. */
export function composed(drops: Float32Array, columns: number, look: Look): Uint8ClampedArray<ArrayBuffer> {
  const { colours } = tint(drops, new Uint8Array(drops.length).fill(TRIMMED), look);
  const cells = new Uint8ClampedArray(colours.buffer);
  const pixels = new Uint8ClampedArray(4 * columns * drops.length);
  for (let row = 0; row < drops.length; row++) {
    const share = (cells[4 * row + 3] ?? 0) / 255;
    for (let column = 0; column < columns; column++) {
      const below = (255 * column) / Math.max(1, columns - 1);
      const at = 4 * (row * columns + column);
      for (let channel = 0; channel < 3; channel++) pixels[at + channel] = share * (cells[4 * row + channel] ?? 0) + (1 - share) * below;
      pixels[at + 3] = 255;
    }
  }
  return pixels;
}

/** How much the output falls at every cell: `base - value`. */
export function drops(values: Float32Array, base: number): Float32Array {
  return values.map((value) => base - value);
}

/** The pixels at the edge of a mask. */
export function outline(mask: Uint8Array, height: number, width: number): Uint8ClampedArray<ArrayBuffer> {
  const pixels = new Uint8ClampedArray(height * width * 4);
  const inside = (y: number, x: number) => y >= 0 && x >= 0 && y < height && x < width && mask[y * width + x];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const edge = inside(y, x) && !(inside(y - 1, x) && inside(y + 1, x) && inside(y, x - 1) && inside(y, x + 1));
      if (edge) pixels.set([255, 255, 255, 235], 4 * (y * width + x));
    }
  }
  return pixels;
}

/** Lines in cells of a section: x and y where each begins, and where it ends. */
export type Lines = readonly (readonly [number, number, number, number])[];

/** The lines around what a mask holds, each as long as it goes. */
export function edges(mask: Uint8Array, { height, width }: Size): Lines {
  const inside = (y: number, x: number) => (y >= 0 && x >= 0 && y < height && x < width && mask[y * width + x] ? 1 : 0);
  const lines: [number, number, number, number][] = [];
  const run = (count: number, other: number, differs: (i: number, j: number) => boolean, add: (i: number, from: number, to: number) => void) => {
    for (let i = 0; i <= count; i++) {
      for (let j = 0, from = -1; j <= other; j++) {
        const here = j < other && differs(i, j);
        if (here && from < 0) from = j;
        else if (!here && from >= 0) {
          add(i, from, j);
          from = -1;
        }
      }
    }
  };
  run(height, width, (y, x) => inside(y, x) !== inside(y - 1, x), (y, from, to) => lines.push([from, y, to, y]));
  run(width, height, (x, y) => inside(y, x) !== inside(y, x - 1), (x, from, to) => lines.push([x, from, x, to]));
  return lines;
}

/** The lines along which numbers, one in the middle of every pixel, pass a level. */
export function isolines(values: Float32Array, { height, width }: Size, level: number): Lines {
  const lines: [number, number, number, number][] = [];
  for (let y = 0; y + 1 < height; y++) {
    for (let x = 0; x + 1 < width; x++) {
      const corners = [
        [x, y],
        [x + 1, y],
        [x + 1, y + 1],
        [x, y + 1],
      ] as const;
      const above = corners.map(([i, j]) => (values[j * width + i] ?? NaN) - level);
      if (above.every((value) => value >= 0) || above.every((value) => !(value >= 0)) || above.some(Number.isNaN)) continue;
      const met: [number, number][] = [];
      corners.forEach(([i, j], corner) => {
        const [a, b] = [above[corner] ?? 0, above[(corner + 1) % 4] ?? 0];
        if (a >= 0 === b >= 0) return;
        const [k, l] = corners[(corner + 1) % 4] ?? [i, j];
        const share = a / (a - b);
        met.push([i + 0.5 + share * (k - i), j + 0.5 + share * (l - j)]);
      });
      for (let i = 0; i + 1 < met.length; i += 2) {
        const [from, to] = [met[i], met[i + 1]];
        if (from && to) lines.push([...from, ...to]);
      }
    }
  }
  return lines;
}

/** The pixels below or to the right of which another cell begins. */
export function borders(layout: Int32Array, { height, width }: Size): Uint8ClampedArray<ArrayBuffer> {
  const pixels = new Uint8ClampedArray(height * width * 4);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      const right = x + 1 < width && layout[at + 1] !== layout[at];
      const below = y + 1 < height && layout[at + width] !== layout[at];
      if (right || below) pixels.set([255, 255, 255, 110], 4 * at);
    }
  }
  return pixels;
}

/** A picture's pixels where a mask is set, and nothing elsewhere. */
export function cut(picture: CanvasImageSource, mask: Uint8Array, { height, width }: Size): HTMLCanvasElement {
  const canvas = sheet(new Uint8ClampedArray(Array.from(mask, (set) => [0, 0, 0, 255 * set]).flat()), height, width);
  const context = canvas.getContext("2d");
  if (context) {
    context.globalCompositeOperation = "source-in";
    context.drawImage(picture, 0, 0, width, height);
  }
  return canvas;
}

/** Stops of a CSS gradient for the part of the scale that outputs can reach. */
export function gradient(table: Uint8Array, from: number, to: number): string {
  const stops = Array.from({ length: 17 }, (_, i) => {
    const colour = 3 * Math.min(255, Math.max(0, Math.round(255 * (from + ((to - from) * i) / 16))));
    return `rgb(${table[colour]} ${table[colour + 1]} ${table[colour + 2]})`;
  });
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

/** Outputs at the ends of the colour bar: of probabilities, only what can be. */
export function reach(base: number, limit: number, areShares: boolean): [number, number] {
  const [low, high] = [base - limit, base + limit];
  return areShares ? [Math.max(0, low), Math.min(1, high)] : [low, high];
}

/** Where those of some cells that are measured are centred, if any cell between them is predicted. */
export function dots(status: Uint8Array, windows: Windows, cells: readonly number[]): Place[] {
  if (!status.includes(INTERPOLATED) && !status.includes(LINEARISED)) return [];
  return cells
    .filter((cell) => (status[cell] ?? UNKNOWN) >= TRIMMED)
    .map((cell) => windows.centre(cell).map((at, axis) => Math.min((windows.axes[axis]?.size ?? 1) - 1, at)));
}

/** A part of a canvas that is drawn on, from the context's origin on. */
export interface Area extends Size {
  readonly context: CanvasRenderingContext2D;
}

/** A canvas that holds pixels of the input's size, to be scaled when drawn. */
export function sheet(pixels: Uint8ClampedArray<ArrayBuffer>, height: number, width: number): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d")?.putImageData(new ImageData(pixels, width, height), 0, 0);
  return canvas;
}
