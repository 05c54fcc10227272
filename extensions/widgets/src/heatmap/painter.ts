// Draws a matrix: cells with their names along two sides, which stay while the cells scroll; numbers
// where they fit; a frame around what is beyond the limit, a hatch where there is no value. A tensor
// fills the stage, with the largest of each row and column at its sides.

import { css, inkOn, NOT_FINITE, RAMP, type Theme, themeOf } from "../colours";
import { fitCanvas, h } from "../dom";
import { number } from "../format";
import type { Box } from "../grid";
import { type Matrix, profiles } from "./matrix";

const ROW = 18; // a label's height and air
const COLUMN = 20; // as near as leaning labels may be
const NUMBERED = 40; // a column with numbers
const ANGLE = -Math.PI / 3.2;
const PROFILE = 26;
const GAP = 3;
const LIMIT = "#d55e00";

/** Where cells are: from the canvas's corner, how large one is, how far they are scrolled. */
interface Place {
  left: number;
  top: number;
  cellWidth: number;
  cellHeight: number;
  x: number;
  y: number;
}

/** Rows or columns that are out of sight. */
export interface Hidden {
  side: "above" | "below" | "left" | "right";
  count: number;
  /** The worst of their cells, by row and column; null where none has a value. */
  worst: [row: number, col: number] | null;
}

export class MatrixPainter {
  matrix: Matrix | null = null;
  /** Of the stage, in CSS pixels. */
  width = 0;
  height = 0;
  /** The cell that somebody points at. */
  cell: [number, number] | null = null;
  /** What is being chosen, on the canvas. */
  band: Box | null = null;
  private measured: { of: Matrix; row: number; col: number; lean: number } | null = null;

  constructor(
    private canvas: HTMLCanvasElement,
    private spacer: HTMLElement,
    private legend: HTMLElement,
  ) {}

  private get stage(): HTMLElement {
    return this.spacer.parentElement!;
  }

  /** Where the cells are. */
  place(): Place {
    const m = this.matrix!;
    if (!m.rowLabels || !m.colLabels) {
      const side = PROFILE + GAP;
      return {
        left: side,
        top: side,
        cellWidth: Math.max(1, this.width - side - 2) / m.cols,
        cellHeight: Math.max(1, this.height - side) / m.rows,
        x: 0,
        y: 0,
      };
    }
    const { row, col, lean } = this.labels(m);
    const room = (this.width - row - lean - 16) / m.cols;
    return {
      left: row,
      top: col,
      cellWidth: room >= NUMBERED ? Math.min(60, room) : Math.max(COLUMN, Math.min(26, room)),
      cellHeight: ROW,
      x: this.stage.scrollLeft,
      y: this.stage.scrollTop,
    };
  }

  /** How much room labels take: beside the cells, above them, and beyond the last column. */
  private labels(m: Matrix): { row: number; col: number; lean: number } {
    if (this.measured?.of !== m) {
      const context = this.canvas.getContext("2d")!;
      context.font = `11px ${themeOf(this.canvas).font}`;
      const widest = (labels: string[]) =>
        Math.max(0, ...labels.map((label) => context.measureText(label).width));
      const long = widest(m.colLabels!);
      const last = widest(m.colLabels!.slice(-1));
      this.measured = {
        of: m,
        row: Math.ceil(widest(m.rowLabels!)) + 8,
        col: Math.ceil(long * Math.sin(-ANGLE)) + 14,
        lean: Math.ceil(last * Math.cos(ANGLE)) + 4,
      };
    }
    return this.measured;
  }

