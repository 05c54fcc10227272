// The graph view: the model by scopes on one canvas, drawn where somebody looks.

import { onTheme } from "../colours";
import { fitCanvas, h, keepKeys, onResize } from "../dom";
import { plural } from "../format";
import type { Box } from "../grid";
import { type Node, openAtFirst } from "../layout";
import type { Store } from "../store";
import { type Actions, listen } from "./input";
import { Minimap } from "./minimap";
import { Painter, READABLE } from "./painter";
import { Scene } from "./scene";
import { Viewport } from "./viewport";

const FIRST_BOXES = 48;
const HELP =
  "Arrow keys move, Enter or right opens a scope, left closes it, Space moves the operator or the " +
  "whole scope between source and target, m marks it to be moved with others, / searches, f fits, " +
  "plus and minus zoom, Shift with arrows pans. Drag with Shift marks several.";

export class GraphView implements Actions {
  readonly element: HTMLElement;
  private canvas = h("canvas", {
    class: "tapml-canvas",
    tabindex: 0,
    role: "application",
    "aria-label": "Model graph",
    "aria-roledescription": "graph",
  });
  private tip = h("div", { class: "tapml-tip", hidden: true });
  private spoken = h("div", { class: "tapml-spoken", "aria-live": "polite" });
  private field = h("input", {
    type: "search",
    placeholder: "search /",
    "aria-label": "Search operators",
    class: "tapml-search",
  });
  private found = h("span", { class: "tapml-dim" });
  private following = h("input", { type: "checkbox" });
  private scene: Scene;
  private viewport = new Viewport(() => this.repaint());
  private painter: Painter;
  private minimap: Minimap;
  private frame = 0;
  /** Whether the view has been given its first place since the graph came. */
  private placed = false;
  private readonly ends: (() => void)[] = [];

  constructor(private store: Store) {
    this.scene = new Scene(store);
    this.painter = new Painter(this.canvas, this.scene, this.viewport);
    this.minimap = new Minimap(this.scene, this.viewport, this.painter);
    const button = (text: string, title: string, act: () => void) =>
      h("button", { type: "button", title, "aria-label": title, onclick: act }, text);
    const stage = h("div", { class: "tapml-stage" }, this.canvas, this.minimap.element, this.tip);
    this.element = h(
      "section",
      { class: "tapml-graph", "aria-label": "Graph" },
      h(
        "div",
        { class: "tapml-bar" },
        this.field,
        this.found,
        h("span", { class: "tapml-space" }),
        button("fit", "Fit the graph (f)", () => this.fit()),
        button("–", "Zoom out (-)", () => this.viewport.zoom(1 / 1.3)),
        button("+", "Zoom in (+)", () => this.viewport.zoom(1.3)),
        button("⊞", "Open every scope", () => this.openAll(true)),
        button("⊟", "Close every scope", () => this.openAll(false)),
        h("label", { title: "Keep the operator at work in view" }, this.following, " follow"),
      ),
      stage,
      this.spoken,
      h("p", { class: "tapml-spoken", id: `tapml-help-${store.session}` }, HELP),
    );
    this.canvas.setAttribute("aria-description", HELP);
    keepKeys(this.element);
    listen(this.canvas, this.scene, this.viewport, this);
    this.field.addEventListener("input", () => this.find());
    this.field.addEventListener("keydown", (event) => this.searchKey(event));
    this.ends.push(
      store.on("graph", () => this.begin()),
      store.on("results", () => this.repaint(true)),
      store.on("placement", () => {
        this.scene.countCrossings();
        this.repaint(true);
      }),
      store.on("selection", () => this.selectionChanged()),
      store.on("reveal", () => this.reveal()),
      store.on("status", () => this.statusChanged()),
      onTheme(() => this.themeChanged()),
      onResize(stage, (width, height) => this.resize(width, height)),
    );
    if (store.ready) this.begin();
  }

  dispose(): void {
    cancelAnimationFrame(this.frame);
    for (const end of this.ends) end();
  }

  // -- structure ---------------------------------------------------------------------------------

  private begin(): void {
    const kept = this.store.recall<string[] | null>("open", null);
    this.scene.open = kept ? new Set(kept) : openAtFirst(this.store, FIRST_BOXES);
    const { op } = this.store.selection;
    if (!kept && op >= 0) this.scene.openAround(op);
    this.placed = false;
    this.rebuild();
  }

  private rebuild(): void {
    this.scene.rebuild();
    this.place();
    this.repaint(true);
  }

  /** Lay out anew, keeping a scope where it is on the screen. */
  private restructure(anchor?: string): void {
    const { scene, viewport } = this;
    const before = anchor === undefined ? undefined : scene.ofScope(anchor);
    this.rebuild();
    const after = anchor === undefined ? undefined : scene.ofScope(anchor);
    if (before && after) {
      viewport.pan((before.x - after.x) * viewport.scale, (before.y - after.y) * viewport.scale);
      scene.cursor = after;
    }
    this.store.remember("open", [...scene.open]);
    this.repaint(true);
  }

  private openAll(open: boolean): void {
    this.scene.setAllOpen(open);
    this.placed = false;
    this.restructure();
  }

