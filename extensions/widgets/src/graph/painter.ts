// Draws a scene on a canvas: what is in view, in as much detail as its scale can show.

import { inkOn, mix, strength, type Theme, themeOf } from "../colours";
import { h } from "../dom";
import { plural, shorten } from "../format";
import { type Edge, HEADER, type Node } from "../layout";
import { trace } from "./edges";
import type { Scene } from "./scene";
import type { Viewport } from "./viewport";

export const READABLE = 0.42; // scale from which labels are drawn
const FAR = 0.12; // scale below which one image stands for everything
const MOST_PIXELS = 4096; // of its sides
const MANY_EDGES = 2500; // more are drawn straight

export class Painter {
  theme!: Theme;
  private context: CanvasRenderingContext2D;
  private hatch!: CanvasPattern;
  /** Colours of the boxes as the results are now. */
  private fills = new Map<Node, string>();
  /** The whole graph from far away, and what must not vanish there: faulty boxes. */
  private far: { image: HTMLCanvasElement; faults: Node[] } | null = null;

  constructor(
    private canvas: HTMLCanvasElement,
    private scene: Scene,
    private viewport: Viewport,
  ) {
    this.context = canvas.getContext("2d", { willReadFrequently: true })!;
  }

  /** Read the page's theme. */
  retheme(): void {
    this.theme = themeOf(this.canvas);
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
  }

  /** Results, layout or theme have changed. */
  forget(): void {
    this.fills.clear();
    this.far = null;
  }

  fillOf(node: Node): string {
    let fill = this.fills.get(node);
    if (fill === undefined) this.fills.set(node, (fill = this.fillFor(node)));
    return fill;
  }

  private fillFor(node: Node): string {
    const { theme } = this;
    const { store } = this.scene;
    const info = store.verdicts[this.scene.verdictOf(node)];
    if (!info || info.name === "UNKNOWN") return theme.raised;
    if (info.name === "PASS") {
      const ratio = node.scope ? 0 : store.metric("ratio", node.op);
      return mix(info.colour, theme.back, strength(ratio, store.limit));
    }
    return mix(info.colour, theme.back, info.fault ? 0.92 : 0.5);
  }

  draw(): void {
    const { context, scene, theme } = this;
    const { width, height, scale, left, top } = this.viewport;
    const dpr = devicePixelRatio || 1;
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    context.fillStyle = theme.back;
    context.fillRect(0, 0, width, height);
    context.setTransform(dpr * scale, 0, 0, dpr * scale, dpr * left, dpr * top);
    if (scale < FAR) {
      this.drawFar();
    } else {
      const view = this.viewport.box;
      const frames: Node[] = [];
      const leaves: Node[] = [];
      for (const node of scene.nodesNear(view)) {
        if (!node.open) leaves.push(node);
        else if (node.parent) frames.push(node);
      }
      frames.sort((a, b) => a.depth - b.depth);
      for (const node of frames) this.drawFrame(context, node, scale);
      this.drawEdges(scene.edgesNear(view));
      for (const node of leaves) this.drawLeaf(node);
    }
    this.drawMarks();
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
    context.font = `600 12px ${theme.font}`;
    context.textBaseline = "middle";
    const label = shorten(node.label, Math.floor((node.w - 30) / 7));
    context.fillText("▾", node.x + 7, node.y + HEADER / 2 + 2);
    context.fillText(label, node.x + 22, node.y + HEADER / 2 + 2);
  }

  /** Far away: one image of everything, made when something has changed. */
  private drawFar(): void {
    const { context } = this;
    const { width, height } = this.scene.picture!;
    const { image, faults } = (this.far ??= this.imageFromFar());
    context.drawImage(image, 0, 0, width, height);
    const least = 4 / this.viewport.scale;
    for (const n of faults) {
      context.fillStyle = this.fillOf(n);
      context.fillRect(n.x, n.y, Math.max(n.w, least), Math.max(n.h, least));
    }
  }

  private imageFromFar(): { image: HTMLCanvasElement; faults: Node[] } {
    const { width, height, nodes, leaves } = this.scene.picture!;
    const scale = Math.min(FAR, MOST_PIXELS / width, MOST_PIXELS / height);
    const size = { width: Math.ceil(width * scale), height: Math.ceil(height * scale) };
    const image = h("canvas", size);
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
    return { image, faults: this.scene.faulty() };
  }

