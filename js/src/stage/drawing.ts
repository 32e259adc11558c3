// What a section shows, from the bottom up: image, map, the region in force, the cell looked at, the region drawn.
import { octets } from "../bytes";
import type { Cells } from "../cells";
import type { Box, Place, Point, Size } from "../geometry";
import { Cached } from "../cached";
import { type Layout, Regions, Windows } from "../layout";
import { EXACT, type Map, type Region } from "../messages";
import { type Area, borders, cut, dots, edges, isolines, type Lines, outline, overlay, sheet, tint, type Tints } from "../paint";
import type { Scene } from "../scene";
import type { Section } from "../section";
import { drawCurves } from "../signal";
import { type Sketch, spansOf } from "./sketch";
import type { Viewport } from "./viewport";

/** Least pixels of the screen between measured cells for dots to be drawn, and for them to be drawn boldly. */
const [DOTS_FROM, BOLD_FROM] = [8, 16];

/** Yellow, which neither a grey picture nor a map has, as in the kernel's pictures. */
const CROSS_HAIRS = "rgb(255 211 77)";
/** Share of a section's longer side, to each side of the point, that cross-hairs leave clear. */
const CLEAR = 1 / 14;
/** Share of the opacity behind a curve, as in the kernel's pictures. */
const BEHIND = 0.55;

/** A section through a place, in an area of a canvas. */
export interface Pane extends Area {
  readonly section: Section;
  readonly through: Place;
}

/** Shares of the scale at which contours lie. */
const LEVELS = [-0.75, -0.5, -0.25, 0.25, 0.5, 0.75];

/** Draws a part of everything; the canvas takes the pixels that it has on the screen. */
export function drawStage(canvas: HTMLCanvasElement, scene: Scene, section: Section, sketch: Sketch, part: Viewport): void {
  const ratio = globalThis.devicePixelRatio || 1;
  const width = Math.round(Math.max(1, canvas.clientWidth) * ratio);
  const height = Math.max(1, Math.round(width / section.aspect));
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  canvas.style.aspectRatio = String(section.aspect);
  const context = canvas.getContext("2d");
  if (!context) return;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  // The pane is the whole section; the canvas shows a part of it.
  context.translate(-part.x * part.zoom * width, -part.y * part.zoom * height);
  const pane = { context, width: width * part.zoom, height: height * part.zoom, section, through: scene.cross };
  if (scene.ready) {
    drawBelow(pane, scene, scene.map !== null && scene.opacity > 0);
    context.imageSmoothingEnabled = false;
    if (scene.map && scene.tints && scene.opacity > 0) drawMap(pane, scene.map, scene.tints, scene);
    drawAbove(pane, scene, true);
    if (scene.regions) drawRegions(pane, scene.regions, scene);
    drawRegion(pane, scene.region);
    if (scene.isVolume) drawCross(pane);
    drawCell(pane, scene);
  }
  drawSketch(pane, sketch);
}

/** What an image is drawn of. */
export type Beneath = Pick<Scene, "below" | "picture" | "isVolume" | "cells" | "levels">;

/** The image beneath a map: a picture, or a slice in grey; a signal's curves lie above. */
export function drawBelow(pane: Pane, scene: Beneath, grey: boolean): void {
  const { context, section, through } = pane;
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  const { below } = scene;
  if (below) below.pyramid.draw(pane, grey, below.levels);
  else if (scene.isVolume && scene.cells) {
    context.drawImage(scene.cells.slice(section, through, scene.levels), 0, 0, pane.width, pane.height);
  }
}

/** The curves of a signal. */
export function drawAbove(pane: Pane, scene: Beneath, named = false): void {
  if (!scene.picture && !scene.isVolume && scene.cells) drawCurves(pane, scene.cells.channels, named);
}

/** The colours of a map's cells. */
export function drawColours(pane: Pane, tints: Tints, cells: Int32Array): void {
  const { context, section } = pane;
  context.globalAlpha = section.plane.down === null ? BEHIND : 1;
  spread(pane, overlay(tints, cells, section));
  context.globalAlpha = 1;
}

