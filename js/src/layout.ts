// Where the cells of a map lie on the input: a grid of windows, or regions of any shape.
import { type Axis, axesOf, centreAt, clamp, indexAt, type Place, type Span, spanAt, spread } from "./geometry";
import type { Grid } from "./messages";
import type { Section } from "./section";

export interface Layout {
  /** The cell that keys begin at. */
  readonly middle: number;
  /** For every pixel of a section through a place, the cell shown there. */
  on(section: Section, through: Place): Int32Array;
  /** The cell shown at a place. */
  at(place: Place): number;
  /** The place that stands for a cell. */
  centre(cell: number): Place;
  /** The cell so many steps on along every axis, or as far as there are cells. */
  moved(cell: number, steps: Place): number;
  /** What the covering of a cell lies in, by axis. */
  box(cell: number): Span[];
}

/** Windows on a grid, which overlap: every pixel shows the one that is centred nearest. */
export class Windows implements Layout {
  readonly axes: readonly Axis[];
  private readonly spreads: readonly Uint32Array[];

  constructor(grid: Grid) {
    this.axes = axesOf(grid);
    this.spreads = this.axes.map(spread);
  }

  get middle(): number {
    return this.index(this.axes.map(({ count }) => Math.floor(count / 2)));
  }

  on(section: Section, through: Place): Int32Array {
    const { across, down, right } = section.plane;
    const shown = (axis: number, cell: number) => (this.spreads[axis]?.[cell] ?? 0) * this.step(axis);
    return section.sum(
      (row) => (down === null ? 0 : shown(down, row)),
      (column) => shown(right, column),
      across === null ? 0 : shown(across, section.slice(through)),
    );
  }

  at(place: Place): number {
    return this.index(this.axes.map((axis, i) => indexAt(place[i] ?? 0, axis)));
  }

  centre(cell: number): Place {
    const indices = this.indices(cell);
    return this.axes.map((axis, i) => centreAt(indices[i] ?? 0, axis));
  }

  moved(cell: number, steps: Place): number {
    const indices = this.indices(cell);
    return this.index(this.axes.map(({ count }, i) => clamp((indices[i] ?? 0) + (steps[i] ?? 0), 0, count - 1)));
  }

  box(cell: number): Span[] {
    const indices = this.indices(cell);
    return this.axes.map((axis, i) => spanAt(indices[i] ?? 0, axis));
  }

  /** Where a window begins on a sheet of all windows' coverings side by side. */
  onSheet(cell: number): Place {
    const indices = this.indices(cell);
    return this.axes.map(({ window }, i) => (indices[i] ?? 0) * window);
  }

  /** For every pixel of a section, a number between those of the cells centred around; of the nearest where one is unknown. */
  between(numbers: Float32Array, section: Section, through: Place): Float32Array {
    const { across, down, right } = section.plane;
    const along = (axis: number | null, pixels: Int32Array) =>
      Array.from(pixels, (pixel) => {
        const found = axis === null ? undefined : this.axes[axis];
        if (axis === null || !found) return { low: 0, high: 0, share: 0 };
        const at = clamp((pixel + 0.5 - found.window / 2) / found.stride, 0, found.count - 1);
        const low = Math.min(Math.floor(at), Math.max(0, found.count - 2));
        const high = Math.min(low + 1, found.count - 1);
        return { low: low * this.step(axis), high: high * this.step(axis), share: at - low };
      });
    const [rows, columns] = [along(down, section.rows), along(right, section.columns)];
    const slice = across === null ? 0 : (this.spreads[across]?.[section.slice(through)] ?? 0) * this.step(across);
    const shown = this.on(section, through);
    const found = new Float32Array(rows.length * columns.length);
    let pixel = 0;
    for (const row of rows) {
      const [above, below] = [slice + row.low, slice + row.high];
      for (const { low, high, share } of columns) {
        const upper = (1 - share) * (numbers[above + low] ?? NaN) + share * (numbers[above + high] ?? NaN);
        const lower = (1 - share) * (numbers[below + low] ?? NaN) + share * (numbers[below + high] ?? NaN);
        const value = (1 - row.share) * upper + row.share * lower;
        found[pixel] = Number.isFinite(value) ? value : (numbers[shown[pixel] ?? 0] ?? NaN);
        pixel++;
      }
    }
    return found;
  }