  private drawLeaf(node: Node): void {
    const { context, theme, scene } = this;
    const { scale } = this.viewport;
    const { verdicts } = scene.store;
    const fill = this.fillOf(node);
    context.fillStyle = fill;
    context.fillRect(node.x, node.y, node.w, node.h);
    const share = scene.shareOnTarget(node);
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
    const ink = inkOn(fill);
    /** Text that stays readable over the hatch. */
    const write = (text: string, x: number, y: number) => {
      if (share > 0) {
        context.strokeStyle = fill;
        context.lineWidth = 4;
        context.lineJoin = "round";
        context.strokeText(text, x, y);
      }
      context.fillStyle = ink;
      context.fillText(text, x, y);
    };
    context.fillStyle = ink;
    context.textBaseline = "middle";
    const room = Math.floor(node.scope ? (node.w - 46) / 7.4 : (node.w - 28) / 6.3);
    const label = shorten(node.label, room);
    const middle = node.y + (node.scope ? 14 : node.h / 2 + 1);
    if (node.scope) {
      context.font = `600 12px ${theme.font}`;
      context.fillText("▸", node.x + 8, middle);
      write(label, node.x + 22, middle);
      context.font = `11px ${theme.font}`;
      const count = (what: "broken" | "missing") =>
        node.scope!.verdicts.reduce((n, c, k) => n + (verdicts[k]![what] ? c : 0), 0);
      const [broken, missing] = [count("broken"), count("missing")];
      const told = [broken && plural(broken, "culprit"), missing && `${missing} missing`];
      const shown = told.filter(Boolean).join(", ") || `${node.scope.ops.length} ops`;
      write(shown, node.x + 22, node.y + 30);
    } else {
      context.font = `11px ${theme.font}`;
      write(label, node.x + 8, middle);
    }
    context.font = `700 12px ${theme.font}`;
    context.textAlign = "right";
    write(verdicts[scene.verdictOf(node)]!.symbol, node.x + node.w - 7, middle);
    context.textAlign = "left";
  }

  private drawEdges(near: Set<Edge>): void {
    const { context, theme, scene } = this;
    const { scale } = this.viewport;
    const plain = new Path2D();
    const crossing = new Path2D();
    const straight = near.size > MANY_EDGES;
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
    const chosen = scene.hovered ?? scene.cursor;
    if (!chosen) return;
    const lit = new Path2D();
    for (const edge of scene.picture!.edges) {
      if (edge.from === chosen || edge.to === chosen) trace(lit, edge, false);
    }
    context.strokeStyle = theme.accent;
    context.lineWidth = Math.max(1.8, 1.2 / scale);
    context.stroke(lit);
  }

  /** Values that very many boxes read: a small stub at each reader. */
  private drawPorts(): void {
    const { context, theme } = this;
    for (const edge of this.scene.picture!.edges) {
      if (!edge.port) continue;
      const { to } = edge;
      context.fillStyle = edge.crossing ? theme.crossing : theme.border;
      context.fillRect(to.x + to.w - 14, to.y - 6, 6, 6);
    }
  }

  private drawMarks(): void {
    const { context, theme, scene } = this;
    const { scale } = this.viewport;
    const { store, marquee } = scene;
    const ring = (node: Node | null, colour: string, size: number, dash: number[] = []) => {
      if (!node) return;
      const gap = size / scale;
      context.strokeStyle = colour;
      context.lineWidth = gap;
      context.setLineDash(dash.map((d) => d / scale));
      context.strokeRect(node.x - gap, node.y - gap, node.w + 2 * gap, node.h + 2 * gap);
      context.setLineDash([]);
    };
    for (const op of scene.matches) ring(scene.nodeOf(op), theme.crossing, 1.5);
    for (const node of scene.marked) ring(node, theme.accent, 2, [4, 3]);
    const { current, busy } = store.status;
    if (busy) ring(scene.nodeOf(current), theme.text, 2, [3, 3]);
    ring(scene.nodeOf(store.selection.op), theme.accent, 2.5);
    if (document.activeElement === this.canvas) ring(scene.cursor, theme.accent, 3.5);
    if (!marquee) return;
    const dpr = devicePixelRatio || 1;
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    context.strokeStyle = theme.accent;
    context.lineWidth = 1;
    context.strokeRect(marquee.x, marquee.y, marquee.w, marquee.h);
  }
}
