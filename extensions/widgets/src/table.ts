// The operator table: every operator, of which only the rows in view exist as elements.

import { gently, h, keepChildren, keepKeys, onResize, select, setChoices, setText } from "./dom";
import { number } from "./format";
import type { Metric } from "./protocol";
import type { Store } from "./store";

const ROW = 24;
const PAUSE = 150; // ms between two updates while results come in

interface Column {
  key: string;
  title: string;
  hint: string;
  width: string;
  /** What to sort by. */
  value: (op: number) => number | string;
  text: (op: number) => string;
}

interface Row {
  element: HTMLElement;
  box: HTMLInputElement;
  /** By column. */
  cells: Map<number, HTMLElement>;
}

export class OperatorTable {
  readonly element: HTMLElement;
  private filter = h("input", {
    type: "search",
    placeholder: "filter",
    "aria-label": "Filter operators by text",
  });
  private byVerdict: HTMLSelectElement;
  private byKind: HTMLSelectElement;
  private byScope: HTMLSelectElement;
  private count = h("span", { class: "tapml-dim", role: "status" });
  private head = h("div", { class: "tapml-row tapml-head", role: "row" });
  private body = h("div", { class: "tapml-rows" });
  private scroller: HTMLElement;
  private columns: Column[];
  private sorted: { key: string; down: boolean } = { key: "", down: false };
  private shown: number[] = [];
  /** The rows in view, by operator. */
  private rows = new Map<number, Row>();
  private height = 240;
  private readonly ends: (() => void)[];

  constructor(private store: Store) {
    const metric = (key: Metric, title: string, hint: string, width = "72px"): Column => ({
      key,
      title,
      hint,
      width,
      value: (op) => store.metric(key, op),
      text: (op) => number(store.metric(key, op)),
    });
    this.columns = [
      {
        key: "placement",
        title: "target",
        hint: "Whether it computes on the target",
        width: "58px",
        value: (op) => (store.host[op] ? -1 : store.placement[op]!),
        text: () => "",
      },
      {
        key: "op",
        title: "operator",
        hint: "Module path and operation",
        width: "minmax(180px, 1fr)",
        value: (op) => op,
        text: (op) => store.ops[op]!,
      },
      {
        key: "kind",
        title: "kind",
        hint: "ATen operator",
        width: "130px",
        value: kind,
        text: kind,
      },
      {
        key: "verdict",
        title: "verdict",
        hint: "The worst over all steps",
        width: "130px",
        value: (op) => store.info(op).severity,
        text: (op) => `${store.info(op).symbol} ${store.info(op).name}`,
      },
      metric("ratio", "ratio", "Introduced error in noise floors"),
      metric("max_abs", "max abs", "Largest difference to the source"),
      metric(
        "acc_ratio",
        "acc. ratio",
        "Accumulated error in noise floors, in the hybrid run",
        "82px",
      ),
      metric("target_ms", "ms", "Milliseconds on the target", "74px"),
    ];
    function kind(op: number): string {
      return store.kinds[store.kindOf[op]!]!;
    }
    const refilter = () => this.refresh();
    this.byVerdict = select("Filter by verdict", [["", "any verdict"]], refilter);
    this.byKind = select("Filter by kind", [["", "any kind"]], refilter);
    this.byScope = select("Filter by layer", [["", "any layer"]], refilter);
    this.filter.addEventListener("input", refilter);
    this.scroller = h("div", { class: "tapml-scroll", onscroll: () => this.draw() }, this.body);
    const grid = h(
      "div",
      {
        class: "tapml-grid",
        role: "grid",
        tabindex: 0,
        "aria-label": "Operators",
        "aria-multiselectable": "false",
      },
      this.head,
      this.scroller,
    );
    grid.addEventListener("keydown", (event) => this.key(event));
    grid.style.setProperty("--tapml-columns", this.columns.map((c) => c.width).join(" "));
    this.element = h(
      "section",
      { class: "tapml-table", "aria-label": "Operator table" },
      h(
        "div",
        { class: "tapml-bar" },
        this.filter,
        this.byVerdict,
        this.byKind,
        this.byScope,
        this.count,
      ),
      grid,
    );
    keepKeys(this.element);
    this.heading();
    const [follow, cancel] = gently(refilter, PAUSE);
    this.ends = [
      cancel,
      store.on("graph", () => this.begin()),
      store.on("results", follow),
      store.on("placement", () => (this.sorted.key === "placement" ? this.refresh() : this.draw())),
      store.on("selection", () => this.follow()),
      onResize(this.scroller, (_, height) => {
        this.height = height;
        this.draw();
      }),
    ];
    if (store.ready) this.begin();
  }