/** What covers a window, or regions, where it covers a section; of a signal, the curves with that in them. */
export function drawCover(pane: Pane, scene: Scene, covered: ReadonlySet<number>): void {
  const { section, through } = pane;
  const { layout, patch, cover } = scene;
  const [cell] = covered;
  if (layout instanceof Regions) {
    const mask = layout.mask(covered, section, through);
    if (patch) pane.context.drawImage(cut(patch, mask, section), 0, 0, pane.width, pane.height);
    else if (cover) drawCells(pane, scene, cover, mask);
  } else if (layout instanceof Windows && cell !== undefined) {
    const spans = layout.box(cell);
    const box = section.box(spans);
    const sheet = scene.byWindow ? layout.onSheet(cell) : null;
    if (patch) {
      const from = sheet ? section.point(sheet) : { x: box.left, y: box.top };
      const size = [box.right - box.left, box.bottom - box.top] as const;
      const [down, right] = [pane.height / section.height, pane.width / section.width];
      const to = [box.left * right, box.top * down, size[0] * right, size[1] * down] as const;
      pane.context.drawImage(patch, from.x, from.y, ...size, ...to);
    } else if (cover) {
      const mask = new Uint8Array(section.height * section.width);
      const rows = section.cuts(spans, through) ? [box.top, box.bottom] : [0, 0];
      for (let y = rows[0] ?? 0; y < (rows[1] ?? 0); y++) mask.fill(1, y * section.width + box.left, y * section.width + box.right);
      drawCells(pane, scene, cover, mask, sheet?.map((at, axis) => at - (spans[axis]?.[0] ?? 0)));
    } else if (scene.cells) drawAbove(pane, scene);
  }
}

/** Numbers that cover a section where a mask is set; they are read `shift` away. */
function drawCells(pane: Pane, scene: Scene, cover: Cells, mask: Uint8Array, shift?: Place): void {
  const { section, through } = pane;
  if (section.plane.down !== null) {
    spread(pane, cover.over(section, through, mask, scene.levels, shift));
    return;
  }
  pane.context.fillStyle = "rgb(128 128 128 / 30%)";
  mask.forEach((set, x) => {
    const wide = pane.width / section.width;
    if (set) pane.context.fillRect(x * wide, 0, wide, pane.height);
  });
  const lines = scene.cells?.channels.map((line, channel) =>
    line.map((value, i) => (mask[i] ? cover.at([i + (shift?.[0] ?? 0)], channel) : value)),
  );
  drawCurves(pane, lines ?? []);
}

/** What is drawn of a map on a section, made anew only where it changes. */
interface Drawn {
  colours: HTMLCanvasElement | null;
  contours: { lines: Lines; colour: string }[];
  flips: Lines;
}

const kept = new WeakMap<Section, Cached<Drawn>>();
const keptBorders = new WeakMap<Section, Cached<HTMLCanvasElement>>();

function drawMap(pane: Pane, map: Map, tints: Tints, scene: Scene): void {
  const { context, section, through } = pane;
  const { layout } = scene;
  if (!layout) return;
  const key = [tints, layout, scene.style, section.slice(through), scene.flips];
  const drawn = Cached.of(kept, section, key, () => drawnOf(map, tints, scene, section, through));
  context.globalAlpha = section.plane.down === null ? BEHIND : 1;
  if (drawn.colours) context.drawImage(drawn.colours, 0, 0, pane.width, pane.height);
  context.globalAlpha = 1;
  for (const { lines, colour } of drawn.contours) stroke(pane, lines, colour, 1.75);
  if (section.plane.down !== null) stroke(pane, drawn.flips, "#fff", 1.5, true);
  const apart = (map.stride * pane.width) / section.width;
  if (!scene.dots || apart < DOTS_FROM || !(layout instanceof Windows)) return;
  const bold = apart >= BOLD_FROM;
  context.fillStyle = `rgb(255 255 255 / ${bold ? 70 : 35}%)`;
  context.strokeStyle = `rgb(0 0 0 / ${bold ? 35 : 15}%)`;
  for (const dot of dots(map.status, layout, layout.centred(section, through))) {
    const { x, y } = onCanvas(pane, section.point(dot));
    context.beginPath();
    context.arc(x, y, Math.min(2, apart * 0.12), 0, 7);
    context.fill();
    context.stroke();
  }
}

function drawnOf(map: Map, tints: Tints, scene: Scene, section: Section, through: Place): Drawn {
  const { layout, style, flips } = scene;
  const { height, width } = section;
  const cells = layout?.on(section, through) ?? new Int32Array(height * width);
  const flipped = flips ? Uint8Array.from(cells, (cell) => flips.cells[cell] ?? 0) : new Uint8Array();
  const drawn: Drawn = { colours: null, contours: [], flips: flips?.count ? edges(flipped, section) : [] };
  if (style === "cells" || !(layout instanceof Windows)) {
    drawn.colours = sheet(overlay(tints, cells, section), height, width);
    return drawn;
  }
  const drop = layout.between(map.values.map((value) => map.base - value), section, through);
  if (style === "contours" && section.plane.down !== null) {
    drawn.contours = LEVELS.filter((level) => Math.abs(level) >= scene.threshold).map((level) => {
      const index = 3 * Math.round(((level * 1.2 + 1) / 2) * 255);
      const [red = 0, green = 0, blue = 0] = scene.table.subarray(index, index + 3);
      return { lines: isolines(drop, section, level * scene.limit), colour: `rgb(${red} ${green} ${blue})` };
    });
    return drawn;
  }
  const each = tint(drop, new Uint8Array(drop.length).fill(EXACT), scene);
  const own = Int32Array.from({ length: drop.length }, (_, pixel) => pixel);
  const hatched = Uint8Array.from(cells, (cell) => tints.hatched[cell] ?? 0);
  drop.forEach((value, pixel) => {
    if (!Number.isFinite(value)) each.colours[pixel] = 0;
  });
  drawn.colours = sheet(overlay({ ...each, hatched }, own, section), height, width);
  return drawn;
}

