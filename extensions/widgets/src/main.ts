// What anywidget calls: one store per model, and in each place the views that the model asks for.

import { h } from "./dom";
import { GraphView } from "./graph/view";
import { Heatmap } from "./heatmap/view";
import { Inspector } from "./inspector/view";
import { DivergencePlot } from "./plot/view";
import { TargetStatus } from "./status";
import { type Model, Store } from "./store";
import { OperatorTable } from "./table";

interface View {
  readonly element: HTMLElement;
  dispose(): void;
}

const VIEWS: Record<string, new (store: Store) => View> = {
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
  const names = model.get("_views") as string[];
  const body = h("div", { class: names.length > 1 ? "tapml-workbench" : "tapml-single" });
  const root = h("div", { class: "tapml" }, body);
  const height = model.get("height") as number;
  if (height) root.style.setProperty("--tapml-height", `${height}px`);
  const views: View[] = [];
  el.append(root);
  let frame = 0;
  const begin = () => {
    if (views.length) return;
    root.classList.add("tapml-live", `tapml-live-${store.session}`);
    const waiting = [...names];
    // One view a frame: what comes first is on the screen while the others are made.
    const add = () => {
      const view = new VIEWS[waiting.shift()!]!(store);
      view.element.classList.add("tapml-view");
      views.push(view);
      body.append(view.element);
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
    for (const view of views) view.dispose();
    root.remove();
  };
}

export default { initialize, render };
