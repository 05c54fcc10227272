// What anywidget calls: one store per model, and the part that the model asks for in each view.

import { h } from "./dom";
import { GraphView } from "./graph";
import { Heatmap } from "./heatmap";
import { Inspector } from "./inspector";
import { DivergencePlot } from "./plot";
import { TargetStatus } from "./status";
import { type Model, Store } from "./store";
import { OperatorTable } from "./table";

interface Part {
  readonly element: HTMLElement;
  dispose(): void;
}

const PARTS: Record<string, new (store: Store) => Part> = {
  status: TargetStatus,
  graph: GraphView,
  inspector: Inspector,
  heatmap: Heatmap,
  plot: DivergencePlot,
  table: OperatorTable,
};

// Each view gets a model object of its own; the key is what they share.
const stores = new Map<string, Store>();

function storeOf(model: Model): Store {
  const key = model.get("_key") as string;
  let store = stores.get(key);
  if (!store) stores.set(key, (store = new Store(model)));
  return store;
}

function initialize({ model }: { model: Model }): () => void {
  stores.set(model.get("_key") as string, new Store(model));
  return () => void stores.delete(model.get("_key") as string);
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const store = storeOf(model);
  const names = model.get("_parts") as string[];
  const body = h("div", { class: names.length > 1 ? "tapml-workbench" : "tapml-single" });
  const root = h("div", { class: "tapml" }, body);
  const height = model.get("height") as number;
  if (height) root.style.setProperty("--tapml-height", `${height}px`);
  const parts: Part[] = [];
  el.append(root);
  let frame = 0;
  const begin = () => {
    if (parts.length) return;
    root.classList.add("tapml-live", `tapml-live-${store.session}`);
    const waiting = [...names];
    // One part a frame: what comes first is on the screen while the others are made.
    const add = () => {
      const part = new PARTS[waiting.shift()!]!(store);
      part.element.classList.add("tapml-part");
      parts.push(part);
      body.append(part.element);
      if (waiting.length) frame = requestAnimationFrame(add);
      else root.classList.add("tapml-whole");
    };
    add();
  };
  const end = store.on("graph", begin);
  if (store.ready) begin();
  return () => {
    end();
    cancelAnimationFrame(frame);
    for (const part of parts) part.dispose();
    root.remove();
  };
}

export default { initialize, render };