  draw(): void {
    if (!this.width) return;
    const m = this.matrix;
    if (!m?.rows || !m.cols) {
      this.spacer.style.width = this.spacer.style.height = "0";
      fitCanvas(this.canvas, this.width, 10);
      this.legend.replaceChildren();
      return;
    }
    const theme = themeOf(this.canvas);
    const context = this.canvas.getContext("2d", { willReadFrequently: true })!;
    const dpr = devicePixelRatio || 1;
    const { left, top, cellWidth, cellHeight } = this.place();
    const labelled = !!m.rowLabels;
    const lean = labelled ? this.labels(m).lean : 2;
    const whole = [left + m.cols * cellWidth + lean, top + m.rows * cellHeight] as const;
    // The canvas is as large as what is seen of it; the spacer is what is scrolled.
    this.spacer.style.width = `${labelled ? whole[0] : 0}px`;
    this.spacer.style.height = `${labelled ? whole[1] : 0}px`;
    fitCanvas(this.canvas, this.width, labelled ? Math.min(this.height, whole[1]) : this.height);
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    context.font = `11px ${theme.font}`;
    context.textBaseline = "middle";
    const place = this.place(); // a larger spacer may have moved it
    context.save();
    context.beginPath();
    context.rect(left, top, this.width - left, this.height - top);
    context.clip();
    this.drawCells(context, m, place, theme);
    context.restore();
    context.fillStyle = theme.text;
    if (m.rowLabels && m.colLabels) this.drawLabels(context, m, place);
    else this.drawProfiles(context, m, place, theme);
    if (this.band) {
      context.strokeStyle = theme.accent;
      context.strokeRect(this.band.x, this.band.y, this.band.w, this.band.h);
    }
    this.drawLegend(m, theme);
  }

  private drawCells(
    context: CanvasRenderingContext2D,
    m: Matrix,
    { left, top, cellWidth: w, cellHeight: height, x, y }: Place,
    theme: Theme,
  ): void {
    const at = (r: number, c: number): [number, number] => [left + c * w - x, top + r * height - y];
    if (m.shade.some(Number.isNaN)) {
      context.fillStyle = hatch(context, theme.dim);
      context.fillRect(...at(0, 0), m.cols * w, m.rows * height);
    }
    context.imageSmoothingEnabled = false;
    context.drawImage(this.image(m), ...at(0, 0), m.cols * w, m.rows * height);
    const [r0, r1, c0, c1] = this.seen();
    const numbered = m.rowLabels && w >= NUMBERED;
    context.textAlign = "center";
    context.strokeStyle = LIMIT;
    context.lineWidth = m.rowLabels ? 2 : 1.5;
    const border = m.rowLabels ? null : new Path2D();
    for (let r = r0; r < r1; r++)
      for (let c = c0; c < c1; c++) {
        const k = r * m.cols + c;
        const [px, py] = at(r, c);
        if (numbered && !Number.isNaN(m.values[k]!)) {
          const shade = m.shade[k]!;
          const word = Number.isFinite(shade) ? RAMP.size[Math.round(shade * 255)]! : NOT_FINITE;
          context.fillStyle = inkOn(css(word));
          context.fillText(number(m.values[k]!), px + w / 2, py + height / 2 + 1);
        }
        if (!m.beyond[k]) continue;
        if (border) outline(border, m, r, c, px, py, w, height);
        else context.strokeRect(px + 2, py + 2, w - 4, height - 4);
      }
    if (border) context.stroke(border);
    context.textAlign = "start";
    if (this.cell) {
      const [px, py] = at(...this.cell);
      context.strokeStyle = theme.accent;
      context.lineWidth = 2;
      context.strokeRect(px, py, Math.max(3, w), Math.max(3, height));
    }
  }

  private drawLabels(
    context: CanvasRenderingContext2D,
    m: Matrix,
    { left, top, cellWidth, cellHeight, x, y }: Place,
  ): void {
    const [r0, r1, c0, c1] = this.seen();
    context.save();
    context.beginPath();
    context.rect(0, top, left, this.height - top);
    context.clip();
    for (let r = r0; r < r1; r++)
      context.fillText(m.rowLabels![r]!, 2, top + (r + 0.5) * cellHeight - y + 1);
    context.restore();
    context.save();
    context.beginPath();
    context.rect(left - 4, 0, this.width - left + 4, top);
    context.clip();
    for (let c = c0; c < c1; c++) {
      context.save();
      context.translate(left + (c + 0.5) * cellWidth - x, top - 6);
      context.rotate(ANGLE);
      context.fillText(m.colLabels![c]!, 0, 0);
      context.restore();
    }
    context.restore();
  }

