// What the divergence plot's axes and colours mean.

import type uPlot from "uplot";

export type Unit = "floors" | "absolute";

export const SERIES: Record<
  Unit,
  { introduced: "ratio" | "max_abs"; accumulated: "acc_ratio" | "acc_max_abs"; label: string }
> = {
  floors: { introduced: "ratio", accumulated: "acc_ratio", label: "error / noise floor" },
  absolute: { introduced: "max_abs", accumulated: "acc_max_abs", label: "largest absolute error" },
};
export const LEAST = { floors: 1e-3, absolute: 1e-12 };
export const INTRODUCED = "#0072b2";
export const ACCUMULATED = "#e69f00";
export const FAULT = "#d55e00";
export const MISSING = "#8a7a3c";

/** Powers of ten, not more than fit. */
export function decades(plot: uPlot): number[] {
  const low = Math.round(Math.log10(plot.scales.y!.min!));
  const high = Math.round(Math.log10(plot.scales.y!.max!));
  const every = Math.max(
    1,
    Math.ceil(((high - low) * 26 * (devicePixelRatio || 1)) / plot.bbox.height),
  );
  const result: number[] = [];
  for (let e = Math.ceil(low / every) * every; e <= high; e += every) result.push(10 ** e);
  return result;
}

export function plain(value: number): string {
  return value >= 1e-3 && value < 1e5
    ? String(Number(value.toPrecision(1)))
    : value.toExponential(0).replace("e+", "e");
}
