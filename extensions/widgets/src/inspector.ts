// The inspector: everything about the selected operator, and what can be done about it.

import { CauseLine } from "./causes";
import { themeOf } from "./colours";
import { gently, h, keepChildren, keepKeys, select, setText } from "./dom";
import { number } from "./format";
import { fitCanvas } from "./graph";
import { floats } from "./protocol";
import type { Answer, Store } from "./store";

interface Tensor {
  name: string;
  role: string;
  spec: string;
}

interface Diagnosis {
  pattern: string;
  words: string;
  evidence: string;
  cause: string;
}

interface Facts {
  message: string;
  diagnosis: Diagnosis | null;
  kind: string;
  module: string;
  primitives: string[];
  kernel: string;
  override: string;
  file: string;
  line: number;
  text: string;
  judged: boolean;
  inputs: Tensor[];
  outputs: Tensor[];
  metrics: Record<string, number | string>;
}

interface Values {
  name: string;
  which: string;
  low: number | null;
  high: number | null;
  mean: number | null;
  zeros: number;
  nan: number;
  inf: number;
}

const TABS = ["verdict", "tensors", "code", "fix"] as const;
type Tab = (typeof TABS)[number];
const TITLES: Record<Tab, string> = {
  verdict: "Verdict",
  tensors: "Tensors",
  code: "Code",
  fix: "Try a fix",
};
const LISTED = 50;
const PAUSE = 150; // ms between two updates while results come in

const NUMPY = `import numpy as np


def kernel(*inputs):
    # NumPy arrays in, an array (or a tuple of arrays) out
    raise NotImplementedError
`;

export class Inspector {
  readonly element: HTMLElement;
  private outcome = h("strong", { role: "status" });
  private culprits = h("div", {
    class: "tapml-culprits",
    role: "group",
    "aria-label": "Culprits, by cause",
  });
  private lines = new Map<string, CauseLine>();
  private title = h("h3");
  private badge = h("span", { class: "tapml-badge" });
  private steps: HTMLSelectElement;
  private tabs: Record<Tab, HTMLButtonElement>;
  private panel = h("div", { class: "tapml-panel", role: "tabpanel", tabindex: 0 });
  private head: HTMLElement;
  private box = h("input", { type: "checkbox" });
  private tab: Tab = "verdict";
  private turn = 0;
  /** What the panel shows: the operator, the tab, and the results it was made of. */
  private shown = "";
  private drafts = new Map<number, string>();
  private editing = false;
  private readonly ends: (() => void)[];

  constructor(private store: Store) {
    this.steps = select("Step", [], (step) => store.select(store.selection.op, Number(step)));
    const tab = (name: Tab) =>
      h("button", { type: "button", role: "tab", onclick: () => this.setTab(name) }, TITLES[name]);
    this.tabs = {
      verdict: tab("verdict"),
      tensors: tab("tensors"),
      code: tab("code"),
      fix: tab("fix"),
    };
    this.box.addEventListener("change", () => store.place([store.selection.op], this.box.checked));
    this.head = h(
      "div",
      { class: "tapml-inspector-head" },
      this.title,
      h(
        "div",
        { class: "tapml-bar" },
        this.badge,
        h("label", {}, this.box, " on the target"),
        this.steps,
        h("span", { class: "tapml-space" }),
        h(
          "button",
          { type: "button", title: "Judge this operator again", onclick: () => this.rerun() },
          "re-run",
        ),
        h(
          "button",
          {
            type: "button",
            title: "Show it in the graph",
            onclick: () => store.reveal(store.selection.op),
          },
          "find",
        ),
      ),
      h(
        "div",
        { class: "tapml-tabs", role: "tablist", "aria-label": "About the operator" },
        ...Object.values(this.tabs),
      ),
    );
    this.head
      .querySelector(".tapml-tabs")!
      .addEventListener("keydown", (event) => this.tabKey(event as KeyboardEvent));
    this.element = h(
      "section",
      { class: "tapml-inspector", "aria-label": "Inspector" },
      this.culprits,
      this.head,
      this.panel,
    );
    keepKeys(this.element);
    const [follow, still] = gently(() => this.refresh(false), PAUSE);
    this.ends = [
      still,
      store.on("graph", () => this.refresh(true)),
      store.on("results", follow),
      store.on("findings", () => this.listCulprits()),
      store.on("selection", () => this.refresh(false)),
      store.on("placement", () => this.heading()),
      store.on("overrides", () => this.refresh(true)),
    ];
    if (store.ready) this.refresh(true);
  }

