// The map over the picture: pointing, pinning, and drawing a region, by pointer or by keyboard.
import { h, type Listening, onRepaint, unique } from "./dom";
import { figures } from "./figures";
import { type Box, boxBetween, brush, centreOf, moved, type Point, patchBox } from "./geometry";
import { describe } from "./inspector";
import { backdrop, dots, drops, gradient, outline, overlay, reach, sheet } from "./paint";
import type { Scene } from "./scene";
import { octets, type Region } from "./state";

type Tool = "look" | "rectangle" | "brush";

const HELP: Record<Tool, string> = {
  look: "Arrow keys move from cell to cell, Enter pins.",
  rectangle: "Drag a rectangle; or Enter, arrow keys, Enter. Escape gives up.",
  brush: "Paint with the pointer; or move with the arrow keys, Space paints, Enter applies.",
};

const STEPS: Record<string, [number, number]> = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};

export function stage(listening: Listening, scene: Scene, live: boolean): HTMLElement {
  const { model } = listening;
  const help = unique("help");
  const spoken = h("output", { class: "kr-hidden", "aria-live": "polite" });
  const canvas = h("canvas", {
    class: "kr-map",
    tabindex: 0,
    role: "application",
    "aria-label": "Occlusion map",
    "aria-describedby": help,
    "data-lm-suppress-shortcuts": "true",
  });
  const hint = h("span", { id: help, class: "kr-hidden" }, HELP.look);
  let tool: Tool = "look";
  let from: Point | null = null;
  let to: Point | null = null;
  let painted: Uint8Array | null = null;

  const point = (event: PointerEvent): Point => {
    const box = canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * scene.width,
      y: ((event.clientY - box.top) / box.height) * scene.height,
    };
  };
  const radius = () => Math.max(3, Math.min(scene.height, scene.width) / 24);
  const ask = (region: Region) => {
    model.set("region", region);
    model.save_changes();
  };
  const giveUp = () => {
    from = to = null;
    painted = null;
    draw();
  };
  const apply = () => {
    if (painted) ask({ mask: new DataView(painted.buffer) });
    else if (from && to) {
      const box = boxBetween(from, to, scene.height, scene.width);
      if (box) ask({ box: [box.top, box.left, box.bottom, box.right] });
    }
    giveUp();
  };
  const paintTo = (at: Point) => {
    painted ??= new Uint8Array(scene.height * scene.width);
    brush(painted, scene.height, scene.width, from ?? at, at, radius());
    from = at;
  };

  // -- pointer
  canvas.addEventListener("pointermove", (event) => {
    const at = point(event);
    if (from && tool === "rectangle") to = at;
    else if (from && tool === "brush") paintTo(at);
    else if (tool === "look") scene.look(at);
    draw();
  });
  canvas.addEventListener("pointerdown", (event) => {
    if (tool === "look" || !live) return;
    canvas.setPointerCapture(event.pointerId);
    from = to = point(event);
    if (tool === "brush") paintTo(from);
    draw();
  });
  canvas.addEventListener("pointerup", () => {
    if (tool !== "look" && from) apply();
  });
  canvas.addEventListener("pointercancel", giveUp);
  canvas.addEventListener("pointerleave", () => scene.look(null));
  canvas.addEventListener("click", (event) => {
    if (tool === "look") scene.pin(point(event as PointerEvent));
  });

  // -- keyboard
  const centre = (): Point => {
    const map = scene.current;
    if (!map) return { x: 0, y: 0 };
    const box = patchBox(scene.cell ?? { row: 0, column: 0 }, map, scene.height, scene.width);
    return { x: (box.left + box.right) / 2, y: (box.top + box.bottom) / 2 };
  };
  canvas.addEventListener("keydown", (event) => {
    const map = scene.current;
    if (!map) return;
    const step = STEPS[event.key];
    if (step) {
      const far = event.shiftKey ? 4 : 1;
      const start = scene.cell ?? { row: Math.floor(map.rows / 2), column: Math.floor(map.columns / 2) };
      const wasPinned = scene.pinned;
      scene.pinned = false;
      scene.look(centreOf(scene.cell ? moved(start, far * step[0], far * step[1], map) : start, map));
      scene.pinned = wasPinned;
      if (tool === "rectangle" && from) to = centre();
    } else if (event.key === "Enter") {
      if (tool === "look") scene.pin(scene.cell && centreOf(scene.cell, map));
      else if (tool === "brush") apply();
      else if (from) apply();
      else from = to = centre();
    } else if (event.key === " " && tool === "brush") paintTo(centre());
    else if (event.key === "Escape") {
      giveUp();
      if (scene.pinned) scene.pin(null);
    } else return;
    event.preventDefault();
    event.stopPropagation();
    spoken.textContent = describe(scene)?.text ?? "";
    draw();
  });

  // -- drawing
  const draw = onRepaint(() => {
    const { height, width, map } = scene;
    const size = Math.max(1, canvas.clientWidth);
    const scale = (size / width) * (globalThis.devicePixelRatio || 1);
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.aspectRatio = `${width} / ${height}`;
    const context = canvas.getContext("2d");
    if (!context) return;
    const { picture, current } = scene;
    const opacity = map ? model.get("opacity") : 0;
    if (picture) {
      context.imageSmoothingEnabled = true;
      context.imageSmoothingQuality = "high";
      backdrop(context, picture, opacity > 0);
      context.imageSmoothingEnabled = false;
    }
    if (picture && map && map.height === height && map.width === width) {
      const fall = drops(map.values, map.base);
      const pixels = overlay(fall, map.status, map, height, width, scene.limit, scene.table, opacity);
      context.drawImage(sheet(pixels, height, width), 0, 0, canvas.width, canvas.height);
      if (map.stride * scale >= 8) {
        const dense = map.stride * scale < 16;
        context.fillStyle = `rgb(255 255 255 / ${dense ? 35 : 70}%)`;
        context.strokeStyle = `rgb(0 0 0 / ${dense ? 15 : 35}%)`;
        for (const dot of dots(map.status, map, height, width)) {
          context.beginPath();
          context.arc(dot.x * scale, dot.y * scale, Math.min(2, map.stride * scale * 0.12), 0, 7);
          context.fill();
          context.stroke();
        }
      }
    }
    const region = model.get("region");
    if (picture && region && "box" in region) {
      const [top, left, bottom, right] = region.box;
      frame(context, { top, left, bottom, right }, scale, "rgb(255 255 255 / 90%)", 1.5);
    } else if (picture && region && "mask" in region && region.mask.byteLength === height * width) {
      const edge = outline(octets(region.mask), height, width);
      context.drawImage(sheet(edge, height, width), 0, 0, canvas.width, canvas.height);
    }
    if (picture && scene.cell && current) {
      frame(context, patchBox(scene.cell, current, height, width), scale, "#fff", scene.pinned ? 2.5 : 1.5);
    }
    if (painted) {
      const edge = outline(painted, height, width);
      context.drawImage(sheet(edge, height, width), 0, 0, canvas.width, canvas.height);
    } else if (from && to && tool === "rectangle") {
      const box = boxBetween(from, to, height, width);
      if (box) frame(context, box, scale, "rgb(255 255 255 / 90%)", 1.5);
    }
    // For whoever waits for a map to be on the screen.
    canvas.dataset.drawn = String(Number(canvas.dataset.drawn ?? 0) + 1);
    canvas.dataset.map = map ? `${map.window}/${map.stride}/${map.done}` : "";
  });
  const resized = new ResizeObserver(draw);
  resized.observe(canvas);
  listening.atEnd(() => resized.disconnect());

  const everywhere = h(
    "button",
    { type: "button", class: "kr-tool", onclick: () => ask(null), "data-tool": "everywhere" },
    "Whole image",
  );
  listening.to(["region"], () => {
    everywhere.disabled = !model.get("region");
  });
  const buttons = (["look", "rectangle", "brush"] as const).map((name) =>
    h(
      "button",
      {
        type: "button",
        class: "kr-tool",
        "data-tool": name,
        "aria-pressed": String(name === tool),
        onclick: () => {
          tool = name;
          scene.look(null);
          giveUp();
          canvas.dataset.tool = name;
          hint.textContent = HELP[name];
          spoken.textContent = HELP[name];
          for (const other of buttons) other.setAttribute("aria-pressed", String(other.dataset.tool === name));
        },
      },
      { look: "Inspect", rectangle: "Rectangle", brush: "Brush" }[name],
    ),
  );
  const tools = h("div", { class: "kr-tools", role: "toolbar", "aria-label": "Region" }, ...buttons, everywhere);
  tools.hidden = !live;
  const element = h("div", { class: "kr-stage" }, tools, h("div", { class: "kr-frame" }, canvas), hint, spoken, legend(scene));
  scene.watch(() => {
    element.dataset.stale = String(scene.map !== null && scene.current === null);
    draw();
  });
  return element;
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

