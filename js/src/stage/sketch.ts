// A region as it is drawn: two corners of a rectangle on a section, or what a brush has left of a picture.
import { octets } from "../bytes";
import { boxBetween, brush, type Point, type Span } from "../geometry";
import type { Region } from "../messages";
import type { Section } from "../section";

export type Tool = "look" | "rectangle" | "brush" | "levels";

export class Sketch {
  tool: Tool = "look";
  /** The section that is drawn on. */
  section: Section | null = null;
  /** Where drawing began, or where the brush was last; null while nothing is drawn. */
  from: Point | null = null;
  /** The corner of a rectangle that moves. */
  to: Point | null = null;
  /** By pixel of the input, 1 where the brush has left its paint; null before its first stroke. */
  painted: Uint8Array<ArrayBuffer> | null = null;
  /** Pixels of the input that the brush reaches, and where it is; null where it is not on the picture. */
  radius = 8;
  cursor: Point | null = null;
  /** Whether the brush takes paint away. */
  erases = false;

  /** Begins at a point; the brush adds to the region before, or erases in it: without one, in everything. */
  begin(at: Point, section: Section, before: Region): void {
    this.section = section;
    this.from = this.to = at;
    if (this.tool !== "brush") return;
    this.painted ??= before || this.erases ? maskOf(before, section) : null;
    this.paint(at, section);
  }

  extend(at: Point, section: Section): void {
    if (this.tool === "rectangle") this.to = at;
    else if (this.tool === "brush") this.paint(at, section);
  }

  clear(): void {
    this.section = this.from = this.to = this.painted = null;
  }

  /** What has been drawn, as far as `before` across the section; null if it holds no pixel. */
  region(before: Region): Region {
    if (this.painted) return { mask: new DataView(this.painted.buffer) };
    const box = this.box;
    if (!box || !this.section) return null;
    const spans = this.section.spans(box, spansOf(before, this.section.sizes));
    return { box: [...spans.map(([first]) => first), ...spans.map(([, last]) => last)] };
  }

  /** The rectangle on the section. */
  get box() {
    return this.from && this.to && this.section && boxBetween(this.from, this.to, this.section);
  }

  /** Paints the line from where the brush was last. */
  private paint(at: Point, { height, width }: Section): void {
    this.painted ??= new Uint8Array(height * width);
    brush(this.painted, height, width, this.from ?? at, at, this.radius, this.erases ? 0 : 1);
    this.from = at;
  }
}

/** By pixel of a picture, whether it is of a region; everything where there is none. */
function maskOf(region: Region, { sizes, height, width }: Section): Uint8Array<ArrayBuffer> {
  if (region && "mask" in region) return octets(region.mask).slice();
  const mask = new Uint8Array(height * width);
  const [[top, bottom] = [0, height], [left, right] = [0, width]] = spansOf(region, sizes);
  for (let row = Math.max(0, top); row < Math.min(height, bottom); row++) {
    mask.fill(1, row * width + Math.max(0, left), row * width + Math.min(width, right));
  }
  return mask;
}

/** A box by axis; everything where there is none. */
export function spansOf(region: Region, sizes: readonly number[]): Span[] {
  const box = region && "box" in region ? region.box : null;
  return sizes.map((size, i) => (box ? [box[i] ?? 0, box[sizes.length + i] ?? size] : [0, size]));
}
