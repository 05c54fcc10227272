// Heatmaps: layers by metric, kind, step or token position, and one operator's tensor by element.

import { css, inkOn, NOT_FINITE, onTheme, RAMP, themeOf } from "./colours";
import { gently, h, keepKeys, onResize, select } from "./dom";
import { number, shorten } from "./format";
import { fitCanvas } from "./graph";
import { floats, type Metric } from "./protocol";
import type { CommandError, Store } from "./store";

type Mode = "metric" | "kind" | "step" | "position" | "tensor";

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
const LABELS = 150;
const TOP = 84;
const LEAST_ROW = 17;
const PAUSE = 150; // ms between two pictures while results come in

/** A picture of numbers, whatever they mean. */
interface Matrix {
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

interface TensorReply {
  shape: number[];
  axes: [number, number];
  window: [number, number, number, number];
  rows: number;
  cols: number;
  outputs: number;
  note: string;
}

export class Heatmap {
  readonly element: HTMLElement;
  private mode: Mode = "kind";
  private modes: HTMLSelectElement;
  private which: HTMLSelectElement;
  private controls = h("span", { class: "tapml-axes" });
  private title = h("div", { class: "tapml-caption" });
  private stage: HTMLElement;
  private canvas = h("canvas", {
    tabindex: 0,
    role: "application",
    "aria-label": "Heatmap",
    "aria-description":
      "Arrow keys move between cells, Enter selects the operator or zooms in, Escape shows everything.",
  });
  private legend = h("div", { class: "tapml-legend" });
  private spoken = h("div", { class: "tapml-spoken", "aria-live": "polite" });
  private tip = h("div", { class: "tapml-tip", hidden: true });
  private matrix: Matrix | null = null;
  private width = 0;
  private height = 0;
  private cell: [number, number] | null = null;
  private axes: [number, number] | null = null;
  private fixed: Record<number, number> = {};
  private output = 0;
  private window: number[] | null = null;
  private shownWindow: [number, number, number, number] = [0, 0, 0, 0];
  private shownOp = -1;
  private asked = 0;
  private band: { x: number; y: number; w: number; h: number } | null = null;
  private readonly ends: (() => void)[];

  constructor(private store: Store) {
    this.modes = select(
      "What the heatmap shows",
      [
        ["kind", "layer × kind"],
        ["metric", "layer × metric"],
        ["step", "layer × step"],
        ["position", "layer × token position"],
        ["tensor", "one operator's tensor"],
      ],
      (mode) => this.setMode(mode as Mode),
    );
    this.which = select(
      "Which tensor",
      [
        ["difference", "difference"],
        ["target", "target"],
        ["source", "source"],
        ["float64", "float64"],
      ],
      () => this.refresh(),
    );
    this.stage = h("div", { class: "tapml-heat-stage" }, this.canvas, this.tip);
    this.element = h(
      "section",
      { class: "tapml-heat", "aria-label": "Heatmap" },
      h("div", { class: "tapml-bar" }, this.modes, this.which, this.controls),
      this.title,
      this.stage,
      this.legend,
      this.spoken,
    );
    keepKeys(this.element);
    this.listen();
    const [follow, still] = gently(
      () => this.mode !== "tensor" && this.mode !== "position" && this.refresh(),
      PAUSE,
    );
    this.ends = [
      still,
      store.on("graph", () => {
        this.mode = store.recall("heatmap", this.mode);
        this.modes.value = this.mode;
        this.refresh();
      }),
      store.on("results", follow),
      store.on("selection", () => this.selectionChanged()),
      store.on("reveal", () => this.selectionChanged()), // it may have been selected before it broke
      store.on("inspect", () => this.mode === "tensor" && this.refresh()),
      onTheme(() => this.draw()),
      onResize(this.stage, (width, height) => {
        this.width = width;
        this.height = height;
        this.draw();
      }),
    ];
    if (store.ready) this.refresh();
  }

  dispose(): void {
    for (const end of this.ends) end();
  }

  private setMode(mode: Mode): void {
    this.mode = mode;
    this.modes.value = mode;
    this.store.remember("heatmap", mode);
    this.refresh();
  }

  /** Show the difference tensor of what somebody selects because it is broken. */
  private selectionChanged(): void {
    const op = this.store.selection.op;
    if (op < 0) return;
    const broken = ["FAIL", "NONFINITE", "NONDETERMINISTIC"].includes(this.store.info(op).name);
    if (this.mode !== "tensor" && broken) this.setMode("tensor");
    else if (this.mode === "tensor" && op !== this.shownOp) this.refresh();
  }

  private refresh(): void {
    if (!this.store.ready) return;
    const { mode } = this;
    const tensor = mode === "tensor";
    this.which.hidden = this.controls.hidden = !tensor;
    this.cell = null;
    if (mode === "tensor") void this.fetchTensor();
    else if (mode === "position") void this.fetchPositions();
    else this.show(this.byLayer(mode), "");
  }

  private show(matrix: Matrix | null, caption: string): void {
    this.matrix = matrix;
    this.title.textContent = caption;
    this.draw();
  }