  private drawProfiles(
    context: CanvasRenderingContext2D,
    m: Matrix,
    { left, top, cellWidth, cellHeight }: Place,
    theme: Theme,
  ): void {
    const { rows, cols } = profiles(m);
    context.fillStyle = theme.dim;
    cols.forEach((size, c) => {
      const tall = Math.max(size > 0 ? 1 : 0, size * PROFILE);
      context.fillRect(left + c * cellWidth, PROFILE - tall, Math.max(0.7, cellWidth - 0.3), tall);
    });
    rows.forEach((size, r) => {
      const long = Math.max(size > 0 ? 1 : 0, size * PROFILE);
      context.fillRect(PROFILE - long, top + r * cellHeight, long, Math.max(0.7, cellHeight - 0.3));
    });
  }

  /** The rows and columns that are seen, in part at least: first and last (exclusive). */
  private seen(): [number, number, number, number] {
    const { rows, cols } = this.matrix!;
    const { left, top, cellWidth, cellHeight, x, y } = this.place();
    return [
      Math.max(0, Math.floor(y / cellHeight)),
      Math.min(rows, Math.ceil((y + this.height - top) / cellHeight)),
      Math.max(0, Math.floor(x / cellWidth)),
      Math.min(cols, Math.ceil((x + this.width - left) / cellWidth)),
    ];
  }

  /** What is out of sight, and the worst of it. */
  hidden(): Hidden[] {
    const m = this.matrix;
    if (!m?.rowLabels || !this.width) return [];
    const { left, top, cellWidth, cellHeight, x, y } = this.place();
    // Of a row that is cut the number cannot be read.
    const r0 = Math.ceil(y / cellHeight - 0.3);
    const r1 = Math.floor((y + this.height - top) / cellHeight + 0.3);
    const c0 = Math.ceil(x / cellWidth - 0.3);
    const c1 = Math.floor((x + this.width - left) / cellWidth + 0.3);
    const parts: [Hidden["side"], number, number, number, number][] = [
      ["above", 0, r0, 0, m.cols],
      ["below", r1, m.rows, 0, m.cols],
      ["left", 0, m.rows, 0, c0],
      ["right", 0, m.rows, c1, m.cols],
    ];
    return parts
      .map(([side, a, b, c, d]) => ({
        side,
        count: side === "above" || side === "below" ? b - a : d - c,
        worst: worstOf(m, a, b, c, d),
      }))
      .filter((hidden) => hidden.count > 0);
  }

  /** Scroll so that a cell is seen. */
  show(row: number, col: number): void {
    if (!this.matrix?.rowLabels) return;
    const { left, top, cellWidth, cellHeight, x, y } = this.place();
    const [wide, tall] = [this.width - left, this.height - top];
    const [cx, cy] = [col * cellWidth, row * cellHeight];
    if (cx < x) this.stage.scrollLeft = cx;
    else if (cx + cellWidth > x + wide) this.stage.scrollLeft = cx + cellWidth - wide;
    if (cy < y) this.stage.scrollTop = cy;
    else if (cy + cellHeight > y + tall) this.stage.scrollTop = cy + cellHeight - tall;
  }

  private image(m: Matrix): HTMLCanvasElement {
    const canvas = h("canvas", { width: m.cols, height: m.rows });
    const context = canvas.getContext("2d", { willReadFrequently: true })!;
    const image = context.createImageData(m.cols, m.rows);
    const pixels = new Uint32Array(image.data.buffer);
    const ramp = m.signed ? RAMP.signed : RAMP.size;
    m.shade.forEach((shade, k) => {
      if (Number.isNaN(shade)) pixels[k] = 0;
      else if (!Number.isFinite(shade)) pixels[k] = NOT_FINITE;
      else pixels[k] = ramp[Math.round(Math.min(1, Math.max(0, shade)) * 255)]!;
    });
    context.putImageData(image, 0, 0);
    return canvas;
  }

