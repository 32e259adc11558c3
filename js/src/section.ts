// A plane of the input on the screen: a picture's own, one of three of a volume, the line of a signal.
import { type Box, type Place, type Point, type Size, type Span } from "./geometry";
import type { Plane } from "./messages";

/** The plane of a picture, and of nothing yet. */
export const FLAT: Plane = { name: "", across: null, down: 0, right: 1, flip: [false, false], ends: [] };

/** Width of a signal's section for its height. */
const LINE = 2.4;

export class Section implements Size {
  readonly height: number;
  readonly width: number;
  /** Width in the unit of the cells' spacing, and for the height. */
  readonly broad: number;
  readonly aspect: number;

  constructor(
    readonly plane: Plane,
    readonly sizes: Place,
    spacing: Place,
  ) {
    const length = (axis: number, each: Place) => each[axis] ?? 1;
    const { down, right } = plane;
    this.width = length(right, sizes);
    this.height = down === null ? 1 : length(down, sizes);
    this.broad = this.width * length(right, spacing);
    this.aspect = down === null ? LINE : this.broad / (this.height * length(down, spacing));
  }

  /** Where a place lies on the section. */
  point(place: Place): Point {
    const { down, right, flip } = this.plane;
    const [y, x] = [down === null ? 0.5 : (place[down] ?? 0), place[right] ?? 0];
    return { x: flip[1] ? this.width - x : x, y: flip[0] ? this.height - y : y };
  }

  /** The place at a point; along the axis across the section, that of `through`. */
  place({ x, y }: Point, through: Place): Place {
    const { down, right, flip } = this.plane;
    const place = [...through];
    place[right] = flip[1] ? this.width - x : x;
    if (down !== null) place[down] = flip[0] ? this.height - y : y;
    return place;
  }

  /** A step on the screen as one along the axes. */
  steps(rows: number, columns: number, slices = 0): Place {
    const { across, down, right, flip } = this.plane;
    const steps = this.sizes.map(() => 0);
    steps[right] = flip[1] ? -columns : columns;
    if (down !== null) steps[down] = flip[0] ? -rows : rows;
    if (across !== null) steps[across] = slices;
    return steps;
  }

  /** A box of the input, as it lies on the section. */
  box(spans: readonly Span[]): Box {
    const a = this.point(spans.map(([first]) => first));
    const b = this.point(spans.map(([, last]) => last));
    const [top, bottom] = this.plane.down === null ? [0, 1] : [Math.min(a.y, b.y), Math.max(a.y, b.y)];
    return { top, bottom, left: Math.min(a.x, b.x), right: Math.max(a.x, b.x) };
  }

  /** A box on the section as one of the input, which reaches along the axis across as far as another. */
  spans({ top, left, bottom, right }: Box, like: readonly Span[]): Span[] {
    const zero = this.sizes.map(() => 0);
    const [a, b] = [this.place({ x: left, y: top }, zero), this.place({ x: right, y: bottom }, zero)];
    return this.sizes.map((_, axis) => {
      if (axis === this.plane.across) return like[axis] ?? [0, 0];
      const [one, other] = [a[axis] ?? 0, b[axis] ?? 0];
      return [Math.min(one, other), Math.max(one, other)];
    });
  }

  /** Whether the section through a place cuts a box of the input. */
  cuts(spans: readonly Span[], through: Place): boolean {
    const { across } = this.plane;
    if (across === null) return true;
    const [first, last] = spans[across] ?? [0, 0];
    return first <= (through[across] ?? 0) && (through[across] ?? 0) < last;
  }

  /** The slice of a place. */
  slice(through: Place): number {
    return this.plane.across === null ? 0 : Math.floor(through[this.plane.across] ?? 0);
  }

  /** For every column of the screen, its cell; and for every row. */
  get columns(): Int32Array {
    return this.along(this.width, this.plane.flip[1]);
  }
  get rows(): Int32Array {
    return this.along(this.height, this.plane.flip[0]);
  }

  /** Numbers of the section's pixels: the sum of one by row, by column and by slice. */
  sum(byRow: (cell: number) => number, byColumn: (cell: number) => number, bySlice: number): Int32Array {
    const found = new Int32Array(this.height * this.width);
    const columns = this.columns.map(byColumn);
    let pixel = 0;
    for (const row of this.rows) {
      const from = bySlice + byRow(row);
      for (const column of columns) found[pixel++] = from + column;
    }
    return found;
  }

  /** For every pixel, the index of its cell in numbers by cell, the last axis fastest. */
  cells(through: Place): Int32Array {
    const { across, down, right } = this.plane;
    const step = (axis: number) => this.sizes.slice(axis + 1).reduce((product, size) => product * size, 1);
    const slice = across === null ? 0 : this.slice(through) * step(across);
    return this.sum(
      (row) => (down === null ? 0 : row * step(down)),
      (column) => column * step(right),
      slice,
    );
  }

  private along(length: number, flip: boolean): Int32Array {
    return Int32Array.from({ length }, (_, i) => (flip ? length - 1 - i : i));
  }
}
