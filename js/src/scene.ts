// What one view shows: the latest map and pictures, and the cell that is looked at.
import { bitmap, type Listening } from "./dom";
import type { Cell } from "./geometry";
import { colourLimit, floats, type Map, type Model, octets, toMap } from "./state";

export class Scene {
  private latest: Map | null = null;
  private image = -1; // which of them the picture is
  picture: ImageBitmap | null = null;
  patch: ImageBitmap | null = null;
  probabilities: Float32Array = new Float32Array();
  height = 1;
  width = 1;
  cell: Cell | null = null;
  pinned = false;
  private readonly watchers: (() => void)[] = [];

  constructor(
    readonly model: Model,
    listening: Listening,
  ) {
    listening.to(["_frame"], () => {
      this.latest = toMap(model.get("_frame"));
      this.changed();
    });
    listening.to(["_view"], () => void this.load());
    listening.to(["opacity", "colormap", "scale", "limit", "_colours", "running"], () => this.changed());
  }

  /** The map of this picture: while one of another window, colour or class has no position yet, the last one. */
  get map(): Map | null {
    if (this.picture !== null && this.latest?.image !== this.image) return null;
    return this.model.get("running") ? this.latest : this.asked();
  }

  /** The map that was asked for; null before its first position. */
  get current(): Map | null {
    return this.map && this.asked();
  }

  get table(): Uint8Array {
    return octets(this.model.get("_colours")[this.model.get("colormap")]);
  }

  get limit(): number {
    return this.map ? colourLimit(this.model.get("scale"), this.model.get("limit"), this.map) : 1;
  }

  /** Whether the outputs are probabilities, as far as one can see. */
  get areShares(): boolean {
    const total = this.probabilities.reduce((sum, p) => sum + p, 0);
    return this.probabilities.length > 1 && Math.abs(total - 1) < 0.01;
  }

  name(target: number | null): string {
    return target === null ? "output" : (this.model.get("_class_names")[target] ?? String(target));
  }

  /** Looks at a cell, unless one is pinned. */
  look(cell: Cell | null): void {
    if (this.pinned) return;
    this.cell = cell;
    this.changed();
  }

  /** Pins a cell, or lets go where it is pinned already. */
  pin(cell: Cell | null): void {
    const same = this.cell && cell && this.cell.row === cell.row && this.cell.column === cell.column;
    this.pinned = cell !== null && !(this.pinned && same);
    this.cell = cell;
    this.changed();
  }

  private asked(): Map | null {
    return this.latest?.question === this.model.get("_view").question ? this.latest : null;
  }

  watch(action: () => void): void {
    this.watchers.push(action);
    action();
  }

  private changed(): void {
    if (this.map && this.cell && (this.cell.row >= this.map.rows || this.cell.column >= this.map.columns)) {
      this.cell = null;
      this.pinned = false;
    }
    for (const watcher of this.watchers) watcher();
  }

  private async load(): Promise<void> {
    const view = this.model.get("_view");
    if (!("picture" in view)) {
      [this.picture, this.patch, this.probabilities] = [null, null, new Float32Array()];
      this.changed();
      return;
    }
    const [picture, patch] = await Promise.all([bitmap(view.picture), bitmap(view.patch)]);
    if (this.model.get("_view") !== view) return;
    [this.picture, this.patch] = [picture, patch];
    this.probabilities = floats(view.probabilities);
    [this.height, this.width] = [view.height, view.width];
    this.image = view.image;
    this.changed();
  }
}
