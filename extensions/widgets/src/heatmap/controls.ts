// Where people choose what a heatmap shows: rows, columns, their order and what is left out; or one
// tensor, and which of its kinds.

import { h, select, setChoices } from "../dom";
import type { TensorArguments } from "../messages";
import type { Choice } from "./cells";

export type Which = TensorArguments["which"];

const AXES = [
  ["layer", "layer"],
  ["kind", "kind"],
  ["scope:1", "scope, 1 deep"],
  ["scope:2", "scope, 2 deep"],
  ["scope:3", "scope, 3 deep"],
  ["scope", "scope"],
  ["op", "operator"],
  ["step", "step"],
  ["position", "token position"],
  ["head", "attention head"],
  ["dtype", "dtype"],
  ["device", "device"],
] as const;

const MODES = [...AXES, ["metric", "metric"], ["tensor", "one tensor"]] as const;

/** What is told of what somebody chooses. */
export interface Chosen {
  choice: (choice: Partial<Choice>) => void;
  /** The columns, or "tensor". */
  mode: (mode: string) => void;
  which: () => void;
}

export class Controls {
  readonly element: HTMLElement;
  private readonly rows: HTMLSelectElement;
  private readonly modes: HTMLSelectElement;
  private readonly order: HTMLSelectElement;
  private readonly beyond: HTMLInputElement;
  private readonly views: HTMLInputElement;
  private readonly kinds: HTMLSelectElement;
  private readonly ofModel: HTMLElement[];
  private readonly ofTensor: HTMLElement[];

  /** `slice` chooses a part of a tensor. */
  constructor(chosen: Chosen, slice: HTMLElement) {
    this.rows = select("Rows of the heatmap", AXES, (rows) => chosen.choice({ rows }));
    this.modes = select("What the heatmap shows", MODES, chosen.mode);
    this.order = select(
      "Order of rows and columns",
      [
        ["", "worst columns"],
        ["worst", "worst first"],
        ["model", "model order"],
      ],
      (order) => chosen.choice({ order: order as Choice["order"] }),
    );
    this.kinds = select("Which tensor", [], chosen.which);
    const toggle = (name: "beyond" | "views") =>
      h("input", {
        type: "checkbox",
        onchange: (event: Event) =>
          chosen.choice({ [name]: (event.target as HTMLInputElement).checked }),
      });
    this.beyond = toggle("beyond");
    this.views = toggle("views");
    const label = (text: string, title: string, input: HTMLInputElement) =>
      h("label", { title }, input, ` ${text}`);
    const rows = h(
      "span",
      { class: "tapml-axes" },
      this.rows,
      h("span", { "aria-hidden": "true" }, "×"),
    );
    const others = h(
      "span",
      { class: "tapml-axes" },
      this.order,
      label("beyond the limit", "Only rows and columns that hold a culprit", this.beyond),
      label("views", "Rows and columns of views alone, too: they compute nothing", this.views),
    );
    this.ofModel = [rows, others];
    this.ofTensor = [this.kinds, slice];
    this.element = h("div", { class: "tapml-bar" }, rows, this.modes, others, this.kinds, slice);
  }

  get which(): Which {
    return this.kinds.value as Which;
  }

  /** Offer these kinds of tensors, and all axes but some that nobody could tell. */
  offer(tensors: readonly string[], but: readonly string[]): void {
    setChoices(
      this.kinds,
      tensors.map((which) => [which, which]),
    );
    setChoices(
      this.rows,
      AXES.filter(([axis]) => !but.includes(axis)),
    );
    setChoices(
      this.modes,
      MODES.filter(([axis]) => !but.includes(axis) && (axis !== "tensor" || tensors.length)),
    );
  }

  /** Show what is chosen. */
  show(choice: Choice, tensor: boolean): void {
    this.modes.value = tensor ? "tensor" : choice.cols;
    this.rows.value = choice.rows;
    this.order.value = choice.order;
    this.beyond.checked = choice.beyond;
    this.views.checked = choice.views;
    for (const element of this.ofModel) element.hidden = tensor;
    for (const element of this.ofTensor) element.hidden = !tensor;
  }
}
