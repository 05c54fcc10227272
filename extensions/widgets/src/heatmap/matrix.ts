// What a heatmap shows: layers by metric, kind, step or token, and a tensor by element, as numbers,
// shades and words.

import { number } from "../format";
import type { TensorAnswer } from "../messages";
import type { Metric } from "../protocol";
import type { Store } from "../store";

const METRICS: Metric[] = [
  "ratio",
  "max_abs",
  "max_rel",
  "max_ulp",
  "rmse",
  "snr_db",
  "acc_ratio",
  "gain",
];
/** A picture of numbers, whatever they mean. */
export interface Matrix {
  rows: number;
  cols: number;
  values: Float32Array;
  /** 0 to 1 by cell, NaN where there is nothing, infinite where there is no finite number. */
  shade: Float32Array;
  signed: boolean;
  /** Texts along the colour bar, each with its place from 0 to 1. */
  legend: [string, number][];
  rowLabels: string[] | null;
  colLabels: string[] | null;
  name: (row: number, col: number) => string;
  pick: (row: number, col: number) => void;
}

/** Every layer by metric, by kind of operator or by step: the worst of each cell. */
export function byLayer(store: Store, mode: "metric" | "kind" | "step"): Matrix {
  const n = store.ops.length;
  const names =
    mode === "metric"
      ? METRICS
      : mode === "kind"
        ? store.kinds
        : [...Array(store.steps).keys()].map(String);
  const rows = store.layers.length;
  let cols = names.length;
  let labels: string[] = [...names];
  let values = new Float32Array(rows * cols).fill(NaN);
  const worst = new Int32Array(rows * cols).fill(-1);
  const put = (at: number, value: number, op: number, least = false) => {
    const known = values[at]!;
    if (Number.isNaN(value) || (!Number.isNaN(known) && (least ? value >= known : value <= known)))
      return;
    values[at] = value;
    worst[at] = op;
  };
  for (let op = 0; op < n; op++) {
    const row = store.layerOf[op]! * cols;
    for (let step = 0; step < store.steps; step++) {
      const at = step * n + op;
      if (mode === "kind") put(row + store.kindOf[op]!, store.metrics.ratio[at]!, op);
      else if (mode === "step") put(row + step, store.metrics.ratio[at]!, op);
      else
        METRICS.forEach((metric, m) =>
          put(row + m, store.metrics[metric][at]!, op, metric === "snr_db"),
        );
    }
  }
  let used = [...Array(cols).keys()];
  if (mode === "kind")
    used = used.filter((c) => [...Array(rows).keys()].some((r) => worst[r * cols + c]! >= 0));
  const packed = new Float32Array(rows * used.length);
  const ops = new Int32Array(rows * used.length);
  for (let r = 0; r < rows; r++) {
    used.forEach((c, k) => {
      packed[r * used.length + k] = values[r * cols + c]!;
      ops[r * used.length + k] = worst[r * cols + c]!;
    });
  }
  labels = used.map((c) => labels[c]!.replace("aten.", ""));
  values = packed;
  cols = used.length;
  const layers = store.layers.map((layer) => layer || "(model)");
  const shade =
    mode === "metric" ? byColumn(values, rows, cols) : byLogarithm(values, 1e-2, 100 * store.limit);
  return {
    rows,
    cols,
    values,
    shade,
    signed: false,
    legend:
      mode === "metric"
        ? [
            ["best of its column", 0],
            ["worst of its column", 1],
          ]
        : floors(store.limit),
    rowLabels: layers,
    colLabels: labels,
    name: (r, c) => {
      const op = ops[r * cols + c]!;
      return `${layers[r]}, ${labels[c]}: ${number(values[r * cols + c]!)}${op >= 0 ? `\nworst: ${store.ops[op]}` : ""}`;
    },
    pick: (r, c) => {
      const op = ops[r * cols + c]!;
      if (op >= 0) store.reveal(op, store.worstStep(op));
    },
  };
}

/** Every layer by token, step after step: the worst ratio of its operators, and whose it is. */
export function byToken(
  store: Store,
  lengths: readonly number[],
  values: Float32Array,
  ops: Int32Array,
): Matrix {
  const layers = store.layers.map((layer) => layer || "(model)");
  const tokens = lengths.flatMap((length, step) =>
    [...Array(length).keys()].map((position) => ({ step, position })),
  );
  const labels = tokens.map(({ step, position }) =>
    store.steps > 1 ? `${step}:${position}` : String(position),
  );
  const cols = tokens.length;
  return {
    rows: layers.length,
    cols,
    values,
    shade: byLogarithm(values, 1e-2, 100 * store.limit),
    signed: false,
    legend: floors(store.limit),
    rowLabels: layers,
    colLabels: labels,
    name: (r, c) => {
      const op = ops[r * cols + c]!;
      const floorsOff = `${number(values[r * cols + c]!)} noise floors`;
      return `${layers[r]}, position ${labels[c]}: ${floorsOff}${op >= 0 ? `\n${store.ops[op]}` : ""}`;
    },
    pick: (r, c) => {
      const op = ops[r * cols + c]!;
      if (op >= 0) store.reveal(op, tokens[c]!.step);
    },
  };
}

