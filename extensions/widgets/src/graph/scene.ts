// What the graph view shows: the model with some scopes open, and what somebody points at.

import { number, plural } from "../format";
import { type Box, Grid } from "../grid";
import { type Edge, type Layout, layout, markCrossings, type Node } from "../layout";
import type { Store } from "../store";
import { bounds } from "./edges";

export class Scene {
  open = new Set<string>();
  picture: Layout | null = null;
  /** Where the keyboard is. */
  cursor: Node | null = null;
  hovered: Node | null = null;
  readonly marked = new Set<Node>();
  /** Operators that the search has found. */
  readonly matches = new Set<number>();
  /** What is being marked, on the canvas. */
  marquee: Box | null = null;
  private nodeGrid = new Grid<Node>(1, 1);
  private edgeGrid = new Grid<Edge>(1, 1);

  constructor(readonly store: Store) {}

  /** Lay out what is open now. */
  rebuild(): void {
    const { store } = this;
    const picture = layout(store, this.open);
    this.picture = picture;
    this.countCrossings();
    this.nodeGrid = new Grid(picture.width, picture.height);
    for (const node of picture.nodes) this.nodeGrid.add(node, node);
    this.edgeGrid = new Grid(picture.width, picture.height);
    for (const edge of picture.edges) if (!edge.port) this.edgeGrid.add(edge, bounds(edge));
    this.marked.clear();
    this.hovered = null;
    this.cursor = this.nodeOf(store.selection.op);
  }

  countCrossings(): void {
    if (this.picture) markCrossings(this.picture, this.store.edges, this.store.placement);
  }

  /** Note that a scope is open or closed; whether that changes anything. */
  setOpen(node: Node, open: boolean): boolean {
    if (!node.scope || node.open === open || node.scope.parent === null) return false;
    if (open) this.open.add(node.scope.path);
    else this.open.delete(node.scope.path);
    return true;
  }

  setAllOpen(open: boolean): void {
    this.open = new Set(open ? this.store.tree.byPath.keys() : []);
  }

  /** Note that every scope around an operator is open; whether that changes anything. */
  openAround(op: number): boolean {
    const home = this.store.tree.home[op]!;
    let changed = false;
    for (let s = home.ops.length === 1 ? home.parent : home; s?.parent; s = s.parent) {
      changed ||= !this.open.has(s.path);
      this.open.add(s.path);
    }
    return changed;
  }

  /** The box that stands for an operator. */
  nodeOf(op: number): Node | null {
    return (op >= 0 && this.picture?.leafOf[op]) || null;
  }

  ofScope(path: string): Node | undefined {
    return this.picture?.nodes.find((n) => n.scope?.path === path);
  }

  /** The innermost box at a point of the plane. */
  at({ x, y }: Box): Node | null {
    let hit: Node | null = null;
    for (const n of this.nodeGrid.near({ x, y, w: 0, h: 0 })) {
      const inside = x >= n.x && x <= n.x + n.w && y >= n.y && y <= n.y + n.h;
      if (inside && (!hit || n.depth > hit.depth)) hit = n;
    }
    return hit;
  }

  nodesNear(box: Box): Set<Node> {
    return this.nodeGrid.near(box);
  }

  edgesNear(box: Box): Set<Edge> {
    return this.edgeGrid.near(box);
  }

  /** Mark the closed boxes within a part of the plane, and no others. */
  mark(box: Box): void {
    this.marked.clear();
    for (const n of this.nodeGrid.near(box)) {
      const across = n.x >= box.x && n.x + n.w <= box.x + box.w;
      const down = n.y >= box.y && n.y + n.h <= box.y + box.h;
      if (across && down && !n.open) this.marked.add(n);
    }
  }

  /** The operators of what is marked; of the cursor's box, if nothing is. */
  chosen(): number[] {
    const nodes = this.marked.size ? [...this.marked] : this.cursor ? [this.cursor] : [];
    return nodes.flatMap((n) => (n.scope ? n.scope.ops : [n.op]));
  }

  find(text: string): void {
    this.matches.clear();
    if (!text) return;
    this.store.ops.forEach((id, op) => id.toLowerCase().includes(text) && this.matches.add(op));
  }

  /** The worst verdict in a box. */
  verdictOf(node: Node): number {
    const { store } = this;
    if (!node.scope) return store.worst[node.op]!;
    let worst = -1;
    node.scope.verdicts.forEach((count, k) => {
      if (!count) return;
      if (worst < 0 || store.verdicts[k]!.severity < store.verdicts[worst]!.severity) worst = k;
    });
    return worst;
  }

  shareOnTarget(node: Node): number {
    if (!node.scope) return this.store.placement[node.op]!;
    return node.scope.onTarget / Math.max(1, node.scope.ops.length);
  }

  faulty(): Node[] {
    return this.picture!.leaves.filter((n) => this.store.verdicts[this.verdictOf(n)]?.fault);
  }

  /** A box in words. */
  describe(node: Node): string {
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
}
