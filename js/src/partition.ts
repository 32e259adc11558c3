// The regions that are covered in place of windows, as the kernel names them.
import type { Partition } from "./messages";

/** Superpixels where no count is given, as the kernel has it. */
const SUPERPIXELS = 100;

/** About how many superpixels are asked for; the usual count where none are. */
export function superpixels(partition: Partition): number {
  return typeof partition === "string" ? Number(partition.slice("slic:".length)) : SUPERPIXELS;
}

/** The same partition. */
export function samePartition(one: Partition, other: Partition): boolean {
  if (one && other && typeof one === "object" && typeof other === "object") return one.given === other.given;
  return one === other;
}
