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

/** What a map answers: the controls that ask for one, as they stood. */
export interface Asked {
  image_index: number;
  window: number;
  stride: number;
  baseline: string;
  target: number | null;
  region: Region;
  exact: boolean;
  ssim_target: number;
}

/** A picture, its patch, and what the model says of it. */
export interface View {
  image: number;
  baseline: string;
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
export interface Frame extends Grid {
  asked: Asked;
  height: number;
  width: number;
  target: number | null;
  /** Null where it is not finite. */
  base: number | null;
  largest: number;
  shared: number;
  seconds: number;
  done: number;
  total: number;
  left: number | null;
  finished: boolean;
  exact: boolean;
  /** Measured positions whose change is not finite. */
  notFinite: number;
  estimate: Estimate | null;
  /** On the tuning, in words. */
  note: string;
  inFull: boolean;
  values: DataView;
  status: DataView;
  classes: Bytes;
  classValues: Bytes;
}

/** The approximate map beside the exact one. */
export interface Comparison extends Grid {
  target: number | null;
  base: number | null;
  approximate: DataView;
  exact: DataView;
  /** Null where a map holds what is not finite. */
  ssim: number | null;
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
  region: Region;
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
export interface Map extends Omit<Frame, "base" | "values" | "status" | "classes" | "classValues"> {
  base: number;
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
    base: f.base ?? NaN,
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

/** How much of a map is wanted: the same map is on its way to it. */
const HOW_MUCH: readonly string[] = ["exact", "ssim_target"];

/** Whether what was asked for is what the controls ask for by now; `wholly`, as much of it too. */
export function answers(asked: Asked, model: Model, wholly: boolean): boolean {
  return (Object.keys(asked) as (keyof Asked)[]).every((name) => {
    if (name === "region") return sameRegion(asked.region, model.get("region"));
    return (!wholly && HOW_MUCH.includes(name)) || asked[name] === model.get(name);
  });
}

function sameRegion(one: Region, other: Region): boolean {
  if (!one || !other) return one === other;
  if ("box" in one) return "box" in other && one.box.every((edge, i) => edge === other.box[i]);
  if (!("mask" in other)) return false;
  const [mine, theirs] = [octets(one.mask), octets(other.mask)];
  return mine.length === theirs.length && mine.every((cell, i) => cell === theirs[i]);
}

/** Of a map that was asked for: how far it has come. */
export interface Course {
  /** Null before its first position. */
  map: Map | null;
  running: boolean;
  /** The controls have moved, and the kernel has not said anything yet. */
  waiting: boolean;
  failed: boolean;
}

/** The same in words. */
export function standing({ map, running, waiting, failed }: Course): { kind: string; text: string } {
  const busy = running || waiting;
  if (failed && !busy) return { kind: "error", text: "Stopped by an error" };
  if (!map) {
    if (!busy) return { kind: "idle", text: "Nothing measured" };
    return { kind: "running", text: running ? "Reading the model" : "Waiting for the kernel" };
  }
  const share = `${map.done.toLocaleString("en")} of ${map.total.toLocaleString("en")} positions`;
  if (busy && (waiting || !map.finished)) return { kind: "running", text: `Measuring, ${share}` };
  if (!map.finished) return { kind: "cancelled", text: `Cancelled after ${share}` };
  const name = (map.exact ? "Exact" : "Approximate") + (map.asked.region ? " in the region" : "");
  const text = `${name}, ${share} measured`;
  if (map.notFinite) return { kind: "strange", text: `${text}, ${map.notFinite.toLocaleString("en")} not finite` };
  return { kind: map.exact ? "exact" : "approximate", text };
}

/** Width of a range of SSIM that says nothing yet. */
const TOO_WIDE = 0.5;

/** What the SSIM probably is, in words. Digits are cut, not rounded: nothing looks better than it is. */
export function likeness(estimate: Estimate | null, note: string): string {
  if (!estimate) return note;
  const basis = estimate.basis === "tuned" ? "tuned" : note ? `not tuned: ${note}` : "not tuned";
  if (estimate.high - estimate.low > TOO_WIDE) return `SSIM: too early to tell, ${basis}`;
  return `SSIM about ${cut(estimate.value, 2)}, ${cut(estimate.low, 2)} to ${cut(estimate.high, 2)}, ${basis}`;
}

/** So many decimals of an SSIM, and no rounding. */
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
