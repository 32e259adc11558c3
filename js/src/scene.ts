// What one view shows: the latest map and pictures, and the place that is looked at.
import { floats, integers, octets } from "./bytes";
import { bitmap, type Listening } from "./dom";
import type { Point } from "./geometry";
import { type Layout, Regions, Windows } from "./layout";
import { answers, colourLimit, coverName, toMap } from "./map";
import { arrived, type Map, type Model, type Region, type View } from "./messages";
import { samePartition } from "./partition";

/** A view whose pictures have been read. */
interface Loaded {
  view: View;
  picture: ImageBitmap;
  patch: ImageBitmap | null;
  probabilities: Float32Array;
  /** Null for windows. */
  regions: Regions | null;
}

const NONE = new Float32Array();

export class Scene {
  private latest: Map | null = null;
  private loaded: Loaded | null = null;
  private places: { key: string; layout: Layout } | null = null;
  height = 1;
  width = 1;
  /** In pixels of the input: cells come and go with the stride. */
  private at: Point | null = null;
  pinned = false;
  private readonly watchers: (() => void)[] = [];

  constructor(
    readonly model: Model,
    listening: Listening,
    private readonly live: boolean,
  ) {
    listening.to(["_frame"], () => {
      this.latest = toMap(model.get("_frame"));
      this.changed();
    });
    listening.to(["_view"], () => void this.load());
    listening.to(["image_index", "window", "stride", "regions", "baseline", "target", "region", "covered"], () =>
      this.changed(),
    );
    listening.to(["exact", "ssim_target"], () => this.changed());
    listening.to(["opacity", "colormap", "scale", "limit", "_colours", "running"], () => this.changed());
  }

  /** The latest map of the picture chosen; the other controls may have moved since it was asked for. */
  get map(): Map | null {
    const { latest } = this;
    if (latest?.asked.image_index !== this.model.get("image_index")) return null;
    // The regions of a map come with the picture.
    const regions = latest.asked.regions && this.ofImage()?.view.partition;
    return !latest.asked.regions || (regions && samePartition(latest.asked.regions, regions)) ? latest : null;
  }

  /** The map that the controls ask for; null before its first position. */
  get current(): Map | null {
    return this.map && answers(this.map.asked, this.model, false) ? this.map : null;
  }

  /** Whether the controls have moved since the latest map was asked for, and the kernel has not answered yet. */
  get waiting(): boolean {
    return this.live && this.latest !== null && !answers(this.latest.asked, this.model, true);
  }

  get picture(): ImageBitmap | null {
    return this.ofImage()?.picture ?? null;
  }

  /** The patch, if it has the colour chosen. */
  get patch(): ImageBitmap | null {
    const loaded = this.ofImage();
    return loaded?.view.baseline === coverName(this.model.get("baseline")) ? loaded.patch : null;
  }

  /** Whether `patch` is a sheet with what covers every window. */
  get byWindow(): boolean {
    return this.ofImage()?.view.byWindow ?? false;
  }

  /** Where the cells of the map lie; null without a map. */
  get layout(): Layout | null {
    const { map } = this;
    if (!map) return null;
    if (map.asked.regions) return this.ofImage()?.regions ?? null;
    const key = [map.rows, map.columns, map.window, map.stride, map.height, map.width].join();
    if (this.places?.key !== key) this.places = { key, layout: new Windows(map, map) };
    return this.places.layout;
  }

  /** The regions that the controls ask for; null for windows, and before they are known. */
  get regions(): Regions | null {
    const loaded = this.ofImage();
    return loaded && samePartition(loaded.view.partition, this.model.get("regions")) ? loaded.regions : null;
  }

  /** The user's number of a region. */
  id(cell: number): string {
    return this.ofImage()?.view.ids[cell] ?? String(cell);
  }

  /** The regions that are covered together. */
  get covered(): ReadonlySet<number> {
    const ids = new Set(this.model.get("covered"));
    return new Set(this.ofImage()?.view.ids.flatMap((id, cell) => (ids.has(id) ? [cell] : [])));
  }

  get probabilities(): Float32Array {
    return this.ofImage()?.probabilities ?? NONE;
  }

  /** The class explained; null where there are none. */
  get target(): number | null {
    const loaded = this.ofImage();
    return this.model.get("target") ?? (loaded?.probabilities.length ? loaded.view.predicted : null);
  }

  /** What the model predicts of the picture. */
  get predicted(): number | null {
    return this.ofImage()?.view.predicted ?? null;
  }

  get table(): Uint8Array {
    return octets(this.model.get("_colours")[this.model.get("colormap")]);
  }

  get limit(): number {
    return this.map ? colourLimit(this.model.get("scale"), this.model.get("limit"), this.map) : 1;
  }

  get opacity(): number {
    return this.model.get("opacity");
  }

  /** The region that the controls ask for. */
  get region(): Region {
    return this.model.get("region");
  }

  /** Whether the outputs are probabilities, as far as one can see. */
  get areShares(): boolean {
    const total = this.probabilities.reduce((sum, p) => sum + p, 0);
    return this.probabilities.length > 1 && Math.abs(total - 1) < 0.01;
  }

  name(target: number | null): string {
    return target === null ? "output" : (this.model.get("_class_names")[target] ?? String(target));
  }

  /** The cell looked at: that of the map asked for which is nearest to the place. */
  get cell(): number | null {
    return this.at && this.current && (this.layout?.at(this.at) ?? null);
  }

  /** Looks at a place, unless one is pinned. */
  look(at: Point | null): void {
    if (this.pinned) return;
    this.at = at;
    this.changed();
  }

  /** Looks at a place; what is pinned stays pinned, there. */
  move(at: Point): void {
    this.at = at;
    this.changed();
  }

  /** Pins the cell at a place, or lets go where it is pinned already. */
  pin(at: Point | null): void {
    const [before, layout] = [this.cell, this.current && this.layout];
    const cell = at && (layout?.at(at) ?? null);
    this.pinned = cell !== null && !(this.pinned && before === cell);
    this.at = cell === null || !layout ? null : layout.centre(cell);
    this.changed();
  }

  watch(action: () => void): void {
    this.watchers.push(action);
    action();
  }

  private ofImage(): Loaded | null {
    return this.loaded?.view.image === this.model.get("image_index") ? this.loaded : null;
  }

  private changed(): void {
    for (const watcher of this.watchers) watcher();
  }

  private async load(): Promise<void> {
    const view = this.model.get("_view");
    if (!arrived(view)) {
      this.loaded = null;
      this.changed();
      return;
    }
    const patched = view.patch.byteLength ? bitmap(view.patch) : null;
    const [picture, patch] = await Promise.all([bitmap(view.picture), patched]);
    if (this.model.get("_view") !== view) return;
    if (this.height !== view.height || this.width !== view.width) {
      [this.height, this.width] = [view.height, view.width];
      [this.at, this.pinned] = [null, false]; // the place is on another picture
    }
    const regions = view.partition ? new Regions(integers(view.regions), view) : null;
    this.loaded = { view, picture, patch, probabilities: floats(view.probabilities), regions };
    this.changed();
  }
}
