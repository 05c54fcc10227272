// The graph view: the model by scopes on one canvas, drawn where somebody looks.

import { inkOn, mix, onTheme, strength, type Theme, themeOf } from "./colours";
import { h, keepKeys, onResize } from "./dom";
import { number, plural, shorten } from "./format";
import { Grid } from "./grid";
import {
  type Edge,
  firstLook,
  HEADER,
  type Layout,
  layout,
  markCrossings,
  type Node,
} from "./layout";
import type { Store } from "./store";

const FIRST_BOXES = 48;
const MARGIN = 24;
const READABLE = 0.42; // scale from which labels are drawn
const FAR = 0.12; // scale below which one image stands for everything
const MOST_PIXELS = 4096; // of its sides
const MAP = { w: 110, h: 130 };
const HELP =
  "Arrow keys move, Enter or right opens a scope, left closes it, Space moves the operator or the " +
  "whole scope between source and target, m marks it to be moved with others, / searches, f fits, plus and minus zoom, " +
  "Shift with arrows pans. Drag with Shift marks several.";

export class GraphView {
  readonly element: HTMLElement;
  private canvas = h("canvas", {
    class: "tapml-canvas",
    tabindex: 0,
    role: "application",
    "aria-label": "Model graph",
    "aria-roledescription": "graph",
  });
  private map = h("canvas", { class: "tapml-minimap", "aria-hidden": "true" });
  private tip = h("div", { class: "tapml-tip", hidden: true });
  private spoken = h("div", { class: "tapml-spoken", "aria-live": "polite" });
  private search = h("input", {
    type: "search",
    placeholder: "search /",
    "aria-label": "Search operators",
    class: "tapml-search",
  });
  private found = h("span", { class: "tapml-dim" });
  private follow = h("input", { type: "checkbox" });
  private context = this.canvas.getContext("2d", { willReadFrequently: true })!;

  private open = new Set<string>();
  private picture: Layout | null = null;
  private nodeGrid = new Grid<Node>(1, 1);
  private edgeGrid = new Grid<Edge>(1, 1);
  private theme!: Theme;
  private font = "sans-serif";
  private hatch!: CanvasPattern;
  private width = 0;
  private height = 0;
  private scale = 1;
  private left = 0;
  private top = 0;
  private cursor: Node | null = null;
  private hovered: Node | null = null;
  private marked = new Set<Node>();
  private matches = new Set<number>();
  private marquee: { x: number; y: number; w: number; h: number } | null = null;
  private frame = 0;
  private fitted = false;
  /** Colours of the boxes as the results are now. */
  private fills = new Map<Node, string>();
  /** The whole graph from far away, and what must not vanish there: faulty boxes. */
  private far: { image: HTMLCanvasElement; faults: Node[] } | null = null;
  private mapImage: HTMLCanvasElement | null = null;
  private clicked = 0;
  private readonly ends: (() => void)[] = [];

  constructor(private store: Store) {
    const button = (text: string, title: string, act: () => void) =>
      h("button", { type: "button", title, "aria-label": title, onclick: act }, text);
    const stage = h("div", { class: "tapml-stage" }, this.canvas, this.map, this.tip);
    this.element = h(
      "section",
      { class: "tapml-graph", "aria-label": "Graph" },
      h(
        "div",
        { class: "tapml-bar" },
        this.search,
        this.found,
        h("span", { class: "tapml-space" }),
        button("fit", "Fit the graph (f)", () => this.fit()),
        button("–", "Zoom out (-)", () => this.zoom(1 / 1.3)),
        button("+", "Zoom in (+)", () => this.zoom(1.3)),
        button("⊞", "Open every scope", () => this.openAll(true)),
        button("⊟", "Close every scope", () => this.openAll(false)),
        h("label", { title: "Keep the operator at work in view" }, this.follow, " follow"),
      ),
      stage,
      this.spoken,
      h("p", { class: "tapml-spoken", id: `tapml-help-${store.session}` }, HELP),
    );
    this.canvas.setAttribute("aria-description", HELP);
    keepKeys(this.element);
    this.listen();
    this.ends.push(
      store.on("graph", () => this.rebuild(true)),
      store.on("results", () => this.repaint(true)),
      store.on("placement", () => this.placementChanged()),
      store.on("selection", () => this.selectionChanged()),
      store.on("reveal", () => this.revealSelected()),
      store.on("status", () => this.statusChanged()),
      onTheme(() => this.themeChanged()),
      onResize(stage, (width, height) => this.resize(width, height)),
    );
    if (store.ready) this.rebuild(true);
  }

