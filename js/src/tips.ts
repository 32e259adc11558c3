// One line on every control, when it is pointed at or reached by the keyboard.
import { h, unique } from "./dom";

/** Milliseconds before a line comes. */
const WAIT_MS = 450;

/** Controls, by selector, and what they do; the first that fits counts. */
const TIPS: readonly (readonly [string, string])[] = [
  ['.kr-slider:has([data-trait="window"])', "Side of the patch that covers the image"],
  ['.kr-slider:has([data-trait="stride"])', "Step from one position of the patch to the next"],
  ['.kr-slider:has([data-trait="regions"])', "How many superpixels the picture is cut into"],
  ['.kr-slider:has([data-trait="ssim_target"])', "Stop when the map is probably as similar to the exact one (SSIM)"],
  ['.kr-slider:has([data-trait="opacity"])', "How much of the picture the colours hide"],
  ['.kr-slider:has([data-trait="threshold"])', "Changes smaller than this share of the scale are not coloured"],
  ['.kr-switch:has([data-trait="exact"])', "Measure every position; the approximate map is then compared with it"],
  ['.kr-switch:has([data-trait="curve"])', "What becomes of the class as the most important parts are covered first"],
  ['.kr-switch:has([data-trait="dots"])', "Mark the positions that were measured; between them the map is estimated"],
  ['.kr-row:has([data-trait="colormap"])', "Colours of a fall and of a rise"],
  ['.kr-row:has([data-trait="limit"])', "The change at which the colours end"],
  ['.kr-choice label:has([value="own"])', "Colours end at the largest change of this map, or at 0.05"],
  ['.kr-choice label:has([value="shared"])', "Colours end at the largest change of all maps so far"],
  ['.kr-choice label:has([value="fixed"])', "Colours end where you say"],
  ['.kr-choice label:has([value="cells"])', "A colour for every position"],
  ['.kr-choice label:has([value="smooth"])', "Colours go over into each other between positions"],
  ['.kr-choice label:has([value="contours"])', "Lines at a quarter, a half and three quarters of the scale"],
  ['.kr-choice label:has([value="windows"])', "Cover a patch, position by position"],
  ['.kr-choice label:has([value="superpixels"])', "Cover pieces of the picture that look alike"],
  ['.kr-choice label:has([value="yours"])', "What you gave"],
  ['.kr-choice label:has([value="grey"])', "The middle between black and white"],
  ['.kr-choice label:has([value="black"])', "The darkest"],
  ['.kr-choice label:has([value="mean"])', "The mean of the picture"],
  ['.kr-choice label:has([value="blur"])', "The picture itself, blurred"],
  ['.kr-choice label:has([value="local mean"])', "The mean of what surrounds the patch"],
  ['.kr-choice label:has([value="noise"])', "Random cells like those of the image"],
  ['[data-tool="look"]', "Point at a cell to see what covering it does; click to pin it"],
  ['[data-tool="rectangle"]', "Measure only what touches a box"],
  ['[data-tool="brush"]', "Measure only what touches a painted region"],
  ['[data-tool="levels"]', "Drag to choose which numbers are black and white"],
  ['[data-tool="everywhere"]', "Measure everywhere again"],
  ['[data-view="out"]', "Zoom out (-)"],
  ['[data-view="in"]', "Zoom in (+, double click)"],
  ['[data-view="whole"]', "Show all of it (0)"],
  ['[data-view="hide"]', "See the picture alone (h)"],
  ['[data-view="full"]', "Fill the screen (f)"],
  ['[data-view="levels"]', "Choose which numbers are black and white"],
  [".kr-legend", "The output with the patch on; the mark is without it. Bars: how often each occurs"],
  [".kr-flips", "Inside the dashed line, covering the patch changes the predicted class"],
  [".kr-likeness", "SSIM of this map with the one that measures every position"],
  [".kr-cancel", "Stop measuring; what was measured stays"],
  [".kr-classes button", "Explain this class"],
  [".kr-picker label", "Explain this image"],
  ['input[type="search"]', "A part of a class's name, in any case; Enter takes the first"],
  [".kr-files .kr-row", "How wide the picture that PNG saves is"],
  ['[data-figure="ssim"]', "SSIM of the approximate map with the exact one"],
  ['[data-figure="share"]', "How many positions the approximate map was measured at"],
  ['[data-figure="exact"]', "Time of our exact map against the approximate one"],
  ['[data-figure="full"]', "Time of one full pass for every position against the approximate map"],
];

/** The line on what an element is in, and the control that the line is of. */
export function tipOf(target: Element): { control: Element; text: string } | null {
  for (const [selector, text] of TIPS) {
    const control = target.closest(selector);
    if (control) return { control, text };
  }
  return null;
}

/** Shows lines within an element; returns what ends that. */
export function tips(root: HTMLElement): () => void {
  const id = unique("tip");
  const line = h("div", { class: "kr-tip", role: "tooltip", id });
  line.hidden = true;
  root.append(line);
  let [timer, described]: [ReturnType<typeof setTimeout> | undefined, Element | null] = [undefined, null];
  const away = () => {
    clearTimeout(timer);
    line.hidden = true;
    if (described?.getAttribute("aria-describedby") === id) described.removeAttribute("aria-describedby");
    described = null;
  };
  const show = (control: Element, text: string) => {
    line.textContent = text;
    line.hidden = false;
    const [here, there] = [root.getBoundingClientRect(), control.getBoundingClientRect()];
    const below = there.bottom + line.offsetHeight + 8 < here.bottom;
    const top = below ? there.bottom + 4 : there.top - line.offsetHeight - 4;
    const left = Math.min(there.left - here.left, root.clientWidth - line.offsetWidth - 8);
    line.style.top = `${top - here.top + root.scrollTop}px`;
    line.style.left = `${Math.max(4, left)}px`;
  };
  const come = (event: Event, wait: number) => {
    away();
    const target = event.target as Element;
    const tip = tipOf(target);
    if (!tip) return;
    if (event.type === "focusin" && !target.hasAttribute("aria-describedby")) {
      described = target;
      target.setAttribute("aria-describedby", id);
      line.textContent = tip.text;
    }
    timer = setTimeout(() => show(tip.control, tip.text), wait);
  };
  root.addEventListener("pointerover", (event) => come(event, WAIT_MS));
  root.addEventListener("focusin", (event) => {
    if ((event.target as Element).matches(":focus-visible")) come(event, 0);
  });
  root.addEventListener("pointerleave", away);
  root.addEventListener("pointerdown", away);
  root.addEventListener("focusout", away);
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape") away();
  });
  return away;
}
