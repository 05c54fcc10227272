// Layout of the visible part of the scope tree: layered, in trace order, linear in its size.
//
// An open scope is a frame around its children; each frame is laid out on its own and then stands
// as one box in its parent.  Within a frame, a box's row is its longest path from a source, and
// boxes of a row are pulled towards what they read.  A tall frame is folded into columns.

import type { Scope } from "./scopes";
import type { Store } from "./store";

export interface Node {
  /** The scope, or null for an operator. */
  scope: Scope | null;
  /** The operator, or the scope's first. */
  op: number;
  open: boolean;
  parent: Node | null;
  children: Node[];
  depth: number;
  label: string;
  x: number;
  y: number;
  w: number;
  h: number;
}

export interface Edge {
  from: Node;
  to: Node;
  /** Read in so many places that it is drawn as a stub until somebody asks. */
  port: boolean;
  /** How many of the tensors it stands for cross between source and target. */
  crossing: number;
}

export interface Layout {
  root: Node;
  /** Every visible node, parents before children, in trace order. */
  nodes: Node[];
  /** The visible nodes without open ones: what stands for each operator. */
  leaves: Node[];
  leafOf: Node[];
  edges: Edge[];
  /** The edge that stands for each pair of `store.edges`, or -1. */
  edgeOf: Int32Array;
  width: number;
  height: number;
}

export const OP_HEIGHT = 26;
export const SCOPE_HEIGHT = 42;
export const HEADER = 24;
const PADDING = 12;
const GAP_X = 18;
const GAP_Y = 26;
const CHARACTER = 6.5;
const MANY_READERS = 8;
const ASPECT = 1.7;

export function layout(store: Store, open: ReadonlySet<string>): Layout {
  const nodes: Node[] = [];
  const leaves: Node[] = [];
  const leafOf: Node[] = new Array(store.ops.length);
  const build = (item: Scope | number, parent: Node | null): Node => {
    let label = "";
    if (typeof item !== "number" && item.parent && item.ops.length === 1) {
      label = `${item.name}/`; // a module of one operator stands as that operator
      item = item.ops[0]!;
    }
    const scope = typeof item === "number" ? null : item;
    const node: Node = {
      scope,
      op: scope ? (scope.ops[0] ?? -1) : (item as number),
      open: !!scope && (scope.parent === null || open.has(scope.path)),
      parent,
      children: [],
      depth: parent ? parent.depth + 1 : 0,
      label: scope ? scope.name || store.name : label + operation(store.ops[item as number]!),
      x: 0,
      y: 0,
      w: 0,
      h: 0,
    };
    nodes.push(node);
    if (node.open) {
      node.children = scope!.children.map((child) => build(child, node));
    } else {
      leaves.push(node);
      if (scope) for (const op of scope.ops) leafOf[op] = node;
      else leafOf[item as number] = node;
    }
    return node;
  };
  const root = build(store.tree.root, null);
  const [edges, edgeOf] = visibleEdges(store.edges, leafOf, leaves);
  place(root, siblingEdges(edges));
  shift(root, 0, 0);
  return { root, nodes, leaves, leafOf, edges, edgeOf, width: root.w, height: root.h };
}

/** The part of an operator's id behind its scope. */
export function operation(id: string): string {
  return id.slice(id.lastIndexOf("/") + 1);
}

function visibleEdges(pairs: Uint32Array, leafOf: Node[], leaves: Node[]): [Edge[], Int32Array] {
  const number = new Map(leaves.map((leaf, k) => [leaf, k]));
  const known = new Map<number, number>();
  const edges: Edge[] = [];
  const edgeOf = new Int32Array(pairs.length / 2).fill(-1);
  const readers = new Map<Node, number>();
  for (let k = 0; k < edgeOf.length; k++) {
    const from = leafOf[pairs[2 * k]!]!;
    const to = leafOf[pairs[2 * k + 1]!]!;
    if (from === to) continue;
    const key = number.get(from)! * leaves.length + number.get(to)!;
    let edge = known.get(key);
    if (edge === undefined) {
      known.set(key, (edge = edges.push({ from, to, port: false, crossing: 0 }) - 1));
      readers.set(from, (readers.get(from) ?? 0) + 1);
    }
    edgeOf[k] = edge;
  }
  for (const edge of edges) edge.port = readers.get(edge.from)! > MANY_READERS;
  return [edges, edgeOf];
}

/** Count the tensors of each edge that cross between source and target. */
export function markCrossings(picture: Layout, pairs: Uint32Array, placement: Uint8Array): void {
  for (const edge of picture.edges) edge.crossing = 0;
  picture.edgeOf.forEach((edge, k) => {
    if (edge >= 0 && placement[pairs[2 * k]!] !== placement[pairs[2 * k + 1]!]) {
      picture.edges[edge]!.crossing++;
    }
  });
}

/** Edges lifted to where their ends are siblings, by parent. */
function siblingEdges(edges: Edge[]): Map<Node, [Node, Node][]> {
  const lifted = new Map<Node, [Node, Node][]>();
  for (const { from, to } of edges) {
    let a = from;
    let b = to;
    while (a.depth > b.depth) a = a.parent!;
    while (b.depth > a.depth) b = b.parent!;
    while (a.parent !== b.parent) {
      a = a.parent!;
      b = b.parent!;
    }
    if (a === b) continue;
    let list = lifted.get(a.parent!);
    if (!list) lifted.set(a.parent!, (list = []));
    list.push([a, b]);
  }
  return lifted;
}