  dispose(): void {
    cancelAnimationFrame(this.frame);
    for (const end of this.ends) end();
  }

  // -- structure ---------------------------------------------------------------------------------

  private rebuild(anew: boolean): void {
    const { store } = this;
    if (anew) {
      const kept = store.recall<string[] | null>("open", null);
      this.open = kept ? new Set(kept) : firstLook(store, FIRST_BOXES);
      this.fitted = false;
    }
    const picture = layout(store, this.open);
    this.picture = picture;
    markCrossings(picture, store.edges, store.placement);
    this.nodeGrid = new Grid(picture.width, picture.height);
    for (const node of picture.nodes) this.nodeGrid.add(node, node);
    this.edgeGrid = new Grid(picture.width, picture.height);
    for (const edge of picture.edges) if (!edge.port) this.edgeGrid.add(edge, bounds(edge));
    this.marked.clear();
    this.hovered = null;
    this.cursor = store.selection.op >= 0 ? picture.leafOf[store.selection.op]! : null;
    if (!this.fitted && this.width) this.firstView();
    this.repaint(true);
  }

  private setOpen(node: Node, open: boolean): void {
    if (!node.scope || node.open === open || node.scope.parent === null) return;
    if (open) this.open.add(node.scope.path);
    else this.open.delete(node.scope.path);
    this.restructure(node.scope.path);
  }

  private openAll(open: boolean): void {
    const paths = [...this.store.tree.byPath.keys()];
    this.open = new Set(open ? paths : []);
    this.fitted = false;
    this.restructure(null);
  }

  /** Lay out anew, keeping a scope where it is on the screen. */
  private restructure(anchor: string | null): void {
    const find = () => this.picture!.nodes.find((n) => n.scope?.path === anchor);
    const before = anchor === null ? undefined : find();
    const [x, y] = before ? [before.x, before.y] : [0, 0];
    this.rebuild(false);
    const after = anchor === null ? undefined : find();
    if (before && after) {
      this.left += (x - after.x) * this.scale;
      this.top += (y - after.y) * this.scale;
      this.cursor = after;
    }
    this.store.remember("open", [...this.open]);
    this.repaint(true);
  }

  private revealSelected(): void {
    const op = this.store.selection.op;
    if (op < 0 || !this.picture) return;
    const home = this.store.tree.home[op]!;
    let changed = false;
    for (let s = home.ops.length === 1 ? home.parent : home; s?.parent; s = s.parent) {
      changed ||= !this.open.has(s.path);
      this.open.add(s.path);
    }
    if (changed) this.restructure(null);
    const node = this.picture.leafOf[op]!;
    this.cursor = node;
    if (this.scale < READABLE) this.scale = 0.9;
    this.centre(node);
  }

  // -- what the store says -----------------------------------------------------------------------

  private placementChanged(): void {
    if (!this.picture) return;
    markCrossings(this.picture, this.store.edges, this.store.placement);
    this.repaint(true);
  }

  private selectionChanged(): void {
    const op = this.store.selection.op;
    const node = op >= 0 ? this.picture?.leafOf[op] : null;
    if (node && !contains(this.cursor, node)) {
      this.cursor = node;
      if (!this.inView(node)) this.centre(node);
    }
    this.repaint();
  }

  private statusChanged(): void {
    const { current, busy } = this.store.status;
    if (busy && this.follow.checked && current >= 0 && this.picture) {
      const node = this.picture.leafOf[current]!;
      if (!this.inView(node)) this.centre(node);
    }
    this.repaint();
  }

  private themeChanged(): void {
    this.theme = themeOf(this.canvas);
    this.font = this.theme.font;
    const tile = h("canvas", { width: 8, height: 8 });
    const context = tile.getContext("2d")!;
    context.strokeStyle = this.theme.dark ? "rgba(255,255,255,0.75)" : "rgba(0,0,0,0.6)";
    context.lineWidth = 1.6;
    for (const x of [-4, 4, 12]) {
      context.moveTo(x - 4, 8);
      context.lineTo(x + 4, 0);
    }
    context.stroke();
    this.hatch = this.context.createPattern(tile, "repeat")!;
    this.repaint(true);
  }