  dispose(): void {
    for (const end of this.ends) end();
  }

  private begin(): void {
    const { store } = this;
    this.rows.clear();
    const texts = (names: string[]) => names.map((n) => [n, n || "(model)"] as const);
    setChoices(this.byVerdict, [
      ["", "any verdict"],
      ["culprits", "culprits"],
      ["missing", "missing"],
      ...texts(store.verdicts.map((v) => v.name)),
    ]);
    setChoices(this.byKind, [["", "any kind"], ...texts([...store.kinds].sort())]);
    const layers = store.layers.map((name, k) => [String(k), name || "(model)"] as const);
    setChoices(this.byScope, [["", "any layer"], ...layers]);
    const kept = store.recall("table", {
      text: "",
      verdict: "",
      kind: "",
      layer: "",
      sort: this.sorted,
    });
    this.filter.value = kept.text;
    this.byVerdict.value = kept.verdict;
    this.byKind.value = kept.kind;
    this.byScope.value = kept.layer;
    this.sorted = kept.sort;
    this.heading();
    this.refresh();
  }

  /** Filter and sort anew. */
  private refresh(): void {
    const { store } = this;
    if (!store.ready) return;
    const text = this.filter.value.toLowerCase();
    const verdict = this.byVerdict.value;
    const kind = this.byKind.value;
    const layer = this.byScope.value;
    const fits = (op: number, wanted: string) => {
      const { name, broken, missing } = store.info(op);
      return wanted === "culprits" ? broken : wanted === "missing" ? missing : name === wanted;
    };
    const keep = (op: number) =>
      (!text ||
        store.ops[op]!.toLowerCase().includes(text) ||
        store.kinds[store.kindOf[op]!]!.includes(text)) &&
      (!verdict || fits(op, verdict)) &&
      (!kind || store.kinds[store.kindOf[op]!] === kind) &&
      (!layer || store.layerOf[op] === Number(layer));
    this.shown = [];
    for (let op = 0; op < store.ops.length; op++) if (keep(op)) this.shown.push(op);
    const column = this.columns.find((c) => c.key === this.sorted.key);
    if (column) {
      const sign = this.sorted.down ? -1 : 1;
      const values = new Map(this.shown.map((op) => [op, column.value(op)]));
      this.shown.sort((a, b) => {
        const [x, y] = [values.get(a)!, values.get(b)!];
        if (x === y) return a - b;
        if (Number.isNaN(x)) return 1; // what has no value comes last, either way
        if (Number.isNaN(y)) return -1;
        return (x < y ? -1 : 1) * sign;
      });
    }
    this.count.textContent = `${this.shown.length} of ${store.ops.length}`;
    this.draw();
    const sort = this.sorted;
    const now = { text: this.filter.value, verdict, kind, layer, sort };
    if (JSON.stringify(now) !== JSON.stringify(store.recall("table", null)))
      store.remember("table", now);
  }

  private heading(): void {
    this.head.replaceChildren(
      ...this.columns.map(({ key, title, hint }) => {
        const here = this.sorted.key === key;
        const order = here ? (this.sorted.down ? "descending" : "ascending") : "none";
        const mark = here ? (this.sorted.down ? " ▾" : " ▴") : "";
        const press = () => {
          // The natural order first, then the other way round, then the model's.
          const down = !["op", "kind", "verdict"].includes(key);
          if (!here) this.sorted = { key, down };
          else
            this.sorted =
              this.sorted.down === down ? { key, down: !down } : { key: "", down: false };
          this.heading();
          this.refresh();
        };
        return h(
          "div",
          {
            role: "columnheader",
            "aria-sort": order,
            class: /^(op|kind|verdict|placement)$/.test(key) ? "" : "tapml-number",
          },
          h("button", { type: "button", title: hint, onclick: press }, title + mark),
        );
      }),
    );
  }

