// The part of a section that its canvas shows.
import { clamp, type Point } from "../geometry";

/** How many times a section can be magnified. */
const MOST = 40;

/** A part of a section; places are shares of its width and height. */
export class Viewport {
  zoom = 1;
  /** The upper left corner of the part. */
  x = 0;
  y = 0;

  /** Whether everything is shown. */
  get whole(): boolean {
    return this.zoom === 1;
  }

  /** The place on the section at one on the canvas. */
  place({ x, y }: Point): Point {
    return { x: this.x + x / this.zoom, y: this.y + y / this.zoom };
  }

  /** Magnifies by a factor; what is at a place on the canvas stays there. */
  magnify(factor: number, { x, y }: Point = { x: 0.5, y: 0.5 }): void {
    const at = this.place({ x, y });
    this.zoom = clamp(this.zoom * factor, 1, MOST);
    this.to(at.x - x / this.zoom, at.y - y / this.zoom);
  }

  /** Moves the picture by shares of the canvas. */
  drag(right: number, down: number): void {
    this.to(this.x - right / this.zoom, this.y - down / this.zoom);
  }

  /** Moves no further than it takes to show a place on the section. */
  show({ x, y }: Point): void {
    const [side, rim] = [1 / this.zoom, 0.1 / this.zoom];
    this.to(clamp(this.x, x - side + rim, x - rim), clamp(this.y, y - side + rim, y - rim));
  }

  reset(): void {
    [this.zoom, this.x, this.y] = [1, 0, 0];
  }

  private to(x: number, y: number): void {
    const most = 1 - 1 / this.zoom;
    [this.x, this.y] = [clamp(x, 0, most), clamp(y, 0, most)];
  }
}
