// What the kernel and the page tell each other.
import type { AnyModel } from "@anywidget/types";

// The status of a value, as `krypton_engine.heatmap.Status` numbers it.
export const UNKNOWN = 0;
export const INTERPOLATED = 1;
export const LINEARISED = 2;
export const TRIMMED = 3;
export const EXACT = 4;

export type Bytes = DataView | undefined;

/** Where to look: a box (the begin of every axis, then the end of every axis) or a mask of the input's cells. */
export type Region = { box: number[] } | { mask: DataView } | null;

/** What is covered one after another: superpixels ("slic:COUNT"), a user's regions by their digest, or windows. */
export type Partition = string | { given: string } | null;

/** What covered cells become: a word, or a user's filling by its description. */
export type Cover = string | { given: string };

/** The controls that a map was asked for with, as they stood then; of regions, those that they have. */
export interface Asked {
  regions: Partition;
  image_index: number;
  baseline: string;
  target: number | null;
  region: Region;
  window?: number;
  stride?: number;
  exact?: boolean;
  ssim_target?: number;
}

/** A plane in which the input is shown. */
export interface Plane {
  name: string;
  /** The axes across it, down the screen and to the right; null where there is none. */
  across: number | null;
  down: number | null;
  right: number;
  /** Whether the axes down and to the right are turned round. */
  flip: [boolean, boolean];
  /** Letters at the top, bottom, left and right; none where they are unknown. */
  ends: string[];
}

/** Numbers of a volume or a signal, as codes of 16 bits between two extremes. */
export interface Cells {
  /** Sizes of what they are numbers of, and of the numbers, which may be coarser. */
  of: number[];
  sizes: number[];
  channels: number;
  low: number;
  high: number;
  cells: DataView;
}

/** The volume or the signal itself, which is sent once. */
export interface Field extends Cells {
  image: number;
  /** The numbers that are black and white at first. */
  levels: [number, number];
  /** From cells to millimetres (RAS): three rows of four; null where unknown. */
  affine: number[][] | null;
}

/** A picture sharper than the model sees it. */
export interface Detail {
  image: number;
  picture: DataView;
}

/** An image, its patch, and what the model says of it. */
export interface View {
  image: number;
  baseline: string;
  sizes: number[];
  /** Size of a cell along every axis. */
  spacing: number[];
  /** Names of the axes. */
  axes: string[];
  planes: Plane[];
  /** Of a picture; empty of others, which are in `Field`. */
  picture: DataView;
  /** Empty where there is none to show. */
  patch: DataView;
  /** What covers a volume or a signal. */
  cover: Cells | Empty;
  /** Whether `patch` or `cover` is a sheet of what covers each window, side by side. */
  byWindow: boolean;
  /** What is covered, and for every pixel its region, by its place among `ids`; empty for windows. */
  partition: Partition;
  regions: DataView;
  /** The users' numbers of regions, as text: they may have more digits than numbers of the page. */
  ids: string[];
  probabilities: DataView;
  predicted: number;
  /** Whether these are probabilities of classes. */
  areShares: boolean;
}

/** What the model says with several regions covered at once. */
export interface Together {
  asked: Asked;
  covered: string[];
  probabilities: DataView;
}

/** What becomes of the class as parts of the picture are covered, the most important first. */
export interface Curve {
  name: string;
  shares: DataView;
  values: DataView;
  area: number;
}

export interface Curves {
  asked: Asked;
  curves: Curve[];
  /** Why there are none; empty where there are. */
  note: string;
}

/** How a grid of positions lies on the input: cells and positions by axis; regions have one count. */
export interface Grid {
  sizes: number[];
  counts: number[];
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

/** The call of a map, in Python and on the command line. */
export interface Calls {
  python: string;
  command: string;
}

/** A map as far as it is known. */
export interface Frame extends Grid {
  asked: Asked;
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
  /** The voxel that counts most in a finished map of a volume. */
  most: number[] | null;
  exact: boolean;
  /** Whether the first coarse grid of positions has been measured. */
  coarse: boolean;
  /** The least change at which colours end, unless the end is set. */
  least: number;
  /** Measured positions whose change is not finite. */
  notFinite: number;
  estimate: Estimate | null;
  /** On the tuning, in words. */
  note: string;
  inFull: boolean;
  /** Empty before the map is finished. */
  calls: Calls | Empty;
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

/** A map that was kept, with its picture; of any origin, so that it need not answer any controls. */
export interface Kept {
  name: string;
  frame: Grid & Pick<Frame, "base" | "largest" | "values" | "status">;
  view: Pick<View, "sizes" | "spacing" | "axes" | "planes" | "picture" | "regions">;
}

/** What stands for a message that has not come yet. */
export type Empty = Partial<Record<string, never>>;

/** Whether a message has come. */
export function arrived<T extends object>(message: T | Empty): message is T {
  return Object.keys(message).length > 0;
}

/** The traits of the model. */
export interface State {
  window: number;
  stride: number;
  regions: Partition;
  covered: string[];
  curve: boolean;
  ssim_target: number;
  exact: boolean;
  baseline: Cover;
  region: Region;
  target: number | null;
  image_index: number;
  opacity: number;
  colormap: string;
  scale: "own" | "shared" | "fixed";
  limit: number;
  overlay: "cells" | "smooth" | "contours";
  threshold: number;
  dots: boolean;
  running: boolean;
  error: string;
  /** Whether `error` ended a run; otherwise the map is as good as before, and a file could not be saved, say. */
  _failed: boolean;
  _class_names: string[];
  _colours: Record<string, DataView>;
  _thumbnails: DataView[];
  /** Names of the images' files; empty where an image has none. */
  _image_names: string[];
  /** Of volumes and signals. */
  _cells: Field | Empty;
  _view: View | Empty;
  /** Of pictures; there once the first map is. */
  _detail: Detail | Empty;
  _frame: Frame | Empty;
  _comparison: Comparison | Empty;
  _together: Together | Empty;
  _curves: Curves | Empty;
  _kept: Kept | Empty;
  /** The regions and the filling that the user has given, beside those that the page offers. */
  _given: { regions?: Partition; baseline?: Cover | null };
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
