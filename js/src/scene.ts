// What one view shows: the latest map and images, and the place that is looked at.
import { floats, integers, octets } from "./bytes";
import { Cells, type Levels } from "./cells";
import { bitmap, type Listening } from "./dom";
import { type Flips, flipsOf } from "./flips";
import { clamp, type Place } from "./geometry";
import { type Layout, Regions, Windows } from "./layout";
import { answers, colourLimit, coverName, toMap } from "./map";
import { Cached } from "./cached";
import { arrived, type Field, type Map, type Model, type Region, type State, type View } from "./messages";
import { drops, tint, type Tints } from "./paint";
import { samePartition } from "./partition";
import { FLAT, Section } from "./section";
import { BYTES, type Pyramid, pyramidOf } from "./stage/pyramid";

/** A view whose images have been read. */
interface Loaded {
  view: View;
  /** Null of a volume or a signal, which has cells. */
  picture: ImageBitmap | null;
  patch: ImageBitmap | null;
  cover: Cells | null;
  probabilities: Float32Array;
  /** Null for windows. */
  regions: Regions | null;
}

const NONE = new Float32Array();

export class Scene {
  private latest: Map | null = null;
  /** The latest map that is fit to be seen. */
  private drawn: Map | null = null;
  private loaded: Loaded | null = null;
  private read: { field: Field; cells: Cells } | null = null;
  private places: { key: string; layout: Layout } | null = null;
  private tinted: { key: string; map: Map; tints: Tints } | null = null;
  sizes: Place = [1, 1];
  /** What is shown of the image: one section, or three of a volume. */
  sections: readonly Section[] = [new Section(FLAT, [1, 1], [1, 1])];
  /** Where the sections of a volume meet, in the middle of a voxel. */
  cross: Place = [0.5, 0.5];
  /** The section that was pointed at last. */
  pointed = 0;
  /** The numbers that are black and white. */
  levels: Levels = BYTES;
  /** In cells of the input: those of maps come and go with the stride. */
  private at: Place | null = null;
  pinned = false;
  /** Whether the map is hidden, to see what is below. */
  hidden = false;
  private flipped: { map: Map; flips: Flips } | null = null;
  /** Whether the cross-hairs of a volume stay where they are when a map is finished. */
  private moved = false;
  private detail: { image: number; picture: ImageBitmap } | null = null;
  private readonly pyramids = new WeakMap<Scene, Cached<Pyramid>>();
  private readonly patches = new WeakMap<ImageBitmap, Cached<Pyramid>>();
  private readonly watchers: (() => void)[] = [];

  constructor(
    readonly model: Model,
    listening: Listening,
    private readonly live: boolean,
  ) {
    listening.to(["_frame"], () => {
      this.latest = toMap(model.get("_frame"));
      this.settle();
      this.seek();
      this.changed();
    });
    listening.to(["_view", "_cells"], () => void this.load());
    listening.to(["_detail"], () => void this.sharpen());
    listening.to(["image_index", "window", "stride", "regions", "baseline", "target", "region", "covered"], () =>
      this.changed(),
    );
    listening.to(["exact", "ssim_target"], () => this.changed());
    listening.to(["running"], () => {
      this.settle();
      this.changed();
    });
    listening.to(["opacity", "colormap", "scale", "limit", "overlay", "threshold", "dots", "_colours"], () =>
      this.changed(),
    );
  }

  /** The map that is drawn, of the image chosen; the other controls may have moved since it was asked for. */
  get map(): Map | null {
    return this.ofPicture(this.drawn);
  }

  /** The map that is drawn, if it is what the controls ask for. */
  get current(): Map | null {
    return this.map && answers(this.map.asked, this.model, false) ? this.map : null;
  }

  /** How far the map is that the controls ask for; null before its first position. */
  get progress(): Map | null {
    const latest = this.ofPicture(this.latest);
    return latest && answers(latest.asked, this.model, false) ? latest : null;
  }

  /** Whether the controls have moved since the latest map was asked for, and the kernel has not answered yet. */
  get waiting(): boolean {
    return this.live && this.latest !== null && !answers(this.latest.asked, this.model, true);
  }

  /** Whether there is an image to show. */
  get ready(): boolean {
    return this.ofImage() !== null;
  }

  get picture(): ImageBitmap | null {
    return this.ofImage()?.picture ?? null;
  }

  /** The numbers of a volume or a signal. */
  get cells(): Cells | null {
    return this.ofImage() && this.field ? (this.read?.cells ?? null) : null;
  }

  /** A volume or a signal as it was sent; null for pictures. */
  get field(): Field | null {
    const field = this.model.get("_cells");
    return arrived(field) && field.image === this.model.get("image_index") ? field : null;
  }

