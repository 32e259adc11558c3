// What the kernel sends, in the page's terms.
import type { AnyModel } from "@anywidget/types";

// How a value was come by, as `krypton_engine.heatmap.Status` has it.
export const UNKNOWN = 0;
export const INTERPOLATED = 1;
export const TRIMMED = 2;
export const EXACT = 3;

type Bytes = DataView | undefined;

/** Where to look: a box (top, left, bottom, right) or a mask of the input's pixels. */
export type Region = { box: [number, number, number, number] } | { mask: DataView } | null;

/** Which of the images, and what was asked of it: equal questions in equal words. */
export interface Asked {
  image: number;
  question: string;
}

/** The picture, its patch, and what the model says of it. */
export interface View extends Asked {
  height: number;
  width: number;
  picture: DataView;
  patch: DataView;
  probabilities: DataView;
  predicted: number;
}

/** How a grid of positions lies on the input. */
export interface Grid {
  rows: number;
  columns: number;
  window: number;
  stride: number;
}

/** What the SSIM of an approximate map probably is. */
export interface Estimate {
  value: number;
  low: number;
  high: number;
  basis: string;
}

/** A map as far as it is known. */
export interface Frame extends Asked, Grid {
  height: number;
  width: number;
  target: number | null;
  base: number;
  largest: number;
  shared: number;
  seconds: number;
  done: number;
  total: number;
  left: number | null;
  finished: boolean;
  exact: boolean;
  estimate: Estimate | null;
  /** On the tuning, in words. */
  note: string;
  inFull: boolean;
  region: Region;
  values: DataView;
  status: DataView;
  classes: Bytes;
  classValues: Bytes;
}

/** The approximate map beside the exact one. */
export interface Comparison extends Grid {
  target: number | null;
  base: number;
  approximate: DataView;
  exact: DataView;
  ssim: number;
  estimate: Estimate | null;
  ssimTarget: number;
  positions: number;
  measured: number;
  seconds: number;
  exactSeconds: number;
  speedUp: number;
  fullSeconds: number | null;
  fullSpeedUp: number | null;
  fullSpeedUpExact: number | null;
}

export interface State {
  window: number;
  stride: number;
  ssim_target: number;
  exact: boolean;
  baseline: string;
  target: number | null;
  image_index: number;
  opacity: number;
  colormap: string;
  scale: "own" | "shared" | "fixed";
  limit: number;
  running: boolean;
  error: string;
  /** Whether the error was the run's: a file that could not be saved says nothing of the map. */
  _failed: boolean;
  _class_names: string[];
  _colours: Record<string, DataView>;
  _thumbnails: DataView[];
  _view: View | Record<string, never>;
  _frame: Frame | Record<string, never>;
  _comparison: Comparison | Record<string, never>;
  /** False in a saved page; absent where there is a kernel. */
  _kernel?: boolean;
}

export type Model = AnyModel<State>;

/** Numbers of a message. They may begin anywhere in its buffer, which a typed array may not: so, copies. */
export function floats(bytes: Bytes): Float32Array {
  return new Float32Array(copy(bytes));
}

export function integers(bytes: Bytes): Int32Array {
  return new Int32Array(copy(bytes));
}

export function octets(bytes: Bytes): Uint8Array {
  return new Uint8Array(copy(bytes));
}

function copy(bytes: Bytes): ArrayBuffer {
  if (!bytes) return new ArrayBuffer(0);
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength).slice().buffer;
}

/** A frame with its numbers unpacked. */
export interface Map extends Omit<Frame, "values" | "status" | "classes" | "classValues"> {
  values: Float32Array;
  status: Uint8Array;
  classes: Int32Array;
  classValues: Float32Array;
}

/** The map of a frame; null before the first. */
export function toMap(frame: State["_frame"]): Map | null {
  if (!("rows" in frame)) return null;
  const f = frame as Frame;
  return {
    ...f,
    values: floats(f.values),
    status: octets(f.status),
    classes: integers(f.classes),
    classValues: floats(f.classValues),
  };
}

/** Where the colours end, by the scale chosen: a drop of the probability, never zero. */
export function colourLimit(scale: State["scale"], limit: number, map: Map): number {
  const found = scale === "fixed" ? limit : scale === "shared" ? map.shared : map.largest;
  return found > 0 ? found : 1;
}

/** Indices of the largest probabilities, largest first. */
export function best(probabilities: Float32Array, count: number): number[] {
  return Array.from(probabilities.keys())
    .sort((a, b) => (probabilities[b] ?? 0) - (probabilities[a] ?? 0))
    .slice(0, count);
}

/** What the page says of how far the map that was asked for has come; null before its first position. */
export function standing(map: Map | null, running: boolean, failed: boolean): { kind: string; text: string } {
  if (failed && !running) return { kind: "error", text: "Stopped by an error" };
  if (!map) return { kind: running ? "running" : "idle", text: running ? "Reading the model" : "Nothing measured" };
  const share = `${map.done.toLocaleString("en")} of ${map.total.toLocaleString("en")} positions`;
  if (running && !map.finished) return { kind: "running", text: `Measuring, ${share}` };
  if (!map.finished) return { kind: "cancelled", text: `Cancelled after ${share}` };
  const name = (map.exact ? "Exact" : "Approximate") + (map.region ? " in the region" : "");
  return { kind: map.exact ? "exact" : "approximate", text: `${name}, ${share} measured` };
}

/** What the SSIM probably is, in words. Digits are cut, not rounded: nothing looks better than it is. */
export function likeness(estimate: Estimate | null, note: string): string {
  if (!estimate) return note;
  const cut = (ssim: number) => (Math.floor(100 * ssim + 1e-6) / 100).toFixed(2).replace("-", "−");
  const basis = estimate.basis === "tuned" ? "tuned" : note ? `not tuned: ${note}` : "not tuned";
  return `SSIM about ${cut(estimate.value)}, ${cut(estimate.low)} to ${cut(estimate.high)}, ${basis}`;
}

/** A probability, drop or other output in few digits. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1000 || (size > 0 && size < 0.0005)) return value.toExponential(1).replace("-", "−");
  return value.toFixed(size >= 100 ? 1 : 3).replace("-", "−");
}

/** A drop with its sign. */
export function signed(value: number): string {
  return value > 0 ? `+${digits(value)}` : digits(value);
}

export function seconds(value: number): string {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 120) return `${value.toFixed(value < 20 ? 1 : 0)} s`;
  return value < 5400 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

/** Calls at most once in `wait` milliseconds, and always for the last call; `now` does not wait. */
export function throttled(action: () => void, wait: number): { soon: () => void; now: () => void } {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let last = -Infinity;
  const now = () => {
    clearTimeout(timer);
    timer = undefined;
    last = Date.now();
    action();
  };
  const soon = () => {
    if (timer !== undefined) return;
    const rest = last + wait - Date.now();
    if (rest <= 0) now();
    else timer = setTimeout(now, rest);
  };
  return { soon, now };
}
