// Where covering changes the answer, and what to.
import { INTERPOLATED, type Map, UNKNOWN } from "./messages";

/** Positions whose covering changes the predicted class, of those that have been measured. */
export interface Flips {
  /** By cell, 1 where the answer changes. */
  cells: Uint8Array;
  count: number;
  measured: number;
  /** The commonest other answer; null where there is none. */
  mostly: number | null;
  /** How many answers there are beside the predicted one. */
  others: number;
}

export function flipsOf({ status, classes }: Map, predicted: number): Flips {
  const times = new globalThis.Map<number, number>();
  let measured = 0;
  const cells = Uint8Array.from(status, (how, cell) => {
    const answer = classes[cell] ?? -1;
    if (how === UNKNOWN || how === INTERPOLATED || answer < 0) return 0;
    measured += 1;
    if (answer === predicted) return 0;
    times.set(answer, (times.get(answer) ?? 0) + 1);
    return 1;
  });
  const [first] = [...times].sort(([, a], [, b]) => b - a);
  const count = [...times.values()].reduce((sum, each) => sum + each, 0);
  return { cells, count, measured, mostly: first?.[0] ?? null, others: times.size };
}

/** The flips in words; empty where no answer is known. */
export function sayFlips({ count, measured, mostly, others }: Flips, name: (target: number) => string, regions: boolean): string {
  if (!measured) return "";
  const places = `${measured.toLocaleString("en")} ${regions ? "regions" : "places"}`;
  if (mostly === null) return `The answer flips at none of ${places}.`;
  return `The answer flips at ${count.toLocaleString("en")} of ${places}, ${others > 1 ? "mostly " : ""}to ${name(mostly)}.`;
}
