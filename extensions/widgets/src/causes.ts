// One line of the list of culprits: a cause, with its worst operator, its first, and how many it has.

import { h, keepChildren, setText } from "./dom";
import { number } from "./format";
import type { Cause } from "./protocol";
import type { Store } from "./store";

export class CauseLine {
  readonly element: HTMLElement;
  private mark = h("b", { class: "tapml-verdict" });
  private name = h("span", { class: "tapml-name" });
  private times = h("b", { class: "tapml-times" });
  private size = h("span", { class: "tapml-dim" });
  private worst: HTMLButtonElement;
  private first = this.link();
  private all = h("button", {
    type: "button",
    "aria-expanded": false,
    onclick: () => this.toggle(),
  });
  private label = h("span", { class: "tapml-dim" });
  private others = h("div", { class: "tapml-others" }, this.label, this.first, this.all);
  private list = h("div", { class: "tapml-all", hidden: true });
  private links = new Map<number, HTMLButtonElement>();
  private cause!: Cause;

  constructor(private store: Store) {
    const go = () => store.reveal(this.cause.worst, store.worstStep(this.cause.worst));
    this.worst = h(
      "button",
      { type: "button", onclick: go },
      this.mark,
      this.name,
      this.times,
      this.size,
    );
    this.element = h("div", { class: "tapml-cause" }, this.worst);
  }

  /** Show a cause, which may have grown since. */
  show(cause: Cause): void {
    const { store } = this;
    this.cause = cause;
    const { worst, count, ratio } = cause;
    const info = store.verdicts[cause.verdict]!;
    setText(this.mark, info.symbol);
    this.mark.style.setProperty("--tapml-verdict", info.colour);
    setText(this.name, store.ops[worst]!);
    setText(this.times, count > 1 ? `×${count}` : "");
    const floors = typeof ratio === "number" ? number(ratio) : ratio;
    setText(
      this.size,
      info.missing ? `missing, ${info.name}` : floors === null ? info.name : `${floors} floors`,
    );
    const alike = count > 1 ? `, the worst of ${count} of this cause` : "";
    this.worst.title = `${store.ops[worst]!}: ${info.name}${alike}`;
    mark(this.worst, store.selection.op, worst);
    this.worst.dataset.op = String(worst);
    if (count > 1) {
      this.point(this.first, cause.ops[0]!);
      this.first.hidden = cause.ops[0] === worst;
      setText(this.label, this.first.hidden ? "the first of them, too" : "first");
      const shown =
        cause.ops.length < count ? `the first ${cause.ops.length} of ${count}` : `all ${count}`;
      setText(this.all, `${this.list.hidden ? "▸" : "▾"} ${shown}`);
      this.listAll();
    }
    keepChildren(this.element, count > 1 ? [this.worst, this.others, this.list] : [this.worst]);
  }

  private toggle(): void {
    this.list.hidden = !this.list.hidden;
    this.all.setAttribute("aria-expanded", String(!this.list.hidden));
    this.show(this.cause);
  }

  /** Every operator of the cause, once somebody wants to see them. */
  private listAll(): void {
    if (this.list.hidden) return;
    const links = this.cause.ops.map((op) => {
      let link = this.links.get(op);
      if (!link) this.links.set(op, (link = this.link()));
      this.point(link, op);
      return link;
    });
    keepChildren(this.list, links);
  }

  private link(): HTMLButtonElement {
    const button = h("button", { type: "button", class: "tapml-name" });
    button.addEventListener("click", () => {
      const op = Number(button.dataset.op);
      this.store.reveal(op, this.store.worstStep(op));
    });
    return button;
  }

  private point(button: HTMLButtonElement, op: number): void {
    setText(button, this.store.ops[op]!);
    button.dataset.op = String(op);
    mark(button, this.store.selection.op, op);
  }
}

function mark(button: HTMLElement, selected: number, op: number): void {
  button.setAttribute("aria-current", String(selected === op));
}
