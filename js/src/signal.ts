// The curves of a signal: its channels, one above the other.
import type { Area } from "./paint";

/** Share of a lane that lies between it and the next. */
const BETWEEN = 0.1;
/** Share of the height that stays free above and below. */
const MARGIN = 0.05;
/** Channels that are named beside their curves. */
const MOST_NAMES = 16;

/** The curves in the colour of the canvas's text, with the names of the channels if they are to be `named`. */
export function drawCurves(
  { context, width, height }: Area,
  channels: readonly Float32Array[],
  named = false,
): void {
  const ratio = globalThis.devicePixelRatio || 1;
  const [low, high] = extremes(channels);
  const lane = ((1 - 2 * MARGIN) * height) / (channels.length + BETWEEN * (channels.length - 1));
  const ink = getComputedStyle(context.canvas).color || "#222";
  context.strokeStyle = context.fillStyle = ink;
  context.lineWidth = 1.25 * ratio;
  context.lineJoin = "round";
  channels.forEach((line, channel) => {
    const top = MARGIN * height + channel * lane * (1 + BETWEEN);
    const y = (value: number) => top + (lane * (high - value)) / (high - low);
    context.beginPath();
    for (const [x, value] of points(line, width)) context.lineTo(x, y(value));
    context.stroke();
    if (!named || channels.length === 1 || channel % Math.ceil(channels.length / MOST_NAMES)) return;
    context.font = `${10 * ratio}px system-ui, sans-serif`;
    context.textAlign = "left";
    context.textBaseline = "top";
    context.globalAlpha = 0.75;
    context.fillText(`channel ${channel}`, 4 * ratio, top);
    context.globalAlpha = 1;
  });
}

/** The points of a curve over `width` pixels; of many numbers at one pixel, the least and the largest. */
export function points(line: Float32Array, width: number): [number, number][] {
  const scale = width / line.length;
  const found: [number, number][] = [];
  if (scale >= 0.5) {
    line.forEach((value, i) => {
      if (Number.isFinite(value)) found.push([(i + 0.5) * scale, value]);
    });
    return found;
  }
  const pixels = Math.max(1, Math.floor(width));
  for (let pixel = 0; pixel < pixels; pixel++) {
    let [least, largest] = [Infinity, -Infinity];
    for (let i = Math.floor((pixel * line.length) / pixels); i < ((pixel + 1) * line.length) / pixels; i++) {
      const value = line[i] ?? NaN;
      if (value < least) least = value;
      if (value > largest) largest = value;
    }
    if (least <= largest) found.push([pixel + 0.5, least], [pixel + 0.5, largest]);
  }
  return found;
}

/** The least and the largest number, one apart where all are alike. */
function extremes(channels: readonly Float32Array[]): [number, number] {
  let [low, high] = [Infinity, -Infinity];
  for (const line of channels) {
    for (const value of line) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (!(low < high)) return Number.isFinite(low) ? [low - 0.5, low + 0.5] : [0, 1];
  return [low, high];
}
