// Maps as the page has them, and what they answer.
import { floats, integers, octets } from "./bytes";
import { arrived, type Asked, type Map, type Model, type Region, type State } from "./messages";

/** The map of a frame; null before the first. */
export function toMap(frame: State["_frame"]): Map | null {
  if (!arrived(frame)) return null;
  return {
    ...frame,
    base: frame.base ?? NaN,
    values: floats(frame.values),
    status: octets(frame.status),
    classes: integers(frame.classes),
    classValues: floats(frame.classValues),
  };
}

/** Where the colours end, by the scale chosen: a drop of the probability, never zero. */
export function colourLimit(scale: State["scale"], limit: number, map: Map): number {
  const found = scale === "fixed" ? limit : scale === "shared" ? map.shared : map.largest;
  return found > 0 ? found : 1;
}

/** Indices of the largest probabilities, largest first. */
export function best(probabilities: Float32Array, count: number): number[] {
  return Array.from(probabilities.keys())
    .sort((a, b) => (probabilities[b] ?? 0) - (probabilities[a] ?? 0))
    .slice(0, count);
}

/** How much of a map is wanted: the same map is on its way to it. */
const HOW_MUCH: readonly string[] = ["exact", "ssim_target"];

/** Whether what was asked for is what the controls ask for by now; `wholly`, as much of it too. */
export function answers(asked: Asked, model: Model, wholly: boolean): boolean {
  return (Object.keys(asked) as (keyof Asked)[]).every((name) => {
    if (name === "region") return sameRegion(asked.region, model.get("region"));
    return (!wholly && HOW_MUCH.includes(name)) || asked[name] === model.get(name);
  });
}

function sameRegion(one: Region, other: Region): boolean {
  if (!one || !other) return one === other;
  if ("box" in one) return "box" in other && one.box.every((edge, i) => edge === other.box[i]);
  if (!("mask" in other)) return false;
  const [mine, theirs] = [octets(one.mask), octets(other.mask)];
  return mine.length === theirs.length && mine.every((cell, i) => cell === theirs[i]);
}
