// Another report, to be drawn beside the session's own.

import { floats } from "../protocol";

/** Another report, drawn into the plot of this one. */
export interface Overlay {
  name: string;
  /** Each operator's worst over its steps; NaN where it is not known. */
  metrics: Record<"ratio" | "acc_ratio" | "max_abs" | "acc_max_abs", Float32Array>;
  /** 1 where an operator is a culprit there, 2 where it is missing. */
  marks: Float32Array;
}

/** What a widget was given to compare with: `overlay` of `tapml_nb/widgets/protocol.py`. */
export function overlayOf(given: unknown): Overlay | null {
  if (!given) return null;
  const { name, values: packed } = given as { name: string; values: DataView };
  const values = floats(packed);
  const n = values.length / 5;
  const row = (k: number) => values.subarray(k * n, (k + 1) * n);
  const metrics = { ratio: row(0), acc_ratio: row(1), max_abs: row(2), acc_max_abs: row(3) };
  return { name, metrics, marks: row(4) };
}
