// What the stage shows, from the bottom up: picture, map, the region in force, the cell looked at, the region drawn.
import { type Box, boxBetween } from "../geometry";
import { octets } from "../bytes";
import { Regions } from "../layout";
import type { Map, Region } from "../messages";
import { backdrop, borders, cut, dots, drops, outline, overlay, sheet } from "../paint";
import type { Scene } from "../scene";
import type { Sketch } from "./sketch";

/** Least pixels of the screen between measured cells for dots to be drawn, and for them to be drawn boldly. */
const [DOTS_FROM, BOLD_FROM] = [8, 16];

/** Draws everything; the canvas takes the pixels that it has on the screen. */
export function drawStage(canvas: HTMLCanvasElement, scene: Scene, sketch: Sketch): void {
  const { height, width, map, picture, opacity } = scene;
  const scale = (Math.max(1, canvas.clientWidth) / width) * (globalThis.devicePixelRatio || 1);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.aspectRatio = `${width} / ${height}`;
  const context = canvas.getContext("2d");
  if (!context) return;
  if (picture) {
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    backdrop(context, picture, map !== null && opacity > 0);
    context.imageSmoothingEnabled = false;
    if (map?.height === height && map.width === width) drawMap(context, map, scene, scale);
    if (scene.regions) drawRegions(context, scene.regions, scene);
    drawRegion(context, scene.region, scene, scale);
    drawCell(context, scene, scale);
  }
  drawSketch(context, sketch, scene, scale);
}

function drawMap(context: CanvasRenderingContext2D, map: Map, scene: Scene, scale: number): void {
  const { layout } = scene;
  if (!layout) return;
  spread(context, overlay(drops(map.values, map.base), map.status, layout.cells, scene, scene), scene);
  const apart = map.stride * scale;
  if (apart < DOTS_FROM) return;
  const bold = apart >= BOLD_FROM;
  context.fillStyle = `rgb(255 255 255 / ${bold ? 70 : 35}%)`;
  context.strokeStyle = `rgb(0 0 0 / ${bold ? 35 : 15}%)`;
  for (const dot of dots(map.status, map, scene.height, scene.width)) {
    context.beginPath();
    context.arc(dot.x * scale, dot.y * scale, Math.min(2, apart * 0.12), 0, 7);
    context.fill();
    context.stroke();
  }
}

/** The borders of all regions, and those that are covered together, as they are covered. */
function drawRegions(context: CanvasRenderingContext2D, regions: Regions, scene: Scene): void {
  spread(context, borders(regions.cells, scene), scene);
  const { covered, patch } = scene;
  if (!covered.size) return;
  const mask = regions.mask(covered);
  if (patch) context.drawImage(cut(patch, mask, scene), 0, 0, context.canvas.width, context.canvas.height);
  spread(context, outline(mask, scene.height, scene.width), scene);
}

/** The cell looked at. */
function drawCell(context: CanvasRenderingContext2D, scene: Scene, scale: number): void {
  const { cell, layout } = scene;
  if (cell === null || !layout) return;
  if (layout instanceof Regions) {
    spread(context, outline(layout.mask(new Set([cell])), scene.height, scene.width), scene);
  } else frame(context, layout.box(cell), scale, "#fff", scene.pinned ? 2.5 : 1.5);
}

function drawRegion(context: CanvasRenderingContext2D, region: Region, scene: Scene, scale: number): void {
  if (!region) return;
  if ("box" in region) {
    const [top, left, bottom, right] = region.box;
    frame(context, { top, left, bottom, right }, scale, "rgb(255 255 255 / 90%)", 1.5);
  } else if (region.mask.byteLength === scene.height * scene.width) {
    spread(context, outline(octets(region.mask), scene.height, scene.width), scene);
  }
}

function drawSketch(context: CanvasRenderingContext2D, sketch: Sketch, scene: Scene, scale: number): void {
  if (sketch.painted) spread(context, outline(sketch.painted, scene.height, scene.width), scene);
  else if (sketch.from && sketch.to && sketch.tool === "rectangle") {
    const box = boxBetween(sketch.from, sketch.to, scene.height, scene.width);
    if (box) frame(context, box, scale, "rgb(255 255 255 / 90%)", 1.5);
  }
}

/** Pixels of the input's size over the whole canvas. */
function spread(
  context: CanvasRenderingContext2D,
  pixels: Uint8ClampedArray<ArrayBuffer>,
  { height, width }: { height: number; width: number },
): void {
  context.drawImage(sheet(pixels, height, width), 0, 0, context.canvas.width, context.canvas.height);
}

/** A box, white on black so that it shows on anything. */
function frame(context: CanvasRenderingContext2D, box: Box, scale: number, colour: string, line: number): void {
  const ratio = globalThis.devicePixelRatio || 1;
  const cells = [
    box.left * scale,
    box.top * scale,
    (box.right - box.left) * scale,
    (box.bottom - box.top) * scale,
  ] as const;
  context.lineWidth = (line + 2) * ratio;
  context.strokeStyle = "rgb(0 0 0 / 65%)";
  context.strokeRect(...cells);
  context.lineWidth = line * ratio;
  context.strokeStyle = colour;
  context.strokeRect(...cells);
}