  private resize(width: number, height: number): void {
    const first = !this.width;
    this.width = width;
    this.height = height;
    fitCanvas(this.canvas, width, height);
    fitCanvas(this.map, MAP.w, MAP.h);
    if (first) this.themeChanged();
    if (!this.fitted) this.firstView();
    this.repaint(true);
  }

  // -- the view ----------------------------------------------------------------------------------

  fit(): void {
    if (!this.picture || !this.width) return;
    const { width, height } = this.picture;
    const across = (this.width - 2 * MARGIN) / width;
    this.scale = Math.min(1.1, across, (this.height - 2 * MARGIN) / height);
    this.left = (this.width - width * this.scale) / 2;
    this.top = Math.max(MARGIN, (this.height - height * this.scale) / 2);
    this.fitted = true;
    this.repaint();
  }

  /** The whole graph where it can be read so; else its beginning. */
  private firstView(): void {
    this.fit();
    if (!this.picture || this.scale >= 0.5) return;
    this.scale = 0.85;
    this.left = (this.width - this.picture.width * this.scale) / 2;
    this.top = MARGIN;
  }

  private zoom(factor: number, x = this.width / 2, y = this.height / 2): void {
    const scale = Math.min(2, Math.max(0.002, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.repaint();
  }

  private centre(node: Node): void {
    this.left = this.width / 2 - (node.x + node.w / 2) * this.scale;
    this.top = this.height / 2 - (node.y + Math.min(node.h / 2, 200)) * this.scale;
    this.repaint();
  }

  private inView(node: Node): boolean {
    const x = node.x * this.scale + this.left;
    const y = node.y * this.scale + this.top;
    return x > -10 && y > -10 && x + node.w * this.scale < this.width + 10 && y < this.height - 10;
  }

  private at(x: number, y: number): Node | null {
    const wx = (x - this.left) / this.scale;
    const wy = (y - this.top) / this.scale;
    let hit: Node | null = null;
    for (const n of this.nodeGrid.near({ x: wx, y: wy, w: 0, h: 0 })) {
      const inside = wx >= n.x && wx <= n.x + n.w && wy >= n.y && wy <= n.y + n.h;
      if (inside && (!hit || n.depth > hit.depth)) hit = n;
    }
    return hit;
  }

  // -- input -------------------------------------------------------------------------------------

  private listen(): void {
    const { canvas } = this;
    let drag: { x: number; y: number; moved: boolean; mark: boolean } | null = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus();
      canvas.setPointerCapture(event.pointerId);
      drag = { x: event.offsetX, y: event.offsetY, moved: false, mark: event.shiftKey };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) return this.hover(event.offsetX, event.offsetY);
      const dx = event.offsetX - drag.x;
      const dy = event.offsetY - drag.y;
      drag.moved ||= Math.abs(dx) + Math.abs(dy) > 4;
      if (!drag.moved) return;
      if (drag.mark) {
        this.marquee = {
          x: Math.min(drag.x, event.offsetX),
          y: Math.min(drag.y, event.offsetY),
          w: Math.abs(dx),
          h: Math.abs(dy),
        };
      } else {
        this.left += dx;
        this.top += dy;
        drag.x = event.offsetX;
        drag.y = event.offsetY;
      }
      this.repaint();
    });
    canvas.addEventListener("pointerup", (event) => {
      const was = drag;
      drag = null;
      if (this.marquee) return this.mark();
      if (was && !was.moved) this.click(event.offsetX, event.offsetY);
    });
    canvas.addEventListener("pointerleave", () => this.hover(-1, -1));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.ctrlKey || event.metaKey || !event.shiftKey) {
        this.zoom(Math.exp(-event.deltaY * 0.0015), event.offsetX, event.offsetY);
      } else {
        this.left -= event.deltaX || event.deltaY;
        this.repaint();
      }
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.repaint());
    canvas.addEventListener("blur", () => this.repaint());
    this.map.addEventListener("pointerdown", (event) => this.jump(event));
    this.map.addEventListener("pointermove", (event) => event.buttons && this.jump(event));
    this.search.addEventListener("input", () => this.lookFor());
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.nextMatch(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") {
        this.search.value = "";
        this.lookFor();
        canvas.focus();
      }
    });
  }

  private hover(x: number, y: number): void {
    const node = x < 0 ? null : this.at(x, y);
    const shown = node && !node.open ? node : null;
    if (shown === this.hovered) return;
    this.hovered = shown;
    this.tip.hidden = !shown;
    if (shown) {
      this.tip.textContent = this.describe(shown);
      this.tip.style.left = `${Math.min(x + 14, Math.max(0, this.width - 320))}px`;
      this.tip.style.top = `${Math.min(y + 14, this.height - 40)}px`;
    }
    this.repaint();
  }

  private click(x: number, y: number): void {
    const node = this.at(x, y);
    const again = performance.now() - this.clicked < 350 && node === this.cursor;
    this.clicked = performance.now();
    if (!node || node.parent === null) {
      this.marked.clear();
      this.repaint();
      return;
    }
    const inside = (x - this.left) / this.scale - node.x;
    const below = (y - this.top) / this.scale - node.y;
    this.point(node);
    if (again) {
      this.clicked = 0;
      this.toggle();
    } else if (node.scope && inside < 24 && (!node.open || below < HEADER)) {
      this.setOpen(node, !node.open);
    }
  }

  /** Move the keyboard's cursor; the selection follows. */
  private point(node: Node): void {
    this.cursor = node;
    this.spoken.textContent = this.describe(node);
    this.store.select(node.scope ? this.store.worstOf(node.scope.ops) : node.op);
    if (!this.inView(node)) this.centre(node);
    this.repaint();
  }

  private mark(): void {
    const { x, y, w, h: height } = this.marquee!;
    this.marquee = null;
    const box = {
      x: (x - this.left) / this.scale,
      y: (y - this.top) / this.scale,
      w: w / this.scale,
      h: height / this.scale,
    };
    this.marked.clear();
    for (const n of this.nodeGrid.near(box)) {
      const inside =
        n.x >= box.x && n.y >= box.y && n.x + n.w <= box.x + box.w && n.y + n.h <= box.y + box.h;
      if (inside && !n.open) this.marked.add(n);
    }
    this.sayMarked();
  }

  private markOne(): void {
    if (!this.cursor || this.cursor.open) return;
    if (!this.marked.delete(this.cursor)) this.marked.add(this.cursor);
    this.sayMarked();
  }

  private sayMarked(): void {
    this.spoken.textContent = `${plural(this.marked.size, "box")} marked; Space moves them`;
    this.repaint();
  }

  private toggle(): void {
    const nodes = this.marked.size ? [...this.marked] : this.cursor ? [this.cursor] : [];
    this.store.toggle(nodes.flatMap((n) => (n.scope ? n.scope.ops : [n.op])));
    if (this.cursor) this.spoken.textContent = this.describe(this.cursor);
  }

  private key(event: KeyboardEvent): void {
    const { picture } = this;
    if (!picture || event.altKey || event.ctrlKey || event.metaKey) return;
    const pan: Record<string, [number, number]> = {
      ArrowUp: [0, 60],
      ArrowDown: [0, -60],
      ArrowLeft: [60, 0],
      ArrowRight: [-60, 0],
    };
    const nodes = picture.nodes;
    const here = this.cursor ? nodes.indexOf(this.cursor) : 0;
    const go = (k: number) => nodes[k]?.parent && this.point(nodes[k]);
    if (event.shiftKey && event.key in pan) {
      this.left += pan[event.key]![0];
      this.top += pan[event.key]![1];
      this.repaint();
    } else if (event.key === "ArrowDown") go(here + 1);
    else if (event.key === "ArrowUp") go(here - 1);
    else if (event.key === "ArrowRight") {
      if (this.cursor?.scope && !this.cursor.open) this.setOpen(this.cursor, true);
      else go(here + 1);
    } else if (event.key === "ArrowLeft") {
      if (this.cursor?.open) this.setOpen(this.cursor, false);
      else if (this.cursor?.parent?.parent) this.point(this.cursor.parent);
    } else if (event.key === "Enter") {
      if (this.cursor) this.setOpen(this.cursor, !this.cursor.open);
    } else if (event.key === " ") this.toggle();
    else if (event.key === "/") this.search.focus();
    else if (event.key === "f") this.fit();
    else if (event.key === "+" || event.key === "=") this.zoom(1.3);
    else if (event.key === "-") this.zoom(1 / 1.3);
    else if (event.key === "m") this.markOne();
    else if (event.key === "Home") go(1);
    else if (event.key === "End") go(nodes.length - 1);
    else if (event.key === "Escape") {
      this.marked.clear();
      this.repaint();
    } else return;
    event.preventDefault();
  }

  private jump(event: PointerEvent): void {
    if (!this.picture) return;
    const { factor, x, y } = this.mapPlace();
    this.left = this.width / 2 - ((event.offsetX - x) / factor) * this.scale;
    this.top = this.height / 2 - ((event.offsetY - y) / factor) * this.scale;
    this.repaint();
  }

  private lookFor(): void {
    const text = this.search.value.toLowerCase();
    this.matches.clear();
    if (text) {
      this.store.ops.forEach((id, op) => id.toLowerCase().includes(text) && this.matches.add(op));
    }
    this.found.textContent = text ? plural(this.matches.size, "operator") : "";
    this.repaint(true);
  }

  private nextMatch(way: 1 | -1): void {
    const found = [...this.matches];
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

  private repaint(content = false): void {
    if (content) {
      this.mapImage = null;
      this.fills.clear();
      this.far = null;
    }
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  private describe(node: Node): string {
    const { store } = this;
    if (!node.scope) {
      const info = store.info(node.op);
      const ratio = store.metric("ratio", node.op);
      const floors = Number.isNaN(ratio) ? "" : `, ${number(ratio)} noise floors`;
      const where = store.host[node.op] ? "host" : store.placement[node.op] ? "target" : "source";
      return `${store.ops[node.op]}: ${info.name}${floors}; on the ${where}`;
    }
    const counts = store.verdicts
      .map((v, k) => [node.scope!.verdicts[k]!, v.name] as const)
      .filter(([count]) => count)
      .map(([count, name]) => `${count} ${name}`);
    const total = node.scope.ops.length;
    return (
      `${node.scope.path}: ${plural(total, "operator")}, ${counts.join(", ")}; ` +
      `${node.scope.onTarget} on the target; ${node.open ? "open" : "closed"}`
    );
  }

  private verdictOf(node: Node): number {
    if (!node.scope) return this.store.worst[node.op]!;
    let worst = -1;
    node.scope.verdicts.forEach((count, k) => {
      if (
        count &&
        (worst < 0 || this.store.verdicts[k]!.severity < this.store.verdicts[worst]!.severity)
      )
        worst = k;
    });
    return worst;
  }

  private fillOf(node: Node): string {
    let fill = this.fills.get(node);
    if (fill === undefined) this.fills.set(node, (fill = this.fillFor(node)));
    return fill;
  }

  private fillFor(node: Node): string {
    const info = this.store.verdicts[this.verdictOf(node)];
    if (!info || info.name === "UNKNOWN") return this.theme.raised;
    if (info.name === "PASS") {
      const ratio = node.scope ? 0 : this.store.metric("ratio", node.op);
      return mix(info.colour, this.theme.back, strength(ratio, this.store.limit));
    }
    return mix(info.colour, this.theme.back, info.fault ? 0.92 : 0.5);
  }

  private shareOnTarget(node: Node): number {
    if (!node.scope) return this.store.placement[node.op]!;
    return node.scope.onTarget / Math.max(1, node.scope.ops.length);
  }

  private draw(): void {
    const { context, picture, theme, width, height, scale } = this;
    if (!picture || !width || !theme) return;
    const dpr = devicePixelRatio || 1;
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    context.fillStyle = theme.back;
    context.fillRect(0, 0, width, height);
    context.setTransform(dpr * scale, 0, 0, dpr * scale, dpr * this.left, dpr * this.top);
    const view = {
      x: -this.left / scale,
      y: -this.top / scale,
      w: width / scale,
      h: height / scale,
    };
    if (scale < FAR) {
      this.drawFar();
    } else {
      const frames: Node[] = [];
      const leaves: Node[] = [];
      for (const node of this.nodeGrid.near(view)) {
        if (!node.open) leaves.push(node);
        else if (node.parent) frames.push(node);
      }
      frames.sort((a, b) => a.depth - b.depth);
      for (const node of frames) this.drawFrame(context, node, scale);
      this.drawEdges(this.edgeGrid.near(view));
      for (const node of leaves) this.drawLeaf(node);
    }
    this.drawMarks();
    this.drawMap();
    this.canvas.dispatchEvent(new CustomEvent("tapml-drawn", { bubbles: true }));
  }

  private drawFrame(context: CanvasRenderingContext2D, node: Node, scale: number): void {
    const { theme } = this;
    context.globalAlpha = 0.55;
    context.fillStyle = node.depth % 2 ? theme.raised : theme.back;
    context.fillRect(node.x, node.y, node.w, node.h);
    context.globalAlpha = 1;
    context.lineWidth = Math.min(1 / scale, 3);
    context.strokeStyle = theme.border;
    context.strokeRect(node.x, node.y, node.w, node.h);
    if (scale < READABLE * 0.6) return;
    context.fillStyle = theme.dim;
    context.font = `600 12px ${this.font}`;
    context.textBaseline = "middle";
    context.fillText("▾", node.x + 7, node.y + HEADER / 2 + 2);
    context.fillText(
      shorten(node.label, Math.floor((node.w - 30) / 7)),
      node.x + 22,
      node.y + HEADER / 2 + 2,
    );
  }

  /** Far away: one image of everything, made when something has changed. */
  private drawFar(): void {
    const { context, picture, scale } = this;
    const { image, faults } = (this.far ??= this.imageFromFar());
    context.drawImage(image, 0, 0, picture!.width, picture!.height);
    const least = 4 / scale;
    for (const n of faults) {
      context.fillStyle = this.fillOf(n);
      context.fillRect(n.x, n.y, Math.max(n.w, least), Math.max(n.h, least));
    }
  }

  private imageFromFar(): { image: HTMLCanvasElement; faults: Node[] } {
    const { width, height, nodes, leaves } = this.picture!;
    const scale = Math.min(FAR, MOST_PIXELS / width, MOST_PIXELS / height);
    const image = h("canvas", {
      width: Math.ceil(width * scale),
      height: Math.ceil(height * scale),
    });
    const context = image.getContext("2d", { willReadFrequently: true })!;
    context.scale(scale, scale);
    for (const node of nodes) if (node.open && node.parent) this.drawFrame(context, node, scale);
    const groups = new Map<string, Node[]>();
    for (const node of leaves) {
      const fill = this.fillOf(node);
      const group = groups.get(fill);
      if (group) group.push(node);
      else groups.set(fill, [node]);
    }
    for (const [fill, group] of groups) {
      context.fillStyle = fill === this.theme.raised ? this.theme.border : fill;
      for (const n of group) context.fillRect(n.x, n.y, n.w, n.h);
    }
    return { image, faults: this.faulty() };
  }

  private faulty(): Node[] {
    return this.picture!.leaves.filter((n) => this.store.verdicts[this.verdictOf(n)]?.fault);
  }

  private drawLeaf(node: Node): void {
    const { context, theme, scale } = this;
    const fill = this.fillOf(node);
    context.fillStyle = fill;
    context.fillRect(node.x, node.y, node.w, node.h);
    const share = this.shareOnTarget(node);
    if (share > 0 && scale > 0.2) {
      // On the target: hatched, from the right, as far as the share of its operators goes.
      const band = node.w * share;
      context.globalAlpha = 0.45;
      context.fillStyle = this.hatch;
      context.fillRect(node.x + node.w - band, node.y, band, node.h);
      context.globalAlpha = 1;
    }
    context.lineWidth = share === 1 ? 2 : 1;
    context.strokeStyle = share > 0 ? theme.text : theme.border;
    context.strokeRect(node.x, node.y, node.w, node.h);
    if (scale < READABLE) return;
    const info = this.store.verdicts[this.verdictOf(node)]!;
    const ink = inkOn(fill);
    context.fillStyle = ink;
    context.textBaseline = "middle";
    const room = Math.floor(node.scope ? (node.w - 46) / 7.4 : (node.w - 28) / 6.3);
    if (node.scope) {
      context.font = `600 12px ${this.font}`;
      context.fillText("▸", node.x + 8, node.y + 14);
      this.halo(shorten(node.label, room), node.x + 22, node.y + 14, fill, ink, share);
      context.font = `11px ${this.font}`;
      const count = (what: "broken" | "missing") =>
        node.scope!.verdicts.reduce((n, c, k) => n + (this.store.verdicts[k]![what] ? c : 0), 0);
      const [broken, missing] = [count("broken"), count("missing")];
      const told = [broken && plural(broken, "culprit"), missing && `${missing} missing`].filter(
        Boolean,
      );
      this.halo(
        told.length ? told.join(", ") : `${node.scope.ops.length} ops`,
        node.x + 22,
        node.y + 30,
        fill,
        ink,
        share,
      );
    } else {
      context.font = `11px ${this.font}`;
      this.halo(shorten(node.label, room), node.x + 8, node.y + node.h / 2 + 1, fill, ink, share);
    }
    context.font = `700 12px ${this.font}`;
    context.textAlign = "right";
    this.halo(
      info.symbol,
      node.x + node.w - 7,
      node.y + (node.scope ? 14 : node.h / 2 + 1),
      fill,
      ink,
      share,
    );
    context.textAlign = "left";
  }

  /** Text that stays readable over the hatch. */
  private halo(text: string, x: number, y: number, fill: string, ink: string, share: number): void {
    if (share > 0) {
      this.context.strokeStyle = fill;
      this.context.lineWidth = 4;
      this.context.lineJoin = "round";
      this.context.strokeText(text, x, y);
    }
    this.context.fillStyle = ink;
    this.context.fillText(text, x, y);
  }

  private drawEdges(near: Set<Edge>): void {
    const { context, theme, scale } = this;
    const plain = new Path2D();
    const crossing = new Path2D();
    const straight = near.size > 2500;
    for (const edge of near) trace(edge.crossing ? crossing : plain, edge, straight);
    context.lineWidth = Math.max(1, 0.7 / scale);
    context.strokeStyle = theme.border;
    context.stroke(plain);
    if (scale > 0.2) this.drawPorts();
    context.strokeStyle = theme.crossing;
    context.lineWidth = Math.max(2.2, 1.4 / scale);
    context.setLineDash([7, 4]);
    context.stroke(crossing);
    context.setLineDash([]);
    const chosen = this.hovered ?? this.cursor;
    if (!chosen) return;
    const lit = new Path2D();
    for (const edge of this.picture!.edges) {
      if (edge.from === chosen || edge.to === chosen) trace(lit, edge, false);
    }
    context.strokeStyle = theme.accent;
    context.lineWidth = Math.max(1.8, 1.2 / scale);
    context.stroke(lit);
  }

  /** Values that very many boxes read: a small stub at each reader. */
  private drawPorts(): void {
    const { context, theme } = this;
    context.fillStyle = theme.dim;
    for (const edge of this.picture!.edges) {
      if (!edge.port) continue;
      const { to } = edge;
      context.fillStyle = edge.crossing ? theme.crossing : theme.border;
      context.fillRect(to.x + to.w - 14, to.y - 6, 6, 6);
    }
  }

  private drawMarks(): void {
    const { context, theme, store, scale } = this;
    const ring = (node: Node | undefined | null, colour: string, size: number, dash: number[]) => {
      if (!node) return;
      const gap = size / scale;
      context.strokeStyle = colour;
      context.lineWidth = size / scale;
      context.setLineDash(dash.map((d) => d / scale));
      context.strokeRect(node.x - gap, node.y - gap, node.w + 2 * gap, node.h + 2 * gap);
      context.setLineDash([]);
    };
    for (const op of this.matches) ring(this.picture!.leafOf[op], theme.crossing, 1.5, []);
    for (const node of this.marked) ring(node, theme.accent, 2, [4, 3]);
    const { current, busy } = store.status;
    if (busy && current >= 0) ring(this.picture!.leafOf[current], theme.text, 2, [3, 3]);
    if (store.selection.op >= 0)
      ring(this.picture!.leafOf[store.selection.op], theme.accent, 2.5, []);
    if (document.activeElement === this.canvas) ring(this.cursor, theme.accent, 3.5, []);
    if (this.marquee) {
      const dpr = devicePixelRatio || 1;
      context.setTransform(dpr, 0, 0, dpr, 0, 0);
      context.strokeStyle = theme.accent;
      context.lineWidth = 1;
      context.strokeRect(this.marquee.x, this.marquee.y, this.marquee.w, this.marquee.h);
    }
  }

  private mapPlace(): { factor: number; x: number; y: number } {
    const { width, height } = this.picture!;
    const factor = Math.min((MAP.w - 8) / width, (MAP.h - 8) / height);
    return { factor, x: (MAP.w - width * factor) / 2, y: (MAP.h - height * factor) / 2 };
  }

  private drawMap(): void {
    const { theme } = this;
    const context = this.map.getContext("2d", { willReadFrequently: true })!;
    const dpr = devicePixelRatio || 1;
    const { factor, x, y } = this.mapPlace();
    if (!this.mapImage) {
      this.mapImage = h("canvas");
      fitCanvas(this.mapImage, MAP.w, MAP.h);
      const image = this.mapImage.getContext("2d", { willReadFrequently: true })!;
      image.setTransform(dpr, 0, 0, dpr, 0, 0);
      image.fillStyle = theme.back;
      image.fillRect(0, 0, MAP.w, MAP.h);
      for (const n of this.picture!.leaves) {
        const fill = this.fillOf(n);
        image.fillStyle = fill === theme.raised ? theme.border : fill;
        image.fillRect(
          x + n.x * factor,
          y + n.y * factor,
          Math.max(1, n.w * factor),
          Math.max(1, n.h * factor),
        );
      }
      for (const n of this.faulty()) {
        image.fillStyle = this.fillOf(n);
        image.fillRect(
          x + n.x * factor - 1,
          y + n.y * factor - 1,
          Math.max(3, n.w * factor),
          Math.max(3, n.h * factor),
        );
      }
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(this.mapImage, 0, 0);
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    context.strokeStyle = theme.accent;
    context.lineWidth = 1.5;
    const left = Math.max(1, x + (-this.left / this.scale) * factor);
    const top = Math.max(1, y + (-this.top / this.scale) * factor);
    const right = Math.min(MAP.w - 1, x + ((this.width - this.left) / this.scale) * factor);
    const bottom = Math.min(MAP.h - 1, y + ((this.height - this.top) / this.scale) * factor);
    context.strokeRect(left, top, Math.max(3, right - left), Math.max(3, bottom - top));
  }
}

function contains(outer: Node | null, inner: Node): boolean {
  let node: Node | null = inner;
  while (node && node !== outer) node = node.parent;
  return outer !== null && node === outer;
}

export function fitCanvas(canvas: HTMLCanvasElement, width: number, height: number): void {
  const dpr = devicePixelRatio || 1;
  canvas.width = Math.round(width * dpr);
  canvas.height = Math.round(height * dpr);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
}

/** Whether an edge passes boxes of its own column and so is led around them. */
function bulge({ from, to }: Edge): number {
  const gap = to.y - from.y - from.h;
  const aside = Math.abs(from.x + from.w / 2 - to.x - to.w / 2);
  return gap > 70 && aside < 80 ? 26 + Math.min(90, gap * 0.07) : 0;
}

function bounds(edge: Edge): { x: number; y: number; w: number; h: number } {
  const { from, to } = edge;
  const ax = from.x + from.w / 2;
  const bx = to.x + to.w / 2;
  const ay = from.y + from.h;
  const x = Math.min(ax, bx);
  const y = Math.min(ay, to.y);
  const out = bulge(edge) ? Math.max(from.w, to.w) / 2 + bulge(edge) : 0;
  return { x, y, w: Math.abs(ax - bx) + out, h: Math.abs(ay - to.y) };
}

function trace(path: Path2D, edge: Edge, straight: boolean): void {
  const { from, to } = edge;
  const ax = from.x + from.w / 2;
  const ay = from.y + from.h;
  const bx = to.x + to.w / 2;
  const by = to.y;
  const out = bulge(edge);
  if (straight) {
    path.moveTo(ax, ay);
    path.lineTo(bx, by);
  } else if (out) {
    const right = Math.max(from.x + from.w, to.x + to.w) + out;
    path.moveTo(from.x + from.w, from.y + from.h / 2);
    path.bezierCurveTo(
      right,
      from.y + from.h / 2,
      right,
      to.y + to.h / 2,
      to.x + to.w,
      to.y + to.h / 2,
    );
  } else {
    const bend = by > ay ? Math.min(60, (by - ay) / 2) : 40;
    path.moveTo(ax, ay);
    path.bezierCurveTo(ax, ay + bend, bx, by - bend, bx, by);
  }
}
