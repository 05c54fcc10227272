// What the divergence plot has beside its points: culprits, what is missing, where one is.

import type uPlot from "uplot";
import type { Theme } from "../colours";
import type { Store } from "../store";
import type { Overlay } from "./overlay";
import { FAULT, LEAST, MISSING, SERIES, type Unit } from "./scale";

/** Crosses for culprits, pluses for what is missing, a line for the selected one and for the one at work. */
export function drawMarks(plot: uPlot, store: Store, unit: Unit, theme: Theme): void {
  const { ctx } = plot;
  const { left, top, width, height } = plot.bbox;
  const dpr = devicePixelRatio || 1;
  const n = store.ops.length;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top - 6 * dpr, width, height + 6 * dpr);
  ctx.clip();
  ctx.setLineDash([]); // the limit's would cut the marks to pieces
  const line = (op: number, colour: string) => {
    const x = Math.round(plot.valToPos(op, "x", true));
    ctx.strokeStyle = colour;
    ctx.lineWidth = dpr;
    ctx.beginPath();
    ctx.moveTo(x, top);
    ctx.lineTo(x, top + height);
    ctx.stroke();
  };
  if (store.selection.op >= 0) line(store.selection.op, theme.accent);
  if (store.status.busy && store.status.current >= 0) line(store.status.current, theme.border);
  ctx.strokeStyle = FAULT;
  ctx.lineWidth = 2 * dpr;
  const values = store.metrics[SERIES[unit].introduced];
  const size = 4.5 * dpr;
  const crosses = new Path2D();
  ctx.fillStyle = MISSING;
  for (let at = 0; at < values.length; at++) {
    const { broken, missing } = store.verdicts[store.verdict[at]!]!;
    if (!broken && !missing) continue;
    const x = plot.valToPos(at % n, "x", true);
    const value = values[at]!;
    // What has no finite error stands at the upper edge.
    const y = Number.isFinite(value)
      ? plot.valToPos(Math.max(value, LEAST[unit]), "y", true)
      : top + size;
    if (broken) {
      crosses.moveTo(x - size, y - size);
      crosses.lineTo(x + size, y + size);
      crosses.moveTo(x + size, y - size);
      crosses.lineTo(x - size, y + size);
    } else {
      ctx.fillRect(x - size, y - dpr, 2 * size, 2 * dpr);
      ctx.fillRect(x - dpr, y - size, 2 * dpr, 2 * size);
    }
  }
  ctx.stroke(crosses);
  if (store.against) drawOther(plot, store.against, unit, size);
  ctx.restore();
}

/** Culprits of the other report: rings, and squares for what is missing there. */
function drawOther(plot: uPlot, { metrics, marks }: Overlay, unit: Unit, size: number): void {
  const { ctx } = plot;
  marks.forEach((mark, op) => {
    if (!(mark > 0)) return;
    const value = metrics[SERIES[unit].introduced][op]!;
    const x = plot.valToPos(op, "x", true);
    const y = Number.isFinite(value)
      ? plot.valToPos(Math.max(value, LEAST[unit]), "y", true)
      : plot.bbox.top + size;
    ctx.strokeStyle = mark === 1 ? FAULT : MISSING;
    ctx.beginPath();
    if (mark === 1) ctx.arc(x, y, 1.5 * size, 0, 2 * Math.PI);
    else ctx.rect(x - size, y - size, 2 * size, 2 * size);
    ctx.stroke();
  });
}
