// Heatmaps: any two axes of a model by its worst, and one operator's tensor by element.

import { onTheme } from "../colours";
import { gently, h, keepKeys, onResize } from "../dom";
import { number } from "../format";
import type { Box } from "../grid";
import { floats, numbers, octets } from "../protocol";
import type { Store } from "../store";
import { ASKED, type Cells, type Choice, gather, nounOf } from "./cells";
import { Controls } from "./controls";
import { type Matrix, ofCells, ofTensor } from "./matrix";
import { type Hidden, MatrixPainter } from "./painter";
import { TensorSlice } from "./slice";

const PAUSE = 150; // ms between two pictures while results come in

const WHERE: Record<Hidden["side"], [noun: "rows" | "cols", words: string]> = {
  above: ["rows", "above"],
  below: ["rows", "below"],
  left: ["cols", "to the left"],
  right: ["cols", "to the right"],
};

export class Heatmap {
  readonly element: HTMLElement;
  private choice: Choice = { rows: "layer", cols: "kind", beyond: false, views: false, order: "" };
  private tensor = false;
  private cells: Cells | null = null;
  private controls: Controls;
  private slice = new TensorSlice(() => this.refresh());
  private title = h("div", { class: "tapml-caption" });
  private stage: HTMLElement;
  private canvas = h("canvas", {
    tabindex: 0,
    role: "application",
    "aria-label": "Heatmap",
    "aria-description":
      "Arrow keys move between cells, Enter selects the operator or zooms in, Escape shows everything. n goes to the next cell beyond the limit, N to the one before.",
  });
  private spacer = h("div", { class: "tapml-heat-spacer" }, this.canvas);
  private outside = h("div", { class: "tapml-outside" });
  private legend = h("div", { class: "tapml-legend" });
  private spoken = h("div", { class: "tapml-spoken", "aria-live": "polite" });
  private tip = h("div", { class: "tapml-tip", hidden: true });
  private painter = new MatrixPainter(this.canvas, this.spacer, this.legend);
  private asked = 0;
  private busy = false;
  /** Whether the worst is to be scrolled into sight. */
  private seeking = true;
  private readonly ends: (() => void)[];

  constructor(private store: Store) {
    this.controls = new Controls(
      {
        choice: (choice) => this.choose(choice),
        mode: (mode) => this.setMode(mode),
        which: () => this.refresh(),
      },
      this.slice.element,
    );
    this.stage = h("div", { class: "tapml-heat-stage" }, this.spacer, this.tip);
    this.element = h(
      "section",
      { class: "tapml-heat", "aria-label": "Heatmap" },
      this.controls.element,
      this.title,
      this.stage,
      this.outside,
      this.legend,
      this.spoken,
    );
    keepKeys(this.element);
    this.listen();
    const [follow, cancel] = gently(() => !this.tensor && !this.isAsked && this.refresh(), PAUSE);
    this.ends = [
      cancel,
      store.on("graph", () => this.begin()),
      store.on("results", follow),
      store.on("status", () => {
        const ended = this.busy && !store.status.busy;
        this.busy = store.status.busy;
        if (ended && this.isAsked && !this.tensor) this.refresh();
      }),
      store.on("selection", () => this.selectionChanged()),
      store.on("reveal", () => this.selectionChanged()), // it may have been selected before it broke
      store.on("inspect", () => this.tensor && this.refresh()),
      onTheme(() => this.draw()),
      onResize(this.stage, (width, height) => {
        Object.assign(this.painter, { width, height });
        this.draw();
      }),
    ];
    if (store.ready) this.begin();
  }

  private begin(): void {
    const { store } = this;
    const choice: Choice = { ...this.choice, ...store.recall("heatmapAxes", {}) };
    const mode: string = store.recall("heatmap", choice.cols);
    this.tensor = mode === "tensor" && store.tensors.length > 0;
    this.choice = mode === "tensor" ? choice : { ...choice, cols: mode };
    this.controls.offer(store.tensors, store.commands.has("cells") ? [] : ASKED);
    this.refresh();
  }

  dispose(): void {
    for (const end of this.ends) end();
  }

  /** Whether only Python can tell what is to be shown. */
  private get isAsked(): boolean {
    return ASKED.includes(this.choice.rows) || ASKED.includes(this.choice.cols);
  }

  private setMode(mode: string): void {
    this.tensor = mode === "tensor";
    if (!this.tensor) this.choice.cols = mode;
    this.store.remember("heatmap", mode);
    this.choose({});
  }

  private choose(choice: Partial<Choice>): void {
    Object.assign(this.choice, choice);
    const { cols: _, ...kept } = this.choice;
    this.store.remember("heatmapAxes", kept);
    this.seeking = true;
    this.refresh();
  }

  /** Show the difference tensor of what somebody selects because it is broken. */
  private selectionChanged(): void {
    const op = this.store.selection.op;
    if (op < 0) return;
    const broken = ["FAIL", "NONFINITE", "NONDETERMINISTIC"].includes(this.store.info(op).name);
    if (!this.tensor && broken && this.store.tensors.length) this.setMode("tensor");
    else if (this.tensor && !this.slice.isOf(op)) this.refresh();
  }