  private drawLegend(m: Matrix, theme: Theme): void {
    const bar = h("canvas", { width: 128, height: 1, "aria-hidden": "true" });
    const context = bar.getContext("2d")!;
    const image = context.createImageData(128, 1);
    const ramp = m.signed ? RAMP.signed : RAMP.size;
    new Uint32Array(image.data.buffer).forEach((_, k, pixels) => (pixels[k] = ramp[k * 2]!));
    context.putImageData(image, 0, 0);
    const labels = h("div", { class: "tapml-legend-labels" });
    for (const [text, at] of m.legend) {
      // The first stands at its place, the last ends there, others are centred.
      const shift = at === 0 ? 0 : at === 1 ? -100 : -50;
      labels.append(
        h("span", { style: `left: ${at * 100}%; transform: translateX(${shift}%)` }, text),
      );
    }
    const children: HTMLElement[] = [h("div", { class: "tapml-legend-bar" }, bar, labels)];
    const key = (style: string, text: string) =>
      children.push(h("span", { class: "tapml-key" }, h("i", { style }), text));
    if (m.beyond.includes(1)) key(`border:2px solid ${LIMIT}`, "beyond the limit");
    if (m.shade.some(Number.isNaN))
      key(
        `background:repeating-linear-gradient(-45deg,${theme.dim} 0 1px,transparent 1px 4px)`,
        "no value",
      );
    if (m.shade.includes(Infinity)) key(`background:${css(NOT_FINITE)}`, "NaN or infinite");
    this.legend.replaceChildren(...children);
  }

  /** The cell at a point of the canvas, in fractions of cells. */
  cellAt(x: number, y: number): [row: number, col: number] {
    const place = this.place();
    if (x < place.left || y < place.top) return [-1, -1];
    return [
      (y - place.top + place.y) / place.cellHeight,
      (x - place.left + place.x) / place.cellWidth,
    ];
  }
}

/** The worst cell of some: what is beyond the limit and has no value comes first. */
function worstOf(m: Matrix, r0: number, r1: number, c0: number, c1: number): Hidden["worst"] {
  let worst: Hidden["worst"] = null;
  let most = -1;
  for (let r = r0; r < r1; r++)
    for (let c = c0; c < c1; c++) {
      const k = r * m.cols + c;
      const bad = m.beyond[k] && Number.isNaN(m.shade[k]!) ? Infinity : m.values[k]!;
      if (bad > most) [most, worst] = [bad, [r, c]];
    }
  return worst;
}

/** The sides of a cell whose neighbours there are not beyond the limit. */
function outline(
  path: Path2D,
  m: Matrix,
  r: number,
  c: number,
  x: number,
  y: number,
  w: number,
  height: number,
): void {
  const marked = (row: number, col: number) =>
    row >= 0 && col >= 0 && row < m.rows && col < m.cols && m.beyond[row * m.cols + col];
  const line = (x0: number, y0: number, x1: number, y1: number) => {
    path.moveTo(x0, y0);
    path.lineTo(x1, y1);
  };
  if (!marked(r - 1, c)) line(x, y, x + w, y);
  if (!marked(r + 1, c)) line(x, y + height, x + w, y + height);
  if (!marked(r, c - 1)) line(x, y, x, y + height);
  if (!marked(r, c + 1)) line(x + w, y, x + w, y + height);
}

/** Thin lines for where there is nothing. */
function hatch(context: CanvasRenderingContext2D, colour: string): CanvasPattern {
  const tile = h("canvas", { width: 6, height: 6 });
  const lines = tile.getContext("2d")!;
  lines.strokeStyle = colour;
  lines.globalAlpha = 0.7;
  lines.lineWidth = 0.8;
  lines.beginPath();
  for (const shift of [-6, 0, 6]) {
    lines.moveTo(shift, 6);
    lines.lineTo(shift + 6, 0);
  }
  lines.stroke();
  return context.createPattern(tile, "repeat")!;
}
