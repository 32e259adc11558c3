// What one view shows: the latest map and pictures, and the place that is looked at.
import { floats, octets } from "./bytes";
import { bitmap, type Listening } from "./dom";
import { type Cell, cellAt, centreOf, type Point } from "./geometry";
import { answers, colourLimit, toMap } from "./map";
import { arrived, type Map, type Model, type Region, type View } from "./messages";

/** A view whose pictures have been read. */
interface Loaded {
  view: View;
  picture: ImageBitmap;
  patch: ImageBitmap;
  probabilities: Float32Array;
}

const NONE = new Float32Array();

export class Scene {
  private latest: Map | null = null;
  private loaded: Loaded | null = null;
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
    listening.to(["image_index", "window", "stride", "baseline", "target", "region", "exact", "ssim_target"], () =>
      this.changed(),
    );
    listening.to(["opacity", "colormap", "scale", "limit", "_colours", "running"], () => this.changed());
  }

  /** The latest map of the picture chosen; the other controls may have moved since it was asked for. */
  get map(): Map | null {
    return this.latest?.asked.image_index === this.model.get("image_index") ? this.latest : null;
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
    return loaded?.view.baseline === this.model.get("baseline") ? loaded.patch : null;
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
  get cell(): Cell | null {
    return this.at && this.current && cellAt(this.at.x, this.at.y, this.current);
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
    const [before, map] = [this.cell, this.current];
    const cell = at && map && cellAt(at.x, at.y, map);
    const same = this.pinned && before?.row === cell?.row && before?.column === cell?.column;
    this.pinned = cell !== null && !same;
    this.at = cell && centreOf(cell, map);
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
    const [picture, patch] = await Promise.all([bitmap(view.picture), bitmap(view.patch)]);
    if (this.model.get("_view") !== view) return;
    if (this.height !== view.height || this.width !== view.width) {
      [this.height, this.width] = [view.height, view.width];
      [this.at, this.pinned] = [null, false]; // the place is on another picture
    }
    this.loaded = { view, picture, patch, probabilities: floats(view.probabilities) };
    this.changed();
  }
}