  private refresh(): void {
    if (!this.store.ready) return;
    const { choice, tensor } = this;
    this.controls.show(choice, tensor);
    this.stage.toggleAttribute("data-tensor", tensor);
    this.painter.cell = null;
    this.asked++;
    if (tensor) void this.fetchTensor();
    else if (choice.rows === choice.cols)
      this.show(null, `Rows and columns are both by ${nounOf(choice.rows)}; choose another.`);
    else if (this.isAsked) void this.fetchCells();
    else this.showCells(gather(this.store, choice));
  }

  private draw(): void {
    if (!this.store.ready) return;
    const { painter, seeking } = this;
    painter.draw();
    const m = painter.matrix;
    const first = m && painter.width ? m.beyond.indexOf(1) : -1;
    if (seeking && m?.rowLabels && first >= 0) {
      this.seeking = false;
      painter.show(Math.floor(first / m.cols), first % m.cols);
      painter.draw();
    }
    this.drawOutside();
  }

  private show(matrix: Matrix | null, caption: string): void {
    this.painter.matrix = matrix;
    this.title.textContent = caption;
    this.draw();
  }

  private showCells(cells: Cells): void {
    this.cells = cells;
    const empty = !cells.rowNames.length || !cells.colNames.length;
    const none = this.choice.beyond ? "Nothing is beyond the limit." : "Nothing to show.";
    const notes = [...(empty ? [none] : []), ...cells.notes].join("; ");
    this.show(empty ? null : ofCells(this.store, cells), notes);
  }

  private async fetchCells(): Promise<void> {
    const { rows, cols, order, beyond, views } = this.choice;
    const turn = this.asked;
    this.title.textContent = `Reading ${nounOf(rows)} by ${nounOf(cols)} …`;
    try {
      const { value, buffers } = await this.store.ask("cells", {
        rows,
        cols,
        order,
        beyond,
        views,
      });
      if (turn !== this.asked) return;
      this.showCells({
        rows,
        cols,
        rowNames: value.rows,
        colNames: value.cols,
        values: floats(buffers[0]!),
        beyond: octets(buffers[1]!),
        ops: numbers(buffers[2]!),
        steps: numbers(buffers[3]!),
        notes: value.notes,
      });
    } catch (error) {
      if (turn === this.asked) this.show(null, (error as Error).message);
    }
  }

  /** Say what is out of sight, with a way to the worst of it. */
  private drawOutside(): void {
    const m = this.painter.matrix;
    const { cells } = this;
    this.outside.replaceChildren(
      ...(!m || !cells || this.tensor
        ? []
        : this.painter.hidden().map(({ side, count, worst }) => {
            const [noun, words] = WHERE[side];
            const at = worst && worst[0] * m.cols + worst[1];
            const value = at === null ? NaN : m.values[at]!;
            const line = noun === "rows" ? "row" : "column";
            const what = `${count} more ${count === 1 ? line : `${line}s`}`;
            let bad = "";
            if (cells.cols !== "metric" && at !== null)
              bad = Number.isNaN(value) ? ", a culprit" : `, worst ${number(value)} floors`;
            return h(
              "button",
              {
                type: "button",
                onclick: () => worst && this.point(...worst),
              },
              `${what} ${words}${bad}`,
            );
          })),
    );
  }

  /** Have a cell seen, and pointed at. */
  private point(row: number, col: number): void {
    const m = this.painter.matrix!;
    this.painter.cell = [row, col];
    this.painter.show(row, col);
    const name = m.name(row, col);
    this.spoken.textContent = name;
    this.tip.hidden = false;
    this.tip.textContent = name;
    this.draw();
    const { left, top, cellWidth, cellHeight, x, y } = this.painter.place();
    this.placeTip(left + (col + 1) * cellWidth - x, top + (row + 1) * cellHeight - y);
  }

  // -- one tensor --------------------------------------------------------------------------------

  private async fetchTensor(): Promise<void> {
    const { store } = this;
    const { op, step } = store.selection;
    const turn = this.asked;
    if (op < 0) return this.show(null, "Select an operator to see its tensor.");
    const id = store.ops[op]!;
    const { which } = this.controls;
    this.title.textContent = `${id}: fetching …`;
    try {
      const slice = this.slice.of(op);
      // What is beyond the limit comes later than the picture, unless it is known.
      const compared = store.tensors.includes("difference");
      const passes = !compared ? [false] : this.slice.marked ? [true] : [false, true];
      for (const marks of passes) {
        const { value, buffers } = await store.ask("tensor", { op, step, which, marks, ...slice });
        if (turn !== this.asked) return;
        this.slice.show(value);
        this.slice.marked = marks;
        const zoom = this.slice.zoom.bind(this.slice);
        const beyond = buffers[1] ? octets(buffers[1]) : new Uint8Array(value.rows * value.cols);
        const matrix = ofTensor(value, floats(buffers[0]!), beyond, which, zoom);
        const where = this.slice.where ? `; ${this.slice.where}` : "";
        this.show(matrix, `${id}: ${which}, [${value.shape.join(", ")}]${value.note}${where}`);
        if (this.slice.where) this.spoken.textContent = this.slice.where;
      }
    } catch (error) {
      if (turn === this.asked) this.show(null, `${id}: ${(error as Error).message}`);
    }
  }

