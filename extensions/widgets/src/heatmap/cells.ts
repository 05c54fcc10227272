// The numbers behind a heatmap: the worst of what meets in each cell, whose it is, and whether it is
// beyond the limit; `tapml_nb/report/cells.py` does the same, and knows of more axes.

import { plural } from "../format";
import type { Metric } from "../protocol";
import type { Store } from "../store";

export const METRICS: Metric[] = [
  "ratio",
  "max_abs",
  "max_rel",
  "max_ulp",
  "rmse",
  "snr_db",
  "acc_ratio",
  "gain",
];

/** Axes that only Python can tell. */
export const ASKED = ["position", "head", "dtype", "device"];

/** Axes along which neighbours belong together. */
const RANGED = ["step", "position", "head"];

/** Axes without an order of their own. */
const UNORDERED = ["kind", "scope", "dtype", "device"];

const NOUNS: Record<string, string> = { op: "operator", position: "token" };

export interface Choice {
  rows: string;
  cols: string;
  /** Only rows and columns that hold something beyond the limit. */
  beyond: boolean;
  /** With rows and columns of views alone. */
  views: boolean;
  order: "" | "model" | "worst";
}

export interface Cells {
  rows: string;
  cols: string;
  rowNames: string[];
  colNames: string[];
  /** By row and column; NaN where there is none. */
  values: Float32Array;
  beyond: Uint8Array;
  /** The number of the operator that each is of, or -1. */
  ops: Int32Array;
  steps: Int32Array;
  /** What is not to be seen here, and why. */
  notes: string[];
}

export const kindOf = (axis: string) => axis.split(":")[0]!;

export function nounOf(axis: string): string {
  const kind = kindOf(axis);
  return NOUNS[kind] ?? kind;
}

/** Gather what a page knows itself. */
export function gather(store: Store, choice: Choice): Cells {
  const { rows, cols } = choice;
  const metric = cols === "metric";
  const [rowNames, rowOf] = axisOf(store, rows);
  const [colNames, colOf] = metric ? [METRICS as string[], () => 0] : axisOf(store, cols);
  const width = colNames.length;
  const size = rowNames.length * width;
  const values = new Float32Array(size).fill(NaN);
  const beyond = new Uint8Array(size);
  const ops = new Int32Array(size).fill(-1);
  const steps = new Int32Array(size);
  const computes = new Uint8Array(size);
  const n = store.ops.length;
  const put = (
    at: number,
    value: number,
    op: number,
    step: number,
    broken: boolean,
    less = false,
  ) => {
    const known = values[at]!;
    const more = Number.isNaN(known)
      ? !Number.isNaN(value) || broken
      : less
        ? value < known
        : value > known;
    if (more) {
      if (!Number.isNaN(value)) values[at] = value;
      ops[at] = op;
      steps[at] = step;
    }
    if (broken) beyond[at] = 1;
  };
  for (let op = 0; op < n; op++) {
    for (let step = 0; step < store.steps; step++) {
      const at = step * n + op;
      const verdict = store.verdicts[store.verdict[at]!]!;
      const here = rowOf(op, step) * width + colOf(op, step);
      const working = verdict.name === "SKIPPED" ? 0 : 1;
      if (metric)
        METRICS.forEach((name, m) => {
          const broken = m === 0 && verdict.broken;
          put(here + m, store.metrics[name][at]!, op, step, broken, name === "snr_db");
          computes[here + m]! |= working;
        });
      else {
        put(here, store.metrics.ratio[at]!, op, step, verdict.broken);
        computes[here]! |= working;
      }
    }
  }
  const found = { rows, cols, rowNames, colNames, values, beyond, ops, steps, notes: [] };
  return chosen(found, computes, choice);
}

/** The names along an axis, and which of them a call belongs to. */
function axisOf(
  store: Store,
  axis: string,
): [names: string[], of: (op: number, step: number) => number] {
  if (axis === "step") return [[...Array(store.steps).keys()].map(String), (_, step) => step];
  if (axis === "layer")
    return [store.layers.map((layer) => layer || "(model)"), (op) => store.layerOf[op]!];
  if (axis === "kind") return [store.kinds, (op) => store.kindOf[op]!];
  if (axis === "op") return [store.ops, (op) => op];
  const depth = Number(axis.split(":")[1] ?? Infinity);
  const known = new Map<string, number>();
  const places = store.ops.map((_, op) => {
    const path = store.tree.home[op]!.path.split(".").slice(0, depth).join(".") || "(model)";
    if (!known.has(path)) known.set(path, known.size);
    return known.get(path)!;
  });
  return [[...known.keys()], (op) => places[op]!];
}