/** The legend of a scale from 0.01 noise floors to a hundred times the limit. */
function floors(limit: number): [string, number][] {
  const most = 100 * limit;
  const at = (ratio: number) => Math.log10(ratio / 0.01) / Math.log10(most / 0.01);
  return [
    ["0.01 floors", 0],
    ["1", at(1)],
    [`${limit} (limit)`, at(limit)],
    [`${most}+`, 1],
  ];
}

/** Two axes of a tensor; `zoom` shows a range of its cells. */
export function ofTensor(
  reply: TensorAnswer,
  values: Float32Array,
  which: string,
  zoom: (r0: number, r1: number, c0: number, c1: number) => void,
): Matrix {
  const [top, bottom, left, right] = reply.window;
  const { rows, cols } = reply;
  let largest = 0;
  for (const value of values)
    if (Number.isFinite(value) && Math.abs(value) > largest) largest = Math.abs(value);
  const signed = which !== "difference";
  const least = largest * 1e-6;
  const shade = new Float32Array(values.length);
  values.forEach((value, k) => {
    if (!Number.isFinite(value)) shade[k] = Infinity;
    else if (!largest) shade[k] = signed ? 0.5 : 0;
    else if (signed) shade[k] = (value / largest + 1) / 2;
    else shade[k] = Math.max(0, 1 + Math.log10(Math.max(Math.abs(value), least) / largest) / 6);
  });
  const range = (begin: number, end: number, count: number, k: number): [number, number] => {
    const from = begin + Math.floor((k * (end - begin)) / count);
    return [from, Math.max(from + 1, begin + Math.floor(((k + 1) * (end - begin)) / count))];
  };
  const span = ([a, b]: [number, number]) => (b - a > 1 ? `${a}…${b - 1}` : String(a));
  return {
    rows,
    cols,
    values,
    shade,
    signed,
    legend: !largest
      ? [["all zero", 0]]
      : [
          [signed ? number(-largest) : `≤ ${number(least)}`, 0],
          [signed ? "0" : number(largest * 1e-3), 0.5],
          [number(largest), 1],
        ],
    rowLabels: null,
    colLabels: null,
    name: (r, c) => {
      const at = `[${span(range(top, bottom, rows, r))}, ${span(range(left, right, cols, c))}]`;
      return `axes ${reply.axes.join(", ")} ${at}: ${number(values[r * cols + c]!)}`;
    },
    pick: (r, c) =>
      zoom(Math.max(0, r - 4), Math.min(rows, r + 5), Math.max(0, c - 4), Math.min(cols, c + 5)),
  };
}

/** 0 to 1 between two sizes, on a logarithmic scale. */
function byLogarithm(values: Float32Array, least: number, most: number): Float32Array {
  const low = Math.log10(least);
  const span = Math.log10(most) - low;
  return values.map((value) => {
    if (!Number.isFinite(value)) return value > 0 ? 1 : value;
    return Math.min(1, Math.max(0, (Math.log10(Math.max(value, least)) - low) / span));
  });
}

/** Each column from its best to its worst; positive ones on a logarithmic scale. */
function byColumn(values: Float32Array, rows: number, cols: number): Float32Array {
  const shade = new Float32Array(values.length).fill(NaN);
  for (let c = 0; c < cols; c++) {
    const less = METRICS[c] === "snr_db"; // there, less is worse
    const at = [...Array(rows).keys()]
      .map((r) => r * cols + c)
      .filter((k) => !Number.isNaN(values[k]!));
    const size = (k: number) => {
      const value = values[k]!;
      if (less) return -Math.min(value, 1e6);
      return Math.log10(Math.min(1e30, Math.max(value, 1e-12)));
    };
    const low = Math.min(...at.filter((k) => Number.isFinite(values[k]!)).map(size));
    const high = Math.max(...at.map(size));
    for (const k of at)
      shade[k] = high > low ? Math.min(1, Math.max(0, (size(k) - low) / (high - low))) : 0;
  }
  return shade;
}