  // -- input -------------------------------------------------------------------------------------

  private listen(): void {
    let from: { x: number; y: number } | null = null;
    this.stage.addEventListener("scroll", () => {
      this.tip.hidden = true;
      this.draw();
    });
    this.canvas.addEventListener("pointerdown", (event) => {
      from = { x: event.offsetX, y: event.offsetY };
      this.canvas.focus({ preventScroll: true });
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (from && this.tensor) {
        const { offsetX: x, offsetY: y } = event;
        const [left, top] = [Math.min(x, from.x), Math.min(y, from.y)];
        this.painter.band = { x: left, y: top, w: Math.abs(x - from.x), h: Math.abs(y - from.y) };
        this.draw();
      } else this.hover(event);
    });
    this.canvas.addEventListener("pointerup", () => {
      from = null;
      const { band, cell, matrix } = this.painter;
      this.painter.band = null;
      if (band && band.w > 5 && band.h > 5) this.zoomTo(band);
      else if (cell && !this.tensor) matrix?.pick(...cell);
    });
    this.canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
    this.canvas.addEventListener("dblclick", () => this.slice.whole());
    this.canvas.addEventListener("keydown", (event) => {
      const m = this.painter.matrix;
      if (!m) return;
      const [r, c] = this.painter.cell ?? [-1, 0];
      const moves: Record<string, [number, number]> = {
        ArrowDown: [r + 1, c],
        ArrowUp: [r - 1, c],
        ArrowRight: [Math.max(0, r), c + 1],
        ArrowLeft: [Math.max(0, r), c - 1],
      };
      const move = moves[event.key];
      if (move)
        this.point(
          Math.min(m.rows - 1, Math.max(0, move[0])),
          Math.min(m.cols - 1, Math.max(0, move[1])),
        );
      else if (event.key === "Enter" && this.painter.cell) m.pick(...this.painter.cell);
      else if (event.key === "Escape") this.slice.whole();
      else if (event.key === "n" || event.key === "N") this.next(event.key === "n" ? 1 : -1);
      else return;
      event.preventDefault();
    });
  }

  /** Go to the next (1) or the last (-1) place that is beyond the limit. */
  private next(by: 1 | -1): void {
    if (this.tensor) {
      this.slice.next(by);
      return;
    }
    const m = this.painter.matrix!;
    const marked = [...m.beyond.keys()].filter((k) => m.beyond[k]);
    if (!marked.length) {
      this.spoken.textContent = "Nothing is beyond the limit.";
      return;
    }
    const [r, c] = this.painter.cell ?? [0, by > 0 ? -1 : 0];
    const here = r * m.cols + c;
    const at =
      by > 0
        ? (marked.find((k) => k > here) ?? marked[0]!)
        : (marked.findLast((k) => k < here) ?? marked[marked.length - 1]!);
    this.point(Math.floor(at / m.cols), at % m.cols);
  }

  /** Zoom to what was chosen on the canvas. */
  private zoomTo({ x, y, w, h: height }: Box): void {
    const { rows, cols } = this.painter.matrix!;
    const [top, left] = this.painter.cellAt(x, y);
    const [bottom, right] = this.painter.cellAt(x + w, y + height);
    const row = (r: number) => Math.min(rows, Math.max(0, r));
    const col = (c: number) => Math.min(cols, Math.max(0, c));
    this.slice.zoom(row(top), row(bottom), col(left), col(right));
  }

  private hover(event: PointerEvent): void {
    const m = this.painter.matrix;
    if (!m) return;
    const { offsetX: x, offsetY: y } = event;
    const [r, c] = this.painter.cellAt(x, y).map(Math.floor) as [number, number];
    const inside = r >= 0 && c >= 0 && r < m.rows && c < m.cols;
    this.painter.cell = inside ? [r, c] : null;
    // A label that is shortened tells the whole, too.
    const label = inside ? m.name(r, c) : this.labelAt(x, y);
    this.tip.hidden = !label;
    if (label) this.tip.textContent = label;
    this.placeTip(x, y);
  }

  /** The whole name of a row or column whose label is at a point. */
  private labelAt(x: number, y: number): string {
    const { cells } = this;
    if (!cells || this.tensor) return "";
    const { left, top, cellHeight, cellWidth, x: dx, y: dy } = this.painter.place();
    if (x < left && y >= top) return cells.rowNames[Math.floor((y - top + dy) / cellHeight)] ?? "";
    if (y >= top) return "";
    const foot = x - (top - y) / Math.tan(Math.PI / 3.2); // labels lean to the right
    return cells.colNames[Math.floor((foot - left + dx) / cellWidth)] ?? "";
  }

  private placeTip(x: number, y: number): void {
    const { scrollLeft, scrollTop } = this.stage;
    const left = Math.min(x + 12, Math.max(0, this.painter.width - 240));
    this.tip.style.left = `${left + scrollLeft}px`;
    this.tip.style.top = `${y + 14 + scrollTop}px`;
  }
}
