// What a heatmap shows, as numbers, shades and words: cells of a model, or a tensor by element.

import { number } from "../format";
import type { TensorAnswer } from "../messages";
import type { Store } from "../store";
import { type Cells, METRICS } from "./cells";
import { apart } from "./labels";

/** A picture of numbers, whatever they mean. */
export interface Matrix {
  rows: number;
  cols: number;
  values: Float32Array;
  /** 0 to 1 by cell, NaN where there is nothing, infinite where there is no finite number. */
  shade: Float32Array;
  /** Whether each is beyond the limit. */
  beyond: Uint8Array;
  signed: boolean;
  /** Texts along the colour bar, each with its place from 0 to 1. */
  legend: [string, number][];
  rowLabels: string[] | null;
  colLabels: string[] | null;
  name: (row: number, col: number) => string;
  pick: (row: number, col: number) => void;
}

/** Characters of a label. */
const ROW = 30;
const COL = 22;

/** Cells of a model. */
export function ofCells(store: Store, cells: Cells): Matrix {
  const { values, beyond, ops, steps } = cells;
  const rows = cells.rowNames.length;
  const cols = cells.colNames.length;
  const metric = cells.cols === "metric";
  const unit = metric ? "" : " noise floors";
  const named = (axis: string, name: string) =>
    ["step", "position", "head"].includes(axis) ? `${axis} ${name}` : name;
  return {
    rows,
    cols,
    values,
    beyond,
    shade: metric ? byColumn(cells, rows, cols) : byLogarithm(values, 1e-2, 100 * store.limit),
    signed: false,
    legend: metric
      ? [
          ["best of its column", 0],
          ["worst of its column", 1],
        ]
      : floors(store.limit),
    rowLabels: apart(cells.rowNames, ROW),
    colLabels: apart(cells.colNames, COL),
    name: (r, c) => {
      const at = r * cols + c;
      const op = ops[at]!;
      const where = `${named(cells.rows, cells.rowNames[r]!)}, ${named(cells.cols, cells.colNames[c]!)}`;
      const value = Number.isNaN(values[at]!) ? "no value" : number(values[at]!) + unit;
      const mark = beyond[at] ? ", beyond the limit" : "";
      return `${where}: ${value}${mark}${op >= 0 ? `\nworst: ${store.ops[op]}` : ""}`;
    },
    pick: (r, c) => {
      const op = ops[r * cols + c]!;
      if (op >= 0) store.reveal(op, steps[r * cols + c]!);
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
  beyond: Uint8Array,
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
    beyond,
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
      const k = r * cols + c;
      const at = `[${span(range(top, bottom, rows, r))}, ${span(range(left, right, cols, c))}]`;
      const mark = beyond[k] ? ", beyond the limit" : "";
      return `axes ${reply.axes.join(", ")} ${at}: ${number(values[k]!)}${mark}`;
    },
    pick: (r, c) =>
      zoom(Math.max(0, r - 4), Math.min(rows, r + 5), Math.max(0, c - 4), Math.min(cols, c + 5)),
  };
}

/** The largest magnitude in each row and each column, as shades from 0 to 1; NaN counts as 1. */
export function profiles(matrix: Matrix): { rows: Float32Array; cols: Float32Array } {
  const rows = new Float32Array(matrix.rows);
  const cols = new Float32Array(matrix.cols);
  matrix.shade.forEach((shade, k) => {
    const size = !Number.isFinite(shade) ? 1 : matrix.signed ? Math.abs(2 * shade - 1) : shade;
    const r = Math.floor(k / matrix.cols);
    const c = k % matrix.cols;
    rows[r] = Math.max(rows[r]!, size);
    cols[c] = Math.max(cols[c]!, size);
  });
  return { rows, cols };
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
function byColumn({ values }: Cells, rows: number, cols: number): Float32Array {
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