/** The colour bar: outputs with the patch on, from where they fall most to where they rise most. */
function legend(scene: Scene): HTMLElement {
  const bar = h("i", { class: "kr-bar" });
  const mark = h("i", { class: "kr-mark" });
  const [low, middle, high] = [h("span", {}), h("span", { class: "kr-base" }), h("span", {})];
  const caption = h("p", {});
  const element = h("div", { class: "kr-legend" }, caption, h("div", { class: "kr-bar-box" }, bar, mark), h("div", { class: "kr-ends" }, low, middle, high));
  scene.watch(() => {
    const { map, limit } = scene;
    element.hidden = !map;
    if (!map) return;
    const [from, to] = reach(map.base, limit, scene.areShares);
    for (const part of [bar, mark, low, middle, high]) part.hidden = !Number.isFinite(map.base);
    const share = (value: number) => (map.base - value + limit) / (2 * limit);
    bar.style.background = gradient(scene.table, share(from), share(to));
    const at = `${(100 * (map.base - from)) / Math.max(1e-12, to - from)}%`;
    mark.style.left = at;
    middle.style.left = at;
    middle.style.translate = `-${at}`; // so that it never leaves the bar
    const written = figures([from, map.base, to]);
    [low, middle, high].forEach((end, i) => {
      end.textContent = written[i] ?? "";
    });
    const place = (map.base - from) / Math.max(1e-12, to - from);
    low.style.visibility = place < 0.16 ? "hidden" : "";
    high.style.visibility = place > 0.84 ? "hidden" : "";
    caption.textContent = `${scene.areShares ? "Probability" : "Output"} of “${scene.name(map.target)}” with the patch there; the mark is without it${map.notFinite ? "; hatched where the change is not finite" : ""}`;
  });
  return element;
}
