// Where positions lie on the input, and which one is under a pixel.
import type { Grid } from "./messages";

export interface Cell {
  row: number;
  column: number;
}

export interface Point {
  x: number;
  y: number;
}

export interface Box {
  top: number;
  left: number;
  bottom: number;
  right: number;
}

const clamp = (value: number, low: number, high: number) => Math.min(high, Math.max(low, value));

/** The position along one axis whose window is centred nearest to pixel `at`. */
export function indexAt(at: number, count: number, grid: Grid): number {
  return clamp(Math.floor((at - (grid.window - grid.stride) / 2) / grid.stride), 0, count - 1);
}

export function cellAt(x: number, y: number, grid: Grid): Cell {
  return { row: indexAt(y, grid.rows, grid), column: indexAt(x, grid.columns, grid) };
}

/** The pixels that the window at a cell covers; the last window of an axis may be cut. */
export function patchBox(cell: Cell, grid: Grid, height: number, width: number): Box {
  const top = cell.row * grid.stride;
  const left = cell.column * grid.stride;
  return {
    top,
    left,
    bottom: Math.min(top + grid.window, height),
    right: Math.min(left + grid.window, width),
  };
}

/** The pixel at which the window at a cell is centred, be it cut or not. */
export function centreOf(cell: Cell, grid: Grid): Point {
  return { x: cell.column * grid.stride + grid.window / 2, y: cell.row * grid.stride + grid.window / 2 };
}

/** Moves a cell, staying on the grid. */
export function moved(cell: Cell, rows: number, columns: number, grid: Grid): Cell {
  return {
    row: clamp(cell.row + rows, 0, grid.rows - 1),
    column: clamp(cell.column + columns, 0, grid.columns - 1),
  };
}

/** For every pixel along an axis of `size`, the position shown there. */
export function spread(size: number, count: number, grid: Grid): Uint32Array {
  return Uint32Array.from({ length: size }, (_, pixel) => indexAt(pixel + 0.5, count, grid));
}

/** A box between two corners, in whole pixels inside the picture; null if it holds none. */
export function boxBetween(
  a: Point,
  b: Point,
  height: number,
  width: number,
): Box | null {
  const box = {
    top: clamp(Math.floor(Math.min(a.y, b.y)), 0, height),
    left: clamp(Math.floor(Math.min(a.x, b.x)), 0, width),
    bottom: clamp(Math.ceil(Math.max(a.y, b.y)), 0, height),
    right: clamp(Math.ceil(Math.max(a.x, b.x)), 0, width),
  };
  return box.bottom > box.top && box.right > box.left ? box : null;
}

/** Sets the pixels of `mask` within `radius` of the line from `a` to `b`. */
export function brush(
  mask: Uint8Array,
  height: number,
  width: number,
  a: Point,
  b: Point,
  radius: number,
): void {
  const steps = Math.max(1, Math.ceil(Math.hypot(b.x - a.x, b.y - a.y) / Math.max(1, radius / 2)));
  for (let i = 0; i <= steps; i++) {
    const x = a.x + ((b.x - a.x) * i) / steps;
    const y = a.y + ((b.y - a.y) * i) / steps;
    for (let row = Math.max(0, Math.floor(y - radius)); row < Math.min(height, y + radius); row++) {
      for (let column = Math.max(0, Math.floor(x - radius)); column < Math.min(width, x + radius); column++) {
        if (Math.hypot(row + 0.5 - y, column + 0.5 - x) <= radius) mask[row * width + column] = 1;
      }
    }
  }
}
