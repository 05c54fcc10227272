// Tensors made small enough for a screen; `tapml_nb/report/tensors.py` is the same for a kernel.

import type { TensorAnswer, TensorArguments } from "../../../widgets/src/messages";
import { type Tensor, TensorError } from "./safetensors";

const MOST = 512;
const BINS = 48;

/** Two axes of a tensor: the others at an index, or the largest magnitude over them; NaN wins. */
export function picture(
  tensor: Tensor,
  { axes, fixed, window }: Pick<TensorArguments, "axes" | "fixed" | "window">,
): { answer: Omit<TensorAnswer, "outputs">; values: Float32Array } {
  const shape = [...Array(Math.max(0, 2 - tensor.shape.length)).fill(1), ...tensor.shape];
  if (!tensor.data.length)
    throw new TensorError(`its tensor [${shape.join(", ")}] has no elements`);
  const n = shape.length;
  const [rowAxis, colAxis] = axes ?? [n - 2, n - 1];
  const rowSize = shape[rowAxis];
  const colSize = shape[colAxis];
  if (rowAxis === colAxis || !rowSize || !colSize) {
    throw new TensorError(`axes ${rowAxis} and ${colAxis}; this tensor has axes 0 to ${n - 1}`);
  }
  const [t, b, l, r] = window ?? [0, rowSize, 0, colSize];
  const [top, bottom] = [Math.max(0, t), Math.min(rowSize, b)];
  const [left, right] = [Math.max(0, l), Math.min(colSize, r)];
  if (top >= bottom || left >= right) throw new TensorError("the window holds nothing");
  const [height, width] = [bottom - top, right - left];
  const [rows, cols] = [Math.min(MOST, height), Math.min(MOST, width)];
  const group = (k: number, size: number, groups: number) =>
    Math.ceil(((k + 1) * groups) / size) - 1;

  const notes: string[] = [];
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((x, y) => x * y, 1));
  // Where the elements of one cell's row and column begin: every index of the axes not shown.
  let offsets = [0];
  shape.forEach((size, axis) => {
    if (axis === rowAxis || axis === colAxis) return;
    const at = fixed[String(axis)];
    if (at !== undefined) {
      const index = Math.min(Math.max(0, at), size - 1);
      notes.push(`axis ${axis} at ${index}`);
      offsets = offsets.map((offset) => offset + index * strides[axis]!);
    } else if (size > 1) {
      notes.push(`largest over axis ${axis}`);
      offsets = offsets.flatMap((offset) =>
        Array.from({ length: size }, (_, k) => offset + k * strides[axis]!),
      );
    }
  });
  const values = new Float32Array(rows * cols);
  const seen = new Uint8Array(rows * cols);
  for (const offset of offsets) {
    for (let row = 0; row < height; row++) {
      const base = offset + (top + row) * strides[rowAxis]! + left * strides[colAxis]!;
      const line = group(row, height, rows) * cols;
      for (let col = 0; col < width; col++) {
        const value = tensor.data[base + col * strides[colAxis]!]!;
        const cell = line + group(col, width, cols);
        const best = values[cell]!;
        const larger = Math.abs(value) > Math.abs(best) || (value > 0 && value === -best);
        if (!seen[cell] || larger || Number.isNaN(value)) {
          values[cell] = value;
          seen[cell] = 1;
        }
      }
    }
  }
  const answer = {
    shape,
    axes: [rowAxis, colAxis] as [number, number],
    window: [top, bottom, left, right] as [number, number, number, number],
    rows,
    cols,
    note: notes.length ? `; ${notes.join(", ")}` : "",
  };
  return { answer, values };
}

export interface Values {
  low: number | null;
  high: number | null;
  mean: number | null;
  zeros: number;
  nan: number;
  inf: number;
  bins: Float32Array;
}

/** Range, mean and histogram over the finite elements. */
export function summarize({ data }: Tensor): Values {
  const bins = new Float32Array(BINS);
  let [low, high, sum, zeros, nan, inf] = [Infinity, -Infinity, 0, 0, 0, 0];
  for (const value of data) {
    if (Number.isNaN(value)) nan++;
    else if (!Number.isFinite(value)) inf++;
    else {
      if (value < low) low = value;
      if (value > high) high = value;
      if (value === 0) zeros++;
      sum += value;
    }
  }
  const finite = data.length - nan - inf;
  if (!finite) return { low: null, high: null, mean: null, zeros, nan, inf, bins };
  const range = high - low;
  if (range > 0 && Number.isFinite(range)) {
    for (const value of data) {
      if (Number.isFinite(value)) {
        bins[Math.min(BINS - 1, Math.floor(((value - low) / range) * BINS))]!++;
      }
    }
  } else bins[BINS / 2] = finite;
  return { low, high, mean: sum / finite, zeros, nan, inf, bins };
}