/** Lines over anything: with a dark rim; dashed where they are to be told from the edge of a region. */
function stroke(pane: Pane, lines: Lines, colour: string, line: number, dashed = false): void {
  if (!lines.length) return;
  const { context, section } = pane;
  const ratio = globalThis.devicePixelRatio || 1;
  const [right, down] = [pane.width / section.width, pane.height / section.height];
  context.beginPath();
  for (const [fromX, fromY, toX, toY] of lines) {
    context.moveTo(fromX * right, fromY * down);
    context.lineTo(toX * right, toY * down);
  }
  context.lineCap = "round";
  context.lineWidth = (line + 1.75) * ratio;
  context.strokeStyle = "rgb(0 0 0 / 75%)";
  context.stroke();
  if (dashed) context.setLineDash([4 * ratio, 4 * ratio]);
  context.lineWidth = line * ratio;
  context.strokeStyle = colour;
  context.stroke();
  context.setLineDash([]);
  context.lineCap = "butt";
}

/** The borders of all regions, and those that are covered together, as they are covered. */
function drawRegions(pane: Pane, regions: Regions, scene: Scene): void {
  const { section, through } = pane;
  if (section.plane.down === null) drawEnds(pane, regions.on(section, through));
  else {
    const key = [regions, section.slice(through)];
    const lines = Cached.of(keptBorders, section, key, () =>
      sheet(borders(regions.on(section, through), section), section.height, section.width),
    );
    pane.context.drawImage(lines, 0, 0, pane.width, pane.height);
  }
  const { covered } = scene;
  if (!covered.size) return;
  if (section.plane.down !== null) drawCover(pane, scene, covered);
  mark(pane, regions.mask(covered, section, through));
}

/** The cell looked at. */
function drawCell(pane: Pane, scene: Scene): void {
  const { cell, layout } = scene;
  if (cell !== null && layout) outlineCell(pane, layout, cell, scene.pinned ? 2.5 : 1.5);
}

/** The edge of what covers a cell, where it lies on a section. */
export function outlineCell(pane: Pane, layout: Layout, cell: number, line: number): void {
  const { section, through } = pane;
  if (layout instanceof Regions) {
    mark(pane, layout.mask(new Set([cell]), section, through));
    return;
  }
  const spans = layout.box(cell);
  if (section.cuts(spans, through)) frame(pane, section.box(spans), "#fff", line);
}

/** The region in force; a box that the section does not cut is dashed. */
function drawRegion(pane: Pane, region: Region): void {
  const { section, through } = pane;
  if (!region) return;
  if ("box" in region) {
    const spans = spansOf(region, section.sizes);
    frame(pane, section.box(spans), "rgb(255 255 255 / 90%)", 1.5, !section.cuts(spans, through));
  } else if (region.mask.byteLength === section.sizes.reduce((product, size) => product * size, 1)) {
    const mask = octets(region.mask);
    mark(
      pane,
      Uint8Array.from(section.cells(through), (cell) => mask[cell] ?? 0),
    );
  }
}

function drawSketch(pane: Pane, sketch: Sketch): void {
  const { section } = pane;
  if (sketch.tool === "brush" && sketch.cursor) drawBrush(pane, sketch.cursor, sketch.radius, sketch.erases);
  if (sketch.section !== section) return;
  if (sketch.painted) mark(pane, sketch.painted);
  else if (sketch.tool === "rectangle" && sketch.box) frame(pane, sketch.box, "rgb(255 255 255 / 90%)", 1.5);
}