  dispose(): void {
    for (const end of this.ends) end();
  }

  private refresh(anew: boolean): void {
    const { store, shown } = this;
    if (!store.ready) return;
    this.listCulprits();
    this.heading();
    const { op, step } = store.selection;
    const at = step * store.ops.length + op;
    const results =
      op < 0 ? [] : [store.verdict[at], store.metrics.ratio[at], store.metrics.acc_ratio[at]];
    const place = `${op} ${step} ${this.tab}`;
    const now = `${place} ${results.join(" ")}`;
    const same = shown.startsWith(`${place} `);
    if (same && this.tab === "fix" && this.editing) return; // somebody is typing
    if (!anew && now === shown) return;
    this.shown = now;
    void this.fill();
  }

  /** A line for each cause. Lines stay where they are while results come in, under the pointer too. */
  private listCulprits(): void {
    const { store } = this;
    const { outcome, causes, missing } = store.findings;
    const kept = this.lines;
    this.lines = new Map();
    for (const cause of [...causes.slice(0, LISTED), ...missing.slice(0, LISTED)]) {
      const key = `${cause.verdict} ${cause.ops[0]}`;
      const line = kept.get(key) ?? new CauseLine(store);
      line.show(cause);
      this.lines.set(key, line);
    }
    setText(this.outcome, outcome);
    keepChildren(this.culprits, [
      this.outcome,
      ...[...this.lines.values()].map((line) => line.element),
    ]);
  }

  private heading(): void {
    const { store } = this;
    const { op, step } = store.selection;
    this.head.hidden = op < 0;
    if (op < 0) return;
    this.title.textContent = store.ops[op]!;
    this.title.title = store.ops[op]!;
    const info = store.verdicts[store.verdict[step * store.ops.length + op]!]!;
    this.badge.textContent = `${info.symbol} ${info.name}`;
    this.badge.style.setProperty("--tapml-verdict", info.colour);
    this.box.checked = store.placement[op] === 1;
    this.box.disabled = !!store.host[op];
    this.steps.hidden = store.steps < 2;
    if (this.steps.options.length !== store.steps) {
      const texts = [...Array(store.steps).keys()].map((k) =>
        h("option", { value: k }, `step ${k}`),
      );
      this.steps.replaceChildren(...texts);
    }
    this.steps.value = String(step);
    for (const name of TABS) {
      this.tabs[name].setAttribute("aria-selected", String(name === this.tab));
      this.tabs[name].tabIndex = name === this.tab ? 0 : -1;
    }
  }

  private setTab(tab: Tab): void {
    this.tab = tab;
    this.refresh(true);
  }

  private tabKey(event: KeyboardEvent): void {
    const way = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? TABS.length - 1 : 0;
    if (!way) return;
    this.setTab(TABS[(TABS.indexOf(this.tab) + way) % TABS.length]!);
    this.tabs[this.tab].focus();
    event.preventDefault();
  }

  private async fill(): Promise<void> {
    const { op, step } = this.store.selection;
    const turn = ++this.turn;
    if (op < 0) {
      this.panel.replaceChildren(
        h("p", { class: "tapml-dim" }, "Select an operator in the graph, the plot or the table."),
      );
      return;
    }
    const wait = setTimeout(
      () => turn === this.turn && this.panel.replaceChildren(h("p", { class: "tapml-dim" }, "…")),
      150,
    );
    try {
      const name = { verdict: "inspect", tensors: "values", code: "code", fix: "inspect" }[
        this.tab
      ];
      const answer = await this.store.ask(name, { op, step });
      if (turn !== this.turn) return;
      const make = { verdict: this.verdict, tensors: this.tensors, code: this.code, fix: this.fix }[
        this.tab
      ];
      this.panel.replaceChildren(...make.call(this, answer));
    } catch (error) {
      if (turn === this.turn)
        this.panel.replaceChildren(h("p", { role: "alert" }, (error as Error).message));
    } finally {
      clearTimeout(wait);
    }
  }

  private rerun(): void {
    this.store.tell("run", { ops: [this.store.selection.op] });
  }

  // -- verdict -----------------------------------------------------------------------------------