  private reveal(): void {
    const { scene, viewport } = this;
    const { op } = this.store.selection;
    if (op < 0 || !scene.picture) return;
    if (scene.openAround(op)) this.restructure();
    const node = scene.nodeOf(op)!;
    scene.cursor = node;
    if (viewport.scale < READABLE) viewport.scale = 0.9;
    viewport.centre(node);
  }

  // -- what others do ----------------------------------------------------------------------------

  private selectionChanged(): void {
    const { scene } = this;
    const node = scene.nodeOf(this.store.selection.op);
    if (node && !contains(scene.cursor, node)) {
      scene.cursor = node;
      this.viewport.show(node);
    }
    this.repaint();
  }

  private statusChanged(): void {
    const { current, busy } = this.store.status;
    const node = this.scene.nodeOf(current);
    if (busy && node && this.following.checked) this.viewport.show(node);
    this.repaint();
  }

  private themeChanged(): void {
    this.painter.retheme();
    this.repaint(true);
  }

  private resize(width: number, height: number): void {
    const first = !this.viewport.width;
    Object.assign(this.viewport, { width, height });
    fitCanvas(this.canvas, width, height);
    this.minimap.resize();
    if (first) this.themeChanged();
    this.place();
    this.repaint(true);
  }

  // -- what somebody does here -------------------------------------------------------------------

  private get placeable(): boolean {
    return this.scene.picture !== null && this.viewport.width > 0;
  }

  /** Give the view its first place. */
  private place(): void {
    if (this.placed || !this.placeable) return;
    this.viewport.begin(this.scene.picture!);
    const chosen = this.scene.nodeOf(this.store.selection.op);
    if (chosen) this.viewport.show(chosen);
    this.placed = true;
  }

  fit(): void {
    if (!this.placeable) return;
    this.viewport.fit(this.scene.picture!);
    this.placed = true;
  }

  setOpen(node: Node, open: boolean): void {
    if (this.scene.setOpen(node, open)) this.restructure(node.scope!.path);
  }

  point(node: Node): void {
    this.scene.cursor = node;
    this.spoken.textContent = this.scene.describe(node);
    this.store.select(node.scope ? this.store.worstOf(node.scope.ops) : node.op);
    this.viewport.show(node);
    this.repaint();
  }

  toggle(): void {
    const { cursor } = this.scene;
    this.store.toggle(this.scene.chosen());
    if (cursor) this.spoken.textContent = this.scene.describe(cursor);
  }

  mark(box: Box): void {
    this.scene.mark(box);
    this.tellMarked();
  }

  markOne(): void {
    const { cursor, marked } = this.scene;
    if (!cursor || cursor.open) return;
    if (!marked.delete(cursor)) marked.add(cursor);
    this.tellMarked();
  }

  unmark(): void {
    this.scene.marked.clear();
    this.repaint();
  }

  private tellMarked(): void {
    const { size } = this.scene.marked;
    this.spoken.textContent = `${plural(size, "box")} marked; Space moves them`;
    this.repaint();
  }

  hover(node: Node | null, x: number, y: number): void {
    const shown = node && !node.open ? node : null;
    if (shown === this.scene.hovered) return;
    this.scene.hovered = shown;
    this.tip.hidden = !shown;
    if (shown) {
      this.tip.textContent = this.scene.describe(shown);
      this.tip.style.left = `${Math.min(x + 14, Math.max(0, this.viewport.width - 320))}px`;
      this.tip.style.top = `${Math.min(y + 14, this.viewport.height - 40)}px`;
    }
    this.repaint();
  }

  search(): void {
    this.field.focus();
  }

  private searchKey(event: KeyboardEvent): void {
    if (event.key === "Enter") this.nextMatch(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") {
      this.field.value = "";
      this.find();
      this.canvas.focus();
    }
  }

  private find(): void {
    const text = this.field.value.toLowerCase();
    this.scene.find(text);
    this.found.textContent = text ? plural(this.scene.matches.size, "operator") : "";
    this.repaint(true);
  }

  private nextMatch(way: 1 | -1): void {
    const found = [...this.scene.matches];
    if (!found.length) return;
    const here = this.store.selection.op;
    const next =
      way > 0
        ? (found.find((op) => op > here) ?? found[0]!)
        : (found.findLast((op) => op < here) ?? found.at(-1)!);
    this.store.reveal(next);
    this.spoken.textContent = this.store.ops[next]!;
  }

  // -- drawing -----------------------------------------------------------------------------------

  /** Draw in the next frame; anew where results, layout or theme have changed. */
  repaint(content = false): void {
    if (content) {
      this.painter.forget();
      this.minimap.forget();
    }
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      if (!this.placeable || !this.painter.theme) return;
      this.painter.draw();
      this.minimap.draw();
      this.canvas.dispatchEvent(new CustomEvent("tapml-drawn", { bubbles: true }));
    });
  }
}

/** Whether a box is around another, or the same. */
function contains(outer: Node | null, inner: Node): boolean {
  let node: Node | null = inner;
  while (node && node !== outer) node = node.parent;
  return outer !== null && node === outer;
}
