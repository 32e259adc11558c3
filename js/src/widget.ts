// The explorer's page: lays out the parts and binds them to the model.
import type { RenderProps } from "@anywidget/types";
import { beside } from "./beside";
import { callPanel } from "./call";
import { classes } from "./classes";
import { compare } from "./compare";
import { curvesPanel } from "./curves";
import { files, receive } from "./controls/files";
import { lookControls } from "./controls/look";
import { measuringControls } from "./controls/measuring";
import { h, Listening, unique } from "./dom";
import { header, trouble } from "./header";
import { inspector } from "./inspector";
import type { State } from "./messages";
import { picker } from "./picker";
import { ranking } from "./ranking";
import { Scene } from "./scene";
import { stage } from "./stage/stage";
import { strip } from "./strip";
import { tips } from "./tips";
import { togetherPanel } from "./together";

function render({ model, el }: Pick<RenderProps<State>, "model" | "el">): () => void {
  const listening = new Listening(model);
  const live = model.get("_kernel") !== false;
  const scene = new Scene(model, listening, live);
  const view = unique("view");
  const root = h(
    "div",
    { class: "krypton-explorer" },
    header(listening, scene, live),
    trouble(listening),
    picker(listening, scene),
    h(
      "div",
      { class: "kr-body" },
      h(
        "div",
        { class: "kr-side" },
        ...(live ? [measuringControls(listening)] : []),
        ...(live ? [files(listening, view)] : []),
      ),
      h("div", { class: "kr-middle" }, stage(listening, scene, live), lookControls(listening)),
      h("div", { class: "kr-side kr-reading" }, classes(listening, scene, live), inspector(scene), ranking(scene), togetherPanel(listening, scene, live), curvesPanel(listening, scene)),
    ),
    ...(live ? [strip(listening, scene)] : []),
    beside(listening, scene, live),
    compare(listening, scene),
    callPanel(listening, scene),
  );
  listening.atEnd(tips(root));
  el.append(root);
  if (live) receive(model, listening, view);
  return () => {
    listening.end();
    root.remove();
  };
}

export default { render };
