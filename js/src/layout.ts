// Where the cells of a map lie on the picture: a grid of windows, or regions of any shape.
import { type Box, cellAt, centreOf, moved, patchBox, type Point, spread } from "./geometry";
import type { Grid } from "./messages";

export interface Size {
  readonly height: number;
  readonly width: number;
}

export interface Layout {
  /** For every pixel, the cell shown there. */
  readonly cells: Int32Array;
  /** The cell that keys begin at. */
  readonly middle: number;
  /** The cell shown at a point. */
  at(point: Point): number;
  /** The point that stands for a cell. */
  centre(cell: number): Point;
  /** The cell so many steps down and to the right, or as far as there are cells. */
  moved(cell: number, rows: number, columns: number): number;
  /** The pixels that the covering of a cell lies in. */
  box(cell: number): Box;
}

/** Windows on a grid, which overlap: every pixel shows the one that is centred nearest. */
export class Windows implements Layout {
  private spread: Int32Array | null = null;

  constructor(
    private readonly grid: Grid,
    private readonly size: Size,
  ) {}

  get cells(): Int32Array {
    this.spread ??= this.spreadOut();
    return this.spread;
  }

  get middle(): number {
    return this.index({ row: Math.floor(this.grid.rows / 2), column: Math.floor(this.grid.columns / 2) });
  }

  at({ x, y }: Point): number {
    return this.index(cellAt(x, y, this.grid));
  }

  centre(cell: number): Point {
    return centreOf(this.place(cell), this.grid);
  }

  moved(cell: number, rows: number, columns: number): number {
    return this.index(moved(this.place(cell), rows, columns, this.grid));
  }

  box(cell: number): Box {
    return patchBox(this.place(cell), this.grid, this.size.height, this.size.width);
  }

  /** The pixels that a window has on a sheet of all windows' coverings side by side. */
  onSheet(cell: number): Point {
    const { row, column } = this.place(cell);
    return { x: column * this.grid.window, y: row * this.grid.window };
  }

  private index({ row, column }: { row: number; column: number }): number {
    return row * this.grid.columns + column;
  }

  private place(cell: number): { row: number; column: number } {
    return { row: Math.floor(cell / this.grid.columns), column: cell % this.grid.columns };
  }

  private spreadOut(): Int32Array {
    const { height, width } = this.size;
    const columns = spread(width, this.grid.columns, this.grid);
    const rows = spread(height, this.grid.rows, this.grid);
    const cells = new Int32Array(height * width);
    rows.forEach((row, y) => columns.forEach((column, x) => (cells[y * width + x] = this.index({ row, column }))));
    return cells;
  }
}

/** Regions, each of pixels that have one number; every pixel is of one region. */
export class Regions implements Layout {
  private boxes: Box[] | null = null;
  private centres: Point[] | null = null;

  constructor(
    readonly cells: Int32Array,
    private readonly size: Size,
  ) {}

  get middle(): number {
    return this.at({ x: this.size.width / 2, y: this.size.height / 2 });
  }

  at({ x, y }: Point): number {
    const { height, width } = this.size;
    const row = Math.min(height - 1, Math.max(0, Math.floor(y)));
    return this.cells[row * width + Math.min(width - 1, Math.max(0, Math.floor(x)))] ?? 0;
  }

  /** The middle of the region's pixel that is nearest to the mean of all of them. */
  centre(cell: number): Point {
    this.centres ??= this.middles();
    return this.centres[cell] ?? { x: 0, y: 0 };
  }

  /** To the nearest region whose centre lies in that direction rather than beside it. */
  moved(cell: number, rows: number, columns: number): number {
    this.centres ??= this.middles();
    let now = cell;
    for (let left = Math.max(Math.abs(rows), Math.abs(columns)); left > 0; left--) {
      const from = this.centre(now);
      let [found, nearest] = [now, Infinity];
      this.centres.forEach(({ x, y }, other) => {
        const [right, down] = [x - from.x, y - from.y];
        const ahead = right * Math.sign(columns) + down * Math.sign(rows);
        const far = right * right + down * down;
        if (ahead > 0 && 2 * ahead * ahead >= far && far < nearest) [found, nearest] = [other, far];
      });
      now = found;
    }
    return now;
  }

  box(cell: number): Box {
    this.boxes ??= this.bounds();
    return this.boxes[cell] ?? { top: 0, left: 0, bottom: 0, right: 0 };
  }

  /** Of every pixel, whether it is of one of these regions. */
  mask(cells: ReadonlySet<number>): Uint8Array {
    return Uint8Array.from(this.cells, (cell) => Number(cells.has(cell)));
  }

  private middles(): Point[] {
    const { width } = this.size;
    const sums: { count: number; x: number; y: number; best: number; at: Point }[] = [];
    const each = (action: (sum: (typeof sums)[number], x: number, y: number) => void) => {
      this.cells.forEach((cell, pixel) => {
        const sum = (sums[cell] ??= { count: 0, x: 0, y: 0, best: Infinity, at: { x: 0, y: 0 } });
        action(sum, (pixel % width) + 0.5, Math.floor(pixel / width) + 0.5);
      });
    };
    each((sum, x, y) => {
      [sum.count, sum.x, sum.y] = [sum.count + 1, sum.x + x, sum.y + y];
    });
    each((sum, x, y) => {
      const far = Math.hypot(x - sum.x / sum.count, y - sum.y / sum.count);
      if (far < sum.best) [sum.best, sum.at] = [far, { x, y }];
    });
    return sums.map(({ at }) => at);
  }

  private bounds(): Box[] {
    const boxes: Box[] = [];
    this.cells.forEach((cell, pixel) => {
      const [x, y] = [pixel % this.size.width, Math.floor(pixel / this.size.width)];
      const box = (boxes[cell] ??= { top: y, left: x, bottom: y + 1, right: x + 1 });
      box.top = Math.min(box.top, y);
      box.left = Math.min(box.left, x);
      box.bottom = Math.max(box.bottom, y + 1);
      box.right = Math.max(box.right, x + 1);
    });
    return boxes;
  }
}
