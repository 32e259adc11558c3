// A small picture of the section that was pointed at last.
import type { Place } from "./geometry";
import type { Area } from "./paint";
import type { Scene } from "./scene";
import type { Section } from "./section";

/** Pixels of a small picture's width, where the cells are not the pixels. */
const WIDTH = 320;

/** The canvas made ready for the section through a place; null without a context. */
export function thumb(
  canvas: HTMLCanvasElement,
  scene: Scene,
  through: Place,
): (Area & { section: Section; through: Place }) | null {
  const section = scene.sections[scene.pointed] ?? scene.sections[0];
  const context = canvas.getContext("2d");
  if (!section || !context) return null;
  canvas.width = scene.picture ? section.width : WIDTH;
  canvas.height = scene.picture ? section.height : Math.max(1, Math.round(WIDTH / section.aspect));
  return { context, section, through, width: canvas.width, height: canvas.height };
}