  get isVolume(): boolean {
    return this.sizes.length === 3;
  }

  /** The names of the axes. */
  get axes(): readonly string[] {
    return this.ofImage()?.view.axes ?? ["rows", "columns"];
  }

  /** The patch, if it has the colour chosen; as bright as the picture. */
  get patch(): ImageBitmap | HTMLCanvasElement | null {
    const patch = this.asChosen()?.patch ?? null;
    const [[black, white], [low, high]] = [this.levels, this.firstLevels];
    if (!patch || (black === low && white === high)) return patch;
    const byte = (level: number) => (255 * (level - low)) / (high - low || 1);
    return Cached.of(this.patches, patch, [], () => pyramidOf(patch)).whole([byte(black), byte(white)]);
  }

  /** What covers a volume or a signal, if it is what was chosen. */
  get cover(): Cells | null {
    return this.asChosen()?.cover ?? null;
  }

  /** Whether `patch` or `cover` is a sheet with what covers every window. */
  get byWindow(): boolean {
    return this.ofImage()?.view.byWindow ?? false;
  }

  /** Where the cells of the map lie; null without a map. */
  get layout(): Layout | null {
    const { map } = this;
    if (!map) return null;
    if (map.asked.regions) return this.ofImage()?.regions ?? null;
    const key = [...map.counts, map.window, map.stride, ...map.sizes].join();
    if (this.places?.key !== key) this.places = { key, layout: new Windows(map) };
    return this.places.layout;
  }

  /** The colours of the map's cells; null without a map of this image's size. */
  get tints(): Tints | null {
    const { map, limit, opacity, threshold } = this;
    if (map?.sizes.join() !== this.sizes.join()) return null;
    const key = [limit, opacity, threshold, this.model.get("colormap")].join();
    if (this.tinted?.map !== map || this.tinted.key !== key) {
      this.tinted = { key, map, tints: tint(drops(map.values, map.base), map.status, this) };
    }
    return this.tinted.tints;
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

  /** How a map lies over the picture: in cells where it has no neighbours to go between. */
  get style(): State["overlay"] {
    return this.model.get("overlay");
  }

  /** Whether measured positions are marked. */
  get dots(): boolean {
    return this.model.get("dots");
  }

  /** The picture under a map, as sharp as it has come, and which of its numbers are black and white; null of others. */
  get below(): { pyramid: Pyramid; levels: Levels } | null {
    const { picture, cells } = this;
    if (!picture) return null;
    if (cells) {
      const key = [cells, ...this.levels];
      return { pyramid: Cached.of(this.pyramids, this, key, () => pyramidOf(cells.picture(this.levels))), levels: BYTES };
    }
    const source = this.detail?.image === this.model.get("image_index") ? this.detail.picture : picture;
    return { pyramid: Cached.of(this.pyramids, this, [source], () => pyramidOf(source)), levels: this.levels };
  }

  /** The number of a picture or a signal of one channel at a place; null where there is none. */
  number(place: Place): number | null {
    const { cells, field, sizes } = this;
    if (!cells || !field || field.channels > 1) return null;
    return cells.at(place.map((at, axis) => (at * (field.of[axis] ?? 1)) / (sizes[axis] ?? 1)));
  }

  /** The numbers of the picture, the volume or the signal that are black and white at first. */
  get firstLevels(): Levels {
    return this.field?.levels ?? BYTES;
  }

  /** What the model predicts of the image. */
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
    return this.hidden ? 0 : this.model.get("opacity");
  }

  /** Share of the limit below which a change is not coloured. */
  get threshold(): number {
    return this.model.get("threshold");
  }

  /** Which positions change the answer, and what to. */
  get flips(): Flips | null {
    const { map, predicted } = this;
    if (!map || predicted === null) return null;
    if (this.flipped?.map !== map) this.flipped = { map, flips: flipsOf(map, predicted) };
    return this.flipped.flips;
  }

  /** The region that the controls ask for. */
  get region(): Region {
    return this.model.get("region");
  }

  /** Whether the outputs are probabilities. */
  get areShares(): boolean {
    return this.ofImage()?.view.areShares ?? false;
  }

  name(target: number | null): string {
    return target === null ? "output" : (this.model.get("_class_names")[target] ?? String(target));
  }

  /** The place looked at; of a volume that of the cross-hairs, where no other is pointed at. */
  get place(): Place | null {
    return this.at ?? (this.isVolume ? this.cross : null);
  }

  /** The cell looked at: that of the map asked for which is nearest to the place. */
  get cell(): number | null {
    return this.place && this.current && (this.layout?.at(this.place) ?? null);
  }