/** Where the brush is, and how large; dashed while it erases. */
function drawBrush(pane: Pane, at: Point, radius: number, dashed: boolean): void {
  const ratio = globalThis.devicePixelRatio || 1;
  const { context } = pane;
  const { x, y } = onCanvas(pane, at);
  context.setLineDash(dashed ? [4 * ratio, 4 * ratio] : []);
  for (const [width, colour] of [[3.5, "rgb(0 0 0 / 65%)"], [1.5, "#fff"]] as const) {
    context.lineWidth = width * ratio;
    context.strokeStyle = colour;
    context.beginPath();
    context.arc(x, y, (radius * pane.width) / pane.section.width, 0, 7);
    context.stroke();
  }
  context.setLineDash([]);
}

/** Lines through the voxel where the sections meet, which stop short of it, and the letters of the patient's sides. */
function drawCross(pane: Pane): void {
  const { context, section, through } = pane;
  const { e, f } = context.getTransform();
  const { width: seenWidth, height: seenHeight } = context.canvas;
  const ratio = globalThis.devicePixelRatio || 1;
  const { x, y } = onCanvas(pane, section.point(through));
  const clear = CLEAR * Math.max(seenWidth, seenHeight);
  const [left, top, right, bottom] = [-e, -f, seenWidth - e, seenHeight - f];
  const lines = [
    [x, top, x, y - clear],
    [x, y + clear, x, bottom],
    [left, y, x - clear, y],
    [x + clear, y, right, y],
  ] as const;
  context.lineWidth = ratio;
  context.strokeStyle = CROSS_HAIRS;
  context.beginPath();
  for (const [fromX, fromY, toX, toY] of lines) {
    if (toX < fromX || toY < fromY) continue;
    context.moveTo(fromX, fromY);
    context.lineTo(toX, toY);
  }
  context.stroke();
  const [above, below, atLeft, atRight] = section.plane.ends;
  const rim = 9 * ratio;
  context.font = `600 ${11 * ratio}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineWidth = 3 * ratio;
  context.strokeStyle = "rgb(0 0 0 / 70%)";
  context.fillStyle = "rgb(255 255 255 / 90%)";
  const letters = [
    [above, (left + right) / 2, top + rim],
    [below, (left + right) / 2, bottom - rim],
    [atLeft, left + rim, (top + bottom) / 2],
    [atRight, right - rim, (top + bottom) / 2],
  ] as const;
  for (const [letter, atX, atY] of letters) {
    if (!letter) continue;
    context.strokeText(letter, atX, atY);
    context.fillText(letter, atX, atY);
  }
}

/** The edge of what is masked on a section; of a signal, a frame around every stretch. */
function mark(pane: Pane, mask: Uint8Array): void {
  const { height, width, plane } = pane.section;
  if (plane.down !== null) {
    spread(pane, outline(mask, height, width));
    return;
  }
  for (let left = 0; left < width; left++) {
    if (!mask[left]) continue;
    let right = left;
    while (mask[right]) right++;
    frame(pane, { top: 0, bottom: 1, left, right }, "rgb(255 255 255 / 90%)", 1.5);
    left = right;
  }
}

/** Where a signal's regions end. */
function drawEnds(pane: Pane, cells: Int32Array): void {
  const { context, section } = pane;
  context.fillStyle = "rgb(128 128 128 / 70%)";
  cells.forEach((cell, i) => {
    if (i + 1 < cells.length && cells[i + 1] !== cell) {
      const { x } = onCanvas(pane, section.point([i + 1]));
      context.fillRect(x, 0, globalThis.devicePixelRatio || 1, pane.height);
    }
  });
}

/** Pixels of a section's size over the whole area. */
function spread(pane: Pane, pixels: Uint8ClampedArray<ArrayBuffer>): void {
  const { section } = pane;
  pane.context.drawImage(sheet(pixels, section.height, section.width), 0, 0, pane.width, pane.height);
}

/** A point of the section in pixels of the canvas. */
function onCanvas({ section, width, height }: Pane & Size, { x, y }: Point): Point {
  return { x: (x * width) / section.width, y: (y * height) / section.height };
}

/** A box, white on black so that it shows on anything. */
function frame(pane: Pane, box: Box, colour: string, line: number, dashed = false): void {
  const ratio = globalThis.devicePixelRatio || 1;
  const { context } = pane;
  const [from, to] = [onCanvas(pane, { x: box.left, y: box.top }), onCanvas(pane, { x: box.right, y: box.bottom })];
  const cells = [from.x, from.y, to.x - from.x, to.y - from.y] as const;
  if (dashed) context.setLineDash([4 * ratio, 4 * ratio]);
  context.lineWidth = (line + 2) * ratio;
  context.strokeStyle = "rgb(0 0 0 / 65%)";
  context.strokeRect(...cells);
  context.lineWidth = line * ratio;
  context.strokeStyle = colour;
  context.strokeRect(...cells);
  context.setLineDash([]);
}
