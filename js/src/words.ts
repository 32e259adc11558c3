// How far a map is, how good and how fast, in words.
import type { Estimate, Map } from "./messages";

/** How far a map that was asked for has come. */
export interface Course {
  /** Null before its first position. */
  map: Map | null;
  running: boolean;
  /** The controls have moved, and the kernel has not said anything yet. */
  waiting: boolean;
  failed: boolean;
}

/** A course as a kind, for style sheets, and in words. */
export function standing({ map, running, waiting, failed }: Course): { kind: string; text: string } {
  const busy = running || waiting;
  if (failed && !busy) return { kind: "error", text: "Stopped by an error" };
  if (!map) {
    if (!busy) return { kind: "idle", text: "Nothing measured" };
    return { kind: "running", text: running ? "Reading the model" : "Waiting for the kernel" };
  }
  const what = map.asked.regions ? "regions" : "positions";
  const share = `${map.done.toLocaleString("en")} of ${map.total.toLocaleString("en")} ${what}`;
  if (busy && (waiting || !map.finished)) return { kind: "running", text: `Measuring, ${share}` };
  if (!map.finished) return { kind: "cancelled", text: `Cancelled after ${share}` };
  const name = (map.exact ? "Exact" : "Approximate") + (map.asked.region ? " in the region" : "");
  const text = `${name}, ${share} measured`;
  if (map.notFinite) return { kind: "strange", text: `${text}, ${map.notFinite.toLocaleString("en")} not finite` };
  return { kind: map.exact ? "exact" : "approximate", text };
}

/** A range of SSIM as wide as this says nothing yet. */
const TOO_WIDE = 0.5;

/** What the SSIM probably is, in words. Digits are cut, not rounded: nothing looks better than it is. */
export function likeness(estimate: Estimate | null, note: string): string {
  if (!estimate) return note;
  const basis = estimate.basis === "tuned" ? "tuned" : note ? `estimated: ${note}` : "estimated";
  if (estimate.high - estimate.low > TOO_WIDE) return `Similarity to the exact map: too early to tell, ${basis}`;
  const range = `${cut(estimate.low, 2)} to ${cut(estimate.high, 2)}`;
  return `Similarity to the exact map about ${cut(estimate.value, 2)}, ${range}, ${basis}`;
}

/** An SSIM cut to so many decimals, not rounded. */
export function cut(ssim: number, decimals: number): string {
  const whole = 10 ** decimals;
  return (Math.floor(whole * ssim + 1e-6) / whole).toFixed(decimals).replace("-", "−");
}

/** How much faster something is; below one, how much slower. */
export function faster(factor: number): { times: string; word: string } {
  const size = Math.max(factor, 1 / factor);
  const times = `${size.toFixed(size >= 9.95 ? 0 : 1)}×`;
  return { times, word: times === "1.0×" ? "as fast" : factor > 1 ? "faster" : "slower" };
}

export function seconds(value: number): string {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 120) return `${value.toFixed(value < 20 ? 1 : 0)} s`;
  return value < 5400 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

/** A share in per cent: one decimal where it is small. */
export function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}