  private verdict({ value }: Answer): Node[] {
    const facts = value as Facts;
    const rows = Object.entries(facts.metrics).map(([name, metric]) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, name),
        h("td", {}, typeof metric === "number" ? number(metric) : metric),
      ),
    );
    const tensors = (list: Tensor[]) =>
      h(
        "ul",
        {},
        ...list.map((t) =>
          h(
            "li",
            {},
            h("code", {}, t.spec),
            ` ${t.name}`,
            t.role === "operator" ? "" : ` (${t.role})`,
          ),
        ),
      );
    const nodes: Node[] = [
      h(
        "p",
        { class: "tapml-why" },
        facts.message || (facts.judged ? "Within its noise floor." : "Not judged yet."),
      ),
    ];
    if (facts.diagnosis) nodes.push(this.diagnosis(facts.diagnosis));
    if (facts.override)
      nodes.push(h("p", { class: "tapml-warning" }, `In its place runs ${facts.override}.`));
    if (facts.file) {
      nodes.push(
        h(
          "p",
          { class: "tapml-line" },
          h("span", { class: "tapml-dim" }, `${facts.file}:${facts.line}`),
          h("code", {}, facts.text),
        ),
      );
    }
    nodes.push(h("table", { class: "tapml-facts" }, ...rows));
    nodes.push(
      h(
        "p",
        {},
        h("code", {}, facts.kind),
        facts.module ? ` in ${facts.module}` : "",
        facts.kernel ? `; kernel ${facts.kernel}` : "",
      ),
      h("p", { class: "tapml-dim" }, facts.primitives.join(", ")),
      h("strong", {}, "reads"),
      tensors(facts.inputs),
      h("strong", {}, "makes"),
      tensors(facts.outputs),
    );
    return nodes;
  }

  private diagnosis(look: Diagnosis): Node {
    const line = (name: string, text: string) => [h("dt", {}, name), h("dd", {}, text)];
    return h(
      "dl",
      { class: "tapml-diagnosis", "aria-label": "Diagnosis" },
      ...line(look.pattern, look.words),
      ...line("evidence", look.evidence),
      ...line("usual cause", look.cause.replace(/^usually /, "")),
    );
  }

  // -- tensors -----------------------------------------------------------------------------------

  private tensors({ value, buffers }: Answer): Node[] {
    const { facts, values, note } = value as { facts: Facts; values: Values[]; note: string };
    const bins = buffers.length ? floats(buffers[0]!) : new Float32Array();
    const theme = themeOf(this.element);
    const per = values.length ? bins.length / values.length : 0;
    const specs = new Map([...facts.inputs, ...facts.outputs].map((t) => [t.name, t]));
    const cards = values.map((v, k) => {
      const canvas = h("canvas", {
        role: "img",
        "aria-label": `Histogram of ${v.name}, ${v.which}`,
      });
      fitCanvas(canvas, 128, 34);
      const context = canvas.getContext("2d")!;
      const dpr = devicePixelRatio || 1;
      context.scale(dpr, dpr);
      const counts = bins.subarray(k * per, (k + 1) * per);
      const most = Math.max(1, ...counts);
      context.fillStyle = theme.accent;
      counts.forEach((count, b) => {
        const height = count ? Math.max(1, (32 * Math.log1p(count)) / Math.log1p(most)) : 0;
        context.fillRect((b * 128) / per, 34 - height, 128 / per - 0.5, height);
      });
      const odd = [v.nan && `${v.nan} NaN`, v.inf && `${v.inf} infinite`]
        .filter(Boolean)
        .join(", ");
      const spec = specs.get(v.name);
      return h(
        "li",
        {},
        h("div", {}, h("b", {}, v.which), ` ${v.name}`),
        h("div", { class: "tapml-dim" }, spec ? `${spec.spec} ` : ""),
        h(
          "div",
          { class: "tapml-bar" },
          canvas,
          h("span", {}, `${number(v.low)} … ${number(v.high)}, mean ${number(v.mean)}`),
        ),
        odd ? h("div", { class: "tapml-warning" }, odd) : null,
      );
    });
    return [
      note ? h("p", { class: "tapml-warning" }, note) : h("span"),
      h(
        "p",
        { class: "tapml-dim" },
        "Counts on a logarithmic scale. The heatmap shows these tensors element by element.",
      ),
      h(
        "button",
        { type: "button", onclick: () => this.showTensor() },
        "show the difference as a heatmap",
      ),
      h("ul", { class: "tapml-values" }, ...cards),
    ];
  }

  private showTensor(): void {
    this.store.remember("heatmap", "tensor");
    this.store.touch("graph");
  }

  // -- code --------------------------------------------------------------------------------------

  private code({ value }: Answer): Node[] {
    const parts = value as {
      relax: string;
      tir: string;
      source: string;
      language: string;
      message: string;
    };
    const texts: [string, string][] = [
      ["TIR", parts.tir],
      [parts.language || "source", parts.source],
      ["Relax", parts.relax],
    ];
    const present = texts.filter(([, text]) => text);
    const view = h("pre", { class: "tapml-code", tabindex: 0 });
    const show = (k: string) => (view.textContent = present[Number(k)]![1]);
    const nodes: Node[] = [];
    if (parts.message) nodes.push(h("p", { class: "tapml-warning" }, parts.message));
    if (!present.length) return nodes;
    const choice = select(
      "Which code",
      present.map(([name], k) => [String(k), name] as const),
      show,
    );
    nodes.push(
      h(
        "div",
        { class: "tapml-bar" },
        choice,
        this.copyButton(() => view.textContent ?? ""),
      ),
      view,
    );
    show("0");
    return nodes;
  }

  private copyButton(text: () => string): HTMLButtonElement {
    const button = h("button", { type: "button" }, "copy");
    button.addEventListener("click", () => {
      void copy(text()).then((done) => {
        button.textContent = done ? "copied" : "cannot copy here";
        setTimeout(() => (button.textContent = "copy"), 1500);
      });
    });
    return button;
  }

  // -- fix ---------------------------------------------------------------------------------------

  private fix({ value }: Answer): Node[] {
    const { store } = this;
    const facts = value as Facts;
    const { op } = store.selection;
    const area = h("textarea", {
      class: "tapml-code",
      rows: 11,
      spellcheck: "false",
      "aria-label": "A NumPy function or a TIR PrimFunc to run in the operator's place",
    });
    area.value = this.drafts.get(op) ?? NUMPY;
    area.addEventListener("input", () => this.drafts.set(op, area.value));
    area.addEventListener("focus", () => (this.editing = true));
    area.addEventListener("blur", () => (this.editing = false));
    const outcome = h("p", { role: "status" });
    const carved = h("div");
    const attempt = (work: () => Promise<Answer>, done: (answer: Answer) => string) => () => {
      outcome.textContent = "…";
      work().then(
        (answer) => (outcome.textContent = done(answer)),
        (error: Error) => (outcome.textContent = error.message),
      );
    };
    const tryIt = attempt(
      () => store.ask("override", { op, text: area.value }),
      ({ value }) => String(value),
    );
    const template = attempt(
      () => store.ask("template", { op }),
      ({ value }) => {
        area.value = String(value);
        this.drafts.set(op, area.value);
        return "The kernel's own TIR: change it and try it.";
      },
    );
    const restore = attempt(
      () => store.ask("override", { op, text: "" }),
      ({ value }) => String(value),
    );
    const pytest = attempt(
      () => store.ask("pytest", { op }),
      ({ value }) => {
        const { path, text } = value as { path: string; text: string };
        const view = h("pre", { class: "tapml-code", tabindex: 0 }, text);
        carved.replaceChildren(
          h(
            "div",
            { class: "tapml-bar" },
            h("strong", {}, "test_carved.py"),
            this.copyButton(() => text),
          ),
          view,
        );
        void copy(text);
        return `Carved into ${path}; run it with: pytest ${path}`;
      },
    );
    const { step } = store.selection;
    const repro = attempt(
      () => store.ask("repro", { op, step }),
      ({ value }) => {
        const { path, text } = value as { path: string; text: string };
        void copy(text);
        return `Written to ${path}, which needs only TVM and NumPy; run it with: python ${path}`;
      },
    );
    const inputs = facts.inputs.map((t) => t.spec).join(", ");
    const outputs = facts.outputs.map((t) => t.spec).join(", ");
    return [
      h(
        "p",
        { class: "tapml-dim" },
        `Takes ${inputs || "nothing"}; makes ${outputs || "nothing"}.`,
      ),
      area,
      h(
        "div",
        { class: "tapml-bar" },
        h("button", { type: "button", class: "tapml-primary", onclick: tryIt }, "try it"),
        h("button", { type: "button", onclick: template }, "start from its TIR"),
        h(
          "button",
          { type: "button", onclick: restore, disabled: !facts.override },
          "take it back",
        ),
        h("button", { type: "button", onclick: pytest }, "copy as pytest"),
        h(
          "button",
          { type: "button", onclick: repro, title: "One script shows the whole cause" },
          "write a repro",
        ),
      ),
      outcome,
      carved,
    ];
  }
}

async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