  /** The cells that are centred on a section through a place, or nearest to it. */
  centred(section: Section, through: Place): number[] {
    const { across, down, right } = section.plane;
    const every = (axis: number | null) => Array.from({ length: axis === null ? 1 : (this.axes[axis]?.count ?? 1) }, (_, i) => i);
    const here = this.indices(this.at(through));
    return every(down).flatMap((row) =>
      every(right).map((column) =>
        this.index(
          this.axes.map((_, axis) => (axis === right ? column : axis === down ? row : axis === across ? (here[axis] ?? 0) : 0)),
        ),
      ),
    );
  }

  /** How far a cell is from the next one along an axis, in the order of cells. */
  private step(axis: number): number {
    return this.axes.slice(axis + 1).reduce((product, { count }) => product * count, 1);
  }

  private index(indices: Place): number {
    return this.axes.reduce((sum, { count }, i) => sum * count + (indices[i] ?? 0), 0);
  }

  private indices(cell: number): Place {
    return this.axes.map(({ count }, axis) => Math.floor(cell / this.step(axis)) % count);
  }
}

/** Regions, each of cells of the input that have one number; every cell is of one region. */
export class Regions implements Layout {
  private boxes: Span[][] | null = null;
  private centres: Place[] | null = null;

  constructor(
    readonly cells: Int32Array,
    private readonly sizes: Place,
  ) {}

  get middle(): number {
    return this.at(this.sizes.map((size) => size / 2));
  }

  on(section: Section, through: Place): Int32Array {
    return section.cells(through).map((cell) => this.cells[cell] ?? 0);
  }

  at(place: Place): number {
    const index = this.sizes.reduce((sum, size, i) => sum * size + clamp(Math.floor(place[i] ?? 0), 0, size - 1), 0);
    return this.cells[index] ?? 0;
  }

  /** The middle of the region's cell that is nearest to the mean of all of them. */
  centre(cell: number): Place {
    this.centres ??= this.middles();
    return this.centres[cell] ?? this.sizes.map(() => 0);
  }

  /** To the nearest region whose centre lies in that direction rather than beside it. */
  moved(cell: number, steps: Place): number {
    this.centres ??= this.middles();
    let now = cell;
    for (let left = Math.max(...steps.map(Math.abs)); left > 0; left--) {
      const from = this.centre(now);
      let [found, nearest] = [now, Infinity];
      this.centres.forEach((centre, other) => {
        let [ahead, far] = [0, 0];
        centre.forEach((at, i) => {
          const away = at - (from[i] ?? 0);
          ahead += away * Math.sign(steps[i] ?? 0);
          far += away * away;
        });
        if (ahead > 0 && 2 * ahead * ahead >= far && far < nearest) [found, nearest] = [other, far];
      });
      now = found;
    }
    return now;
  }

  box(cell: number): Span[] {
    this.boxes ??= this.bounds();
    return this.boxes[cell] ?? this.sizes.map(() => [0, 0]);
  }

  /** Of every pixel of a section, whether it is of one of these regions. */
  mask(regions: ReadonlySet<number>, section: Section, through: Place): Uint8Array {
    return Uint8Array.from(this.on(section, through), (cell) => Number(regions.has(cell)));
  }

  /** Calls `action` for every cell of the input, with the number of its region. */
  private each(action: (region: number, place: number[]) => void): void {
    const place = this.sizes.map(() => 0);
    for (const region of this.cells) {
      action(region, place);
      for (let axis = place.length - 1; axis >= 0; axis--) {
        place[axis] = (place[axis] ?? 0) + 1;
        if ((place[axis] ?? 0) < (this.sizes[axis] ?? 1)) break;
        place[axis] = 0;
      }
    }
  }

  private middles(): Place[] {
    const sums: { count: number; sum: number[]; best: number; at: Place }[] = [];
    this.each((region, place) => {
      const found = (sums[region] ??= { count: 0, sum: place.map(() => 0), best: Infinity, at: [] });
      found.count += 1;
      place.forEach((at, i) => (found.sum[i] = (found.sum[i] ?? 0) + at));
    });
    this.each((region, place) => {
      const found = sums[region];
      if (!found) return;
      const far = place.reduce((sum, at, i) => sum + (at - (found.sum[i] ?? 0) / found.count) ** 2, 0);
      if (far < found.best) [found.best, found.at] = [far, place.map((at) => at + 0.5)];
    });
    return sums.map(({ at }) => at);
  }

  private bounds(): Span[][] {
    const boxes: [number, number][][] = [];
    this.each((region, place) => {
      const box = (boxes[region] ??= place.map((at) => [at, at + 1]));
      place.forEach((at, i) => {
        const span = box[i];
        if (span) [span[0], span[1]] = [Math.min(span[0], at), Math.max(span[1], at + 1)];
      });
    });
    return boxes;
  }
}
