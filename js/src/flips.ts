// Where covering changes the answer, and what to.
import { INTERPOLATED, type Map, UNKNOWN } from "./messages";

/** Positions whose covering changes the predicted class, of those that have been measured. */
export interface Flips {
  /** By cell, 1 where the answer changes; between measured cells, as at the nearest. */
  cells: Uint8Array;
  count: number;
  measured: number;
  /** The commonest other answer; null where there is none. */
  mostly: number | null;
  /** How many answers there are beside the predicted one. */
  others: number;
}

export function flipsOf({ status, classes, counts }: Pick<Map, "status" | "classes" | "counts">, predicted: number): Flips {
  const times = new globalThis.Map<number, number>();
  let measured = 0;
  const known = Int8Array.from(status, (how, cell) => {
    const answer = classes[cell] ?? -1;
    if (how === UNKNOWN || how === INTERPOLATED || answer < 0) return -1;
    measured += 1;
    if (answer === predicted) return 0;
    times.set(answer, (times.get(answer) ?? 0) + 1);
    return 1;
  });
  if (measured) spreadTo(known, counts, (cell) => status[cell] === INTERPOLATED);
  const cells = Uint8Array.from(known, (flips) => Math.max(0, flips));
  const [first] = [...times].sort(([, a], [, b]) => b - a);
  const count = [...times.values()].reduce((sum, each) => sum + each, 0);
  return { cells, count, measured, mostly: first?.[0] ?? null, others: times.size };
}

/** Gives wanted cells of a grid that are below zero the number of the nearest that is not, step by step. */
function spreadTo(numbers: Int8Array, counts: readonly number[], wanted: (cell: number) => boolean): void {
  const steps = counts.map((_, axis) => counts.slice(axis + 1).reduce((product, count) => product * count, 1));
  let front = [...numbers.keys()].filter((cell) => (numbers[cell] ?? -1) >= 0);
  while (front.length) {
    const next: number[] = [];
    for (const cell of front) {
      steps.forEach((step, axis) => {
        const [at, count] = [Math.floor(cell / step) % (counts[axis] ?? 1), counts[axis] ?? 1];
        for (const by of [-1, 1]) {
          const other = cell + by * step;
          if (at + by < 0 || at + by >= count || (numbers[other] ?? 0) >= 0 || !wanted(other)) continue;
          numbers[other] = numbers[cell] ?? 0;
          next.push(other);
        }
      });
    }
    front = next;
  }
}

/** The flips in words; empty where no answer is known. */
export function sayFlips({ cells, count, measured, mostly, others }: Flips, name: (target: number) => string, regions: boolean): string {
  if (!measured) return "";
  const some = measured < cells.length ? " measured" : "";
  const places = `${measured.toLocaleString("en")} ${regions ? "regions" : "places"}${some}`;
  if (mostly === null) return `The answer flips at none of ${places}.`;
  return `The answer flips at ${count.toLocaleString("en")} of ${places}, ${others > 1 ? "mostly " : ""}to ${name(mostly)}.`;
}
