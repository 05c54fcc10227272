// The curves of edges: straight down to the next row, or around what stands between.

import type { Box } from "../grid";
import type { Edge } from "../layout";

/** Whether an edge passes boxes of its own column and so is led around them. */
function bulge({ from, to }: Edge): number {
  const gap = to.y - from.y - from.h;
  const aside = Math.abs(from.x + from.w / 2 - to.x - to.w / 2);
  return gap > 70 && aside < 80 ? 26 + Math.min(90, gap * 0.07) : 0;
}

export function bounds(edge: Edge): Box {
  const { from, to } = edge;
  const ax = from.x + from.w / 2;
  const bx = to.x + to.w / 2;
  const ay = from.y + from.h;
  const x = Math.min(ax, bx);
  const y = Math.min(ay, to.y);
  const out = bulge(edge) ? Math.max(from.w, to.w) / 2 + bulge(edge) : 0;
  return { x, y, w: Math.abs(ax - bx) + out, h: Math.abs(ay - to.y) };
}

export function trace(path: Path2D, edge: Edge, straight: boolean): void {
  const { from, to } = edge;
  const ax = from.x + from.w / 2;
  const ay = from.y + from.h;
  const bx = to.x + to.w / 2;
  const by = to.y;
  const out = bulge(edge);
  if (straight) {
    path.moveTo(ax, ay);
    path.lineTo(bx, by);
  } else if (out) {
    const right = Math.max(from.x + from.w, to.x + to.w) + out;
    const [begin, end] = [from.y + from.h / 2, to.y + to.h / 2];
    path.moveTo(from.x + from.w, begin);
    path.bezierCurveTo(right, begin, right, end, to.x + to.w, end);
  } else {
    const bend = by > ay ? Math.min(60, (by - ay) / 2) : 40;
    path.moveTo(ax, ay);
    path.bezierCurveTo(ax, ay + bend, bx, by - bend, bx, by);
  }
}
