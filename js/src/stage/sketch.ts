// A region as it is drawn: two corners of a rectangle, or what a brush has painted.
import { boxBetween, brush, type Point } from "../geometry";
import type { Region } from "../messages";

export type Tool = "look" | "rectangle" | "brush";

export class Sketch {
  tool: Tool = "look";
  /** Where drawing began, or where the brush was last; null while nothing is drawn. */
  from: Point | null = null;
  /** The corner of a rectangle that moves. */
  to: Point | null = null;
  /** By pixel of the input, 1 where the brush has been; null before its first stroke. */
  painted: Uint8Array<ArrayBuffer> | null = null;

  constructor(private readonly size: { readonly height: number; readonly width: number }) {}

  begin(at: Point): void {
    this.from = this.to = at;
    if (this.tool === "brush") this.paint(at);
  }

  extend(at: Point): void {
    if (this.tool === "rectangle") this.to = at;
    else if (this.tool === "brush") this.paint(at);
  }

  clear(): void {
    this.from = this.to = this.painted = null;
  }

  /** What has been drawn; null if it holds no pixel. */
  get region(): Region {
    if (this.painted) return { mask: new DataView(this.painted.buffer) };
    const box = this.from && this.to && boxBetween(this.from, this.to, this.size.height, this.size.width);
    return box && { box: [box.top, box.left, box.bottom, box.right] };
  }

  /** Paints the line from where the brush was last. */
  private paint(at: Point): void {
    const { height, width } = this.size;
    this.painted ??= new Uint8Array(height * width);
    brush(this.painted, height, width, this.from ?? at, at, Math.max(3, Math.min(height, width) / 24));
    this.from = at;
  }
}