/** What of all cells is to be seen, in which order. */
function chosen(all: Cells, computes: Uint8Array, choice: Choice): Cells {
  const left: string[] = [];
  let found = all;
  const shown = (side: "rows" | "cols"): number[] => {
    const count = side === "rows" ? all.rowNames.length : all.colNames.length;
    const everything = [...Array(count).keys()];
    if (all[side] === "metric" || RANGED.includes(all[side])) return everything;
    const idle = everything.map(
      (k) => !choice.views && !lineOf(all, side, k).some((at) => computes[at]),
    );
    const known = everything.map((k) =>
      lineOf(found, side, k).some((at) => !Number.isNaN(found.values[at]!) || found.beyond[at]),
    );
    const silent = everything.map((k) => !known[k] && !idle[k] && known.includes(true));
    const say = (which: boolean[], why: string) => {
      const count = which.filter(Boolean).length;
      if (count) left.push(`${plural(count, nounOf(all[side]))} ${why}`);
    };
    say(idle, "of views only");
    say(silent, "without a number");
    return everything.filter((k) => !idle[k] && !silent[k]);
  };
  // Columns first: what is left of a row is then what is seen of it.
  found = taken(all, [...all.rowNames.keys()], shown("cols"));
  found = taken(found, shown("rows"), [...found.colNames.keys()]);
  if (choice.beyond) {
    const marked = (side: "rows" | "cols", count: number) =>
      [...Array(count).keys()].filter(
        (k) => found[side] === "metric" || lineOf(found, side, k).some((at) => found.beyond[at]),
      );
    found = taken(
      found,
      marked("rows", found.rowNames.length),
      marked("cols", found.colNames.length),
    );
  }
  const notes = left.length ? [`left out: ${left.join(", ")}`] : [];
  const worst = choice.order === "worst";
  const sorted = worst || (!choice.order && UNORDERED.includes(kindOf(found.cols)));
  const rows = ordered(found, "rows", worst);
  return {
    ...taken(found, rows, ordered(found, "cols", sorted && found.cols !== "metric")),
    notes,
  };
}

function ordered(cells: Cells, side: "rows" | "cols", byWorst: boolean): number[] {
  const count = side === "rows" ? cells.rowNames.length : cells.colNames.length;
  const all = [...Array(count).keys()];
  if (!byWorst) return all;
  const bad = all.map((k) => badness(cells, side, k));
  // Array.sort is stable; infinities have no difference.
  return all.sort((a, b) => (bad[a] === bad[b] ? 0 : bad[b]! - bad[a]!));
}

/** How bad a row or column is: a crash is worse than any number, nothing known better. */
export function badness(cells: Cells, side: "rows" | "cols", k: number): number {
  let worst = -1;
  for (const at of lineOf(cells, side, k)) {
    if (cells.cols === "metric" && cells.colNames[at % cells.colNames.length] !== "ratio") continue;
    const value = cells.values[at]!;
    const bad = Number.isNaN(value) ? (cells.beyond[at] ? Infinity : -1) : value;
    if (bad > worst) worst = bad;
  }
  return worst;
}

/** Where the cells of a row or column are. */
function lineOf(cells: Cells, side: "rows" | "cols", k: number): number[] {
  const width = cells.colNames.length;
  return side === "rows"
    ? cells.colNames.map((_, c) => k * width + c)
    : cells.rowNames.map((_, r) => r * width + k);
}

/** Some rows and columns, in this order. */
export function taken(cells: Cells, rows: readonly number[], cols: readonly number[]): Cells {
  const width = cells.colNames.length;
  const from = rows.flatMap((r) => cols.map((c) => r * width + c));
  return {
    ...cells,
    rowNames: rows.map((r) => cells.rowNames[r]!),
    colNames: cols.map((c) => cells.colNames[c]!),
    values: Float32Array.from(from, (at) => cells.values[at]!),
    beyond: Uint8Array.from(from, (at) => cells.beyond[at]!),
    ops: Int32Array.from(from, (at) => cells.ops[at]!),
    steps: Int32Array.from(from, (at) => cells.steps[at]!),
  };
}