  // -- layers ------------------------------------------------------------------------------------

  private byLayer(mode: "metric" | "kind" | "step"): Matrix | null {
    const { store } = this;
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
      if (
        Number.isNaN(value) ||
        (!Number.isNaN(known) && (least ? value >= known : value <= known))
      )
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
      mode === "metric"
        ? byColumn(values, rows, cols)
        : byLogarithm(values, 1e-2, 100 * store.limit);
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
          : this.floors(),
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

  /** The legend of a scale from 0.01 noise floors to a hundred times the limit. */
  private floors(): [string, number][] {
    const { limit } = this.store;
    const most = 100 * limit;
    const at = (ratio: number) => Math.log10(ratio / 0.01) / Math.log10(most / 0.01);
    return [
      ["0.01 floors", 0],
      ["1", at(1)],
      [`${limit} (limit)`, at(limit)],
      [`${most}+`, 1],
    ];
  }

  private async fetchPositions(): Promise<void> {
    const turn = ++this.asked;
    this.show(null, "Measuring every layer's error by token position …");
    try {
      const { value, buffers } = await this.store.ask("positions", {});
      if (turn !== this.asked) return;
      const { layers, ops, positions } = value as {
        layers: string[];
        ops: number[];
        positions: number;
      };
      const values = floats(buffers[0]!);
      this.show(
        {
          rows: layers.length,
          cols: positions,
          values,
          shade: byLogarithm(values, 1e-2, 100 * this.store.limit),
          signed: false,
          legend: this.floors(),
          rowLabels: layers.map((layer) => layer || "(model)"),
          colLabels: [...Array(positions).keys()].map(String),
          name: (r, c) =>
            `${layers[r] || "(model)"}, position ${c}: ${number(values[r * positions + c]!)} noise floors\n${this.store.ops[ops[r]!]}`,
          pick: (r) => this.store.reveal(ops[r]!),
        },
        "Each layer's worst operator: its error by token position",
      );
    } catch (error) {
      if (turn === this.asked) this.show(null, (error as CommandError).message);
    }
  }

  // -- one tensor --------------------------------------------------------------------------------

  private async fetchTensor(): Promise<void> {
    const { store } = this;
    const { op, step } = store.selection;
    const turn = ++this.asked;
    if (op < 0) return this.show(null, "Select an operator to see its tensor.");
    if (op !== this.shownOp) {
      this.axes = this.window = null;
      this.fixed = {};
      this.output = 0;
      this.shownOp = op;
    }
    const id = store.ops[op]!;
    const which = this.which.value;
    this.title.textContent = `${id}: fetching …`;
    try {
      const args = {
        op,
        step,
        which,
        output: this.output,
        axes: this.axes,
        fixed: this.fixed,
        window: this.window,
      };
      const { value, buffers } = await store.ask("tensor", args);
      if (turn !== this.asked) return;
      const reply = value as TensorReply;
      this.axes = reply.axes;
      this.shownWindow = reply.window;
      this.axisControls(reply);
      this.show(
        this.tensor(reply, floats(buffers[0]!), which),
        `${id}: ${which}, [${reply.shape.join(", ")}]${reply.note}`,
      );
    } catch (error) {
      if (turn === this.asked) this.show(null, `${id}: ${(error as CommandError).message}`);
    }
  }

  private tensor(reply: TensorReply, values: Float32Array, which: string): Matrix {
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
        this.zoomCells(
          Math.max(0, r - 4),
          Math.min(rows, r + 5),
          Math.max(0, c - 4),
          Math.min(cols, c + 5),
        ),
    };
  }

  private axisControls({ shape, axes, outputs }: TensorReply): void {
    const names = shape.map((n, k) => [String(k), `axis ${k} (${n})`] as const);
    const change = (slot: 0 | 1) => (value: string) => {
      const next: [number, number] = [...this.axes!];
      if (next[1 - slot] === Number(value)) next[1 - slot] = next[slot];
      next[slot] = Number(value);
      this.axes = next;
      this.window = null;
      this.refresh();
    };
    const children: Node[] = [];
    if (outputs > 1) {
      const list = select(
        "Output",
        [...Array(outputs).keys()].map((k) => [String(k), `output ${k}`] as const),
        (value) => {
          this.output = Number(value);
          this.axes = this.window = null;
          this.refresh();
        },
      );
      list.value = String(this.output);
      children.push(list);
    }
    if (shape.length > 1) {
      const rows = select("Rows", names, change(0));
      const cols = select("Columns", names, change(1));
      rows.value = String(axes[0]);
      cols.value = String(axes[1]);
      children.push(rows, document.createTextNode("×"), cols);
    }
    shape.forEach((n, axis) => {
      if (n === 1 || axes.includes(axis)) return;
      const input = h("input", {
        type: "number",
        min: 0,
        max: n - 1,
        placeholder: "max",
        "aria-label": `Index on axis ${axis}; empty shows the largest`,
        title: `axis ${axis} (${n}): empty shows the largest`,
        value: this.fixed[axis] ?? "",
        onchange: () => {
          if (input.value === "") delete this.fixed[axis];
          else this.fixed[axis] = Math.min(n - 1, Math.max(0, Number(input.value)));
          this.refresh();
        },
      });
      children.push(h("label", {}, `axis ${axis}: `, input));
    });
    if (this.window) {
      const whole = () => {
        this.window = null;
        this.refresh();
      };
      children.push(h("button", { type: "button", onclick: whole }, "whole tensor"));
    }
    this.controls.replaceChildren(...children);
  }