  /** Looks at a place, unless one is pinned. */
  look(at: Place | null): void {
    if (this.pinned) return;
    this.at = at;
    this.changed();
  }

  /** Looks at a place; what is pinned stays pinned, there. */
  move(at: Place): void {
    this.at = at;
    this.changed();
  }

  /** Pins the cell at a place, or lets go where it is pinned already. */
  pin(at: Place | null): void {
    const [before, layout] = [this.cell, this.current && this.layout];
    const cell = at && (layout?.at(at) ?? null);
    this.pinned = cell !== null && !(this.pinned && before === cell);
    this.at = cell === null || !layout ? null : layout.centre(cell);
    this.changed();
  }

  /** Moves the cross-hairs of a volume to the voxel at a place. */
  meet(at: Place): void {
    this.moved = true;
    this.cross = this.sizes.map((size, i) => clamp(Math.floor(at[i] ?? 0), 0, size - 1) + 0.5);
    this.at = null;
    this.changed();
  }

  /** Moves the cross-hairs of a volume to what counts most, where that is known. */
  meetMost(): void {
    if (this.map?.most) this.meet(this.map.most);
  }

  /** Which numbers of a volume are black and white; null for those that are so at first. */
  show(levels: Levels | null): void {
    const first = this.firstLevels;
    const [black, white] = levels ?? first;
    this.levels = white > black ? [black, white] : first;
    this.changed();
  }

  /** Hides the map, or shows it again. */
  hide(hidden: boolean): void {
    this.hidden = hidden;
    this.changed();
  }

  watch(action: () => void): void {
    this.watchers.push(action);
    action();
  }

  /** A map, if it is of the image chosen. */
  private ofPicture(map: Map | null): Map | null {
    if (map?.asked.image_index !== this.model.get("image_index")) return null;
    // The regions of a map come with the picture.
    const regions = map.asked.regions && this.ofImage()?.view.partition;
    return !map.asked.regions || (regions && samePartition(map.asked.regions, regions)) ? map : null;
  }

  /** A map of a few positions is all of one colour: until there are enough of them, the last one stays. */
  private settle(): void {
    const { latest } = this;
    if (!latest || latest.coarse || !this.live || !this.model.get("running")) this.drawn = latest;
  }

  private ofImage(): Loaded | null {
    return this.loaded?.view.image === this.model.get("image_index") ? this.loaded : null;
  }

  private asChosen(): Loaded | null {
    const loaded = this.ofImage();
    return loaded?.view.baseline === coverName(this.model.get("baseline")) ? loaded : null;
  }

  private changed(): void {
    for (const watcher of this.watchers) watcher();
  }

  /** Goes to what counts most in the first finished map, unless somebody has gone elsewhere. */
  private seek(): void {
    if (this.isVolume && !this.moved) this.meetMost();
  }

  private async sharpen(): Promise<void> {
    const detail = this.model.get("_detail");
    this.detail = null;
    this.changed();
    if (!arrived(detail)) return;
    const picture = await bitmap(detail.picture);
    if (this.model.get("_detail") !== detail) return;
    this.detail = { image: detail.image, picture };
    this.changed();
  }

  private async load(): Promise<void> {
    const view = this.model.get("_view");
    if (!arrived(view)) {
      this.loaded = null;
      this.changed();
      return;
    }
    const field = this.model.get("_cells");
    const whole = !view.picture.byteLength;
    if (whole && !(arrived(field) && field.image === view.image)) return; // its cells are on their way
    const read = (bytes: DataView) => (bytes.byteLength ? bitmap(bytes) : Promise.resolve(null));
    const [picture, patch] = await Promise.all([read(view.picture), read(view.patch)]);
    if (this.model.get("_view") !== view) return;
    const another = this.loaded?.view.image !== view.image;
    if (this.sizes.join() !== view.sizes.join()) [this.at, this.pinned] = [null, false]; // the place is on another picture
    if (another || this.sizes.join() !== view.sizes.join()) {
      this.sizes = view.sizes;
      this.sections = view.planes.map((plane) => new Section(plane, view.sizes, view.spacing));
      this.cross = view.sizes.map((size) => Math.floor(size / 2) + 0.5);
      [this.pointed, this.moved] = [0, false];
    }
    const ours = arrived(field) && field.image === view.image;
    if (ours && this.read?.field !== field) this.read = { field, cells: new Cells(field) };
    if (another) this.levels = ours ? field.levels : BYTES;
    const regions = view.partition ? new Regions(integers(view.regions), view.sizes) : null;
    const cover = arrived(view.cover) ? new Cells(view.cover) : null;
    this.loaded = { view, picture, patch, cover, probabilities: floats(view.probabilities), regions };
    this.seek();
    this.changed();
  }
}