/** Give a node its size, and its children their places within it. */
function place(node: Node, lifted: Map<Node, [Node, Node][]>): void {
  if (!node.open) {
    const text = node.label.length * CHARACTER;
    const wanted = node.scope ? 1.14 * text + 56 : text + 32; // names of scopes are bold
    node.w = Math.round(Math.min(230, Math.max(node.scope ? 130 : 74, wanted)));
    node.h = node.scope ? SCOPE_HEIGHT : OP_HEIGHT;
    return;
  }
  for (const child of node.children) place(child, lifted);
  const rows = layered(node.children, lifted.get(node) ?? []);
  const heights = rows.map((row) => Math.max(...row.map((n) => n.h)));
  const total = heights.reduce((sum, height) => sum + height + GAP_Y, 0);
  const widest = Math.max(...rows.map((row) => extent(row)[1] - extent(row)[0]), 1);
  const columns =
    rows.length < 8 ? 1 : Math.max(1, Math.round(Math.sqrt(total / (widest + 3 * GAP_X) / ASPECT)));
  let left = PADDING;
  let bottom = 0;
  for (let begin = 0; begin < rows.length; ) {
    let end = begin;
    let y = HEADER + PADDING;
    while (
      end < rows.length &&
      (end === begin || y + heights[end]! <= total / columns + HEADER + PADDING)
    ) {
      for (const n of rows[end]!) n.y = y + (heights[end]! - n.h) / 2;
      y += heights[end]! + GAP_Y;
      end++;
    }
    const column = rows.slice(begin, end).flat();
    const [low, high] = extent(column);
    for (const n of column) n.x += left - low;
    left += high - low + 3 * GAP_X;
    bottom = Math.max(bottom, y - GAP_Y);
    begin = end;
  }
  node.w = Math.max(left - 3 * GAP_X + PADDING, node.label.length * CHARACTER + 120);
  node.h = Math.max(bottom + PADDING, HEADER + 2 * PADDING);
}

function extent(nodes: readonly Node[]): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (const n of nodes) {
    if (n.x < low) low = n.x;
    if (n.x + n.w > high) high = n.x + n.w;
  }
  return [low, high];
}

/** Rows of siblings by longest path; edges against trace order do not count. */
function layered(children: Node[], edges: [Node, Node][]): Node[][] {
  const index = new Map(children.map((child, k) => [child, k]));
  const before: number[][] = children.map(() => []);
  const after: number[][] = children.map(() => []);
  for (const [from, to] of edges) {
    const a = index.get(from)!;
    const b = index.get(to)!;
    if (a < b) {
      before[b]!.push(a);
      after[a]!.push(b);
    }
  }
  const rank = children.map(() => 0);
  for (let k = 0; k < children.length; k++) {
    for (const p of before[k]!) rank[k] = Math.max(rank[k]!, rank[p]! + 1);
  }
  // Sources come down to just above their first reader.
  for (let k = children.length - 1; k >= 0; k--) {
    if (!before[k]!.length && after[k]!.length) {
      rank[k] = Math.max(0, after[k]!.reduce((low, v) => Math.min(low, rank[v]!), Infinity) - 1);
    }
  }
  const rows: number[][] = [];
  children.forEach((_, k) => (rows[rank[k]!] ??= []).push(k));
  const filled = rows.filter((row) => row?.length);
  const centre = new Float64Array(children.length);
  const pull = (row: number[], neighbours: number[][]) => {
    const wish = new Map(
      row.map((k) => {
        const near = neighbours[k]!;
        let sum = 0;
        for (const n of near) sum += centre[n]!;
        return [k, near.length ? sum / near.length : centre[k]!];
      }),
    );
    row.sort((a, b) => wish.get(a)! - wish.get(b)!);
    let right = -Infinity;
    let off = 0;
    for (const k of row) {
      const half = children[k]!.w / 2;
      centre[k] = Math.max(wish.get(k)!, right + GAP_X + half);
      right = centre[k]! + half;
      off += wish.get(k)! - centre[k]!;
    }
    for (const k of row) centre[k] = centre[k]! + off / row.length;
  };
  for (const row of filled) pull(row, before);
  for (const row of [...filled].reverse()) pull(row, after);
  for (const row of filled) pull(row, before);
  children.forEach((child, k) => (child.x = centre[k]! - child.w / 2));
  return filled.map((row) => row.map((k) => children[k]!));
}

function shift(node: Node, x: number, y: number): void {
  node.x += x;
  node.y += y;
  for (const child of node.children) shift(child, node.x, node.y);
}

/** What to open at first: whatever holds most of the model, and rows of layers, while it is small. */
export function openAtFirst(store: Store, boxes: number): Set<string> {
  const open = new Set<string>();
  let visible = store.tree.root.children.length;
  const visit = (scope: Scope) => {
    for (const child of scope.children) {
      if (typeof child === "number" || child.ops.length < 2) continue;
      const inner = child.children.length;
      const most = child.ops.length > 0.5 * store.ops.length;
      const layers = child.children.every((c) => typeof c !== "number" && /^\d+$/.test(c.name));
      if (!(most || layers) || visible + inner > boxes) continue;
      open.add(child.path);
      visible += inner - 1;
      if (most) visit(child);
    }
  };
  visit(store.tree.root);
  return open;
}
