// Draws a matrix: cells, their names along two sides, numbers where they fit, and the colours' legend.

import { css, inkOn, NOT_FINITE, RAMP, themeOf } from "../colours";
import { fitCanvas, h } from "../dom";
import { number, shorten } from "../format";
import type { Box } from "../grid";
import type { Matrix } from "./matrix";

const LABELS = 150;
const TOP = 84;
const LEAST_ROW = 17;

export class MatrixPainter {
  matrix: Matrix | null = null;
  /** Of the stage, in CSS pixels. */
  width = 0;
  height = 0;
  /** The cell that somebody points at. */
  cell: [number, number] | null = null;
  /** What is being chosen, on the canvas. */
  band: Box | null = null;

  constructor(
    private canvas: HTMLCanvasElement,
    private legend: HTMLElement,
  ) {}

  /** Where the cells are: left, top, width, height in CSS pixels. */
  place(): [number, number, number, number] {
    const m = this.matrix!;
    const left = m.rowLabels ? LABELS : 0;
    const top = m.colLabels ? TOP : 0;
    const width = Math.max(20, this.width - left - (m.colLabels ? 40 : 2)); // the last label leans out
    const height = m.rowLabels ? m.rows * this.rowHeight(top) : this.height;
    return [left, top, m.colLabels ? Math.min(width, m.cols * 64) : width, height];
  }

  private rowHeight(top: number): number {
    return Math.max(LEAST_ROW, Math.min(28, (this.height - top) / this.matrix!.rows));
  }

  draw(): void {
    if (!this.width) return;
    const m = this.matrix;
    const theme = themeOf(this.canvas);
    const context = this.canvas.getContext("2d", { willReadFrequently: true })!;
    const dpr = devicePixelRatio || 1;
    if (!m?.rows || !m.cols) {
      fitCanvas(this.canvas, this.width, 10);
      this.legend.replaceChildren();
      return;
    }
    const [left, top, width, height] = this.place();
    fitCanvas(this.canvas, this.width, Math.min(16_000, top + height));
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    context.drawImage(this.image(m, theme.dark), left, top, width, height);
    context.font = `11px ${theme.font}`;
    context.fillStyle = theme.text;
    context.textBaseline = "middle";
    const rowHeight = height / m.rows;
    const colWidth = width / m.cols;
    m.rowLabels?.forEach((label, r) =>
      context.fillText(shorten(label, 22), 2, top + (r + 0.5) * rowHeight),
    );
    if (m.colLabels) {
      const every = Math.ceil(14 / colWidth);
      m.colLabels.forEach((label, c) => {
        if (c % every) return;
        context.save();
        context.translate(left + (c + 0.5) * colWidth, top - 6);
        context.rotate(-Math.PI / 3.2);
        context.fillText(shorten(label, 15), 0, 0);
        context.restore();
      });
      if (colWidth > 34 && rowHeight >= LEAST_ROW)
        this.numbers(context, m, left, top, colWidth, rowHeight);
    }
    if (this.cell) {
      const [r, c] = this.cell;
      context.strokeStyle = theme.accent;
      context.lineWidth = 2;
      context.strokeRect(
        left + c * colWidth,
        top + r * rowHeight,
        Math.max(3, colWidth),
        Math.max(3, rowHeight),
      );
    }
    if (this.band) {
      context.strokeStyle = theme.accent;
      context.strokeRect(this.band.x, this.band.y, this.band.w, this.band.h);
    }
    this.drawLegend(m);
  }

  private numbers(
    context: CanvasRenderingContext2D,
    m: Matrix,
    left: number,
    top: number,
    w: number,
    height: number,
  ): void {
    context.save();
    context.textAlign = "center";
    m.values.forEach((value, k) => {
      if (Number.isNaN(value)) return;
      const shade = m.shade[k]!;
      const colour = Number.isFinite(shade)
        ? css(RAMP.size[Math.round(shade * 255)]!)
        : css(NOT_FINITE);
      context.fillStyle = inkOn(colour);
      context.fillText(
        number(value),
        left + ((k % m.cols) + 0.5) * w,
        top + (Math.floor(k / m.cols) + 0.5) * height,
      );
    });
    context.restore();
  }

  private image(m: Matrix, dark: boolean): HTMLCanvasElement {
    const canvas = h("canvas", { width: m.cols, height: m.rows });
    const context = canvas.getContext("2d", { willReadFrequently: true })!;
    const image = context.createImageData(m.cols, m.rows);
    const pixels = new Uint32Array(image.data.buffer);
    const ramp = m.signed ? RAMP.signed : RAMP.size;
    const nothing = dark ? 0xff303030 : 0xffeeeeee;
    m.shade.forEach((shade, k) => {
      if (Number.isNaN(shade)) pixels[k] = nothing;
      else if (!Number.isFinite(shade)) pixels[k] = NOT_FINITE;
      else pixels[k] = ramp[Math.round(Math.min(1, Math.max(0, shade)) * 255)]!;
    });
    context.putImageData(image, 0, 0);
    this.canvas.getContext("2d")!.imageSmoothingEnabled = false;
    return canvas;
  }

  private drawLegend(m: Matrix): void {
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
    if (m.shade.includes(Infinity)) {
      const swatch = h("i", { style: `background:${css(NOT_FINITE)}` });
      children.push(h("span", { class: "tapml-key" }, swatch, "NaN or infinite"));
    }
    this.legend.replaceChildren(...children);
  }

  /** The cell at a point of the canvas, in fractions of cells. */
  cellAt(x: number, y: number): [row: number, col: number] {
    const { rows, cols } = this.matrix!;
    const [left, top, width, height] = this.place();
    return [((y - top) / height) * rows, ((x - left) / width) * cols];
  }
}