  // -- drawing -----------------------------------------------------------------------------------

  /** Where the cells are: left, top, width, height in CSS pixels. */
  private place(): [number, number, number, number] {
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

  private draw(): void {
    if (!this.width || !this.store.ready) return;
    const m = this.matrix;
    const theme = themeOf(this.element);
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
    const parts: HTMLElement[] = [h("div", { class: "tapml-legend-bar" }, bar, labels)];
    if (m.shade.includes(Infinity)) {
      const swatch = h("i", { style: `background:${css(NOT_FINITE)}` });
      parts.push(h("span", { class: "tapml-key" }, swatch, "NaN or infinite"));
    }
    this.legend.replaceChildren(...parts);
  }

  // -- input -------------------------------------------------------------------------------------

  private listen(): void {
    let from: { x: number; y: number } | null = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      from = { x: event.offsetX, y: event.offsetY };
      this.canvas.focus();
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (from && this.mode === "tensor") {
        const { offsetX: x, offsetY: y } = event;
        this.band = {
          x: Math.min(x, from.x),
          y: Math.min(y, from.y),
          w: Math.abs(x - from.x),
          h: Math.abs(y - from.y),
        };
        this.draw();
      } else this.hover(event);
    });
    this.canvas.addEventListener("pointerup", () => {
      from = null;
      const band = this.band;
      this.band = null;
      if (band && band.w > 5 && band.h > 5) this.zoomTo(band);
      else if (this.cell && this.mode !== "tensor") this.matrix?.pick(...this.cell);
    });
    this.canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
    this.canvas.addEventListener("dblclick", () => this.whole());
    this.canvas.addEventListener("keydown", (event) => {
      const m = this.matrix;
      if (!m) return;
      const [r, c] = this.cell ?? [-1, 0];
      const moves: Record<string, [number, number]> = {
        ArrowDown: [r + 1, c],
        ArrowUp: [r - 1, c],
        ArrowRight: [Math.max(0, r), c + 1],
        ArrowLeft: [Math.max(0, r), c - 1],
      };
      const move = moves[event.key];
      if (move) {
        this.cell = [
          Math.min(m.rows - 1, Math.max(0, move[0])),
          Math.min(m.cols - 1, Math.max(0, move[1])),
        ];
        this.spoken.textContent = m.name(...this.cell);
        this.tip.hidden = false;
        this.tip.textContent = m.name(...this.cell);
        this.draw();
      } else if (event.key === "Enter" && this.cell) m.pick(...this.cell);
      else if (event.key === "Escape") this.whole();
      else return;
      event.preventDefault();
    });
  }

  private whole(): void {
    if (!this.window) return;
    this.window = null;
    this.refresh();
  }

  private zoomTo(band: { x: number; y: number; w: number; h: number }): void {
    const m = this.matrix!;
    const [left, top, width, height] = this.place();
    const row = (y: number) => Math.min(m.rows, Math.max(0, ((y - top) / height) * m.rows));
    const col = (x: number) => Math.min(m.cols, Math.max(0, ((x - left) / width) * m.cols));
    this.zoomCells(row(band.y), row(band.y + band.h), col(band.x), col(band.x + band.w));
  }

  /** Zoom to a range of cells, given in (fractions of) what is shown. */
  private zoomCells(r0: number, r1: number, c0: number, c1: number): void {
    const m = this.matrix!;
    const [top, bottom, left, right] = this.shownWindow;
    const row = (r: number) => top + ((bottom - top) * r) / m.rows;
    const col = (c: number) => left + ((right - left) * c) / m.cols;
    this.window = [
      Math.floor(row(r0)),
      Math.ceil(row(r1)),
      Math.floor(col(c0)),
      Math.ceil(col(c1)),
    ];
    this.refresh();
  }

  private hover(event: PointerEvent): void {
    const m = this.matrix;
    if (!m) return;
    const [left, top, width, height] = this.place();
    const r = Math.floor(((event.offsetY - top) / height) * m.rows);
    const c = Math.floor(((event.offsetX - left) / width) * m.cols);
    const inside = r >= 0 && c >= 0 && r < m.rows && c < m.cols;
    this.cell = inside ? [r, c] : null;
    this.tip.hidden = !inside;
    if (inside) {
      this.tip.textContent = m.name(r, c);
      this.tip.style.left = `${Math.min(event.offsetX + 12, Math.max(0, this.width - 240))}px`;
      this.tip.style.top = `${event.offsetY + 14}px`;
    }
  }
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
