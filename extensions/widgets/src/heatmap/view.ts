// Heatmaps: layers by metric, kind, step or token position, and one operator's tensor by element.

import { onTheme } from "../colours";
import { gently, h, keepKeys, onResize, select, setChoices } from "../dom";
import type { Box } from "../grid";
import type { TensorArguments } from "../messages";
import { floats, numbers } from "../protocol";
import type { Store } from "../store";
import { byLayer, byToken, type Matrix, ofTensor } from "./matrix";
import { MatrixPainter } from "./painter";
import { TensorSlice } from "./slice";

type Which = TensorArguments["which"];
type Mode = "metric" | "kind" | "step" | "position" | "tensor";

const PAUSE = 150; // ms between two pictures while results come in

export class Heatmap {
  readonly element: HTMLElement;
  private mode: Mode = "kind";
  private modes: HTMLSelectElement;
  private which: HTMLSelectElement;
  private slice = new TensorSlice(() => this.refresh());
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
  private painter = new MatrixPainter(this.canvas, this.legend);
  private asked = 0;
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
    const choices = store.tensors.map((which) => [which, which] as const);
    this.which = select("Which tensor", choices, () => this.refresh());
    this.stage = h("div", { class: "tapml-heat-stage" }, this.canvas, this.tip);
    this.element = h(
      "section",
      { class: "tapml-heat", "aria-label": "Heatmap" },
      h("div", { class: "tapml-bar" }, this.modes, this.which, this.slice.element),
      this.title,
      this.stage,
      this.legend,
      this.spoken,
    );
    keepKeys(this.element);
    this.listen();
    const [follow, cancel] = gently(
      () => this.mode !== "tensor" && this.mode !== "position" && this.refresh(),
      PAUSE,
    );
    this.ends = [
      cancel,
      store.on("graph", () => this.begin()),
      store.on("results", follow),
      store.on("selection", () => this.selectionChanged()),
      store.on("reveal", () => this.selectionChanged()), // it may have been selected before it broke
      store.on("inspect", () => this.mode === "tensor" && this.refresh()),
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
    this.mode = store.recall("heatmap", this.mode);
    this.modes.value = this.mode;
    setChoices(
      this.which,
      store.tensors.map((which) => [which, which]),
    );
    this.refresh();
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
    else if (this.mode === "tensor" && !this.slice.isOf(op)) this.refresh();
  }

  private refresh(): void {
    if (!this.store.ready) return;
    const { mode } = this;
    const tensor = mode === "tensor";
    this.which.hidden = this.slice.element.hidden = !tensor;
    this.painter.cell = null;
    if (mode === "tensor") void this.fetchTensor();
    else if (mode === "position") void this.fetchPositions();
    else this.show(byLayer(this.store, mode), "");
  }

  private draw(): void {
    if (this.store.ready) this.painter.draw();
  }

  private show(matrix: Matrix | null, caption: string): void {
    this.painter.matrix = matrix;
    this.title.textContent = caption;
    this.draw();
  }

  private async fetchPositions(): Promise<void> {
    const { store } = this;
    const turn = ++this.asked;
    this.show(null, "Reading every layer's error by token position …");
    try {
      const { value, buffers } = await store.ask("positions", {});
      if (turn !== this.asked) return;
      const matrix = byToken(store, value.lengths, floats(buffers[0]!), numbers(buffers[1]!));
      this.show(matrix, "Each layer's largest error by token position");
    } catch (error) {
      if (turn === this.asked) this.show(null, (error as Error).message);
    }
  }

  // -- one tensor --------------------------------------------------------------------------------

  private async fetchTensor(): Promise<void> {
    const { store } = this;
    const { op, step } = store.selection;
    const turn = ++this.asked;
    if (op < 0) return this.show(null, "Select an operator to see its tensor.");
    const id = store.ops[op]!;
    const which = this.which.value as Which;
    this.title.textContent = `${id}: fetching …`;
    try {
      const { value, buffers } = await store.ask("tensor", {
        op,
        step,
        which,
        ...this.slice.of(op),
      });
      if (turn !== this.asked) return;
      this.slice.show(value);
      const zoom = this.slice.zoom.bind(this.slice);
      const matrix = ofTensor(value, floats(buffers[0]!), which, zoom);
      this.show(matrix, `${id}: ${which}, [${value.shape.join(", ")}]${value.note}`);
    } catch (error) {
      if (turn === this.asked) this.show(null, `${id}: ${(error as Error).message}`);
    }
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
      else if (cell && this.mode !== "tensor") matrix?.pick(...cell);
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
      if (move) {
        this.painter.cell = [
          Math.min(m.rows - 1, Math.max(0, move[0])),
          Math.min(m.cols - 1, Math.max(0, move[1])),
        ];
        this.spoken.textContent = m.name(...this.painter.cell);
        this.tip.hidden = false;
        this.tip.textContent = m.name(...this.painter.cell);
        this.draw();
      } else if (event.key === "Enter" && this.painter.cell) m.pick(...this.painter.cell);
      else if (event.key === "Escape") this.slice.whole();
      else return;
      event.preventDefault();
    });
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
    const [r, c] = this.painter.cellAt(event.offsetX, event.offsetY).map(Math.floor) as [
      number,
      number,
    ];
    const inside = r >= 0 && c >= 0 && r < m.rows && c < m.cols;
    this.painter.cell = inside ? [r, c] : null;
    this.tip.hidden = !inside;
    if (!inside) return;
    this.tip.textContent = m.name(r, c);
    this.tip.style.left = `${Math.min(event.offsetX + 12, Math.max(0, this.painter.width - 240))}px`;
    this.tip.style.top = `${event.offsetY + 14}px`;
  }
}
