// Which part of an operator's tensor is shown, and the controls that choose it.

import { h, select } from "../dom";
import type { TensorAnswer, TensorArguments } from "../messages";

export class TensorSlice {
  readonly element = h("span", { class: "tapml-axes" });
  /** Whether it is known of this operator what is beyond the limit. */
  marked = false;
  private op = -1;
  private output = 0;
  private axes: [number, number] | null = null;
  private fixed: Record<number, number> = {};
  private window: TensorAnswer["window"] | null = null;
  /** Where elements are beyond the limit, and which of these is shown. */
  private blocks: Required<TensorAnswer>["blocks"] = [];
  private block = -1;
  private shown: Pick<TensorAnswer, "window" | "rows" | "cols"> = {
    window: [0, 0, 0, 0],
    rows: 0,
    cols: 0,
  };

  constructor(private changed: () => void) {}

  /** Whether it is of this operator. */
  isOf(op: number): boolean {
    return op === this.op;
  }

  /** Which block is shown, in words; empty where none was gone to. */
  get where(): string {
    const block = this.window && this.blocks[this.block];
    if (!block) return "";
    const [top, bottom, left, right] = block;
    const span = (a: number, b: number) => (b - a > 1 ? `${a}…${b - 1}` : String(a));
    const count = `block ${this.block + 1} of ${this.blocks.length}`;
    return `${count} beyond the limit: [${span(top, bottom)}, ${span(left, right)}]`;
  }

  /** Zoom to the next (1) or the last (-1) block that is beyond the limit. */
  next(by: 1 | -1): void {
    const count = this.blocks.length;
    if (!count) return;
    this.block = this.block < 0 && by < 0 ? count - 1 : (this.block + by + count) % count;
    const [top, bottom, left, right] = this.blocks[this.block]!;
    // With what is around it: a block alone has no neighbours to compare with.
    const [tall, wide] = [Math.max(4, bottom - top), Math.max(4, right - left)];
    this.window = [Math.max(0, top - tall), bottom + tall, Math.max(0, left - wide), right + wide];
    this.changed();
  }

  /** What to ask for; all of the first output of an operator that was not shown before. */
  of(op: number): Pick<TensorArguments, "output" | "axes" | "fixed" | "window"> {
    if (op !== this.op) {
      this.axes = this.window = null;
      this.fixed = {};
      this.output = 0;
      this.op = op;
      this.block = -1;
      this.marked = false;
    }
    return { output: this.output, axes: this.axes, fixed: this.fixed, window: this.window };
  }

  /** Note what of a tensor came, and offer what else of it there is. */
  show({ shape, axes, window, rows, cols, outputs, blocks = [] }: TensorAnswer): void {
    this.axes = axes;
    if (String(blocks) !== String(this.blocks)) this.block = -1; // another slice of the tensor
    this.blocks = blocks;
    this.shown = { window, rows, cols };
    const names = shape.map((n, k) => [String(k), `axis ${k} (${n})`] as const);
    const change = (slot: 0 | 1) => (value: string) => {
      const next: [number, number] = [...this.axes!];
      if (next[1 - slot] === Number(value)) next[1 - slot] = next[slot];
      next[slot] = Number(value);
      this.axes = next;
      this.window = null;
      this.changed();
    };
    const children: Node[] = [];
    if (outputs > 1) {
      const list = select(
        "Output",
        [...Array(outputs).keys()].map((k) => [String(k), `output ${k}`] as const),
        (value) => {
          this.output = Number(value);
          this.axes = this.window = null;
          this.changed();
        },
      );
      list.value = String(this.output);
      children.push(list);
    }
    if (shape.length > 1) {
      const down = select("Rows", names, change(0));
      const across = select("Columns", names, change(1));
      down.value = String(axes[0]);
      across.value = String(axes[1]);
      children.push(down, document.createTextNode("×"), across);
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
          else this.fixed[axis] = Math.min(n - 1, Math.max(0, Math.trunc(Number(input.value))));
          this.changed();
        },
      });
      children.push(h("label", {}, `axis ${axis}: `, input));
    });
    if (blocks.length) {
      const go = (by: 1 | -1, text: string, title: string) =>
        h(
          "button",
          { type: "button", title, "aria-label": title, onclick: () => this.next(by) },
          text,
        );
      const count = blocks.length === 1 ? "1 bad block" : `${blocks.length} bad blocks`;
      children.push(
        go(-1, "◂", "The block beyond the limit before this one (N)"),
        h("span", {}, count),
        go(1, "▸", "The next block beyond the limit (n)"),
      );
    }
    if (this.window) {
      const button = h("button", { type: "button", onclick: () => this.whole() }, "whole tensor");
      children.push(button);
    }
    this.element.replaceChildren(...children);
  }

  whole(): void {
    if (!this.window) return;
    this.window = null;
    this.block = -1;
    this.changed();
  }

  /** Zoom to a range of cells, given in (fractions of) what is shown. */
  zoom(r0: number, r1: number, c0: number, c1: number): void {
    const { window, rows, cols } = this.shown;
    const [top, bottom, left, right] = window;
    const row = (r: number) => top + ((bottom - top) * r) / rows;
    const col = (c: number) => left + ((right - left) * c) / cols;
    this.window = [
      Math.floor(row(r0)),
      Math.ceil(row(r1)),
      Math.floor(col(c0)),
      Math.ceil(col(c1)),
    ];
    this.changed();
  }
}
