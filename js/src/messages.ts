// What the kernel and the page tell each other.
import type { AnyModel } from "@anywidget/types";

// The status of a value, as `krypton_engine.heatmap.Status` numbers it.
export const UNKNOWN = 0;
export const INTERPOLATED = 1;
export const LINEARISED = 2;
export const TRIMMED = 3;
export const EXACT = 4;

export type Bytes = DataView | undefined;

/** Where to look: a box (top, left, bottom, right) or a mask of the input's pixels. */
export type Region = { box: [number, number, number, number] } | { mask: DataView } | null;

/** The controls that a map was asked for with, as they stood then. */
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

/** What stands for a message that has not come yet. */
type Empty = Partial<Record<string, never>>;

/** Whether a message has come. */
export function arrived<T extends object>(message: T | Empty): message is T {
  return Object.keys(message).length > 0;
}

/** The traits of the model. */
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
  /** Whether `error` ended a run; otherwise the map is as good as before, and a file could not be saved, say. */
  _failed: boolean;
  _class_names: string[];
  _colours: Record<string, DataView>;
  _thumbnails: DataView[];
  _view: View | Empty;
  _frame: Frame | Empty;
  _comparison: Comparison | Empty;
  /** False in a saved page; absent where there is a kernel. */
  _kernel?: boolean;
}

export type Model = AnyModel<State>;

/** A frame with its numbers unpacked. */
export interface Map extends Omit<Frame, "base" | "values" | "status" | "classes" | "classValues"> {
  base: number;
  values: Float32Array;
  status: Uint8Array;
  classes: Int32Array;
  classValues: Float32Array;
}