  private draw(): void {
    const { store, shown } = this;
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - 4);
    const last = Math.min(shown.length, first + Math.ceil(this.height / ROW) + 8);
    this.body.style.height = `${shown.length * ROW}px`;
    this.body.parentElement!.parentElement!.setAttribute("aria-rowcount", String(shown.length + 1));
    // Rows that stay in view stay elements, or a press would end on another row than it began.
    const kept = this.rows;
    this.rows = new Map();
    for (let k = first; k < last; k++) {
      const op = shown[k]!;
      const row = kept.get(op) ?? this.row(op);
      this.rows.set(op, row);
      row.element.setAttribute("aria-rowindex", String(k + 2));
      row.element.setAttribute("aria-selected", String(op === store.selection.op));
      row.element.style.top = `${k * ROW}px`;
      row.box.checked = store.placement[op] === 1;
      row.cells.forEach((cell, c) => {
        const text = this.columns[c]!.text(op);
        if (cell.title !== text) cell.title = text;
        setText(cell.firstElementChild ?? cell, text);
        if (this.columns[c]!.key === "verdict")
          cell.style.setProperty("--tapml-verdict", store.info(op).colour);
      });
    }
    keepChildren(
      this.body,
      [...this.rows.values()].map((row) => row.element),
    );
  }

  private row(op: number): Row {
    const { store } = this;
    const cells = new Map<number, HTMLElement>();
    const box = this.box(op);
    const children = this.columns.map(({ key }, c) => {
      if (key === "placement") return h("div", { role: "gridcell" }, box);
      // A path that is too long loses its beginning; bdi keeps its own direction within.
      const cell = h("div", { role: "gridcell" }, key === "op" ? h("bdi") : null);
      if (key === "op") cell.classList.add("tapml-path");
      if (key === "verdict") cell.classList.add("tapml-verdict");
      if (c > 3) cell.classList.add("tapml-number");
      cells.set(c, cell);
      return cell;
    });
    const element = h("div", { class: "tapml-row", role: "row", "data-op": op }, ...children);
    element.addEventListener("click", (event) => {
      if (!(event.target instanceof HTMLInputElement)) store.select(op, store.worstStep(op));
    });
    element.addEventListener("dblclick", () => store.reveal(op));
    return { element, box, cells };
  }

  private box(op: number): HTMLInputElement {
    const { store } = this;
    const box = h("input", {
      type: "checkbox",
      tabindex: -1,
      "aria-label": `${store.ops[op]} on the target`,
      disabled: !!store.host[op] || !store.commands.has("offload"),
      title: store.host[op] ? "computes no tensor: always on the host" : "on the target",
      onchange: () => store.place([op], box.checked),
    });
    return box;
  }

  private follow(): void {
    const op = this.store.selection.op;
    const row = this.shown.indexOf(op);
    if (row >= 0) {
      const top = row * ROW;
      if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
      else if (top + ROW > this.scroller.scrollTop + this.height)
        this.scroller.scrollTop = top + ROW - this.height;
    }
    this.draw();
  }

  private key(event: KeyboardEvent): void {
    if (event.target instanceof HTMLButtonElement) return;
    const here = this.shown.indexOf(this.store.selection.op);
    const page = Math.max(1, Math.floor(this.height / ROW) - 1);
    const moves: Record<string, number> = {
      ArrowDown: here + 1,
      ArrowUp: here < 0 ? 0 : here - 1,
      PageDown: here + page,
      PageUp: here - page,
      Home: 0,
      End: this.shown.length - 1,
    };
    if (event.key in moves) {
      const next = Math.min(this.shown.length - 1, Math.max(0, moves[event.key]!));
      const op = this.shown[next];
      if (op !== undefined) this.store.select(op, this.store.worstStep(op));
    } else if (event.key === " " && here >= 0) {
      this.store.toggle([this.shown[here]!]);
    } else if (event.key === "Enter" && here >= 0) {
      this.store.reveal(this.shown[here]!);
    } else return;
    event.preventDefault();
  }
}
