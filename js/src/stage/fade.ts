// From one map to the next.

/** Milliseconds that the old map takes to go. */
const GOING_MS = 220;

/** Leaves what a canvas shows on it for a moment, ever fainter; nothing where motion is to be reduced. */
export function fade(canvas: HTMLCanvasElement): void {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches || !canvas.parentElement) return;
  const before = document.createElement("canvas");
  [before.width, before.height] = [canvas.width, canvas.height];
  before.getContext("2d")?.drawImage(canvas, 0, 0);
  before.className = "kr-going";
  before.setAttribute("aria-hidden", "true");
  const { offsetLeft, offsetTop, offsetWidth, offsetHeight } = canvas;
  Object.assign(before.style, {
    left: `${offsetLeft}px`,
    top: `${offsetTop}px`,
    width: `${offsetWidth}px`,
    height: `${offsetHeight}px`,
  });
  canvas.after(before);
  const going = before.animate([{ opacity: getComputedStyle(canvas).opacity }, { opacity: 0 }], GOING_MS);
  going.onfinish = going.oncancel = () => before.remove();
}
