// Where positions lie on the input, axis by axis, and which one is at a place.
import type { Grid } from "./messages";

/** A place on the input: by axis, in cells; the middle of the first cell is at 0.5. */
export type Place = readonly number[];

/** Cells along an axis: the first, and the one after the last. */
export type Span = readonly [number, number];

/** How windows lie along an axis. */
export interface Axis {
  readonly size: number;
  readonly count: number;
  readonly window: number;
  readonly stride: number;
}

/** A point on the screen, in cells from a section's upper left. */
export interface Point {
  x: number;
  y: number;
}

export interface Size {
  readonly height: number;
  readonly width: number;
}

export interface Box {
  top: number;
  left: number;
  bottom: number;
  right: number;
}

export const clamp = (value: number, low: number, high: number) => Math.min(high, Math.max(low, value));

/** The axes of a grid: a window covers the whole of an axis that is shorter. */
export function axesOf({ sizes, counts, window, stride }: Grid): Axis[] {
  return sizes.map((size, i) => {
    const side = Math.min(window, size);
    return { size, count: counts[i] ?? 1, window: side, stride: Math.min(stride, side) };
  });
}

/** The position along an axis whose window is centred nearest to cell `at`. */
export function indexAt(at: number, { count, window, stride }: Axis): number {
  return clamp(Math.floor((at - (window - stride) / 2) / stride), 0, count - 1);
}

/** The cells that a window covers along an axis; the last one may be cut. */
export function spanAt(index: number, { size, window, stride }: Axis): Span {
  return [index * stride, Math.min(index * stride + window, size)];
}

/** Where a window is centred along an axis, be it cut or not. */
export function centreAt(index: number, { window, stride }: Axis): number {
  return index * stride + window / 2;
}

/** For every cell along an axis, the position shown there. */
export function spread(axis: Axis): Uint32Array {
  return Uint32Array.from({ length: axis.size }, (_, cell) => indexAt(cell + 0.5, axis));
}

/** A box between two corners, in whole cells of a section; null if it holds none. */
export function boxBetween(a: Point, b: Point, { height, width }: Size): Box | null {
  const box = {
    top: clamp(Math.floor(Math.min(a.y, b.y)), 0, height),
    left: clamp(Math.floor(Math.min(a.x, b.x)), 0, width),
    bottom: clamp(Math.ceil(Math.max(a.y, b.y)), 0, height),
    right: clamp(Math.ceil(Math.max(a.x, b.x)), 0, width),
  };
  return box.bottom > box.top && box.right > box.left ? box : null;
}

/** Sets the pixels of `mask` within `radius` of the line from `a` to `b`, or clears them. */
export function brush(
  mask: Uint8Array,
  height: number,
  width: number,
  a: Point,
  b: Point,
  radius: number,
  value: 0 | 1 = 1,
): void {
  const steps = Math.max(1, Math.ceil(Math.hypot(b.x - a.x, b.y - a.y) / Math.max(1, radius / 2)));
  for (let i = 0; i <= steps; i++) {
    const x = a.x + ((b.x - a.x) * i) / steps;
    const y = a.y + ((b.y - a.y) * i) / steps;
    for (let row = Math.max(0, Math.floor(y - radius)); row < Math.min(height, y + radius); row++) {
      for (let column = Math.max(0, Math.floor(x - radius)); column < Math.min(width, x + radius); column++) {
        if (Math.hypot(row + 0.5 - y, column + 0.5 - x) <= radius) mask[row * width + column] = value;
      }
    }
  }
}
