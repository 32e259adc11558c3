// Maps as the page has them, and whether they answer what the controls ask for.
import { floats, integers, octets } from "./bytes";
import { arrived, type Asked, type Cover, type Map, type Model, type Region, type State } from "./messages";
import { samePartition } from "./partition";

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

/** The drop at which the colours end, by the scale chosen; never zero. */
export function colourLimit(scale: State["scale"], limit: number, map: Map): number {
  if (scale === "fixed") return limit;
  const found = Math.max(scale === "shared" ? map.shared : map.largest, map.least);
  return found > 0 ? found : 1;
}

/** Indices of the largest probabilities, largest first. */
export function best(probabilities: Float32Array, count: number): number[] {
  return Array.from(probabilities.keys())
    .sort((a, b) => (probabilities[b] ?? 0) - (probabilities[a] ?? 0))
    .slice(0, count);
}

/** Controls that say how much of a map is measured; a map of any other value of theirs is the same map. */
const HOW_MUCH: readonly string[] = ["exact", "ssim_target"];

/** Whether a map that was asked for is the one that the controls ask for now; `wholly`, measured as far, too. */
export function answers(asked: Asked, model: Model, wholly: boolean): boolean {
  return (Object.keys(asked) as (keyof Asked)[]).every((name) => {
    if (name === "region") return sameRegion(asked.region, model.get("region"));
    if (name === "regions") return samePartition(asked.regions, model.get("regions"));
    if (name === "baseline") return asked.baseline === coverName(model.get("baseline"));
    return (!wholly && HOW_MUCH.includes(name)) || asked[name] === model.get(name);
  });
}

/** The name by which the kernel speaks of what covered cells become. */
export function coverName(cover: Cover): string {
  return typeof cover === "string" ? cover : cover.given;
}

function sameRegion(one: Region, other: Region): boolean {
  if (!one || !other) return one === other;
  if ("box" in one) return "box" in other && one.box.every((edge, i) => edge === other.box[i]);
  if (!("mask" in other)) return false;
  const [mine, theirs] = [octets(one.mask), octets(other.mask)];
  return mine.length === theirs.length && mine.every((cell, i) => cell === theirs[i]);
}
