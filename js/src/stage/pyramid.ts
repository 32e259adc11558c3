// A picture at half its size, a quarter, and so on: drawing it small reads few pixels.
import type { Levels } from "../cells";
import type { Area } from "../paint";

/** Pixels of the longer side below which a picture is not halved any more. */
const LEAST = 256;

/** Levels of a picture of bytes that leave it as it is. */
export const BYTES: Levels = [0, 255];

/** The pyramid of a picture. */
export function pyramidOf(source: ImageBitmap | HTMLCanvasElement): Pyramid {
  return new Pyramid(source, source.width, source.height);
}

interface Step {
  plain: HTMLCanvasElement;
  toned: { key: string; canvas: HTMLCanvasElement } | null;
}

export class Pyramid {
  private readonly steps: Step[] = [];

  constructor(
    private readonly source: CanvasImageSource,
    private readonly width: number,
    private readonly height: number,
  ) {}

  /** Draws the picture over an area, in grey if asked for, with the numbers that are black and white. */
  draw({ context, width, height }: Area, grey: boolean, levels: Levels): void {
    const least = Math.min(this.width / width, this.height / height);
    const number = Math.max(0, Math.min(this.last, Math.floor(Math.log2(least))));
    context.imageSmoothingEnabled = true;
    context.drawImage(this.toned(number, grey, levels), 0, 0, width, height);
  }

  /** The picture in its own size and colours. */
  whole(levels: Levels): HTMLCanvasElement {
    return this.toned(0, false, levels);
  }

  private get last(): number {
    return Math.max(0, Math.ceil(Math.log2(Math.max(this.width, this.height) / LEAST)));
  }

  private step(number: number): Step {
    const known = this.steps[number];
    if (known) return known;
    const from = number ? this.step(number - 1).plain : this.source;
    const size = (side: number) => Math.max(1, Math.round(side / 2 ** number));
    const plain = sized(size(this.width), size(this.height));
    const context = plain.getContext("2d", { willReadFrequently: true });
    if (context) context.imageSmoothingQuality = "high";
    context?.drawImage(from, 0, 0, plain.width, plain.height);
    return (this.steps[number] = { plain, toned: null });
  }

  private toned(number: number, grey: boolean, levels: Levels): HTMLCanvasElement {
    const step = this.step(number);
    const [black, white] = levels;
    if (!grey && black === BYTES[0] && white === BYTES[1]) return step.plain;
    const key = [grey, ...levels].join();
    if (step.toned?.key === key) return step.toned.canvas;
    const { width, height } = step.plain;
    const canvas = step.toned?.canvas ?? sized(width, height);
    const pixels = step.plain.getContext("2d", { willReadFrequently: true })?.getImageData(0, 0, width, height);
    if (pixels) canvas.getContext("2d")?.putImageData(tone(pixels, grey, levels), 0, 0);
    step.toned = { key, canvas };
    return canvas;
  }
}

/** Pixels with other numbers for black and white, in place. */
function tone(pixels: ImageData, grey: boolean, [black, white]: Levels): ImageData {
  const { data } = pixels;
  const table = Uint8ClampedArray.from({ length: 256 }, (_, byte) => (255 * (byte - black)) / (white - black || 1));
  for (let i = 0; i < data.length; i += 4) {
    const red = data[i] ?? 0;
    const green = data[i + 1] ?? 0;
    const blue = data[i + 2] ?? 0;
    const level = grey ? Math.round(0.299 * red + 0.587 * green + 0.114 * blue) : -1;
    data[i] = table[grey ? level : red] ?? 0;
    data[i + 1] = table[grey ? level : green] ?? 0;
    data[i + 2] = table[grey ? level : blue] ?? 0;
  }
  return pixels;
}

function sized(width: number, height: number): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}
